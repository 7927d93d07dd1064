"""Tasks for people: pages that ask about pictures, and the answers that come back.

A page is one file that needs no server and no network. Mechanical Turk's requester site takes ``hit_layout.html``, the
same page with a variable in the task's place, and ``hits.csv``, for pictures that lie on a web server.
"""

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from d3s_utils.atomic_files import write_table, write_text
from d3s_utils.photos import read_photo
from d3s_utils.randomness import derive_seed, numpy_generator
from d3s_utils.taxonomy import BACKGROUNDS, imagenet_class
from d3s_utils.votes import COLUMNS, NO, NONE, QUESTIONS, UNSURE, YES

FOLDER = "annotation"  # below notebook 03's output
FORMAT = "d3s-votes-1"
LARGEST_LOSSLESS = 128  # pixels; larger pictures are embedded as WebP of quality 90
CROWD_HOST = "https://assets.crowd.aws"
CROWD_FORMS = "https://www.mturk.com https://workersandbox.mturk.com"
_TEXT = {
    "object": "Is the object of the guide in the result?",
    "background": "Which background is it?",
    "unsafe": "Is anything not safe to show?",
}
_WORDS = {YES: "Yes", NO: "No", UNSURE: "Unsure", NONE: "None of these"} | {b: p for b, p in BACKGROUNDS.items()}


@dataclass(frozen=True)
class Tasks:
    """What is asked, and what is known beforehand.

    Attributes:
        items: A row an item: `task_id`, `item_id` (what the page knows), `image_id`, `kind` (``real``, ``gold``,
            ``repeat``), `guide_file`, `file`, `class_name`, `synset`, `foreground_id`. A gold item's `image_id` is its
            `item_id`.
        gold: The known answers: `image_id`, `question`, `answer`.
    """

    items: pd.DataFrame
    gold: pd.DataFrame


def plan_tasks(pictures: pd.DataFrame, *, per_task: int = 25, gold: int = 2, repeats: int = 2, seed: int) -> Tasks:
    """Return tasks that ask about every picture once, with gold items and repeats mixed in.

    A gold item needs nobody's opinion: it shows a guide in place of the result. It is the picture's own guide (the
    object is there), or that of another class on another background (it is not); both times the background is known
    and nothing is unsafe.

    Args:
        pictures: `image_id`, `guide_file`, `file`, `class_name`, `synset`, `in9`, `background`, `foreground_id`.
        per_task: Items of a task; the last may hold fewer.
        gold: Gold items among them.
        repeats: Items of the same task asked twice, among them.
        seed: Decides the order of pictures and which become gold items and repeats.

    Raises:
        ValueError: If a column is missing, there is no picture, or no room is left for real items.
    """
    needed = ["image_id", "guide_file", "file", "class_name", "synset", "in9", "background", "foreground_id"]
    missing = [name for name in needed if name not in pictures]
    if missing or pictures.empty:
        raise ValueError(f"pictures must have rows and the columns {', '.join(needed)}; lacking {missing or 'rows'}")
    real = per_task - gold - repeats
    if min(real, gold + 1, repeats + 1) < 1:
        raise ValueError(f"per_task must leave room for real items, got {per_task} with {gold} gold, {repeats} repeats")
    order = numpy_generator(seed, "annotation order").permutation(len(pictures))
    shuffled = pictures[needed].iloc[order].reset_index(drop=True)
    rows, known = [], []
    for number, start in enumerate(range(0, len(shuffled), real), start=1):
        task_id = f"task-{number:04d}"
        mine = shuffled.iloc[start : start + real]
        random = numpy_generator(seed, "annotation task", task_id)
        again = mine.iloc[random.permutation(len(mine))[:repeats]]
        golden = shuffled.iloc[random.permutation(len(shuffled))[:gold]].to_dict("records")
        for place, row in enumerate(golden):
            others = pictures[(pictures["in9"] != row["in9"]) & (pictures["background"] != row["background"])]
            shown = row if place % 2 == 0 or others.empty else others.iloc[random.integers(len(others))]
            item_id = _item_id(seed, task_id, "gold", place)
            rows.append(row | {"task_id": task_id, "item_id": item_id, "image_id": item_id, "kind": "gold",
                               "file": shown["guide_file"]})  # fmt: skip
            answers = {"object": YES if shown is row else NO, "background": shown["background"], "unsafe": NO}
            known += [(item_id, question, answer) for question, answer in answers.items()]
        for kind, some in (("real", mine), ("repeat", again)):
            rows += [
                row | {"task_id": task_id, "item_id": _item_id(seed, task_id, kind, row["image_id"]), "kind": kind}
                for row in some.to_dict("records")
            ]
    columns = ["task_id", "item_id", "image_id", "kind", "guide_file", "file", "class_name", "synset", "foreground_id"]
    return Tasks(pd.DataFrame(rows)[columns], pd.DataFrame(known, columns=["image_id", "question", "answer"]))


