"""A dataset as parquet files that Hugging Face's `datasets` reads: pictures as they lie, labels with their names."""

import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image

from d3s_utils.atomic_files import replacing, write_bytes
from d3s_utils.photos import PhotoError, path_inside, read_photo
from d3s_utils.taxonomy import BACKGROUNDS, check_background, imagenet_class, imagenet_classes

PICTURES = {"image": "file", "guide": "guide_file"}  # column in parquet -> the table's column with its path
_NEEDED = ("image_id", "split", "imagenet_index", "background", *PICTURES.values())
_FIRST = (
    "image_id", "split", "foreground_id", "synset", "class_name", "imagenet_index", "in9", "prompt", "seed",
    "strength", "guidance_scale", "steps", "keep", "reason", "verdict_source",
)  # fmt: skip
_SHARD = re.compile(r"([A-Za-z0-9_]+)-(\d{5})-of-(\d{5})\.parquet")
_GROUP = 100  # rows held in memory at a time, and a row group of the file


class DatasetExportError(ValueError):
    """A table that cannot be exported, or a folder that holds no whole export."""


def class_names() -> list[str]:
    """Return the 1000 ImageNet names in order; the two that occur twice (crane, maillot) carry their synset."""
    classes = imagenet_classes()
    counts = Counter(label.name for label in classes)
    return [label.name if counts[label.name] == 1 else f"{label.name} ({label.synset})" for label in classes]


