"""The answers that come back from people: from saved files, or as Mechanical Turk's results; nothing is lost."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from d3s_utils.annotation_tasks import Tasks
from d3s_utils.votes import COLUMNS, QUESTIONS

FORMAT = "d3s-votes-1"


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
    return read_places([folder], tasks)


def read_places(places: Sequence[Path], tasks: Tasks) -> tuple[pd.DataFrame, pd.DataFrame]:
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
