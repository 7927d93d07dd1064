"""What a separation of foreground and background features costs: leakage of the other label against utility kept."""

import numpy as np
import pandas as pd

from d3s_utils.intervals import bootstrap_interval, clustered_mean
from d3s_utils.randomness import numpy_generator

MEASURES = ("leakage", "utility")
_TIE = 1e-9  # leakages that differ by less differ by rounding


def separation_scores(outcomes: pd.DataFrame, chances: pd.DataFrame) -> pd.DataFrame:
    """Return two numbers a tested picture that measure a separation, so that their means can be compared.

    *Leakage* is the accuracy at which the other label is read above that of a blind answer, as a share of what could be
    above it, (accuracy - blind) / (1 - blind), averaged over the two off-diagonal probes; it scatters around 0 where
    features tell nothing. *Utility* is the accuracy of the two diagonal probes, averaged. Both probes count alike,
    though class and background have unequal numbers of labels.

    Args:
        outcomes: A row for each probe and picture: the columns of a run (whatever they are), probe (such as
            ``foreground_from_background``), group (what pictures share) and correct.
        chances: The columns probe and chance, one row a probe: the accuracy of a blind answer. Where labels are uneven
            that is no longer one over their number, but the share of the one seen most.

    Returns:
        `outcomes` with the columns measure (of `MEASURES`) and score, whose mean over both probes is the measure.

    Raises:
        ValueError: If a column is missing, or a probe has no chance level or two.
    """
    for name, table, needed in (("outcomes", outcomes, ("probe", "group", "correct")),
                                ("chances", chances, ("probe", "chance"))):  # fmt: skip
        missing = [column for column in needed if column not in table]
        if missing:
            raise ValueError(f"{name} must have the columns {', '.join(needed)}; it lacks {', '.join(missing)}")
    level = chances.set_index("probe")["chance"]
    unknown = sorted(set(outcomes["probe"]) - set(level.index))
    if unknown or not level.index.is_unique:
        raise ValueError(f"chances must have one row for each probe, got {list(level.index)} for {unknown or 'all'}")
    sides = outcomes["probe"].str.split("_from_", expand=True)
    own = (sides[0] == sides[1]).to_numpy()
    chance = outcomes["probe"].map(level).to_numpy(float)
    correct = outcomes["correct"].to_numpy(float)
    score = np.where(own, correct, (correct - chance) / (1 - chance))
    return outcomes.assign(measure=np.where(own, "utility", "leakage"), score=score)


