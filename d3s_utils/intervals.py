"""95 % intervals: for a share, for a mean, for the difference of two paired means."""

import numpy as np
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from d3s_utils.metrics import Estimate
from d3s_utils.randomness import numpy_generator

_WEIGHTS_AT_ONCE = 5_000_000  # bootstrap weights held in memory at a time


def wilson(successes: int, total: int, *, confidence: float = 0.95) -> Estimate:
    """Return the share `successes / total` of independent trials with its Wilson interval.

    Raises:
        ValueError: If `total` is not positive, or `successes` is not in [0, total].

    Source: Wilson 1927; statsmodels' `proportion_confint`.
    """
    if total < 1:
        raise ValueError(f"total must be at least 1, got {total}")
    if not 0 <= successes <= total:
        raise ValueError(f"successes must be between 0 and total={total}, got {successes}")
    return _wilson(successes / total, total, int(total), confidence)


def clustered_wilson(outcomes: ArrayLike, groups: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Return the share of true `outcomes`, with a Wilson interval that knows outcomes of one group resemble each other.

    Ten pictures dreamt from one guide are not ten independent trials. The number of trials is divided by the
    design effect: the variance of the share between groups over the variance of independent trials. Where the
    variance cannot be estimated (all outcomes equal, or one group) the number of groups counts as trials.

    Args:
        outcomes: Zeros and ones (or booleans), shape (n,).
        groups: What each outcome shares with others, such as a foreground's id, shape (n,).

    Returns:
        An estimate whose `n` is the number of outcomes.

    Raises:
        ValueError: If the input is empty, of unequal lengths, or not zeros and ones.

    Source: Franco, Little, Louis, Slud 2019, "Comparative study of confidence intervals for proportions in
        complex sample surveys" (Wilson interval at the effective sample size).
    """
    outcomes, codes = _values_and_codes(outcomes, groups)
    if not np.isin(outcomes, (0, 1)).all():
        raise ValueError(f"outcomes must be zeros and ones, got {np.unique(outcomes)[:5]}")
    share, total = outcomes.mean(), len(outcomes)
    residuals = np.bincount(codes, weights=outcomes - share)  # one sum per group
    group_count = len(residuals)
    trials = float(group_count)
    if 0 < share < 1 and 1 < group_count < total:  # where each is a group of its own, all are independent
        between_groups = group_count / (group_count - 1) * np.square(residuals).sum() / total**2
        design_effect = max(1.0, between_groups / (share * (1 - share) / total))
        trials = total / design_effect
    return _wilson(share, trials, total, confidence)


def bootstrap_mean(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    samples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """Return the mean of `values` with a percentile bootstrap interval.

    Args:
        values: Shape (n,).
        groups: What is drawn with replacement, shape (n,); each value on its own where None.
        samples: Number of bootstrap samples.

    Returns:
        An estimate whose `n` is the number of values.

    Raises:
        ValueError: If the input is empty, not finite, or of unequal lengths.
    """
    values, codes = _values_and_codes(values, np.arange(np.size(values)) if groups is None else groups)
    sums, counts = np.bincount(codes, weights=values), np.bincount(codes)
    draws = [
        weights @ sums / (weights @ counts)
        for weights in _bootstrap_weights(len(sums), seed=seed, samples=samples, name="bootstrap_mean")
    ]
    return _percentile(values.mean(), np.concatenate(draws), len(values), confidence)


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    second_groups: ArrayLike | None = None,
    seed: int = 0,
    samples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """Return mean(first) - mean(second) with a percentile bootstrap interval over what the two share.

    Each bootstrap sample draws groups with replacement and takes *both* means over the groups drawn, so what a
    group adds to both sides cancels.

    Args:
        first: Shape (n,), such as whether a classifier is right on each plain foreground.
        second: Shape (m,), such as whether it is right on each picture dreamt from them.
        groups: The group of each value of `first`, shape (n,). Where None, `first[i]` and `second[i]` are pair i.
        second_groups: The group of each value of `second`, shape (m,); `groups` where None.

    Returns:
        An estimate whose `n` is the number of groups (pairs).

    Raises:
        ValueError: If lengths do not fit, a value is not finite, or a group has no value on one side.
    """
    return paired_test(
        first, second, groups=groups, second_groups=second_groups, seed=seed, samples=samples, confidence=confidence
    )[0]


def paired_test(first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95, **options) -> tuple[Estimate, float]:
    """Return `paired_difference`, and the two-sided p-value of no difference by the same bootstrap.

    p is twice the share of draws on the other side of 0, by the add-one rule, so it is never 0; it is below
    1 - `confidence` about where the interval leaves 0 out.

    Args:
        options: The other arguments of `paired_difference`.

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 15.4 (a test by its interval).
    """
    means, draws, group_count = _paired_means(first, second, name="paired_difference", **options)
    differences = draws[0] - draws[1]
    beyond = min((differences <= 0).sum(), (differences >= 0).sum())
    p_value = min(1.0, 2 * (beyond + 1) / (len(differences) + 1))
    return _percentile(means[0] - means[1], differences, group_count, confidence), float(p_value)


def ratio_of_means(
    first: ArrayLike,
    second: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    second_groups: ArrayLike | None = None,
    seed: int = 0,
    samples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """Return mean(first) / mean(second), with the arguments, the interval and the errors of `paired_difference`.

    Raises:
        ValueError: Also if the second mean is not above 0.
    """
    means, draws, group_count = _paired_means(
        first, second, groups=groups, second_groups=second_groups, seed=seed, samples=samples, name="ratio_of_means"
    )
    if not means[1] > 0:
        raise ValueError(f"second must have a mean above 0 to divide by, got {means[1]}")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = draws[0] / draws[1]
    return _percentile(means[0] / means[1], ratios[np.isfinite(ratios)], group_count, confidence)


def _paired_means(first, second, *, groups=None, second_groups=None, seed: int = 0, samples: int = 2000, name: str):
    """Return both means, their bootstrap draws over shared groups (2, samples), and the number of groups."""
    if groups is None:
        groups = np.arange(np.size(first))
    second_groups = groups if second_groups is None else second_groups
    first, second = np.asarray(first), np.asarray(second)
    groups, second_groups = np.asarray(groups), np.asarray(second_groups)
    for side, values, labels in (("first", first, groups), ("second", second, second_groups)):
        if values.shape != labels.shape:
            raise ValueError(f"{side} must have one value per group label, got {values.shape} and {labels.shape}")
    both = np.concatenate([groups, second_groups])
    _, codes = _values_and_codes(np.concatenate([first, second]), both)
    first_codes, second_codes = codes[: len(first)], codes[len(first) :]
    group_count = codes.max() + 1
    sums_1, counts_1 = (np.bincount(first_codes, weights=w, minlength=group_count) for w in (first, None))
    sums_2, counts_2 = (np.bincount(second_codes, weights=w, minlength=group_count) for w in (second, None))
    lonely = np.unique(both[np.isin(codes, np.flatnonzero((counts_1 == 0) | (counts_2 == 0)))])
    if len(lonely):
        raise ValueError(f"every group must have values on both sides; {len(lonely)} do not, such as {lonely[0]!r}")
    draws = [
        np.stack([weights @ sums_1 / (weights @ counts_1), weights @ sums_2 / (weights @ counts_2)])
        for weights in _bootstrap_weights(group_count, seed=seed, samples=samples, name=name)
    ]
    return (first.mean(), second.mean()), np.concatenate(draws, axis=1), int(group_count)


def _wilson(share: float, trials: float, total: int, confidence: float) -> Estimate:
    low, high = proportion_confint(share * trials, trials, alpha=1 - confidence, method="wilson")
    return Estimate(float(share), float(min(low, share)), float(max(high, share)), total)


def _values_and_codes(values: ArrayLike, groups: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the values as floats, and each one's group as a number 0, 1, …"""
    values, groups = np.asarray(values, dtype=float), np.asarray(groups)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"values must be one-dimensional and not empty, got shape {values.shape}")
    if groups.shape != values.shape:
        raise ValueError(f"groups must have one label per value, got {groups.shape} for {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"values must be finite, got {values[~np.isfinite(values)][0]}")
    return values, np.unique(groups, return_inverse=True)[1].reshape(-1)


def _bootstrap_weights(group_count: int, *, seed: int, samples: int, name: str):
    """Yield how often each group is drawn, shape (some samples, group_count), until `samples` are done."""
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    generator = numpy_generator(seed, name)
    shares = np.full(group_count, 1 / group_count)
    at_once = max(1, _WEIGHTS_AT_ONCE // group_count)
    for start in range(0, samples, at_once):
        yield generator.multinomial(group_count, shares, size=min(at_once, samples - start)).astype(float)


def _percentile(value: float, draws: np.ndarray, n: int, confidence: float) -> Estimate:
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(value), float(min(low, value)), float(max(high, value)), n)
