"""Scores by foreground: pictures of one guide are drawn together, since they are not independent."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from d3s_utils.evaluation import MEASURES
from d3s_utils.randomness import numpy_generator

_CELLS_AT_ONCE = 5_000_000  # numbers held in memory at a time


def known_scores(scores: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return the rows whose `measure` is known, with a column `right` (1.0, 0.0), in an order that input rows lack.

    Args:
        scores: From `one_pass.evaluate`.
        measure: A key of `evaluation.MEASURES`.

    Raises:
        ValueError: If the measure is none, a column is missing, nothing is known, a model has a picture twice, or an
            outcome is neither 0 nor 1.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    column = "in9_right" if measure == "in9" else measure
    missing = [name for name in ("model", "picture_id", "kind", "foreground_id", column) if name not in scores]
    if missing:
        raise ValueError(f"scores must have the column {missing[0]}, got {', '.join(map(str, scores.columns))}")
    known = scores.dropna(subset=column)
    if known.empty:
        raise ValueError(f"scores must know {measure} of a picture, got {len(scores)} rows that do not")
    if known.duplicated(["model", "picture_id"]).any():
        row = known[known.duplicated(["model", "picture_id"])].iloc[0]
        raise ValueError(f"scores must have each picture once a model, got {row['picture_id']!r} twice")
    right = known[column].astype(float)
    if not right.isin([0, 1]).all():
        raise ValueError(f"scores[{column!r}] must be 0 or 1, got {right[~right.isin([0, 1])].iloc[0]}")
    return known.assign(right=right).sort_values(["model", "picture_id"], kind="stable").reset_index(drop=True)


def sums_by_foreground(foregrounds: np.ndarray, columns: np.ndarray, values: np.ndarray, *, width: int) -> csr_array:
    """Return the sum of `values` for each foreground (row, in order of its id) and column.

    Args:
        foregrounds: The foreground of each value, shape (n,).
        columns: Where each value belongs, 0 to width - 1, shape (n,).
        values: Shape (n,).
        width: Number of columns.

    Returns:
        Shape (foregrounds, width).
    """
    names, rows = np.unique(np.asarray(foregrounds), return_inverse=True)
    return csr_array((np.asarray(values, float), (rows, np.asarray(columns))), shape=(len(names), width))


def resampled(
    sums: csr_array, statistic: Callable[[np.ndarray], np.ndarray], *, seed: int, name: str, samples: int
) -> np.ndarray:
    """Return `statistic` of sums over foregrounds that were drawn with replacement.

    Args:
        sums: From `sums_by_foreground`, shape (foregrounds, width).
        statistic: Takes sums of shape (some samples, width), returns shape (some samples, k).
        name: What the draw is for; the same name, seed and number of foregrounds draw the same foregrounds.
        samples: How many draws.

    Returns:
        Shape (samples, k).

    Raises:
        ValueError: If `samples` is below 1.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    random = numpy_generator(seed, "foreground bootstrap", name)
    count, width = sums.shape
    shares, at_once = np.full(count, 1 / count), max(1, _CELLS_AT_ONCE // max(count, width))
    parts = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, samples, at_once):
            weights = random.multinomial(count, shares, size=min(at_once, samples - start)).astype(float)
            parts.append(statistic(weights @ sums))
    return np.concatenate(parts)


def whole(sums: csr_array, statistic: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return `statistic` of all foregrounds, each once, shape (k,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return statistic(np.asarray(sums.sum(axis=0)).reshape(1, -1))[0]
