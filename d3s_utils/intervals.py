"""95 % intervals that know who is related: of a share, a mean, a difference of paired means, a ratio of means.

Images made from one foreground rise and fall together, and so do images on one scene. So a variance is that of sums
over such clusters, not over images, and its t quantile has one degree of freedom fewer than there are clusters. Of a
single cluster nothing is known about how clusters differ: the ends of its interval are NaN, which reads "too few".

Two clusterings may cross (every foreground before many scenes, every scene behind many foregrounds). Then the variances
by either are added and that by both at once, which was counted twice, is taken away (Cameron, Gelbach & Miller 2011,
doi:10.1198/jbes.2010.07136); it is never taken below the larger of the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from d3s_utils.metrics import Estimate
from d3s_utils.randomness import numpy_generator

FEW = 30  # groups below which bootstrap quantiles are too narrow, and p-values also ask the sign-flip test
FEWEST = 2  # groups below which there is no interval
_ENUMERATED = 14  # differences up to which all 2^n flips are tried


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


def clustered_wilson(
    outcomes: ArrayLike,
    groups: ArrayLike,
    *,
    crossed: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Return the share of true `outcomes`, with a Wilson interval that knows outcomes of one group resemble each other.

    The number of trials is divided by the design effect: the variance of the share between groups over the variance of
    independent trials. It is lowered further by (z / t)², t with one degree of freedom fewer than groups. Where all
    outcomes are equal no variance can be seen, and the groups count as trials. Where each outcome is a group of its
    own, all are independent: that is Wilson's interval.

    Args:
        outcomes: Zeros and ones (or booleans), shape (n,).
        groups: What each outcome shares with others, such as a foreground's id, shape (n,).
        crossed: A second grouping, such as a scene's id, shape (n,).
        weights: How much each outcome counts, not negative, shape (n,); all the same where None.
        confidence: Of the interval.

    Returns:
        An estimate whose `n` is the number of outcomes that count. One group alone gives the interval [0, 1].

    Raises:
        ValueError: If the input is empty, of unequal lengths, not zeros and ones, or a weight is out of range.

    Source: Korn & Graubard 1998 (t in the effective sample size); Franco, Little, Louis, Slud 2019, "Comparative study
        of confidence intervals for proportions in complex sample surveys"; Kish 1965, "Survey Sampling" (weights).
    """
    outcomes, codes = _values_and_codes(outcomes, groups)
    if not np.isin(outcomes, (0, 1)).all():
        raise ValueError(f"outcomes must be zeros and ones, got {np.unique(outcomes)[:5]}")
    weights = _checked_weights(weights, outcomes)
    counted = weights > 0
    codes = [codes, *([] if crossed is None else [_values_and_codes(outcomes, crossed)[1]])]
    codes = [np.unique(code[counted], return_inverse=True)[1] for code in codes]
    outcomes, weights, total = outcomes[counted], weights[counted], int(counted.sum())
    share, weights = float(weights @ outcomes / weights.sum()), weights / weights.sum()
    shared = [code for code in codes if code.max() + 1 < total]  # where all are alone, nothing is shared
    trials = 1 / np.square(weights).sum()
    if shared:
        masses = [np.bincount(code, weights) for code in shared]
        trials = min(trials, *(1 / np.square(mass).sum() for mass in masses))
        if outcomes.min() < outcomes.max():
            alone = share * (1 - share) * np.square(weights).sum()
            trials = share * (1 - share) / max(alone, cluster_variance(weights * (outcomes - share), shared))
        freedom = min(len(mass) for mass in masses) - 1
        trials *= (stats.norm.ppf(0.5 + confidence / 2) / _t_quantile(freedom, confidence)) ** 2
    return _wilson(share, trials, total, confidence)


