"""Files that are there whole or not at all: written under a temporary name, synced, then renamed."""

import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd


@contextmanager
def replacing(path: Path, temporary: Path) -> Iterator[None]:
    """Rename `temporary`, which the block writes, to `path` when the block ends well; remove it when it does not.

    Raises:
        OSError: As the system says it (a full disk, no permission), with `path` as its file name.
    """
    try:
        yield
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: str | os.PathLike, content: bytes) -> str:
    """Put `content` at `path`, so that no reader and no kill ever sees a part of it.

    The temporary file lies in the same folder and ends in ``.partial``. On any error it is removed, and what was
    at `path` before stays. Missing parent folders are made.

    Returns:
        The content's sha256, 64 hexadecimal digits.

    Raises:
        OSError: As the system says it (a full disk, no permission), with `path` as its file name.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    with replacing(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


def write_text(path: str | os.PathLike, text: str) -> str:
    """Put `text` at `path` in UTF-8 (see `write_bytes`)."""
    return write_bytes(path, text.encode())


def write_json(path: str | os.PathLike, value: Any) -> str:
    """Put `value` at `path` as strict, indented JSON with sorted keys (see `write_bytes`).

    Raises:
        ValueError: If `value` holds NaN or an infinity, which JSON has not.
        TypeError: If `value` holds something that JSON has no word for.
    """
    return write_text(path, json.dumps(value, allow_nan=False, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_table(path: str | os.PathLike, frame: pd.DataFrame) -> str:
    """Put the table `frame` at `path` without its index (see `write_bytes`).

    Args:
        path: Ends in ``.parquet`` or ``.csv``, which decides the format.
        frame: The table.

    Raises:
        ValueError: If `path` ends in something else.
    """
    path = Path(path)
    buffer = io.BytesIO()
    if path.suffix == ".parquet":
        frame.to_parquet(buffer, index=False)
    elif path.suffix == ".csv":
        frame.to_csv(buffer, index=False, lineterminator="\n")
    else:
        raise ValueError(f"path must end in .parquet or .csv, got {path.name!r}")
    return write_bytes(path, buffer.getvalue())


def sha256_of(path: str | os.PathLike) -> str:
    """Return the sha256 of the file at `path`, 64 hexadecimal digits, without reading it whole into memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
