"""Filters against people: hand-counted precision and recall, thresholds that keep their word, scores that mean it."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from d3s_utils.calibration import calibration_curve, filter_curve, filter_quality, recommend_threshold
from d3s_utils.randomness import numpy_generator


def sample(count=4000, *, seed=0):
    """Scores that are true probabilities of being accepted."""
    random = numpy_generator(seed, "test calibration")
    scores = random.random(count)
    return scores, random.random(count) < scores, np.arange(count)


def test_precision_and_recall_by_hand():
    kept = [True, True, True, False, False, True]
    accepted = [True, False, True, True, False, None]  # the last is open and counts nowhere
    quality = filter_quality(kept, accepted, list("abcdef"))
    assert quality.precision.value == pytest.approx(2 / 3)
    assert quality.recall.value == pytest.approx(2 / 3)
    assert quality.n == 5
    assert set(quality.metrics("foreground")) == {"filter_precision/foreground", "filter_recall/foreground"}


def test_what_is_undefined_is_not_a_number():
    nothing_kept = filter_quality([False, False], [True, False], [0, 1])
    assert nothing_kept.precision is None
    assert nothing_kept.recall.value == 0
    nothing_accepted = filter_quality([True, False], [False, False], [0, 1])
    assert nothing_accepted.recall is None
    assert set(nothing_accepted.metrics("unsafe")) == {"filter_precision/unsafe"}


def test_the_curve_is_scikit_learns():
    scores, accepted, groups = sample(300)
    precision, recall, thresholds = precision_recall_curve(accepted, scores)
    ours = filter_curve(scores, accepted, groups, thresholds=thresholds)
    np.testing.assert_allclose(ours["precision"], precision[:-1])
    np.testing.assert_allclose(ours["recall"], recall[:-1])
    assert ((ours["precision_low"] <= ours["precision"]) & (ours["precision"] <= ours["precision_high"])).all()


def test_a_missing_score_is_never_kept():
    curve = filter_curve([np.nan, 0.9], [True, True], [0, 1], thresholds=[0.0])
    assert curve["kept"].item() == 0.5
    assert curve["recall"].item() == 0.5


def test_true_probabilities_are_found_calibrated_and_others_are_not():
    scores, accepted, groups = sample()
    honest = calibration_curve(scores, accepted, groups, bins=10)
    assert len(honest) == 10
    assert honest["n"].sum() == len(scores)
    inside = (honest["low"] <= honest["score"]) & (honest["score"] <= honest["high"])
    assert inside.mean() >= 0.8
    boastful = calibration_curve(np.sqrt(scores), accepted, groups, bins=10)
    assert (boastful["high"] < boastful["score"]).mean() > 0.5


def test_equal_scores_share_a_bin():
    curve = calibration_curve([0.0] * 50 + [1.0] * 3, [False] * 50 + [True] * 3, np.arange(53), bins=10)
    assert curve["score"].tolist() == [0.0, 1.0]
    assert curve["n"].tolist() == [50, 3]


@pytest.mark.parametrize("wanted", [0.7, 0.8, 0.9])
def test_the_recommended_threshold_keeps_its_word_on_other_pictures(wanted):
    scores, accepted, groups = sample()
    found = recommend_threshold(scores, accepted, groups, precision=wanted)
    # Above t the mean of a true probability is (1 + t) / 2, so the threshold is 2 x precision - 1.
    assert found.threshold == pytest.approx(2 * wanted - 1, abs=0.06)
    assert found.precision.value >= wanted
    assert found.honest_precision.value == pytest.approx(wanted, abs=0.03)
    fresh_scores, fresh_accepted, _ = sample(seed=1)
    assert fresh_accepted[fresh_scores >= found.threshold].mean() == pytest.approx(wanted, abs=0.03)


def test_where_no_threshold_is_enough_none_is_recommended():
    found = recommend_threshold(np.linspace(0, 1, 40), [False, True] * 20, np.arange(40), precision=0.99)
    assert found.threshold is None or found.precision.value >= 0.99
    hopeless = recommend_threshold(np.linspace(0, 1, 40), [False] * 40, np.arange(40), precision=0.5)
    assert hopeless.threshold is None
    assert hopeless.honest_precision is None


def test_scores_that_say_nothing_flatter_when_chosen_and_not_when_held_out():
    random = numpy_generator(3, "noise")
    accepted = random.random(200) < 0.6
    found = recommend_threshold(random.random(200), accepted, np.arange(200), precision=0.75)
    honest = found.honest_precision.value if found.honest_precision else 0.6
    assert found.threshold is None or honest < found.precision.value


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="equally long, got 1, 2 and 1"):
        filter_quality([True], [True, False], [0])
    with pytest.raises(ValueError, match="all are open"):
        filter_quality([True], [None], [0])
    with pytest.raises(ValueError, match=r"precision must lie in \(0, 1\], got 0"):
        recommend_threshold([0.5], [True], [0], precision=0)
    with pytest.raises(ValueError, match="bins must be at least 1"):
        calibration_curve([0.5], [True], [0], bins=0)
    with pytest.raises(ValueError, match="all are missing"):
        calibration_curve([np.nan], [True], [0])
