"""Each guide's twin: the same object at the same size and place, on its own ground in place of a background.

A guide differs from its photo in three ways at once: the object is smaller, it stands elsewhere, and what surrounds it
is another scene. The twin differs in the first two alone. Its ground is what surrounded the object in its photo, as far
as the photo reaches; beyond, what lies nearest goes on, blurred.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter
from tqdm import tqdm

from d3s_utils.compositing import FOLDER, blend, centre_square, padded_place, paste, resized, square_place
from d3s_utils.guides import foreground_reader
from d3s_utils.photo_sources import PhotoSource
from d3s_utils.photos import Photo
from d3s_utils.png_files import has_recipe, write_png

ENOUGH = 0.5  # share of the ground that is the photo's own surroundings, from which it is called so
BLUR = 0.06  # of the continued ground: the Gaussian's deviation over the canvas


@dataclass(frozen=True)
class Placed:
    """An object on its own ground.

    Attributes:
        pixels: uint8, shape (canvas, canvas, 3).
        share: Share of the ground around the object that its photo really shows, in [0, 1].
    """

    pixels: np.ndarray
    share: float


def placed_paste(
    photo: np.ndarray, *, box: Sequence[int] | None = None, left: int, top: int, width: int, canvas: int
) -> Placed:
    """Return an object pasted as in its guide, with its photo's surroundings around it at the same scale.

    Args:
        photo: uint8, shape (h, w, 3).
        box: Where the object is, (left, top, right, bottom) in pixels, as in `compositing.centre_square`.
        left, top, width: Where the square around the object was pasted, in pixels of the canvas.
        canvas: Side of the result in pixels.
    """
    x, y, side = square_place(*photo.shape[:2], box=box)
    scale = width / side
    ground, known = np.zeros((canvas, canvas, 3), np.uint8), np.zeros((canvas, canvas), bool)
    # The part of the photo that the canvas shows, so that a large photo is not resized whole.
    ends = [(x - left / scale, x + (canvas - left) / scale), (y - top / scale, y + (canvas - top) / scale)]
    lengths = photo.shape[1], photo.shape[0]
    (x0, x1), (y0, y1) = ((max(0.0, a), min(float(n), b)) for (a, b), n in zip(ends, lengths, strict=True))
    across, down = (
        sorted(round((v - o) * scale) for v in part) for part, o in (((x0, x1), ends[0][0]), ((y0, y1), ends[1][0]))
    )
    size = across[1] - across[0], down[1] - down[0]
    shown = Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC, box=(x0, y0, x1, y1))
    inside = np.s_[down[0] : down[1], across[0] : across[1]]
    ground[inside], known[inside] = np.asarray(shown), True
    patch = resized(centre_square(photo, box=box), width)
    ground, known = paste(patch, ground, left=left, top=top), known.copy()
    known[top : top + width, left : left + width] = True
    around = np.ones_like(known)
    around[top : top + width, left : left + width] = False
    share = float(known[around].mean()) if around.any() else 1.0
    return Placed(paste(patch, continued(ground, known), left=left, top=top), share)


def placed_blend(photo: Photo, mask: np.ndarray, *, canvas: int, surroundings: bool = True) -> Placed:
    """Return an object that was cut out along its outline, where its guide has it, on its photo's own ground.

    Args:
        photo: The object's photo.
        mask: uint8, shape (h, w), 255 where the object is.
        canvas: Side of the result in pixels.
        surroundings: Whether the photo shows any; a cut-out with an alpha channel does not.
    """
    left, top, side = padded_place(*mask.shape)
    square, known = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), bool)
    inside = np.s_[top : top + mask.shape[0], left : left + mask.shape[1]]
    square[inside], known[inside] = photo.pixels, True if surroundings else mask > 127
    around = np.ones_like(known)
    around[inside] = mask <= 127
    share = float(known[around].mean()) if around.any() else 1.0
    return Placed(blend(photo.pixels, mask, continued(square, known), canvas=canvas), share)


def continued(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return a picture whose unknown pixels are what lies nearest to them, blurred; known ones stay.

    Args:
        pixels: uint8, shape (h, w, 3).
        known: bool, shape (h, w); at least one is known.

    Raises:
        ValueError: If nothing is known.
    """
    if not known.any():
        raise ValueError("known must mark at least one pixel to go on from, got none")
    if known.all():
        return pixels
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    filled = pixels[tuple(nearest)].astype(np.float32)
    sigma = BLUR * max(known.shape)
    smooth = gaussian_filter(filled, (sigma, sigma, 0), mode="nearest", truncate=3)
    return np.where(known[..., None], pixels, smooth.round().clip(0, 255).astype(np.uint8))


def write_placed(
    guides: pd.DataFrame,
    foregrounds: pd.DataFrame,
    *,
    run_folder: Path,
    source: PhotoSource | None = None,
    workers: int = 2,
) -> pd.DataFrame:
    """Write each guide's twin that is not there yet, and return the guides with what their grounds are.

    Args:
        guides: From `guides.plan_guides`.
        foregrounds: What they were planned from.
        run_folder: Folder that file names are relative to.
        source: Where foregrounds with the source "photo" come from.
        workers: Threads.

    Returns:
        The guides with the columns `placed_file`, `own_ground_share` (see `Placed`) and `own_ground`:
        ``surroundings`` from `ENOUGH` on, ``continued`` below.

    Raises:
        PhotoError: If a photo can no longer be read.
    """
    run_folder = Path(run_folder)
    (run_folder / FOLDER / "placed").mkdir(parents=True, exist_ok=True)
    foreground_of = foregrounds.set_index("foreground_id").to_dict("index")
    read = foreground_reader(foregrounds, run_folder=run_folder, source=source)

    def make(rows: pd.DataFrame) -> pd.DataFrame:
        """Write the twins of one foreground's guides; cut out along its outline, it has one place and one twin."""
        foreground_id = rows["foreground_id"].iloc[0]
        foreground, canvas = foreground_of[foreground_id], int(rows["canvas"].iloc[0])
        photo, mask, box = read(foreground_id)
        made_from = {"foreground": foreground["source_sha256"], "mask": foreground["mask_mode"], "canvas": canvas,
                     "box": None if box is None else [int(end) for end in box]}  # fmt: skip
        if mask is not None:
            placed = placed_blend(photo, mask, canvas=canvas, surroundings=foreground["mask_mode"] != "alpha")
            twins = [(foreground_id, {}, placed)] * len(rows)
        else:
            places = rows[["left", "top", "width"]].astype(int).to_dict("records")
            twins = [
                (image_id, place, placed_paste(photo.pixels, box=box, canvas=canvas, **place))
                for image_id, place in zip(rows["image_id"], places, strict=True)
            ]
        files = [f"{FOLDER}/placed/{name}.png" for name, _, _ in twins]
        for file, (_, place, placed) in dict(zip(files, twins, strict=True)).items():
            if not has_recipe(run_folder / file, made_from | place):
                write_png(run_folder / file, placed.pixels, recipe=made_from | place)
        return rows.assign(placed_file=files, own_ground_share=[placed.share for *_, placed in twins])

    parts = [rows for _, rows in guides.groupby("foreground_id", sort=False)]
    with ThreadPoolExecutor(workers) as pool:
        made = tqdm(pool.map(make, parts), total=len(parts), desc="own ground", mininterval=2, file=sys.stdout)
        table = pd.concat(made).loc[guides.index]
    names = np.where(table["own_ground_share"] >= ENOUGH, "surroundings", "continued")
    return table.assign(own_ground=names)
