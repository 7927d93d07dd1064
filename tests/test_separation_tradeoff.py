"""Leakage and utility by hand, where curves cross a wanted utility, and a choice that does not flatter itself."""

import numpy as np
import pandas as pd
import pytest

from d3s_utils.randomness import numpy_generator
from d3s_utils.separation_tradeoff import equal_utility, least_leakage, separation_scores, tradeoff_curve

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
    row = tradeoff_curve(scores).iloc[0]
    assert row["utility"] == pytest.approx((0.9 + 0.7) / 2)
    assert row["leakage"] == pytest.approx(((0.6 - 0.2) / 0.8 + (0.5 - 0.5) / 0.5) / 2)
    for measure in ("utility", "leakage"):
        assert row[f"{measure}_low"] < row[measure] < row[f"{measure}_high"]


def test_chance_is_no_leakage_and_certainty_is_all():
    for shares, expected in (([1, 0.2, 0.5, 1], 0.0), ([1, 1, 1, 1], 1.0)):
        scores = separation_scores(outcomes(shares, method="a", strength=1.0, seed=0), CHANCES)
        assert tradeoff_curve(scores)["leakage"].iloc[0] == pytest.approx(expected)


def test_starts_are_averaged_and_counted():
    table = pd.concat([outcomes([s, 0.2, 0.5, s], method="a", strength=1.0, seed=i) for i, s in enumerate((0.4, 0.8))])
    row = tradeoff_curve(separation_scores(table, CHANCES)).iloc[0]
    assert (row["seeds"], row["utility"]) == (2, pytest.approx(0.6))


def test_leakage_is_read_off_the_curve_where_it_crosses_the_utility():
    kept, leaks = np.array([[1.0, 0.96, 0.8]]), np.array([[0.6, 0.2, 0.0]])
    for utility, leakage, mixture in (
        (0.8, 0.0, [0, 0, 1]), (0.9, 0.2 * (1 - 0.06 / 0.16), [0, 0.1 / 0.16, 0.06 / 0.16]), (0.98, 0.4, [0.5, 0.5, 0]),
        (1.0, 0.6, [1, 0, 0]), (1.1, np.nan, None),
    ):  # fmt: skip
        found, weights = least_leakage(kept, leaks, np.array([[utility]]))
        assert found == pytest.approx([leakage], nan_ok=True)
        if mixture:
            assert weights[0] == pytest.approx(mixture)


def test_a_curve_that_comes_back_is_read_wherever_it_leaks_least():
    kept, leaks = np.array([[1.0, 0.8, 1.0]]), np.array([[0.6, 0.4, 0.3]])
    found, weights = least_leakage(kept, leaks, np.array([[0.9]]))
    assert (found[0], weights[0].tolist()) == (0.3, [0, 0, 1])
    found, weights = least_leakage(kept, np.array([[0.3, 0.3, 0.3]]), np.array([[0.9]]))
    assert weights[0].tolist() == [1, 0, 0], "of equal leakages the weakest strength"


