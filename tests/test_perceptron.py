"""Seeded networks: their shape, their spread, and that nothing but the seed decides."""

import pytest
import torch

from d3s_utils.perceptron import check_critic_width, halved_widths, make_perceptron


def test_widths_and_slopes():
    network = make_perceptron([5, 9, 4, 3], seed=0, name="n")
    assert [layer.out_features for layer in network if isinstance(layer, torch.nn.Linear)] == [9, 4, 3]
    assert [layer.negative_slope for layer in network if isinstance(layer, torch.nn.LeakyReLU)] == [0.1, 0.1]
    assert network(torch.zeros(2, 5)).shape == (2, 3)


def test_only_seed_and_name_decide_and_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    first, same, seed, name = (
        make_perceptron([5, 3], seed=s, name=n)[0].weight for s, n in ((0, "n"), (0, "n"), (1, "n"), (0, "m"))
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first, same)
    assert not torch.equal(first, seed)
    assert not torch.equal(first, name)


def test_signals_keep_their_size_through_the_layers():
    """He's weights keep the mean square of a layer's outputs at 2 / (1 + slope^2) of the activations' mean square."""
    network = make_perceptron([400] * 6, seed=0, name="n")
    inputs = torch.randn(200, 400, generator=torch.Generator().manual_seed(0))
    assert network[:-1](inputs).square().mean().item() == pytest.approx(1.0, rel=0.2)


def test_halves_go_down_to_one():
    assert halved_widths(33) == [33, 16, 8, 4, 2, 1]
    assert halved_widths(1) == [1]


@pytest.mark.parametrize("width", [0, -3, "half", 2.5, True])
def test_an_impossible_critic_width_is_named(width):
    with pytest.raises(ValueError, match="critic_width must be 'halving' or an integer of at least 1, got"):
        check_critic_width(width)


@pytest.mark.parametrize("widths", [[4], [4, 0]])
def test_impossible_widths_are_named(widths):
    with pytest.raises(ValueError, match="widths must be at least two numbers of at least 1"):
        make_perceptron(widths, seed=0, name="n")
