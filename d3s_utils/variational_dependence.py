"""Mutual information of features and a label, in nats, bounded with a small network that learns beside the features.

All three networks give every label a score in one pass. The product of the marginals is then a mean over the pictures
of a batch and a sum over labels' frequencies, which is exact where others draw shuffled pairs.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from d3s_utils.information_bounds import (
    barber_agakov_bound,
    contrastive_log_ratio_bound,
    donsker_varadhan_bound,
    label_frequencies,
)
from d3s_utils.perceptron import HALVING, check_critic_width, make_perceptron
from d3s_utils.resumable import Resumable, check_sizes

BETAS = (0.5, 0.99)  # of Adam: short memories, since the features move while a network learns them


class ScoringNetwork(Resumable):
    """A perceptron features -> a score for each label, with two hidden layers, and its Adam."""

    def __init__(
        self,
        *,
        feature_width: int,
        label_count: int,
        seed: int,
        critic_width: int | Literal["halving"] | None = None,
        learning_rate: float = 1e-3,
        device: str = "cpu",
    ) -> None:
        """Make an untrained network.

        Args:
            feature_width: Number of features of a picture.
            label_count: Number of different labels, at least 2.
            seed: Of the first weights, which are all that is random.
            critic_width: Width of both hidden layers; None is `feature_width`. ``halving`` makes the first half as
                wide as the input and the second half as wide as the first.
            learning_rate: Of Adam, whose betas are `BETAS`.

        Raises:
            ValueError: If a width or a count is too small.
        """
        check_sizes(feature_width, label_count)
        width = feature_width if critic_width is None else critic_width
        check_critic_width(width)
        hidden = [max(1, feature_width // 2), max(1, feature_width // 4)] if width == HALVING else [width, width]
        self.network = make_perceptron([feature_width, *hidden, label_count], seed=seed, name="label scores")
        self.network.to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate, betas=BETAS)
        super().__init__(parts={"network": self.network, "optimizer": self.optimizer})

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


class AdversarialDependence(ScoringNetwork):
    """What a classifier knows of the label: the label's entropy less its cross-entropy, a lower bound on I in nats.

    The classifier lowers its cross-entropy on the features and the features raise it: the game of gradient reversal.
    The bound is as tight as the classifier is good. A classifier that errs with confidence takes it below zero.

    Source: Ganin et al. 2016, "Domain-adversarial training of neural networks", arXiv:1505.07818; as a bound, Barber &
    Agakov 2003.
    """

    def fit_step(self, features: Tensor, labels: Tensor) -> float:
        """Move the classifier one step down its cross-entropy; return the estimate before the step, in nats."""
        log_probabilities = log_softmax(self.network(features.detach()), 1)
        bound = barber_agakov_bound(log_probabilities, labels)
        self._descend(-bound)  # the entropy is no part of the gradient
        return bound.item()

    def penalty(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the lower bound for features (n, width) and labels (n,), in nats."""
        return barber_agakov_bound(log_softmax(self.network(features), 1), labels)


