"""Labelled pictures that classifiers are evaluated on: image folders, tables and published benchmarks, read alike."""

import csv
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import yaml

from d3s_utils.benchmark_readers import (
    LABELS,
    VAL_PICTURES,
    ImageSetError,
    Listing,
    labels_of_class,
    list_counteranimal,
    list_d3s,
    list_files,
    list_flat_imagenet_val,
    list_imagenet_c,
    list_in9,
)  # fmt: skip
from d3s_utils.photo_sources import LABEL_COLUMNS, SPLIT_FOLDERS, open_photos
from d3s_utils.photos import PhotoError, path_inside
from d3s_utils.randomness import numpy_generator
from d3s_utils.taxonomy import IN9, imagenet_classes

VAL_FOLDERS = ("ILSVRC/Data/CLS-LOC/val", "val", "valid", "validation")  # the first is Kaggle's
VAL_SPLITS = ("validation", "val", "valid", "test", "train")  # of a Hugging Face data set, the best first
ClassMap = Mapping[str, str | int] | str | Path | None


@dataclass(frozen=True)
class ImageSet:
    """Labelled pictures that classifiers are evaluated on.

    Attributes:
        name: What it is, in words.
        table: One row a picture, n rows: `picture_id` (unique text), `imagenet_index` (0 to 999, or -1 where it is not
            known), `in9` (a name in `taxonomy.IN9`, or empty), and whatever the set tells: `class_name`, `kind`,
            `background`, `foreground_id`, `variant`, `corruption`, `severity`, `split`.
        pictures: n places: files, `CroppedPicture` parts of files, or encoded bytes (JPEG, PNG or WebP as they are).
        problems: What was left out or is not as published: `source_name`, `problem`.
        root: Folder that the pictures lie in, or None.

    Raises:
        ImageSetError: If a column is missing, a label is none of the above, an id is used twice, or the numbers of
            rows and pictures differ.
    """

    name: str
    table: pd.DataFrame = field(repr=False)
    pictures: tuple = field(repr=False)
    problems: pd.DataFrame = field(repr=False, default_factory=lambda: _problems([]))
    root: Path | None = None

    def __post_init__(self):
        needed = ("picture_id", "imagenet_index", "in9")
        missing = [column for column in needed if column not in self.table]
        if missing:
            raise ImageSetError(f"table must have the columns {', '.join(needed)}; missing: {', '.join(missing)}")
        object.__setattr__(self, "table", self.table.reset_index(drop=True))
        object.__setattr__(self, "pictures", tuple(self.pictures))
        if len(self.table) != len(self.pictures):
            raise ImageSetError(f"pictures must be one a row of table, {len(self.table)}; got {len(self.pictures)}")
        ids = self.table["picture_id"]
        if not ids.map(lambda value: isinstance(value, str)).all() or ids.duplicated().any():
            twice = ids[ids.duplicated()].head(3).tolist()
            raise ImageSetError(f"picture_id must be a text that no other picture has; used again: {twice}")
        index = self.table["imagenet_index"]
        if len(index) and (not pd.api.types.is_integer_dtype(index) or not index.between(-1, 999).all()):
            raise ImageSetError(
                f"imagenet_index must be whole numbers from -1 to 999, got {index.unique()[:5].tolist()}"
            )
        strange = sorted(set(self.table["in9"].astype(str)) - {"", *IN9})
        if strange:
            raise ImageSetError(f"in9 must be one of {', '.join(IN9)}, or empty; got {', '.join(strange[:3])}")

    def __len__(self) -> int:
        return len(self.pictures)

    def subset(self, mask_or_rows: Sequence[bool] | Sequence[int] | np.ndarray | pd.Series) -> "ImageSet":
        """Return some of the pictures.

        Args:
            mask_or_rows: n true or false values, by place; or places from 0 to n - 1, in the order wanted.

        Raises:
            ImageSetError: If it is neither, or a place is named twice.
        """
        wanted = np.asarray(mask_or_rows)
        wanted = wanted.astype(int) if wanted.shape == (0,) and len(self) else wanted
        if wanted.dtype == bool and wanted.shape == (len(self),):
            wanted = np.flatnonzero(wanted)
        rows = wanted.astype(int) if wanted.dtype.kind in "iu" or not wanted.size else None
        if rows is None or rows.ndim != 1 or len(set(rows)) < len(rows) or ((rows < 0) | (rows >= len(self))).any():
            raise ImageSetError(
                f"mask_or_rows must be {len(self)} true or false values, or different places from 0 to "
                f"{len(self) - 1}; got {wanted.dtype} of shape {wanted.shape}"
            )
        return replace(self, table=self.table.iloc[rows], pictures=tuple(self.pictures[row] for row in rows))

    def limited(self, limit: int, *, seed: int) -> "ImageSet":
        """Return a random choice of at most `limit` pictures, in the order they came; a smaller one is part of it.

        Raises:
            ImageSetError: If `limit` is no whole number of at least 1.
        """
        if isinstance(limit, bool) or not isinstance(limit, (int, np.integer)) or limit < 1:
            raise ImageSetError(f"limit must be a whole number of at least 1, got {limit!r}")
        order = numpy_generator(seed, "image set").permutation(len(self))
        return self.subset(np.sort(order[:limit]))


