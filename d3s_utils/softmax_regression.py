"""Weighted multinomial logistic regression: minimised with an L2 penalty, or stopped early."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax


@dataclass(frozen=True)
class Compact:
    """Features along their principal axes, no more of these than pictures; an L2-penalised head is the same there.

    Attributes:
        features: Shape (n, rank).
        back: Orthonormal rows, shape (rank, width).
    """

    features: np.ndarray
    back: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Compact":
        """Rotate features (n, width): an L2 penalty sees no rotation, and weights never leave the pictures' span."""
        left, sizes, back = np.linalg.svd(features, full_matrices=False)
        kept = sizes > 1e-10 * max(sizes[0], 1e-300)
        return cls(left[:, kept] * sizes[kept], back[kept])

    def widen(self, head: np.ndarray) -> np.ndarray:
        """Return a head (k, rank + 1) as one of the full width, (k, width + 1)."""
        return np.column_stack([head[:, :-1] @ self.back, head[:, -1]])


def minimise(
    features: np.ndarray,
    onehot: np.ndarray,
    weights: np.ndarray,
    penalty: float,
    *,
    start: np.ndarray | None = None,
    iterations: int = 500,
    tolerance: float = 1e-5,
) -> np.ndarray:
    """Minimise sum_i w_i * cross-entropy_i + penalty / 2 * |W|^2 with L-BFGS; biases are not penalised.

    L-BFGS works in coordinates scaled by the curvature along each feature at W = 0. Along principal axes (see
    `Compact`) the Hessian is nearly the identity there, and tens of steps do where hundreds were needed.

    Args:
        features: Shape (n, width).
        onehot: Labels, shape (n, k).
        weights: Of the pictures, summing to 1, shape (n,).
        penalty: Positive.
        start: Where to begin, (k, width + 1); zero where None.
        iterations: At most this many.
        tolerance: The largest entry of the scaled gradient at which it stops.

    Returns:
        The head, weights and last the biases, shape (k, width + 1).
    """

    def loss(head: np.ndarray) -> tuple[float, np.ndarray]:
        return _loss(features, onehot, weights, head)

    return _descend(loss, features, onehot, weights, penalty, start, iterations, tolerance)


