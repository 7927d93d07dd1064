"""The dataset: every request dreamt, checked, written and recorded, whatever happens on the way."""

import errno
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from d3s_utils.atomic_files import write_bytes
from d3s_utils.batching import batches_within_memory
from d3s_utils.dreaming import (
    DreamOptions,
    PromptEmbeddings,
    dream_batch,
    fault_of,
    progress_bar,
    to_bytes,
)
from d3s_utils.generation_requests import image_seed, options_of, shard_of
from d3s_utils.manifest import (
    OtherRunError,
    check_same_run,
    locked,
    merge_shard,
    plain_rows,
    read_rows,
    recover,
    set_aside,
    write_rows,
)
from d3s_utils.photos import read_photo
from d3s_utils.pipelines import LoadedPipeline
from d3s_utils.png_files import encode_png
from d3s_utils.row_appender import Row, RowAppender

FAILURE_COLUMNS = ("image_id", "split", "class_name", "background", "prompt", "attempts", "reason")
_READERS = _WRITERS = 2  # threads; decoding, encoding and hashing let others run meanwhile
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(OSError):
    """There is no room for the next picture; the message says how much is needed and that a second run goes on."""


@dataclass(frozen=True)
class GenerationReport:
    """What one call of `generate` did.

    Attributes:
        requested: Pictures asked for.
        kept: Pictures that were there already, verified.
        made: Pictures made now.
        retried: Attempts that gave a picture that was not finite or black.
        failures: Requests that gave none in all their attempts, with `FAILURE_COLUMNS`; never accepted, only listed.
        repaired: Why rows of an earlier run were dropped and their pictures made again, by image_id or line.
        set_aside: Where another run's pictures were moved to, or None.
        batch_size: The size that fitted into memory at the end.
        seconds: Wall-clock time of the making.
    """

    requested: int
    kept: int
    made: int
    retried: int
    failures: pd.DataFrame
    repaired: dict[str, str]
    set_aside: Path | None
    batch_size: int
    seconds: float


def generate(
    requests: pd.DataFrame,
    images: str | Path,
    pipeline: LoadedPipeline,
    *,
    root: str | Path,
    batch_size: int,
    shard: tuple[int, int] = (0, 1),
    max_attempts: int = 3,
    other_run: str = "refuse",
    progress: bool = True,
) -> GenerationReport:
    """Make the picture of every request that has none yet, and record each as soon as it is on the disk.

    May be killed at any instant and called again: pictures that are there are verified and kept. A picture depends
    on its own request alone, not on the batch, the order or what was there before.

    Args:
        requests: From `make_requests`; all lines, even where this call makes a shard of them.
        images: Folder of the dataset, with a folder for each split and in it a ``metadata.jsonl``: the request's
            columns and ``file_name``, ``model``, ``model_sha256``, ``precision``, ``seed`` (of the attempt that was
            accepted), ``attempts``, ``sha256``.
        pipeline: What dreams.
        root: Folder that the requests' paths are relative to.
        batch_size: Pictures at once; halved whenever memory runs out.
        shard: (index, count): make only this part, in the folder `shard_folder` of its own. Once all are made, a
            call without a shard gathers them.
        max_attempts: How often a picture that is not finite or black is tried, each time with a new recorded seed.
        other_run: What to do with pictures of other settings in the folder: ``refuse`` or ``set_aside``.
        progress: Whether to draw bars.

    Raises:
        OtherRunError: If the folder holds another run and `other_run` is ``refuse``.
        FolderInUseError: If another process writes to the folder.
        DiskFullError: If the disk is full; no partial file is left.
        MemoryError: If not even a batch of one fits.
        ValueError: If the requests differ in their options or size, or a guide is missing or has changed.
    """
    if other_run not in ("refuse", "set_aside"):
        raise ValueError(f"other_run must be refuse or set_aside, got {other_run!r}")
    if max_attempts < 1:
        raise ValueError(f"max_attempts must be at least 1, got {max_attempts}")
    index, count = shard
    images = Path(images) if count == 1 else shard_folder(Path(images), index=index, count=count)
    options = options_of(requests)
    own = plain_rows(shard_of(requests, index=index, count=count))
    model = {"model": pipeline.identifier, "model_sha256": pipeline.sha256, "precision": pipeline.precision}
    wanted = {row["image_id"]: {"file_name": f"{row['image_id']}.png", **row, **model} for row in own}
    with locked(images):
        moved = set_aside(images) if other_run == "set_aside" and not _is_same_run(images, wanted) else None
        found = recover(images, wanted, progress=partial(_verification_bar, shown=progress))
        repaired = dict(found.dropped)
        for part in sorted(images.parent.glob(f"{images.name}.shards/*-of-*[0-9]")):
            merge_shard(images, part, wanted)
            found = recover(images, wanted, progress=partial(_verification_bar, shown=progress))
            repaired |= found.dropped
            shutil.rmtree(part)
        run = _Run(wanted, found.rows, images, Path(root), pipeline, options, max_attempts)
        start = time.perf_counter()
        run.make_all(batch_size, progress=progress)
        write_rows(images, {image_id: run.rows[image_id] for image_id in wanted if image_id in run.rows})
    return GenerationReport(
        requested=len(wanted),
        kept=len(found.rows),
        made=len(run.rows) - len(found.rows),
        retried=run.retried,
        failures=pd.DataFrame(run.failures, columns=list(FAILURE_COLUMNS)),
        repaired=repaired,
        set_aside=moved,
        batch_size=run.batch_size,
        seconds=time.perf_counter() - start,
    )


