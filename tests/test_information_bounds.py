"""Bounds on mutual information against a table in which it can be counted."""

import math

import pytest
import torch
from torch.nn.functional import log_softmax

from d3s_utils.information_bounds import (
    barber_agakov_bound,
    contrastive_log_ratio_bound,
    donsker_varadhan_bound,
    label_frequencies,
    log_mean_exp,
)
from d3s_utils.mutual_information import counted_mutual_information

COUNTS = torch.tensor([[6, 1, 1], [2, 5, 1], [1, 1, 2], [3, 3, 3]])  # of four features against three labels
TRUTH = counted_mutual_information(COUNTS)
FEATURE, LABEL = (axis.flatten().repeat_interleave(COUNTS.flatten()) for axis in torch.meshgrid(
    torch.arange(4), torch.arange(3), indexing="ij"
))  # fmt: skip
JOINT = COUNTS.double() / COUNTS.sum()
POSTERIOR = (JOINT / JOINT.sum(1, keepdim=True)).log()
RATIO = (JOINT / JOINT.sum(1, keepdim=True) / JOINT.sum(0)).log()


def _random_table(seed: int) -> torch.Tensor:
    return 2 * torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _donsker_varadhan(scores: torch.Tensor) -> torch.Tensor:
    """Take every feature of the sample with every label of it: the product of the marginals, exactly."""
    return donsker_varadhan_bound(scores[FEATURE, LABEL], scores[FEATURE[:, None], LABEL[None]].flatten())


def test_donsker_varadhan_is_tight_for_the_log_ratio_plus_any_constant():
    assert _donsker_varadhan(RATIO).item() == pytest.approx(TRUTH, abs=1e-12)
    assert _donsker_varadhan(RATIO + 7).item() == pytest.approx(TRUTH, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_every_bound_keeps_to_its_side(seed):
    scores = _random_table(seed)
    classifier = log_softmax(scores, 1)
    assert _donsker_varadhan(scores) < TRUTH
    assert barber_agakov_bound(classifier[FEATURE], LABEL) < TRUTH
    assert contrastive_log_ratio_bound(POSTERIOR[FEATURE], LABEL) > TRUTH
    assert barber_agakov_bound(classifier[FEATURE], LABEL) <= _donsker_varadhan(classifier - JOINT.sum(0).log()) + 1e-12


def test_a_classifiers_bound_is_tight_for_the_posterior():
    assert barber_agakov_bound(POSTERIOR[FEATURE], LABEL).item() == pytest.approx(TRUTH, abs=1e-12)


def test_the_upper_bound_is_too_high_by_the_divergence_the_other_way_round():
    """With the posterior, CLUB is I + KL(p(f) p(y) || p(f, y))."""
    product = JOINT.sum(1, keepdim=True) * JOINT.sum(0)
    expected = TRUTH + (product * (product / JOINT).log()).sum().item()
    assert contrastive_log_ratio_bound(POSTERIOR[FEATURE], LABEL).item() == pytest.approx(expected, abs=1e-12)


def test_all_bounds_are_zero_for_independent_labels():
    labels = torch.arange(12) % 3
    even = torch.full((12, 3), 1 / 3, dtype=torch.float64).log()
    assert barber_agakov_bound(even, labels).item() == pytest.approx(0, abs=1e-12)
    assert contrastive_log_ratio_bound(even, labels).item() == pytest.approx(0, abs=1e-12)
    assert donsker_varadhan_bound(torch.full((5,), 3.0), torch.full((9,), 3.0)).item() == pytest.approx(0, abs=1e-6)


def test_weighted_pairs_count_as_repeated_ones():
    scores = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    repeated = scores.repeat_interleave(torch.tensor([1, 2, 3]))
    weights = (torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) / 6).log()
    assert torch.isclose(
        donsker_varadhan_bound(scores, scores, product_log_weights=weights), donsker_varadhan_bound(scores, repeated)
    )


def test_log_mean_exp_does_not_overflow():
    assert log_mean_exp(torch.tensor([1e4, 1e4 + math.log(3)], dtype=torch.float64)).item() == pytest.approx(
        1e4 + math.log(2)
    )


@pytest.mark.parametrize("bound", [barber_agakov_bound, contrastive_log_ratio_bound])
def test_gradients_of_classifiers_bounds_are_finite_differences(bound):
    scores = _random_table(0)[FEATURE][:6].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: bound(log_softmax(x, 1), LABEL[:6]), scores)


def test_gradient_of_donsker_varadhan_is_finite_differences():
    scores = [_random_table(seed).flatten()[:5].clone().requires_grad_() for seed in (0, 1)]
    assert torch.autograd.gradcheck(donsker_varadhan_bound, scores)


def test_inputs_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"product_scores must be one-dimensional and not empty, got shape \(0,\)"):
        donsker_varadhan_bound(torch.ones(2), torch.ones(0))
    with pytest.raises(ValueError, match=r"log_weights must have shape \(2,\), got \(3,\)"):
        donsker_varadhan_bound(torch.ones(2), torch.ones(2), product_log_weights=torch.ones(3))
    with pytest.raises(ValueError, match="labels must be below label_count=3, got 3"):
        label_frequencies(torch.tensor([0, 3]), 3)
