"""The weighted softmax regression against scikit-learn, finite differences and its own limits."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from d3s_utils.softmax_regression import (
    Compact,
    early_stopped,
    group_losses,
    minimise,
    minimise_soft_worst,
    predicted,
)

RANDOM = np.random.default_rng(0)
LABELS = np.arange(60) % 3
FEATURES = RANDOM.normal(size=(60, 5)) * [1, 4, 0.1, 1, 2] + LABELS[:, None]
ONEHOT = np.eye(3)[LABELS]
WEIGHTS = RANDOM.uniform(0.1, 2, 60)
WEIGHTS /= WEIGHTS.sum()


def probabilities(features, head):
    scores = features @ head[:, :-1].T + head[:, -1]
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_is_scikit_learns_with_sample_weights(penalty):
    theirs = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000).fit(FEATURES, LABELS, sample_weight=WEIGHTS)
    ours = minimise(FEATURES, ONEHOT, WEIGHTS, penalty, tolerance=1e-9)
    assert np.allclose(ours[:, :-1], theirs.coef_, atol=1e-4)
    assert np.allclose(probabilities(FEATURES, ours), theirs.predict_proba(FEATURES), atol=1e-4)


def test_a_weight_of_two_is_a_picture_shown_twice():
    weights = np.where(LABELS == 0, 2.0, 1.0)
    twice = np.concatenate([np.arange(60), np.flatnonzero(LABELS == 0)])
    shown = minimise(FEATURES[twice], ONEHOT[twice], np.full(80, 1 / 80), 0.1, tolerance=1e-9)
    weighted = minimise(FEATURES, ONEHOT, weights / weights.sum(), 0.1, tolerance=1e-9)
    assert np.allclose(shown, weighted, atol=1e-5)


def test_a_head_in_fewer_coordinates_is_the_wide_one():
    wide = RANDOM.normal(size=(60, 90))
    compact = Compact.of(wide)
    assert compact.features.shape == (60, 60)
    small = compact.widen(minimise(compact.features, ONEHOT, WEIGHTS, 0.1, tolerance=1e-9))
    assert np.allclose(small, minimise(wide, ONEHOT, WEIGHTS, 0.1, tolerance=1e-9), atol=1e-5)


def test_a_strong_penalty_leaves_the_weighted_shares_of_the_labels():
    head = minimise(FEATURES, ONEHOT, WEIGHTS, 1e8, tolerance=1e-9)
    assert np.allclose(probabilities(FEATURES, head), WEIGHTS @ ONEHOT, atol=1e-4)


def test_each_gradient_step_goes_downhill():
    losses = [
        group_losses(FEATURES, ONEHOT, early_stopped(FEATURES, ONEHOT, steps=steps), np.zeros(60, int))[0]
        for steps in (0, 1, 5, 50)
    ]
    assert losses[0] == pytest.approx(np.log(3))
    assert np.all(np.diff(losses) < 0)


def test_group_losses_are_means_over_their_pictures():
    head = minimise(FEATURES, ONEHOT, WEIGHTS, 0.1)
    own = -np.log(probabilities(FEATURES, head)[np.arange(60), LABELS])
    group = (np.arange(60) >= 40).astype(int)
    assert np.allclose(group_losses(FEATURES, ONEHOT, head, group), [own[:40].mean(), own[40:].mean()])
    assert np.array_equal(predicted(FEATURES, head), probabilities(FEATURES, head).argmax(1))


GROUP, SHARES = np.repeat([0, 1, 2], [10, 20, 30]), np.array([0.5, 0.3, 0.2])


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_soft_worst_head_is_the_weighted_one_of_the_weights_it_leads_to(temperature):
    head, q = minimise_soft_worst(FEATURES, ONEHOT, GROUP, SHARES, temperature, 0.1, tolerance=1e-9)
    losses = group_losses(FEATURES, ONEHOT, head, GROUP)
    tilted = SHARES * np.exp(losses / temperature)
    assert q == pytest.approx(tilted / tilted.sum())
    weighted = minimise(FEATURES, ONEHOT, (q / np.bincount(GROUP))[GROUP], 0.1, tolerance=1e-9)
    assert np.allclose(head, weighted, atol=1e-4)


def test_the_soft_worst_lies_between_the_weighted_mean_and_the_worst_group():
    def losses(temperature):
        head, _ = minimise_soft_worst(FEATURES, ONEHOT, GROUP, SHARES, temperature, 0.1, tolerance=1e-9)
        return group_losses(FEATURES, ONEHOT, head, GROUP)

    assert losses(0.003).max() < losses(1.0).max() - 0.01
    weighted = minimise(FEATURES, ONEHOT, (SHARES / np.bincount(GROUP))[GROUP], 0.1, tolerance=1e-9)
    assert np.allclose(losses(1e6), group_losses(FEATURES, ONEHOT, weighted, GROUP), atol=1e-4)
