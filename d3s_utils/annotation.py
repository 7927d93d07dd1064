"""Tasks for people: pages that ask about pictures, and the answers that come back.

A page is one file that needs no server and no network. Mechanical Turk's requester site takes ``hit_layout.html``, the
same page with a variable in the task's place, and ``hits.csv``, for pictures that lie on a web server.

``python -m d3s_utils.annotation make`` makes the tasks of a run, ``read`` reads the answers to them.
"""

import argparse
import base64
import csv
import hashlib
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from d3s_utils.atomic_files import write_bytes, write_table, write_text
from d3s_utils.photos import read_photo
from d3s_utils.randomness import derive_seed, numpy_generator
from d3s_utils.taxonomy import BACKGROUNDS, imagenet_class
from d3s_utils.votes import COLUMNS, NO, NONE, QUESTIONS, UNSURE, YES

FOLDER = "annotation"  # below notebook 03's output
FORMAT = "d3s-votes-1"
LARGEST_LOSSLESS = 128  # pixels; larger pictures are embedded as WebP of quality 90
EXAMPLE_SIDE, WORKED_SIDE = 144, 256  # pixels, at most: pictures of a class, and those of the instructions
LARGEST_HIT = 65_535  # bytes, layout and task together
NEEDED = ["image_id", "guide_file", "file", "class_name", "synset", "in9", "background", "foreground_id"]
CROWD_HOST = "https://assets.crowd.aws"
CROWD_FORMS = "https://www.mturk.com https://workersandbox.mturk.com"
_TEXT = {
    "object": "Is the object of the guide in the result?",
    "background": "Which background is it?",
    "unsafe": "Is anything not safe to show?",
}
_SHORT = {"object": "Object there", "background": "Background", "unsafe": "Not safe"}
_WHY = {
    "same": "The object of the guide is in the result, and the place is the same.",
    "moved": "The object is there all the same; the place is what the result shows, not the guide.",
    "gone": "Another object has taken its place; the background is what the result shows, not the guide.",
}
_WORDS = {YES: "Yes", NO: "No", UNSURE: "Unsure", NONE: "None of these"} | {b: p for b, p in BACKGROUNDS.items()}


@dataclass(frozen=True)
class Tasks:
    """What is asked, and what is known beforehand.

    Attributes:
        items: A row an item: `task_id`, `item_id` (what the page knows), `image_id`, `kind` (``real``, ``gold``,
            ``repeat``), `guide_file`, `file`, `class_name`, `synset`, `in9`, `background` (of the guide),
            `foreground_id`. A gold item's `image_id` is its `item_id`.
        gold: The known answers: `image_id`, `question`, `answer`.
    """

    items: pd.DataFrame
    gold: pd.DataFrame


@dataclass(frozen=True)
class WorkedExample:
    """An example in the instructions, with the right answers.

    Attributes:
        kind: ``same``, ``moved`` or ``gone``.
        guide_file: The guide.
        file: What is shown as the result.
        class_name: Of the guide's object.
        answers: Question -> the right answer.
    """

    kind: str
    guide_file: str
    file: str
    class_name: str
    answers: Mapping[str, str]


