"""Tasks for people, and their answers.

``python -m d3s_utils.annotation make`` makes the tasks of a run, ``read`` reads the answers to them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from d3s_utils.annotation_answers import read_places
from d3s_utils.annotation_pages import read_tasks, write_tasks
from d3s_utils.annotation_tasks import (
    Tasks,
    class_examples,
    plan_tasks,
    sample_pictures,
    worked_examples,
)
from d3s_utils.atomic_files import write_table
from d3s_utils.manifest import set_aside

FOLDER = "annotation"  # below notebook 03's output


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

    The examples of a class are the run's foregrounds. A folder that holds other tasks is renamed first, so that answers
    to them can still be read.
    """
    tasks = plan_tasks(pictures, per_task=per_task, gold=gold, repeats=repeats, seed=seed)
    if (folder / "items.parquet").exists() and not read_tasks(folder).items.equals(tasks.items):
        set_aside(folder)
    pages = write_tasks(
        tasks, folder, root=root, examples=class_examples(root), examples_shown=examples_shown,
        worked=worked_examples(pictures, seed=seed), image_base_url=image_base_url,
    )  # fmt: skip
    return tasks, pages


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
    votes, problems = read_places(arguments.places, tasks)
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
