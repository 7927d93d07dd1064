"""Pages that ask people about pictures.

A page is one file that needs no server and no network. Mechanical Turk's requester site takes ``hit_layout.html``, the
same page with a variable in the task's place, and ``hits.csv``, for pictures that lie on a web server.
"""

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from d3s_utils.annotation_tasks import WHY, Tasks, WorkedExample, worked_examples
from d3s_utils.atomic_files import write_bytes, write_table, write_text
from d3s_utils.photos import read_photo
from d3s_utils.taxonomy import BACKGROUNDS, imagenet_class
from d3s_utils.votes import NO, NONE, QUESTIONS, UNSURE, YES

LARGEST_LOSSLESS = 128  # pixels; larger pictures are embedded as WebP of quality 90
EXAMPLE_SIDE, WORKED_SIDE = 144, 256  # pixels, at most: pictures of a class, and those of the instructions
LARGEST_HIT = 65_535  # bytes, layout and task together
CROWD_HOST = "https://assets.crowd.aws"
CROWD_FORMS = "https://www.mturk.com https://workersandbox.mturk.com"
_TEXT = {
    "object": "Is the object of the guide in the result?",
    "background": "Which background is it?",
    "unsafe": "Is anything not safe to show?",
}
_SHORT = {"object": "Object there", "background": "Background", "unsafe": "Not safe"}
_WORDS = {YES: "Yes", NO: "No", UNSURE: "Unsure", NONE: "None of these"} | {b: p for b, p in BACKGROUNDS.items()}


def write_tasks(
    tasks: Tasks,
    folder: Path,
    *,
    root: Path,
    examples: Mapping[str, Sequence[tuple[str, str]]],
    examples_shown: int = 4,
    worked: Sequence[WorkedExample] | None = None,
    image_base_url: str | None = None,
) -> list[Path]:
    """Write a page a task, the tables, and what Mechanical Turk's requester site takes; return the pages.

    Args:
        tasks: Of `plan_tasks`.
        folder: Where they go.
        root: Folder that the pictures' files are relative to.
        examples: Synset -> (foreground_id, file) of pictures of that class; an item never shows its own foreground.
        examples_shown: At most so many of them.
        worked: Examples for the instructions, by default those of `worked_examples`. A page shows one of each kind, of
            guides that none of its items shows where there are such.
        image_base_url: Where the folder ``pictures``, which is then written beside the pages under names that tell
            nothing, will lie on the web (https), for Mechanical Turk; without it, no files for it are made.

    Raises:
        PhotoError: If a picture cannot be read.
        ValueError: If `image_base_url` is no https address, or a task is too large for Mechanical Turk.
    """
    base = urlsplit(image_base_url or "")
    if image_base_url and (base.scheme != "https" or not base.netloc or base.query or base.fragment):
        raise ValueError(f"image_base_url must be an https address without query, got {image_base_url!r}")
    if worked is None:
        worked = worked_examples(tasks.items, seed=0)
    layout = render_page("${task}", image_origin=f"https://{base.netloc}") if image_base_url else ""
    pages, hits = [], []
    for task_id, items in tasks.items.groupby("task_id", sort=True):
        content, pictures = _task(task_id, items, examples, examples_shown, _suited(worked, items), root)
        page = folder / f"{task_id}.html"
        write_text(page, render_page(_encoded(content | {"pictures": list(map(_data_uri, pictures))})))
        pages.append(page)
        if image_base_url:
            names = [f"{hashlib.sha256(picture).hexdigest()[:16]}.webp" for picture in pictures]
            for name, picture in zip(names, pictures, strict=True):
                write_bytes(folder / "pictures" / name, picture)
            hosted = _encoded(content | {"pictures": [f"{image_base_url.rstrip('/')}/{name}" for name in names]})
            if len(layout.encode()) + len(hosted) > LARGEST_HIT:
                raise ValueError(
                    f"{task_id} has {len(layout.encode()) + len(hosted):,} bytes as a HIT, and Mechanical Turk takes "
                    f"{LARGEST_HIT:,}: ask for fewer items a task (per_task) or examples (examples_shown)"
                )
            hits.append({"task_id": task_id, "task": hosted})
    write_table(folder / "items.parquet", tasks.items)
    write_table(folder / "gold.parquet", tasks.gold)
    if hits:
        write_text(folder / "hits.csv", pd.DataFrame(hits).to_csv(index=False))
        write_text(folder / "hit_layout.html", layout)
    return pages


