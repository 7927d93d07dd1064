"""Where a foreground was pasted into a guide: the square whose four borders are seams."""

from dataclasses import dataclass

import numpy as np

_OFFSET = 6  # grey levels, over three channels, that are added to every step: smaller ones hardly count
_LOGS = np.log(np.arange(3 * 255 + 1, dtype=np.float32) + _OFFSET)
_SURE = 6.5  # least lead of a place, times the square root of its side in pixels; measured in tests/test_d3s_import.py
_SMALLEST = 8  # pixels; a smaller square's borders are too short to tell


@dataclass(frozen=True)
class Paste:
    """Where a square was pasted.

    Attributes:
        left, top: Its corner in pixels.
        side: In pixels.
        score: Mean over its visible borders of log(step across the border / steps beside it), times the square root
            of how many are visible: a border on the picture's edge is not.
        lead: By how much `score` exceeds that of the best place in other columns and other rows.
    """

    left: int
    top: int
    side: int
    score: float
    lead: float


def find_paste(guide: np.ndarray, *, side: int) -> Paste | None:
    """Return where a hard-edged square was pasted, or None where no place stands out.

    A step between neighbouring pixels counts by how much it exceeds, as a ratio, the steps just before and after it in
    the same row or column. So an edge of a photo, which is spread over some pixels, counts less than a seam.

    Args:
        guide: uint8, shape (n, n, 3).
        side: Of the square, in pixels, 1 to n. One below 8 pixels, or nearly n, is never found.

    Raises:
        ValueError: If `guide` is no RGB square, or `side` is not in [1, n].
    """
    n = len(guide)
    if guide.dtype != np.uint8 or guide.shape != (n, n, 3):
        raise ValueError(f"guide must be uint8 of shape (n, n, 3), got {guide.dtype} {guide.shape}")
    if not 1 <= side <= n:
        raise ValueError(f"side must be in [1, {n}], got {side}")
    room = n - side
    if side < _SMALLEST or room < 4:
        return None
    upright, level = _seams(guide, side), _seams(guide.transpose(1, 0, 2), side).T
    total = upright[:, : room + 1] + upright[:, side:] + level[: room + 1] + level[side:]
    inside = np.arange(room + 1) % room != 0  # False at both ends: there one border lies on the picture's edge
    visible = 2 + inside[:, None].astype(int) + inside
    scores = total / np.sqrt(visible)
    top, left = (int(place) for place in np.unravel_index(scores.argmax(), scores.shape))
    far = np.abs(np.arange(room + 1)[:, None] - (top, left)) > 2  # a place in its rows or columns shares borders
    others = scores[np.ix_(far[:, 0], far[:, 1])]
    if not others.size:
        return None
    score = float(scores[top, left])
    lead = score - float(others.max())
    return Paste(left, top, side, score, lead) if lead >= _SURE / side**0.5 else None


def _seams(picture: np.ndarray, side: int) -> np.ndarray:
    """Return how much each vertical line of `side` pixels looks like a seam: [top, left], 0 on the picture's edge."""
    steps = np.zeros(picture.shape[:2], np.int16)[:, 1:]
    for channel in range(3):  # of uint8, the larger less the smaller
        right, left = picture[:, 1:, channel], picture[:, :-1, channel]
        steps += np.maximum(right, left) - np.minimum(right, left)
    logs = _LOGS[steps]
    beside = np.pad(logs, ((0, 0), (1, 1)), mode="reflect")
    excess = logs - (beside[:, :-2] + beside[:, 2:]) / 2
    sums = np.zeros((len(picture) + 1, len(picture) + 1))
    np.cumsum(excess, axis=0, out=sums[1:, 1:-1], dtype=float)
    return (sums[side:] - sums[:-side]) / side
