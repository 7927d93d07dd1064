"""Masks of a photo's object: from its alpha, from a mask file, by GrabCut in a box, or an ellipse in a box.

A mask is uint8, shape (h, w): 255 where the object is, 0 where it is not, between them at soft edges. A box is
(left, top, right, bottom) in pixels, right and bottom outside.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from d3s_utils.photos import Photo, PhotoError

MODES = ("none", "auto", "alpha", "file", "grabcut", "ellipse")
Box = tuple[int, int, int, int]


def mask_of(
    photo: Photo, *, mode: str, box: Sequence[int] | None = None, mask_file: Photo | None = None
) -> tuple[np.ndarray | None, str]:
    """Return a photo's mask and the mode that made it.

    Args:
        photo: The photo.
        mode: One of `MODES`. "auto" takes the first there is of alpha and mask file, or none.
        box: Where the object is; the middle 80 % of the photo where None.
        mask_file: The mask as a picture, for the mode "file".

    Returns:
        The mask (None for the mode "none") and one of `MODES`. GrabCut that finds next to nothing, or all of the box,
        gives way to the ellipse.

    Raises:
        ValueError: If `mode` is not one of `MODES`.
        PhotoError: If the photo has no alpha or mask file although the mode asks for it, or the box is outside.
    """
    shape = photo.pixels.shape[:2]
    mode = check_mask(photo, mode=mode, box=box, mask_file=mask_file)
    if mode == "none":
        return None, mode
    if mode == "alpha":
        return alpha_mask(photo), mode
    if mode == "file":
        return file_mask(mask_file, shape=shape), mode
    box = clip_box(middle_box(shape) if box is None else box, shape=shape)
    if mode == "grabcut":
        mask = grabcut_mask(photo.pixels, box)
        left, top, right, bottom = box
        share = (mask > 127).sum() / ((right - left) * (bottom - top))
        if 0.05 < share < 0.97:
            return mask, mode
    return ellipse_mask(shape, box), "ellipse"


def check_mask(photo: Photo, *, mode: str, box: Sequence[int] | None = None, mask_file: Photo | None = None) -> str:
    """Return the mode that `mask_of` will use (never "auto"), without the work of cutting.

    Raises:
        As `mask_of`.
    """
    if mode not in MODES:
        raise ValueError(f"mask_mode must be one of {', '.join(MODES)}, got {mode!r}")
    if mode == "auto":
        mode = "alpha" if photo.alpha is not None else "file" if mask_file is not None else "none"
    if mode == "alpha":
        alpha_mask(photo)
    elif mode == "file" and mask_file is None:
        raise PhotoError("there is no mask file for this photo, which mask_mode 'file' asks for")
    elif mode == "file":
        file_mask(mask_file, shape=photo.pixels.shape[:2])
    elif box is not None:
        clip_box(box, shape=photo.pixels.shape[:2])
    return mode


def alpha_mask(photo: Photo) -> np.ndarray:
    """Return the photo's opacity.

    Raises:
        PhotoError: If it has none, or is transparent everywhere.
    """
    if photo.alpha is None:
        raise PhotoError("the photo has no alpha (or is opaque everywhere), which mask_mode 'alpha' asks for")
    return _not_empty(photo.alpha)


def file_mask(picture: Photo, *, shape: tuple[int, int]) -> np.ndarray:
    """Return a mask that came as a picture of zeros and ones, of 0 to 255, or in its alpha.

    Raises:
        PhotoError: If it is not as large as its photo, `shape` (h, w), or empty.
    """
    mask = picture.alpha if picture.alpha is not None else picture.pixels[..., 0]
    if mask.shape != tuple(shape):
        raise PhotoError(f"a mask must be as large as its photo, {shape[1]} x {shape[0]}, got {mask.shape[::-1]}")
    return _not_empty(mask * 255 if mask.max() == 1 else mask)


def ellipse_mask(shape: tuple[int, int], box: Sequence[int]) -> np.ndarray:
    """Return the mask of the ellipse that touches the sides of `box`, with an edge one pixel soft.

    Args:
        shape: Height and width of the mask.
        box: (left, top, right, bottom) in pixels.

    Raises:
        PhotoError: If nothing of the box lies inside.
    """
    left, top, right, bottom = clip_box(box, shape=shape)
    x = (np.arange(shape[1]) + 0.5 - (left + right) / 2) / ((right - left) / 2)
    y = (np.arange(shape[0])[:, None] + 0.5 - (top + bottom) / 2) / ((bottom - top) / 2)
    inside = (1 - np.hypot(x, y)) * min(right - left, bottom - top) / 2  # about pixels from the edge
    return np.round(np.clip(inside + 0.5, 0, 1) * 255).astype(np.uint8)


def grabcut_mask(pixels: np.ndarray, box: Sequence[int], *, iterations: int = 5, side: int = 256) -> np.ndarray:
    """Return the mask of what differs, inside `box`, from the photo outside it.

    Only the largest connected part is kept, with its holes filled. The same input gives the same mask.

    Args:
        pixels: uint8, shape (h, w, 3), RGB.
        box: (left, top, right, bottom) in pixels; where it fills the photo, a rim of 2 % counts as outside.
        iterations: Rounds of fitting and cutting.
        side: The photo's longer side while it is cut, in pixels: the cut of a larger one takes seconds.

    Source: Rother, Kolmogorov, Blake 2004, "GrabCut"; OpenCV.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = clip_box(box, shape=(height, width))
    rim_x, rim_y = max(1, width // 50), max(1, height // 50)
    left, right = max(left, rim_x), min(right, width - rim_x)
    top, bottom = max(top, rim_y), min(bottom, height - rim_y)
    if right - left < 2 or bottom - top < 2:
        return np.zeros((height, width), np.uint8)
    shrink = min(1.0, side / max(height, width))
    size = max(2, round(width * shrink)), max(2, round(height * shrink))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if shrink < 1 else pixels
    rectangle = [round(value * shrink) for value in (left, top, right - left, bottom - top)]
    labels = np.zeros(small.shape[:2], np.uint8)
    cv2.setRNGSeed(0)  # its k-means draws; OpenCV's generator belongs to this thread
    try:
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(
            np.ascontiguousarray(small[..., ::-1]), labels, rectangle, *models, iterations, cv2.GC_INIT_WITH_RECT
        )
    except cv2.error:  # too few distinct colours inside or outside to fit its mixtures
        return np.zeros((height, width), np.uint8)
    mask = _largest_part_filled((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))
    return cv2.GaussianBlur(cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR), (3, 3), 0)


