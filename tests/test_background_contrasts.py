"""The 2 × 2 of ground and repainting: known answers, planted effects found, and no effect where there is none."""

import gc

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy.special import expit
from scipy.stats import norm

from d3s_utils.background_contrasts import EFFECTS, background_contrasts, background_spread, waterfall_steps
from d3s_utils.contrast_figures import draw_effects, draw_waterfall
from d3s_utils.evaluation import accuracy_table, drop_table, paired_scores
from d3s_utils.robustness_measures import drop_tests

KINDS = ("placed", "placed_repainted", "guide", "shifted")


def table_of(right, *, kept=None, scenes=None, model="m"):
    """Return scores of one model: `right` by kind, originals (f,) and others (f, b)."""
    count, places = np.shape(right["shifted"])
    kept = np.ones((count, places), bool) if kept is None else kept
    scenes = np.arange(count)[:, None] * np.ones(places, int) if scenes is None else scenes  # each its own
    foreground, background = np.divmod(np.arange(count * places), places)
    parts = [pd.DataFrame({"foreground_id": np.arange(count), "kind": "original", "top1": right["original"],
                           "background": "", "image_id": "", "template_id": "", "keep": True})]  # fmt: skip
    for kind in KINDS:
        if kind in right:
            image = pd.Series(foreground).astype(str) + "-" + pd.Series(background).astype(str)
            scene = "b" + pd.Series(background).astype(str) + "s" + pd.Series(scenes.ravel()).astype(str)
            parts.append(pd.DataFrame({
                "foreground_id": foreground, "kind": kind, "top1": np.ravel(right[kind]), "image_id": image,
                "background": "b" + pd.Series(background).astype(str), "keep": np.ravel(kept),
                "template_id": "" if kind.startswith("placed") else scene,
            }))  # fmt: skip
    table = pd.concat(parts, ignore_index=True).astype({"top1": float, "foreground_id": str})
    ids = table["image_id"].where(table["image_id"] != "", table["foreground_id"])
    return table.assign(model=model, picture_id=ids + "/" + table["kind"], class_name="c", in9="dog",
                        top5=table["top1"], in9_right=table["top1"])  # fmt: skip


def drawn(random, *, foregrounds=60, backgrounds=6, effects=(), keep=None):
    """Draw outcomes: `effects` are logits by (kind, shape (f, b) or number); `keep` hangs on how hard an object is."""
    hard = random.normal(0.5, 1.2, foregrounds)[:, None]
    lowered = dict(effects)
    chance = {kind: expit(hard - lowered.get(kind, 0) + np.zeros((foregrounds, backgrounds))) for kind in KINDS}
    right = {kind: random.random((foregrounds, backgrounds)) < p for kind, p in chance.items()}
    right["original"] = random.random(foregrounds) < expit(hard[:, 0])
    kept = None if keep is None else random.random((foregrounds, backgrounds)) < keep(expit(hard))
    return paired_scores(table_of(right, kept=kept)), chance


def test_contrasts_by_hand():
    right = {
        "original": [1, 1], "placed": [[1, 1], [1, 0]], "placed_repainted": [[1, 1], [0, 0]],
        "guide": [[1, 0], [1, 0]], "shifted": [[0, 0], [0, 1]],
    }  # fmt: skip
    found = background_contrasts(table_of(right), seed=0).query("measure == 'top1'").set_index("effect")
    assert found["value"].drop("detectable_drop").to_dict() == pytest.approx({
        "background_effect": ((1 - 0) + (0 - 0.5)) / 2, "background_effect_plain": (0.5 + 0) / 2,
        "repaint_effect": (0.5 + 0) / 2, "repaint_effect_own": (0 + 0.5) / 2, "size_effect": (0 + 0.5) / 2,
        "interaction": 0.25 - 0.25,
    })  # fmt: skip
    assert (found["n"] == 2).all()
    assert found.loc["background_effect", "images"] == 4


