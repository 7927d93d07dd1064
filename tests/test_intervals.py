"""Intervals: known answers, coverage down to three groups, and what related images do to them."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from d3s_utils.intervals import (
    bootstrap_interval,
    clustered_mean,
    clustered_wilson,
    paired_difference,
    paired_test,
    ratio_of_means,
    sign_flip_p,
    wilson,
)


def least_coverage(trials, nominal=0.95):
    """Return what coverage that is at least nominal falls below once in a thousand times."""
    return nominal - 3.1 * np.sqrt(nominal * (1 - nominal) / trials)


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


def test_clustered_wilson_is_wilson_when_each_is_a_group_of_its_own():
    outcomes = np.array([0, 1, 1, 0, 1, 1, 1, 0] * 10)
    for found, plain in ((clustered_wilson(outcomes, np.arange(80)), wilson(50, 80)),
                         (clustered_wilson(np.ones(9), np.arange(9)), wilson(9, 9))):  # fmt: skip
        assert (found.value, found.low, found.high, found.n) == pytest.approx(
            (plain.value, plain.low, plain.high, plain.n)
        )


def test_clustered_wilson_counts_identical_images_once():
    by_guide = np.array([0, 1, 1, 0, 1, 1, 1, 0, 1, 1])
    repeated = clustered_wilson(np.repeat(by_guide, 10), np.repeat(np.arange(10), 10))
    assert repeated.value == pytest.approx(0.7)
    assert repeated.n == 100
    plain = wilson(7, 10)
    wider = stats.t.ppf(0.975, 9) / stats.norm.ppf(0.975)
    assert repeated.high - repeated.low == pytest.approx((plain.high - plain.low) * wider, rel=0.08)


def test_one_group_alone_says_nothing_of_others():
    alone = clustered_wilson([0, 1, 1, 1], ["a"] * 4)
    assert (alone.value, alone.low, alone.high) == (0.75, 0, 1)
    all_right = clustered_wilson(np.ones(50), np.repeat(np.arange(5), 10))
    assert 0 < all_right.low < wilson(5, 5).low, "five groups that agree are no fifty trials, nor are they certain"


def test_weights_count_and_zeros_do_not():
    outcomes, groups = np.array([1, 1, 1, 0]), np.array(["a", "a", "a", "b"])
    each_group_alike = clustered_wilson(outcomes, groups, weights=[1 / 3, 1 / 3, 1 / 3, 1])
    assert each_group_alike.value == pytest.approx(0.5)
    twice = clustered_wilson([1, 0, 1], ["a", "b", "c"], weights=[1, 1, 0])
    assert twice == clustered_wilson([1, 0], ["a", "b"])
    with pytest.raises(ValueError, match="not all zero"):
        clustered_wilson([1, 0], ["a", "b"], weights=[0, 0])
    with pytest.raises(ValueError, match="weights must be one a value"):
        clustered_wilson([1, 0], ["a", "b"], weights=[1])


@pytest.mark.parametrize("groups", [3, 5, 9, 20, 60])
@pytest.mark.parametrize("beta", [(0.7, 0.3), (2, 2), (3, 0.5)])
def test_clustered_wilson_covers_with_few_groups(groups, beta):
    """Foregrounds of unequal difficulty with one to ten images each; plain Wilson would cover 60 to 80 %."""
    random, trials, truth = np.random.default_rng(groups), 400, beta[0] / sum(beta)
    covered = 0
    for _ in range(trials):
        sizes, difficulty = random.integers(1, 11, groups), random.beta(*beta, groups)
        code = np.repeat(np.arange(groups), sizes)
        found = clustered_wilson(random.random(len(code)) < difficulty[code], code, weights=1 / sizes[code])
        covered += found.low <= truth <= found.high
    assert covered / trials >= least_coverage(trials)


@pytest.mark.parametrize("scenes", [5, 10])
@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_scenes_count_as_well_as_foregrounds(scenes, spread):
    """A background's images share scenes whose difficulty differs by `spread` logits."""
    random, trials, count = np.random.default_rng(scenes), 300, 144
    truth = expit(0.8 + np.hypot(1, spread) * random.normal(size=100_000)).mean()
    two_ways, one_way = 0, 0
    for _ in range(trials):
        scene = random.integers(0, scenes, count)
        right = expit(0.8 + random.normal(size=count) + spread * random.normal(size=scenes)[scene])
        outcomes = random.random(count) < right
        both, alone = (clustered_wilson(outcomes, np.arange(count), crossed=crossed) for crossed in (scene, None))
        two_ways += both.low <= truth <= both.high
        one_way += alone.low <= truth <= alone.high
    assert two_ways / trials >= least_coverage(trials, 0.94)
    if spread == 1.0:
        assert one_way / trials < 0.8, "intervals that forget the scenes are far too narrow"