def tradeoff_curve(scores: pd.DataFrame) -> pd.DataFrame:
    """Return leakage and utility of every method at every strength, over all its starts.

    Args:
        scores: From `separation_scores`, with the columns method, strength and seed.

    Returns:
        A row for each method and strength, in the order given: method, strength, seeds, and for each measure `utility`,
        `utility_low`, `utility_high`, `leakage`, `leakage_low`, `leakage_high` (shares). The intervals know that a
        group's images, probes and starts resemble each other.
    """
    rows = []
    for (method, strength), part in scores.groupby(["method", "strength"], sort=False):
        row = {"method": method, "strength": strength, "seeds": part["seed"].nunique()}
        for measure in MEASURES:
            one = part[part["measure"] == measure]
            found = clustered_mean(one["score"], groups=one["group"].astype(str))
            row |= {measure: found.value, f"{measure}_low": found.low, f"{measure}_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def equal_utility(
    scores: pd.DataFrame,
    *,
    start: str = "none",
    allowed: float = 0.01,
    seed: int,
    samples: int = 2000,
    folds: int = 5,
    splits: int = 10,
) -> pd.DataFrame:
    """Compare methods where each loses at most `allowed` of the utility of `start`, on groups that chose nothing.

    Groups are dealt into folds. For each fold the *other* folds choose twice: each method's strength, the one that
    leaks least among those that keep the utility (between two neighbouring strengths both measures are taken to change
    linearly), and the winner, the method other than `start` that leaks least there. Then leakage is measured on the
    fold, so that having been chosen flatters nobody. Folds are averaged by their numbers of images, and the whole is
    done for several deals, since one deal is a matter of luck.

    The bootstrap goes around all of it: each draw takes groups with all their images, probes and starts, and chooses
    anew. The copies of a group stay in one fold: in two they would be on both sides. Starts are not drawn.

    Args:
        scores: From `separation_scores`, with the columns method, strength and seed.
        start: Where each curve begins that has no strength 0 of its own; so these always keep the utility.
        allowed: Loss of utility, a share.
        seed: Of the deals and of the bootstrap.
        samples: Number of draws; 0 gives no intervals.
        folds: At least 2; fewer where there are fewer groups.
        splits: Number of deals, at least 1.

    Returns:
        A row for each method, in the order given. Each number is followed by its ends, such as leakage_low and
        leakage_high.

        - method.
        - leakage: on the held folds, a share.
        - lost: by how much utility falls below that of `start` there; the choice was made elsewhere, so it may be more
          than `allowed`.
        - behind: by how much it leaks more than the winner of the same choice. For `start` it is what one gains by
          choosing a method in this way. In folds where a method is the winner itself, it is not behind.
        - chosen: share of folds in which it is the winner (no interval). Methods that tie share a fold.
        - reached: share of folds whose choice finds a strength that keeps the utility (no interval). The numbers before
          are means over these folds, and NaN where they are fewer than half.

    Raises:
        ValueError: If `start` is not in the scores, there are fewer than 2 groups, or a number is out of range.

    Source: Stone 1974, doi:10.1111/j.2517-6161.1974.tb00994.x (cross-validatory choice and its assessment); Varma &
        Simon 2006, doi:10.1186/1471-2105-7-91 (what a choice and a measurement on the same data hide).
    """
    for name, value, least in (("samples", samples, 0), ("folds", folds, 2), ("splits", splits, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    places = scores[["method", "strength"]].drop_duplicates(ignore_index=True)
    if start not in set(places["method"]):
        raise ValueError(f"start must be one of {', '.join(places['method'].unique())}, got {start!r}")
    sums, counts = _sums_by_group(scores)
    size = sums.shape[-1]
    if size < 2:
        raise ValueError(f"scores must have at least 2 groups, so that one can choose for the other, got {size}")
    drawn = numpy_generator(seed, "equal utility").multinomial(size, np.full(size, 1 / size), size=samples)
    weights = np.concatenate([np.ones((1, size)), drawn])  # the first row is what was measured
    curves, dealer = _curve_points(places, start), numpy_generator(seed, "equal utility", "folds")
    deals = [dealer.permutation(size) % min(folds, size) for _ in range(splits)]
    parts = []
    for held in (deal == fold for deal in deals for fold in range(min(folds, size))):
        means = [_means(weights[:, side], sums[..., side], counts[..., side]) for side in (~held, held)]
        share = weights[:, held] @ counts[0, 0, held]
        parts.append((share, *_one_fold(*means, curves=curves, start=start, allowed=allowed)))
    share, *measured, chosen = (np.stack(each) for each in zip(*parts, strict=True))
    columns = {"method": list(curves)}
    for name, values in zip(("leakage", "lost", "behind"), measured, strict=True):
        draws, reached = _over_folds(values, share)
        low, high = bootstrap_interval(draws[0], draws[1:], groups=size)
        columns |= {name: draws[0], f"{name}_low": low, f"{name}_high": high}
        if name == "leakage":
            columns["reached"] = reached[0]
    table = pd.DataFrame(columns | {"chosen": chosen[:, 0].mean(0)})
    return table[[name for name in table if name != "reached"] + ["reached"]]


def _sums_by_group(scores: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return sums and numbers of scores, each of shape (measures, methods and strengths in the order given, groups)."""
    point = scores.groupby(["method", "strength"], sort=False).ngroup().to_numpy()
    group = np.unique(scores["group"].astype(str), return_inverse=True)[1]
    measure = scores["measure"].map({name: i for i, name in enumerate(MEASURES)}).to_numpy()
    sums, counts = np.zeros((2, len(MEASURES), point.max() + 1, group.max() + 1))
    np.add.at(sums, (measure, point, group), scores["score"].to_numpy(float))
    np.add.at(counts, (measure, point, group), 1.0)
    return sums, counts


def _means(weights: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Return leakage and utility of every point in every draw, each (draws, points); NaN where no group was drawn."""
    with np.errstate(invalid="ignore"):
        return [weights @ total.T / (weights @ number.T) for total, number in zip(sums, counts, strict=True)]


def _one_fold(
    others: list[np.ndarray], held: list[np.ndarray], *, curves: dict[str, np.ndarray], start: str, allowed: float
) -> tuple[np.ndarray, ...]:
    """Choose on the other folds, measure on the held one; return leakage, lost, behind, chosen, each (draws, k)."""
    begin = curves[start][:1]
    wanted = others[1][:, begin] - allowed
    expected, leakage, utility = [], [], []
    for points in curves.values():
        least, mixture = least_leakage(others[1][:, points], others[0][:, points], wanted)
        expected.append(least)
        for measured, side in ((leakage, held[0]), (utility, held[1])):
            value = (mixture * np.where(mixture > 0, side[:, points], 0)).sum(-1)
            measured.append(np.where(np.isfinite(least), value, np.nan))
    expected, leakage, utility = (np.stack(each, -1) for each in (expected, leakage, utility))
    rivals = np.array([method != start for method in curves])
    hopes = np.where(rivals & np.isfinite(expected), expected, np.inf)
    best = hopes.min(-1, keepdims=True)
    tied = np.isfinite(hopes) & (hopes <= best + _TIE)
    chosen = tied / np.maximum(1, tied.sum(-1, keepdims=True))
    winner = np.where(tied, chosen * leakage, 0).sum(-1, keepdims=True)
    winner = np.where(tied.any(-1, keepdims=True), winner, np.nan)
    return leakage, held[1][:, begin] - utility, leakage - winner, chosen


def _over_folds(values: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means of (folds, draws, k) by `share` (folds, draws) over folds where defined, and how many those are."""
    defined = np.isfinite(values) & (share[..., None] > 0)
    weight = share[..., None] * defined
    reached = weight.sum(0) / share.sum(0)[:, None]
    with np.errstate(invalid="ignore"):
        means = (weight * np.where(defined, values, 0)).sum(0) / weight.sum(0)
    return np.where(reached >= 0.5, means, np.nan), reached


def _curve_points(table: pd.DataFrame, start: str) -> dict[str, np.ndarray]:
    """Return the rows of each method's curve in order of strength, after `start` where it has no strength 0 itself."""
    begin = table.index[table["method"] == start].to_numpy()
    curves = {}
    for method, part in table.groupby("method", sort=False):
        own = part.sort_values("strength").index.to_numpy()
        anew = method == start or part["strength"].min() == 0
        curves[method] = own if anew else np.concatenate([begin, own])
    return curves


def least_leakage(kept: np.ndarray, leaks: np.ndarray, utility: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least leakage along a curve where it keeps a utility, and where on the curve that is.

    Args:
        kept, leaks: Utility and leakage at the curve's points, shape (draws, points). Between two neighbours both
            change linearly.
        utility: What is to be kept, shape (draws, 1).

    Returns:
        The leakage, shape (draws,), NaN where the utility is never kept; and how much each point counts there, shape
        (draws, points): one point with all, or two neighbours. Of equal leakages the first on the curve is taken.
    """
    above = kept - utility
    crossing = above[:, :-1] * above[:, 1:] < 0
    step = np.where(crossing, kept[:, 1:] - kept[:, :-1], 1.0)
    way = np.where(crossing, -above[:, :-1] / step, 0.0)  # from the first neighbour to the second
    between = np.where(crossing, leaks[:, :-1] + way * (leaks[:, 1:] - leaks[:, :-1]), np.inf)
    found = np.concatenate([np.where(above >= 0, leaks, np.inf), between], axis=-1)
    least = found.min(-1)
    place, draw = (found <= least[:, None] + _TIE).argmax(-1), np.arange(len(found))
    count = kept.shape[-1]
    first = np.where(place < count, place, place - count)
    part = np.where(place < count, 0.0, np.pad(way, ((0, 0), (0, 1)))[draw, first])
    mixture = np.zeros_like(kept, dtype=float)
    mixture[draw, first] = 1 - part
    mixture[draw, np.minimum(first + 1, count - 1)] += part
    return np.where(np.isfinite(least), least, np.nan), mixture
