"""Foregrounds and templates from the user's own photos: chosen, read, split and written as plain squares."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from d3s_utils.compositing import FOLDER, centre_square, resized
from d3s_utils.masks import MODES, check_mask
from d3s_utils.photo_sources import PhotoSource, class_of_label, skipped_table
from d3s_utils.photos import Photo, PhotoError
from d3s_utils.png_files import has_recipe, write_png
from d3s_utils.randomness import derive_seed
from d3s_utils.scene_mining import SCENE_CLASSES, find_scenes
from d3s_utils.taxonomy import BACKGROUNDS, ImageNetClass

SCENE_NAMES = frozenset(name for names in SCENE_CLASSES.values() for name in names)
SCENE_OBJECTS = ("bison", "lawn mower", "ox", "trolleybus")  # classes that are an object on the scene looked for
LARGEST_OBJECT = 1 / 3  # share of a template that the box of such an object may fill
SCENES_LOOKED_AT = 200  # photos of one scene class that are searched for its backgrounds
SCENE_SIDE = 64  # pixels; the rules on colour were made at this size


@dataclass(frozen=True)
class Gathered:
    """What was made of a source.

    Attributes:
        table: One row a picture that was written (foregrounds or templates).
        skipped: One row a photo that was tried and left out: `source_name`, `reason`.
    """

    table: pd.DataFrame
    skipped: pd.DataFrame


def choose_classes(source: PhotoSource, wanted: Sequence[ImageNetClass]) -> tuple[ImageNetClass, ...]:
    """Return those of the `wanted` classes that a source has photos of.

    Where it has none of them, as with a folder of other classes, the classes with most photos are taken, as many as
    were wanted.

    Raises:
        PhotoError: If a label is no ImageNet class.
    """
    counts = _classes(source).value_counts()
    known = [c for c in wanted if c.index in counts.index]
    if known:
        return tuple(known)
    by_number = sorted(counts.index, key=lambda index: (-counts[index], index))[: len(wanted)]
    return tuple(class_of_label(int(index)) for index in by_number)


def gather_foregrounds(
    source: PhotoSource,
    classes: Sequence[ImageNetClass],
    *,
    train: int,
    val: int,
    run_folder: Path,
    size: int,
    mask_mode: str,
    seed: int,
) -> Gathered:
    """Write up to `train` + `val` photos of each class as plain squares; no photo is in both splits.

    Photos are tried in an order that hangs on the seed and their names. One that cannot be used, or is the same
    file as an earlier one, is skipped and listed, and the next is tried. A class with too few photos shares them
    out in the proportion asked for.

    Args:
        source: The photos.
        classes: Which classes are taken.
        train, val: Photos a class in each split.
        run_folder: Folder that file names are relative to; the squares go to `01_compositing/foregrounds` below it.
        size: Side of the squares in pixels.
        mask_mode: One of `masks.MODES`.
        seed: The run's seed.

    Returns:
        Foregrounds: `foreground_id`, `split`, `synset`, `class_name`, `imagenet_index`, `in9`, `file`, `mask_file`
        (where its mask will be, or None), `mask_mode` (never "auto"), `prompt` (None), `seed` (None), `source`
        ("photo"), `source_name`, `source_sha256`, `source_width`, `source_height`, `box`.

    Raises:
        PhotoError: If a label is no ImageNet class, or no photo at all can be used.
        ValueError: If `mask_mode` is unknown.
    """
    if mask_mode not in MODES:
        raise ValueError(f"mask_mode must be one of {', '.join(MODES)}, got {mask_mode!r}")
    (Path(run_folder) / FOLDER / "foregrounds").mkdir(parents=True, exist_ok=True)
    indices, seen, rows, skipped = _classes(source), {}, [], []
    for imagenet in tqdm(classes, desc="foregrounds", mininterval=2, file=sys.stdout):
        candidates = np.flatnonzero(indices == imagenet.index)
        found = []
        for row, photo in _usable(source, candidates, seed=seed, seen=seen, skipped=skipped):
            box = source.table.box[row]
            try:
                mode = check_mask(photo, mode=mask_mode, box=box, mask_file=source.read_mask(row))
            except PhotoError as error:
                skipped.append((source.table.source_name[row], str(error)))
                continue
            found.append((row, photo, box, mode))
            if len(found) == train + val:
                break
        splits = split_names(len(found), train=train, val=val, position=_position(seed, imagenet.synset))
        for repeat, (split, (row, photo, box, mode)) in enumerate(zip(splits, found, strict=True)):
            foreground_id = f"{imagenet.synset}-{repeat:04d}"
            file = f"{FOLDER}/foregrounds/{foreground_id}.png"
            square = resized(centre_square(photo.pixels, box=box), size)
            _write_once(Path(run_folder) / file, square, {"photo": photo.sha256, "box": _listed(box), "size": size})
            rows.append(
                {
                    "foreground_id": foreground_id,
                    "split": split,
                    **class_columns(imagenet),
                    "file": file,
                    "mask_file": None if mode == "none" else f"{FOLDER}/masks/{foreground_id}.png",
                    "mask_mode": mode,
                    "prompt": None,
                    "seed": None,
                    "source": "photo",
                    "source_name": source.table.source_name[row],
                    "source_sha256": photo.sha256,
                    "source_width": photo.pixels.shape[1],
                    "source_height": photo.pixels.shape[0],
                    "box": _listed(box),
                }
            )
    table = _all_skipped(source, skipped)
    if not rows:
        first = f"; the first: {table.source_name[0]}: {table.reason[0]}" if len(table) else ""
        raise PhotoError(f"none of the photos of {source.name!r} can be used, {len(table)} were skipped{first}")
    return Gathered(pd.DataFrame(rows).astype({"seed": "Int64"}), table)


def gather_templates(
    source: PhotoSource,
    backgrounds: Sequence[str],
    *,
    number: int,
    val_share: float,
    run_folder: Path,
    size: int,
    seed: int,
) -> Gathered:
    """Write up to `number` photos of each background as square templates; no photo is in both splits.

    Labels are the ten backgrounds' names, or ImageNet scene classes. For the latter the table
    `scene_mining.SCENE_CLASSES` says which backgrounds a class may show, and a photo is taken where the colours of
    its parts agree and, if its box is known, an object such as a bus does not fill it. A background may come out
    with few templates or none; `count_templates` tells.

    Returns:
        Templates: `template_id`, `split`, `background`, `file`, `source` ("photo"), `source_name`, `source_sha256`,
        `prompt` (None), `seed` (None).

    Raises:
        PhotoError: If a label is neither a background nor an ImageNet class, or no photo fits any background.
    """
    (Path(run_folder) / FOLDER / "templates").mkdir(parents=True, exist_ok=True)
    skipped: list[tuple[str, str]] = []
    candidates = _background_rows(source, backgrounds, seed=seed, skipped=skipped)
    rows, seen = [], {}
    for background in tqdm(backgrounds, desc="templates", mininterval=2, file=sys.stdout):
        usable = _usable(source, candidates[background], seed=seed, seen=seen, skipped=skipped)
        found = list(islice(usable, number))
        share = {"train": 1 - val_share, "val": val_share}
        splits = split_names(len(found), **share, position=_position(seed, background))
        for place, (split, (row, photo)) in enumerate(zip(splits, found, strict=True)):
            template_id = f"{background}-{place:04d}"
            file = f"{FOLDER}/templates/{template_id}.png"
            square = resized(centre_square(photo.pixels), size)
            _write_once(Path(run_folder) / file, square, {"photo": photo.sha256, "size": size})
            rows.append(
                {
                    "template_id": template_id,
                    "split": split,
                    "background": background,
                    "file": file,
                    "source": "photo",
                    "source_name": source.table.source_name[row],
                    "source_sha256": photo.sha256,
                    "prompt": None,
                    "seed": None,
                }
            )
    table = _all_skipped(source, skipped)
    if not rows:
        raise PhotoError(
            f"templates {source.name!r} show none of the backgrounds {', '.join(backgrounds)}: name its folders by "
            f"them, or give scene classes such as {', '.join(sorted(SCENE_NAMES)[:4])}"
        )
    return Gathered(pd.DataFrame(rows).astype({"seed": "Int64"}), table)


def count_templates(templates: pd.DataFrame, backgrounds: Sequence[str]) -> pd.DataFrame:
    """Return how many templates each background has in each split: rows background, columns train and val."""
    if not len(templates):
        return pd.DataFrame(0, index=pd.Index(backgrounds, name="background"), columns=["train", "val"])
    counts = templates.groupby(["background", "split"]).size().unstack(fill_value=0)
    return counts.reindex(index=pd.Index(backgrounds, name="background"), columns=["train", "val"], fill_value=0)


def split_names(number: int, *, train: float, val: float, position: float = 0.5) -> list[str]:
    """Return `number` splits, train ones first, in the proportion `train` to `val`.

    Both splits get at least one of two. A single one goes to "val" where `position`, in [0, 1), is below val's
    share: over many classes that keeps the proportion.
    """
    share = val / (train + val)
    if number < 2:
        return ["val" if position < share else "train"] * number
    val_number = min(max(round(number * share), 1), number - 1)
    return ["train"] * (number - val_number) + ["val"] * val_number


def class_columns(imagenet: ImageNetClass) -> dict[str, str | int]:
    """Return the columns by which every table names a class."""
    return {
        "synset": imagenet.synset,
        "class_name": imagenet.name,
        "imagenet_index": imagenet.index,
        "in9": imagenet.in9,
    }


def _classes(source: PhotoSource) -> pd.Series:
    """Return the ImageNet index of each photo."""
    index_of = {label: class_of_label(label).index for label in source.table.label.unique()}
    return source.table.label.map(index_of).astype(int)


def _usable(
    source: PhotoSource,
    candidates: Sequence[int],
    *,
    seed: int,
    seen: dict[str, str],
    skipped: list[tuple[str, str]],
) -> Iterator[tuple[int, Photo]]:
    """Yield row and photo of the candidates that can be read and were not seen yet, in the seed's order.

    What cannot be used is appended to `skipped`; `seen` maps each photo's sha256 to its name.
    """
    names = source.table.source_name
    for row in sorted(candidates, key=lambda i: derive_seed(seed, "photo", names[i])):
        try:
            photo = source.read(row)
        except PhotoError as error:
            skipped.append((names[row], str(error)))
            continue
        if photo.sha256 not in seen:
            seen[photo.sha256] = names[row]
            yield int(row), photo
        elif seen[photo.sha256] != names[row]:
            skipped.append((names[row], f"it is the same file as {seen[photo.sha256]}"))


def _background_rows(
    source: PhotoSource, backgrounds: Sequence[str], *, seed: int, skipped: list[tuple[str, str]]
) -> dict[str, np.ndarray]:
    """Return the rows of a template source that show each background."""
    labels = source.table.label
    names = labels.map(lambda label: str(label).strip().lower())
    if set(names) & set(BACKGROUNDS):
        unknown = sorted(set(names) - set(BACKGROUNDS))
        if unknown:
            raise PhotoError(
                f"templates {source.name!r} are labelled {unknown[0]!r}, which is no background: "
                f"the backgrounds are {', '.join(BACKGROUNDS)}"
            )
        return {background: np.flatnonzero(names == background) for background in backgrounds}
    class_names = labels.map({label: class_of_label(label).name for label in labels.unique()})
    rows, pictures = [], []
    for name in sorted(SCENE_NAMES & set(class_names)):
        candidates = np.flatnonzero(class_names == name)
        for row, photo in islice(_usable(source, candidates, seed=seed, seen={}, skipped=skipped), SCENES_LOOKED_AT):
            if name in SCENE_OBJECTS and _box_share(source.table.box[row], photo) > LARGEST_OBJECT:
                continue
            rows.append(row)
            pictures.append(resized(centre_square(photo.pixels), SCENE_SIDE))
    if not rows:
        return {background: np.array([], int) for background in backgrounds}
    rows = np.array(rows)
    shown = find_scenes(np.stack(pictures), class_names.to_numpy()[rows])
    return {background: rows[shown.get(background, [])] for background in backgrounds}


def _box_share(box: Sequence[int] | None, photo: Photo) -> float:
    height, width = photo.pixels.shape[:2]
    return 0.0 if box is None else (box[2] - box[0]) * (box[3] - box[1]) / (height * width)


def _all_skipped(source: PhotoSource, skipped: list[tuple[str, str]]) -> pd.DataFrame:
    table = skipped_table([*source.skipped.itertuples(index=False, name=None), *skipped])
    return table.drop_duplicates(ignore_index=True)


def _write_once(path: Path, pixels: np.ndarray, recipe: dict) -> None:
    if not has_recipe(path, recipe):
        write_png(path, pixels, recipe=recipe)


def _listed(box: Sequence[int] | None) -> list[int] | None:
    return None if box is None else list(box)


def _position(seed: int, name: str) -> float:
    return derive_seed(seed, "split", name) / 2**63
