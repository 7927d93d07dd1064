"""The report: what a run's notebooks found, as one self-contained page and as a table for the terminal."""

import base64
import hashlib
import io
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from d3s_utils.atomic_files import write_json, write_text
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
_DIFFERENCES = {"behind", "drop", "gap", "less", "reduction"}
_NO_SHARES = {"nats", "ratio"}
WEBP_LIMIT = 16_383  # pixels on a side
_WORDS = {"top1": "top-1", "top5": "top-5", "in9": "ImageNet-9"}


@dataclass(frozen=True)
class Row:
    """One number as a person reads it.

    Attributes:
        name: The metric's name in words.
        value: The number, with its unit.
        interval: Its interval, such as ``61.2 to 68.9 %``.
        n: Number of observations.
        low: Left end of the interval on the page's scale, 0 to 100, or None if it has no such scale.
        middle: The value on that scale.
        high: Right end.
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
    """A picture of a notebook: caption, data URI, width and height in pixels."""

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
        Records by stem, in the order of the notebooks; those that are not there are left out. The record of
        the bundled model's training comes along when the run used that model.

    Raises:
        ValueError: If a file is no metrics file.
    """
    paths = {stem: settings.folder(stem) / "metrics.json" for stem in NOTEBOOK_SETTINGS if stem != TRAINING_STEM}
    records = {stem: read_metrics(path) for stem, path in sorted(paths.items()) if path.exists()}
    if records:
        plain = {
            stem: record | {"metrics": {name: asdict(estimate) for name, estimate in record["metrics"].items()}}
            for stem, record in records.items()
        }
        run = {"profile": settings.profile, "seed": settings.seed, "notebooks": plain}
        write_json(settings.run_folder / "metrics.json", run)
    training = MODEL_FOLDER / "metrics.json"
    if records and settings.generator == "bundled" and training.exists():
        records = {TRAINING_STEM: read_metrics(training), **records}
    return records


def write_report(settings: Settings, records: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write ``report.html`` into the run's folder and return its path.

    Args:
        settings: Of the run.
        records: What `gather_metrics` returned.
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
    """Return the rows of these metrics; those that rest on simulated votes say so."""
    simulated = record["provenance"].get("data", {}).get("votes") == "simulated"
    rows = [number_row(name, record["metrics"][name]) for name in names]
    return [
        replace(row, name=f"{row.name} (simulated people)") if simulated and name.startswith(_OF_VOTES) else row
        for name, row in zip(names, rows, strict=True)
    ]


def number_row(name: str, estimate: Estimate) -> Row:
    """Return a metric as a person reads it: shares in percent, drops in percentage points, the rest as it is."""
    words = set(re.split(r"[/_]", name))
    *prefix, last = name.split("/")
    readable = ": ".join([*prefix, _words(last)])
    n = f"{estimate.n:,}"
    above_one = max(abs(estimate.low), abs(estimate.high)) > 1
    if not _is_share(name) or (above_one and not words & {"relative", "closed"}):
        return Row(readable, f"{estimate.value:.4g}", f"{estimate.low:.4g} to {estimate.high:.4g}", n)
    low, middle, high = (100 * part for part in (estimate.low, estimate.value, estimate.high))
    unit = "points" if words & _DIFFERENCES and "closed" not in words else "%"
    scale = (low, middle, high) if low >= 0 and not above_one else (None, None, None)
    return Row(readable, f"{middle:z.1f} {unit}", f"{low:z.1f} to {high:z.1f}", n, *scale)  # z: never -0.0


def read_table(path: Path, *, root: Path) -> Table:
    """Return a csv file of a notebook as the report shows it.

    Columns ``x_low`` and ``x_high`` beside ``x`` are its interval and go into its cells. Shares are shown in percent,
    drops in percentage points; the file keeps them as they are.

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
    numbers = [f"{100 * part:z.1f}" if share else f"{part:.4g}" if isinstance(part, float) else f"{part:,}"
               for part in (value, low, high) if part is not None and not pd.isna(part)]  # fmt: skip
    return Cell(numbers[0] + (f" [{numbers[1]}, {numbers[2]}]" if len(numbers) == 3 else ""), repr(float(value)))


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
    title, question = _title(stem), record.get("question", "")
    return {
        "stem": stem,
        "number": stem.split("_")[0],
        "title": title,
        "question": "" if question == title else question,
        "answer": record.get("answer", ""),
        "headline": headline,
        "rest": [row for row in rest if row.name not in shown],
        "tables": [table for table in tables if table.rows],
        "figures": [_figure(path) for path in sorted(folder.glob("*.png"))],
        "executed": urllib.parse.quote(f"{stem}/{stem}.ipynb") if stem != TRAINING_STEM and executed.exists() else "",
    }


def _title(stem: str) -> str:
    """Return the title that the notebook itself has, or its stem in words."""
    notebook = find_root() / "notebooks" / f"{stem}.ipynb"
    cells = notebook_cells(notebook) if notebook.exists() else []
    for kind, text in cells:
        heading = re.match(r"#\s+(?:\d+\s*·\s*)?(.+)", text)
        if kind == "markdown" and heading:
            return heading[1].strip()
    return stem.split("_", 1)[-1].replace("_", " ").capitalize()


def _figure(path: Path) -> Figure:
    """Read a png; its caption is the title that it carries, or its file's name in words.

    It is embedded as WebP, a tenth of the size for sheets of pictures, unless that is larger or the picture too large.
    """
    with Image.open(path) as image:
        width, height = image.size
        carried = image.info.get("Description") or image.info.get("Title")
        kind, content = "png", path.read_bytes()
        if max(image.size) <= WEBP_LIMIT:
            smaller = io.BytesIO()
            image.convert("RGB").save(smaller, "WEBP", quality=88)
            if smaller.tell() < len(content):
                kind, content = "webp", smaller.getvalue()
    caption = str(carried or path.stem.replace("_", " ").capitalize())
    encoded = base64.b64encode(content).decode()
    return Figure(caption, f"data:image/{kind};base64,{encoded}", width, height)


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
