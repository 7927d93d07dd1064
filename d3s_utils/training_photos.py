"""The photos behind the bundled model: who may see which, decided by each file's own bytes."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from d3s_utils.randomness import numpy_generator
from d3s_utils.scene_mining import find_scenes, make_cave, make_night, make_rain
from d3s_utils.taxonomy import BACKGROUNDS

SPLITS = {"generator": 0.75, "judge": 0.125, "test": 0.125}


def split_of(encoded_image: bytes) -> str:
    """Return which of `SPLITS` a photo belongs to: "generator" trains the diffusion model, "judge" the background
    classifier, "test" nothing.

    It hangs on the file's sha256 alone, so a photo keeps its split in every data set, order and year.
    """
    position = int.from_bytes(hashlib.sha256(encoded_image).digest()[:8], "big") / 2**64
    edge = 0.0
    for name, share in SPLITS.items():
        edge += share
        if position < edge:
            return name
    return name


def read_photos(parquet: Path, *, side: int = 64) -> tuple[pd.DataFrame, np.ndarray]:
    """Read a parquet file of photos, centre-cropped and resized to `side`.

    Returns:
        A table (the file's columns without `image`, and `split`) and its pixels, uint8 (n, side, side, 3).
    """
    table = pd.read_parquet(parquet)
    encoded = [image["bytes"] for image in table.pop("image")]
    table["split"] = [split_of(content) for content in encoded]
    pixels = np.stack([_square(Image.open(io.BytesIO(content)).convert("RGB"), side) for content in encoded])
    return table, pixels


def _square(image: Image.Image, side: int) -> np.ndarray:
    width, height = image.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    box = (left, top, left + edge, top + edge)
    return np.asarray(image if image.size == (side, side) else image.resize((side, side), Image.BICUBIC, box=box))


def scene_pictures(
    data: Path, split: str, *, per_background: int, seed: int, side: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures of each of the ten backgrounds, made from the scene photos of one split.

    A picture is a random crop (at least 0.6 of the side) of a photo, half of them mirrored. Photos for each background
    are those of `scene_mining.find_scenes`; rain is made from grass, road, forest, water and sand, two thirds of the
    nights likewise, and caves from rock.

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
    outdoors = np.concatenate([found[name] for name in ("grass", "road", "forest", "water", "sand")])
    pictures, names = [], []
    for background in BACKGROUNDS:
        random = numpy_generator(seed, "scenes", background)
        for _ in range(per_background):
            made = background in ("rain", "cave") or (background == "night" and (not weather or random.random() < 0.67))
            pool = outdoors if made and background != "cave" else found[background]
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