def test_steps_add_up_to_the_papers_drop():
    scores, _ = drawn(np.random.default_rng(0), keep=lambda easy: 0.2 + 0.7 * easy)
    found = background_contrasts(scores, measures=["top1"], seed=0).set_index("effect")["value"]
    drop = drop_table(scores, seed=0).set_index("measure").loc["top1", "value"]
    assert found["size_effect"] + found["repaint_effect_own"] + found["background_effect"] == pytest.approx(drop)
    assert found["size_effect"] + found["background_effect_plain"] + found["repaint_effect"] == pytest.approx(drop)
    assert found["interaction"] == pytest.approx(found["background_effect_plain"] - found["background_effect"])
    table = background_contrasts(scores, seed=0)
    steps = waterfall_steps(accuracy_table(scores), table, "m", measure="top1")
    assert steps["kind"].tolist() == ["original", "placed", "placed_repainted", "shifted"]
    assert (steps["before"] - steps["after"]).sum() == pytest.approx(drop)
    assert ((steps["low"] <= steps["after"]) & (steps["after"] <= steps["high"])).all()
    ax = draw_waterfall(steps, plt.figure().add_subplot(), title="falls")
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        "original",
        "smaller,\nmoved",
        "repainted",
        "background",
    ]
    assert len(ax.patches) == 4
    effects = draw_effects(table, plt.figure().add_subplot(), title="what costs")
    assert len(effects.get_yticklabels()) == len(EFFECTS) + 1
    plt.close("all")


def test_planted_effects_are_found_where_they_were_put():
    truth, inside = {}, {name: 0 for name in EFFECTS}
    random, trials = np.random.default_rng(1), 60
    effects = {"placed_repainted": 0.4, "guide": 0.6, "shifted": 1.4}
    for _ in range(trials):
        scores, chance = drawn(random, foregrounds=144, backgrounds=10, effects=effects)
        found = background_contrasts(scores, measures=["top1"], seed=0).set_index("effect")
        for name, (first, second) in list(EFFECTS.items())[:4]:
            truth[name] = (chance[first] - chance[second]).mean()
            inside[name] += found.loc[name, "low"] <= truth[name] <= found.loc[name, "high"]
        assert found.loc["background_effect", "p_value"] < 1e-3
    assert truth["background_effect"] > 0.1
    assert min(inside[name] for name in truth) >= 0.85 * trials


@pytest.mark.slow
def test_where_nothing_was_changed_the_whole_way_rejects_as_often_as_it_says(monkeypatch):
    """1,000 runs of 40 objects, of hard ones few images are kept: at most 6 % are rejected at a level of 5 %."""
    monkeypatch.setattr(gc, "collect", lambda: 0)  # statsmodels calls it, and it takes longer than all else
    random, trials = np.random.default_rng(2), 1000
    rejected = {"p_value": 0, "p_sign_flip": 0, "interval": 0, "background_effect": 0}
    for _ in range(trials):
        scores, _ = drawn(random, foregrounds=40, backgrounds=5, keep=lambda easy: 0.1 + 0.85 * easy)
        scores = scores[scores["kind"].isin(["original", "placed_repainted", "shifted"])]
        tests = drop_tests(scores, seed=0, flips=499).iloc[0]
        for name in ("p_value", "p_sign_flip"):
            rejected[name] += tests[name] <= 0.05
        rejected["interval"] += not tests["drop_low"] <= 0 <= tests["drop_high"]
        effect = background_contrasts(scores, measures=["top1"], seed=0).set_index("effect").loc["background_effect"]
        rejected["background_effect"] += effect["p_value"] <= 0.05
    assert max(rejected.values()) <= 0.06 * trials, rejected
    assert min(rejected.values()) >= 0.01 * trials, "a test that never rejects says nothing"


def test_the_detectable_drop_is_found_four_times_in_five():
    random, trials, found, told = np.random.default_rng(3), 100, 0, []
    for _ in range(trials):
        scores, chance = drawn(random, foregrounds=100, backgrounds=4, effects={"shifted": 0.48})
        scores = scores[scores["kind"].isin(["original", "placed_repainted", "shifted"])]
        table = background_contrasts(scores, measures=["top1"], seed=0).set_index("effect")
        found += table.loc["background_effect", "p_value"] <= 0.05
        told.append(table.loc["detectable_drop", "value"])
        row = table.loc["detectable_drop"]
        assert row["low"] < row["value"] < row["high"]
    effect = (chance["placed_repainted"] - chance["shifted"]).mean()
    assert np.mean(told) == pytest.approx(effect, rel=0.12), "the planted effect is about what can be detected"
    assert abs(found / trials - 0.8) < 0.14


