"""Intervals: known answers, coverage, and what correlated pictures do to them."""

import numpy as np
import pytest
from scipy import stats

from d3s_utils.intervals import bootstrap_mean, clustered_wilson, paired_difference, paired_test, ratio_of_means, wilson


def test_wilson_agrees_with_scipy():
    for successes, total in [(0, 7), (7, 7), (3, 10), (81, 900)]:
        expected = stats.binomtest(successes, total).proportion_ci(method="wilson")
        estimate = wilson(successes, total)
        assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert estimate.value == successes / total
        assert estimate.n == total


@pytest.mark.parametrize(("successes", "total"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes, total):
    with pytest.raises(ValueError, match="must be"):
        wilson(successes, total)


def test_clustered_wilson_is_wilson_when_groups_say_nothing():
    outcomes = np.array([0, 1, 1, 0, 1, 1, 1, 0] * 10)
    alone = clustered_wilson(outcomes, np.arange(80))
    plain = wilson(50, 80)
    assert (alone.value, alone.n) == (plain.value, plain.n)
    assert (alone.low, alone.high) == pytest.approx((plain.low, plain.high), abs=2e-3)


def test_clustered_wilson_counts_identical_pictures_once():
    by_guide = np.array([0, 1, 1, 0, 1, 1, 1, 0, 1, 1])
    repeated = clustered_wilson(np.repeat(by_guide, 10), np.repeat(np.arange(10), 10))
    plain = wilson(7, 10)
    assert repeated.value == pytest.approx(0.7)
    assert repeated.n == 100
    assert repeated.high - repeated.low == pytest.approx(plain.high - plain.low, rel=0.08)


def test_clustered_wilson_of_all_right_is_not_certain():
    assert clustered_wilson(np.ones(50), np.repeat(np.arange(5), 10)).low == pytest.approx(wilson(5, 5).low)


def test_clustered_wilson_covers_the_truth_where_plain_wilson_does_not():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 10)
    clustered, plain = [], []
    for _ in range(300):
        outcomes = generator.random(600) < np.repeat(generator.beta(0.7, 0.3, 60), 10)  # true share 0.7
        a, b = clustered_wilson(outcomes, groups), wilson(int(outcomes.sum()), 600)
        clustered.append(a.low <= 0.7 <= a.high)
        plain.append(b.low <= 0.7 <= b.high)
    assert 0.91 <= np.mean(clustered) <= 0.98
    assert np.mean(plain) < 0.75


def test_bootstrap_mean_agrees_with_the_normal_interval():
    values = np.random.default_rng(1).normal(3, 2, 400)
    estimate = bootstrap_mean(values, seed=0)
    half = 1.96 * values.std(ddof=1) / 20
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert bootstrap_mean(values, seed=0) == estimate


def test_paired_difference_is_exact_when_pairs_differ_by_a_constant():
    second = np.random.default_rng(2).normal(0, 10, 50)
    estimate = paired_difference(second + 0.25, second)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.25, 0.25, 0.25))
    assert estimate.n == 50


def test_paired_difference_over_groups_of_unequal_size():
    original, guides = np.array([1, 1, 0, 1]), np.array(["a", "b", "c", "d"])
    shifted, of_guide = np.array([1, 0, 0, 0, 1, 1, 0]), np.array(["a", "a", "b", "b", "c", "d", "d"])
    estimate = paired_difference(original, shifted, groups=guides, second_groups=of_guide)
    assert estimate.value == pytest.approx(3 / 4 - 3 / 7)
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.n == 4


def test_pairing_narrows_the_interval():
    generator = np.random.default_rng(3)
    difficulty = generator.normal(0, 1, 200)
    first, second = difficulty + generator.normal(0.3, 0.1, 200), difficulty + generator.normal(0, 0.1, 200)
    paired = paired_difference(first, second)
    assert paired.high - paired.low == pytest.approx(2 * 1.96 * 0.1 * np.sqrt(2 / 200), rel=0.2)


def test_a_ratio_of_means_is_exact_for_proportional_pairs_and_knows_its_error():
    first = np.arange(1, 21.0)
    ratio = ratio_of_means(first, 2 * first)
    assert (ratio.value, ratio.low, ratio.high) == (0.5, 0.5, 0.5)
    assert ratio.n == 20
    random = np.random.default_rng(0)
    drawn = [ratio_of_means(random.normal(2, 1, 200), random.normal(4, 1, 200), samples=300) for _ in range(60)]
    width = np.mean([estimate.high - estimate.low for estimate in drawn]) / 2 / 1.96
    spread = np.hypot(1 / 2, 1 / 4) * 0.5 / np.sqrt(200)
    assert width == pytest.approx(spread, rel=0.15)
    with pytest.raises(ValueError, match="second must have a mean above 0"):
        ratio_of_means(first, np.zeros(20))


def test_a_ratio_of_shares_goes_by_group():
    right, groups = np.array([1, 1, 0, 1]), np.array(["a", "a", "b", "b"])
    photos, photo_groups = np.array([1, 1, 1, 0, 1]), np.array(["b", "b", "a", "a", "a"])
    ratio = ratio_of_means(right, photos, groups=groups, second_groups=photo_groups)
    assert ratio.value == pytest.approx(0.75 / 0.8)
    assert ratio.n == 2
    assert ratio.low == pytest.approx((1 / 2) / 1), "of group b alone"
    assert ratio.high == pytest.approx(1 / (2 / 3)), "of group a alone"


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="one label per value"):
        bootstrap_mean([1.0, 2.0], groups=["a"])
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean([1.0, np.nan])
    with pytest.raises(ValueError, match="not empty"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="zeros and ones"):
        clustered_wilson([0, 2], ["a", "b"])
    with pytest.raises(ValueError, match="both sides"):
        paired_difference([1, 0], [1, 0], groups=["a", "b"], second_groups=["a", "a"])
    with pytest.raises(ValueError, match="one value per group"):
        paired_difference([1, 0], [1, 0, 1])
    with pytest.raises(ValueError, match="samples"):
        bootstrap_mean([1.0], samples=0)


def test_the_p_value_agrees_with_the_interval():
    random, below = np.random.default_rng(0), []
    for _ in range(60):
        first = random.normal(0.3, 1, 40)
        difference, p_value = paired_test(first, random.normal(0, 1, 40), seed=0, samples=999)
        below.append(p_value < 0.05)
        assert (difference.low > 0 or difference.high < 0) == (p_value < 0.05) or abs(p_value - 0.05) < 0.01
    assert 0 < sum(below) < 60, "both cases occur"


def test_the_p_value_of_no_difference_and_of_a_sure_one():
    values = np.random.default_rng(0).normal(size=50)
    assert paired_test(values, values, samples=999)[1] == 1.0
    assert paired_test(values + 1, values, samples=999)[1] == pytest.approx(2 / 1000), "never 0"
    assert paired_test(values, values + 1, samples=999)[1] == pytest.approx(2 / 1000)


def test_the_p_value_is_uniform_where_nothing_differs():
    random = np.random.default_rng(1)
    p_values = [paired_test(*random.normal(size=(2, 60)), seed=k, samples=499)[1] for k in range(200)]
    for level in (0.1, 0.3, 0.6):
        assert abs(np.mean(np.array(p_values) <= level) - level) < 4 * np.sqrt(level * (1 - level) / 200)
