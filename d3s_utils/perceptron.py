"""Small fully connected networks whose first weights come from a seed and nothing else."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from d3s_utils.randomness import torch_generator

SLOPE = 0.1  # of LeakyReLU below zero, as in D3S's critic
HALVING = "halving"  # a critic's width: each layer is half as wide as the one before, from the input on


def check_critic_width(width: int | str) -> None:
    """Refuse a critic's width that is neither `HALVING` nor the width of its first hidden layer.

    Raises:
        ValueError: If it is something else.
    """
    number = isinstance(width, int) and not isinstance(width, bool) and width >= 1
    if not number and width != HALVING:
        raise ValueError(f"critic_width must be {HALVING!r} or an integer of at least 1, got {width!r}")


def halved_widths(width: int) -> list[int]:
    """Return `width`, its half, the half of that, rounded down, and so on to 1."""
    widths = [width]
    while widths[-1] > 1:
        widths.append(widths[-1] // 2)
    return widths


def make_perceptron(widths: Sequence[int], *, seed: int, name: str) -> torch.nn.Sequential:
    """Return a perceptron (n, widths[0]) -> (n, widths[-1]) with LeakyReLU between its linear layers.

    Args:
        widths: Of the input, the hidden layers and the output, each at least 1.
        seed, name: Of the first weights.

    Raises:
        ValueError: If there are fewer than two widths, or one is below 1.

    Source of the first weights: He et al. 2015, arXiv:1502.01852 (uniform, for this slope).
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths must be at least two numbers of at least 1, got {list(widths)}")
    generator = torch_generator(seed, name)
    layers = []
    for before, after in pairwise(widths):
        linear = torch.nn.utils.skip_init(torch.nn.Linear, before, after)
        torch.nn.init.kaiming_uniform_(linear.weight, a=SLOPE, generator=generator)
        torch.nn.init.zeros_(linear.bias)
        layers += [linear, torch.nn.LeakyReLU(SLOPE)]
    return torch.nn.Sequential(*layers[:-1])
