"""Mutual information against closed forms, scikit-learn and infomeasure."""

import math

import infomeasure
import numpy as np
import pytest
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression
from sklearn.metrics import mutual_info_score

from d3s_utils.mutual_information import (
    contingency_table,
    counted_mutual_information,
    discrete_mutual_information,
    gaussian_mutual_information,
    label_entropy,
    nearest_neighbour_mutual_information,
    symmetric_channel_mutual_information,
)


def _labels(count: int = 300, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    first = generator.integers(4, size=count)
    return first, np.where(generator.random(count) < 0.5, first % 3, generator.integers(3, size=count))


def _gaussians(count: int, correlation: float, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    first, noise = np.random.default_rng(seed).standard_normal((2, count))
    return first, correlation * first + math.sqrt(1 - correlation**2) * noise


def test_counting_agrees_with_scikit_learn_and_infomeasure():
    first, second = _labels()
    found = discrete_mutual_information(first, second)
    assert found == pytest.approx(mutual_info_score(first, second), abs=1e-12)
    assert found == pytest.approx(infomeasure.mutual_information(first, second, approach="discrete"), abs=1e-12)
    corrected = discrete_mutual_information(first, second, correction="miller_madow")
    assert corrected == pytest.approx(infomeasure.mutual_information(first, second, approach="miller_madow"), abs=1e-9)
    assert label_entropy(first, correction="miller_madow") == pytest.approx(
        infomeasure.entropy(first, approach="miller_madow"), abs=1e-9
    )


def test_correction_takes_the_bias_away():
    """Of independent labels the plug-in estimate is too high by (k - 1)(l - 1) / 2n on average."""
    generator = np.random.default_rng(0)
    pairs = [generator.integers(5, size=(2, 200)) for _ in range(200)]
    plain = np.mean([discrete_mutual_information(*pair) for pair in pairs])
    corrected = np.mean([discrete_mutual_information(*pair, correction="miller_madow") for pair in pairs])
    assert plain == pytest.approx(16 / 400, rel=0.1)
    assert abs(corrected) < 0.004


def test_counting_knows_its_limits():
    assert discrete_mutual_information([0, 0, 1, 1], list("abab")) == pytest.approx(0, abs=1e-12)
    assert discrete_mutual_information([0, 1, 2] * 4, list("abc") * 4) == pytest.approx(math.log(3))
    table = contingency_table([0, 0, 5, 5], list("baaa"))
    assert table.tolist() == [[1, 1], [2, 0]]
    assert counted_mutual_information(table) == pytest.approx(counted_mutual_information(table / 4))
    assert counted_mutual_information(table) == pytest.approx(counted_mutual_information(table.T))


@pytest.mark.parametrize(("label_count", "error"), [(2, 0.0), (2, 0.11), (4, 0.3), (10, 0.9), (3, 1.0)])
def test_symmetric_channel_is_what_its_table_counts(label_count, error):
    table = np.full((label_count, label_count), error / (label_count - 1))
    np.fill_diagonal(table, 1 - error)
    assert symmetric_channel_mutual_information(label_count, error) == pytest.approx(
        counted_mutual_information(table), abs=1e-12
    )


def test_gaussians_closed_form_against_nearest_neighbours_of_others():
    first, second = _gaussians(3000, 0.8)
    truth = gaussian_mutual_information(0.8)
    assert truth == pytest.approx(-0.5 * math.log(0.36))
    assert infomeasure.mutual_information(first, second, approach="ksg") == pytest.approx(truth, abs=0.06)
    assert mutual_info_regression(first[:, None], second, random_state=0)[0] == pytest.approx(truth, abs=0.06)
    assert gaussian_mutual_information([0.8, -0.5]) == pytest.approx(truth - 0.5 * math.log(0.75))
    assert gaussian_mutual_information([0.0, 0.0]) == 0


@pytest.mark.parametrize("neighbours", [1, 3, 7])
def test_nearest_neighbours_agree_with_scikit_learn_on_one_feature(neighbours):
    first, second = _gaussians(400, 0.8)
    labels = np.digitize(second, [-0.5, 1.0])
    expected = mutual_info_classif(first[:, None], labels, n_neighbors=neighbours, random_state=0)[0]
    assert nearest_neighbour_mutual_information(first, labels, neighbours=neighbours) == pytest.approx(
        expected, abs=2e-3
    )


def test_nearest_neighbours_find_what_two_features_tell_together():
    """The label is the sign of a product: either feature alone tells nothing, both tell log 2."""
    features = np.random.default_rng(0).standard_normal((3000, 2))
    labels = (features.prod(1) > 0).astype(int)
    assert mutual_info_classif(features, labels, random_state=0).max() < 0.05
    assert nearest_neighbour_mutual_information(features, labels) == pytest.approx(math.log(2), abs=0.08)


def test_nearest_neighbours_of_independent_data_are_about_zero():
    generator = np.random.default_rng(0)
    values = [
        nearest_neighbour_mutual_information(generator.standard_normal((300, 3)), generator.integers(4, size=300))
        for _ in range(20)
    ]
    assert abs(np.mean(values)) < 0.02
    assert min(values) < 0, "it is not cut at zero"


def test_nearest_neighbours_do_not_see_rotation_scale_or_shift():
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 3
    features = generator.standard_normal((200, 3)) + np.eye(3)[labels]
    rotation = np.linalg.qr(generator.standard_normal((3, 3)))[0]
    value = nearest_neighbour_mutual_information(features, labels)
    assert value > 0.1
    for other in (features @ rotation, 1e5 * features, 1e-5 * features, features + 3):
        assert nearest_neighbour_mutual_information(other, labels) == pytest.approx(value, abs=1e-9)


def test_nearest_neighbours_leave_out_a_label_of_one_picture():
    features, labels = np.arange(20.0) ** 1.1, np.arange(20) % 2
    value = nearest_neighbour_mutual_information(features, labels)
    assert nearest_neighbour_mutual_information(np.append(features, 99), np.append(labels, 7)) == value


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: label_entropy([]), "labels must be one-dimensional and not empty"),
        (lambda: label_entropy([1, 2], correction="nsb"), "correction must be one of none, miller_madow, got 'nsb'"),
        (lambda: contingency_table([1, 2], [1]), r"first and second must be sequences of one length, got \(2,\)"),
        (lambda: counted_mutual_information([[1, -1]]), "entries of at least 0"),
        (lambda: counted_mutual_information([[0.5, 0.5]], correction="miller_madow"), "is for counts"),
        (lambda: gaussian_mutual_information([0.1, 1.0]), "correlations must be between -1 and 1"),
        (lambda: symmetric_channel_mutual_information(1, 0.5), "label_count must be at least 2"),
        (lambda: nearest_neighbour_mutual_information([[1.0], [2.0]], [1]), "a row for each label"),
        (lambda: nearest_neighbour_mutual_information([np.nan, 1.0], [1, 1]), "must be finite, got 1 rows"),
        (lambda: nearest_neighbour_mutual_information([1.0, 2.0], [1, 1], neighbours=0), "neighbours must be at least"),
        (lambda: nearest_neighbour_mutual_information([1.0, 2.0], [0, 1]), "one that occurs twice"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
