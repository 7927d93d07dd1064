"""Accuracies by kind, in the worst group and on both averages, and the gap closed, counted by hand."""

import numpy as np
import pandas as pd
import pytest

from d3s_utils.group_evaluation import evaluate_outcomes, head_outcomes
from d3s_utils.group_robustness import train_head
from d3s_utils.intervals import clustered_wilson
from d3s_utils.matching_gap import gap_closed


def outcomes_of(**shares):
    """A table with 20 pictures for each class and kind, of which a share is right; group 0, 1 match, 2, 3 do not."""
    rows = []
    for name, share in shares.items():
        label, kind = name.split("_", 1)
        group = {"a_matching": 0, "b_matching": 1, "a_non_matching": 2, "b_non_matching": 3}.get(name, -1)
        rows += [
            {"label": label, "kind": kind, "group": group, "foreground_id": f"{label}{number % 10}",
             "correct": number < round(20 * share)} for number in range(20)
        ]  # fmt: skip
    return pd.DataFrame(rows).assign(picture=range(len(rows)))


KNOWN = outcomes_of(a_matching=1.0, b_matching=0.9, a_non_matching=0.5, b_non_matching=0.7, a_left_out=0.6, a_photo=0)


def test_every_measure_is_counted_by_hand():
    found = evaluate_outcomes(KNOWN, training_groups=[0] * 6 + [1] * 3 + [2]).set_index("measure")
    assert found["value"].to_dict() == pytest.approx({
        "matching": 0.95, "non_matching": 0.6, "left_out": 0.6, "photo": 0.0, "worst_group": 0.5,
        "picture_average": 0.775, "training_group_average": 0.6 * 1 + 0.3 * 0.9 + 0.1 * 0.5,
    })  # fmt: skip
    assert found.loc["worst_group", ["group", "coverage", "n"]].tolist() == ["a, non_matching", 4, 20]
    assert found.loc["picture_average", "n"] == 80
    assert (found["low"] <= found["value"]).all()
    assert (found["value"] <= found["high"]).all()


def test_the_worst_groups_interval_is_wider_than_that_of_one_group():
    alone = evaluate_outcomes(KNOWN[KNOWN["group"] == 2], training_groups=[2]).set_index("measure").loc["worst_group"]
    among = evaluate_outcomes(KNOWN, training_groups=[2]).set_index("measure").loc["worst_group"]
    assert among["low"] < alone["low"]


def test_too_small_groups_cannot_be_the_worst():
    found = evaluate_outcomes(KNOWN, training_groups=[0], minimum=21).set_index("measure").loc["worst_group"]
    assert np.isnan(found["value"])
    assert found["n"] == 0


def test_groups_that_nobody_tested_are_said_to_be_missing():
    found = evaluate_outcomes(KNOWN, training_groups=[0, 0, 0, 77]).set_index("measure").loc["training_group_average"]
    assert found["coverage"] == 0.75
    assert found["value"] == 1.0


def test_the_average_by_training_groups_weighs_pictures_in_its_interval_too():
    found = evaluate_outcomes(KNOWN, training_groups=[0] * 6 + [1] * 3 + [2]).set_index("measure")
    pairs = KNOWN[KNOWN["group"].isin([0, 1, 2])]
    weights = pairs["group"].map({0: 0.6, 1: 0.3, 2: 0.1})
    expected = clustered_wilson(pairs["correct"], pairs["foreground_id"], weights=weights)
    assert found.loc["training_group_average", ["value", "low", "high", "n"]].tolist() == pytest.approx(
        [expected.value, expected.low, expected.high, 60]
    )


def test_the_head_names_each_pictures_class():
    features = np.array([[-1.0], [-2.0], [1.0], [2.0]])
    head = train_head("erm", features, list("aabb"), None, seed=0)
    found = head_outcomes(head, [[-3.0], [3.0]], ["a", "a"], [0, 1], ["matching"] * 2, foregrounds=["f", "f"])
    assert found["correct"].tolist() == [True, False]
    with pytest.raises(ValueError, match=r"classes must be those of the head .* got 'c'"):
        head_outcomes(head, [[0.0]], ["c"], [0], ["matching"], foregrounds=["f"])
    with pytest.raises(ValueError, match="groups must have one value for each of 1 rows"):
        head_outcomes(head, [[0.0]], ["a"], [0, 1], ["matching"], foregrounds=["f"])


def heads(**gaps):
    """Two seeds of heads by name, each (share right on matching, on non-matching pairs)."""
    return pd.concat([
        outcomes_of(a_matching=first, b_matching=first, a_non_matching=second, b_non_matching=second)
        .assign(head=name, seed=seed) for name, (first, second) in gaps.items() for seed in (0, 1)
    ])  # fmt: skip


def test_what_is_closed_is_counted_by_hand():
    found = gap_closed(heads(base=(1, 0.5), half=(0.9, 0.65), none=(0.7, 0.7), worse=(1, 0)), base="base", seed=0)
    assert found["head"].tolist() == ["half", "none", "worse"]
    assert found["closed"].tolist() == pytest.approx([0.5, 1.0, -1.0])
    assert found["gap"].tolist() == pytest.approx([0.25, 0.0, 1.0])
    assert found["base_gap"].tolist() == pytest.approx([0.5] * 3)
    assert found["reduction"].tolist() == pytest.approx([0.25, 0.5, -0.5])
    assert (found["low"] <= found["closed"]).all()
    assert (found["closed"] <= found["high"]).all()
    assert found[["foregrounds", "seeds"]].iloc[0].tolist() == [20, 2]


def test_the_same_head_closes_nothing_for_sure():
    found = gap_closed(heads(base=(1, 0.5), same=(1, 0.5)), base="base", seed=0).iloc[0]
    assert found[["closed", "low", "high", "reduction"]].tolist() == [0, 0, 0, 0]
    assert found["p_value"] == 1


def test_without_a_gap_nothing_can_be_closed():
    found = gap_closed(heads(base=(0.5, 0.5), other=(1, 0.5)), base="base", seed=0).iloc[0]
    assert np.isnan(found["closed"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="seed"), "it lacks seed"),
        (lambda t: t[t["head"] != "base"], "base must be one of other"),
        (lambda t: t[t["kind"] == "matching"], "must hold matching and non_matching"),
        (lambda t: pd.concat([t, t]), "each picture once"),
        (lambda t: t[(t["head"] == "base") | (t["picture"] > 0)], "must test 'other' on the pictures of 'base'"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        gap_closed(change(heads(base=(1, 0.5), other=(1, 0.6))), base="base", seed=0)


@pytest.mark.parametrize(("option", "value"), [("minimum", 0), ("confidence", 1.0)])
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} must be"):
        evaluate_outcomes(KNOWN, training_groups=[0], **{option: value})