def read_image_set(kind: str, source: str | Path, *, name: str | None = None, class_map: ClassMap = None) -> ImageSet:
    """Return the pictures of a source; none of them is decoded, save those of "d3s", which are checked once.

    Args:
        kind: A key of `READERS`.
        source: Folder, file or Hugging Face data set; see the reader.
        name: What to call the set in tables, instead of what the reader calls it.
        class_map: Of kind "folders" only; see `read_folders`.

    Raises:
        ImageSetError: If there is no such kind, or the reader cannot use the source.
    """
    if kind not in READERS:
        raise ImageSetError(f"kind must be one of {', '.join(READERS)}, got {kind!r}")
    if class_map is not None and kind != "folders":
        raise ImageSetError(f"class_map belongs to kind 'folders', got it for {kind!r}, whose labels are published")
    images = read_folders(source, class_map) if kind == "folders" else READERS[kind](source)
    return images if name is None else replace(images, name=name)


def read_folders(folder: str | Path, class_map: ClassMap = None) -> ImageSet:
    """Return any image folder, or a table of pictures.

    Args:
        folder: A folder with one folder a class, at its top or below `photo_sources.SPLIT_FOLDERS`; a parquet file; or
            a Hugging Face data set (see `photo_sources.open_photos` for both; all pictures of a table are held in
            memory as they are stored).
        class_map: What the folders, or the table's labels, mean: a dictionary, or a JSON, YAML or CSV file (two
            columns), from each name to a synset, an ImageNet index or name, or one of `taxonomy.IN9`, of which no
            index is known. None: the names are synsets, indices or names of ImageNet classes themselves.

    Returns:
        The set; names that mean no class, and entries of `class_map` without pictures, are in its problems.

    Raises:
        ImageSetError: If the source or `class_map` cannot be read, or no name is known.
    """
    meanings = None if class_map is None else _read_class_map(class_map)
    used = set()

    def labels_of(name: str | int) -> tuple | str:
        if meanings is None:
            return labels_of_class(name)
        used.add(_key(name))
        return meanings.get(_key(name), f"class_map does not say what {str(name)!r} is")

    if _is_image_folder(folder):
        naming = "by synset, index or name" if meanings is None else "in class_map"
        found = list_files(
            Path(folder).expanduser(),
            lambda parts: labels_of(parts[1] if parts[0] in SPLIT_FOLDERS else parts[0]),
            advice=f"a folder for each class, named {naming}",
        )
    else:
        found = _list_encoded(str(folder), _labels_of_row if meanings is None else lambda label, code: labels_of(label))
    idle = [(key, "class_map names it, but there are no pictures of it") for key in meanings or () if key not in used]
    found.problems.extend(idle)
    return _image_set(found, f"pictures in {Path(folder).name}")


def read_imagenet_val(source: str | Path) -> ImageSet:
    """Return ImageNet's validation photos, and say in its problems how many of the 50,000 are there.

    Args:
        source: Class folders (``val/n01440764/*.JPEG``, or without ``val``), Kaggle's tree or the flat photos with
            Kaggle's ``LOC_val_solution.csv`` beside them or in the folder above, a parquet file, or a Hugging Face data
            set (of its splits the validation one). Parquet and Hugging Face photos are held in memory as they are
            stored, about 130 KB each.

    Raises:
        ImageSetError: If there are no such photos, or nothing tells their classes.

    Source: Russakovsky et al. 2015, arXiv:1409.0575.
    """
    if _is_image_folder(source):
        top = Path(source).expanduser()
        folder = next((top / inner for inner in VAL_FOLDERS if (top / inner).is_dir()), top)
        if (folder / "train").is_dir():
            raise ImageSetError(
                f"source {str(top)!r} has a folder train and no {', '.join(VAL_FOLDERS[1:])}: name that"
            )
        classes = any(path.is_dir() for path in folder.glob("n" + "[0-9]" * 8))
        if not classes and next(folder.glob("ILSVRC2012_val_*"), None):
            found = list_flat_imagenet_val(folder, [folder, folder.parent, top])
        else:
            found = list_files(folder, lambda parts: labels_of_class(parts[0]), advice="val/n01440764/*.JPEG and so on")
    else:
        found = _list_encoded(str(source), _labels_of_row)
    classes = set(found.table["imagenet_index"])
    if len(classes) != 1000 or len(found.table) != VAL_PICTURES:
        lacking = [c.synset for c in imagenet_classes() if c.index not in classes]
        text = f"{len(classes)} of 1000 classes and {len(found.table)} of {VAL_PICTURES} pictures are there"
        text += f"; missing classes: {', '.join(lacking[:5])}{' …' if len(lacking) > 5 else ''}" if lacking else ""
        found.problems.append((str(source), text))
    return _image_set(found, "ImageNet validation photos")