@pytest.mark.parametrize("groups", [3, 5, 9, 20])
def test_clustered_mean_covers_as_often_as_it_says(groups):
    random, trials, covered = np.random.default_rng(groups), 1000, 0
    for _ in range(trials):
        sizes = random.integers(1, 6, groups)
        code = np.repeat(np.arange(groups), sizes)
        values = random.normal(1, 1, groups)[code] + random.normal(0, 0.5, len(code))
        found = clustered_mean(values, groups=code, weights=1 / sizes[code])
        covered += found.low <= 1 <= found.high
    assert least_coverage(trials) <= covered / trials <= 0.98


def test_clustered_mean_is_the_t_interval_of_independent_values():
    values = np.random.default_rng(1).normal(3, 2, 12)
    found = clustered_mean(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), expected.low, expected.high))
    repeated = clustered_mean(np.repeat(values, 5), groups=np.repeat(np.arange(12), 5))
    assert (repeated.low, repeated.high) == pytest.approx((found.low, found.high)), "copies add nothing"


def test_of_one_value_or_one_group_there_is_no_interval():
    assert not clustered_mean([0.3]).has_interval
    assert not clustered_mean([0.3, 0.5], groups=["a", "a"]).has_interval
    estimate, p_value = paired_test([1, 0], [0, 0], groups=["a", "a"], second_groups=["a", "a"])
    assert (estimate.value, estimate.n, p_value) == (0.5, 1, 1.0)
    assert not estimate.has_interval
    assert not ratio_of_means([2.0], [4.0]).has_interval


def test_three_pairs_are_never_sure():
    estimate, p_value = paired_test(np.ones(3), np.zeros(3))
    assert p_value == pytest.approx(0.25), "of the eight ways to flip three signs, two are as extreme"
    assert estimate.value == estimate.high == 1
    assert estimate.low < 0


@pytest.mark.parametrize("groups", [4, 9, 20, 50])
@pytest.mark.parametrize("mean", [0.5, 0.8, 0.95])
def test_a_difference_of_outcomes_covers_and_its_test_does_not_cry_wolf(groups, mean):
    """Nothing changes between one original and one to nine images of each foreground."""
    random, trials = np.random.default_rng(groups), 300
    covered, rejected = 0, 0
    for _ in range(trials):
        right, sizes = random.beta(3 * mean, 3 * (1 - mean), groups), random.integers(1, 10, groups)
        code = np.repeat(np.arange(groups), sizes)
        first, second = random.random(groups) < right, random.random(len(code)) < right[code]
        found, p_value = paired_test(first, second, groups=np.arange(groups), second_groups=code)
        covered += found.low <= 0 <= found.high
        rejected += p_value <= 0.05
    assert covered / trials >= least_coverage(trials)
    assert rejected / trials <= 1 - least_coverage(trials)


def test_a_real_difference_is_found():
    random = np.random.default_rng(0)
    right, code = random.beta(2, 1, 100), np.repeat(np.arange(100), 6)
    first, second = random.random(600) < right[code], random.random(600) < 0.7 * right[code]
    found, p_value = paired_test(first, second, groups=code, second_groups=code)
    assert found.low > 0.1
    assert p_value < 1e-4


