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


def uniformity(shares: pd.DataFrame, *, bins: int = 4) -> float:
    """Return how likely places this uneven are if all are equally likely: the chi-squared test's p-value, in [0, 1].

    Args:
        shares: Of `place_shares`, at least one row, all with the same room.
        bins: Bins a side; they hold equally many places up to one, which the expected counts take into account.
    """
    rooms = shares[["left_room", "top_room"]].iloc[0].astype(int)
    sides = {"left": rooms.iloc[0], "top": rooms.iloc[1]}
    bin_of, expected = {}, {}
    for side, room in sides.items():
        bin_of_place = np.arange(room) * min(bins, room) // room
        expected[side] = np.bincount(bin_of_place) / room
        bin_of[side] = bin_of_place[np.round(shares[f"{side}_share"] * (room - 1)).astype(int)]
    counts = np.zeros((len(expected["top"]), len(expected["left"])))
    np.add.at(counts, (bin_of["top"], bin_of["left"]), 1)
    probabilities = np.outer(expected["top"], expected["left"])
    return 1.0 if counts.size == 1 else float(chisquare(counts.ravel(), probabilities.ravel() * len(shares)).pvalue)


def coverage(guides: pd.DataFrame, *, canvas: int) -> np.ndarray:
    """Return the share of guides whose photo covers each pixel, shape (canvas, canvas)."""
    corners = np.zeros((canvas + 1, canvas + 1))
    left, top = guides.left.to_numpy(), guides.top.to_numpy()
    right, bottom = left + guides.width.to_numpy(), top + guides.height.to_numpy()
    for rows, columns, sign in ((top, left, 1), (bottom, left, -1), (top, right, -1), (bottom, right, 1)):
        np.add.at(corners, (rows, columns), sign)
    return corners.cumsum(0).cumsum(1)[:canvas, :canvas] / len(guides)


def draw_places(shares: pd.DataFrame, ax: Axes, *, bins: int = 8) -> Axes:
    """Draw how many foregrounds lie at each place in their room, and the count that equal chances would give."""
    counts, _, _ = np.histogram2d(shares.top_share, shares.left_share, bins=bins, range=[[0, 1], [0, 1]])
    picture = ax.imshow(counts, cmap="cividis", vmin=0, extent=(0, 1, 1, 0))
    ax.figure.colorbar(picture, ax=ax, label=f"guides a cell (even: {len(shares) / bins**2:.1f})", shrink=0.8)
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