def read_tasks(folder: Path) -> Tasks:
    """Return the tasks that `write_tasks` wrote into `folder`.

    Raises:
        ValueError: If there are none.
    """
    files = [folder / "items.parquet", folder / "gold.parquet"]
    if not all(file.exists() for file in files):
        raise ValueError(f"{folder} holds no tasks: make them first (python -m d3s_utils.annotation make)")
    return Tasks(*map(pd.read_parquet, files))


def render_page(task: str, *, image_origin: str = "") -> str:
    """Return a page for a task in base64, or for the name of a variable that stands for it.

    Style and script are the only ones that the page's content security policy lets run, by their hash.

    Args:
        task: Stands in the page as it is.
        image_origin: For Mechanical Turk: where pictures may come from; without it they lie in the page.
    """
    here = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined)
    style, script = ((here / f"annotation_page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    none = "'none'"
    policy = "; ".join([
        f"default-src {none}",
        f"img-src {image_origin or 'data:'}",
        "style-src 'unsafe-inline'" if image_origin else f"style-src '{_hash(style)}'",  # crowd elements bring styles
        f"script-src '{_hash(script)}'" + (f" {CROWD_HOST}" if image_origin else ""),
        f"form-action {CROWD_FORMS if image_origin else none}",
        f"base-uri {none}",
    ])  # fmt: skip
    template = environment.get_template("annotation_page.html")
    return template.render(policy=policy, style=Markup(style), script=Markup(script), task=task)


def _suited(worked: Sequence[WorkedExample], items: pd.DataFrame) -> list[WorkedExample]:
    """Return an example of each kind: of guides that no item shows, else of none that a gold item shows, else any."""
    shown = set(items["guide_file"]) | set(items["file"])
    gold = items[items["kind"] == "gold"]
    golden = set(zip(gold["guide_file"], gold["file"], strict=True))

    def cost(example: WorkedExample) -> int:
        return 2 * ((example.guide_file, example.file) in golden) + bool({example.guide_file, example.file} & shown)

    kinds = dict.fromkeys(example.kind for example in worked)
    return [min((example for example in worked if example.kind == kind), key=cost) for kind in kinds]


def _task(
    task_id: str, items: pd.DataFrame, examples, examples_shown: int, worked: Sequence[WorkedExample], root: Path
) -> tuple[dict, list[bytes]]:
    """Return what a page is told (not which item is gold or a repeat), and the pictures that it names by place."""
    pictures: dict[bytes, int] = {}
    seen: dict[tuple, int] = {}

    def place(file: str, side: int | None = None) -> int:
        if (file, side) not in seen:
            seen[file, side] = pictures.setdefault(_webp(file, root, side), len(pictures))
        return seen[file, side]

    shown = []
    for item in items.sort_values("item_id").itertuples():
        others = [file for foreground, file in examples.get(item.synset, ()) if foreground != item.foreground_id]
        shown.append({
            "item_id": item.item_id, "class_name": item.class_name, "gloss": imagenet_class(item.synset).definition,
            "guide": place(item.guide_file), "result": place(item.file),
            "examples": [place(file, EXAMPLE_SIDE) for file in others[:examples_shown]],
        })  # fmt: skip
    key = hashlib.sha256(json.dumps(shown).encode() + b"".join(pictures)).hexdigest()[:16]
    lessons = [
        {
            "class_name": example.class_name, "guide": place(example.guide_file, WORKED_SIDE),
            "result": place(example.file, WORKED_SIDE), "why": WHY[example.kind],
            "answers": {question: _WORDS[example.answers[question]] for question in QUESTIONS},
        }
        for example in worked
    ]  # fmt: skip
    questions = [
        {
            "name": name, "text": _TEXT[name], "short": _SHORT[name],
            "answers": [{"value": answer, "text": _WORDS[answer]} for answer in answers],
        }
        for name, answers in QUESTIONS.items()
    ]  # fmt: skip
    return {"task_id": task_id, "key": key, "items": shown, "questions": questions, "worked": lessons}, list(pictures)


def _encoded(content: dict) -> str:
    return base64.b64encode(json.dumps(content, ensure_ascii=False).encode()).decode()


def _webp(file: str, root: Path, side: int | None) -> bytes:
    """Return a picture as WebP, no larger than `side` where that is given."""
    image = Image.fromarray(read_photo(file, root=root).pixels)
    if side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small = max(image.size) <= LARGEST_LOSSLESS
    image.save(buffer, "WEBP", lossless=small, quality=80 if small else 90)
    return buffer.getvalue()


def _data_uri(picture: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