def write_parquet(
    table: pd.DataFrame,
    folder: str | Path,
    *,
    root: str | Path,
    rows_per_file: int = 1000,
) -> list[Path]:
    """Write pictures and labels as ``data/<split>-00000-of-00001.parquet`` …; return the files.

    The columns are `image` and `guide` (the files' bytes, unchanged), `label` (one of the 1000 classes), `background`
    (one of the ten) and the table's plain columns: the known ones first, the others by name. The same rows give the
    same bytes, in whatever order they and their columns come.

    Args:
        table: Has `image_id`, `split`, `imagenet_index`, `background`, `file` and `guide_file`.
        root: Folder that `file` and `guide_file` are relative to.
        rows_per_file: Rows of a file at most.

    Raises:
        DatasetExportError: If a column is missing or has no plain type, the table is empty, an id is used twice, a
            split cannot name a file, a picture is not the one whose `sha256` the table has, or other parquet files
            are there.
        PhotoError: If a picture cannot be decoded. One that `keep` says is rejected is left empty instead.
    """
    _check(table, rows_per_file)
    table = table.sort_values(["split", "image_id"], ignore_index=True)
    features, plain = _features_and_plain(table)
    parts = [
        (split, number, -(-len(rows) // rows_per_file), rows.iloc[start : start + rows_per_file])
        for split, rows in table.groupby("split")
        for number, start in enumerate(range(0, len(rows), rows_per_file))
    ]
    data = Path(folder) / "data"
    paths = [data / f"{split}-{number:05d}-of-{count:05d}.parquet" for split, number, count, _ in parts]
    others = sorted(path.name for path in data.glob("*.parquet") if path not in paths)
    if others:
        raise DatasetExportError(f"{data} holds other files, such as {others[0]}: choose another folder, or move it")
    data.mkdir(parents=True, exist_ok=True)
    for path, (_, _, _, rows) in zip(paths, parts, strict=True):
        _write_shard(path, rows, plain, features, Path(root))
    return paths


def read_parquet(folder: str | Path, *, pictures_to: str | Path | None = None) -> pd.DataFrame:
    """Return the table that `write_parquet` wrote, without the pictures.

    Args:
        folder: Holds ``data``.
        pictures_to: Folder that the pictures are written below, under the paths in `file` and `guide_file`.

    Raises:
        DatasetExportError: If there is no file, one of a split is missing, or one is not of this kind.
        PhotoError: If a path leaves `pictures_to`.
    """
    parts = []
    for path in _shards(Path(folder) / "data"):
        try:
            with pq.ParquetFile(path) as file:
                absent = [name for name in (*PICTURES, *_NEEDED, "label") if name not in file.schema_arrow.names]
                if absent:
                    raise DatasetExportError(f"{path} must have the columns that write_parquet writes; no {absent[0]}")
                names = [name for name in file.schema_arrow.names if name not in (*PICTURES, "label")]
                parts.append(file.read(columns=names))
                if pictures_to is not None:
                    _write_pictures(file, Path(pictures_to))
        except pa.ArrowInvalid as error:
            raise DatasetExportError(f"{path} is no whole parquet file: {error}") from error
    try:
        whole = pa.concat_tables(parts)
    except pa.ArrowInvalid as error:
        raise DatasetExportError(f"the files of {folder} differ in their columns: {error}") from error
    table = pd.DataFrame({name: _from_arrow(whole[name]) for name in whole.column_names})
    return table.assign(background=[list(BACKGROUNDS)[place] for place in table["background"]])


def _check(table: pd.DataFrame, rows_per_file: int) -> None:
    if isinstance(rows_per_file, bool) or not isinstance(rows_per_file, int) or rows_per_file < 1:
        raise DatasetExportError(f"rows_per_file must be a whole number of at least 1, got {rows_per_file!r}")
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise DatasetExportError(f"table must have the columns {', '.join(_NEEDED)}; missing: {', '.join(missing)}")
    taken = [name for name in (*PICTURES, "label") if name in table]
    if taken:
        raise DatasetExportError(f"table must not have the columns {', '.join(taken)}: they are made here")
    if table.empty:
        raise DatasetExportError("table must have at least one row, got none")
    twice = table["image_id"][table["image_id"].duplicated()]
    if len(twice):
        raise DatasetExportError(f"image_id must be used once, got {twice.iloc[0]!r} again")
    for split in table["split"].unique():
        if not isinstance(split, str) or not re.fullmatch(r"[A-Za-z0-9_]+", split):
            raise DatasetExportError(f"split must be letters, digits and '_', to name a file; got {split!r}")
    for background in table["background"].unique():
        check_background(background)
    for index in table["imagenet_index"].unique():
        imagenet_class(int(index))


def _features_and_plain(table: pd.DataFrame) -> tuple[Features, pa.Table]:
    """Return what the columns are, for Hugging Face, and all columns but the pictures."""
    others = sorted(set(table.columns) - set(_FIRST) - {"background"})
    columns = {
        "label": pa.array(table["imagenet_index"].tolist(), pa.int64()),
        "background": pa.array([list(BACKGROUNDS).index(name) for name in table["background"]], pa.int64()),
    } | {name: _to_arrow(table[name]) for name in (*_FIRST, *others) if name in table}
    plain = pa.table(columns)
    labels = {"label": ClassLabel(names=class_names()), "background": ClassLabel(names=list(BACKGROUNDS))}
    features = {name: Image() for name in PICTURES} | dict(Features.from_arrow_schema(plain.schema)) | labels
    return Features(features), plain


def _to_arrow(column: pd.Series) -> pa.Array:
    try:
        array = pa.array(column.tolist(), from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DatasetExportError(f"column {column.name} must hold one plain type: {error}") from error
    if pa.types.is_null(array.type):
        return array.cast(pa.string())
    if pa.types.is_nested(array.type):
        raise DatasetExportError(f"column {column.name} must hold plain values, got {array.type}")
    return array


def _from_arrow(column: pa.ChunkedArray) -> pd.Series:
    """Return a column; whole numbers stay whole where some are missing, since a seed has more digits than a float."""
    holes = column.null_count > 0
    kept = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()} if holes else {}
    return column.to_pandas(types_mapper=kept.get)


def _write_shard(path: Path, rows: pd.DataFrame, plain: pa.Table, features: Features, root: Path) -> None:
    """Write one file whole or not at all, a row group at a time."""
    schema = features.arrow_schema
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    with replacing(path, temporary), open(temporary, "xb") as file:
        with pq.ParquetWriter(file, schema) as writer:
            for start in range(0, len(rows), _GROUP):
                some = rows.iloc[start : start + _GROUP]
                chunk = plain.slice(some.index[0], len(some))
                pictures = {
                    name: pa.array(
                        [_picture(row, column, root) for row in some.to_dict("records")], schema.field(name).type
                    )
                    for name, column in PICTURES.items()
                }
                columns = [pictures[name] if name in pictures else chunk[name] for name in schema.names]
                writer.write_table(pa.table(columns, schema=schema))
        file.flush()
        os.fsync(file.fileno())


def _picture(row: dict[str, Any], column: str, root: Path) -> dict[str, Any] | None:
    """Return a picture's bytes as they lie, or None for a rejected one that cannot be decoded."""
    name = row[column]
    try:
        content = path_inside(name, root=root).read_bytes() if isinstance(name, str) else b""
        digest = read_photo(content, name=f"{name}").sha256
    except (PhotoError, OSError) as error:
        if not row.get("keep", True):
            return None
        raise PhotoError(f"{column} of {row['image_id']} cannot be exported: {error}") from error
    recorded = row.get("sha256")
    if column == "file" and isinstance(recorded, str) and recorded != digest:
        if not row.get("keep", True):
            return None
        raise DatasetExportError(f"file {name} has changed since its sha256 was recorded: validate it again")
    return {"bytes": content, "path": Path(name).name}


def _write_pictures(file: pq.ParquetFile, root: Path) -> None:
    for batch in file.iter_batches(_GROUP, columns=[*PICTURES, *PICTURES.values()]):
        for row in batch.to_pylist():
            for name, column in PICTURES.items():
                if row[name] is not None:
                    write_bytes(path_inside(row[column], root=root), row[name]["bytes"])


def _shards(data: Path) -> Iterator[Path]:
    """Yield the files of every split, in order, if none is missing."""
    found = {path.name: _SHARD.fullmatch(path.name) for path in sorted(data.glob("*.parquet"))}
    if not found:
        raise DatasetExportError(f"{data} holds no parquet file")
    for name, parts in found.items():
        if not parts:
            raise DatasetExportError(f"{data} holds {name}, which is not named <split>-00000-of-00001.parquet")
        split, _, count = parts.groups()
        wanted = {f"{split}-{number:05d}-of-{count}.parquet" for number in range(int(count))}
        ours = {other for other, match in found.items() if match and match[1] == split}
        if wanted != ours:
            odd = min(wanted ^ ours)
            raise DatasetExportError(f"{data} must hold files 0 to {int(count) - 1} of {split}; {odd} does not fit")
        yield data / name
