"""Leakage and utility by hand, and where curves cross a wanted utility."""

import numpy as np
import pandas as pd
import pytest

from d3s_utils.separation_tradeoff import equal_utility, leakage_at_utility, separation_scores, tradeoff_curve

PROBES = [f"{label}_from_{source}" for label in ("foreground", "background") for source in ("foreground", "background")]
CHANCES = pd.DataFrame({"probe": PROBES, "chance": [0.2, 0.2, 0.5, 0.5]})


def outcomes(shares, **run):
    """Ten pictures of five groups; `shares` of them are read rightly, by probe."""
    rows = [
        {"probe": probe, "group": f"g{i % 5}", "correct": i < round(10 * share), **run}
        for probe, share in zip(PROBES, shares, strict=True)
        for i in range(10)
    ]
    return pd.DataFrame(rows)


def test_leakage_and_utility_by_hand():
    scores = separation_scores(outcomes([0.9, 0.6, 0.5, 0.7], method="none", strength=0.0, seed=0), CHANCES)
    row = tradeoff_curve(scores, seed=0, samples=200).iloc[0]
    assert row["utility"] == pytest.approx((0.9 + 0.7) / 2)
    assert row["leakage"] == pytest.approx(((0.6 - 0.2) / 0.8 + (0.5 - 0.5) / 0.5) / 2)
    for measure in ("utility", "leakage"):
        assert row[f"{measure}_low"] < row[measure] < row[f"{measure}_high"]


def test_chance_is_no_leakage_and_certainty_is_all():
    for shares, expected in (([1, 0.2, 0.5, 1], 0.0), ([1, 1, 1, 1], 1.0)):
        scores = separation_scores(outcomes(shares, method="a", strength=1.0, seed=0), CHANCES)
        assert tradeoff_curve(scores, seed=0, samples=50)["leakage"].iloc[0] == pytest.approx(expected)


def test_starts_are_averaged_and_counted():
    table = pd.concat([outcomes([s, 0.2, 0.5, s], method="a", strength=1.0, seed=i) for i, s in enumerate((0.4, 0.8))])
    row = tradeoff_curve(separation_scores(table, CHANCES), seed=0, samples=50).iloc[0]
    assert (row["seeds"], row["utility"]) == (2, pytest.approx(0.6))


def test_leakage_at_equal_utility_is_read_off_the_curve():
    curve = pd.DataFrame(
        [("none", 0.0, 1.0, 0.6), ("good", 3.0, 0.8, 0.0), ("good", 1.0, 0.96, 0.2), ("bad", 1.0, 0.8, 0.5)],
        columns=["method", "strength", "utility", "leakage"],
    )
    found = leakage_at_utility(curve, 0.9)
    assert found["none"] == 0.6
    assert found["bad"] == pytest.approx(0.55)
    assert found["good"] == pytest.approx(0.2 * (1 - 0.06 / 0.16))
    assert leakage_at_utility(curve, 0.8)["good"] == 0.0
    assert np.isnan(leakage_at_utility(curve, 1.1)).all()
    with pytest.raises(ValueError, match=r"start must be a method of the curve \(none, good, bad\), got 'plain'"):
        leakage_at_utility(curve, 0.9, start="plain")


def test_mistakes_are_named():
    table = outcomes([1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"outcomes must have the columns .* lacks group"):
        separation_scores(table.drop(columns="group"), CHANCES)
    with pytest.raises(ValueError, match="chances must have one row for each probe"):
        separation_scores(table, CHANCES[:2])


def curves(leak_of_b):
    """`none` keeps all and leaks all; `a` leaks little at little cost, `b` as much as said."""
    runs = [
        outcomes([1.0, 1.0, 1.0, 1.0], method="none", strength=0.0, seed=0),
        outcomes([1.0, 0.2, 0.6, 1.0], method="a", strength=1.0, seed=0),
        outcomes([1.0, leak_of_b, 0.8, 1.0], method="b", strength=1.0, seed=0),
        outcomes([0.4, 0.2, 0.5, 0.4], method="c", strength=1.0, seed=0),
    ]
    return separation_scores(pd.concat(runs, ignore_index=True), CHANCES)


def test_methods_are_compared_where_they_keep_as_much():
    scores = curves(0.6)
    table = equal_utility(scores, allowed=0.06, seed=0, samples=300).set_index("method")
    curve = tradeoff_curve(scores, seed=0, samples=10)
    assert table["leakage"].to_dict() == pytest.approx(leakage_at_utility(curve, 0.94).to_dict())
    assert table.loc["a", ["behind", "behind_low", "behind_high", "p_value"]].tolist() == [0, 0, 0, 1]
    assert table.loc["b", "behind"] == pytest.approx(table.loc["b", "leakage"] - table.loc["a", "leakage"])
    assert table.loc["c", "leakage"] == pytest.approx(0.9, abs=1e-9), "a tenth of the way from 1 at 1.0 to 0 at 0.4"
    assert (table["behind_low"] <= table["behind"]).all()
    assert (table["behind"] <= table["behind_high"]).all()
    assert table["p_value"].between(2 / 301 - 1e-9, 1).all()
    assert (table["undefined"] == 0).all()


def test_a_curve_with_a_strength_0_of_its_own_begins_there():
    scores = curves(0.6)
    own = scores[scores["method"] == "b"].assign(strength=0.0)  # b at strength 0 as it is at strength 1
    table = equal_utility(pd.concat([scores, own], ignore_index=True), allowed=0.06, seed=0, samples=20)
    assert table.set_index("method").loc["b", "leakage"] == pytest.approx((0.5 + 0.6) / 2), "none is not on its curve"


def test_what_two_methods_share_cancels_in_their_difference():
    table = equal_utility(curves(0.2), seed=0, samples=300).set_index("method")
    alone = table.loc["b", "leakage_high"] - table.loc["b", "leakage_low"]
    assert 0 < table.loc["b", "behind_high"] - table.loc["b", "behind_low"] < alone


def test_a_method_that_never_keeps_its_utility_has_no_number():
    scores = curves(0.6)
    part = scores[scores["method"].isin(["none", "c"])]
    table = equal_utility(part, allowed=-0.1, seed=0, samples=20).set_index("method")
    assert table.drop(columns="undefined").isna().all(axis=None)
    with pytest.raises(ValueError, match="start must be one of none, c, got 'plain'"):
        equal_utility(part, start="plain", seed=0)
