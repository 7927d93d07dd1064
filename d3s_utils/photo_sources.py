"""Where photos come from: an image folder, a parquet file or a Hugging Face data set, as one table and a reader."""

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from d3s_utils.photos import SUFFIXES, Photo, PhotoError, read_photo
from d3s_utils.taxonomy import ImageNetClass, imagenet_class

SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test")
MASK_FOLDER = "masks"
LABEL_COLUMNS = ("synset", "imagenet_index", "class_name", "label", "class", "background")


@dataclass(frozen=True)
class PhotoSource:
    """Photos that may be read, in a fixed order.

    Attributes:
        name: What the caller named.
        table: One row a photo: `source_name` (unique: path or row), `label` (as it came), `box` (left, top, right,
            bottom in pixels, or None).
        read: Returns the `Photo` of row i, or raises PhotoError.
        read_mask: Returns the mask of row i as a `Photo`, or None where there is none.
        skipped: What was seen and left out: `source_name`, `reason`.
    """

    name: str
    table: pd.DataFrame
    read: Callable[[int], Photo]
    read_mask: Callable[[int], Photo | None]
    skipped: pd.DataFrame = field(default_factory=lambda: skipped_table([]))


def open_photos(source: str | Path) -> PhotoSource:
    """Open a source of labelled photos; no photo is read yet.

    Args:
        source: One of
            - an image folder: a photo's label is its folder's name, at the top or below `SPLIT_FOLDERS`; masks lie
              at the same place below a folder `masks`, as PNG;
            - a parquet file with a column `image` (bytes, or {bytes, path} as Hugging Face writes it), one of
              `LABEL_COLUMNS`, and optionally `bbox_xyxy` and `mask`;
            - a folder that `datasets.save_to_disk` wrote, or a data set's id on the Hugging Face hub, whose split
              "train" (or only one) has those columns.

    Raises:
        PhotoError: If there is no such source, it cannot be reached, or it holds no photo.
    """
    path = Path(source).expanduser()
    if path.is_dir() and ((path / "state.json").exists() or (path / "dataset_dict.json").exists()):
        return _hugging_face(str(source), local=path)
    if path.is_dir():
        return _image_folder(path)
    if path.is_file():
        if path.suffix.lower() not in (".parquet", ".pq"):
            raise PhotoError(f"photos must be a folder, a parquet file or a Hugging Face data set, got the file {path}")
        return _parquet_file(path)
    looks_like_path = path.is_absolute() or str(source).startswith(("./", "../", "~")) or str(source).count("/") > 1
    if looks_like_path or path.suffix.lower() in (".parquet", ".pq"):
        raise PhotoError(f"photos {str(source)!r} is missing: there is no such file or folder")
    return _hugging_face(str(source), local=None)


def class_of_label(label: str | int) -> ImageNetClass:
    """Return the ImageNet class of a folder's name or a column's value: synset, index or name.

    Of several names ("tench, Tinca tinca") the first counts.

    Raises:
        PhotoError: If there is no such class.
    """
    key = int(label) if isinstance(label, (int, np.integer)) or str(label).strip().isdigit() else str(label)
    for attempt in (key, str(key).split(",")[0]):
        try:
            return imagenet_class(attempt)
        except ValueError as error:
            reason = error
    raise PhotoError(f"photos are labelled {label!r}, which is no ImageNet class: rename or remove it ({reason})")


def skipped_table(rows: list[tuple[str, str]]) -> pd.DataFrame:
    """Return the table of photos left out, one row each: `source_name`, `reason`."""
    return pd.DataFrame(rows, columns=["source_name", "reason"]).astype(str)


def _image_folder(root: Path) -> PhotoSource:
    rows, masks, skipped = [], [], []
    for folder, subfolders, files in os.walk(root):
        inside = Path(folder).relative_to(root)
        for name in sorted(subfolders):
            if (Path(folder) / name).is_symlink():
                skipped.append(((inside / name).as_posix(), "a link to a folder is not followed: copy the folder"))
        subfolders[:] = sorted(
            s for s in subfolders if not s.startswith((".", "__")) and inside / s != Path(MASK_FOLDER)
        )
        parts = inside.parts[1:] if inside.parts[:1] and inside.parts[0] in SPLIT_FOLDERS else inside.parts
        for name in sorted(files):
            if name.startswith(".") or not name.lower().endswith(SUFFIXES):
                continue
            if not parts:
                skipped.append(((inside / name).as_posix(), "it lies in no folder that names its class"))
                continue
            rows.append(((inside / name).as_posix(), parts[0], None))
            mask = (MASK_FOLDER / inside / name).with_suffix(".png")
            masks.append(mask if (root / mask).exists() else None)
    if not rows:
        raise PhotoError(
            f"photos {str(root)!r} is a folder without photos: put {', '.join(SUFFIXES[:3])}… files into folders "
            f"named by their class, such as n02129165 or lion ({len(skipped)} left out)"
        )
    return PhotoSource(
        name=str(root),
        table=_table(rows),
        read=lambda i: read_photo(rows[i][0], root=root),
        read_mask=lambda i: None if masks[i] is None else read_photo(masks[i], root=root),
        skipped=skipped_table(skipped),
    )


