"""The record of a dataset while it grows: one line a picture, whole after a kill at any instant.

The layout is Hugging Face's imagefolder: ``images/<split>/<image_id>.png`` and ``images/<split>/metadata.jsonl``.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from d3s_utils.atomic_files import sha256_of, write_text
from d3s_utils.generation_requests import SPLITS, image_seed
from d3s_utils.row_appender import ROWS_FILE, Row, RowAppender, line_of


class OtherRunError(ValueError):
    """The folder holds pictures of another run; the message says what differs and what to do."""


class FolderInUseError(ValueError):
    """Another process is writing to the folder."""


@dataclass(frozen=True)
class Recovered:
    """What a folder holds.

    Attributes:
        rows: The rows whose picture is there with the recorded sha256, by image_id.
        dropped: Why the others were dropped, by image_id, or by file and line where a line could not be read.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)


@contextmanager
def locked(images: Path) -> Iterator[None]:
    """Hold the folder `images` for this process alone; the system frees it when the process ends, however it ends.

    Raises:
        FolderInUseError: If another process holds it.
    """
    path = images.parent / f".{images.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise FolderInUseError(
                f"{images} is being written by another process ({file.read().strip() or 'unknown'}): wait until it "
                "ends, or give this one a shard or an output_dir of its own"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield


def plain_rows(table: pd.DataFrame) -> list[Row]:
    """Return the lines of a table as JSON has them: Python's own numbers, None for what is missing."""
    return [
        {name: None if pd.isna(value) else getattr(value, "item", lambda v=value: v)() for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def read_rows(images: Path) -> Recovered:
    """Return the rows of every split, the last one of each image_id, and the lines that are torn. Reads only.

    Raises:
        OtherRunError: If a line is JSON but not a row of this project.
    """
    rows, torn = {}, {}
    for split in SPLITS:
        path = images / split / ROWS_FILE
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError:  # not JSON, or not UTF-8
                row = None
            if row is None or not line.endswith(b"\n"):
                torn[f"{split}/{ROWS_FILE}:{number}"] = "torn line"
                continue
            if not isinstance(row, dict) or row.get("split") != split or not _names_its_file(row):
                raise OtherRunError(
                    f"{path}, line {number}, is no row that this project wrote: choose another output_dir, or move "
                    f"{images} away"
                )
            rows[row["image_id"]] = row
    return Recovered(rows, torn)


def check_same_run(rows: dict[str, Row], requests: dict[str, Row], *, images: Path) -> None:
    """Raise unless every recorded row answers a request: same guide, prompt, settings, model and seed.

    Requests without a row are fine: a run may grow.

    Raises:
        OtherRunError: Naming each column that differs, with both values, and what to do.
    """
    differing: dict[str, list] = {}
    for image_id, row in rows.items():
        request = requests.get(image_id)
        if request is None:
            differing.setdefault("image_id", []).append((image_id, "not asked for"))
            continue
        expected = {**request, "seed": image_seed(request["run_seed"], image_id, attempt=row.get("attempts") or 1)}
        for name, value in expected.items():
            if row.get(name) != value:
                differing.setdefault(name, []).append((row.get(name), value))
    if not differing:
        return
    told = {name: pairs for name, pairs in differing.items() if name != "seed" or len(differing) == 1}
    parts = [f"{name} ({pairs[0][0]!r} there, {pairs[0][1]!r} here; {len(pairs)} rows)" for name, pairs in told.items()]
    raise OtherRunError(
        f"{images} holds {len(rows)} pictures of another run. They differ from this run in {', '.join(parts)}. "
        "Nothing was changed. To go on with that run give its settings; to start this one, choose another output_dir, "
        "move the folder away, or let `generate` do that with other_run='set_aside'"
    )


def recover(
    images: Path,
    requests: dict[str, Row],
    *,
    progress: Callable[[Iterator[str], int], Iterable[str]] = lambda verified, total: verified,
    threads: int = 4,
) -> Recovered:
    """Bring the folder into order after whatever happened to it, and return what it holds.

    Torn lines and rows whose picture is missing or has changed are dropped, so that they are made again, and what
    a killed process left half-written is removed. Call it while the folder is `locked`.

    Args:
        images: The dataset's folder.
        requests: What this run asks for, by image_id.
        progress: Wraps the verified pictures and is told their number, to draw a bar.
        threads: Files read at once.

    Raises:
        OtherRunError: If the folder holds another run's pictures; then nothing is changed.
    """
    found = read_rows(images)
    check_same_run(found.rows, requests, images=images)

    def fault(row: Row) -> str:
        path = images / row["split"] / row["file_name"]
        if not path.is_file():
            return "picture missing"
        return "" if sha256_of(path) == row["sha256"] else "picture changed"

    with ThreadPoolExecutor(threads) as pool:
        verified = progress(pool.map(fault, found.rows.values()), len(found.rows))
        faults = dict(zip(found.rows, verified, strict=True))
    rows = {image_id: row for image_id, row in found.rows.items() if not faults[image_id]}
    dropped = found.dropped | {image_id: reason for image_id, reason in faults.items() if reason}
    for split in SPLITS:
        for partial in (images / split).glob(".*.partial"):
            partial.unlink()
    if dropped:
        write_rows(images, rows)
    return Recovered(rows, dropped)


def write_rows(images: Path, rows: dict[str, Row]) -> None:
    """Write the rows of every split that has some, or that has a file, in the order of `rows`, each file at once."""
    for split in SPLITS:
        path = images / split / ROWS_FILE
        text = "".join(line_of(row) for row in rows.values() if row["split"] == split)
        if (text or path.exists()) and not (path.exists() and path.read_bytes() == text.encode()):
            write_text(path, text)


def load_manifest(images: Path) -> pd.DataFrame:
    """Return all rows as one table: what `generate` recorded about each picture (see its docstring); perhaps none."""
    return pd.DataFrame(list(read_rows(images).rows.values()))


def with_twins(table: pd.DataFrame, run_folder: Path) -> pd.DataFrame:
    """Return images with their twins on the object's own ground beside them, where notebook 02 made any.

    Args:
        table: Has `image_id`.

    Returns:
        The table with `placed_file` (the paste), `placed_repainted_file` (both relative to `run_folder`) and
        `placed_repainted_sha256`, missing for an image without a twin; the table as it is where there is none at all.
    """
    images = run_folder / "02_diffusion_generation" / "placed"
    twins = load_manifest(images)
    if twins.empty:
        return table
    folder = images.relative_to(run_folder).as_posix()
    columns = {
        "image_id": twins["image_id"], "placed_file": twins["guide_file"],
        "placed_repainted_file": folder + "/" + twins["split"] + "/" + twins["file_name"],
        "placed_repainted_sha256": twins["sha256"],
    }  # fmt: skip
    others = [name for name in columns if name in table and name != "image_id"]
    return table.drop(columns=others).merge(pd.DataFrame(columns), on="image_id", how="left")


def set_aside(images: Path) -> Path | None:
    """Rename the folder `images` so that its pictures are kept, and return its new place; None if there is none."""
    if not images.exists():
        return None
    number = 1
    while (place := images.with_name(f"{images.name}.superseded-{number}")).exists():
        number += 1
    return images.rename(place)


def merge_shard(images: Path, shard: Path, requests: dict[str, Row]) -> int:
    """Move the pictures and rows of the folder `shard` into `images` and return how many.

    It may be killed and called again: a row is added after its picture has arrived. Call it while `images` is
    `locked` and after `recover`, which removes a torn last line; `recover` afterwards verifies what arrived.

    Raises:
        OtherRunError: If the shard is of another run; then nothing is moved.
        FolderInUseError: If its worker is still writing.
    """
    moved = 0
    with locked(shard), RowAppender(images) as appender:
        present, arriving = read_rows(images).rows, read_rows(shard).rows
        check_same_run(arriving, requests, images=shard)
        for image_id, row in arriving.items():
            source, target = (folder / row["split"] / row["file_name"] for folder in (shard, images))
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.exists():
                os.replace(source, target)
            if image_id not in present and target.exists():
                appender.append(row)
                moved += 1
    return moved


def _names_its_file(row: Row) -> bool:
    return isinstance(row.get("image_id"), str) and row.get("file_name") == f"{row['image_id']}.png"