def test_scenes_widen_what_they_touch_and_nothing_else():
    random = np.random.default_rng(4)
    scenes = random.integers(0, 3, (60, 6))
    hard = np.where(scenes == 0, 3.0, -1.0)  # a third of the scenes hides everything
    right = {kind: random.random((60, 6)) < 0.8 for kind in ("placed", "placed_repainted")}
    right |= {kind: random.random((60, 6)) < expit(1 - hard) for kind in ("guide", "shifted")}
    right["original"] = random.random(60) < 0.8
    known = background_contrasts(table_of(right, scenes=scenes), measures=["top1"], seed=0).set_index("effect")
    unknown = background_contrasts(
        table_of(right, scenes=scenes).assign(template_id=""), measures=["top1"], seed=0
    ).set_index("effect")
    width, other = (table["high"] - table["low"] for table in (known, unknown))
    assert width["background_effect"] > 1.3 * other["background_effect"]
    assert width["repaint_effect_own"] == pytest.approx(other["repaint_effect_own"])
    assert (known["value"] - unknown["value"]).drop("detectable_drop").abs().max() == pytest.approx(0)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_intervals_cover_as_they_say_whatever_scenes_do(spread):
    """120 objects, ten scenes a background, half the images kept; scenes differ by an SD of `spread` logits."""
    random, trials, inside, widths = np.random.default_rng(8), 150, 0, []
    for _ in range(trials):
        hard = random.normal(0.5, 3.0, 120)[:, None] + np.zeros(10)
        scenes, kept = random.integers(0, 10, (120, 10)), random.random((120, 10)) < 0.5
        scene_is = random.normal(0, spread, (10, 10))[scenes, np.arange(10)]
        right = {"placed_repainted": random.random((120, 10)) < expit(hard)}
        right |= {"shifted": random.random((120, 10)) < expit(hard - 0.7 - scene_is), "original": np.ones(120)}
        scores = paired_scores(table_of(right, kept=kept, scenes=scenes))
        row = background_contrasts(scores, measures=["top1"], seed=0).set_index("effect").loc["background_effect"]
        truth = expit(hard) - np.mean([expit(hard - 0.7 - z * spread) for z in norm.ppf((np.arange(40) + 0.5) / 40)], 0)
        truth = truth[kept.any(1)].mean()
        inside += row["low"] <= truth <= row["high"]
        widths.append(row["high"] - row["low"])
    assert 0.91 * trials <= inside < trials
    if not spread:  # scenes that do nothing cost next to nothing: the twins are pairs among scenes too
        alone = background_contrasts(scores.assign(template_id=""), measures=["top1"], seed=0).set_index("effect")
        assert np.mean(widths) < 1.2 * np.diff(alone.loc["background_effect", ["low", "high"]])[0]


def test_only_pairs_that_are_pairs_are_compared():
    right = {"original": [1, 1], "placed_repainted": [[1, 1], [1, 1]], "shifted": [[0, 1], [1, 1]]}
    scores = table_of(right)
    lonely = scores[(scores["kind"] != "placed_repainted") | (scores["image_id"] != "0-0")]
    found = background_contrasts(lonely, measures=["top1"], seed=0).set_index("effect").loc["background_effect"]
    assert (found["value"], found["images"], found["n"]) == (0, 3, 2)
    assert set(background_contrasts(scores, seed=0)["effect"]) == {"background_effect", "detectable_drop"}
    unknown = scores.assign(in9_right=np.nan)
    assert set(background_contrasts(unknown, seed=0)["measure"]) == {"top1"}
    with pytest.raises(ValueError, match="measures must be of top1, top5, in9, got 'top3'"):
        background_contrasts(scores, measures=["top3"], seed=0)


def test_backgrounds_that_mean_nothing_have_no_spread_and_difficulty_is_none():
    right = {"original": np.ones(6), "shifted": np.repeat([[0.0], [1.0]] * 3, 10, axis=1)}
    found = background_spread(table_of(right), seed=0).iloc[0]
    assert found[["value", "chance", "low", "high"]].tolist() == [0, 0, 0, 0]
    assert found["p_value"] == 1
    random, small, inside = np.random.default_rng(5), 0, 0
    for _ in range(100):
        scores, _ = drawn(random, foregrounds=40, backgrounds=5, keep=lambda easy: 0.2 + 0.7 * easy)
        found = background_spread(scores, seed=0, shuffles=99).iloc[0]
        small += found["p_value"] <= 0.05
        inside += found["low"] == 0
    assert small <= 12
    assert inside >= 88


def test_a_planted_spread_is_found():
    random = np.random.default_rng(6)
    shift = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])
    values, covered, sure, truth = [], 0, 0, np.sqrt(np.square(shift).mean())
    for _ in range(60):
        easy = random.uniform(0.3, 0.7, (80, 1))
        right = {"original": np.ones(80), "shifted": random.random((80, 5)) < easy + shift}
        found = background_spread(table_of(right), seed=0, shuffles=99).iloc[0]
        values.append(found["value"])
        covered += found["low"] <= truth <= found["high"]
        sure += found["p_value"] <= 0.05
    assert np.mean(values) == pytest.approx(truth, rel=0.06)
    assert covered >= 52
    assert sure >= 57