class ClubDependence(ScoringNetwork):
    """The contrastive log-ratio upper bound on I, in nats: log q on true pairs less log q on all pairs.

    q(y | features) is learned by maximum likelihood, as the adversary is. It bounds from above where q is the
    posterior; a q that lags behind the features may give less than I, and a sure one gives far more: the mean of log q
    over wrong labels has no floor.

    Source: Cheng et al. 2020, "CLUB: a contrastive log-ratio upper bound of mutual information", arXiv:2006.12013
    (the variational form, with the exact mean over negatives in place of one drawn).
    """

    def fit_step(self, features: Tensor, labels: Tensor) -> float:
        """Move q one step up the likelihood of the labels; return the bound before the step, in nats."""
        scores = self.network(features.detach())
        self._descend(cross_entropy(scores, labels))
        return contrastive_log_ratio_bound(log_softmax(scores.detach(), 1), labels).item()

    def penalty(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the upper bound for features (n, width) and labels (n,), in nats."""
        return contrastive_log_ratio_bound(log_softmax(self.network(features), 1), labels)


class MineDependence(ScoringNetwork):
    """Mutual information neural estimation: the Donsker-Varadhan lower bound on I, in nats, with a critic T(f, y).

    A batch's gradient of log E[exp T] is biased, since the logarithm stands outside of the mean; dividing by a moving
    average of E[exp T] instead of the batch's own takes most of the bias away. The value stays the batch's.

    A critic of a one-hot label is a score for each label, so no label vector is needed: a vector would only tie the
    scores of labels that happen to lie close to each other.

    Source: Belghazi et al. 2018, "Mutual information neural estimation", arXiv:1801.04062, section 3.2.
    """

    def __init__(self, *, average_rate: float = 0.05, **options) -> None:
        """Make an untrained critic.

        Args:
            average_rate: Share of a new batch in the moving average, in (0, 1]; 1 is the biased gradient.
            options: As in `ScoringNetwork`.

        Raises:
            ValueError: If a width, a count or the rate is out of its range.
        """
        if not 0 < average_rate <= 1:
            raise ValueError(f"average_rate must be in (0, 1], got {average_rate}")
        super().__init__(**options)
        self.average = LogMovingAverage(average_rate).to(options.get("device", "cpu"))
        self.parts["average"] = self.average

    def fit_step(self, features: Tensor, labels: Tensor) -> float:
        """Move the critic one step up the bound; return the estimate before the step, in nats."""
        joint, bound = self._bound(features.detach(), labels)
        self.average.update((joint - bound).detach())
        self._descend(-_with_unbiased_gradient(joint, bound, self.average.value()))
        return bound.item()

    def penalty(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the estimate for features (n, width) and labels (n,), in nats, with the unbiased gradient."""
        joint, bound = self._bound(features, labels)
        return _with_unbiased_gradient(joint, bound, self.average.with_batch((joint - bound).detach()))

    def _bound(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of T on true pairs, and that mean less log E[exp T] over all pairs of the batch."""
        scores = self.network(features)
        frequencies = label_frequencies(labels, scores.shape[1]).to(scores)
        log_weights = (frequencies.log() - math.log(len(scores))).expand_as(scores).flatten()
        joint = scores.gather(1, labels[:, None])[:, 0]
        return joint.mean(), donsker_varadhan_bound(joint, scores.flatten(), product_log_weights=log_weights)


class LogMovingAverage(torch.nn.Module):
    """The logarithm of an exponential moving average of exp(x), which neither overflows nor leans to its start."""

    def __init__(self, rate: float) -> None:
        """Start with nothing seen; `rate` is the weight of a new value."""
        super().__init__()
        self.rate = rate
        self.register_buffer("log_sum", torch.tensor(-math.inf))
        self.register_buffer("log_weight", torch.tensor(-math.inf))

    def update(self, log_value: Tensor) -> None:
        """Take in the logarithm of a value, shape ()."""
        self.log_sum, self.log_weight = self._joined(log_value)

    def value(self) -> Tensor:
        """Return the logarithm of the average of what has been seen."""
        return self.log_sum - self.log_weight

    def with_batch(self, log_value: Tensor) -> Tensor:
        """Return what `value` would be after `update`, without it."""
        log_sum, log_weight = self._joined(log_value)
        return log_sum - log_weight

    def _joined(self, log_value: Tensor) -> tuple[Tensor, Tensor]:
        keep = math.log1p(-self.rate) if self.rate < 1 else -math.inf
        new = torch.full_like(self.log_sum, math.log(self.rate))
        return torch.logaddexp(self.log_sum + keep, log_value + new), torch.logaddexp(self.log_weight + keep, new)


def _with_unbiased_gradient(joint: Tensor, bound: Tensor, log_average: Tensor) -> Tensor:
    """Return the bound, with the gradient of joint - E[exp T] / exp(log_average); log E[exp T] is joint - bound."""
    surrogate = joint - (joint - bound - log_average).exp()
    return bound.detach() + surrogate - surrogate.detach()