def bootstrap_interval(
    values: ArrayLike, draws: ArrayLike, *, groups: int, reflected: bool = False, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of bootstrap intervals of k statistics, widened where needed to hold the values.

    Quantiles of the draws are too narrow for few groups. From `FEW` groups on they are taken further out, by as much as
    a t interval is wider than a normal one with a variance that divides by n ("expanded percentiles"). Below, the
    draws give the standard error alone, and the t quantile the rest.

    Args:
        values: Shape (k,).
        draws: Shape (samples, k); draws where a statistic is not defined (NaN) are left out.
        groups: How many groups were drawn from.
        reflected: Mirror the draws at the value (the "basic" bootstrap). For a statistic that noise makes too large,
            such as a spread: the draws are too large by as much again, and mirrored they make up for it.

    Returns:
        Two arrays of shape (k,); NaN where the value is NaN or there are fewer than `FEWEST` groups.

    Source: Davison & Hinkley 1997, "Bootstrap Methods and their Application", chapter 5; Hesterberg 2015,
        doi:10.1080/00031305.2015.1089789, section 5.3 (expanded percentiles).
    """
    values, draws = np.asarray(values, float), np.asarray(draws, float)
    low, high = np.full(len(values), np.nan), np.full(len(values), np.nan)
    if groups < FEWEST:
        return low, high
    t, wider = _t_quantile(groups - 1, confidence), np.sqrt(groups / (groups - 1))
    tail = float(stats.norm.cdf(-t * wider))
    for place, value in enumerate(values):
        drawn = draws[np.isfinite(draws[:, place]), place]
        if not np.isfinite(value) or not len(drawn):
            continue
        if groups < FEW:
            ends = value + np.array([-1, 1]) * t * wider * drawn.std()
        else:
            ends = np.quantile(drawn, [tail, 1 - tail])
            ends = 2 * value - ends[::-1] if reflected else ends
        low[place], high[place] = min(ends[0], value), max(ends[1], value)
    return low, high


def t_interval(value: float, error: float, *, groups: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the ends of value ± t × error, t with one degree of freedom fewer than `groups`; NaN below `FEWEST`."""
    half = _t_quantile(groups - 1, confidence) * error if groups >= FEWEST else np.nan
    return float(value - half), float(value + half)


def clustered_mean(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    crossed: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Return the mean of `values` with a t interval by clusters.

    Args:
        values: Shape (n,).
        groups: What each value shares with others, shape (n,); each on its own where None.
        crossed: A second grouping, shape (n,).
        weights: How much each value counts, not negative, shape (n,); all the same where None.

    Returns:
        An estimate whose `n` is the number of values. Of one group the ends are NaN.

    Raises:
        ValueError: If the input is empty, not finite, or of unequal lengths.
    """
    values, codes = _values_and_codes(values, np.arange(np.size(values)) if groups is None else groups)
    weights = _checked_weights(weights, values)
    codes = [codes, *([] if crossed is None else [_values_and_codes(values, crossed)[1]])]
    mean, weights = float(weights @ values / weights.sum()), weights / weights.sum()
    error = np.sqrt(cluster_variance(weights * (values - mean), codes))
    return Estimate(mean, *t_interval(mean, error, groups=_freedom(codes) + 1, confidence=confidence), len(values))


def paired_difference(first: ArrayLike, second: ArrayLike, **options) -> Estimate:
    """Return `paired_test`'s estimate alone."""
    return paired_test(first, second, **options)[0]


def paired_test(
    first: ArrayLike,
    second: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    second_groups: ArrayLike | None = None,
    crossed: ArrayLike | None = None,
    second_crossed: ArrayLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Estimate, float]:
    """Return the mean over groups of mean(first) - mean(second) within the group, and the p-value of no difference.

    Every group counts the same, however many values it has on either side: a foreground of which one image was kept
    counts as much as one of which nine were. What a group adds to both sides cancels.

    Differences of zeros and ones get two more pairs before the interval is made: without them few pairs look far too
    sure (Agresti & Min 2005; here with t in place of z, and by clusters). One does not differ; of the other, half
    differs by +s and half by -s, where s² is the mean over groups of (1 / values of first + 1 / values of second) / 2,
    which is 1 for single pairs, as in the source. The p-value is that of the same t statistic, two-sided; below `FEW`
    groups it is at least that of the exact sign-flip test, by which three pairs can never give less than 1/4.

    Args:
        first: Shape (n,), such as whether a classifier is right on each plain foreground.
        second: Shape (m,), such as whether it is right on each image made from them.
        groups: The group of each value of `first`, shape (n,). Where None, `first[i]` and `second[i]` are pair i.
        second_groups: The group of each value of `second`, shape (m,); `groups` where None.
        crossed: A second grouping of the values of `first`, such as scenes; None where it shows none.
        second_crossed: The same of `second`.
        confidence: Of the interval.
        seed: Of the random flips, where there are too many to try all.

    Returns:
        An estimate whose `n` is the number of groups (pairs), and p. Of one group the ends are NaN, and p is 1.

    Raises:
        ValueError: If lengths do not fit, a value is not finite, or a group has no value on one side.

    Source: Agresti & Min 2005, doi:10.1002/sim.1781 (two pairs more); Phipson & Smyth 2010,
        doi:10.2202/1544-6115.1585 (p of random flips).
    """
    pair = _Pair.of((first, groups, crossed), (second, second_groups, second_crossed))
    differences = pair.means[0] - pair.means[1]
    value, count = float(differences.mean()), len(differences)
    centre, error, freedom = _difference(pair)
    if not freedom:
        return Estimate(value, np.nan, np.nan, count), 1.0
    low, high = t_interval(centre, error, groups=freedom + 1, confidence=confidence)
    low, high = min(low, value), max(high, value)
    if pair.are_outcomes:
        low, high = max(low, -1.0), min(high, 1.0)
    p_value = float(2 * stats.t.sf(abs(centre) / error, freedom)) if error > 0 else float(centre == 0)
    least = sign_flip_p(differences[:, None], seed=seed)[0] if count < FEW else max(2.0 ** (1 - count), 1e-300)
    return Estimate(value, low, high, count), max(p_value, float(least))


def detectable_difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    second_groups: ArrayLike | None = None,
    crossed: ArrayLike | None = None,
    second_crossed: ArrayLike | None = None,
    power: float = 0.8,
    confidence: float = 0.95,
) -> Estimate:
    """Return the true difference that `paired_test` would have found with that power: it depends on the error alone.

    Args:
        first, second, groups, second_groups, crossed, second_crossed, confidence: Of the test.
        power: Probability of finding it, above 0.5 and below 1.

    Returns:
        (t quantile of the test + t quantile of the power) x standard error; its interval is that of the standard error,
        by the chi-squared distribution. Of one group nothing can be found: 1 where values are zeros and ones.

    Raises:
        ValueError: As `paired_test`; also if the power is out of range.

    Source: Cohen 1988, "Statistical Power Analysis for the Behavioral Sciences".
    """
    if not 0.5 < power < 1:
        raise ValueError(f"power must be above 0.5 and below 1, got {power}")
    pair = _Pair.of((first, groups, crossed), (second, second_groups, second_crossed))
    _, error, freedom = _difference(pair)
    if not freedom:
        return Estimate(1.0, np.nan, np.nan, pair.means.shape[1])
    found = (_t_quantile(freedom, confidence) + float(stats.t.ppf(power, freedom))) * error
    tails = stats.chi2.ppf([0.5 + confidence / 2, 0.5 - confidence / 2], freedom)
    low, high = (float(found * np.sqrt(freedom / tail)) for tail in tails)
    return Estimate(found, min(low, found), max(high, found), pair.means.shape[1])


def _difference(pair: "_Pair") -> tuple[float, float, int]:
    """Return where the interval of a difference is centred, its standard error and the degrees of freedom."""
    value, count = float((pair.means[0] - pair.means[1]).mean()), pair.means.shape[1]
    centre, variance = value, cluster_variance(pair.pieces(1.0, -1.0), pair.codes)
    if pair.are_outcomes:
        centre = value * count / (count + 2)
        extra = (1 / pair.sizes).mean() + 2 * centre**2
        variance = ((variance + (value - centre) ** 2 / count) * count**2 + extra) / (count + 2) ** 2
    return centre, float(np.sqrt(variance)), _freedom(pair.codes)


def ratio_of_means(
    first: ArrayLike,
    second: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    second_groups: ArrayLike | None = None,
    crossed: ArrayLike | None = None,
    second_crossed: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Return the mean over groups of `first` over that of `second`, each averaged within its group first.

    The interval is that of a ratio, linearised, with t by clusters. The arguments are those of `paired_test`.

    Raises:
        ValueError: As `paired_test`; also if the second mean is not above 0.
    """
    pair = _Pair.of((first, groups, crossed), (second, second_groups, second_crossed))
    above, below = (float(means.mean()) for means in pair.means)
    if not below > 0:
        raise ValueError(f"second must have a mean above 0 to divide by, got {below}")
    ratio = above / below
    error = np.sqrt(cluster_variance(pair.pieces(1 / below, -ratio / below), pair.codes))
    ends = t_interval(ratio, error, groups=_freedom(pair.codes) + 1, confidence=confidence)
    return Estimate(ratio, *ends, len(pair.means[0]))


def sign_flip_p(differences: np.ndarray, *, seed: int, flips: int = 9999) -> np.ndarray:
    """Return two-sided p-values of the hypothesis that differences are as likely to be d as -d.

    The sum of differences is compared with its sums after flipping signs at random; the whole row of a foreground
    flips at once. Where at most 14 differences are not zero, all flips are tried and p is exact; otherwise p is
    (flips at least as extreme + 1) / (flips + 1), which is never 0.

    Args:
        differences: A row a foreground, a column a model, shape (n, k).
        flips: Number of random flips.

    Returns:
        Shape (k,), in (0, 1].

    Raises:
        ValueError: If the shape is wrong, a difference is not finite or `flips` is below 1.

    Source: Phipson & Smyth 2010, doi:10.2202/1544-6115.1585 (why to add one).
    """
    differences = np.asarray(differences, dtype=float)
    if differences.ndim != 2 or not differences.size or not np.isfinite(differences).all():
        raise ValueError(f"differences must be finite, shape (n, k) with n, k > 0, got shape {differences.shape}")
    if flips < 1:
        raise ValueError(f"flips must be at least 1, got {flips}")
    observed = np.abs(differences.sum(0)) - 1e-9  # sums in another order differ in their last digits
    p_values = np.ones(differences.shape[1])
    moved = [values[values != 0] for values in differences.T]
    many = [column for column, values in enumerate(moved) if len(values) > _ENUMERATED]
    if many:
        random, extreme, done = numpy_generator(seed, "sign flips"), np.zeros(len(many)), 0
        while done < flips:
            count = min(flips - done, max(1, 5_000_000 // len(differences)))
            signs = 2.0 * random.integers(0, 2, (count, len(differences)), dtype=np.int8) - 1
            extreme += (np.abs(signs @ differences[:, many]) >= observed[many]).sum(0)
            done += count
        p_values[many] = (extreme + 1) / (flips + 1)
    for column, values in enumerate(moved):
        if len(values) <= _ENUMERATED:
            bits = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
            p_values[column] = (np.abs((2.0 * bits - 1) @ values) >= observed[column]).mean()
    return p_values


def cluster_variance(pieces: np.ndarray, codes: Sequence[np.ndarray]) -> float:
    """Return the variance of a sum of `pieces` that have mean 0, from their sums over the clusters of one or two codes.

    Args:
        pieces: Weight times deviation of each observation, shape (n,).
        codes: One or two arrays of cluster numbers 0, 1, …, each of shape (n,); -1 is an observation on its own.
    """
    alone = [_one_way(pieces, code) for code in codes]
    if len(codes) == 1:
        return alone[0]
    first, second = codes
    both = np.where((first < 0) | (second < 0), -1, first * (second.max() + 1) + second)
    return max(sum(alone) - _one_way(pieces, both), *alone)


def _one_way(pieces: np.ndarray, code: np.ndarray) -> float:
    shared = code >= 0
    sums = np.bincount(np.unique(code[shared], return_inverse=True)[1], weights=pieces[shared])
    correction = len(sums) / max(1, len(sums) - 1)
    return float(np.square(sums).sum() * correction + np.square(pieces[~shared]).sum())


@dataclass(frozen=True)
class _Pair:
    """Two sides in shared groups.

    Attributes:
        values: Of the first side, then of the second, shape (n + m,).
        side: 0 or 1 for each value.
        codes: The group of each value as a number 0, 1, …, and its crossed group if there is one.
        sizes: Values of each group on either side, shape (2, groups).
        means: Their means, shape (2, groups).
    """

    values: np.ndarray
    side: np.ndarray
    codes: list[np.ndarray]
    sizes: np.ndarray
    means: np.ndarray

    @classmethod
    def of(cls, *sides: tuple[ArrayLike, ArrayLike | None, ArrayLike | None]) -> "_Pair":
        (first, groups, crossed), (second, second_groups, second_crossed) = sides
        groups = np.arange(np.size(first)) if groups is None else np.asarray(groups)
        second_groups = groups if second_groups is None else np.asarray(second_groups)
        for name, values, labels in (("first", first, groups), ("second", second, second_groups)):
            if np.shape(values) != labels.shape:
                raise ValueError(f"{name} must have one value per group label, got {np.shape(values)}, {labels.shape}")
        labels, side = np.concatenate([groups, second_groups]), np.repeat([0, 1], [len(groups), len(second_groups)])
        values, codes = _values_and_codes(np.concatenate([first, second]), labels)
        sizes = np.stack([np.bincount(codes[side == one], minlength=codes.max() + 1) for one in (0, 1)])
        lonely = np.unique(labels[(sizes == 0).any(0)[codes]])
        if len(lonely):
            raise ValueError(f"every group must have values on both sides; {len(lonely)} do not, such as {lonely[0]!r}")
        sums = np.stack([np.bincount(codes, weights=np.where(side == one, values, 0)) for one in (0, 1)])
        codes = [codes]
        if crossed is not None or second_crossed is not None:
            given = [(crossed, len(groups)), (second_crossed, len(second_groups))]
            codes.append(_crossed_codes(given))
        return cls(values, side, codes, sizes, sums / sizes)

    @property
    def are_outcomes(self) -> bool:
        """Whether all values are zeros and ones."""
        return bool(np.isin(self.values, (0, 1)).all())

    def pieces(self, *factors: float) -> np.ndarray:
        """Return what each value adds to the sum of both sides' means over groups, times a factor for each side."""
        shares = self.sizes[self.side, self.codes[0]] * self.means.shape[1]
        return np.array(factors)[self.side] * (self.values - self.means.mean(1)[self.side]) / shares


def _crossed_codes(sides: Sequence[tuple[ArrayLike | None, int]]) -> np.ndarray:
    """Number the crossed groups of both sides; the values of a side without any are -1, each on its own."""
    names = []
    for given, count in sides:
        if given is not None and np.shape(given) != (count,):
            raise ValueError(f"crossed must have one label per value, got {np.shape(given)} for {count} values")
        names += [None] * count if given is None else list(np.asarray(given).tolist())
    return pd.factorize(pd.Series(names, dtype=object))[0]  # None is -1


def _freedom(codes: Sequence[np.ndarray]) -> int:
    return min(int(code.max()) for code in codes)


def _t_quantile(freedom: int, confidence: float) -> float:
    return float(stats.t.ppf(0.5 + confidence / 2, freedom)) if freedom > 0 else float("inf")


def _wilson(share: float, trials: float, total: int, confidence: float) -> Estimate:
    low, high = (0.0, 1.0)
    if trials > 0:
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


def _checked_weights(weights: ArrayLike | None, values: np.ndarray) -> np.ndarray:
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    if weights.shape != values.shape:
        raise ValueError(f"weights must be one a value, got {weights.shape} for {values.shape}")
    if not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() == 0:
        raise ValueError("weights must be finite, not negative and not all zero, got others")
    return weights
