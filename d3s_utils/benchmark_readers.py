"""The folders in which benchmarks are published, read as lists of labelled pictures; no picture is decoded for it."""

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from d3s_utils.d3s_reading import crop_boxes, read_d3s_layout
from d3s_utils.photo_sources import class_of_label, open_photos
from d3s_utils.photos import SUFFIXES, PhotoError, path_inside
from d3s_utils.taxonomy import IN9

LABELS = ("imagenet_index", "in9", "class_name")  # what every listing tells of a picture, beside its picture_id
IN9_FOLDERS = {f"{number:02d}_{name}": name for number, name in enumerate(IN9)}  # 00_dog … 08_fish, with spaces
IN9_VARIANTS = (
    "original", "only_bg_b", "only_bg_t", "no_fg", "only_fg", "mixed_same", "mixed_rand", "mixed_next",
)  # fmt: skip
IN9_PER_CLASS = 450  # photos of each class in each variant of the release
CORRUPTIONS = (  # the 15 of which the mean corruption error is made
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
CORRUPTION_GROUPS = ("noise", "blur", "weather", "digital", "extra")
SEVERITIES = ("1", "2", "3", "4", "5")
VAL_PICTURES, VAL_SOLUTION = 50_000, "LOC_val_solution.csv"
COUNTERANIMAL = {"classes": 45, "common": 7174, "counter": 5926}  # what the paper counts
_PASTED = re.compile(r"fg_(.+?)_bg_.+")
_NUMBERED = re.compile(r"(\d+)\s+\S.*")


class ImageSetError(ValueError):
    """Pictures that cannot be evaluated on as they are; the message says what came and what to do."""


@dataclass(frozen=True)
class CroppedPicture:
    """A part of a stored picture.

    Attributes:
        path: The file.
        box: What is cut out of it: left, top, right, bottom, in pixels.
    """

    path: Path
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Listing:
    """Labelled pictures as a reader finds them.

    Attributes:
        table: One row a picture: `picture_id`, `LABELS`, and what the layout tells beside them.
        pictures: n files, parts of files, or encoded bytes.
        problems: What was left out, and why: (source_name, problem).
        root: Folder that the pictures lie in.
    """

    table: pd.DataFrame
    pictures: Sequence[Path | CroppedPicture | bytes]
    problems: list[tuple[str, str]]
    root: Path


class MaskFiles(Mapping[tuple[str, str], np.ndarray]):
    """Foreground masks by (superclass, foreground_id), each read from its file when it is asked for.

    Attributes:
        paths: The files, by the same keys.

    Args:
        paths: As above; n files.
        root: Folder that no file may leave by a link.
    """

    def __init__(self, paths: Mapping[tuple[str, str], Path], *, root: Path):
        self.paths, self._root = dict(paths), root

    def __getitem__(self, key: tuple[str, str]) -> np.ndarray:
        """Return a mask, bool (h, w), true in the foreground.

        Raises:
            KeyError: If there is none of that name.
            ImageSetError: If the file is damaged, holds Python objects (which are never loaded), or no mask.
        """
        path = self.paths[key]
        try:
            with path_inside(path, root=self._root).open("rb") as file:
                values = np.lib.format.read_array(file, allow_pickle=False)
        except (ValueError, OSError, MemoryError) as error:
            raise ImageSetError(f"mask {path} cannot be read: fetch it again ({error})") from error
        if values.ndim != 2 or values.dtype.kind not in "biuf":
            raise ImageSetError(f"mask {path} must be boolean of shape (h, w), got {values.dtype} {values.shape}")
        if not np.isin(values, (0, 1)).all():
            raise ImageSetError(f"mask {path} must be true and false, or 1 and 0; got values up to {values.max()}")
        return values.astype(bool)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


def list_files(
    folder: Path, row_of: Callable[[list[str]], tuple | str], columns: Sequence[str] = (), *, advice: str
) -> Listing:
    """Return the pictures below a folder, labelled by their paths.

    Hidden files and others than pictures are passed over; links to folders, and out of `folder`, are not followed.

    Args:
        row_of: Path in parts, relative to `folder` -> values of `LABELS` and `columns`, or why it is left out.
        columns: What the layout tells beside `LABELS`.
        advice: What the folder should look like, for the message.

    Raises:
        ImageSetError: If there is no folder, or no picture in it that `row_of` takes.
    """
    if not folder.is_dir():
        raise ImageSetError(f"source must be a folder ({advice}), got {str(folder)!r}, which is none")
    try:
        source = open_photos(folder)
    except PhotoError as error:
        raise ImageSetError(f"{error}; here the folder should hold {advice}") from error
    rows, wrong, problems = [], Counter(), [(_plain(n), r) for n, r in source.skipped.itertuples(index=False)]
    for name in source.table["source_name"]:
        reason = _unusable(folder, name)
        if reason:
            problems.append((_plain(name), reason))
        elif isinstance(found := row_of(name.split("/")), str):
            wrong[name.rpartition("/")[0], found] += 1
        else:
            rows.append((name, *found))
    problems += [(place, f"{reason}; {count} pictures left out") for (place, reason), count in wrong.items()]
    if not rows:
        raise ImageSetError(
            f"source {str(folder)!r} must hold {advice}; none of its {len(source.table)} pictures can be used: "
            + "; ".join(f"{place}: {text}" for place, text in problems[:3])
        )
    table = pd.DataFrame(rows, columns=["picture_id", *LABELS, *columns])
    return Listing(table, [folder / row[0] for row in rows], problems, folder)


@cache
def labels_of_class(label: str | int) -> tuple[int, str, str] | str:
    """Return the values of `LABELS` for a synset, index or name of an ImageNet class, or why there are none."""
    try:
        found = class_of_label(label)
    except PhotoError as error:
        return str(error)
    return found.index, found.in9, found.name


def list_flat_imagenet_val(folder: Path, places: Sequence[Path]) -> Listing:
    """Return ImageNet's validation photos as they are first unpacked: one folder, labelled by Kaggle's table.

    Args:
        folder: Holds ``ILSVRC2012_val_00000001.JPEG`` to ``…_00050000.JPEG``, or some of them.
        places: Folders where ``LOC_val_solution.csv`` is looked for: columns ImageId and PredictionString, which begins
            with the synset. Other lists number the classes by rules of their own, which no file states.

    Raises:
        ImageSetError: If the table is missing, has other columns, or labels none of the photos.
    """
    solution = next((place / VAL_SOLUTION for place in places if (place / VAL_SOLUTION).is_file()), None)
    if solution is None:
        others = sorted({path.name for place in places for path in place.glob("*.txt")})
        raise ImageSetError(
            f"source {str(folder)!r} holds photos without class folders, so their labels must come from Kaggle's "
            f"{VAL_SOLUTION} (ImageId,PredictionString) beside them or in the folder above, which is not there"
            + (f"; {', '.join(others[:3])} cannot do, no file says how its classes are numbered" if others else "")
            + ". Put that table there, or sort the photos into folders named by synset"
        )
    labels, problems = _read_solution(solution)
    rows = []
    for path in sorted(path for path in folder.glob("ILSVRC2012_val_*") if path.name.lower().endswith(SUFFIXES)):
        found = _unusable(folder, path.name) or labels.get(path.stem, f"{VAL_SOLUTION} has no line for it")
        if isinstance(found, str):
            problems.append((_plain(path.name), found))
        else:
            rows.append((path.name, *found))
    if not rows:
        raise ImageSetError(
            f"{solution} must label photos of {str(folder)!r}, and labels none: is it whole? It labels {len(labels)} "
            f"of {VAL_PICTURES}"
        )
    table = pd.DataFrame(rows, columns=["picture_id", *LABELS])
    return Listing(table, [folder / row[0] for row in rows], problems, folder)


def list_d3s(folder: Path) -> Listing:
    """Return the dreamt halves of pictures in the layout of the authors of D3S (see `d3s_reading.read_d3s_layout`).

    That function decodes each picture once, to know that it is whole and has the padding which the crop relies on.

    Returns:
        Beside `LABELS`: `kind` ("shifted"), `background`, `split`, and `foreground_id` where a picture's entry has it.

    Raises:
        ImageSetError: If the folder is not in that layout, or holds no picture that can be used.

    Source: Kattakinda et al. 2022, arXiv:2211.10370.
    """
    try:
        layout = read_d3s_layout(folder)
    except ValueError as error:
        raise ImageSetError(f"source must be a folder in the layout of the authors of D3S: {error}") from error
    problems = [(f"{p.split}/{p.image}", p.problem) for p in layout.problems.itertuples()]
    if layout.pictures.empty:
        shown = "; ".join(f"{place}: {text}" for place, text in problems[:3])
        raise ImageSetError(f"source {str(folder)!r} holds no D3S picture that can be used: {shown or 'it is empty'}")
    columns = ["image_id", *LABELS, "background", "split"]
    if layout.pictures["foreground_id"].notna().any():
        columns.append("foreground_id")
    table = layout.pictures[columns].rename(columns={"image_id": "picture_id"}).assign(kind="shifted")
    paths = [folder / file for file in layout.pictures["file"]]
    return Listing(table, [CroppedPicture(path, _result_box(path)) for path in paths], problems, folder)


def list_in9(folder: Path) -> Listing:
    """Return the variants of ImageNet-9: ``VARIANT/val/CLASS/*.JPEG``.

    Returns:
        Beside `LABELS` (of which only the superclass is known): `variant` and `foreground_id`, the photo that the
        object comes from. It is the same in all variants as far as file names tell: mixed ones are called
        ``fg_n02497673_05944_bg_n02536864_02721``. What stands behind ``bg`` is not read: in the release mixed_rand has
        mixed_next's names (issue 8 of its repository).

    Raises:
        ImageSetError: If there is no variant.

    Source: Xiao et al. 2020, arXiv:2006.09994; github.com/MadryLab/backgrounds_challenge.
    """
    folder = _inner(folder, "bg_challenge")

    def row_of(parts: list[str]) -> tuple | str:
        if len(parts) != 4 or parts[0] not in IN9_VARIANTS or parts[1] != "val":
            return f"it must lie in VARIANT/val/CLASS, with one of the variants {', '.join(IN9_VARIANTS)}"
        if parts[2] not in IN9_FOLDERS:
            return f"class folder {parts[2]!r} must be one of {', '.join(IN9_FOLDERS)}"
        in9 = IN9_FOLDERS[parts[2]]
        return -1, in9, in9, parts[0], foreground_of(Path(parts[3]).stem)

    advice = "the Backgrounds Challenge's folders, such as original/val/00_dog/*.JPEG"
    found = list_files(folder, row_of, ["variant", "foreground_id"], advice=advice)
    counts = found.table.groupby(["variant", "in9"]).size()
    for variant in IN9_VARIANTS:
        here = {name: int(counts.get((variant, name), 0)) for name in IN9}
        differing = [f"{name} {count}" for name, count in here.items() if count != IN9_PER_CLASS]
        if not any(here.values()):
            found.problems.append((variant, f"the variant is missing: unpack it to {variant}/val"))
        elif differing:
            text = f"{sum(here.values())} of {IN9_PER_CLASS * len(IN9)} pictures are there; {IN9_PER_CLASS} of each"
            found.problems.append((variant, f"{text} class are published, here are: {', '.join(differing)}"))
    return found


def foreground_of(stem: str) -> str:
    """Return the photo that an ImageNet-9 picture's object comes from: ``fg_A_bg_B`` -> ``A``, others as they are."""
    pasted = _PASTED.fullmatch(stem)
    return pasted[1] if pasted else stem


def read_in9_masks(folder: str | Path) -> MaskFiles:
    """Return ImageNet-9's foreground masks, ``fg_mask/val/CLASS/*.npy``, by (superclass, foreground_id).

    Raises:
        ImageSetError: If there is none.

    Source: Xiao et al. 2020, arXiv:2006.09994.
    """
    folder = _inner(Path(folder).expanduser(), "bg_challenge")
    paths = {
        (name, path.stem): path
        for place, name in IN9_FOLDERS.items()
        for path in sorted((folder / "fg_mask" / "val" / place).glob("*.npy"))
        if not path.name.startswith(".")
    }
    if not paths:
        raise ImageSetError(
            f"folder must hold the Backgrounds Challenge's masks, such as fg_mask/val/00_dog/*.npy, got {str(folder)!r}"
        )
    return MaskFiles(paths, root=folder)


def list_imagenet_c(folder: Path) -> Listing:
    """Return ImageNet-C: ``CORRUPTION/SEVERITY/SYNSET/*.JPEG``, or the same below noise, blur, weather, digital, extra.

    Returns:
        Beside `LABELS`: `corruption`, `severity` (1 to 5) and `foreground_id`, the photo's name without its ending,
        which is the same in all corruptions.

    Raises:
        ImageSetError: If there is no such picture.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261; github.com/hendrycks/robustness.
    """

    def row_of(parts: list[str]) -> tuple | str:
        parts = parts[1:] if parts[0] in CORRUPTION_GROUPS else parts
        if len(parts) != 4:
            return "it must lie in CORRUPTION/SEVERITY/SYNSET"
        if parts[1] not in SEVERITIES:
            return f"severity must be a folder 1 to 5, got {parts[1]!r}"
        labels = labels_of_class(parts[2])
        return labels if isinstance(labels, str) else (*labels, parts[0], int(parts[1]), Path(parts[3]).stem)

    columns = ["corruption", "severity", "foreground_id"]
    found = list_files(folder, row_of, columns, advice="ImageNet-C, such as gaussian_noise/1/n01440764/*.JPEG")
    again = found.table.duplicated([*columns, "imagenet_index"]).to_numpy()
    reason = "the same photo with the same corruption and severity is there already"
    found.problems.extend((name, reason) for name in found.table["picture_id"][again])
    table = found.table[~again].reset_index(drop=True)
    sizes = table.groupby(["corruption", "severity"]).size()
    missing = [name for name in CORRUPTIONS if name not in sizes.index.levels[0]]
    if missing:
        text = f"of the {len(CORRUPTIONS)} corruptions of the benchmark these are missing: {', '.join(missing)}"
        found.problems.append((str(folder), text))
    for corruption in sizes.index.levels[0]:
        for severity in map(int, SEVERITIES):
            here = int(sizes.get((corruption, severity), 0))
            if here < sizes.max():
                text = f"{here} photos are there; the fullest corruption has {sizes.max()}"
                found.problems.append((f"{corruption}/{severity}", text))
    pictures = [picture for picture, twice in zip(found.pictures, again, strict=True) if not twice]
    return Listing(table, pictures, found.problems, folder)


def list_counteranimal(folder: Path) -> Listing:
    """Return CounterAnimal: ``LAION-final/9 ostrich/common-ground/*`` and ``…/counter-water/*``.

    Returns:
        Beside `LABELS`: `kind` ("common" or "counter") and `background`, as the folders are called; a class folder
        begins with its ImageNet index.

    Raises:
        ImageSetError: If there is no such picture.

    Source: Wang et al. 2024, arXiv:2403.11497.
    """
    folder = _inner(folder, "LAION-final")

    def row_of(parts: list[str]) -> tuple | str:
        number = _NUMBERED.fullmatch(parts[0])
        labels = labels_of_class(int(number[1]) if number else parts[0])
        if isinstance(labels, str):
            return labels
        kind, _, background = parts[1].partition("-")
        if len(parts) != 3 or kind not in ("common", "counter") or not background:
            return "it must lie in a folder common-BACKGROUND or counter-BACKGROUND of its class"
        return *labels, kind, background, "/".join(parts)  # each photo has an object of its own

    advice = "CounterAnimal's folders, such as '9 ostrich/common-ground'"
    found = list_files(folder, row_of, ["kind", "background", "foreground_id"], advice=advice)
    kinds = found.table.groupby("class_name")["kind"].agg(set)
    for name, here in kinds.items():
        for lacking in sorted({"common", "counter"} - here):
            found.problems.append((name, f"there are no {lacking} pictures of this class, so it tells no gap"))
    here = {"classes": len(kinds)} | {kind: int((found.table["kind"] == kind).sum()) for kind in ("common", "counter")}
    if here != COUNTERANIMAL:
        words = ", ".join(f"{here[key]} of {count} {key}" for key, count in COUNTERANIMAL.items())
        found.problems.append((str(folder), f"the paper counts other numbers; here are {words}"))
    return found


def _inner(folder: Path, name: str) -> Path:
    """Return the folder that a release unpacks to where it lies in `folder`, else `folder`."""
    return folder / name if (folder / name).is_dir() else folder


def _result_box(path: Path) -> tuple[int, int, int, int]:
    with Image.open(path) as image:  # reads the head of the file only
        return crop_boxes(*image.size, name=f"picture {path}")[1]


def _unusable(folder: Path, name: str) -> str:
    """Return why a file cannot be used whatever its class is, or an empty text."""
    if _plain(name) != name:
        return "its name is no text in UTF-8: rename it"
    try:
        if os.path.islink(f"{folder}/{name}"):
            path_inside(name, root=folder)
    except PhotoError as error:
        return str(error)
    return ""


def _plain(text: str) -> str:
    """Return a text with what cannot be written as UTF-8 spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _read_solution(path: Path) -> tuple[dict[str, tuple | str], list[tuple[str, str]]]:
    """Return the labels of Kaggle's table by ImageId, and its problems; contradicting lines label nothing."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageSetError(f"{path} cannot be read as CSV: fetch it again ({error})") from error
    if not lines or not {"ImageId", "PredictionString"} <= set(lines[0]):
        got = ", ".join(map(str, lines[0])) if lines else "no line"
        raise ImageSetError(f"{path} must have the columns ImageId and PredictionString, as on Kaggle, got {got}")
    labels, problems = {}, []
    for number, line in enumerate(lines, start=2):
        words = (line["PredictionString"] or "").split()
        found = labels_of_class(words[0]) if words else "it names no class"
        if isinstance(found, str):
            problems.append((f"{path.name}, line {number}", found))
        elif labels.setdefault(line["ImageId"], found) != found:
            labels[line["ImageId"]] = f"{path.name} gives it several classes"
    if len(lines) != VAL_PICTURES:
        problems.append((path.name, f"it has {len(lines)} lines, {VAL_PICTURES} are published: is it cut off?"))
    return labels, problems
