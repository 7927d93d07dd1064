"""The gallery: every image of a run beside its guide, with labels, verdict, and what judges and classifiers said.

The page works from the disk. It links to the images where they lie and loads those that come into view; large images
get thumbnails. A run of many images is split into pages, each with whole classes where they fit.
"""

import base64
import hashlib
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from d3s_utils.atomic_files import write_text
from d3s_utils.metrics import read_metrics
from d3s_utils.run_images import read_answers, read_images
from d3s_utils.taxonomy import BACKGROUNDS
from d3s_utils.thumbnails import write_thumbnails

ROWS_PER_PAGE = 3000
THUMBNAILS = "gallery/thumbnails"
_MORE = (
    "guide_file", "synset", "in9", "reason", "unreadable", "prompt", "seed", "foreground_id", "template_id", "strength",
    "steps", "guidance_scale", "eta", "model", "verdict_source", "rule", "unsafe_score", "foreground_prediction",
    "foreground_probability", "background_prediction", "background_probability", "people_votes", "people_object",
    "people_background", "people_unsafe", "people_source",
)  # fmt: skip
_VOTES = ("foreground_vote/", "foreground_score/", "background_vote/", "background_score/")
_MADE = {  # column -> its words
    "strength": "strength", "steps": "steps", "guidance_scale": "guidance scale", "eta": "eta", "model": "generator",
}  # fmt: skip
_QUESTIONS = {"foreground": "object", "background": "background"}


def write_gallery(run_folder: Path, *, rows_per_page: int = ROWS_PER_PAGE) -> Path | None:
    """Write ``gallery.html``, and ``gallery/page-0002.html`` and so on where there are many images.

    Args:
        run_folder: The run's folder; ``03_validation/validated.parquet`` is needed, answers of notebook 04 are not.
        rows_per_page: Images of a page at most.

    Returns:
        The path of the first page; None where notebook 03 has left no images.

    Raises:
        ValueError: If a file of notebook 03 or 04 is not what they write, or `rows_per_page` is not at least 1.
    """
    if rows_per_page < 1:
        raise ValueError(f"rows_per_page must be at least 1, got {rows_per_page}")
    images = read_images(run_folder, more=_MORE, prefixes=_VOTES)
    if images.empty:
        _remove_others(run_folder, [])
        return None
    images = _sorted(images)
    files = [*images["file"], *images["guide_file"]]
    small = write_thumbnails(files, root=run_folder, folder=run_folder / THUMBNAILS)
    answers = {
        model: table.set_index("id").drop(columns="model").reindex(images["image_id"])
        for model, table in read_answers(run_folder).groupby("model", sort=False)
    }
    roles = _roles(run_folder)
    pages = page_bounds(images["label"], rows_per_page=rows_per_page)
    links = [_link(number) for number in range(1, len(pages) + 1)]
    render, index = _template(), _index(images["label"], pages) if len(pages) > 1 else []
    for number, (start, end) in enumerate(pages, start=1):
        rows = images.iloc[start:end]
        base = "" if number == 1 else "../"
        data = {
            "base": base, "thumbnails": f"{THUMBNAILS}/", "total": len(images), "pages": len(pages),
            "phrases": BACKGROUNDS, "columns": _columns(rows, small), "judges": _judges(rows, roles),
            **_answered({model: table.iloc[start:end] for model, table in answers.items()}),
        }  # fmt: skip
        around = {"previous": links[number - 2] if number > 1 else "", "next": (*links, "")[number]}
        page = render(
            base=base, run=run_folder.name, number=number, pages=len(pages), total=len(images), data=_json(data),
            first=rows["label"].iloc[0], last=rows["label"].iloc[-1], around=around, index=index,
            has_answers=bool(answers),
        )  # fmt: skip
        write_text(run_folder / links[number - 1], page)
    _remove_others(run_folder, links)
    return run_folder / links[0]


def page_bounds(labels: Sequence[str], *, rows_per_page: int) -> list[tuple[int, int]]:
    """Return where each page begins and ends, so that a class is split only where it has more rows than a page.

    Args:
        labels: The class of each row; rows of a class stand together.
        rows_per_page: Rows of a page at most.
    """
    labels = pd.Series(list(labels))
    sizes = labels.groupby(labels, sort=False).size()
    bounds, start, end = [], 0, 0
    for size in sizes:
        if end > start and end + size - start > rows_per_page:
            bounds.append((start, end))
            start = end
        end += size
        while end - start > rows_per_page:
            bounds.append((start, start + rows_per_page))
            start += rows_per_page
    return [*bounds, (start, end)] if end > start else bounds