def test_mistakes_are_named():
    table = outcomes([1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"outcomes must have the columns .* lacks group"):
        separation_scores(table.drop(columns="group"), CHANCES)
    with pytest.raises(ValueError, match="chances must have one row for each probe"):
        separation_scores(table, CHANCES[:2])


def alike(shares, **run):
    """Fifty pictures of five groups, and in each group the same shares are read rightly: no choice is by chance."""
    rows = [
        {"probe": probe, "group": f"g{i % 5}", "correct": i // 5 < round(10 * share), **run}
        for probe, share in zip(PROBES, shares, strict=True)
        for i in range(50)
    ]
    return pd.DataFrame(rows)


def curves(leak_of_b, make=alike):
    """`none` keeps all and leaks all; `a` leaks little at little cost, `b` as much as said, `c` forgets its own."""
    runs = [
        make([1.0, 1.0, 1.0, 1.0], method="none", strength=0.0, seed=0),
        make([1.0, 0.2, 0.6, 1.0], method="a", strength=1.0, seed=0),
        make([1.0, leak_of_b, 0.8, 1.0], method="b", strength=1.0, seed=0),
        make([0.4, 0.2, 0.5, 0.4], method="c", strength=1.0, seed=0),
    ]
    return separation_scores(pd.concat(runs, ignore_index=True), CHANCES)


def test_methods_are_compared_where_they_keep_as_much():
    table = equal_utility(curves(0.6), allowed=0.06, seed=0, samples=50).set_index("method")
    by_hand = {"none": 1.0, "a": 0.1, "b": (0.4 / 0.8 + 0.6) / 2, "c": 0.9}  # c: a tenth of the way from 1 to 0
    assert table["leakage"].to_dict() == pytest.approx(by_hand)
    assert table["behind"].to_dict() == pytest.approx({name: leak - 0.1 for name, leak in by_hand.items()})
    assert table["lost"].to_dict() == pytest.approx({"none": 0, "a": 0, "b": 0, "c": 0.06})
    assert table["chosen"].to_dict() == {"none": 0, "a": 1, "b": 0, "c": 0}
    assert table["reached"].tolist() == [1, 1, 1, 1]
    for name in ("leakage", "lost", "behind"):
        ends = table[[f"{name}_low", f"{name}_high"]].to_numpy()
        assert ends == pytest.approx(np.tile(table[[name]], 2), abs=1e-9), "groups are alike, so nothing varies"


def test_a_curve_with_a_strength_0_of_its_own_begins_there():
    scores = curves(0.6)
    own = scores[scores["method"] == "b"].assign(strength=0.0, score=lambda rows: rows["score"] * 0.98)
    own = pd.concat([scores[scores["method"] != "b"], own], ignore_index=True)
    for allowed, lost in ((0.06, 0.02), (0.01, np.nan)):
        table = equal_utility(own, allowed=allowed, seed=0, samples=0).set_index("method")
        assert table.loc["b", "lost"] == pytest.approx(lost, nan_ok=True)


def test_methods_that_tie_share_the_folds():
    scores = curves(0.2)
    twin = scores[scores["method"] == "a"].assign(method="twin")
    table = equal_utility(pd.concat([scores, twin], ignore_index=True), seed=0, samples=0).set_index("method")
    assert table["chosen"].to_dict() == {"none": 0, "a": 0.5, "b": 0, "c": 0, "twin": 0.5}
    assert table.loc[["a", "twin"], "behind"].tolist() == [0, 0]


def test_what_groups_add_to_all_methods_cancels():
    table = equal_utility(curves(0.2, make=outcomes), seed=0, samples=300).set_index("method")
    alone = table.loc["b", "leakage_high"] - table.loc["b", "leakage_low"]
    assert 0 < table.loc["b", "behind_high"] - table.loc["b", "behind_low"] < alone


def test_a_method_that_never_keeps_its_utility_has_no_number():
    scores = curves(0.6)
    part = scores[scores["method"].isin(["none", "c"])]
    table = equal_utility(part, allowed=-0.1, seed=0, samples=20).set_index("method")
    assert table[["chosen", "reached"]].eq(0).all(axis=None)
    assert table.drop(columns=["chosen", "reached"]).isna().all(axis=None)


def test_mistakes_of_a_comparison_are_named():
    scores = curves(0.6)
    with pytest.raises(ValueError, match="start must be one of none, a, b, c, got 'plain'"):
        equal_utility(scores, start="plain", seed=0)
    with pytest.raises(ValueError, match=r"scores must have at least 2 groups, .*, got 1"):
        equal_utility(scores.assign(group="g0"), seed=0)
    for wrong, limit in (({"samples": -1}, 0), ({"folds": 1}, 2), ({"splits": 0}, 1)):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name} must be at least {limit}, got {wrong[name]}"):
            equal_utility(scores, **{"seed": 0} | wrong)


def noisy_scores(seed, *, methods, groups=12, planted=0.0):
    """Scores of `none` and of others, group by group; all are noise about one mean, but `planted` leaks so much less.

    A group adds the same to all methods; what it adds to one method and measure alone is the noise that flatters.
    """
    random, rows = numpy_generator(seed, "noise"), []
    shared = random.normal(0, 0.2, groups)
    for method in ("none", *methods):
        for measure in ("leakage", "utility"):
            own = random.normal(0, 0.2, groups) if measure == "leakage" else 0.0
            less = planted if (method, measure) == ("planted", "leakage") else 0.0
            rows.append(pd.DataFrame({"group": [f"g{i}" for i in range(groups)], "measure": measure, "method": method,
                                      "strength": float(method != "none"), "seed": 0,
                                      "score": 0.5 + shared + own - less}))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def test_the_best_of_copies_of_no_penalty_is_not_better():
    nested, naive = [], []
    for seed in range(150):
        scores = noisy_scores(seed, methods="abcdef")
        table = equal_utility(scores, seed=seed, samples=0, splits=1).set_index("method")
        nested.append(table.loc["none", "behind"])
        leakage = tradeoff_curve(scores).set_index("method")["leakage"]
        naive.append(leakage["none"] - leakage.drop("none").min())
    error = np.std([nested, naive], axis=1, ddof=1) / np.sqrt(len(nested))
    assert abs(np.mean(nested)) < 2 * error[0], "a choice by other groups flatters nobody"
    assert np.mean(naive) > 10 * error[1], "a choice by the same groups does"
    assert error[0] < 0.01, "fine enough to see what flatters: the naive advantage is several times that"
    assert np.mean(naive) > 0.04


def test_the_strength_that_is_chosen_is_not_flattered_either():
    """One method at seven strengths that are all noise: read off the same groups, the least of them looks better."""
    nested, naive = [], []
    for seed in range(150):
        scores = noisy_scores(seed, methods="abcdef")
        one = scores["method"] != "none"
        scores.loc[one, "strength"] = scores.loc[one, "method"].map({name: i + 1.0 for i, name in enumerate("abcdef")})
        scores.loc[one, "method"] = "a"
        table = equal_utility(scores, seed=seed, samples=0, splits=1).set_index("method")
        nested.append(table.loc["none", "leakage"] - table.loc["a", "leakage"])
        leakage = tradeoff_curve(scores)["leakage"]
        naive.append(leakage[0] - leakage.min())
    error = np.std(nested, ddof=1) / np.sqrt(len(nested))
    assert abs(np.mean(nested)) < 2 * error < 0.02
    assert np.mean(naive) > 8 * error


def test_a_better_method_is_found():
    table = equal_utility(noisy_scores(0, methods=["a", "planted", "b"], groups=40, planted=0.25), seed=0, samples=300)
    table = table.set_index("method")
    assert table["chosen"].idxmax() == "planted"
    assert table.loc["planted", "chosen"] > 0.9
    assert table.loc["none", "behind"] == pytest.approx(0.25, abs=0.1)
    assert 0 < table.loc["none", "behind_low"] < table.loc["none", "behind"] < table.loc["none", "behind_high"]


def test_another_deal_of_folds_changes_the_answer_less_where_there_are_more():
    scores = noisy_scores(3, methods="abc", groups=10)
    spreads = [
        np.std([equal_utility(scores, seed=seed, samples=0, splits=splits).loc[0, "behind"] for seed in range(20)])
        for splits in (1, 16)
    ]
    assert 0 < spreads[1] < spreads[0] / 2
