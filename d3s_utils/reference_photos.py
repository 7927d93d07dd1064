"""Real labelled photos to check a judge or a classifier on before it is believed about dreamt ones."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from d3s_utils.classifiers import read_picture
from d3s_utils.photo_sources import class_of_label, open_photos
from d3s_utils.photos import PhotoError
from d3s_utils.randomness import numpy_generator
from d3s_utils.settings import find_root
from d3s_utils.taxonomy import imagenet_class
from d3s_utils.training_photos import split_of

FULL_SIZE, TINY = "imagenet-samples-even.parquet", "tiny-imagenet-in9.parquet"


@dataclass(frozen=True)
class ReferencePhotos:
    """Photos with their true classes.

    Attributes:
        name: What they are, in words.
        pictures: uint8 arrays (h, w, 3) or images, n of them.
        imagenet_index: True classes, shape (n,).
        skipped: Number of photos that could not be read.
    """

    name: str
    pictures: list = field(repr=False)
    imagenet_index: np.ndarray = field(repr=False)
    skipped: int = 0

    @property
    def in9(self) -> list[str]:
        """The true superclasses, names or empty strings."""
        return [imagenet_class(int(index)).in9 for index in self.imagenet_index]


def find_reference_photos(real_photos: str | None, *, limit: int, seed: int) -> list[ReferencePhotos]:
    """Return the real photos there are: the user's own, else those in the shared data folder, else none.

    The shared folder is the environment's ``D3S_SHARED_DATA``, or ``shared/data`` beside the checkout. Of its
    Tiny-ImageNet photos only split "test" is read, which trained neither the generator nor the background judge.

    Args:
        real_photos: What `photo_sources.open_photos` takes, or None.
        limit: Greatest number of photos of each set; a random choice of so many is read.
        seed: Decides which.

    Raises:
        PhotoError: If `real_photos` is given and cannot be opened, or holds a class that ImageNet has not.
    """
    if real_photos is not None:
        return [_own_photos(real_photos, limit, seed)]
    folder = Path(os.environ.get("D3S_SHARED_DATA") or find_root().parent / "shared" / "data")
    found = []
    if (folder / FULL_SIZE).is_file():
        table = pd.read_parquet(folder / FULL_SIZE, columns=["image", "imagenet_index"])
        found.append(_from_table("ImageNet photos, full size", table, limit, seed))
    if (folder / TINY).is_file():
        table = pd.read_parquet(folder / TINY, columns=["image", "imagenet_index"])
        held_out = [split_of(image["bytes"]) == "test" for image in table["image"]]
        found.append(_from_table("Tiny-ImageNet photos, 64 px, ImageNet-9 classes", table[held_out], limit, seed))
    return found


def realism_reference(
    run_folder: Path, *, real_photos: str | None, limit: int, side: int, seed: int
) -> tuple[str, list[np.ndarray]]:
    """Return what generated pictures should look like: real photos where there are some, else what they came from.

    Args:
        real_photos, limit, seed: See `find_reference_photos`.
        side: Photos are made square and this large, so that size alone makes no difference.

    Returns:
        The reference in words, and its pictures: real photos, or notebook 01's foregrounds (which `mini` dreams), or
        its guides where it left no foregrounds.
    """
    found = find_reference_photos(real_photos, limit=limit, seed=seed)
    if found:
        name, pictures = found[-1].name, [read_picture(picture) for picture in found[-1].pictures]
    else:
        kind = "foregrounds"
        if not (run_folder / "01_compositing" / "foregrounds.parquet").is_file():
            kind = "guides"
        table = pd.read_parquet(run_folder / "01_compositing" / f"{kind}.parquet")
        name = f"the set's own {kind}"
        files = table["file" if kind == "foregrounds" else "guide_file"]
        pictures = [read_picture(run_folder / file) for file in files]
    fitted = [ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS) for picture in pictures]
    return name, [np.asarray(picture) for picture in fitted]


def _own_photos(source: str, limit: int, seed: int) -> ReferencePhotos:
    photos = open_photos(source)
    indices = np.array([class_of_label(label).index for label in photos.table["label"]])
    pictures, truths, skipped = [], [], len(photos.skipped)
    for row in _choose(len(indices), limit, seed):
        try:
            pictures.append(np.asarray(photos.read(int(row)).pixels[..., :3]))
            truths.append(indices[row])
        except PhotoError:
            skipped += 1
    if not pictures:
        raise PhotoError(f"real_photos {source!r} holds no photo that can be read ({skipped} could not)")
    return ReferencePhotos(photos.name, pictures, np.array(truths), skipped)


def _from_table(name: str, table: pd.DataFrame, limit: int, seed: int) -> ReferencePhotos:
    chosen = table.iloc[_choose(len(table), limit, seed)]
    pictures = [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in chosen["image"]]
    return ReferencePhotos(name, pictures, chosen["imagenet_index"].to_numpy())


def _choose(count: int, limit: int, seed: int) -> np.ndarray:
    return np.sort(numpy_generator(seed, "reference photos").permutation(count)[:limit])