def read_d3s(folder: str | Path) -> ImageSet:
    """Return the pictures of a folder in the layout of the authors of D3S (see `benchmark_readers.list_d3s`)."""
    return _image_set(list_d3s(Path(folder).expanduser()), "D3S")


def read_in9(folder: str | Path) -> ImageSet:
    """Return the variants of ImageNet-9 in the Backgrounds Challenge (see `benchmark_readers.list_in9`)."""
    return _image_set(list_in9(Path(folder).expanduser()), "ImageNet-9 variants")


def read_imagenet_c(folder: str | Path) -> ImageSet:
    """Return ImageNet-C, or other pictures in its folders (see `benchmark_readers.list_imagenet_c`)."""
    return _image_set(list_imagenet_c(Path(folder).expanduser()), "ImageNet-C")


def read_counteranimal(folder: str | Path) -> ImageSet:
    """Return CounterAnimal (see `benchmark_readers.list_counteranimal`)."""
    return _image_set(list_counteranimal(Path(folder).expanduser()), "CounterAnimal")


READERS: dict[str, Callable[..., ImageSet]] = {
    "folders": read_folders,
    "imagenet_val": read_imagenet_val,
    "d3s": read_d3s,
    "in9": read_in9,
    "imagenet_c": read_imagenet_c,
    "counteranimal": read_counteranimal,
}


def _image_set(found: Listing, name: str) -> ImageSet:
    return ImageSet(name, found.table, tuple(found.pictures), _problems(found.problems), found.root)


