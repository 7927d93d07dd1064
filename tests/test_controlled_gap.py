"""A gap beyond its control: of a model that reads rims alone it is nothing, of one that reads the tie it is all."""

import numpy as np
import pandas as pd
import pytest

from d3s_utils.backgrounds_challenge import background_gap
from d3s_utils.controlled_gap import controlled_gap
from d3s_utils.intervals import paired_difference


def answers(cells: dict[tuple[int, str], np.ndarray], *, model: str = "one") -> pd.DataFrame:
    """Return a table of (control, variant) -> right answers of the objects f0, f1, … in it; NaN is no image."""
    rows = [
        {"model": model, "control": control, "variant": variant, "foreground_id": f"f{place}", "in9_right": value}
        for (control, variant), values in cells.items() for place, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows).dropna(ignore_index=True)


def test_each_part_is_what_it_is_called_and_an_object_counts_once():
    table = answers({
        (0, "mixed_same"): [1, 1, 1, 0], (0, "mixed_rand"): [0, 1, 0, 0],
        (1, "mixed_same"): [1, 1, 0, np.nan], (1, "mixed_rand"): [0, 1, 1, np.nan],
        (2, "mixed_same"): [0, np.nan, np.nan, np.nan], (2, "mixed_rand"): [0, np.nan, np.nan, np.nan],
    })  # fmt: skip
    found = controlled_gap(table.sample(frac=1, random_state=0)).set_index("part")
    assert found["value"].to_dict() == pytest.approx({
        "raw": (1 + 0 + 1) / 3,  # f3 stands nowhere else
        "control": (0.5 + 0 - 1) / 3,  # f0's two permutations are one object
        "difference": (0.5 + 0 + 2) / 3,
    })  # fmt: skip
    assert found["n"].tolist() == [3, 3, 3]
    assert found.loc["raw", ["mixed_same", "mixed_rand"]].tolist() == pytest.approx([1, 1 / 3])
    assert found.loc["control", ["mixed_same", "mixed_rand"]].tolist() == pytest.approx([0.5, 2 / 3])
    assert (found["low"] <= found["value"]).all()
    assert (found["value"] <= found["high"]).all()
    expected = paired_difference(np.array([1, 0, 1]), np.array([0.5, 0, -1]))
    assert found.loc["difference", ["value", "low", "high"]].tolist() == [expected.value, expected.low, expected.high]


def test_raw_is_the_plain_gap_where_every_object_has_a_control():
    random = np.random.default_rng(0)
    table = answers({(c, v): random.integers(0, 2, 30) for c in (0, 1) for v in ("mixed_same", "mixed_rand")})
    found = controlled_gap(table).set_index("part")
    plain = background_gap(table[table["control"] == 0]).iloc[0]
    assert found.loc["raw", ["value", "low", "high", "n"]].tolist() == plain[["value", "low", "high", "n"]].tolist()


def test_models_are_apart_and_one_without_pairs_has_no_row():
    same = {(c, v): np.ones(4) for c in (0, 1) for v in ("mixed_same", "mixed_rand")}
    lonely = {key: values for key, values in same.items() if key[0] == 0}
    found = controlled_gap(pd.concat([answers(same, model="b"), answers(lonely, model="a")]))
    assert list(found["model"]) == ["b"] * 3
    assert (found["value"] == 0).all()
    assert controlled_gap(answers(lonely)).empty


def test_both_rules_have_their_own_column():
    table = answers({(c, v): np.ones(3) for c in (0, 1) for v in ("mixed_same", "mixed_rand")})
    strict = ((table["control"] == 0) & (table["variant"] == "mixed_same")).astype(float)
    table = table.assign(in9_of_1000=strict)
    assert controlled_gap(table)["value"].tolist() == [0, 0, 0]
    assert controlled_gap(table, measure="in9_of_1000")["value"].tolist() == [1, 0, 1]


def test_what_is_missing_is_named():
    table = answers({(c, v): np.ones(3) for c in (0, 1) for v in ("mixed_same", "mixed_rand")})
    with pytest.raises(ValueError, match="must have the column control"):
        controlled_gap(table.drop(columns="control"))
    with pytest.raises(ValueError, match="measure must be one of in9, in9_of_1000, got 'top1'"):
        controlled_gap(table, measure="top1")
    torn = (table["control"] == 1) & (table["variant"] == "mixed_rand") & (table["foreground_id"] == "f1")
    with pytest.raises(ValueError, match="at its control 'f1' has one"):
        controlled_gap(table[~torn])