def sample_pictures(table: pd.DataFrame, count: int, *, seed: int) -> pd.DataFrame:
    """Return `count` rows, as even as can be over class and background; all of them where there are no more.

    Args:
        table: `image_id`, `synset`, `background`, and whatever else.
        count: Rows wanted.
        seed: Decides among equals; the order of the rows does not matter.

    Returns:
        Rows ordered by `image_id`. No cell of class and background gives two rows more than another that has some
        left, and the cells of the last round are spread over classes and backgrounds.

    Raises:
        ValueError: If `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    table = table.sort_values("image_id", ignore_index=True)
    if count >= len(table):
        return table
    random = numpy_generator(seed, "annotation sample")
    cells = table.groupby(["synset", "background"], sort=True)
    queues = [list(random.permutation(rows)) for rows in cells.indices.values()]
    synset, background = (pd.factorize(cells.size().index.get_level_values(i))[0] for i in (0, 1))
    left, taken = np.array([len(queue) for queue in queues]), np.zeros(len(queues))
    of_synset, of_background = np.zeros(synset.max() + 1), np.zeros(background.max() + 1)
    rows = []
    for _ in range(count):
        level = np.where(left > 0, taken, np.inf)
        spread = np.where(level == level.min(), of_synset[synset] + of_background[background], np.inf)
        cell = random.choice(np.flatnonzero(spread == spread.min()))
        rows.append(queues[cell].pop())
        left[cell] -= 1
        taken[cell] += 1
        of_synset[synset[cell]] += 1
        of_background[background[cell]] += 1
    return table.iloc[sorted(rows)].reset_index(drop=True)


def class_examples(run_folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Return synset -> (foreground_id, file) of notebook 01's foregrounds; nothing where it has left none."""
    path = run_folder / "01_compositing" / "foregrounds.parquet"
    if not path.exists():
        return {}
    table = pd.read_parquet(path).sort_values("foreground_id")
    return {
        synset: list(rows[["foreground_id", "file"]].itertuples(index=False, name=None))
        for synset, rows in table.groupby("synset")
    }


def worked_examples(pictures: pd.DataFrame, *, seed: int, per_kind: int = 8) -> list[WorkedExample]:
    """Return examples for the instructions that are right by construction: the result is a guide.

    Args:
        pictures: `guide_file`, `class_name`, `in9`, `background` and `foreground_id`, a row a guide.
        seed: Decides which.
        per_kind: At most so many of each kind: ``same`` (the guide itself), ``moved`` (the same foreground on another
            background) and ``gone`` (another superclass on another background).
    """
    table = pictures.drop_duplicates("guide_file").sort_values("guide_file", ignore_index=True)
    random = numpy_generator(seed, "annotation worked examples")
    found = []
    for kind in _WHY:
        some = []
        for row in (table.iloc[place] for place in random.permutation(len(table))[: 50 * per_kind]):
            elsewhere = table["background"] != row["background"]
            others = {
                "same": table["guide_file"] == row["guide_file"],
                "moved": elsewhere & (table["foreground_id"] == row["foreground_id"]),
                "gone": elsewhere & (table["in9"] != row["in9"]),
            }[kind].to_numpy()
            if others.any() and len(some) < per_kind:
                shown = table.iloc[random.choice(np.flatnonzero(others))]
                answers = {"object": NO if kind == "gone" else YES, "background": shown["background"], "unsafe": NO}
                some.append(WorkedExample(kind, row["guide_file"], shown["guide_file"], row["class_name"], answers))
        found += some
    return found


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
    missing = [name for name in NEEDED if name not in pictures]
    if missing or pictures.empty:
        raise ValueError(f"pictures must have rows and the columns {', '.join(NEEDED)}; lacking {missing or 'rows'}")
    real = per_task - gold - repeats
    if min(real, gold + 1, repeats + 1) < 1:
        raise ValueError(f"per_task must leave room for real items, got {per_task} with {gold} gold, {repeats} repeats")
    order = numpy_generator(seed, "annotation order").permutation(len(pictures))
    shuffled = pictures[NEEDED].iloc[order].reset_index(drop=True)
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
    columns = ["task_id", "item_id", "image_id", "kind", *NEEDED[1:]]
    return Tasks(pd.DataFrame(rows)[columns], pd.DataFrame(known, columns=["image_id", "question", "answer"]))


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


