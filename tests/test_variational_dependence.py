"""Adversary, CLUB and MINE on data whose mutual information is known, and MINE's unbiased gradient."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import entr
from scipy.stats import norm

from d3s_utils import information_bounds, variational_dependence
from d3s_utils.dependence import measure_dependence
from d3s_utils.mutual_information import gaussian_mutual_information, symmetric_channel_mutual_information
from d3s_utils.randomness import numpy_generator
from d3s_utils.variational_dependence import AdversarialDependence, ClubDependence, LogMovingAverage, MineDependence

SIZES = {"feature_width": 4, "label_count": 3, "seed": 0, "critic_width": 8}


def _channel(count: int, *, error: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the noisy copy of a uniform label of four as a point of six dimensions, and the label."""
    generator = numpy_generator(seed, "channel", count)
    labels = generator.integers(4, size=count)
    other = (labels + generator.integers(1, 4, size=count)) % 4
    copies = np.where(generator.random(count) < error, other, labels)
    points = numpy_generator(0, "points").standard_normal((4, 6))
    return torch.tensor(points[copies], dtype=torch.float32), torch.tensor(labels)


def _sign_of_a_correlated_gaussian(count: int, *, correlation: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a Gaussian beside two that tell nothing, and the sign of another one that is correlated with it."""
    draws = numpy_generator(seed, "gaussians", count).standard_normal((count, 4))
    hidden = correlation * draws[:, 0] + math.sqrt(1 - correlation**2) * draws[:, 3]
    return torch.tensor(draws[:, :3], dtype=torch.float32), torch.tensor((hidden > 0).astype(np.int64))


def _information_of_the_sign(correlation: float) -> float:
    """Return log 2 - E[H(P(positive | x))], by quadrature: the sign is positive with Phi(r x / sqrt(1 - r^2))."""

    def lost(x: float) -> float:
        positive = norm.cdf(correlation * x / math.sqrt(1 - correlation**2))
        return norm.pdf(x) * (entr(positive) + entr(1 - positive))

    return math.log(2) - quad(lost, -9, 9)[0]


def _measured(method: str, draw, **options) -> float:
    train, test = draw(5000, seed=1, **options), draw(4000, seed=2, **options)
    return measure_dependence(train, test, seed=0, method=method, steps=300, critic_width=24, learning_rate=5e-3)


@pytest.mark.parametrize("error", [0.1, 0.4, 0.75])
def test_estimates_of_a_symmetric_channel(error):
    truth = symmetric_channel_mutual_information(4, error)
    true, wrong = 1 - error, error / 3  # the posterior, which is also the channel
    upper = math.log(true) * true + 3 * math.log(wrong) * wrong - (math.log(true) + 3 * math.log(wrong)) / 4
    assert _measured("adversarial", _channel, error=error) == pytest.approx(truth, abs=0.06)
    assert _measured("mine", _channel, error=error) == pytest.approx(truth, abs=0.06)
    assert _measured("club", _channel, error=error) == pytest.approx(upper, abs=0.06 + 0.15 * upper)
    assert upper >= truth - 1e-12


def test_estimates_of_the_sign_of_a_correlated_gaussian():
    truth = _information_of_the_sign(0.8)
    assert 0.2 < truth < gaussian_mutual_information(0.8), "a sign tells less than the number"
    for method in ("adversarial", "mine"):
        found = _measured(method, _sign_of_a_correlated_gaussian, correlation=0.8)
        assert found == pytest.approx(truth, abs=0.05), method
    assert _measured("club", _sign_of_a_correlated_gaussian, correlation=0.8) > truth


@pytest.mark.parametrize("method", ["adversarial", "mine", "club"])
def test_an_invertible_map_changes_little_once_the_network_is_fitted_anew(method):
    mixing = torch.tensor([[1.0, 0.4, 0.0], [-0.3, 0.8, 0.5], [0.2, 0.0, 1.2]])

    def mapped(count: int, **options):
        features, labels = _sign_of_a_correlated_gaussian(count, **options)
        return features @ mixing + 1.0, labels

    before = _measured(method, _sign_of_a_correlated_gaussian, correlation=0.8)
    assert _measured(method, mapped, correlation=0.8) == pytest.approx(before, abs=0.04 + 0.1 * before)


@pytest.mark.parametrize("make", [AdversarialDependence, ClubDependence])
def test_gradient_is_finite_differences(make):
    dependence = make(**SIZES)
    dependence.network.double()
    features = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: dependence.penalty(x, torch.arange(7) % 3), features)


def test_gradient_reversal_is_the_adversarys_gradient_turned_round():
    dependence, labels = AdversarialDependence(**SIZES), torch.arange(12) % 3
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (gradient,) = torch.autograd.grad(dependence.penalty(features, labels), features)
    entropy = torch.nn.functional.cross_entropy(dependence.network(features), labels)
    assert torch.allclose(gradient, -torch.autograd.grad(entropy, features)[0], atol=1e-7)


def test_mine_divides_by_the_moving_average_and_not_by_the_batch():
    labels = torch.arange(12) % 3
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    unbiased, biased = MineDependence(**SIZES), MineDependence(average_rate=1.0, **SIZES)
    unbiased.average.update(torch.tensor(2.0))
    scores = unbiased.network(features)
    joint, mean_exp = scores[torch.arange(12), labels].mean(), scores.exp().mean()  # labels are even
    rate = unbiased.average.rate
    average = (rate * mean_exp + (1 - rate) * rate * math.exp(2.0)) / (rate + (1 - rate) * rate)
    expected = torch.autograd.grad(joint - mean_exp / average.detach(), features, retain_graph=True)[0]
    assert torch.allclose(torch.autograd.grad(unbiased.penalty(features, labels), features)[0], expected, atol=1e-6)
    own = torch.autograd.grad(joint - mean_exp.log(), features)[0]
    assert torch.allclose(torch.autograd.grad(biased.penalty(features, labels), features)[0], own, atol=1e-6)
    values = [each.penalty(features, labels).item() for each in (unbiased, biased)]
    assert values[0] == pytest.approx(values[1], abs=1e-6), "the value is the batch's"


@pytest.mark.parametrize(
    ("make", "printed"),
    [(AdversarialDependence, "barber_agakov_bound"), (MineDependence, "donsker_varadhan_bound"),
     (ClubDependence, "contrastive_log_ratio_bound")],
)  # fmt: skip
def test_estimates_are_those_of_the_function_that_notebook_05_prints(make, printed, monkeypatch):
    called = getattr(information_bounds, printed)
    monkeypatch.setattr(variational_dependence, printed, lambda *given, **options: 7.0 + 0 * called(*given, **options))
    dependence, labels = make(**SIZES), torch.arange(12) % 3
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    assert dependence.penalty(features, labels).item() == pytest.approx(7.0, abs=1e-5)
    assert dependence.fit_step(features, labels) == pytest.approx(7.0, abs=1e-5)


def test_halving_halves_the_hidden_layers():
    sizes = SIZES | {"feature_width": 20}
    for width, wanted in (("halving", [10, 5, 3]), (None, [20, 20, 3]), (8, [8, 8, 3])):
        network = AdversarialDependence(**sizes | {"critic_width": width}).network
        assert [layer.out_features for layer in network if isinstance(layer, torch.nn.Linear)] == wanted


def test_moving_average_is_that_of_the_exponentials_and_survives_huge_ones():
    average, values = LogMovingAverage(0.3), [0.5, 2.0, 1.0]
    for value in values:
        average.update(torch.tensor(value).log())
    weights = [0.3 * 0.7**age for age in (2, 1, 0)]
    assert average.value().exp().item() == pytest.approx(np.average(values, weights=weights), rel=1e-5)
    peeked = average.with_batch(torch.tensor(5000.0))
    average.update(torch.tensor(5000.0))
    assert average.value() == peeked
    assert peeked.item() == pytest.approx(5000 + math.log(0.3 / (sum(weights) * 0.7 + 0.3)), abs=1e-2)


@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_an_impossible_rate_is_named(rate):
    with pytest.raises(ValueError, match=r"average_rate must be in \(0, 1\]"):
        MineDependence(average_rate=rate, **SIZES)