def middle_box(shape: tuple[int, int], *, share: float = 0.8) -> Box:
    """Return the box that holds the middle `share` of each side of a photo of `shape` (h, w)."""
    height, width = shape
    x, y = round(width * (1 - share) / 2), round(height * (1 - share) / 2)
    return x, y, width - x, height - y


def clip_box(box: Sequence[int], *, shape: tuple[int, int]) -> Box:
    """Return `box` cut to a photo of `shape` (h, w).

    Raises:
        PhotoError: If it is not four finite numbers, or nothing of it lies inside.
    """
    values = np.asarray(box, dtype=float).ravel()
    if values.shape != (4,) or not np.isfinite(values).all():
        raise PhotoError(f"a box must be left, top, right, bottom in pixels, got {box!r}")
    height, width = shape
    left, right = np.clip(np.round(values[[0, 2]]), 0, width)
    top, bottom = np.clip(np.round(values[[1, 3]]), 0, height)
    if right <= left or bottom <= top:
        raise PhotoError(f"a box must overlap its photo of {width} x {height} pixels, got {tuple(values.tolist())}")
    return int(left), int(top), int(right), int(bottom)


def _largest_part_filled(mask: np.ndarray) -> np.ndarray:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(mask.shape, np.uint8)
    if outlines:
        cv2.drawContours(filled, [max(outlines, key=cv2.contourArea)], -1, 255, thickness=cv2.FILLED)
    return filled


def _not_empty(mask: np.ndarray) -> np.ndarray:
    if not (mask > 127).any():
        raise PhotoError("the mask is empty: it marks no pixel as the object")
    return mask
