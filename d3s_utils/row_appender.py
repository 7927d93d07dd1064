"""Rows appended to a dataset's record from any thread, each whole or not at all."""

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

ROWS_FILE = "metadata.jsonl"
Row = dict[str, Any]


class RowAppender:
    """Appends rows to the files of a dataset from any thread: each line whole, by one write at the file's end.

    A line that does not fit on the disk is taken back. `sync` puts what was written onto the disk itself; a kill
    cannot lose it before, a power cut can, and `recover` then finds out.
    """

    def __init__(self, images: Path):
        self._images = images
        self._files: dict[str, int] = {}
        self._lock = threading.Lock()

    def append(self, row: Row) -> None:
        """Add one row to its split's file.

        Raises:
            OSError: If the disk is full; the file is as it was.
            ValueError: If the row holds NaN, which JSON has not.
        """
        line = line_of(row).encode()
        with self._lock:
            file = self._file_of(row["split"])
            before = os.fstat(file).st_size
            try:
                if os.write(file, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path(row["split"])))
            except OSError:
                os.ftruncate(file, before)
                raise

    def sync(self) -> None:
        """Flush all files to the disk."""
        with self._lock:
            for file in self._files.values():
                os.fsync(file)

    def __enter__(self) -> "RowAppender":
        return self

    def __exit__(self, *_) -> None:
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])

    def _path(self, split: str) -> Path:
        return self._images / split / ROWS_FILE

    def _file_of(self, split: str) -> int:
        if split not in self._files:
            path = self._path(split)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[split] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        return self._files[split]


def line_of(row: Row) -> str:
    """Return a row as one line of strict JSON.

    Raises:
        ValueError: If it holds NaN or an infinity.
    """
    return json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"
