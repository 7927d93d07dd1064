"""What people are asked: which pictures, in which tasks, with items whose answers are known mixed in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from d3s_utils.randomness import derive_seed, numpy_generator
from d3s_utils.votes import NO, YES

NEEDED = ["image_id", "guide_file", "file", "class_name", "synset", "in9", "background", "foreground_id"]
WHY = {
    "same": "The object of the guide is in the result, and the place is the same.",
    "moved": "The object is there all the same; the place is what the result shows, not the guide.",
    "gone": "Another object has taken its place; the background is what the result shows, not the guide.",
}


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
    for kind in WHY:
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


def _item_id(seed: int, task_id: str, kind: str, name: object) -> str:
    return f"{derive_seed(seed, 'annotation item', task_id, kind, str(name)):016x}"