def make_tasks(
    pictures: pd.DataFrame,
    folder: Path,
    *,
    root: Path,
    seed: int,
    per_task: int = 25,
    gold: int = 2,
    repeats: int = 2,
    examples_shown: int = 4,
    image_base_url: str | None = None,
) -> tuple[Tasks, list[Path]]:
    """Plan the tasks about `pictures` of the run in `root`, and write them (see `plan_tasks` and `write_tasks`).

    The examples of a class are the run's foregrounds.
    """
    tasks = plan_tasks(pictures, per_task=per_task, gold=gold, repeats=repeats, seed=seed)
    pages = write_tasks(
        tasks, folder, root=root, examples=class_examples(root), examples_shown=examples_shown,
        worked=worked_examples(pictures, seed=seed), image_base_url=image_base_url,
    )  # fmt: skip
    return tasks, pages


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


def read_answers(files: Sequence[Path], tasks: Tasks) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the votes in files of answers, and what was left out of them and why.

    Args:
        files: Saved by a page (json), or results of Mechanical Turk's requester site (csv).
        tasks: What was asked.

    Returns:
        Votes (see `votes`; also `task_id`, `item_id`, `time`, and `position`: the item's place in the order in which
        the worker met the task's items, from 1, missing where the file does not tell), and problems: `file`, `row` (the
        answer as it came, or ""), `problem`. Of two answers of one worker to one question the later one counts, and
        the earlier is among the problems, as is all that is damaged, unknown, or there twice.
    """
    items = tasks.items.set_index("item_id")
    rows, problems = [], []
    for file in map(Path, files):
        for record, row, problem in _records(file):
            if problem:
                problems.append((file.name, row, problem))
                continue
            positions, problem = _positions(record, items)
            if problem:
                problems.append((file.name, json.dumps(record["order"]), problem))
            for answer in record["answers"]:
                reason = _fault(answer, record, items)
                if reason:
                    problems.append((file.name, json.dumps(answer), reason))
                    continue
                item = items.loc[answer["item_id"]]
                rows.append({
                    "image_id": item["image_id"], "question": answer["question"], "worker": record["worker"],
                    "answer": answer["answer"], "kind": item["kind"], "task_id": item["task_id"],
                    "item_id": answer["item_id"], "time": answer.get("time", ""),
                    "position": positions.get(answer["item_id"]), "file": file.name,
                    "moment": _moment(answer.get("time", "")),
                })  # fmt: skip
    columns = [*COLUMNS, "task_id", "item_id", "time", "position", "file", "moment"]
    found = pd.DataFrame(rows, columns=columns).sort_values(["moment"], kind="stable", ignore_index=True)
    found["position"] = found["position"].astype("Int64")
    same = ["worker", "item_id", "question"]
    later = found.duplicated(same, keep="last")
    identical = found.duplicated([*same, "answer", "time"], keep="last")
    for row in found[later & ~identical].to_dict("records"):
        text = json.dumps({name: row[name] for name in ("item_id", "question", "answer", "time")})
        problems.append((row["file"], text, f"worker {row['worker']} answered again later, and that answer counts"))
    for (file, worker, task_id), twice in found[identical].groupby(["file", "worker", "task_id"]):
        said = f"{len(twice)} answers of worker {worker} to {task_id} are there twice, and count once"
        problems.append((file, "", said))
    votes = found[~later].drop(columns=["file", "moment"]).reset_index(drop=True)
    return votes, pd.DataFrame(problems, columns=["file", "row", "problem"])


def read_answers_folder(folder: Path, tasks: Tasks) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return votes and problems of the json and csv files in `folder`, by name (see `read_answers`).

    Whatever else lies there is a problem.

    Raises:
        ValueError: If `folder` is no folder.
    """
    if not folder.is_dir():
        raise ValueError(f"folder must be a folder of answers, got {folder}")
    return _read_places([folder], tasks)