def write_tasks(
    tasks: Tasks,
    folder: Path,
    *,
    root: Path,
    examples: Mapping[str, Sequence[tuple[str, str]]],
    examples_shown: int = 4,
    image_base_url: str | None = None,
) -> list[Path]:
    """Write a page a task, the tables, and what Mechanical Turk's requester site takes; return the pages.

    Args:
        tasks: Of `plan_tasks`.
        folder: Where they go.
        root: Folder that the pictures' files are relative to.
        examples: Synset -> (foreground_id, file) of pictures of that class; an item never shows its own foreground.
        examples_shown: At most so many of them.
        image_base_url: Where `root` lies on the web, for Mechanical Turk; without it, no files for it are made.

    Raises:
        PhotoError: If a picture cannot be read.
    """
    pages, hits = [], []
    for task_id, items in tasks.items.groupby("task_id", sort=True):
        content = _task(task_id, items, examples, examples_shown, lambda file: _data_uri(file, root))
        page = folder / f"{task_id}.html"
        write_text(page, render_page(_encoded(content)))
        pages.append(page)
        if image_base_url:
            base = image_base_url.rstrip("/")
            hosted = _task(task_id, items, examples, examples_shown, lambda file, base=base: f"{base}/{file}")
            hits.append({"task_id": task_id, "task": _encoded(hosted)})
    write_table(folder / "items.parquet", tasks.items)
    write_table(folder / "gold.parquet", tasks.gold)
    if hits:
        write_text(folder / "hits.csv", pd.DataFrame(hits).to_csv(index=False))
        write_text(folder / "hit_layout.html", render_page("${task}", hosted=True))
    return pages


def read_tasks(folder: Path) -> Tasks:
    """Return the tasks that `write_tasks` wrote into `folder`."""
    return Tasks(pd.read_parquet(folder / "items.parquet"), pd.read_parquet(folder / "gold.parquet"))


