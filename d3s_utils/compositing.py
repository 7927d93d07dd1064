"""Guides: a foreground pasted on a background template, after D3S (Kattakinda et al. 2022, section 3).

Sizes, filter and order of steps are those that the paper states. It differs from the authors' code in this: a place may
also be the last one (see `place_of`), a foreground whose box is known is cropped around it (see `centre_square`), and
each place hangs on the guide's own id instead of on the order of calls. Nothing here was compared with their guides
pixel by pixel; their rounding of a crop of odd width, for one, may lie a pixel aside.
"""

import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from d3s_utils.photos import Photo
from d3s_utils.png_files import has_recipe, write_png
from d3s_utils.randomness import numpy_generator

FOLDER = "01_compositing"  # below a run's folder


def centre_square(pixels: np.ndarray, *, box: Sequence[int] | None = None) -> np.ndarray:
    """Return the largest square in the middle of a picture, as in D3S, or (D3S does not) the square around its object.

    Args:
        pixels: Shape (h, w, …).
        box: Where the object is, (left, top, right, bottom) in pixels, if that is known. The square is then 1.2 times
            as wide as the box's longer side, but at least half and at most all of the picture's shorter side, and its
            centre comes as near to the box's as the picture allows.

    Returns:
        Shape (s, s, …).
    """
    left, top, side = square_place(*pixels.shape[:2], box=box)
    return pixels[top : top + side, left : left + side]


def square_place(height: int, width: int, *, box: Sequence[int] | None = None) -> tuple[int, int, int]:
    """Return (left, top, side) of `centre_square` in a picture, in pixels."""
    side, centre_x, centre_y = min(height, width), width / 2, height / 2
    if box is not None:
        left, top, right, bottom = box
        side = min(max(math.ceil(1.2 * max(right - left, bottom - top)), math.ceil(side / 2)), side)
        centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
    left = min(max(math.floor(centre_x - side / 2), 0), width - side)
    top = min(max(math.floor(centre_y - side / 2), 0), height - side)
    return left, top, side


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return a square uint8 picture at `size` x `size`, by Pillow's bicubic filter (which does not alias)."""
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


