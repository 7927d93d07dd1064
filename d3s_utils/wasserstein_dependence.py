"""The Wasserstein distance between pictures with their own labels and with other pictures' (D3S's penalty)."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from d3s_utils.perceptron import HALVING, check_critic_width, halved_widths, make_perceptron
from d3s_utils.randomness import derive_seed, torch_generator
from d3s_utils.resumable import Resumable, check_sizes

LEAST_LABEL_WIDTH = 8  # in fewer dimensions some random vectors lie too close for a smooth critic to tell labels apart


class WassersteinDependence(Resumable):
    """The Wasserstein distance between pairs (feature, its own label) and pairs (feature, another picture's label).

    A label enters as a fixed random Gaussian vector, so that both kinds of pairs are points of one space, and the
    distance is the largest mean difference that a 1-Lipschitz critic can make between them. The critic is trained as
    in WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028), and D3S lowers its estimate (arXiv:2211.10370). How many
    critic steps go before a step of the features is the caller's choice: five in D3S's paper, four in its code.

    The gradient penalty holds the critic's slope near one but not at it: at a distance W the estimate is about
    1 + W / (2 x `gradient_penalty_weight`) times W.

    The distance has the unit of the features: features that shrink lower it without forgetting anything. Give it
    features of a fixed scale (`invariant_features` gives white ones).
    """

    def __init__(
        self,
        *,
        feature_width: int,
        label_count: int,
        seed: int,
        label_share: float = 0.2,
        critic_width: int | Literal["halving"] = HALVING,
        gradient_penalty_weight: float = 10.0,
        learning_rate: float = 1e-3,
        device: str = "cpu",
    ) -> None:
        """Make the label vectors and an untrained critic.

        Args:
            feature_width: Number of features of a picture.
            label_count: Number of different labels, at least 2.
            seed: Of the label vectors, the critic's first weights and its shuffles.
            label_share: Width of a label's vector as a share of `feature_width` (D3S: 0.2), rounded down (D3S: 359 of
                1798), and raised to `LEAST_LABEL_WIDTH` where features are few.
            critic_width: ``halving`` is the shape of D3S's code: the first hidden layer is half as wide as the input,
                each next one half as wide as the last, down to 1 (2157, 1078, …, 2, 1: 3.1 million parameters). A
                number is the width of the first hidden layer; then layers halve while they have 16 units or more.
            gradient_penalty_weight: Weight of the critic's gradient penalty (D3S: 10).
            learning_rate: Of the critic's Adam, whose betas are (0, 0.9).

        Raises:
            ValueError: If a width or a count is too small.
        """
        check_sizes(feature_width, label_count)
        check_critic_width(critic_width)
        # 1e-9: a share of 0.29 of 100 is 28.999999999999996 in floating point
        label_width = max(LEAST_LABEL_WIDTH, math.floor(label_share * feature_width + 1e-9))
        vectors = torch.randn(label_count, label_width, generator=torch_generator(seed, "label vectors"))
        self.label_vectors = torch.nn.Embedding.from_pretrained(vectors, freeze=True).to(device)
        input_width = feature_width + label_width
        self.critic = make_critic(input_width, hidden_width=critic_width, seed=seed).to(device)
        self.optimizer = torch.optim.Adam(self.critic.parameters(), lr=learning_rate, betas=(0.0, 0.9))
        self.gradient_penalty_weight = gradient_penalty_weight
        self.generator = torch_generator(derive_seed(seed, "critic"), "shuffles")
        super().__init__(
            parts={"label_vectors": self.label_vectors, "critic": self.critic, "optimizer": self.optimizer},
            generators={"shuffles": self.generator},
        )

    def pairs(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return points of the joint distribution and of the product of its marginals.

        Row i of both holds the vector of label i; the joint one has its own feature, the other a shuffled one.
        """
        vectors = self.label_vectors(labels)
        shuffle = torch.randperm(len(features), generator=self.generator).to(features.device)
        return torch.cat([features, vectors], 1), torch.cat([features[shuffle], vectors], 1)

    def fit_step(self, features: Tensor, labels: Tensor) -> float:
        """Move the critic one step towards the optimal one on detached `features` (n, width), `labels` (n,)."""
        joint, product = self.pairs(features.detach(), labels)
        return critic_step(
            self.critic,
            self.optimizer,
            joint,
            product,
            gradient_penalty_weight=self.gradient_penalty_weight,
            generator=self.generator,
        )

    def penalty(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the critic's estimate of the distance, in the features' unit; noise may make it negative."""
        joint, product = self.pairs(features, labels)
        return self.critic(joint).mean() - self.critic(product).mean()


def make_critic(
    input_width: int, *, hidden_width: int | Literal["halving"], seed: int, last_width: int = 16
) -> torch.nn.Sequential:
    """Return a perceptron (n, input_width) -> (n, 1) whose layers halve in width, with LeakyReLU 0.1 between.

    Args:
        input_width: At least 2.
        hidden_width: Of the first hidden layer, or ``halving``: half of the input's, and halves down to 1.
        seed: Of the first weights.
        last_width: The least width of a hidden layer after the first; none where layers halve from the input on.
    """
    if hidden_width == HALVING:
        return make_perceptron(halved_widths(input_width), seed=seed, name="critic weights")
    halves = [width for width in halved_widths(hidden_width)[1:] if width >= last_width]
    return make_perceptron([input_width, hidden_width, *halves, 1], seed=seed, name="critic weights")


def gradient_penalty(critic: Callable[[Tensor], Tensor], first: Tensor, second: Tensor, mixture: Tensor) -> Tensor:
    """Return the mean squared distance from one of the critic's gradient norm, between two samples.

    Args:
        first, second: Points, shape (n, width).
        mixture: In [0, 1], shape (n, 1): the gradient is taken at ``mixture x first + (1 - mixture) x second``.

    Returns:
        Scalar, differentiable in the critic's weights. For a linear critic w it is (|w| - 1)^2.

    Raises:
        ValueError: If the shapes differ.

    Source: Gulrajani et al. 2017, arXiv:1704.00028, equation 3.
    """
    if first.shape != second.shape or mixture.shape != (len(first), 1):
        raise ValueError(
            "first and second must have one shape (n, width) and mixture (n, 1), "
            f"got {tuple(first.shape)}, {tuple(second.shape)} and {tuple(mixture.shape)}"
        )
    points = (mixture * first + (1 - mixture) * second).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return (gradient.norm(dim=1) - 1).square().mean()


def critic_step(
    critic: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    first: Tensor,
    second: Tensor,
    *,
    gradient_penalty_weight: float,
    generator: torch.Generator,
) -> float:
    """Take one WGAN-GP step on samples of two distributions; return the distance it estimated before the step."""
    mixture = torch.rand(len(first), 1, generator=generator).to(first.device)
    estimate = critic(first).mean() - critic(second).mean()
    loss = gradient_penalty_weight * gradient_penalty(critic, first, second, mixture) - estimate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return estimate.item()
