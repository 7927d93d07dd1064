"""The held-out bound on mutual information: known answers, calibration, faults."""

import math

import numpy as np
import pytest

from d3s_utils.information_left import mutual_information_left
from d3s_utils.mutual_information import symmetric_channel_mutual_information


def _channel(count: int, *, error: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(4, size=count)
    other = (labels + generator.integers(1, 4, size=count)) % 4
    copies = np.where(generator.random(count) < error, other, labels)
    return np.eye(4)[copies], labels


def _signs(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    features = np.random.default_rng(seed).standard_normal((count, 2))
    return features, (features.prod(1) > 0).astype(int)


@pytest.mark.parametrize("error", [0.0, 0.3, 0.75])
def test_bound_of_a_symmetric_channel(error):
    truth = symmetric_channel_mutual_information(4, error)
    found = mutual_information_left(
        _channel(800, error=error, seed=1), _channel(3000, error=error, seed=2), seed=0, classifiers=["linear"]
    )
    assert found.nats.value == pytest.approx(truth, abs=0.05)
    assert found.nats.low <= truth + 0.02
    assert found.share.value == pytest.approx(found.nats.value / found.label_entropy)
    assert found.label_entropy == pytest.approx(math.log(4), abs=0.01)
    assert found.nats.value == pytest.approx(found.pointwise.mean())


def test_the_kernel_finds_what_no_linear_classifier_does():
    data = _signs(800, seed=1), _signs(800, seed=2)
    linear = mutual_information_left(*data, seed=0, classifiers=["linear"])
    both = mutual_information_left(*data, seed=0)
    assert abs(linear.nats.value) < 0.02
    assert both.classifier == "kernel"
    assert 0.35 < both.nats.value < math.log(2)


def test_features_that_tell_nothing_are_not_trusted_where_a_raw_classifier_would_lose():
    """Forty features of sixty pictures: weakly regularised regression is sure of itself and wrong."""
    generator = np.random.default_rng(0)
    train, test = ((generator.standard_normal((n, 40)), np.arange(n) % 3) for n in (60, 600))
    found = mutual_information_left(train, test, seed=0, regularisations=(1.0,), classifiers=["linear"])
    assert -0.03 < found.nats.value < 0.02
    assert found.trust < 0.2


def test_groups_widen_the_interval_and_stay_whole():
    features, labels = _channel(300, error=0.3, seed=1)
    test = _channel(60, error=0.3, seed=2)
    copied = np.repeat(test[0], 10, axis=0), np.repeat(test[1], 10)
    options = {"seed": 0, "classifiers": ["linear"]}
    alone = mutual_information_left((features, labels), copied, **options).nats
    grouped = mutual_information_left(
        (features, labels), copied, test_groups=np.repeat(np.arange(60), 10), **options
    ).nats
    assert grouped.value == alone.value
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)
    # ten copies of 30 random pictures: whole groups must not let the classifier recognise them
    generator = np.random.default_rng(3)
    noise, guesses = np.repeat(generator.standard_normal((30, 40)), 10, axis=0), np.repeat(np.arange(30) % 2, 10)
    groups = np.repeat(np.arange(30), 10)
    known = mutual_information_left((noise, guesses), (noise, guesses), train_groups=groups, **options).nats.value
    recognised = mutual_information_left((noise, guesses), (noise, guesses), **options).nats.value
    assert known < 0.3 * recognised
    assert recognised > 0.6


def test_scale_and_names_of_labels_make_no_difference_and_the_seed_decides():
    train, test = _channel(200, error=0.3, seed=1), _channel(200, error=0.3, seed=2)
    names = np.array(["cave", "grass", "sand", "water"])
    value = mutual_information_left(train, test, seed=0).nats
    again = [(1e4 * features, names[labels]) for features, labels in (train, test)]
    assert mutual_information_left(*again, seed=0).nats.value == pytest.approx(value.value, abs=1e-6)
    assert mutual_information_left(train, test, seed=0).nats == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": (np.ones((4, 2)), np.array([0, 1, 2, 7]))}, "test must have labels that train has, got 7 too"),
        ({"test": (np.ones((4, 3)), np.arange(4))}, r"test must be as wide as train \(2\), got 3"),
        ({"train": (np.full((4, 2), np.nan), np.arange(4))}, "train must be finite, got 4 rows"),
        ({"train": (np.ones((4, 2)), np.zeros(4))}, "train must have at least 2 labels"),
        ({"train": (np.ones((4, 2)), np.arange(3))}, "a label and a group for each row"),
        ({"classifiers": ["forest"]}, "classifiers must be some of linear, kernel"),
        ({"folds": 1}, "must be at least 2, got 1 and 8"),
    ],
)
def test_mistakes_are_named(change, message):
    data = (np.random.default_rng(0).standard_normal((8, 2)), np.arange(8) % 4)
    with pytest.raises(ValueError, match=message):
        mutual_information_left(**{"train": data, "test": data, "seed": 0} | change)