def _parquet_file(path: Path) -> PhotoSource:
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        label = _label_column(names, str(path))
        columns = [name for name in (label, "bbox_xyxy") if name in names]
        table = file.read(columns=columns).to_pandas()
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        if isinstance(error, PhotoError):
            raise
        raise PhotoError(f"photos {str(path)!r} cannot be read as parquet: {error}") from error
    if table.empty:
        raise PhotoError(f"photos {str(path)!r} is a parquet file without rows")
    starts = np.cumsum([0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))])
    lock = threading.Lock()  # a parquet reader belongs to one thread at a time

    @lru_cache(maxsize=4)
    def row_group(column: str, group: int):
        return file.read_row_group(group, columns=[column]).column(0)

    def value(column: str, i: int):
        with lock:
            group = int(np.searchsorted(starts, i, side="right")) - 1
            return row_group(column, group)[i - int(starts[group])].as_py()

    values = _named_labels(table[label], _hugging_face_features(file).get(label))
    boxes = table["bbox_xyxy"] if "bbox_xyxy" in names else [None] * len(table)
    rows = [(f"{path.name}#{i}", *pair) for i, pair in enumerate(zip(values, map(_box, boxes), strict=True))]
    return PhotoSource(
        name=str(path),
        table=_table(rows),
        read=lambda i: _read_value(value("image", i), name=rows[i][0], root=path.parent),
        read_mask=lambda i: _read_mask_value(value("mask", i), rows[i][0], path.parent) if "mask" in names else None,
    )


def _hugging_face(name: str, *, local: Path | None) -> PhotoSource:
    import datasets  # takes seconds, and most runs do without

    try:
        data = datasets.load_from_disk(str(local)) if local else datasets.load_dataset(name)
    except Exception as error:  # offline, missing, gated, damaged: as many types as there are causes
        problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if local:
            raise PhotoError(f"photos {name!r} is a damaged `datasets` folder: write it again ({problem})") from error
        raise PhotoError(
            f"photos {name!r} is neither a folder nor a file here, nor a Hugging Face data set that can be reached "
            f"({problem}). Without a network give a local folder instead: an image folder, or one written elsewhere "
            "with `datasets.load_dataset(...).save_to_disk(folder)`"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        data = data["train" if "train" in data else next(iter(data))]
    label = _label_column(data.column_names, name)
    for column in ("image", "mask"):
        if column in data.column_names and isinstance(data.features[column], datasets.Image):
            data = data.cast_column(column, datasets.Image(decode=False))
    if not len(data):
        raise PhotoError(f"photos {name!r} is a data set without rows")
    values = _named_labels(pd.Series(list(data[label])), getattr(data.features[label], "names", None))
    boxes = data["bbox_xyxy"] if "bbox_xyxy" in data.column_names else [None] * len(data)
    rows = [(f"{name}#{i}", *pair) for i, pair in enumerate(zip(values, map(_box, boxes), strict=True))]
    root = local or Path(datasets.config.HF_CACHE_HOME)
    masked = "mask" in data.column_names
    return PhotoSource(
        name=name,
        table=_table(rows),
        read=lambda i: _read_value(data[i]["image"], name=rows[i][0], root=root),
        read_mask=lambda i: _read_mask_value(data[i]["mask"], rows[i][0], root) if masked else None,
    )


def _table(rows: list[tuple[str, str | int, tuple | None]]) -> pd.DataFrame:
    columns = ("source_name", "label", "box")
    return pd.DataFrame({name: pd.Series([row[k] for row in rows], dtype=object) for k, name in enumerate(columns)})


def _label_column(names: list[str], source: str) -> str:
    if "image" not in names:
        raise PhotoError(f"photos {source!r} needs a column 'image' (bytes or {{bytes, path}}), has {', '.join(names)}")
    for label in LABEL_COLUMNS:
        if label in names:
            return label
    raise PhotoError(f"photos {source!r} needs one of the columns {', '.join(LABEL_COLUMNS)}, has {', '.join(names)}")


def _named_labels(values: pd.Series, names: list[str] | None) -> list[str | int]:
    """Return labels as they read: numbers of a Hugging Face ClassLabel become its names."""
    if names is None:
        return values.tolist()
    return [names[value] if 0 <= value < len(names) else str(value) for value in values]


def _hugging_face_features(file: pq.ParquetFile) -> dict[str, list[str]]:
    """Return the names of each ClassLabel column that the file's metadata knows."""
    try:
        features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
        return {column: feature["names"] for column, feature in features.items() if "names" in feature}
    except (KeyError, TypeError, ValueError):
        return {}


def _box(value: Any) -> tuple[int, ...] | None:
    return None if value is None else tuple(int(v) for v in np.asarray(value).ravel())


def _read_value(value: Any, *, name: str, root: Path) -> Photo:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, (bytes, bytearray)):
        return read_photo(bytes(value), name=name)
    if isinstance(value, str) and value:
        return read_photo(value, name=f"{name} ({value})", root=root)
    raise PhotoError(f"photo {name} is missing: its image has neither bytes nor a path, got {value!r}")


def _read_mask_value(value: Any, name: str, root: Path) -> Photo | None:
    return None if value is None else _read_value(value, name=f"{name} (mask)", root=root)
