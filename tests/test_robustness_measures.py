"""Robustness measures: by hand, against other libraries, under relabelling, and where there is no effect."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from d3s_utils.evaluation import accuracy_table, drop_table
from d3s_utils.intervals import sign_flip_p
from d3s_utils.robustness_measures import LEADERBOARD_COLUMNS, drop_tests, holm, leaderboard
from d3s_utils.subgroup_measures import COMMON, COUNTER, counter_gap, macro_std, worst_cells, worst_group
from d3s_utils.zoo_measures import effective_robustness, error_consistency, predicted_accuracy

BACKGROUNDS = ("snow", "cave", "grass")


def score_table(right, *, model="model", backgrounds=BACKGROUNDS, classes=2):
    """Return scores of one model, foregrounds × (original, then each background); classes take turns."""
    rows = []
    for number, outcomes in enumerate(np.asarray(right, dtype=float)):
        for background, outcome in zip(("", *backgrounds), outcomes, strict=True):
            rows.append(
                {"model": model, "picture_id": f"f{number:03d}{background}", "foreground_id": f"f{number:03d}",
                 "kind": "shifted" if background else "original", "background": background, "keep": True,
                 "class_name": f"class{number % classes}", "in9": "dog", "top1": outcome, "top5": 1.0,
                 "in9_right": outcome}
            )  # fmt: skip
    return pd.DataFrame(rows)


def zoo(*accuracies, foregrounds=60, seed=0):
    """Return scores of models of given (original, shifted) accuracies on the same pictures."""
    random = np.random.default_rng(seed)
    draws = random.random((foregrounds, 1 + len(BACKGROUNDS)))  # shared: what is hard is hard for all
    tables = []
    for number, (original, shifted) in enumerate(accuracies):
        own = 0.7 * draws + 0.3 * random.random(draws.shape)
        limits = np.quantile(own, [original, shifted])
        tables.append(score_table(own < np.array([limits[0], *[limits[1]] * 3]), model=f"model{number}"))
    return pd.concat(tables, ignore_index=True)


def assert_same_after_shuffle(measure, scores):
    mixed = scores.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(measure(scores), measure(mixed))


# ---- tests of a drop


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]) == pytest.approx([0.2])
    for wrong in ([], [0.2, 1.1], [np.nan], [[0.1]]):
        with pytest.raises(ValueError, match="p_values"):
            holm(wrong)


def test_sign_flips_are_exact_for_few_foregrounds():
    values = np.array([0.5, 0.25, -0.25, 1.0, 0.0, 0.75])
    sums = [abs(np.dot(signs, values)) for signs in product((-1, 1), repeat=6)]
    expected = np.mean(np.array(sums) >= abs(values.sum()) - 1e-9)
    assert sign_flip_p(values[:, None], seed=0, flips=10) == pytest.approx([expected])
    oracle = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(values[:, None], seed=5, flips=10)[0] == pytest.approx(oracle.pvalue)


def test_sign_flips_at_random_agree_with_enumeration_and_are_never_zero():
    values = np.random.default_rng(0).normal(0.35, 1, (15, 2))  # one more than is enumerated
    oracle = [stats.permutation_test((v,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
              for v in values.T]  # fmt: skip
    assert sign_flip_p(values, seed=0, flips=20000) == pytest.approx(oracle, abs=0.012)
    assert sign_flip_p(np.ones((40, 1)), seed=0, flips=99) == pytest.approx([0.01])
    assert sign_flip_p(np.zeros((40, 1)), seed=0, flips=99) == pytest.approx([1.0])
    for wrong in (np.zeros(3), np.zeros((0, 1)), np.array([[np.nan]])):
        with pytest.raises(ValueError, match="differences"):
            sign_flip_p(wrong, seed=0)
    with pytest.raises(ValueError, match="flips"):
        sign_flip_p(np.ones((3, 1)), seed=0, flips=0)


def test_drops_by_hand():
    right = [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1]]
    row = drop_tests(score_table(right), seed=0).iloc[0]
    assert (row["original"], row["shifted"], row["drop"]) == pytest.approx((3 / 4, 5 / 12, 1 / 3))
    assert row["relative"] == pytest.approx(5 / 9)
    assert row["drop_low"] <= row["drop"] <= row["drop_high"]
    assert row["relative_low"] < row["relative"] < row["relative_high"]
    assert (row["foregrounds"], row["pictures"]) == (4, 12)
    # differences 2/3, 1, -1/3, 0: |sum| >= 4/3 for four of the eight flips
    assert row["p_sign_flip"] == pytest.approx(4 / 8)
    assert row["p_holm"] == row["p_value"], "one model needs no correction"


def test_mcnemar_is_that_of_the_chosen_pairs():
    rng = np.random.default_rng(3)
    right = np.column_stack([rng.random(50) < 0.9, rng.random(50) < 0.5])
    scores = score_table(right, backgrounds=("snow",))  # one shifted picture each: there is no choice
    table = pd.crosstab(right[:, 0], right[:, 1])
    assert drop_tests(scores, seed=0)["p_mcnemar"][0] == pytest.approx(mcnemar(table, exact=True).pvalue)
    many = score_table(np.column_stack([right[:, 0], *[right[:, 1]] * 3]))
    assert drop_tests(many, seed=7)["p_mcnemar"][0] == pytest.approx(mcnemar(table, exact=True).pvalue)
    all_right = drop_tests(score_table(np.ones((5, 4))), seed=0).iloc[0]
    assert (all_right["p_mcnemar"], all_right["p_sign_flip"], all_right["drop"]) == (1, 1, 0)
    assert all_right["relative"] == 1


def test_p_values_are_even_where_nothing_drops_and_small_where_much_does():
    rng = np.random.default_rng(0)
    hard = rng.beta(2, 2, (40, 400))  # 400 times 40 foregrounds, an original and three shifted pictures each
    original, shifted = rng.random((40, 400)) < hard, (rng.random((3, 40, 400)) < hard).mean(0)
    p_values = sign_flip_p(original - shifted, seed=0, flips=999)
    for level in (0.05, 0.1, 0.2, 0.5):  # above, sums of exactly 0 pile up at p = 1
        assert abs(np.mean(p_values <= level) - level) < 3.5 * np.sqrt(level * (1 - level) / 400)
    strong = drop_tests(zoo((0.9, 0.4)), seed=0)
    assert strong["p_sign_flip"][0] < 0.001


def test_pictures_of_one_foreground_are_not_counted_as_independent():
    once = np.array([[1, 0], [1, 0], [1, 1], [0, 0], [1, 0]])
    few = drop_tests(score_table(once, backgrounds=("snow",)), seed=0)
    names = tuple(f"b{i}" for i in range(30))
    many = drop_tests(score_table(np.column_stack([once[:, 0], *[once[:, 1]] * 30]), backgrounds=names), seed=0)
    assert few["p_sign_flip"][0] == many["p_sign_flip"][0] == pytest.approx(2 / 8)


def test_drop_tests_do_not_hang_on_order_or_names():
    scores = zoo((0.8, 0.6), (0.9, 0.7), foregrounds=12)
    assert_same_after_shuffle(lambda table: drop_tests(table, seed=0), scores)
    renamed = scores.assign(model=scores["model"].map({"model0": "z", "model1": "a"}))
    before, after = (drop_tests(t, seed=0).set_index("model") for t in (scores, renamed))
    assert before.loc["model0"].tolist() == after.loc["z"].tolist()


def test_no_accuracy_has_no_relative_accuracy():
    row = drop_tests(score_table(np.zeros((4, 4))), seed=0).iloc[0]
    assert np.isnan(row["relative"])
    assert row["p_sign_flip"] == 1


# ---- effective robustness


def accuracies(pairs, n=10**7):
    return pd.DataFrame(
        [{"model": f"m{i}", "measure": "top1", "kind": kind, "value": value, "low": value, "high": value, "n": n,
          "foregrounds": n}
         for i, pair in enumerate(pairs) for kind, value in zip(("original", "shifted"), pair, strict=True)]
    )  # fmt: skip


def logit(p):
    return np.log(p / (1 - p))


def test_effective_robustness_is_the_residual_of_scipys_line():
    pairs = np.array([(0.6, 0.3), (0.7, 0.45), (0.8, 0.5), (0.9, 0.75)])
    table = effective_robustness(accuracies(pairs))
    line = stats.linregress(logit(pairs[:, 0]), logit(pairs[:, 1]))
    predicted = 1 / (1 + np.exp(-(line.intercept + line.slope * logit(pairs[:, 0]))))
    assert table["predicted"].to_numpy() == pytest.approx(predicted, abs=1e-5)
    assert table["effective_robustness"].to_numpy() == pytest.approx(pairs[:, 1] - predicted, abs=1e-5)
    assert table["slope"].iloc[0] == pytest.approx(line.slope, abs=1e-4)
    assert table["low"].isna().all()


def test_models_on_a_line_have_no_effective_robustness_and_one_above_has():
    x = np.array([0.5, 0.7, 0.9])
    on_line = 1 / (1 + np.exp(-(0.8 * logit(x) - 0.5)))
    pairs = [*zip(x, on_line, strict=True), (0.7, 0.8)]
    table = effective_robustness(accuracies(pairs), baseline=["m0", "m1", "m2"])
    assert table["effective_robustness"].to_numpy() == pytest.approx([0, 0, 0, 0.8 - on_line[1]], abs=1e-5)
    fit = {"slope": 0.8, "intercept": -0.5, "n_original": 10**9, "n_shifted": 10**9}
    assert predicted_accuracy(x, **fit) == pytest.approx(on_line, abs=1e-6)


def test_accuracies_of_0_and_1_have_a_prediction():
    table = effective_robustness(accuracies([(1.0, 1.0), (0.5, 0.4), (0.2, 0.0)], n=50))
    assert table["predicted"].between(0, 1).all()
    assert np.isfinite(table["effective_robustness"]).all()


def test_too_few_or_equal_models_have_no_line():
    for pairs in ([(0.5, 0.4), (0.7, 0.6)], [(0.5, 0.4)] * 3):
        table = effective_robustness(accuracies(pairs))
        assert table[["predicted", "effective_robustness", "slope", "intercept"]].isna().all(axis=None)
        assert table["shifted"].tolist() == [shifted for _, shifted in pairs]


def test_effective_robustness_has_intervals_that_hold_it_and_shrink():
    widths = []
    for foregrounds in (40, 640):
        scores = zoo((0.5, 0.3), (0.7, 0.45), (0.8, 0.7), (0.9, 0.6), foregrounds=foregrounds)
        table = effective_robustness(accuracy_table(scores), scores=scores, seed=0, samples=200)
        assert (
            (table["low"] <= table["effective_robustness"]) & (table["effective_robustness"] <= table["high"])
        ).all()
        widths.append((table["high"] - table["low"]).mean())
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.5)
    assert table.set_index("model").loc["model2", "low"] > 0
    assert_same_after_shuffle(
        lambda s: effective_robustness(accuracy_table(scores), scores=s, seed=0, samples=50), scores
    )


def test_effective_robustness_names_what_is_wrong():
    table = accuracies([(0.5, 0.4)] * 3)
    for wrong, options in [
        (table, {"measure": "top3"}),
        (table, {"baseline": ["nobody"]}),
        (table.head(5), {}),
        (table, {"scores": zoo((0.5, 0.4))}),
    ]:
        with pytest.raises(ValueError, match=r"measure|baseline|accuracy must|scores must be of"):
            effective_robustness(wrong, **options)


# ---- error consistency


def test_kappa_is_that_of_scikit_learn():
    scores = zoo((0.9, 0.5), (0.8, 0.6), (0.7, 0.7))
    table = error_consistency(scores, seed=0, samples=300)
    wide = scores[scores["kind"] == "shifted"].pivot(index="picture_id", columns="model", values="top1")
    assert len(table) == 3
    for row in table.itertuples():
        a, b = wide[row.model_1], wide[row.model_2]
        assert row.kappa == pytest.approx(cohen_kappa_score(a, b))
        assert row.observed == pytest.approx((a == b).mean())
        assert row.low < row.kappa < row.high
        assert row.n == 180
    assert_same_after_shuffle(lambda s: error_consistency(s, seed=0, samples=50), scores)


def test_kappa_of_the_same_of_opposite_and_of_constant_models():
    right = np.random.default_rng(0).random((30, 4)) < 0.6
    answers = {"a": right, "same": right, "z opposite": ~right, "y perfect": np.ones((30, 4)),
               "x perfect": np.ones((30, 4))}  # fmt: skip
    scores = pd.concat([score_table(r, model=m) for m, r in answers.items()])
    kappa = error_consistency(scores, seed=0, samples=100).set_index(["model_1", "model_2"])
    assert kappa.loc[("a", "same"), ["kappa", "low", "high"]].tolist() == [1, 1, 1]
    assert kappa.loc[("a", "z opposite"), "kappa"] == pytest.approx(
        cohen_kappa_score(right[:, 1:].ravel(), ~right[:, 1:].ravel())
    )
    assert kappa.loc[("x perfect", "y perfect"), ["kappa", "low", "high"]].isna().all()
    assert kappa.loc[("a", "y perfect"), "kappa"] == pytest.approx(0, abs=1e-12)


def test_independent_models_have_kappa_near_0():
    rng = np.random.default_rng(0)
    scores = pd.concat([score_table(rng.random((400, 4)) < 0.7, model=m) for m in "ab"])
    row = error_consistency(scores, seed=0, samples=200).iloc[0]
    assert abs(row["kappa"]) < 4 / np.sqrt(1200)
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 / np.sqrt(1200), rel=0.2)
    assert error_consistency(scores[scores["model"] == "a"], seed=0).empty
    with pytest.raises(ValueError, match="kind must be"):
        error_consistency(scores, kind="both", seed=0)


# ---- subgroups


def test_the_worst_background_by_hand():
    right = np.ones((20, 4))
    right[:15, 2] = 0  # in caves 5 of 20 are right
    table = worst_cells(score_table(right), "background").iloc[0]
    assert (table["cell"], table["value"], table["n"], table["cells"]) == ("cave", 0.25, 20, 3)
    low, _ = proportion_confint(5, 20, alpha=0.05 / 3, method="wilson")
    assert table["low"] == pytest.approx(low, abs=0.01)
    assert table["high"] < proportion_confint(20, 20, alpha=0.05 / 3, method="wilson")[1]


def test_small_cells_are_left_out_and_counted():
    scores = score_table(np.ones((9, 4)))  # class0 has 5 foregrounds, class1 has 4
    table = worst_cells(scores, ["class_name", "background"], minimum=5).iloc[0]
    assert (table["cells"], table["left_out"], table["class_name"]) == (3, 3, "class0")
    largest = worst_cells(scores, ["class_name", "background"], minimum=6).iloc[0]
    assert largest.equals(table), "where no cell is large enough, the largest are compared"


def test_the_worst_of_many_equal_cells_still_covers_their_accuracy():
    rng, names = np.random.default_rng(0), tuple(f"b{i}" for i in range(12))
    joint, naive = [], []
    for _ in range(80):
        scores = score_table(rng.random((40, 13)) < 0.7, backgrounds=names)
        row = worst_cells(scores, "background").iloc[0]
        joint.append(row["low"] <= 0.7 <= row["high"])
        low, high = proportion_confint(round(row["value"] * 40), 40, method="wilson")
        naive.append(low <= 0.7 <= high)
    assert np.mean(joint) >= 0.9
    assert np.mean(naive) < 0.8, "an interval that forgets the choice is wrong too often, or this test shows nothing"


def test_worst_group_has_both_averages():
    scores = pd.concat([score_table([[1, 1, 1, 1]] * 3 + [[0, 0, 1, 1]], classes=1)])
    table = worst_group(scores, "kind").iloc[0]
    assert (table["cell"], table["value"]) == ("original", 0.75)
    assert table["picture_average"] == pytest.approx((3 + 11) / 16)
    assert table["group_average"] == pytest.approx((3 / 4 + 11 / 12) / 2)
    assert_same_after_shuffle(lambda s: worst_group(s, ["kind", "class_name"]), zoo((0.9, 0.6), (0.8, 0.7)))


def test_macro_std_by_hand():
    # class0: shares 1, 1/2, 0 on snow, cave, grass; class1: 1, 1, 1
    right = [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]
    row = macro_std(score_table(right), seed=0, samples=100).iloc[0]
    assert row["value"] == pytest.approx((np.std([1, 0.5, 0]) + 0) / 2)
    assert 0 <= row["low"] <= row["value"] <= row["high"]
    assert (row["n"], row["classes"], row["smallest"]) == (12, 2, 2)


def test_macro_std_weighs_backgrounds_by_their_pictures():
    scores = score_table([[1, 1, 0, 0]] * 3, classes=1)
    scores = scores[~scores["picture_id"].isin(["f000cave", "f001cave"])]  # 3 snow, 1 cave, 3 grass
    expected = np.std([1, 1, 1, 0, 0, 0, 0])
    assert macro_std(scores, seed=0, samples=20)["value"][0] == pytest.approx(expected)


def test_macro_std_does_not_take_hard_foregrounds_for_backgrounds():
    always = np.repeat([[0.0], [1.0]] * 3, 11, axis=1)  # six foregrounds, each always right or always wrong
    scores = score_table(always, classes=1, backgrounds=[f"scene{number}" for number in range(10)])
    whole = macro_std(scores, seed=0, samples=20, shuffles=20).iloc[0]
    assert whole[["value", "chance"]].tolist() == [0, 0], "each background has the same foregrounds"
    kept = scores[(scores["kind"] != "shifted") | (np.random.default_rng(0).random(len(scores)) < 0.6)]
    thinned = macro_std(kept, seed=0, samples=20, shuffles=20).iloc[0]
    assert thinned["value"] > 0.05, "or thinning changed nothing"
    assert thinned["chance"] == pytest.approx(thinned["value"]), "all of it is which foregrounds were kept where"


def test_macro_std_tells_chance_from_effect_and_covers():
    rng = np.random.default_rng(1)
    truth = np.std([0.9, 0.6, 0.3])
    inside, chance = [], []
    for seed in range(30):
        effect = score_table(rng.random((60, 4)) < [1, 0.9, 0.6, 0.3])
        row = macro_std(effect, seed=seed, samples=200, shuffles=20).iloc[0]
        inside.append(row["low"] <= truth <= row["high"])
        assert row["chance"] < row["value"]
        nothing = macro_std(score_table(rng.random((60, 4)) < 0.7), seed=seed, samples=2, shuffles=20).iloc[0]
        chance.append(nothing["value"] - nothing["chance"])
    assert np.mean(inside) >= 0.75
    assert abs(np.mean(chance)) < 0.02
    scores = zoo((0.9, 0.6), (0.8, 0.7))
    values = [macro_std(s, seed=0, samples=30, shuffles=1) for s in (scores, scores.sample(frac=1, random_state=0))]
    pd.testing.assert_frame_equal(values[0], values[1])
    perfect = macro_std(score_table(np.ones((4, 4))), seed=0, samples=20).iloc[0]
    assert perfect[["value", "low", "high", "chance"]].tolist() == [0, 0, 0, 0]


def test_counter_gap_by_hand_and_by_column():
    # class0 (foregrounds 0, 2): snow 1, 1; cave 0, 1; grass 0, 0
    scores = score_table([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    row = counter_gap(scores, common={"class0": {"snow"}}, seed=0, samples=200).iloc[0]
    assert (row["common"], row["counter"], row["gap"]) == pytest.approx((1, 1 / 4, 3 / 4))
    assert (row["low"], row["high"]) == (-1, 1), "two foregrounds tell next to nothing"
    assert (row["n_common"], row["n_counter"], row["foregrounds"], row["classes"]) == (2, 4, 2, 1)
    pooled = counter_gap(scores, common={"class0": {"snow"}}, standardised=False, seed=0, samples=200).iloc[0]
    pd.testing.assert_series_equal(pooled, row)  # one class, as many images of each foreground: the same
    side = np.select(
        [scores["class_name"] != "class0", scores["background"] == "snow", scores["background"] != ""],
        ["", "common", "counter"], "",
    )  # fmt: skip
    pd.testing.assert_series_equal(
        counter_gap(scores.assign(side=side), common="side", seed=0, samples=200).iloc[0], row
    )


def kept_unevenly(random, *, gap=0.0, easy=0.9, hard=0.3, foregrounds=40):
    """An easy class kept mostly on its common background, a hard one mostly on the others; `gap` within each."""
    rows = []
    for name, base, kept in (("easy", easy, (1.0, 0.2)), ("hard", hard, (0.2, 1.0))):
        for number in range(foregrounds):
            sides = [("common", 0)] * 3 + [("counter", 1)] * 3
            for image, (side, place) in enumerate(sides):
                if random.random() < kept[place]:
                    right = random.random() < base + (gap / 2 if place == 0 else -gap / 2)
                    rows.append({"model": "m", "picture_id": f"{name}{number:03d}{image}", "class_name": name,
                                 "foreground_id": f"{name}{number:03d}", "kind": "shifted", "side": side,
                                 "top1": float(right)})  # fmt: skip
    return pd.DataFrame(rows)


def test_counter_gap_is_of_classes_and_not_of_which_images_were_kept():
    random = np.random.default_rng(0)
    draws = [kept_unevenly(random) for _ in range(20)]
    found = {
        standardised: [counter_gap(d, common="side", standardised=standardised, seed=0, samples=2)["gap"].item()
                       for d in draws] for standardised in (True, False)
    }  # fmt: skip
    assert np.mean(found[False]) > 0.3, "pooled, the easy class makes the common side look good"
    assert abs(np.mean(found[True])) < 3 * np.std(found[True]) / np.sqrt(20)
    planted = [kept_unevenly(random, gap=0.2, easy=0.8) for _ in range(20)]
    gaps = [counter_gap(d, common="side", seed=0, samples=2)["gap"].item() for d in planted]
    assert np.mean(gaps) == pytest.approx(0.2, abs=3 * np.std(gaps) / np.sqrt(20))


def test_counter_gap_covers_where_classes_have_none():
    random = np.random.default_rng(1)
    rows = [counter_gap(kept_unevenly(random), common="side", seed=seed, samples=300).iloc[0] for seed in range(60)]
    inside = sum(row["low"] <= 0 <= row["high"] for row in rows)
    assert inside >= 51, "0.95 of 60 is 57; fewer than 51 would happen once in a hundred times"


def test_counter_gap_by_hand_where_foregrounds_are_kept_unevenly():
    rows = [("a", "f1", COMMON, [1, 1, 1, 1]), ("a", "f2", COMMON, [0]), ("a", "f1", COUNTER, [0]),
            ("b", "g1", COMMON, [1]), ("b", "g1", COUNTER, [1, 0]), ("c", "h1", COMMON, [1, 1])]  # fmt: skip
    table = pd.DataFrame([
        {"model": "m", "picture_id": f"{f}{side}{i}", "foreground_id": f, "kind": "shifted", "class_name": c,
         "side": side, "top1": float(right)}
        for c, f, side, answers in rows for i, right in enumerate(answers)
    ])  # fmt: skip
    row = counter_gap(table, common="side", seed=0, samples=50).iloc[0]
    assert (row["common"], row["counter"]) == pytest.approx(((0.5 + 1) / 2, (0 + 0.5) / 2)), "c has one side alone"
    assert (row["gap"], row["classes"], row["foregrounds"]) == (pytest.approx(0.5), 2, 3)
    assert (row["n_common"], row["n_counter"]) == (6, 3)
    pooled = counter_gap(table, common="side", standardised=False, seed=0, samples=50).iloc[0]
    assert (pooled["common"], pooled["counter"], pooled["n_common"]) == (pytest.approx(7 / 8), pytest.approx(1 / 3), 8)
    assert_same_after_shuffle(lambda scores: counter_gap(scores, common="side", seed=0, samples=50), table)


def test_counter_gap_interval_knows_unpaired_foregrounds():
    rng = np.random.default_rng(0)
    right = np.concatenate([rng.random((300, 2)) < 0.8, rng.random((300, 2)) < 0.5])
    scores = score_table(right, backgrounds=("snow",))
    scores["side"] = np.where(scores["foreground_id"] < "f300", "common", "counter")
    scores = scores[scores["kind"] == "shifted"]
    row = counter_gap(scores, common="side", seed=0).iloc[0]
    expected = 2 * 1.96 * np.sqrt((0.8 * 0.2 + 0.5 * 0.5) / 300)
    assert row["high"] - row["low"] == pytest.approx(expected, rel=0.1)


def test_a_side_without_pictures_has_no_gap():
    scores, options = score_table(np.ones((4, 4))), {"common": {"class0": BACKGROUNDS}, "seed": 0, "samples": 10}
    row = counter_gap(scores, **options).iloc[0]
    assert row[["common", "counter", "gap", "low", "high"]].isna().all()
    assert (row["classes"], row["n_common"]) == (0, 0)
    pooled = counter_gap(scores, standardised=False, **options).iloc[0]
    assert np.isnan(pooled["gap"])
    assert pooled["common"] == 1


# ---- the leaderboard


def test_the_leaderboard_gathers_what_the_measures_say():
    scores = zoo((0.6, 0.3), (0.9, 0.7), (0.8, 0.5))
    groups = {"model0": "cnn", "model1": "transformer", "model2": "cnn"}
    options = {"seed": 0, "samples": 60}
    board = leaderboard(scores, groups=groups, parameters={"model1": 5e6}, **options)
    assert list(board.columns) == LEADERBOARD_COLUMNS
    assert board["model"].tolist() == ["model1", "model2", "model0"]
    assert board["parameters"].tolist()[0] == 5e6
    unknown = ["parameters", *(f"background_effect{end}" for end in ("", "_low", "_high"))]
    assert board.drop(columns=unknown).notna().all(axis=None)
    drops = drop_table(scores, seed=0).set_index(["model", "measure"])
    worst = worst_cells(scores, ["class_name", "background"]).set_index("model")
    for row in board.itertuples():
        assert (row.in9_drop, row.in9_drop_low) == tuple(drops.loc[(row.model, "in9"), ["value", "low"]])
        assert row.top1_drop == pytest.approx(row.top1_original - row.top1_shifted)
        assert row.worst_cell == worst.loc[row.model, "cell"]
        assert row.group == groups[row.model]
    tests = drop_tests(scores, seed=0).set_index("model").loc[board["model"]]
    assert board["p_holm"].tolist() == tests["p_holm"].tolist()


def test_one_model_and_no_superclass_make_a_leaderboard_too():
    scores = zoo((0.8, 0.5)).assign(in9_right=np.nan)
    board = leaderboard(scores, groups={"model0": "cnn"}, seed=0, samples=30)
    assert list(board.columns) == LEADERBOARD_COLUMNS
    missing = set(board.columns[board.isna().all()])
    assert missing == {
        name for name in LEADERBOARD_COLUMNS if name.startswith(("in9", "effective", "parameters", "background"))
    }
    with pytest.raises(ValueError, match="got none for 'model0'"):
        leaderboard(scores, groups={}, seed=0, samples=5)


def test_bad_scores_are_named():
    scores = zoo((0.8, 0.5), foregrounds=4)
    for wrong, message in [
        (scores.drop(columns="picture_id"), "column picture_id"),
        (scores.assign(top1=0.5), "must be 0 or 1"),
        (scores.assign(top1=np.nan), "must know top1"),
        (pd.concat([scores, scores]), "each picture once"),
        (scores[scores["kind"] == "shifted"], "both sides"),
    ]:
        with pytest.raises(ValueError, match=message):
            drop_tests(wrong, seed=0)
    with pytest.raises(ValueError, match="samples must be"):
        macro_std(scores, seed=0, samples=0)
    with pytest.raises(ValueError, match="measure must be"):
        macro_std(scores, measure="top3", seed=0)
    for by in ([], ["weather"]):
        with pytest.raises(ValueError, match="columns that make cells"):
            worst_cells(scores, by)
    with pytest.raises(ValueError, match="minimum"):
        worst_cells(scores, "background", minimum=0)
    with pytest.raises(ValueError, match="confidence"):
        worst_cells(scores, "background", confidence=95)
    with pytest.raises(ValueError, match="shifted picture"):
        worst_cells(scores[scores["kind"] == "original"], "background")
    with pytest.raises(ValueError, match="common must name"):
        counter_gap(scores, common={"unicorn": {"snow"}}, seed=0)
    with pytest.raises(ValueError, match="must be common or counter"):
        counter_gap(scores, common="background", seed=0)
