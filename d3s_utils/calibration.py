"""How far an automatic filter can be believed: its precision, recall and calibration against people's votes.

Everything takes three columns of equal length: a filter's scores (higher means keep), people's answers (True, False, or
None where they left it open) and groups of pictures that resemble each other. Pictures without an answer are left out;
a missing score is never kept.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.model_selection import GroupKFold

from d3s_utils.intervals import clustered_wilson
from d3s_utils.metrics import Estimate

LEAST = 20  # kept pictures below which a precision decides nothing


@dataclass(frozen=True)
class FilterQuality:
    """What a filter's verdicts are worth.

    Attributes:
        precision: Share of kept pictures that people accept; None where nothing was kept.
        recall: Share of pictures that people accept that were kept; None where people accept nothing.
        n: Pictures with an answer.
    """

    precision: Estimate | None
    recall: Estimate | None
    n: int

    def metrics(self, name: str) -> dict[str, Estimate]:
        """Return ``filter_precision/<name>`` and ``filter_recall/<name>``, those that there are."""
        found = {f"filter_precision/{name}": self.precision, f"filter_recall/{name}": self.recall}
        return {key: estimate for key, estimate in found.items() if estimate is not None}


def filter_quality(kept: ArrayLike, accepted: ArrayLike, groups: ArrayLike) -> FilterQuality:
    """Return precision and recall of a filter against people, with intervals for pictures that come in groups.

    Args:
        kept: Whether the filter keeps each picture, booleans (n,).
        accepted: Whether people accept it: True, False or None, (n,).
        groups: What pictures share, such as a foreground's id, (n,).

    Raises:
        ValueError: If the lengths differ, or no picture has an answer.
    """
    kept, accepted, groups = _answered(np.asarray(kept, bool), accepted, groups)
    precision = clustered_wilson(accepted[kept], groups[kept]) if kept.any() else None
    recall = clustered_wilson(kept[accepted], groups[accepted]) if accepted.any() else None
    return FilterQuality(precision, recall, len(kept))


def filter_curve(scores: ArrayLike, accepted: ArrayLike, groups: ArrayLike, *, thresholds: ArrayLike) -> pd.DataFrame:
    """Return precision and recall at each threshold: keep what scores at least as much.

    Returns:
        `threshold`, `kept` (share of the pictures), and `precision` and `recall`, each with ``_low`` and ``_high``;
        missing where undefined.

    Raises:
        ValueError: See `filter_quality`.
    """
    scores, accepted, groups = _answered(np.asarray(scores, float), accepted, groups)
    rows = []
    for threshold in np.asarray(thresholds, float):
        kept = scores >= threshold
        quality = filter_quality(kept, accepted, groups)
        row = {"threshold": threshold, "kept": kept.mean()}
        for name in ("precision", "recall"):
            found = getattr(quality, name)
            values = (found.value, found.low, found.high) if found else (np.nan,) * 3
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def calibration_curve(scores: ArrayLike, accepted: ArrayLike, groups: ArrayLike, *, bins: int = 8) -> pd.DataFrame:
    """Return how often people accept pictures of like score: bins of equally many pictures, ties never parted.

    Returns:
        `score` (mean in the bin), `value` (share accepted), `low`, `high`, `n`; a perfectly calibrated probability has
        `value` equal to `score`. Pictures without a score are left out.

    Raises:
        ValueError: See `filter_quality`; also if `bins` is below 1.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    scores, accepted, groups = _answered(np.asarray(scores, float), accepted, groups)
    seen = ~np.isnan(scores)
    scores, accepted, groups = scores[seen], accepted[seen], groups[seen]
    if not len(scores):
        raise ValueError("scores must hold a number for a picture with an answer, all are missing")
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1], method="lower"))
    place = np.searchsorted(edges, scores, side="left")
    rows = []
    for number in np.unique(place):
        mine = place == number
        rows.append({"score": scores[mine].mean()} | vars(clustered_wilson(accepted[mine], groups[mine])))
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Recommendation:
    """A threshold for a wanted precision.

    Attributes:
        threshold: The lowest one that reaches it here, keeping `LEAST` pictures or more; None where none does.
        precision: What it reaches on the pictures that it was chosen on: flattering.
        recall: Likewise.
        honest_precision: What thresholds chosen on the other folds reach on each fold; None where no fold kept any.
    """

    threshold: float | None
    precision: Estimate | None
    recall: Estimate | None
    honest_precision: Estimate | None


def recommend_threshold(
    scores: ArrayLike, accepted: ArrayLike, groups: ArrayLike, *, precision: float, folds: int = 5
) -> Recommendation:
    """Return the lowest threshold whose precision is enough, as is that of each stricter one that keeps `LEAST`.

    A threshold that was chosen because it did well will do less well on other pictures. So it is also chosen with each
    fold of groups left out in turn, and measured there.

    Args:
        scores, accepted, groups: See the module.
        precision: Wanted, in (0, 1].
        folds: Parts that the groups are divided into.

    Raises:
        ValueError: If `precision` is not in (0, 1]; see also `filter_quality`.
    """
    if not 0 < precision <= 1:
        raise ValueError(f"precision must lie in (0, 1], got {precision}")
    scores, accepted, groups = _answered(np.asarray(scores, float), accepted, groups)
    threshold = _lowest_threshold(scores, accepted, precision)
    kept_honestly = np.zeros(len(scores), bool)
    parts = min(folds, len(np.unique(groups)))
    if parts > 1:
        for learn, hold in GroupKFold(parts).split(scores, groups=groups):
            chosen = _lowest_threshold(scores[learn], accepted[learn], precision)
            if chosen is not None:
                kept_honestly[hold] = scores[hold] >= chosen
    honest = filter_quality(kept_honestly, accepted, groups).precision
    if threshold is None:
        return Recommendation(None, None, None, honest)
    quality = filter_quality(scores >= threshold, accepted, groups)
    return Recommendation(threshold, quality.precision, quality.recall, honest)


def _lowest_threshold(scores: np.ndarray, accepted: np.ndarray, precision: float, least: int = LEAST) -> float | None:
    order = np.argsort(-np.where(np.isnan(scores), -np.inf, scores), kind="stable")
    ordered = scores[order]
    known = ~np.isnan(ordered)
    ordered, hits = ordered[known], accepted[order][known].cumsum()
    last_of_tie = np.r_[ordered[1:] < ordered[:-1], True] if len(ordered) else np.zeros(0, bool)
    counts = np.arange(1, len(ordered) + 1)
    good = last_of_tie & (hits / counts >= precision)
    # From strict to lenient: go on while it is good enough; the first few kept pictures alone decide nothing.
    enough = counts >= least
    bad = last_of_tie & ~good & enough
    reached = np.flatnonzero(good & enough & (np.cumsum(bad) == 0))
    return float(ordered[reached[-1]]) if len(reached) else None


def _answered(scores: np.ndarray, accepted: ArrayLike, groups: ArrayLike):
    accepted, groups = np.asarray(accepted, dtype=object), np.asarray(groups)
    if not len(scores) == len(accepted) == len(groups):
        raise ValueError(
            "scores, accepted and groups must be equally long, "
            f"got {len(scores)}, {len(accepted)} and {len(groups)}"
        )  # fmt: skip
    known = pd.notna(accepted)
    if not known.any():
        raise ValueError("accepted must hold an answer for at least one picture, all are open")
    return scores[known], accepted[known].astype(bool), groups[known]