def _read_places(places: Sequence[Path], tasks: Tasks) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read files, and the files in folders."""
    files, others = [], []
    for place in places:
        for file in sorted(place.iterdir()) if place.is_dir() else [place]:
            if file.is_file() and file.suffix.lower() in (".json", ".csv"):
                files.append(file)
            else:
                others.append((file.name, "", "neither a .json nor a .csv file"))
    votes, problems = read_answers(files, tasks)
    return votes, pd.concat([problems, pd.DataFrame(others, columns=problems.columns)], ignore_index=True)


def _records(file: Path) -> Iterator[tuple[dict | None, str, str]]:
    """Yield (record, row, problem) for each set of answers in a file; one of the first and the last is empty."""
    try:
        content = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".csv":
            reader = csv.DictReader(io.StringIO(content, newline=""))
            lacking = [name for name in ("WorkerId", "Answer.answers") if name not in (reader.fieldnames or ())]
            if lacking:
                raise ValueError(f"no result of Mechanical Turk: it lacks the columns {', '.join(lacking)}")
            sources = [_turk_row(row) for row in reader]
        else:
            sources = [(content, None, "")]
    except (OSError, ValueError, csv.Error) as error:
        yield None, "", f"cannot be read: {error}"
        return
    for text, worker, problem in sources:
        if problem:
            yield None, text, problem
            continue
        try:
            record = json.loads(text)
            if not isinstance(record, dict) or record.get("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            worker = record.get("worker") if worker is None else worker
            if not isinstance(record.get("answers"), list) or not isinstance(worker, str) or not worker.strip():
                raise ValueError("it lacks a worker or answers")
        except (ValueError, RecursionError) as error:
            yield None, text, f"no record of answers: {error}"
            continue
        yield record | {"worker": worker.strip()}, text, ""


def _turk_row(row: dict) -> tuple[str, str, str]:
    """Return (text of the answers, worker, problem) of a row of Mechanical Turk's results."""
    if None in row or None in row.values():  # so the csv module tells of fields too many, or too few
        return json.dumps(list(row.values())), "", "the row has more or fewer fields than the table has columns"
    problem = "the assignment was rejected" if row.get("AssignmentStatus") == "Rejected" else ""
    return row["Answer.answers"], row["WorkerId"], problem


def _positions(record: dict, items: pd.DataFrame) -> tuple[dict[str, int], str]:
    """Return item -> place in the worker's order, from 1, and what is wrong with that order."""
    order = record.get("order") or []
    asked = items.index[items["task_id"] == record.get("task_id")]
    if not order or asked.empty:
        return {}, ""
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(asked):
        return {}, "its order does not name each item of the task once; the answers count, without their positions"
    return {item_id: place for place, item_id in enumerate(order, start=1)}, ""


def _fault(answer: object, record: dict, items: pd.DataFrame) -> str:
    """Return why an answer cannot be used, or nothing."""
    names = ("item_id", "question", "answer")
    if not isinstance(answer, dict) or not all(isinstance(answer.get(name), str) for name in names):
        return "no answer: it lacks item_id, question or answer"
    if answer["item_id"] not in items.index:
        return f"unknown item {answer['item_id']!r}"
    if items.at[answer["item_id"], "task_id"] != record.get("task_id"):
        return f"item {answer['item_id']!r} is not of task {record.get('task_id')!r}"
    if answer["answer"] not in QUESTIONS.get(answer["question"], ()):
        return f"{answer['answer']!r} is no answer to the question {answer['question']!r}"
    if _moment(answer.get("time", "")) is None:
        return f"{answer['time']!r} is no time"
    return ""


def _moment(text: object) -> datetime | None:
    """Return the moment that a text in ISO 8601 names, the earliest there is for an empty one, None for another."""
    if text == "":
        return datetime.min.replace(tzinfo=UTC)
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        return None


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
            "result": place(example.file, WORKED_SIDE), "why": _WHY[example.kind],
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


def _item_id(seed: int, task_id: str, kind: str, name: object) -> str:
    return f"{derive_seed(seed, 'annotation item', task_id, kind, str(name)):016x}"


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


