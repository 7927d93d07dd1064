"""The critic's mathematics against closed forms."""

from itertools import pairwise

import pytest
import torch

from d3s_utils.randomness import torch_generator
from d3s_utils.wasserstein_dependence import WassersteinDependence, critic_step, gradient_penalty, make_critic


def _points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch_generator(seed, "points"))


@pytest.mark.parametrize("norm", [0.0, 0.5, 1.0, 3.0])
def test_gradient_penalty_of_a_linear_critic_is_its_norm_less_one_squared(norm):
    weight = torch.nn.functional.normalize(_points(7), dim=0) * norm
    value = gradient_penalty(lambda x: x @ weight, _points(50, 7, seed=1), _points(50, 7, seed=2), torch.rand(50, 1))
    assert value.item() == pytest.approx((norm - 1) ** 2, abs=1e-5)


def test_gradient_penalty_is_taken_at_the_mixture():
    first, second, mixture = _points(9, 3), _points(9, 3, seed=1), torch.linspace(0, 1, 9)[:, None]
    between = mixture * first + (1 - mixture) * second
    expected = (2 * between.norm(dim=1) - 1).square().mean()  # the gradient of |x|^2 is 2x
    assert torch.isclose(gradient_penalty(lambda x: x.square().sum(1), first, second, mixture), expected)


def test_gradient_penalty_reaches_the_critics_weights():
    critic = make_critic(4, hidden_width=16, seed=0)
    gradient_penalty(critic, _points(8, 4), _points(8, 4, seed=1), torch.full((8, 1), 0.5)).backward()
    assert critic[0].weight.grad.abs().sum() > 0


def test_gradient_penalty_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"mixture \(n, 1\).*\(5, 3\)"):
        gradient_penalty(lambda x: x.sum(1), _points(4, 3), _points(5, 3), torch.rand(4, 1))


def test_critic_halves_its_width_and_does_not_touch_the_global_generator():
    before = torch.random.get_rng_state()
    critic = make_critic(38, hidden_width=128, seed=3)
    widths = [layer.out_features for layer in critic if isinstance(layer, torch.nn.Linear)]
    assert widths == [128, 64, 32, 16, 1]
    assert {layer.negative_slope for layer in critic if isinstance(layer, torch.nn.LeakyReLU)} == {0.1}
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(critic[0].weight, make_critic(38, hidden_width=128, seed=3)[0].weight)
    assert not torch.equal(critic[0].weight, make_critic(38, hidden_width=128, seed=4)[0].weight)


def test_fit_step_estimates_what_the_penalty_that_notebook_05_prints_estimates():
    features, labels = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    first, second = (WassersteinDependence(feature_width=4, label_count=3, seed=0) for _ in range(2))
    assert first.fit_step(features, labels) == pytest.approx(second.penalty(features, labels).item(), abs=1e-6)


def linears(network):
    return [layer for layer in network if isinstance(layer, torch.nn.Linear)]


def test_the_authors_critic_halves_from_half_its_input_down_to_one():
    """Feature of 1798 + label vector of 0.2 x 1798, cut to 359; widths and parameters by hand."""
    dependence = WassersteinDependence(feature_width=1798, label_count=10, seed=0)
    widths = [2157, 1078, 539, 269, 134, 67, 33, 16, 8, 4, 2, 1]
    layers = linears(dependence.critic)
    assert [layers[0].in_features, *(layer.out_features for layer in layers)] == widths
    parameters = sum(before * after + after for before, after in pairwise(widths))
    assert sum(part.numel() for part in dependence.critic.parameters()) == parameters == 3_101_363
    assert dependence.label_vectors.weight.shape == (10, 359)


def test_the_authors_shape_can_be_asked_for_by_name_and_is_the_default():
    shapes = [
        [layer.weight.shape for layer in linears(WassersteinDependence(**sizes, label_count=3, seed=0).critic)]
        for sizes in ({"feature_width": 50}, {"feature_width": 50, "critic_width": "halving"},
                      {"feature_width": 50, "critic_width": 60})
    ]  # fmt: skip
    assert shapes[0] == shapes[1] == [(30, 60), (15, 30), (7, 15), (3, 7), (1, 3)]
    assert shapes[2] == [(60, 60), (30, 60), (1, 30)], "a number is the first hidden width; halves end at 16 or above"


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_estimate_of_shifted_gaussians_is_the_shift(shift):
    """The Wasserstein distance between N(0, I) and N(m, I) is |m| (the coupling x -> x + m).

    The gradient penalty is soft: the best critic has a slope s that maximises s |m| - 10 (s - 1)^2, which is
    1 + |m| / 20, so the estimate is that much too high.
    """
    critic = make_critic(3, hidden_width=32, seed=0)
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3, betas=(0.0, 0.9))
    generator = torch_generator(0, "gaussians")
    direction = torch.tensor([0.6, 0.0, -0.8])
    for _ in range(200):
        first = torch.randn(128, 3, generator=generator) + shift * direction
        second = torch.randn(128, 3, generator=generator)
        critic_step(critic, optimizer, first, second, gradient_penalty_weight=10.0, generator=generator)
    with torch.no_grad():
        first = torch.randn(4000, 3, generator=generator) + shift * direction
        estimate = critic(first).mean() - critic(torch.randn(4000, 3, generator=generator)).mean()
    assert estimate.item() == pytest.approx(shift * (1 + shift / 20), abs=0.15 + 0.075 * shift)


def test_pairs_keep_the_marginals_and_only_the_joint_keeps_who_belongs_to_whom():
    dependence = WassersteinDependence(feature_width=10, label_count=3, seed=0)
    features, labels = _points(60, 10), torch.arange(60) % 3
    joint, product = dependence.pairs(features, labels)
    assert joint.shape == product.shape == (60, 18)
    assert torch.equal(joint, torch.cat([features, dependence.label_vectors(labels)], 1))
    assert torch.equal(product[:, 10:], joint[:, 10:])
    order = features[:, 0].argsort()
    assert torch.equal(product[product[:, 0].argsort(), :10], features[order])
    assert not torch.equal(product, joint)


def test_penalty_is_zero_where_all_features_are_equal():
    dependence = WassersteinDependence(feature_width=5, label_count=2, seed=0)
    features = torch.ones(20, 5)
    assert dependence.penalty(features, torch.arange(20) % 2).item() == pytest.approx(0, abs=1e-6)


def test_penalty_does_not_change_when_a_constant_is_added_to_the_critic():
    features, labels = _points(40, 5), torch.arange(40) % 2
    values = []
    for constant in (0.0, 7.0):
        dependence = WassersteinDependence(feature_width=5, label_count=2, seed=0)
        dependence.critic[-1].bias.data += constant
        values.append(dependence.penalty(features, labels).item())
    assert values[0] == pytest.approx(values[1], abs=1e-5)
