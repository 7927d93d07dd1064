"""Bounds on the mutual information of features and a label, differentiable, from the scores of a network."""

import math

import torch
from torch import Tensor


def donsker_varadhan_bound(
    joint_scores: Tensor, product_scores: Tensor, *, product_log_weights: Tensor | None = None
) -> Tensor:
    """Estimate a lower bound on the mutual information I(X; Y), in nats: mean T(joint) - log mean exp T(product).

    The bound is tight for the critic T(x, y) = log p(x, y) / (p(x) p(y)), and for that plus any constant.

    Args:
        joint_scores: Critic values on true pairs (x_i, y_i), shape (n,).
        product_scores: Critic values on pairs of the product of the marginals, such as shuffled ones, shape (m,).
        product_log_weights: Logarithms of those pairs' probabilities, shape (m,), summing to 1 before the
            logarithm; all pairs weigh alike where None.

    Returns:
        Differentiable scalar. Small m biases it upward, so it may exceed I(X; Y).

    Raises:
        ValueError: If an input is empty or not one-dimensional, or the weights do not fit.

    Source: Donsker & Varadhan 1983; Belghazi et al. 2018, arXiv:1801.04062, equation 5.
    """
    for name, scores in (("joint_scores", joint_scores), ("product_scores", product_scores)):
        if scores.ndim != 1 or not len(scores):
            raise ValueError(f"{name} must be one-dimensional and not empty, got shape {tuple(scores.shape)}")
    return joint_scores.mean() - log_mean_exp(product_scores, product_log_weights)


def log_mean_exp(scores: Tensor, log_weights: Tensor | None = None) -> Tensor:
    """Return log sum_i w_i exp(scores_i), shape (), without overflow; w_i is 1/m where no weights are given.

    Raises:
        ValueError: If the weights' shape is not the scores'.
    """
    if log_weights is None:
        return torch.logsumexp(scores, 0) - math.log(len(scores))
    if log_weights.shape != scores.shape:
        raise ValueError(f"log_weights must have shape {tuple(scores.shape)}, got {tuple(log_weights.shape)}")
    return torch.logsumexp(scores + log_weights, 0)


def barber_agakov_bound(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Estimate a lower bound on I(features; label), in nats: the labels' entropy less a classifier's cross-entropy.

    Args:
        log_probabilities: log q(y | f_i) for every label y, shape (n, k).
        labels: The true ones, shape (n,), integers.

    Returns:
        Differentiable scalar. It is tight where q is the posterior. The entropy is that of the labels given, which
        is too low on average, by about (k - 1) / 2n, so the bound holds on average.

    Source: Barber & Agakov 2003, "The IM algorithm: a variational approach to information maximization".
    """
    frequencies = label_frequencies(labels, log_probabilities.shape[1])
    entropy = torch.special.entr(frequencies).sum().to(log_probabilities.dtype)
    return entropy + _of_own_label(log_probabilities, labels).mean()


def contrastive_log_ratio_bound(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Estimate an upper bound on I(features; label), in nats: mean log q on true pairs less that on all pairs.

    Args:
        log_probabilities, labels: As in `barber_agakov_bound`.

    Returns:
        Differentiable scalar, which bounds from above where q is the posterior; a q that is far from it may give
        less than I. The mean over all pairs needs no drawn negatives: a label's marginal is a table.

    Source: Cheng et al. 2020, "CLUB", arXiv:2006.12013, equations 8 and 11.
    """
    frequencies = label_frequencies(labels, log_probabilities.shape[1]).to(log_probabilities.dtype)
    return _of_own_label(log_probabilities, labels).mean() - (log_probabilities @ frequencies).mean()


def label_frequencies(labels: Tensor, label_count: int) -> Tensor:
    """Return the share of each label 0, 1, … among `labels`, float64, shape (label_count,).

    Raises:
        ValueError: If there is no label, or one that is not below `label_count`.
    """
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels must be one-dimensional and not empty, got shape {tuple(labels.shape)}")
    counts = torch.bincount(labels, minlength=label_count)
    if len(counts) > label_count:
        raise ValueError(f"labels must be below label_count={label_count}, got {len(counts) - 1}")
    return counts.double() / len(labels)


def _of_own_label(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.gather(1, labels[:, None])[:, 0]
