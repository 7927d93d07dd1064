"""What a separation of foreground and background features costs: leakage of the other label against utility kept."""

import numpy as np
import pandas as pd

from d3s_utils.intervals import bootstrap_mean

MEASURES = ("leakage", "utility")


def separation_scores(outcomes: pd.DataFrame, chances: pd.DataFrame) -> pd.DataFrame:
    """Return two numbers a tested picture that measure a separation, so that their means can be compared.

    *Leakage* is the accuracy above chance at which the other label is read, as a share of what could be above chance,
    (accuracy - chance) / (1 - chance), averaged over the two off-diagonal probes; it scatters around 0 where features
    tell nothing. *Utility* is the accuracy of the two diagonal probes, averaged. Both probes count alike, though class
    and background have unequal numbers of labels.

    Args:
        outcomes: A row for each probe and picture: the columns of a run (whatever they are), probe (such as
            ``foreground_from_background``), group (what pictures share) and correct.
        chances: The columns probe and chance, one row a probe.

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

    Between two neighbouring strengths both measures are taken to change linearly. The method `start` is where every
    curve begins, at no strength.

    Args:
        curve: From `tradeoff_curve`.
        utility: The utility to be kept, a share.

    Returns:
        Method -> leakage; NaN where a method never keeps as much.

    Raises:
        ValueError: If `start` is not in the curve.
    """
    begin = curve[curve["method"] == start]
    if begin.empty:
        raise ValueError(f"start must be a method of the curve ({', '.join(curve['method'].unique())}), got {start!r}")
    found = {}
    for method, part in curve.groupby("method", sort=False):
        points = part.sort_values("strength")
        if method != start:
            points = pd.concat([begin, points])
        kept, leaks = points["utility"].to_numpy(), points["leakage"].to_numpy()
        reached = list(leaks[kept >= utility])
        for i in range(len(kept) - 1):
            if (kept[i] - utility) * (kept[i + 1] - utility) < 0:  # the curve crosses the wanted utility here
                share = (utility - kept[i]) / (kept[i + 1] - kept[i])
                reached.append(leaks[i] + share * (leaks[i + 1] - leaks[i]))
        found[method] = min(reached, default=np.nan)
    return pd.Series(found, name="leakage")
