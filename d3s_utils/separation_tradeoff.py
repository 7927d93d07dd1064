"""What a separation of foreground and background features costs: leakage of the other label against utility kept."""

import numpy as np
import pandas as pd

from d3s_utils.intervals import bootstrap_mean
from d3s_utils.randomness import numpy_generator

MEASURES = ("leakage", "utility")


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


def tradeoff_curve(scores: pd.DataFrame, *, seed: int, samples: int = 2000) -> pd.DataFrame:
    """Return leakage and utility of every method at every strength, over all its starts.

    Args:
        scores: From `separation_scores`, with the columns method, strength and seed.
        seed: Of the bootstrap, which draws groups with all their pictures, probes and starts.
        samples: Number of draws.

    Returns:
        A row for each method and strength, in the order given: method, strength, seeds, and for each measure `utility`,
        `utility_low`, `utility_high`, `leakage`, `leakage_low`, `leakage_high` (shares).
    """
    rows = []
    for (method, strength), part in scores.groupby(["method", "strength"], sort=False):
        row = {"method": method, "strength": strength, "seeds": part["seed"].nunique()}
        for measure in MEASURES:
            one = part[part["measure"] == measure]
            found = bootstrap_mean(one["score"], groups=one["group"].astype(str), seed=seed, samples=samples)
            row |= {measure: found.value, f"{measure}_low": found.low, f"{measure}_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def leakage_at_utility(curve: pd.DataFrame, utility: float, *, start: str = "none") -> pd.Series:
    """Return the least leakage that each method reaches while it keeps at least so much utility.

    Between two neighbouring strengths both measures are taken to change linearly. The method `start` is where each
    curve begins that has no strength 0 of its own.

    Args:
        curve: From `tradeoff_curve`.
        utility: The utility to be kept, a share.

    Returns:
        Method -> leakage; NaN where a method never keeps as much.

    Raises:
        ValueError: If `start` is not in the curve.
    """
    if start not in set(curve["method"]):
        raise ValueError(f"start must be a method of the curve ({', '.join(curve['method'].unique())}), got {start!r}")
    kept, leaks = curve["utility"].to_numpy(float), curve["leakage"].to_numpy(float)
    found = {
        method: float(_least_leakage(kept[points], leaks[points], utility))
        for method, points in _curve_points(curve, start).items()
    }
    return pd.Series(found, name="leakage")


def equal_utility(
    scores: pd.DataFrame, *, start: str = "none", allowed: float = 0.01, seed: int, samples: int = 2000
) -> pd.DataFrame:
    """Compare methods by `leakage_at_utility`, where at most `allowed` of the utility of `start` is lost.

    Each bootstrap draw takes groups with all their pictures, probes and starts, draws every curve anew from them, and
    reads it at the draw's own utility: so what a group adds to two methods cancels in their difference. Starts are not
    drawn, and the winner is the one that was measured: having been chosen as the best flatters it.

    Args:
        scores: From `separation_scores`, with the columns method, strength and seed.
        start: Where each curve begins that has no strength 0 of its own; so these are never NaN.
        allowed: Loss of utility, a share.
        seed: Of the bootstrap.
        samples: Number of draws.

    Returns:
        A row for each method, in the order given: method, leakage, leakage_low, leakage_high (NaN where it never
        keeps the utility), behind, behind_low, behind_high (by how much it leaks more than the *winner*, which is
        the method other than `start` that leaks least), p_value (of no such difference, two-sided, by the add-one
        rule), undefined (share of draws in which it or the winner keeps too little; they are left out). The winner
        has 0 and p 1; all four are NaN where no method keeps the utility.

    Raises:
        ValueError: If `start` is not in the scores.
    """
    curve = scores.groupby(["method", "strength"], sort=False).ngroup().to_numpy()
    places = scores[["method", "strength"]].drop_duplicates(ignore_index=True)
    if start not in set(places["method"]):
        raise ValueError(f"start must be one of {', '.join(places['method'].unique())}, got {start!r}")
    group = np.unique(scores["group"].astype(str), return_inverse=True)[1]
    sums, counts = np.zeros((2, len(MEASURES), len(places), group.max() + 1))
    measure = scores["measure"].map({name: i for i, name in enumerate(MEASURES)}).to_numpy()
    np.add.at(sums, (measure, curve, group), scores["score"].to_numpy(float))
    np.add.at(counts, (measure, curve, group), 1.0)
    size = group.max() + 1
    drawn = numpy_generator(seed, "equal utility").multinomial(size, np.full(size, 1 / size), size=samples)
    weights = np.concatenate([np.ones((1, size)), drawn])  # the first row is what was measured
    leaks, kept = (weights @ sums[i].T / (weights @ counts[i].T) for i in range(2))
    wanted = kept[:, [places.index[places["method"] == start][0]]] - allowed
    least = {
        method: _least_leakage(kept[:, points], leaks[:, points], wanted)
        for method, points in _curve_points(places, start).items()
    }
    rivals = {method: draws[0] for method, draws in least.items() if method != start and np.isfinite(draws[0])}
    best = least[min(rivals, key=rivals.get)] if rivals else np.full(samples + 1, np.nan)
    return pd.DataFrame([{"method": method} | _against(draws, best) for method, draws in least.items()])


def _curve_points(table: pd.DataFrame, start: str) -> dict[str, np.ndarray]:
    """Return the rows of each method's curve in order of strength, after `start` where it has no strength 0 itself."""
    table = table.reset_index(drop=True)
    begin = table.index[table["method"] == start].to_numpy()
    curves = {}
    for method, part in table.groupby("method", sort=False):
        own = part.sort_values("strength").index.to_numpy()
        anew = method == start or part["strength"].min() == 0
        curves[method] = own if anew else np.concatenate([begin, own])
    return curves


def _least_leakage(kept: np.ndarray, leaks: np.ndarray, utility: float | np.ndarray) -> np.ndarray:
    """Return the least leakage (…) along curves (…, points) where utility is at least `utility` (…, 1); or NaN."""
    reached = np.where(kept >= utility, leaks, np.inf)
    above = kept - utility
    crossing = above[..., :-1] * above[..., 1:] < 0
    step = np.where(crossing, kept[..., 1:] - kept[..., :-1], 1.0)
    between = leaks[..., :-1] - above[..., :-1] / step * (leaks[..., 1:] - leaks[..., :-1])
    least = np.concatenate([reached, np.where(crossing, between, np.inf)], axis=-1).min(-1)
    return np.where(np.isfinite(least), least, np.nan)


def _against(draws: np.ndarray, best: np.ndarray) -> dict[str, float]:
    """Return a method's row of `equal_utility`; the first of each kind of draw is what was measured."""
    names = ("leakage", "behind")
    row, usable = {}, np.isfinite(draws[1:]) & np.isfinite(best[1:])
    for name, values in zip(names, (draws, draws - best), strict=True):
        some = values[1:][usable if name == "behind" else np.isfinite(values[1:])]
        low, high = np.quantile(some, [0.025, 0.975]) if len(some) and np.isfinite(values[0]) else (np.nan,) * 2
        row |= {name: values[0], f"{name}_low": min(low, values[0]), f"{name}_high": max(high, values[0])}
    difference = (draws - best)[1:][usable]
    beyond = min((difference <= 0).sum(), (difference >= 0).sum())
    p_value = min(1.0, 2 * (beyond + 1) / (len(difference) + 1)) if np.isfinite(row["behind"]) else np.nan
    return row | {"p_value": p_value, "undefined": 1 - usable.mean()}
