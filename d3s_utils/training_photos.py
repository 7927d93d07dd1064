"""The photos behind the bundled model: who may see which, decided by each file's own bytes."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from d3s_utils.photo_sources import class_of_label, open_photos
from d3s_utils.photos import PhotoError
from d3s_utils.randomness import numpy_generator
from d3s_utils.scene_mining import find_scenes, make_cave, make_night, make_rain
from d3s_utils.taxonomy import BACKGROUNDS

SPLITS = {"generator": 0.75, "judge": 0.125, "test": 0.125}


def split_of(encoded_image: bytes) -> str:
    """Return which of `SPLITS` a photo belongs to: "generator" trains the diffusion model, "judge" the background
    classifier, "test" nothing.

    It hangs on the file's sha256 alone, so a photo keeps its split in every data set, order and year.
    """
    return _split_of_digest(hashlib.sha256(encoded_image).hexdigest())


def _split_of_digest(sha256: str) -> str:
    position, edge = int(sha256[:16], 16) / 2**64, 0.0
    for name, share in SPLITS.items():
        edge += share
        if position < edge:
            return name
    return name


def read_photos(source: Path, *, side: int = 64) -> tuple[pd.DataFrame, np.ndarray]:
    """Read photos, centre-cropped and resized to `side`.

    Args:
        source: A parquet file with a column `image`, or a folder with a folder for each label; the label is an
            ImageNet class, or a background for scenes.

    Returns:
        A table (`synset`, `class_name`, `in9`, `bbox_xyxy` in the resized picture (last row and column included) or
        None, `split`, `sha256` of the file) and pixels, uint8 (n, side, side, 3). A background's name stands as class
        name, without synset. A photo that cannot be read, or whose label is unknown, is named on stdout and left out.

    Raises:
        PhotoError: If there is no such source, or it holds no photo that can be read.
    """
    photos = open_photos(source)
    rows, pixels = [], []
    for row, (label, box) in enumerate(zip(photos.table["label"], photos.table["box"], strict=True)):
        try:
            photo = photos.read(row)
            synset, class_name, in9 = _names_of(label)
        except PhotoError as error:
            print(f"left out: {error}")
            continue
        box = _box_in_square(box, photo.pixels.shape[:2], side)
        rows.append((synset, class_name, in9, box, _split_of_digest(photo.sha256), photo.sha256))
        pixels.append(_square(Image.fromarray(photo.pixels), side))
    if not rows:
        raise PhotoError(f"photos {str(source)!r} holds no photo that can be read")
    return pd.DataFrame(rows, columns=["synset", "class_name", "in9", "bbox_xyxy", "split", "sha256"]), np.stack(pixels)


def held_out_photos(table: pd.DataFrame, synsets: Sequence[str], *, per_class: int) -> pd.DataFrame:
    """Return the rows of `read_photos`'s table that are of split "test" and of `synsets`, at most `per_class` of each.

    Raises:
        PhotoError: If a class has fewer than two: nothing could be compared with it at the end of a long training.
    """
    mine = table[(table["split"] == "test") & table["synset"].isin(synsets)]
    counts = mine["synset"].value_counts().reindex(list(synsets), fill_value=0)
    if (counts < 2).any():
        few = ", ".join(f"{synset} ({number})" for synset, number in counts[counts < 2].items())
        raise PhotoError(f"each class must have two photos of split 'test' or more, got fewer of {few}")
    return mine.groupby("synset").head(per_class)


def scene_pictures(
    data: Path, split: str, *, per_background: int, seed: int, side: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures of each of the ten backgrounds, made from the scene photos of one split.

    A picture is a random crop (at least 0.6 of the side) of a photo, half of them mirrored. Photos for each background
    are those of `scene_mining.find_scenes`; rain is made from grass, road, forest, water and sand, two thirds of the
    nights likewise, and caves from rock. Photos that are labelled with a background's name stand for it as they are.

    Args:
        data: Folder that holds ``tiny-imagenet-scenes.parquet``.
        split: One of `SPLITS`.
        per_background: Number of pictures of each background.

    Returns:
        uint8 pictures (10 x `per_background`, side, side, 3) and their background names.
    """
    table, pixels = read_photos(data / "tiny-imagenet-scenes.parquet", side=side)
    rows = (table["split"] == split).to_numpy()
    return make_scenes(
        pixels[rows], table["class_name"].to_numpy()[rows], per_background=per_background, seed=seed, side=side
    )


def make_scenes(
    photos: np.ndarray, class_names: np.ndarray, *, per_background: int, seed: int, side: int = 64, weather: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return `scene_pictures` of the given scene photos, uint8 (n, h, w, 3), and their ImageNet class names (n,).

    Without `weather`, night, rain and caves are the real photos that they would be made from.
    """
    found = find_scenes(photos, class_names)
    labelled = {name: np.flatnonzero(class_names == name) for name in BACKGROUNDS if name in class_names}
    found |= labelled
    outdoors = np.concatenate([found[name] for name in ("grass", "road", "forest", "water", "sand")])
    pictures, names = [], []
    for background in BACKGROUNDS:
        random = numpy_generator(seed, "scenes", background)
        for _ in range(per_background):
            made = background in ("rain", "cave") or (background == "night" and (not weather or random.random() < 0.67))
            made = made and background not in labelled
            pool = outdoors if made and background != "cave" else found[background]
            if not len(pool):
                raise ValueError(
                    f"scenes must show every background, got none of {background!r} in {len(photos)} photos"
                )
            picture = random_crop(photos[random.choice(pool)], random, smallest=0.6, side=side)
            pictures.append(WEATHER[background](picture, random) if made and weather else picture)
            names.append(background)
    return np.stack(pictures), np.array(names)


WEATHER = {"night": make_night, "rain": make_rain, "cave": make_cave}


def random_crop(picture: np.ndarray, random: np.random.Generator, *, smallest: float, side: int) -> np.ndarray:
    """Return a random square crop of `picture` (h, w, 3), resized to `side` and mirrored half the time."""
    edge = int(min(picture.shape[:2]) * random.uniform(smallest, 1) + 0.5)
    top, left = (random.integers(0, length - edge + 1) for length in picture.shape[:2])
    crop = Image.fromarray(picture[top : top + edge, left : left + edge]).resize((side, side), Image.BICUBIC)
    return np.asarray(crop)[:, ::-1] if random.random() < 0.5 else np.asarray(crop)


def _names_of(label: str | int) -> tuple[str, str, str]:
    if label in BACKGROUNDS:
        return "", str(label), ""
    imagenet = class_of_label(label)
    return imagenet.synset, imagenet.name, imagenet.in9


def _box_in_square(box, shape: tuple[int, int], side: int) -> tuple[int, int, int, int] | None:
    """Return a box (right and bottom excluded) as it lies in the centre-cropped, resized photo, all included."""
    if box is None:
        return None
    height, width = shape
    edge = min(shape)
    shift = ((width - edge) // 2, (height - edge) // 2) * 2
    corners = [round((value - offset) * side / edge) for value, offset in zip(box, shift, strict=True)]
    left, top = (min(max(value, 0), side - 1) for value in corners[:2])
    right, bottom = (min(max(value - 1, 0), side - 1) for value in corners[2:])
    return (left, top, right, bottom) if right > left and bottom > top else None


def _square(image: Image.Image, side: int) -> np.ndarray:
    width, height = image.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    box = (left, top, left + edge, top + edge)
    return np.asarray(image if image.size == (side, side) else image.resize((side, side), Image.BICUBIC, box=box))
