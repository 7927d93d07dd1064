"""The report: what a run's notebooks found, as one self-contained page and as a table for the terminal.

The page begins with what can be seen at a glance: one object on all backgrounds, then one chart and one sentence a
notebook. All numbers, tables and figures follow.
"""

import base64
import hashlib
import io
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from d3s_utils.atomic_files import write_json, write_text
from d3s_utils.first_look import first_look
from d3s_utils.metrics import Estimate, provenance, read_metrics
from d3s_utils.module_imports import notebook_cells
from d3s_utils.settings import NOTEBOOK_SETTINGS, Settings, find_root

TEMPLATE, SORTING = "report_template.html", "report_table.js"
MODEL_FOLDER = Path(__file__).parent / "models" / "mini_diffusion"
TRAINING_STEM = "00_train_mini_diffusion"
_OF_VOTES = ("krippendorff_alpha/", "filter_")  # metrics of notebook 03 that rest on votes
# A metric with one of these words is a share of 1 and is shown in percent, with one of those a difference of shares in
# percentage points, with one of the last neither.
_SHARES = {
    "acceptance", "accuracy", "agreement", "average", "closed", "from", "in9", "kept", "leakage", "matching", "out",
    "overlap", "photo", "precision", "rate", "recall", "safe", "share", "top1", "top5", "utility", "worst",
}  # fmt: skip
_DIFFERENCES = {"behind", "detectable", "drop", "effect", "gap", "interaction", "less", "reduction", "spread"}
_NO_SHARES = {"nats", "ratio"}
WEBP_LIMIT = 16_383  # pixels on a side
LOSSLESS_BELOW = 120_000  # bytes of a WebP with loss; larger ones are sheets of images, which no lossless file beats
FIGURES = (".png", ".jpg")  # the latter of the shipped generator, whose sheets lie beside its weights
CHART_WIDTH = 960  # pixels of the overview's charts at most
_WORDS = {"top1": "top-1", "top5": "top-5", "in9": "ImageNet-9"}


@dataclass(frozen=True)
class Row:
    """One number as a person reads it.

    Attributes:
        name: The metric's name in words.
        value: The number, with its unit.
        interval: Its interval, such as ``61.2 to 68.9``, or that too few were observed for one.
        n: Number of observations.
        low: Left end of the interval on the page's scale, 0 to 100, or None without such a scale or an interval.
        middle: The value on that scale, or None without one.
        high: Right end, like `low`.
    """

    name: str
    value: str
    interval: str
    n: str
    low: float | None = None
    middle: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Figure:
    """A figure of a notebook: caption, data URI, width and height in pixels."""

    caption: str
    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and whether it holds numbers."""

    name: str
    number: bool


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is read, and what it is sorted by (empty where there is nothing)."""

    text: str
    value: str


@dataclass(frozen=True)
class Table:
    """A table of a notebook: caption, its file below the run's folder (if it is there), columns, and rows of cells.

    `shares` tells whether it has shares, which are shown in percent.
    """

    caption: str
    file: str
    shares: bool
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def gather_metrics(settings: Settings) -> dict[str, dict[str, Any]]:
    """Read each notebook's ``metrics.json`` of a run and gather them in the run's own.

    Returns:
        Records by stem, in the order of the notebooks; those that are not there are left out. The record of the
        bundled model's training comes last, when the run used that model.

    Raises:
        ValueError: If a file is no metrics file.
    """
    paths = {stem: settings.folder(stem) / "metrics.json" for stem in NOTEBOOK_SETTINGS if stem != TRAINING_STEM}
    records = {stem: read_metrics(path) for stem, path in sorted(paths.items()) if path.exists()}
    if records:
        plain = {
            stem: record | {"metrics": {name: estimate.record() for name, estimate in record["metrics"].items()}}
            for stem, record in records.items()
        }
        run = {"profile": settings.profile, "seed": settings.seed, "notebooks": plain}
        write_json(settings.run_folder / "metrics.json", run)
    training = MODEL_FOLDER / "metrics.json"
    if records and settings.generator == "bundled" and training.exists():
        records = {**records, TRAINING_STEM: read_metrics(training)}
    return records