def test_every_group_counts_the_same_whatever_was_kept_of_it():
    """Twenty easy objects of which nine images were kept, twenty hard ones of which one was; nothing changed."""
    objects = np.arange(40)
    original = (objects < 20).astype(float)
    code = np.repeat(objects, np.where(objects < 20, 9, 1))
    estimate, p_value = paired_test(original, original[code], groups=objects, second_groups=code)
    assert (estimate.value, p_value) == (0, 1)
    assert estimate.low < 0 < estimate.high


def test_paired_difference_is_exact_when_pairs_differ_by_a_constant():
    second = np.random.default_rng(2).normal(0, 10, 50)
    estimate = paired_difference(second + 0.25, second)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.25, 0.25, 0.25))
    assert estimate.n == 50


def test_paired_difference_over_groups_of_unequal_size():
    original, guides = np.array([1, 1, 0, 1]), np.array(["a", "b", "c", "d"])
    shifted, of_guide = np.array([1, 0, 0, 0, 1, 1, 0]), np.array(["a", "a", "b", "b", "c", "d", "d"])
    estimate = paired_difference(original, shifted, groups=guides, second_groups=of_guide)
    assert estimate.value == pytest.approx(((1 - 0.5) + (1 - 0) + (0 - 1) + (1 - 0.5)) / 4)
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.n == 4


def test_pairing_narrows_the_interval():
    generator = np.random.default_rng(3)
    difficulty = generator.normal(0, 1, 200)
    first, second = difficulty + generator.normal(0.3, 0.1, 200), difficulty + generator.normal(0, 0.1, 200)
    paired = paired_difference(first, second)
    assert paired.high - paired.low == pytest.approx(2 * 1.96 * 0.1 * np.sqrt(2 / 200), rel=0.2)


def test_scenes_of_either_side_widen_a_difference():
    random = np.random.default_rng(4)
    foreground, scene = np.divmod(np.arange(400), 10)
    effect = random.normal(0, 1, 10)
    values = random.normal(0, 0.2, 400) + effect[scene]
    flat = random.normal(0, 0.2, 400)
    options = {"groups": foreground, "second_groups": foreground}
    narrow = paired_difference(flat, values, **options)
    wide = paired_difference(flat, values, **options, second_crossed=scene)
    other = paired_difference(values, flat, **options, crossed=scene)
    expected = stats.t.ppf(0.975, 9) * effect.std(ddof=1) / np.sqrt(10)
    assert wide.high - wide.value == pytest.approx(expected, rel=0.05)
    assert (other.value, other.low) == pytest.approx((-wide.value, -wide.high))
    assert narrow.high - narrow.low < 0.1 * (wide.high - wide.low)
    same = paired_difference(values + 1, values, **options, crossed=scene, second_crossed=scene)
    assert (same.low, same.high) == pytest.approx((1, 1)), "what a scene adds to both sides cancels"
    with pytest.raises(ValueError, match="crossed must have one label per value"):
        paired_difference(flat, values, **options, crossed=scene[:5])


def test_a_ratio_of_means_is_exact_for_proportional_pairs_and_knows_its_error():
    first = np.arange(1, 21.0)
    ratio = ratio_of_means(first, 2 * first)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5))
    assert ratio.n == 20
    random = np.random.default_rng(0)
    drawn = [ratio_of_means(random.normal(2, 1, 200), random.normal(4, 1, 200)) for _ in range(60)]
    width = np.mean([estimate.high - estimate.low for estimate in drawn]) / 2 / 1.96
    spread = np.hypot(1 / 2, 1 / 4) * 0.5 / np.sqrt(200)
    assert width == pytest.approx(spread, rel=0.15)
    with pytest.raises(ValueError, match="second must have a mean above 0"):
        ratio_of_means(first, np.zeros(20))


