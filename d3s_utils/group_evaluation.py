"""How well linear heads do where the background misleads: by kind of pair, in the worst group, on both averages."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from d3s_utils.group_robustness import LinearHead
from d3s_utils.intervals import clustered_wilson
from d3s_utils.metrics import Estimate

_KINDS = ("matching", "non_matching")


def head_outcomes(
    head: LinearHead,
    features: ArrayLike,
    classes: ArrayLike,
    groups: ArrayLike,
    kinds: ArrayLike,
    *,
    foregrounds: ArrayLike,
) -> pd.DataFrame:
    """Say of each tested picture whether the head names its class.

    Args:
        head: From `group_robustness.train_head`.
        features: Shape (n, width), not standardised.
        classes, groups, kinds, foregrounds: Shape (n,); kinds such as those of `spurious_task.test_groups`.

    Returns:
        A row a picture, in their order: picture (0, 1, …), foreground_id, label, kind, group, correct (bool).

    Raises:
        ValueError: If shapes do not fit, there is no picture, or the head knows no such class.
    """
    guessed = head.predict(features)
    columns = {"classes": classes, "groups": groups, "kinds": kinds, "foregrounds": foregrounds}
    columns = {name: np.asarray(values) for name, values in columns.items()}
    for name, values in columns.items():
        if values.shape != guessed.shape:
            raise ValueError(f"{name} must have one value for each of {len(guessed)} rows, got shape {values.shape}")
    if not len(guessed):
        raise ValueError("features must hold at least one picture, got none")
    unknown = sorted(set(columns["classes"].tolist()) - set(head.classes.tolist()))
    if unknown:
        raise ValueError(f"classes must be those of the head ({head.classes.tolist()}), got {unknown[0]!r}")
    return pd.DataFrame(
        {
            "picture": np.arange(len(guessed)),
            "foreground_id": columns["foregrounds"],
            "label": columns["classes"],
            "kind": columns["kinds"],
            "group": columns["groups"],
            "correct": guessed == columns["classes"],
        }
    )


def evaluate_outcomes(
    outcomes: pd.DataFrame,
    *,
    training_groups: ArrayLike,
    minimum: int = 10,
    group_kinds: Sequence[str] = _KINDS,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Measure a head by kind of picture, in its worst group, and by both averages.

    Intervals are Wilson's at the effective sample size, clustered by foreground (see `intervals.clustered_wilson`).
    The worst group's is Bonferroni's, as in `subgroup_measures.worst_cells`: it holds for the lowest true accuracy,
    whichever group has it. The groups it is sought among are each class's matching and each class's non-matching
    pairs: a single class on a single background has too few pictures for its lowest accuracy to be more than bad luck.

    Args:
        outcomes: From `head_outcomes`, at least one row.
        training_groups: The group of each picture of the spurious training set, shape (m,), m at least 1.
        minimum: Groups with fewer tested pictures cannot be the worst.
        group_kinds: The kinds whose pictures make the worst group and the two averages; left-out backgrounds and plain
            photos are of no group that training could have had.
        confidence: Of the intervals.

    Returns:
        A row a measure: measure, group (the worst one's name, such as ``dog, matching``; else empty), value, low,
        high, n (pictures), foregrounds, coverage. The measures are each of the kinds that is there (``matching``,
        ``non_matching``, ``left_out``, others by name), then ``worst_group``, ``picture_average`` (every picture the
        same) and ``training_group_average`` (every group as much as its share of the training pictures). `coverage` is
        the number of groups compared (worst_group), or the share of training pictures whose group is tested
        (training_group_average), 1 elsewhere. A number that cannot be had is NaN with n 0.

    Raises:
        ValueError: If an option is out of range.

    Source: Sagawa et al. 2020, arXiv:1911.08731 (worst group, average weighted by training groups).
    """
    if minimum < 1:
        raise ValueError(f"minimum must be at least 1, got {minimum}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    present = set(outcomes["kind"])
    first = [kind for kind in (*_KINDS, "left_out") if kind in present]
    rows = [
        _row(kind, part, clustered_wilson(part["correct"], part["foreground_id"], confidence=confidence))
        for kind in [*first, *sorted(present - set(first))]
        for part in [outcomes[outcomes["kind"] == kind]]
    ]
    grouped = outcomes[outcomes["kind"].isin(list(group_kinds))]
    rows.append(_worst_group(grouped, minimum, confidence))
    average = (
        clustered_wilson(grouped["correct"], grouped["foreground_id"], confidence=confidence) if len(grouped) else None
    )
    rows.append(_row("picture_average", grouped, average))
    rows.append(_training_group_average(grouped, np.asarray(training_groups), confidence))
    return pd.DataFrame(rows)


def _worst_group(grouped: pd.DataFrame, minimum: int, confidence: float) -> dict:
    parts = {names: part for names, part in grouped.groupby(["label", "kind"]) if len(part) >= minimum}
    if not parts:
        return _row("worst_group", grouped[:0], None) | {"coverage": 0}
    each = 1 - (1 - confidence) / len(parts)
    shares = {
        names: clustered_wilson(part["correct"], part["foreground_id"], confidence=each)
        for names, part in parts.items()
    }
    worst = min(shares, key=lambda names: shares[names].value)
    ends = {end: min(getattr(share, end) for share in shares.values()) for end in ("low", "high")}
    named = {"group": ", ".join(map(str, worst)), "coverage": len(parts)}
    return _row("worst_group", parts[worst], shares[worst]) | ends | named


def _training_group_average(grouped: pd.DataFrame, training_groups: np.ndarray, confidence: float) -> dict:
    trained = pd.Series(training_groups).value_counts(normalize=True)
    sizes = grouped["group"].value_counts()
    coverage = float(trained[trained.index.isin(sizes.index)].sum())
    weighing = grouped[grouped["group"].isin(trained.index)]
    if weighing.empty:
        return _row("training_group_average", weighing, None) | {"coverage": 0.0}
    weights = weighing["group"].map(trained) / weighing["group"].map(sizes)
    estimate = clustered_wilson(weighing["correct"], weighing["foreground_id"], weights=weights, confidence=confidence)
    return _row("training_group_average", weighing, estimate) | {"coverage": coverage}


def _row(measure: str, part: pd.DataFrame, estimate: Estimate | None) -> dict:
    value, low, high, n = (np.nan, np.nan, np.nan, 0) if estimate is None else vars(estimate).values()
    return {
        "measure": measure, "group": "", "value": value, "low": low, "high": high, "n": n,
        "foregrounds": part["foreground_id"].nunique(), "coverage": 1.0,
    }  # fmt: skip
