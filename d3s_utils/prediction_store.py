"""What a classifier said about each picture, kept on disk one picture at a time, so that nothing is asked twice."""

import errno
import hashlib
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from d3s_utils.atomic_files import write_json

TOP = 5  # guesses that are kept
ANSWER = np.dtype(  # what one classifier says of one picture
    [
        ("key", "V16"),  # see `picture_key`
        ("label", "<i2"),  # the true class, or -1 where only a superclass is known
        ("classes", "<i2", (TOP,)),  # the five likeliest classes, likeliest first
        ("probabilities", "<f4", (TOP,)),
        ("probability", "<f4"),  # of the true class, NaN where the label is -1
        ("rank", "<i2"),  # how many classes stand before the true one, -1 likewise
        ("in9", "<i1"),  # the best of the nine superclasses, an index into taxonomy.IN9
    ]
)
_RECORD = np.dtype([("answer", ANSWER), ("check", "<u4")])
_FORMAT = 2


def picture_key(content: bytes, extra: str = "") -> bytes:
    """Return 16 bytes that name a picture: the head of the sha256 of its file, and of what is cut out of it."""
    digest = hashlib.sha256(content)
    digest.update(extra.encode())
    return digest.digest()[:16]


class PredictionStore:
    """The answers of one classifier with one preprocessing, in a file that is only ever appended to.

    A record is 55 bytes and a checksum; one that a kill tore, or a disk garbled, is as if it had never been written.
    Within a store a picture is known by its content and its label, whatever set it came in. Only one process may write
    to a folder of stores at a time (see `processes.exclusive`).

    Args:
        folder: Of all stores; made if it is not there.
        name: What the file begins with, for people.
        made_with: All that the answers hang on, such as the hashes of weights and preprocessing: plain values. Another
            value is another store. It is written beside the file as JSON.
        about: What else to write there, such as where the weights came from.

    Raises:
        OSError: If the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str, made_with: dict[str, Any], about: dict[str, Any] | None = None):
        described = {"format": _FORMAT, **made_with}
        digest = hashlib.sha256(repr(sorted(described.items())).encode()).hexdigest()[:16]
        self.path = Path(folder) / f"{name}-{digest}.answers"
        write_json(self.path.with_suffix(".json"), (about or {}) | described)
        records = _whole_records(self.path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, os.fstat(self._file).st_size // _RECORD.itemsize * _RECORD.itemsize)
        self._answers = {_key_of(answer): answer for answer in records}

    def get(self, key: bytes, label: int) -> np.void | None:
        """Return the answer (of dtype `ANSWER`) about a picture, or None."""
        return self._answers.get((key, label))

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, answers: np.ndarray) -> None:
        """Append answers, an array of dtype `ANSWER`; they are there for every later process, even after a kill.

        Raises:
            OSError: If the disk is full; the file then ends where it ended before.
        """
        records = np.zeros(len(answers), _RECORD)
        records["answer"] = answers
        records["check"] = _checks(records)
        content, before = records.tobytes(), os.fstat(self._file).st_size
        try:
            if os.write(self._file, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        except OSError:
            os.ftruncate(self._file, before)
            raise
        self._answers.update((_key_of(answer), answer) for answer in records["answer"])

    def close(self) -> None:
        """Flush what was added onto the disk itself, and let go of the file."""
        os.fsync(self._file)
        os.close(self._file)


def _whole_records(path: Path) -> np.ndarray:
    content = path.read_bytes() if path.exists() else b""
    records = np.frombuffer(content, _RECORD, count=len(content) // _RECORD.itemsize)
    return records["answer"][records["check"] == _checks(records)]


def _checks(records: np.ndarray) -> np.ndarray:
    contents: Iterable[bytes] = (answer.tobytes() for answer in records["answer"])
    return np.fromiter((zlib.crc32(content) for content in contents), np.uint32, len(records))


def _key_of(answer: np.void) -> tuple[bytes, int]:
    return bytes(answer["key"]), int(answer["label"])