def render_page(task: str, *, hosted: bool = False) -> str:
    """Return a page for a task in base64 (or the name of a variable that stands for it, ``hosted``).

    Style and script are the only ones that the page's content security policy lets run, by their hash.
    """
    here = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined)
    style, script = ((here / f"annotation_page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    none = "'none'"
    policy = "; ".join([
        f"default-src {none}",
        f"img-src {'https:' if hosted else 'data:'}",
        "style-src 'unsafe-inline'" if hosted else f"style-src '{_hash(style)}'",  # crowd elements bring styles
        f"script-src '{_hash(script)}'" + (f" {CROWD_HOST}" if hosted else ""),
        f"form-action {CROWD_FORMS if hosted else none}",
        f"base-uri {none}",
    ])  # fmt: skip
    template = environment.get_template("annotation_page.html")
    return template.render(policy=policy, style=Markup(style), script=Markup(script), task=task)


def read_answers(files: Sequence[Path], tasks: Tasks) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the votes in files of answers, and what was left out of them and why.

    Args:
        files: Saved by a page (json), or results of Mechanical Turk's requester site (csv).
        tasks: What was asked.

    Returns:
        Votes (see `votes`; also `task_id`, `item_id`, `time`), and problems: `file`, `row` (the answer as it came, or
        ""), `problem`. A record that was handed in twice counts once; of two answers of one worker to one question the
        later one counts, and the earlier is among the problems, as is all that is damaged or unknown.
    """
    items = tasks.items.set_index("item_id")
    rows, problems = [], []
    for file in map(Path, files):
        for record, row, problem in _records(file):
            if problem:
                problems.append((file.name, row, problem))
                continue
            for answer in record["answers"]:
                reason = _fault(answer, record, items)
                if reason:
                    problems.append((file.name, json.dumps(answer), reason))
                    continue
                item = items.loc[answer["item_id"]]
                rows.append({
                    "image_id": item["image_id"], "question": answer["question"], "worker": record["worker"],
                    "answer": answer["answer"], "kind": item["kind"], "task_id": item["task_id"],
                    "item_id": answer["item_id"], "time": str(answer.get("time", "")), "file": file.name,
                })  # fmt: skip
    found = pd.DataFrame(rows, columns=[*COLUMNS, "task_id", "item_id", "time", "file"]).sort_values(
        ["time"], kind="stable", ignore_index=True
    )
    same = ["worker", "item_id", "question"]
    later = found.duplicated(same, keep="last")
    identical = found.duplicated([*same, "answer", "time"], keep="last")
    for row in found[later & ~identical].to_dict("records"):
        text = json.dumps({name: row[name] for name in ("item_id", "question", "answer", "time")})
        problems.append((row["file"], text, f"worker {row['worker']} answered again later, and that answer counts"))
    votes = found[~later].drop(columns="file").reset_index(drop=True)
    return votes, pd.DataFrame(problems, columns=["file", "row", "problem"])


def _records(file: Path):
    """Yield (record, row, problem) for each set of answers in a file; one of the first and the last is empty."""
    try:
        content = file.read_text(encoding="utf-8")
        if file.suffix == ".csv":
            table = pd.read_csv(io.StringIO(content), dtype=str, keep_default_na=False)
            lacking = [name for name in ("WorkerId", "Answer.answers") if name not in table]
            if lacking:
                raise ValueError(f"no result of Mechanical Turk: it lacks the columns {', '.join(lacking)}")
            texts = [(row["Answer.answers"], row) for row in table.to_dict("records")]
        else:
            texts = [(content, {})]
    except (OSError, ValueError) as error:
        yield None, "", f"cannot be read: {error}"
        return
    for text, row in texts:
        if row.get("AssignmentStatus") == "Rejected":
            yield None, text, "the assignment was rejected"
            continue
        try:
            record = json.loads(text)
            if not isinstance(record, dict) or record.get("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            if not isinstance(record.get("answers"), list) or not str(record.get("worker", "")).strip():
                raise ValueError("it lacks a worker or answers")
        except ValueError as error:
            yield None, text, f"no record of answers: {error}"
            continue
        yield record | {"worker": row.get("WorkerId") or str(record["worker"])}, text, ""


def _fault(answer: object, record: dict, items: pd.DataFrame) -> str:
    """Return why an answer cannot be used, or nothing."""
    if not isinstance(answer, dict) or not {"item_id", "question", "answer"} <= set(answer):
        return "no answer: it lacks item_id, question or answer"
    if answer["item_id"] not in items.index:
        return f"unknown item {answer['item_id']!r}"
    if items.at[answer["item_id"], "task_id"] != record.get("task_id"):
        return f"item {answer['item_id']!r} is not of task {record.get('task_id')!r}"
    if answer["answer"] not in QUESTIONS.get(answer["question"], ()):
        return f"{answer['answer']!r} is no answer to the question {answer['question']!r}"
    return ""


def _task(task_id: str, items: pd.DataFrame, examples, examples_shown: int, source) -> dict:
    """Return what a page is told: nothing of which item is gold or a repeat."""
    shown = []
    for item in items.sort_values("item_id").itertuples():
        others = [file for foreground, file in examples.get(item.synset, ()) if foreground != item.foreground_id]
        shown.append({
            "item_id": item.item_id, "class_name": item.class_name, "gloss": imagenet_class(item.synset).definition,
            "guide": source(item.guide_file), "result": source(item.file),
            "examples": [source(file) for file in others[:examples_shown]],
        })  # fmt: skip
    questions = [
        {"name": name, "text": _TEXT[name], "answers": [{"value": a, "text": _WORDS[a]} for a in answers]}
        for name, answers in QUESTIONS.items()
    ]
    return {"task_id": task_id, "items": shown, "questions": questions}


def _item_id(seed: int, task_id: str, kind: str, name: object) -> str:
    return f"{derive_seed(seed, 'annotation item', task_id, kind, str(name)):016x}"


def _encoded(content: dict) -> str:
    return base64.b64encode(json.dumps(content, ensure_ascii=False).encode()).decode()


def _data_uri(file: str, root: Path) -> str:
    pixels = read_photo(file, root=root).pixels
    buffer = io.BytesIO()
    small = max(pixels.shape[:2]) <= LARGEST_LOSSLESS
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=small, quality=80 if small else 90)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