def shard_folder(images: Path, *, index: int, count: int) -> Path:
    """Return the folder in which worker `index` of `count` writes what will be gathered into `images`."""
    return images.with_name(f"{images.name}.shards") / f"{index}-of-{count}"


class _Run:
    """The making of all pictures that are not there yet."""

    def __init__(
        self,
        wanted: dict[str, Row],
        present: dict[str, Row],
        images: Path,
        root: Path,
        pipeline: LoadedPipeline,
        options: DreamOptions,
        max_attempts: int,
    ):
        self.rows = dict(present)
        self.failures: list[Row] = []
        self.retried = 0
        self.batch_size = 0
        self._wanted = wanted
        self._images = images
        self._root = root
        self._pipeline = pipeline
        self._max_attempts = max_attempts
        self._options = options
        self._embeddings = PromptEmbeddings(pipeline)

    def make_all(self, batch_size: int, *, progress: bool) -> None:
        """Dream, check and write in turn; encoding and writing go on while the next batch is dreamt."""
        self.batch_size = batch_size
        pending = deque(_attempt(row, 1) for image_id, row in self._wanted.items() if image_id not in self.rows)
        bar = progress_bar(
            total=len(self._wanted), initial=len(self.rows), description="dreaming", disable=not progress
        )
        with ExitStack() as stack:
            self._bar = stack.enter_context(bar)
            appender = stack.enter_context(RowAppender(self._images))
            self._readers = stack.enter_context(ThreadPoolExecutor(_READERS))
            writers = stack.enter_context(ThreadPoolExecutor(_WRITERS))
            writing: deque[Future] = deque()
            for batch, pictures in batches_within_memory(
                pending, self._dream, batch_size=batch_size, on_smaller=self._go_on_smaller
            ):
                for row, picture in zip(batch, pictures, strict=True):
                    if fault := fault_of(picture):
                        self._try_again(row, fault, pending)
                    else:
                        writing.append(writers.submit(_write, row, to_bytes(picture), self._images, appender))
                        bar.update()
                self._collect(writing, at_most=batch_size)
                writers.submit(appender.sync)
            self._collect(writing, at_most=0)
            appender.sync()

    def _dream(self, batch: list[Row]) -> torch.Tensor:
        return dream_batch(
            self._pipeline,
            [row["prompt"] for row in batch],
            [row["seed"] for row in batch],
            options=self._options,
            embeddings=self._embeddings,
            guides=np.stack(list(self._readers.map(lambda row: _read_guide(row, self._root), batch))),
        )

    def _go_on_smaller(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._bar.write(f"memory is full: going on with batches of {batch_size}")

    def _try_again(self, row: Row, fault: str, pending: deque[Row]) -> None:
        if row["attempts"] < self._max_attempts:
            self.retried += 1
            pending.append(_attempt(row, row["attempts"] + 1))
        else:
            self.failures.append({name: row.get(name) for name in FAILURE_COLUMNS} | {"reason": fault})
            self._bar.update()

    def _collect(self, writing: deque[Future], *, at_most: int) -> None:
        """Take over the rows that are written, waiting until `at_most` are not; raise what went wrong with one."""
        try:
            while writing and (len(writing) > at_most or writing[0].done()):
                row = writing.popleft().result()
                self.rows[row["image_id"]] = row
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            raise DiskFullError(
                error.errno,
                f"the disk is full: {len(self.rows)} of {len(self._wanted)} pictures are safe, the next one was not "
                f"begun. Free about {self._bytes_missing() / 1e6:.0f} MB, then run again: it goes on from there",
                str(error.filename or self._images),
            ) from error

    def _bytes_missing(self) -> float:
        sizes = [(self._images / row["split"] / row["file_name"]).stat().st_size for row in self.rows.values()]
        mean = sum(sizes) / len(sizes) if sizes else 3 * self._pipeline.image_size**2
        return 1.1 * mean * (len(self._wanted) - len(self.rows))


def _attempt(row: Row, attempt: int) -> Row:
    return {**row, "seed": image_seed(row["run_seed"], row["image_id"], attempt=attempt), "attempts": attempt}


def _write(row: Row, pixels: np.ndarray, images: Path, appender: RowAppender) -> Row:
    digest = write_bytes(images / row["split"] / row["file_name"], encode_png(pixels))
    row = {**row, "sha256": digest}
    appender.append(row)
    return row


def _read_guide(row: Row, root: Path) -> np.ndarray:
    guide = read_photo(row["guide_file"], root=root)
    if guide.sha256 != row["guide_sha256"]:
        raise ValueError(f"guide_file {row['guide_file']!r} has changed since the requests were made: make them again")
    return guide.pixels


def _is_same_run(images: Path, wanted: dict[str, Row]) -> bool:
    try:
        check_same_run(read_rows(images).rows, wanted, images=images)
    except OtherRunError:
        return False
    return True


def _verification_bar(verified: Iterable[str], total: int, *, shown: bool) -> Iterable[str]:
    return tqdm(verified, total=total, desc="verifying", unit="image", file=sys.stdout, disable=not (shown and total))