def _sorted(images: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by class, background and id, with `label`: the class, and its synset where two share a name."""
    names = images.groupby("class_name")["synset"].transform("nunique")
    shared = images["class_name"] + " (" + images["synset"].astype(str) + ")"
    order = {name: place for place, name in enumerate(BACKGROUNDS)}
    rows = images.assign(
        label=images["class_name"].where(names < 2, shared), place=images["background"].map(order).fillna(len(order))
    )
    rows = rows.assign(alphabet=rows["label"].str.casefold())
    return rows.sort_values(["alphabet", "label", "place", "background", "image_id"], ignore_index=True)


def _roles(run_folder: Path) -> Mapping[tuple[str, str], str]:
    """Return who decides: (question, model) of each judge; other models' votes are kept and decide nothing."""
    path = run_folder / "03_validation" / "metrics.json"
    settings = read_metrics(path)["provenance"].get("settings", {}) if path.exists() else {}
    judges = {(kind, Path(str(name)).name) for kind in _QUESTIONS for name in settings.get(f"{kind}_judges", [])}
    return dict.fromkeys(judges, "judge")


def _columns(rows: pd.DataFrame, small: set[str]) -> dict[str, Any]:
    """Return what a page knows of each image, apart from what models said; see ``gallery_page.js``."""
    file, guide = (rows[name].map(PurePosixPath) for name in ("file", "guide_file"))
    own = rows["image_id"] + ".png"
    has_guide = rows["guide_file"] != ""
    return {
        "id": list(rows["image_id"]),
        "label": _texts(rows["label"]),
        "superclass": _texts(rows["in9"]),
        "background": _texts(rows["background"]),
        "split": _texts(rows["split"]),
        "kept": rows["keep"].astype(int).tolist(),
        "reason": _texts(rows["reason"]),
        "unreadable": _texts(rows["unreadable"]),
        # A file that is named after the image's id need not be named again.
        "folder": _texts(file.map(lambda path: str(path.parent))),
        "name": _texts(file.map(lambda path: path.name).where(lambda name: name != own, "")),
        "guideFolder": _texts(guide.map(lambda path: str(path.parent)).where(has_guide, "")),
        "guideName": _texts(guide.map(lambda path: path.name).where(lambda name: name != own, "")),
        "small": (rows["file"].isin(small) + 2 * rows["guide_file"].isin(small)).tolist(),
        "prompt": _texts(rows["prompt"]),
        "seed": _texts(rows["seed"].map(lambda seed: "" if _is_missing(seed) else str(int(seed)))),
        "foreground": _texts(rows["foreground_id"]),
        "scene": _texts(rows["template_id"]),
        "made": _texts(pd.Series([_made(row) for row in rows[list(_MADE)].to_dict("records")])),
        "decided": _texts(rows["rule"].where(rows["rule"] != "", rows["verdict_source"])),
        "unsafe": _percent(rows["unsafe_score"]),
        "people": _texts(pd.Series([_people(row) for row in rows.filter(like="people_").to_dict("records")])),
        "object": _texts(rows["foreground_prediction"]),
        "objectScore": _percent(rows["foreground_probability"]),
        "place": _texts(rows["background_prediction"]),
        "placeScore": _percent(rows["background_probability"]),
    }


def _judges(rows: pd.DataFrame, roles: Mapping[tuple[str, str], str]) -> list[dict[str, Any]]:
    """Return what each model of notebook 03 named first, and its probability of the label."""
    found = []
    for kind, question in _QUESTIONS.items():
        for column in [name for name in rows if name.startswith(f"{kind}_vote/")]:
            model = column.partition("/")[2]
            role = roles.get((kind, model), "auxiliary judge" if roles else "")
            score = rows.get(f"{kind}_score/{model}", pd.Series(float("nan"), rows.index))
            says = {"says": _texts(rows[column]), "score": _percent(score)}
            found.append({"question": question, "name": model, "role": role, **says})
    return sorted(found, key=lambda judge: (judge["question"] != "object", judge["role"] == "auxiliary judge"))


def _answered(answers: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Return what classifiers said of those images of the page that any of them was asked about.

    `right` and `in9` have a sign for each of these images: 1 right, 0 wrong, ? not known, - not asked.

    Args:
        answers: Of each classifier, a row for each image of the page.
    """
    told = pd.DataFrame({model: table["said"].notna() for model, table in answers.items()}).any(axis=1).to_numpy(bool)
    models = []
    for name, table in answers.items():
        said = table[told]
        signs = {
            key: "".join(said[column].map({1.0: "1", 0.0: "0"}).fillna("?").where(said["said"].notna(), "-"))
            for key, column in (("right", "right"), ("in9", "in9_right"))
        }
        says = {"says": _texts(said["said"].fillna("")), "confidence": _percent(said["confidence"])}
        models.append({"name": name, **signs, **says})
    return {"asked": told.nonzero()[0].tolist(), "models": models}


def _made(row: Mapping[str, Any]) -> str:
    """Return the generator and its settings, as far as they are known."""
    known = {_MADE[name]: value for name, value in row.items() if not _is_missing(value)}
    return ", ".join(f"{name} {value if isinstance(value, str) else f'{value:g}'}" for name, value in known.items())


def _people(row: Mapping[str, Any]) -> str:
    """Return what people said of an image; empty where nobody was asked."""
    if _is_missing(row["people_votes"]) or not row["people_votes"]:
        return ""
    who = "simulated people" if row["people_source"] == "simulated" else "people"
    words = {True: "yes", False: "no"}
    said = [
        f"object there: {words.get(row['people_object'], 'not decided')}",
        f"background: {row['people_background'] or 'not decided'}",
        f"unsafe: {words.get(row['people_unsafe'], 'not decided')}",
    ]
    return f"{row['people_votes']:.0f} votes of {who}: {', '.join(said)}"


def _is_missing(value: Any) -> bool:
    return pd.isna(value) or value == ""


def _texts(values: pd.Series) -> list[str] | dict[str, list]:
    """Return texts as they are, or once each with a number a row where they repeat."""
    codes, once = pd.factorize(values.astype(str))
    if 2 * len(once) > len(codes):
        return values.astype(str).tolist()
    return {"values": once.tolist(), "codes": codes.tolist()}


def _percent(values: pd.Series) -> list[int]:
    """Return shares in whole percent, -1 where there is none."""
    return (100 * pd.to_numeric(values, errors="coerce")).round().fillna(-1).astype(int).tolist()


def _index(labels: pd.Series, pages: Sequence[tuple[int, int]]) -> list[tuple[str, int, str, str]]:
    """Return each class with how many images it has, the page where it begins, and the hash that shows it there."""
    counts = labels.value_counts()
    found = {}
    for number, (start, end) in enumerate(pages, start=1):
        for label in labels.iloc[start:end].unique():
            place = (_link(number), urllib.parse.urlencode({"class": label}))
            found.setdefault(label, (label, int(counts[label]), *place))
    return list(found.values())


def _link(number: int) -> str:
    return "gallery.html" if number == 1 else f"gallery/page-{number:04d}.html"


def _remove_others(run_folder: Path, links: Sequence[str]) -> None:
    """Remove the pages that an earlier gallery has left and this one does not have."""
    for page in [run_folder / _link(1), *(run_folder / "gallery").glob("page-*.html")]:
        if page.relative_to(run_folder).as_posix() not in links:
            page.unlink(missing_ok=True)


def _json(data: Mapping[str, Any]) -> Markup:
    """Return compact JSON that may stand in a script element: no ``<``, so that nothing in it ends the element."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _template():
    here = Path(__file__).parent
    options = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(here), autoescape=True, **options)
    style, script = ((here / f"gallery_page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    policy = "; ".join([
        "default-src 'none'", "img-src 'self' file:", f"style-src '{_hash(style)}'", f"script-src '{_hash(script)}'",
        "base-uri 'none'", "form-action 'none'",
    ])  # fmt: skip
    shared = {"policy": policy, "style": Markup(style), "script": Markup(script)}
    template = environment.get_template("gallery_page.html")
    return lambda **values: template.render(**shared, **values)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