def minimise_soft_worst(
    features: np.ndarray,
    onehot: np.ndarray,
    group: np.ndarray,
    group_weights: np.ndarray,
    temperature: float,
    penalty: float,
    *,
    start: np.ndarray | None = None,
    iterations: int = 500,
    tolerance: float = 1e-5,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise t log sum_g q_g exp(loss_g / t) + penalty / 2 * |W|^2: a smooth maximum of the groups' losses.

    The head found also minimises the losses weighted by q_g exp(loss_g / t), normalised: both have one gradient. So it
    is a step from q to those weights that is optimal for the weights stepped to, not for those stepped from.

    Args:
        features, onehot, penalty, start, iterations, tolerance: As in `minimise`.
        group: Of each picture, numbers 0, 1, … without a gap, shape (n,).
        group_weights: q, positive, summing to 1, shape (g,).
        temperature: t, positive, in nats: near 0 the worst group alone counts, far above the losses q weighs them.

    Returns:
        The head, shape (k, width + 1), and the weights it is optimal for, shape (g,).

    Source: Tseng & Bertsekas 1993, doi:10.1007/BF01581227 (the exponential multiplier method).
    """
    counts = np.bincount(group)

    def loss(head: np.ndarray) -> tuple[float, np.ndarray]:
        log_probability = _log_probability(features, head)
        losses = _group_means(-(log_probability * onehot).sum(1), group)
        q, smooth = _tilted(group_weights, losses, temperature)
        return smooth, _gradient(features, onehot, (q / counts)[group], log_probability)

    head = _descend(loss, features, onehot, (group_weights / counts)[group], penalty, start, iterations, tolerance)
    return head, _tilted(group_weights, group_losses(features, onehot, head, group), temperature)[0]


def early_stopped(features: np.ndarray, onehot: np.ndarray, *, steps: int) -> np.ndarray:
    """Take `steps` full-batch gradient steps from zero on the mean cross-entropy, as large as surely go downhill.

    Returns:
        The head, shape (k, width + 1).
    """
    weights, step = np.full(len(features), 1 / len(features)), 1 / _curvature(features)
    head = np.zeros((onehot.shape[1], features.shape[1] + 1))
    for _ in range(steps):
        head = head - step * _loss(features, onehot, weights, head)[1]
    return head


def group_losses(features: np.ndarray, onehot: np.ndarray, head: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the mean cross-entropy of each group (numbers 0, 1, … without a gap), in nats, shape (g,)."""
    return _group_means(-(_log_probability(features, head) * onehot).sum(1), group)


def predicted(features: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Return the number of each picture's most probable class, shape (n,)."""
    return (features @ head[:, :-1].T + head[:, -1]).argmax(1)


def _descend(
    loss: Callable[[np.ndarray], tuple[float, np.ndarray]],
    features: np.ndarray,
    onehot: np.ndarray,
    weights: np.ndarray,
    penalty: float,
    start: np.ndarray | None,
    iterations: int,
    tolerance: float,
) -> np.ndarray:
    """Minimise `loss`, which returns its value and gradient, plus the penalty; `weights` only set the coordinates."""
    k, width = onehot.shape[1], features.shape[1]
    shape = (k, width + 1)
    start = np.zeros(shape) if start is None else start
    curvature = (1 - 1 / k) / k
    scale = np.append(1 / np.sqrt(curvature * (weights @ np.square(features)) + penalty), 1 / np.sqrt(curvature))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        head = flat.reshape(shape) * scale
        value, gradient = loss(head)
        gradient[:, :-1] += penalty * head[:, :-1]
        return value + penalty / 2 * np.square(head[:, :-1]).sum(), (gradient * scale).ravel()

    options = {"maxiter": iterations, "gtol": tolerance, "ftol": 1e-14, "maxcor": 20}
    found = minimize(objective, (start / scale).ravel(), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(shape) * scale


def _loss(features: np.ndarray, onehot: np.ndarray, weights: np.ndarray, head: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the weighted cross-entropy and its gradient, of the head's shape."""
    log_probability = _log_probability(features, head)
    return -float(weights @ (log_probability * onehot).sum(1)), _gradient(features, onehot, weights, log_probability)


def _log_probability(features: np.ndarray, head: np.ndarray) -> np.ndarray:
    return log_softmax(features @ head[:, :-1].T + head[:, -1], axis=1)


def _gradient(features: np.ndarray, onehot: np.ndarray, weights: np.ndarray, log_probability: np.ndarray) -> np.ndarray:
    residual = weights[:, None] * (np.exp(log_probability) - onehot)
    return np.column_stack([residual.T @ features, residual.sum(0)])


def _group_means(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    return np.bincount(group, values) / np.bincount(group)


def _tilted(group_weights: np.ndarray, losses: np.ndarray, temperature: float) -> tuple[np.ndarray, float]:
    """Return q exp(losses / t), normalised, and t log of the sum before."""
    exponents = losses / temperature
    tilted = group_weights * np.exp(exponents - exponents.max())  # the shift cannot overflow
    return tilted / tilted.sum(), float(temperature * (np.log(tilted.sum()) + exponents.max()))


def _curvature(features: np.ndarray) -> float:
    """Return a bound on the mean cross-entropy's second derivative: half the largest eigenvalue of x x^T, with bias.

    Source: Böhning 1992, "Multinomial logistic regression algorithm".
    """
    wide = np.column_stack([features, np.ones(len(features))])
    gram = wide.T @ wide if len(wide) > wide.shape[1] else wide @ wide.T
    return 0.5 * float(np.linalg.eigvalsh(gram)[-1]) / len(features)