def _make(arguments: argparse.Namespace) -> None:
    run_folder, folder = arguments.run_folder, _task_folder(arguments)
    path = run_folder / "03_validation" / "validated.parquet"
    if not path.exists():
        raise ValueError(f"{path} is missing: run notebook 03_validation first")
    if not 1 <= arguments.examples <= 16:
        raise ValueError(f"--examples must lie in [1, 16], got {arguments.examples}")
    table = pd.read_parquet(path)
    broken = table["unreadable"].fillna("").ne("") if "unreadable" in table else pd.Series(False, index=table.index)
    pictures = table[~broken]
    if arguments.pictures is not None:
        pictures = sample_pictures(pictures, arguments.pictures, seed=arguments.seed)
    plan = {
        "per_task": arguments.per_task,
        "gold": arguments.gold,
        "repeats": arguments.repeats,
        "seed": arguments.seed,
    }
    items = plan_tasks(pictures, **plan).items
    if (folder / "items.parquet").exists() and not read_tasks(folder).items.equals(items):
        raise ValueError(f"{folder} holds other tasks, whose answers would be lost: name another --folder")
    shown, base = arguments.examples, arguments.image_base_url
    pages = make_tasks(pictures, folder, root=run_folder, examples_shown=shown, image_base_url=base, **plan)[1]
    print(f"{len(pages)} tasks about {len(pictures)} of {len(table)} pictures ({broken.sum()} unreadable) in {folder}")
    if arguments.image_base_url:
        print(f"For Mechanical Turk: hit_layout.html, hits.csv, and pictures/ to lie at {arguments.image_base_url}")


def _read(arguments: argparse.Namespace) -> None:
    folder = _task_folder(arguments)
    tasks = read_tasks(folder)
    for place in arguments.places:
        if not place.exists():
            raise ValueError(f"{place} is missing: name files of answers, or folders of them")
    votes, problems = _read_places(arguments.places, tasks)
    write_table(folder / "votes.parquet", votes)
    write_table(folder / "problems.csv", problems)
    asked = votes.loc[votes["kind"] == "real", "image_id"].nunique()
    everything = tasks.items.loc[tasks.items["kind"] == "real", "image_id"].nunique()
    print(f"{len(votes)} votes of {votes['worker'].nunique()} workers on {asked} of {everything} pictures in {folder}")
    print(f"{len(problems)} problems" + (f", see {folder / 'problems.csv'}" if len(problems) else ""))


def _task_folder(arguments: argparse.Namespace) -> Path:
    return arguments.folder or arguments.run_folder / "03_validation" / FOLDER


def main(arguments: Sequence[str] | None = None) -> int:
    """Make tasks or read answers, as the command line says; return the exit status, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m d3s_utils.annotation", description="Ask people about pictures.")
    commands = parser.add_subparsers(required=True)
    make = commands.add_parser("make", help="write the pages, and what Mechanical Turk takes")
    make.set_defaults(command=_make)
    read = commands.add_parser("read", help="read answers into votes.parquet and problems.csv beside the tasks")
    read.set_defaults(command=_read)
    for command in (make, read):
        command.add_argument("run_folder", type=Path, help="such as outputs/mini")
        command.add_argument("--folder", type=Path, help="of the tasks; 03_validation/annotation by default")
    make.add_argument("--pictures", type=int, help="so many, even over class and background; all by default")
    make.add_argument("--per-task", type=int, default=25, help="items of a task")
    make.add_argument("--gold", type=int, default=2, help="items of a task whose answers are known")
    make.add_argument("--repeats", type=int, default=2, help="items of a task that are asked twice")
    make.add_argument("--examples", type=int, default=4, help="example pictures of the class, at most")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--image-base-url", help="https address of the folder pictures, for Mechanical Turk")
    read.add_argument("places", type=Path, nargs="+", help="files of answers (.json, .csv), or folders of them")
    try:
        given = parser.parse_args(arguments)
        given.command(given)
    except (ValueError, OSError) as error:
        print(f"annotation: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
