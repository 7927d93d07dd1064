"""How much of the gap between matching and non-matching pairs a head closes."""

import numpy as np
import pandas as pd

from d3s_utils.intervals import paired_test
from d3s_utils.metrics import Estimate
from d3s_utils.randomness import numpy_generator

_KINDS = ("matching", "non_matching")


def gap_closed(
    outcomes: pd.DataFrame, *, base: str, column: str = "head", seed: int, samples: int = 2000
) -> pd.DataFrame:
    """Return how much of the gap between matching and non-matching pairs each head closes.

    gap = accuracy on matching pairs - accuracy on non-matching pairs; closed = 1 - gap / gap of `base`: 1 where no gap
    is left, 0 where it is as wide as before, below 0 where it is wider. A head can close the gap by losing matching
    pairs, so both accuracies stand beside it.

    Heads are compared on the same pictures of the same seeds. The interval of `closed` draws foregrounds and seeds
    with replacement, each independently of the other: what a new object and a new tie would change; with few seeds it
    is rough. `reduction` and its test know foregrounds alone: they speak about these very seeds.

    Args:
        outcomes: Has the columns `column` (which head, such as ``foreground/erm``), seed (of the tie and the training
            set), picture, foreground_id, kind and correct: `head_outcomes` of several heads and seeds. Kinds other than
            matching and non_matching are left aside.
        base: The head whose gap is to be closed, such as ``all/erm``.
        seed: Of the bootstrap, and of the test's random flips.
        samples: Number of bootstrap draws behind `closed`.

    Returns:
        A row for each other head, in their order: `column`, matching, non_matching, gap, base_gap, closed, low, high,
        undefined (share of draws in which the base has no gap; they are left out), reduction (base_gap - gap, over
        foregrounds that have pairs of both kinds), reduction_low, reduction_high, p_value (of no reduction, two-sided,
        see `intervals.paired_test`), foregrounds, seeds. `closed` and its ends are NaN where the base has no gap.

    Raises:
        ValueError: If a column is missing, `base` is not there, a picture comes twice, a head was tested on other
            pictures than the base, a kind is missing, or no foreground has pairs of both kinds.
    """
    columns = [column, "seed", "picture", "foreground_id", "kind", "correct"]
    missing = [name for name in columns if name not in outcomes]
    if missing:
        raise ValueError(f"outcomes must have the columns {', '.join(columns)}; it lacks {', '.join(missing)}")
    pairs = outcomes[outcomes["kind"].isin(_KINDS)]
    heads = list(dict.fromkeys(pairs[column]))
    if base not in heads:
        raise ValueError(f"base must be one of {', '.join(map(str, heads))}, got {base!r}")
    if set(pairs["kind"]) != set(_KINDS):
        raise ValueError(f"outcomes must hold matching and non_matching pairs, got {sorted(set(pairs['kind']))}")
    if pairs.duplicated([column, "seed", "picture"]).any():
        raise ValueError(f"outcomes must hold each picture once a {column} and seed, got one twice")
    keys = ["seed", "picture", "foreground_id", "kind"]
    parts = {name: pairs[pairs[column] == name].sort_values(keys, ignore_index=True) for name in heads}
    own = parts.pop(base)
    rows = []
    for name, part in parts.items():
        if not part[keys].equals(own[keys]):
            raise ValueError(f"outcomes must test {name!r} on the pictures of {base!r}, got {len(part)} others")
        closed, undefined, accuracies = _closed(own, part, seed=seed, samples=samples)
        reduction, p_value = _reduction(own, part, seed=seed)
        rows.append(
            {column: name, "matching": accuracies[2], "non_matching": accuracies[3],
             "gap": accuracies[2] - accuracies[3], "base_gap": accuracies[0] - accuracies[1],
             "closed": closed[0], "low": closed[1], "high": closed[2], "undefined": undefined,
             "reduction": reduction.value, "reduction_low": reduction.low, "reduction_high": reduction.high,
             "p_value": p_value, "foregrounds": own["foreground_id"].nunique(), "seeds": own["seed"].nunique()}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _closed(own: pd.DataFrame, part: pd.DataFrame, *, seed: int, samples: int) -> tuple[tuple, float, np.ndarray]:
    """Return (value, low, high), the share of undefined draws, and the accuracies: base's two, the head's two."""
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    foreground, place = (np.unique(own[name], return_inverse=True)[1] for name in ("foreground_id", "seed"))
    counts = (foreground.max() + 1, place.max() + 1)
    cells = np.zeros((*counts, 6))  # right answers of base and head on matching and non-matching pairs; both numbers
    for number, kind in enumerate(_KINDS):
        at = (own["kind"] == kind).to_numpy()
        for offset, values in ((0, own["correct"]), (2, part["correct"]), (4, np.ones(len(own)))):
            np.add.at(cells[..., offset + number], (foreground[at], place[at]), np.asarray(values, float)[at])

    def accuracies(sums: np.ndarray) -> np.ndarray:
        return sums[..., :4] / sums[..., [4, 5, 4, 5]]

    random, draws = numpy_generator(seed, "gap closed"), []
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, samples, 200):
            size = min(200, samples - start)
            weights = [
                random.multinomial(count, np.full(count, 1 / count), size=size).astype(float) for count in counts
            ]
            sums = np.einsum("bs,bsj->bj", weights[1], np.tensordot(weights[0], cells, axes=1))
            draws.append(accuracies(sums))
    draws, found = np.concatenate(draws), accuracies(cells.sum((0, 1)))
    gaps, base_gaps = draws[:, 2] - draws[:, 3], draws[:, 0] - draws[:, 1]
    usable = base_gaps > 0  # False for NaN too: a draw without pairs of both kinds
    undefined = float(1 - usable.mean())
    if not found[0] > found[1] or not usable.any():
        return (np.nan,) * 3, undefined, found
    value = 1 - (found[2] - found[3]) / (found[0] - found[1])
    low, high = np.quantile(1 - gaps[usable] / base_gaps[usable], [0.025, 0.975])
    return (value, min(low, value), max(high, value)), undefined, found


def _reduction(own: pd.DataFrame, part: pd.DataFrame, *, seed: int) -> tuple[Estimate, float]:
    """Return by how much the head's gap is smaller, and p: the base's lead on matching pairs minus that on others."""
    lead = own["correct"].to_numpy(float) - part["correct"].to_numpy(float)
    both = own.groupby("foreground_id")["kind"].transform("nunique").to_numpy() == 2
    if not both.any():
        raise ValueError("outcomes must hold a foreground with matching and non_matching pairs, got none")
    first, second = (both & (own["kind"] == kind).to_numpy() for kind in _KINDS)
    foreground = own["foreground_id"].to_numpy()
    groups = {"groups": foreground[first], "second_groups": foreground[second]}
    return paired_test(lead[first], lead[second], **groups, seed=seed)
