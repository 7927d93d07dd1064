"""Where foregrounds were pasted: measured, and drawn."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import chisquare


def place_shares(guides: pd.DataFrame) -> pd.DataFrame:
    """Return where each pasted foreground lies in the room it had, from 0 (left, top) to 1 (right, bottom).

    Args:
        guides: `image_id`, `foreground_id`, `left`, `top`, `width`, `height`, `canvas` (pixels), `mask_file`.

    Returns:
        `image_id`, `foreground_id`, `left_share`, `top_share`, and `left_room`, `top_room` (places there are); guides
        that were blended by a mask, or had no room, are left out.
    """
    rooms = guides[["width", "height"]].rsub(guides.canvas, axis=0).set_axis(["left_room", "top_room"], axis=1)
    free = guides.mask_file.isna() & (rooms > 0).all(axis=1)
    shares = {f"{side}_share": guides[side] / rooms[f"{side}_room"] for side in ("left", "top")}
    return guides[["image_id", "foreground_id"]].assign(**shares, **(rooms + 1))[free].reset_index(drop=True)


def place_counts(shares: pd.DataFrame, *, bins: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return how many foregrounds lie in each part of their room, and how many even chances would give.

    Args:
        shares: Of `place_shares`, at least one row, all with the same room.
        bins: Parts a side, or as many as there are places. They hold equally many places up to one.

    Returns:
        Two arrays of shape (bins, bins), from the top and from the left.

    Raises:
        ValueError: If `shares` is empty or its rooms differ.
    """
    if len(shares[["left_room", "top_room"]].drop_duplicates()) != 1:
        raise ValueError(f"shares must be of places in one room, got {len(shares)} rows of different rooms or none")
    bin_of, expected = {}, {}
    for side in ("top", "left"):
        room = int(shares[f"{side}_room"].iloc[0])
        bin_of_place = np.arange(room) * min(bins, room) // room
        expected[side] = np.bincount(bin_of_place) / room
        bin_of[side] = bin_of_place[np.round(shares[f"{side}_share"] * (room - 1)).astype(int)]
    counts = np.zeros((len(expected["top"]), len(expected["left"])))
    np.add.at(counts, (bin_of["top"], bin_of["left"]), 1)
    return counts, np.outer(expected["top"], expected["left"]) * len(shares)


def uniformity(counts: np.ndarray, expected: np.ndarray) -> float:
    """Return how likely counts this uneven are if all places are equally likely: the chi-squared p-value, in [0, 1]."""
    return 1.0 if counts.size == 1 else float(chisquare(counts.ravel(), expected.ravel()).pvalue)


def coverage(guides: pd.DataFrame, *, canvas: int) -> np.ndarray:
    """Return the share of guides whose photo covers each pixel, shape (canvas, canvas)."""
    corners = np.zeros((canvas + 1, canvas + 1))
    left, top = guides.left.to_numpy(), guides.top.to_numpy()
    right, bottom = left + guides.width.to_numpy(), top + guides.height.to_numpy()
    for rows, columns, sign in ((top, left, 1), (bottom, left, -1), (top, right, -1), (bottom, right, 1)):
        np.add.at(corners, (rows, columns), sign)
    return corners.cumsum(0).cumsum(1)[:canvas, :canvas] / len(guides)


def draw_places(counts: np.ndarray, expected: np.ndarray, ax: Axes) -> Axes:
    """Draw the counts of `place_counts` over those that even chances would give, each with its number."""
    picture = ax.imshow(counts / expected, cmap="cividis", vmin=0, vmax=2, extent=(0, 1, 1, 0))
    ax.figure.colorbar(picture, ax=ax, label="guides over the number that even chances give", shrink=0.8)
    height, width = counts.shape
    for (row, column), count in np.ndenumerate(counts):
        place = (column + 0.5) / width, (row + 0.5) / height
        ax.text(*place, f"{count:.0f}", ha="center", va="center", color="white", fontsize=9)
    ax.set_xlabel("left edge, share of the free room")
    ax.set_ylabel("top edge, share of the free room")
    return ax


def draw_coverage(covered: np.ndarray, ax: Axes) -> Axes:
    """Draw the share of guides whose foreground covers each pixel."""
    picture = ax.imshow(covered, cmap="cividis", vmin=0, vmax=1)
    ax.figure.colorbar(picture, ax=ax, label="share of guides that cover the pixel", shrink=0.8)
    ax.set_xlabel("pixels from the left")
    ax.set_ylabel("pixels from the top")
    return ax