def write_report(settings: Settings, records: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write ``report.html`` into the run's folder and return its path; it links to ``gallery.html`` where that is.

    Args:
        settings: Of the run.
        records: What `gather_metrics` returned.

    Raises:
        ValueError: If a file of notebook 03 or 04 is not what they write.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [_section(settings, stem, record) for stem, record in records.items()]
    script = (Path(__file__).parent / SORTING).read_text(encoding="utf-8")
    page = environment.get_template(TEMPLATE).render(
        settings=settings,
        look=first_look(settings.run_folder),
        gallery="gallery.html" if (settings.run_folder / "gallery.html").exists() else "",
        sections=sections,
        script=script if any(section["tables"] for section in sections) else "",
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        provenance=_provenance_rows(settings, records),
        every_setting=settings.model_dump(mode="json"),
    )
    path = settings.run_folder / "report.html"
    write_text(path, page)
    return path


def headline_table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the headline numbers as a table in plain text."""
    lines = [("notebook", "number", "value", "95 % interval", "n")]
    for stem, record in records.items():
        for row in headline_rows(record):
            lines.append((stem, row.name, row.value, row.interval, row.n))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    text = ["  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([text[0], "  ".join("─" * width for width in widths), *text[1:]])


def headline_rows(record: Mapping[str, Any]) -> list[Row]:
    """Return the numbers to show first: those that the notebook named, or the first eight."""
    names = record.get("headline") or list(record["metrics"])[:8]
    return _number_rows(record, [name for name in names if name in record["metrics"]])


def _number_rows(record: Mapping[str, Any], names: Sequence[str]) -> list[Row]:
    """Return the rows of these metrics; those that rest on simulated votes or on an imitation say so."""
    simulated = record["provenance"].get("data", {}).get("votes") == "simulated"
    of_all = " (imitation)" if _is_imitation(record) else ""
    rows = []
    for name in names:
        row = number_row(name, record["metrics"][name])
        note = " (simulated people)" if simulated and name.startswith(_OF_VOTES) else ""
        rows.append(replace(row, name=row.name + note + of_all))
    return rows


def _is_imitation(record: Mapping[str, Any]) -> bool:
    """Return whether a notebook's images only imitate a published data set."""
    return str(record["provenance"].get("data", {}).get("images", "")).startswith("imitation")


def number_row(name: str, estimate: Estimate) -> Row:
    """Return a metric as a person reads it: shares in percent, drops in percentage points, the rest as it is."""
    words = set(re.split(r"[/_]", name))
    *prefix, last = name.split("/")
    readable = ": ".join([*prefix, _words(last)])
    n = f"{estimate.n:,}"
    ends = (estimate.low, estimate.high) if estimate.has_interval else ()
    interval = "{} to {}" if ends else f"too few (n = {n})"
    above_one = max(map(abs, (estimate.value, *ends))) > 1
    if not _is_share(name) or (above_one and not words & {"relative", "closed"}):
        return Row(readable, f"{estimate.value:.4g}", interval.format(*(f"{end:.4g}" for end in ends)), n)
    middle, ends = 100 * estimate.value, [100 * end for end in ends]
    unit = "points" if words & _DIFFERENCES and "closed" not in words else "%"
    low, high = ends or (None, None)
    scale = (low, middle, high) if min((middle, *ends)) >= 0 and not above_one else (None, None, None)
    said = [f"{number:z.1f}" for number in (middle, *ends)]  # z: never -0.0
    return Row(readable, f"{said[0]} {unit}", interval.format(*said[1:]), n, *scale)


def read_table(path: Path, *, root: Path) -> Table:
    """Return a csv file of a notebook as the report shows it.

    Columns ``x_low`` and ``x_high`` beside ``x`` are its interval and go into its cells; where both are empty, too few
    were observed for one. Shares are shown in percent, drops in percentage points; the file keeps them as they are.

    Args:
        root: The run's folder.
    """
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    ends = {f"{name}_{end}" for name in frame.columns for end in ("low", "high")} & set(frame.columns)
    names = [name for name in frame.columns if name not in ends]
    columns = tuple(Column(_words(name), pd.api.types.is_numeric_dtype(frame[name])) for name in names)
    rows = tuple(tuple(_cell(row, name) for name in names) for row in frame.to_dict("records"))
    file = urllib.parse.quote(path.relative_to(root).as_posix()) if path.is_relative_to(root) else ""
    shares = any(_is_share(name) and column.number for name, column in zip(names, columns, strict=True))
    return Table(_words(path.stem).capitalize(), file, shares, columns, rows)


def _cell(row: Mapping[str, Any], name: str) -> Cell:
    value, low, high = row[name], row.get(f"{name}_low"), row.get(f"{name}_high")
    if pd.isna(value):
        return Cell("–", "")
    if isinstance(value, str):
        return Cell(value, value)
    share = _is_share(name) and isinstance(value, float)
    number, *ends = [f"{100 * part:z.1f}" if share else f"{part:.4g}" if isinstance(part, float) else f"{part:,}"
                     for part in (value, low, high) if part is not None and not pd.isna(part)]  # fmt: skip
    if f"{name}_low" in row and f"{name}_high" in row and not ends:
        n = row.get(f"{name}_n", row.get("n"))
        ends = ["too few" if n is None or pd.isna(n) else f"too few (n = {n:,.0f})"]
    return Cell(number + (f" [{', '.join(ends)}]" if ends else ""), repr(float(value)))


def _is_share(name: str) -> bool:
    words = set(re.split(r"[/_]", name))
    return bool(words & (_SHARES | _DIFFERENCES)) and not words & _NO_SHARES


def _words(name: str) -> str:
    return " ".join(_WORDS.get(word, word) for word in name.split("_"))


def _section(settings: Settings, stem: str, record: Mapping[str, Any]) -> dict[str, Any]:
    folder = MODEL_FOLDER if stem == TRAINING_STEM else settings.folder(stem)
    headline = headline_rows(record)
    shown = {row.name for row in headline}
    rest = _number_rows(record, list(record["metrics"]))
    executed = folder / f"{stem}.ipynb"
    tables = [read_table(path, root=settings.run_folder) for path in sorted(folder.glob("*.csv"))]
    if _is_imitation(record):
        tables = [replace(table, caption=f"{table.caption} (imitation)") for table in tables]
    title, question = _title(stem), record.get("question", "")
    figures = sorted(path for path in folder.glob("*") if path.suffix in FIGURES)
    named = Path(record.get("chart", "")).stem
    chart = next((path for path in figures if path.stem == named), next(iter(figures), None))
    return {
        "stem": stem,
        "number": stem.split("_")[0],
        "title": title,
        "plain": record.get("plain") or _plain("" if question == title else question, headline),
        "chart": _figure(chart, width=CHART_WIDTH) if chart else None,
        "question": "" if question == title else question,
        "answer": record.get("answer", ""),
        "headline": headline,
        "rest": [row for row in rest if row.name not in shown],
        "tables": [table for table in tables if table.rows],
        "figures": [_figure(path) for path in figures],
        "executed": urllib.parse.quote(f"{stem}/{stem}.ipynb") if stem != TRAINING_STEM and executed.exists() else "",
    }


def _plain(question: str, headline: Sequence[Row]) -> str:
    """Return what stands for a plain sentence that a notebook did not leave: its question and its first number."""
    if not headline:
        return question
    name, value, interval = headline[0].name, headline[0].value, headline[0].interval
    name = name if ":" in name else name[:1].upper() + name[1:]  # what stands before a colon is a model's own name
    interval = interval if interval.startswith("too few") else f"95 % interval {interval}"
    return f"{question} {name}: {value}, {interval}.".strip()


def _title(stem: str) -> str:
    """Return the title that the notebook itself has, or its stem in words."""
    notebook = find_root() / "notebooks" / f"{stem}.ipynb"
    cells = notebook_cells(notebook) if notebook.exists() else []
    for kind, text in cells:
        heading = re.match(r"#\s+(?:\d+\s*·\s*)?(.+)", text)
        if kind == "markdown" and heading:
            return heading[1].strip()
    return stem.split("_", 1)[-1].replace("_", " ").capitalize()


def _figure(path: Path, *, width: int | None = None) -> Figure:
    """Read a figure; its caption is the title that it carries, or its file's name in words.

    It is embedded as WebP, at most `width` pixels wide: without loss where that is smaller, as it is for most charts,
    else, as for sheets of images, with a small one. What is too large for WebP stays as it is.
    """
    with Image.open(path) as image:
        carried = image.info.get("Description") or image.info.get("Title")
        if width and image.width > width:
            image.thumbnail((width, image.height), Image.Resampling.LANCZOS)
        size, kind, content = image.size, image.format.lower(), path.read_bytes()
        if max(size) <= WEBP_LIMIT:
            kind, content = "webp", _webp(image.convert("RGB"))
    caption = str(carried or path.stem.replace("_", " ").capitalize())
    encoded = base64.b64encode(content).decode()
    return Figure(caption, f"data:image/{kind};base64,{encoded}", *size)


def _webp(image: Image.Image) -> bytes:
    found = io.BytesIO()
    image.save(found, "WEBP", quality=75)
    if found.tell() < LOSSLESS_BELOW:
        lossless = io.BytesIO()
        image.save(lossless, "WEBP", lossless=True)
        found = min(found, lossless, key=io.BytesIO.tell)
    return found.getvalue()


def _provenance_rows(settings: Settings, records: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what the run was made with, each fact once, in the order a reader asks for it."""
    made = [record["provenance"] for stem, record in records.items() if stem != TRAINING_STEM] or [provenance()]
    weights = {name: value for record in made for name, value in record.get("weights", {}).items()}
    packages = {name: version for record in made for name, version in record.get("packages", {}).items()}
    return [
        ("Profile and seed", f"{settings.profile}, seed {settings.seed}"),
        ("Code revision", _each_once(record.get("code_revision") for record in made)),
        ("Device", _each_once(record.get("device") for record in made)),
        ("Python", _each_once(record.get("python") for record in made)),
        ("Machine", _each_once(record.get("platform") for record in made)),
        *((f"Weights: {name}", f"sha256 {value}") for name, value in sorted(weights.items())),
        ("Packages", ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))),
    ]


def _each_once(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value))
