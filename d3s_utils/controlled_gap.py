"""BG-Gap beyond its control: what an object's home is worth more than the home of another class.

On mixed_same an object stands on another image of its class. That helps in three ways: the background goes with the
class; it is of the kind that the cut-out's own rim shows; and parts of the class's objects may lie outside their boxes.
Under permuted homes (see `in9_imitation.permuted_homes`) the same objects have the last two, but no tie of class and
background, save where another class's home suits by accident. The difference is what the tie is worth.
"""

import pandas as pd

from d3s_utils.backgrounds_challenge import checked_answers
from d3s_utils.intervals import paired_difference

PARTS = {  # what is measured -> how it reads
    "raw": "mixed-same minus mixed-rand, each class on its home",
    "control": "the same, each class on another class's home",
    "difference": "raw minus control",
}
_COLUMNS = ["model", "part", "value", "low", "high", "n", "mixed_same", "mixed_rand"]


def controlled_gap(table: pd.DataFrame, *, measure: str = "in9") -> pd.DataFrame:
    """Return each model's BG-Gap at home, that under permuted homes, and their difference, over the same objects.

    An object's accuracy is its mean over all backgrounds that it gets, and over all permutations in which it stands.
    Objects of one side only are left out, so the difference is exactly raw minus control, and each object counts once.
    The intervals are over objects: they say nothing about other classes, homes or permutations.

    Args:
        table: As in `backgrounds_challenge.variant_accuracy`, with `control`: 0 at home, else the permutation.
        measure: As in `backgrounds_challenge.variant_accuracy`.

    Returns:
        `model`, `part` (of `PARTS`), `value`, `low`, `high` (shares, not percentage points), `n` (objects),
        `mixed_same` and `mixed_rand` (accuracies; for the difference those at home minus those elsewhere). No row for
        a model without an object on both sides.

    Raises:
        ValueError: If the table lacks a column, or an object has one of the two variants only.
    """
    if "control" not in table:
        raise ValueError(f"table must have the column control, got {', '.join(map(str, table.columns))}")
    at_home = table["control"] == 0
    home, other = _by_object(table[at_home], "home", measure), _by_object(table[~at_home], "its control", measure)
    rows = []
    for model in home.index.unique("model"):
        first = home.loc[model]
        second = other.loc[model] if model in other.index.unique("model") else first.head(0)
        shared = first.index.intersection(second.index)
        if shared.empty:
            continue
        first, second = first.loc[shared], second.loc[shared]
        sides = {
            "raw": (first["mixed_same"], first["mixed_rand"]),
            "control": (second["mixed_same"], second["mixed_rand"]),
            "difference": (first["mixed_same"] - first["mixed_rand"], second["mixed_same"] - second["mixed_rand"]),
        }
        both = {"raw": first, "control": second, "difference": first - second}
        for part, (one, two) in sides.items():
            means = both[part][["mixed_same", "mixed_rand"]].mean()
            found = paired_difference(one.to_numpy(), two.to_numpy())
            rows.append({"model": model, "part": part, **vars(found), **means})
    return pd.DataFrame(rows, columns=_COLUMNS)


def _by_object(table: pd.DataFrame, name: str, measure: str) -> pd.DataFrame:
    """Return the share of right answers of each model and object (index) on both mixed variants (columns)."""
    if table.empty:
        empty = pd.MultiIndex.from_arrays([[], []], names=["model", "foreground_id"])
        return pd.DataFrame(columns=["mixed_same", "mixed_rand"], index=empty, dtype=float)
    foreground, right = checked_answers(table, measure=measure)
    mixed = table[table["variant"].isin(["mixed_same", "mixed_rand"])]
    found = mixed.pivot_table(index=["model", foreground], columns="variant", values=right, sort=False)
    found = found.reindex(columns=["mixed_same", "mixed_rand"])
    lonely = found.index[found.isna().any(axis=1)]
    if len(lonely):
        raise ValueError(f"every object must have both mixed variants, at {name} {lonely[0][1]!r} has one")
    return found