def pasted_size(canvas: int, scale: float) -> int:
    """Return the side of the pasted foreground in pixels: `scale` of the canvas, rounded down (204 of 512 at 0.4).

    Raises:
        ValueError: If `scale` is not in (0, 1], or leaves no pixel.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"foreground_scale must be in (0, 1], got {scale!r}")
    size = math.floor(scale * canvas + 1e-9)  # 0.29 * 100 is 28.999…
    if size < 1:
        raise ValueError(f"foreground_scale {scale!r} of a canvas of {canvas} pixels leaves no pixel")
    return size


def place_of(image_id: str, *, seed: int, canvas: int, size: int) -> tuple[int, int]:
    """Return (left, top) of a foreground of `size` pixels, uniform over all places inside the canvas.

    Each is 0 to canvas - size, both included, so that the foreground may touch every side. The authors' code draws from
    ``range(0, canvas - size)``, which ends one before: there the foreground never touches the right or the lower side.
    A foreground of 204 on a canvas of 512 has 308 places on a line in their code, and 309 here.

    It hangs on the run's seed and the image's own id alone.
    """
    left, top = numpy_generator(seed, "place", image_id).integers(0, canvas - size + 1, 2)
    return int(left), int(top)


def paste(foreground: np.ndarray, background: np.ndarray, *, left: int, top: int) -> np.ndarray:
    """Return a copy of `background` with `foreground` on it, both uint8 (h, w, 3)."""
    guide = background.copy()
    guide[top : top + foreground.shape[0], left : left + foreground.shape[1]] = foreground
    return guide


def padded_square(pixels: np.ndarray) -> np.ndarray:
    """Return a picture (h, w, …) in the middle of a black square whose side is its longer side."""
    height, width = pixels.shape[:2]
    left, top, side = padded_place(height, width)
    square = np.zeros((side, side, *pixels.shape[2:]), pixels.dtype)
    square[top : top + height, left : left + width] = pixels
    return square


def padded_place(height: int, width: int) -> tuple[int, int, int]:
    """Return (left, top, side) of a picture in its padded square, in pixels."""
    side = max(height, width)
    return (side - width) // 2, (side - height) // 2, side


def blend(photo: np.ndarray, mask: np.ndarray, background: np.ndarray, *, canvas: int) -> np.ndarray:
    """Return the masked composite: padded to a square, alpha-blended on the background, then resized to the canvas.

    These are the steps of D3S's masked way; the photo keeps its place and size in its own frame.

    Args:
        photo: uint8, shape (h, w, 3).
        mask: uint8, shape (h, w), 255 where the object is.
        background: uint8, a square; it is resized to the padded photo first.
        canvas: Side of the result in pixels.
    """
    foreground, opacity = padded_square(photo), padded_square(mask)
    behind = resized(background, len(foreground))
    blended = Image.composite(Image.fromarray(foreground), Image.fromarray(behind), Image.fromarray(opacity))
    return resized(np.asarray(blended), canvas)


def write_composites(
    guides: pd.DataFrame,
    folder: Path,
    *,
    read_foreground: Callable[[str], tuple[Photo, np.ndarray | None, Sequence[int] | None]],
    read_template: Callable[[str], np.ndarray],
    recipes: Sequence[dict[str, Any]] | None = None,
    workers: int = 2,
    templates_in_memory: int = 256,
    progress: bool = True,
) -> int:
    """Write every guide as a PNG; those already made from the same recipe are left alone.

    A foreground is decoded and resized once for all its guides, a template once for all foregrounds, and a guide is
    then a copy of an array: several times as fast as opening, resizing and pasting two files a guide.

    Args:
        guides: One row a guide: `foreground_id`, `template_id`, `guide_file` (below `folder`), `left`, `top`, `width`
            (pixels), `canvas` (pixels).
        folder: Where the files go.
        read_foreground: Returns a foreground's photo, mask or None, and box or None, by id.
        read_template: Returns a template's pixels, uint8 (h, w, 3), by id.
        recipes: What each guide is made from, to be stored in it and compared; every guide is written where None.
        workers: Threads. Decoding, resizing, encoding and writing all leave the interpreter's lock.
        templates_in_memory: How many templates are kept between foregrounds.
        progress: Whether a bar shows how far it is.

    Returns:
        How many were written.
    """
    (folder := Path(folder)).mkdir(parents=True, exist_ok=True)
    for parent in {(folder / file).parent for file in guides.guide_file}:
        parent.mkdir(parents=True, exist_ok=True)
    recipes = [None] * len(guides) if recipes is None else list(recipes)
    jobs = list(zip(guides.itertuples(index=False), recipes, strict=True))
    to_make: dict[str, list] = {}
    for row, recipe in jobs:
        if recipe is None or not has_recipe(folder / row.guide_file, recipe):
            to_make.setdefault(row.foreground_id, []).append((row, recipe))

    @lru_cache(maxsize=templates_in_memory)
    def template(template_id: str, canvas: int | None) -> np.ndarray:
        square = centre_square(read_template(template_id))
        return square if canvas is None else resized(square, canvas)

    def make(foreground_id: str) -> int:
        photo, mask, box = read_foreground(foreground_id)
        patches: dict[int, np.ndarray] = {}
        for row, recipe in to_make[foreground_id]:
            if mask is not None:
                guide = blend(photo.pixels, mask, template(row.template_id, None), canvas=row.canvas)
            else:
                if row.width not in patches:
                    patches[row.width] = resized(centre_square(photo.pixels, box=box), row.width)
                background = template(row.template_id, row.canvas)
                guide = paste(patches[row.width], background, left=row.left, top=row.top)
            write_png(folder / row.guide_file, guide, recipe=recipe)
        return len(to_make[foreground_id])

    written = sum(map(len, to_make.values()))
    done = len(jobs) - written
    bar = tqdm(total=len(jobs), initial=done, desc="composites", mininterval=2, file=sys.stdout, disable=not progress)
    with bar, ThreadPoolExecutor(workers) as pool:
        for number in pool.map(make, to_make):
            bar.update(number)
    return written
