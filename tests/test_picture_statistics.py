"""Kernel distance, variety and nearest neighbours against slow ways and known answers."""

import numpy as np
import pytest

from d3s_utils.picture_statistics import (
    KernelDistance,
    distances_within_classes,
    diversity,
    kernel_distance,
    kernel_distance_ratio,
    kernel_distances,
    nearest_pictures,
)
from d3s_utils.randomness import numpy_generator


def samples(*key, n=20, width=6, shift=0.0):
    return numpy_generator(0, *key).normal(shift, 1, (n, width))


def slow_distance(first, second, clusters=None):
    kernel = lambda x, y: (x @ y / len(x) + 1) ** 3  # noqa: E731
    n, m = len(first), len(second)
    inside = [
        np.mean([kernel(features[i], features[j]) for i in range(k) for j in range(k) if of[i] != of[j]])
        for features, k, of in ((first, n, range(n) if clusters is None else clusters), (second, m, range(m)))
    ]
    return sum(inside) - 2 * np.mean([kernel(x, y) for x in first for y in second])


def test_the_kernel_distance_is_the_unbiased_one_written_out():
    first, second = samples("a", n=9), samples("b", n=7, shift=0.5)
    assert kernel_distance(first, second).value == pytest.approx(slow_distance(first, second), rel=1e-10)
    assert kernel_distance(first, second).n == 7


def test_its_standard_error_leaves_out_one_picture_at_a_time():
    first, second = samples("a", n=8), samples("b", n=6, shift=0.3)
    variance = 0.0
    for k, without in (
        (8, [slow_distance(np.delete(first, i, 0), second) for i in range(8)]),
        (6, [slow_distance(first, np.delete(second, i, 0)) for i in range(6)]),
    ):
        variance += (k - 1) / k * np.square(without - np.mean(without)).sum()
    assert kernel_distance(first, second).standard_error == pytest.approx(np.sqrt(variance), rel=1e-8)


def test_pictures_of_one_cluster_are_not_compared_and_leave_together():
    first, second, clusters = samples("a", n=9), samples("b", n=6, shift=0.3), np.array(list("pqpprssqt"))
    found = kernel_distance(first, second, clusters=clusters)
    assert found.value == pytest.approx(slow_distance(first, second, clusters), rel=1e-10)
    names, variance = np.unique(clusters), 0.0
    for k, without in (
        (5, [slow_distance(first[clusters != c], second, clusters[clusters != c]) for c in names]),
        (6, [slow_distance(first, np.delete(second, i, 0), clusters) for i in range(6)]),
    ):
        variance += (k - 1) / k * np.square(without - np.mean(without)).sum()
    assert found.standard_error == pytest.approx(np.sqrt(variance), rel=1e-8)
    assert kernel_distance(first, second, clusters=range(9)) == kernel_distance(first, second)


def test_near_copies_of_few_pictures_are_no_further_away_than_the_pictures():
    clusters, found, naive = np.repeat(range(8), 10), [], []
    for i in range(150):
        near_copies = samples("few", i, n=8)[clusters] + samples("little", i, n=80) / 4
        reference = samples("all", i, n=60) + samples("as little", i, n=60) / 4
        found.append(kernel_distance(near_copies, reference, clusters=clusters))
        naive.append(kernel_distance(near_copies, reference).value)
    values, errors = np.array([d.value for d in found]), np.array([d.standard_error for d in found])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(150), "unbiased"
    assert np.mean(naive) > 5 * values.std() / np.sqrt(150), "as it would not be if copies were compared"
    assert 0.7 < np.sqrt(np.mean(errors**2)) / values.std() < 1.6


def test_it_is_about_nothing_for_one_distribution_and_its_error_is_honest():
    drawn = [kernel_distance(samples("x", i, n=40), samples("y", i, n=40)) for i in range(200)]
    values, errors = np.array([d.value for d in drawn]), np.array([d.standard_error for d in drawn])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(200), "unbiased"
    assert 0.7 < np.sqrt(np.mean(errors**2)) / values.std() < 1.6
    apart = [kernel_distance(samples("x", i, n=60), samples("y", i, n=60, shift=0.7)) for i in range(150)]
    values, errors = np.array([d.value for d in apart]), np.array([d.standard_error for d in apart])
    assert 0.8 < errors.mean() / values.std() < 1.25


