"""Real labelled photos to check a judge or a classifier on before it is believed about dreamt ones."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from d3s_utils.classifiers import Picture, PictureError, read_picture
from d3s_utils.image_sets import ImageSet, read_image_set
from d3s_utils.settings import find_root
from d3s_utils.taxonomy import imagenet_class
from d3s_utils.training_photos import split_of

FULL_SIZE, TINY = "imagenet-samples-even.parquet", "tiny-imagenet-in9.parquet"


def find_reference_photos(real_photos: str | None, *, limit: int, seed: int) -> list[ImageSet]:
    """Return the real photos there are: the user's own, else those in the shared data folder, else none.

    The shared folder is the environment's ``D3S_SHARED_DATA``, or ``shared/data`` beside the checkout. Of its
    Tiny-ImageNet photos only split "test" is read, which trained neither the generator nor the background judge.

    Args:
        real_photos: What `image_sets.read_folders` takes, or None.
        limit: Greatest number of photos of each set; a random choice of so many is read.
        seed: Decides which.

    Raises:
        ImageSetError: If `real_photos` is given and cannot be opened, or holds no class of ImageNet.
    """
    if real_photos is not None:
        return [read_image_set("folders", real_photos).limited(limit, seed=seed)]
    folder = Path(os.environ.get("D3S_SHARED_DATA") or find_root().parent / "shared" / "data")
    found = []
    if (folder / FULL_SIZE).is_file():
        found.append(_from_table("ImageNet photos, full size", folder / FULL_SIZE))
    if (folder / TINY).is_file():
        tiny = _from_table("Tiny-ImageNet photos, 64 px, ImageNet-9 classes", folder / TINY)
        found.append(tiny.subset([split_of(content) == "test" for content in tiny.pictures]))
    return [images.limited(limit, seed=seed) for images in found]


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
        name, pictures = found[-1].name, list(_readable(found[-1].pictures))
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


def _from_table(name: str, path: Path) -> ImageSet:
    table = pd.read_parquet(path, columns=["image", "imagenet_index"])
    classes = [imagenet_class(int(index)) for index in table["imagenet_index"]]
    described = pd.DataFrame({
        "picture_id": [f"{path.stem}-{row:05d}" for row in range(len(table))],
        "imagenet_index": [c.index for c in classes],
        "in9": [c.in9 for c in classes],
        "class_name": [c.name for c in classes],
    })  # fmt: skip
    return ImageSet(name, described, tuple(image["bytes"] for image in table["image"]))


def _readable(pictures: Sequence[Picture]) -> Iterator[Image.Image]:
    for picture in pictures:
        with suppress(PictureError):
            yield read_picture(picture)