def test_a_ratio_of_shares_goes_by_group():
    right, groups = np.array([1, 1, 0, 1]), np.array(["a", "a", "b", "b"])
    photos, photo_groups = np.array([1, 1, 1, 0, 1]), np.array(["b", "b", "a", "a", "a"])
    ratio = ratio_of_means(right, photos, groups=groups, second_groups=photo_groups)
    assert ratio.value == pytest.approx((1 + 0.5) / (2 / 3 + 1))
    assert ratio.n == 2


def test_bootstrap_intervals_agree_with_t_where_a_mean_is_drawn():
    random = np.random.default_rng(0)
    for count in (5, 12, 40, 200):
        values = random.normal(size=count)
        draws = values[random.integers(0, count, (4000, count))].mean(1)[:, None]
        low, high = bootstrap_interval([values.mean()], draws, groups=count)
        expected = stats.ttest_1samp(values, 0).confidence_interval()
        assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=0.2 * (high[0] - low[0]))


def test_bootstrap_intervals_of_one_group_or_of_nothing_are_missing():
    draws = np.random.default_rng(0).normal(size=(100, 2))
    assert np.isnan(bootstrap_interval([0.0, 0.0], draws, groups=1)).all()
    low, high = bootstrap_interval([np.nan, 0.5], draws, groups=40)
    assert np.isnan([low[0], high[0]]).all()
    assert low[1] <= 0.5 <= high[1]


def test_mirrored_draws_make_up_for_a_statistic_that_noise_raises():
    draws = np.full((100, 1), 3.0) + np.linspace(-0.1, 0.1, 100)[:, None]
    low, high = bootstrap_interval([2.0], draws, groups=50, reflected=True)
    assert low[0] == pytest.approx(0.9, abs=0.01)
    assert high[0] == 2.0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="one label per value"):
        clustered_mean([1.0, 2.0], groups=["a"])
    with pytest.raises(ValueError, match="finite"):
        clustered_mean([1.0, np.nan])
    with pytest.raises(ValueError, match="not empty"):
        clustered_mean([])
    with pytest.raises(ValueError, match="zeros and ones"):
        clustered_wilson([0, 2], ["a", "b"])
    with pytest.raises(ValueError, match="both sides"):
        paired_difference([1, 0], [1, 0], groups=["a", "b"], second_groups=["a", "a"])
    with pytest.raises(ValueError, match="one value per group"):
        paired_difference([1, 0], [1, 0, 1])


def test_the_p_value_agrees_with_the_interval():
    random, below = np.random.default_rng(0), []
    for _ in range(60):
        first = random.normal(0.3, 1, 40)
        difference, p_value = paired_test(first, random.normal(0, 1, 40))
        below.append(p_value < 0.05)
        assert (difference.low > 0 or difference.high < 0) == (p_value < 0.05)
    assert 0 < sum(below) < 60, "both cases occur"


def test_the_p_value_of_no_difference_and_of_a_sure_one():
    values = np.random.default_rng(0).normal(size=50)
    assert paired_test(values, values)[1] == 1.0
    for sure in (paired_test(values + 1, values)[1], paired_test(values, values + 1)[1]):
        assert sure == pytest.approx(2.0**-49), "no less than fifty flips can give"


def test_the_p_value_is_uniform_where_nothing_differs():
    random = np.random.default_rng(1)
    p_values = [paired_test(*random.normal(size=(2, 60)))[1] for k in range(400)]
    for level in (0.1, 0.3, 0.6):
        assert abs(np.mean(np.array(p_values) <= level) - level) < 4 * np.sqrt(level * (1 - level) / 400)


def test_sign_flips_of_few_pairs_are_exact():
    assert sign_flip_p(np.array([[1.0], [1.0], [0.0]]), seed=0) == pytest.approx([0.5])
    assert sign_flip_p(np.array([[3.0, -3.0], [1.0, 1.0], [2.0, 2.0]]), seed=0) == pytest.approx([0.25, 1.0])