def test_it_grows_with_the_difference_and_does_not_hang_on_order():
    near, far = (kernel_distance(samples("a"), samples("b", shift=shift)).value for shift in (0.3, 1.0))
    assert near < far
    first, second = samples("a"), samples("b", shift=0.4)
    assert kernel_distance(first, second).value == pytest.approx(kernel_distance(second[::-1], first[::-1]).value)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.zeros((2, 3)), np.zeros((5, 3)), "first must be finite features of at least 3 pictures"),
        (np.zeros((5, 3)), np.full((5, 3), np.nan), "second must be finite"),
        (np.zeros((5, 3)), np.zeros((5, 4)), "equally wide, got 3 and 4"),
    ],
)
def test_bad_features_are_named(first, second, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(first, second)


@pytest.mark.parametrize("clusters", [[0, 0, 1, 1, 1], [0, 1, 2]])
def test_too_few_clusters_are_named(clusters):
    with pytest.raises(ValueError, match=r"clusters must be at least 3, one of them a picture, got \[0, .* 5 pictures"):
        kernel_distance(samples("a", n=5), samples("b"), clusters=clusters)


def test_a_ratio_carries_both_errors():
    one, two = KernelDistance(2.0, 0.1, 50), KernelDistance(4.0, 0.4, 30)
    ratio = kernel_distance_ratio(one, two)
    assert ratio.value == 0.5
    assert ratio.high - ratio.value == pytest.approx(1.959964 * np.hypot(0.1 / 4, 0.5 * 0.4 / 4))
    drawn = numpy_generator(0, "ratio").normal([2.0, 4.0], [0.1, 0.4], (200_000, 2))
    assert (drawn[:, 0] / drawn[:, 1]).std() == pytest.approx((ratio.high - ratio.low) / 2 / 1.959964, rel=0.05)


def test_distances_leave_out_self_pairs_and_stay_within_classes():
    features = np.array([[1, 0], [0, 2], [3, 0], [1, 1]])
    found = distances_within_classes(features, ["a", "a", "b", "b"])
    assert found.to_dict() == pytest.approx({"a": 1.0, "b": 1 - np.sqrt(0.5)})
    many = samples("many", n=12)
    unit = many / np.linalg.norm(many, axis=1, keepdims=True)
    slow = np.mean([1 - unit[i] @ unit[j] for i in range(12) for j in range(12) if i != j])
    assert distances_within_classes(many, ["c"] * 12)["c"] == pytest.approx(slow)
    with pytest.raises(ValueError, match="each class at least twice, got 'b' once"):
        distances_within_classes(features[:3], ["a", "a", "b"])


def test_diversity_is_one_for_photos_and_less_for_copies():
    photos, labels = samples("photos", n=60), np.repeat(["a", "b", "c"], 20)
    other = samples("others", n=60)
    assert diversity(photos, labels, photos, labels).value == 1
    ratio = diversity(other, labels, photos, labels)
    assert ratio.low < 1.1
    assert ratio.high > 0.9
    same = np.repeat(samples("same", n=3), 20, axis=0) + 0.3 * other
    assert diversity(same, labels, photos, labels).high < 0.5
    with pytest.raises(ValueError, match="of the same classes"):
        diversity(photos, labels, photos[:40], labels[:40])


def test_a_copy_is_found_whatever_its_brightness():
    reference = samples("reference", n=30)
    distances, rows = nearest_pictures(np.stack([2 * reference[7], samples("new", n=1)[0]]), reference)
    assert rows[0] == 7
    assert distances[0] == pytest.approx(0, abs=1e-9)
    assert distances[1] > 0.05


def test_each_group_is_measured_against_the_same_reference():
    features, reference = samples("group"), samples("reference", n=15)
    groups = np.repeat(["snow", "cave", "rare"], [9, 8, 3])
    clusters = np.array([*range(9), *range(8), 0, 1, 1])
    features[0] = np.nan  # an unreadable picture
    table = kernel_distances(features, groups, reference, clusters=clusters).set_index("group")
    assert list(table.index) == ["all", "snow", "cave"], "two clusters are too few"
    assert table["n"].tolist() == [15, 8, 8]
    assert table.loc["snow", "value"] == kernel_distance(features[1:9], reference).value
    assert table.loc["all", "value"] == kernel_distance(features[1:], reference, clusters=clusters[1:]).value