def _problems(rows: Sequence[tuple[str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["source_name", "problem"]).astype(str)


def _is_image_folder(source: str | Path) -> bool:
    path = Path(source).expanduser()
    return path.is_dir() and not ((path / "state.json").exists() or (path / "dataset_dict.json").exists())


def _key(name: Any) -> str:
    """Return a name as class maps are searched: letters with accents are spelt in two ways that look the same."""
    return unicodedata.normalize("NFC", str(name).strip())


def _read_class_map(class_map: ClassMap) -> dict[str, tuple[int, str, str]]:
    """Return the values of `LABELS` that each name means."""
    pairs = list(class_map.items()) if isinstance(class_map, Mapping) else _read_pairs(Path(class_map).expanduser())
    meanings = {}
    for name, value in pairs:
        key, known = _key(name), isinstance(value, (str, int, np.integer)) and not isinstance(value, bool)
        labels = labels_of_class(value) if known else "it is neither a text nor a whole number"
        labels = (-1, value, value) if known and value in IN9 else labels
        if isinstance(labels, str):
            raise ImageSetError(
                f"class_map must give a synset, an ImageNet index or name, or one of {', '.join(IN9)} for each name, "
                f"got {value!r} for {key!r}: {labels}"
            )
        if meanings.setdefault(key, labels) != labels:
            raise ImageSetError(f"class_map must give one class for each name, got several for {key!r}")
    if not meanings:
        raise ImageSetError("class_map must name at least one class, got none")
    return meanings


def _read_pairs(path: Path) -> list[tuple[Any, Any]]:
    """Return the pairs that a JSON, YAML or CSV file holds."""
    readers = {".json": json.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load, ".csv": None}
    if path.suffix.lower() not in readers:
        raise ImageSetError(f"class_map must be a dictionary or a file {', '.join(readers)}, got {str(path)!r}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            lines = [line for line in csv.reader(text.splitlines()) if line]
            content = None if any(len(line) != 2 for line in lines) else lines
        else:
            content = readers[path.suffix.lower()](text)
    except (OSError, ValueError, RecursionError, csv.Error, yaml.YAMLError) as error:
        raise ImageSetError(f"class_map {str(path)!r} cannot be read: {error}") from error
    if isinstance(content, list) and path.suffix.lower() == ".csv":
        header = content and [cell.strip().lower() for cell in content[0]] in (["folder", "class"], ["name", "class"])
        return [(name, value.strip()) for name, value in content[1 if header else 0 :]]
    if not isinstance(content, dict):
        raise ImageSetError(f"class_map {str(path)!r} must hold pairs of a name and a class (CSV: two columns)")
    return list(content.items())


def _list_encoded(source: str, labels_of: Callable[[Any, Any], tuple | str]) -> Listing:
    """Return the pictures of a parquet file or a Hugging Face data set, encoded as they are stored.

    Args:
        labels_of: Label as it reads, label as it is stored -> values of `LABELS`, or why it is left out.
    """
    path = Path(source).expanduser()
    try:
        if path.is_dir() or not _is_path(source):
            rows, root = _read_hugging_face(source)
        else:
            rows, root = _read_parquet(path), path.parent
    except PhotoError as error:
        raise ImageSetError(str(error)) from error
    table, pictures, problems, wrong = [], [], [], Counter()
    for number, (label, code, value) in enumerate(rows):
        place = f"{path.name}#{number}"
        picture, found = _picture_of(value, root), labels_of(label, code)
        if isinstance(found, str):
            wrong[f"{path.name}, label {label}", found] += 1
        elif isinstance(picture, str):
            problems.append((place, picture))
        else:
            table.append((place, *found))
            pictures.append(picture)
    problems += [(place, f"{reason}; {count} pictures left out") for (place, reason), count in wrong.items()]
    if not table:
        shown = "; ".join(f"{place}: {text}" for place, text in problems[:3])
        raise ImageSetError(f"source {source!r} holds no picture that can be used: {shown or 'it has no rows'}")
    return Listing(pd.DataFrame(table, columns=["picture_id", *LABELS]), pictures, problems, root)


def _is_path(source: str) -> bool:
    path = Path(source).expanduser()
    looks = path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1
    return path.exists() or looks or path.suffix.lower() in (".parquet", ".pq")


def _read_parquet(path: Path) -> Iterator[tuple]:
    """Return label, label as it is stored, and image of each row."""
    labels = open_photos(path).table["label"]
    column = next(name for name in LABEL_COLUMNS if name in pq.read_schema(path).names)
    stored = pq.read_table(path, columns=["image", column])
    return zip(labels, stored[column].to_pylist(), stored["image"].to_pylist(), strict=True)


def _read_hugging_face(source: str) -> tuple[list[tuple], Path]:
    """Return label, label as it is stored, and image of each row of the best split in `VAL_SPLITS`, and a root."""
    import datasets  # takes seconds, and most runs do without

    local = Path(source).expanduser()
    try:
        data = datasets.load_from_disk(str(local)) if local.is_dir() else datasets.load_dataset(source)
    except Exception as error:  # offline, missing, gated, damaged: as many types as there are causes
        raise ImageSetError(
            f"source {source!r} cannot be read as a Hugging Face data set ({type(error).__name__}: {error}). Without a "
            "network give a folder that `datasets.load_dataset(...).save_to_disk(folder)` wrote elsewhere"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        data = data[next((split for split in VAL_SPLITS if split in data), next(iter(data)))]
    label = next((name for name in LABEL_COLUMNS if name in data.column_names), None)
    if label is None or "image" not in data.column_names:
        raise ImageSetError(
            f"source {source!r} needs a column 'image' and one of {', '.join(LABEL_COLUMNS)}, has "
            f"{', '.join(data.column_names)}"
        )
    if isinstance(data.features["image"], datasets.Image):
        data = data.cast_column("image", datasets.Image(decode=False))
    names = getattr(data.features[label], "names", None) or ()
    codes = list(data[label])
    read = [names[code] if isinstance(code, int) and 0 <= code < len(names) else code for code in codes]
    root = local if local.is_dir() else Path(datasets.config.HF_CACHE_HOME)
    return list(zip(read, codes, data["image"], strict=True)), root


def _labels_of_row(label: Any, code: Any) -> tuple | str:
    """Return what a table's label means, by its number where that has this name: two classes are called "crane"."""
    whole = isinstance(code, int) and not isinstance(code, bool) and 0 <= code < 1000
    name = str(label).split(",")[0].replace("_", " ").strip().lower()
    if whole and (isinstance(label, float) or imagenet_classes()[code].name.lower() == name):
        return labels_of_class(code)  # pandas makes whole numbers floats where some are missing
    return labels_of_class(label if isinstance(label, (int, np.integer)) else str(label))


def _picture_of(value: Any, root: Path) -> Path | bytes | str:
    """Return where a stored image is, or why it is nowhere."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value:
        return "its image has neither bytes nor a path"
    try:
        path = path_inside(value, root=root)
    except PhotoError as error:
        return str(error)
    return path if path.is_file() else f"its file {value!r} is missing"
