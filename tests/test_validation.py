"""Validation: hand-computed verdicts, probabilities that add up, and pictures that cannot be read."""

import dataclasses

import pandas as pd
import pytest
from judged_tables import LENIENT, judged_table, with_quality

from d3s_utils.intervals import clustered_wilson
from d3s_utils.validation import (
    FILTERS,
    Thresholds,
    acceptance_by_threshold,
    agreement_metrics,
    agreement_table,
    chance_levels,
    decide,
    kept_by_cell,
    passes,
    read_generated,
    share_of,
    with_twin_verdicts,
)


def test_verdicts_by_hand():
    verdict = decide(judged_table(), LENIENT)
    assert verdict["foreground_agrees"].tolist() == [True, True, True, True, False]
    assert verdict["background_agrees"].tolist() == [True, True, False, True, False]
    assert verdict["safe"].tolist() == [True, True, True, False, False]
    assert verdict["keep"].tolist() == [True, True, False, False, False]
    assert set(verdict["verdict_source"]) == {"models"}


def test_every_rejection_has_a_reason_and_no_other_picture_has():
    verdict = decide(judged_table(), LENIENT)
    assert (verdict["keep"] == (verdict["reason"] == "")).all()
    assert verdict["reason"][2] == "background: looks like sand, snow 0.10 < 0.5"
    assert verdict["reason"][3] == "unsafe: 0.80 >= 0.8"
    assert verdict["reason"][4].startswith("unreadable: picture 'e.png'")


def test_a_stricter_threshold_takes_back_what_probability_saved():
    verdict = decide(judged_table(), dataclasses.replace(LENIENT, foreground=0.5))
    assert verdict["reason"][1] == "foreground: looks like dog, carnivore 0.40 < 0.5"
    assert verdict["keep"].tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_impossible_thresholds_are_named(value):
    with pytest.raises(ValueError, match="unsafe threshold"):
        Thresholds(foreground=0.5, background=0.5, unsafe=value)


def test_agreement_by_cell_is_counted_right():
    table = agreement_table(decide(judged_table(), LENIENT))
    cell = table.query("background == 'cave' and measure == 'foreground_agreement'").iloc[0]
    assert (cell["value"], cell["n"]) == pytest.approx((1 / 3, 3))
    relatives = clustered_wilson([False, True, False], ["f", "g", "g"])
    assert (cell["low"], cell["high"]) == pytest.approx((relatives.low, relatives.high))
    assert len(table) == 2 * 3


def test_metrics_have_their_names():
    metrics = agreement_metrics(decide(judged_table(), LENIENT))
    assert metrics["foreground_agreement"].value == pytest.approx(3 / 5)
    assert metrics["background_agreement"].value == pytest.approx(3 / 5)
    assert metrics["acceptance"].value == pytest.approx(2 / 5)
    assert metrics["safe"].value == pytest.approx(3 / 5)
    assert metrics["snow/background_agreement"].value == pytest.approx(1 / 2)
    assert list(metrics)[4:7] == ["snow/foreground_agreement", "snow/background_agreement", "acceptance/snow"]


def test_acceptance_falls_with_the_threshold():
    curve = acceptance_by_threshold(judged_table(), probability="foreground_probability").set_index("threshold")
    assert (curve["value"].diff().dropna() <= 0).all()
    assert curve.loc[0.0, "value"] == pytest.approx(4 / 5), "a missing probability agrees with none"
    assert curve.loc[1.0, "value"] == 0.0


def test_a_label_that_is_named_first_with_little_probability_is_not_kept():
    judged = judged_table().head(2).assign(foreground_probability=[0.25, 0.9], foreground_named=[True, False])
    verdict = decide(judged, LENIENT)
    assert verdict["foreground_agrees"].tolist() == [False, True]
    assert agreement_metrics(verdict)["foreground_agreement"].value == 0.5, "agreement is what is named first"


def test_chance_depends_on_what_the_label_is_told_from():
    table = judged_table().head(4)
    assert chance_levels(table)["foreground"] == pytest.approx(1 / 9)
    assert chance_levels(table.assign(in9=""))["foreground"] == pytest.approx(1 / 1000)
    assert chance_levels(table.assign(in9=["", "dog", "", "dog"]))["foreground"] == pytest.approx((1 / 9 + 1e-3) / 2)


def test_images_of_one_scene_are_relatives():
    table = judged_table().iloc[[0, 1] * 20].reset_index(drop=True)
    table = table.assign(foreground_id=range(40), shown=[True] * 20 + [False] * 20, template_id=["a"] * 20 + ["b"] * 20)
    alone = share_of(table.drop(columns="template_id"), "shown")
    two_scenes = share_of(table, "shown")
    assert two_scenes.low < 0.05 < alone.low, "two scenes say next to nothing of others"


def test_other_filters_say_what_they_would_do_and_reject_only_when_asked():
    judged = with_quality(judged_table())
    told = passes(judged, LENIENT)
    assert list(told) == list(FILTERS)
    assert told["clip_foreground"].tolist() == [True, False, True, True, False]
    assert told["sharpness"].tolist() == [True, False, True, True, False]
    assert told["duplicate"].tolist() == [True, True, True, False, False]
    assert decide(judged, LENIENT)["keep"].tolist() == [True, True, False, False, False]
    strict = decide(judged, LENIENT, filters=("sharpness", "duplicate", "clip_foreground"))
    assert strict["keep"].tolist() == [True, False, True, False, False]
    assert strict["reason"][1] == "sharpness: an outlier; clip_foreground: 0.20 < 0.5"
    assert strict["reason"][3] == "duplicate: of a"
    assert set(strict["rule"]) == {"models: sharpness, duplicate, clip_foreground"}


def test_a_filter_that_was_not_measured_is_named():
    with pytest.raises(ValueError, match="'clip_foreground' was not measured here"):
        decide(judged_table(), LENIENT, filters=("clip_foreground",))
    with pytest.raises(ValueError, match="'beauty' is none of foreground"):
        decide(judged_table(), LENIENT, filters=("beauty",))


def test_a_threshold_is_tried_on_every_cell():
    table = kept_by_cell(judged_table(), column="foreground_probability", thresholds=[0.5, 0.85])
    cell = table.query("background == 'snow'").set_index("threshold")["value"]
    assert cell[0.5] == 1.0
    assert cell[0.85] == 0.5
    assert table["n"].sum() == 2 * 5


def test_nothing_generated_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="run notebook 02_diffusion_generation first"):
        read_generated(tmp_path)


def test_twins_meet_the_rule_that_images_meet():
    table = decide(judged_table(), LENIENT).assign(placed_repainted_file=["a", None, "c", "d", None])
    opinions = pd.DataFrame({"foreground_probability": [0.9, LENIENT.foreground, 0.1]})
    found = with_twin_verdicts(table, opinions, LENIENT)
    assert found["placed_foreground_agrees"].tolist() == [True, pd.NA, True, False, pd.NA]
    assert found["placed_foreground_probability"].isna().tolist() == [False, True, False, False, True]
