"""Weighted multinomial logistic regression: minimised with an L2 penalty, or stopped early."""

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
    k, width = onehot.shape[1], features.shape[1]
    shape = (k, width + 1)
    start = np.zeros(shape) if start is None else start
    curvature = (1 - 1 / k) / k
    scale = np.append(1 / np.sqrt(curvature * (weights @ np.square(features)) + penalty), 1 / np.sqrt(curvature))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        head = flat.reshape(shape) * scale
        loss, gradient = _loss(features, onehot, weights, head)
        gradient[:, :-1] += penalty * head[:, :-1]
        return loss + penalty / 2 * np.square(head[:, :-1]).sum(), (gradient * scale).ravel()

    options = {"maxiter": iterations, "gtol": tolerance, "ftol": 1e-14, "maxcor": 20}
    found = minimize(objective, (start / scale).ravel(), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(shape) * scale


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
    losses = -(log_softmax(features @ head[:, :-1].T + head[:, -1], axis=1) * onehot).sum(1)
    return np.bincount(group, losses) / np.bincount(group)


def predicted(features: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Return the number of each picture's most probable class, shape (n,)."""
    return (features @ head[:, :-1].T + head[:, -1]).argmax(1)


def _loss(features: np.ndarray, onehot: np.ndarray, weights: np.ndarray, head: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the weighted cross-entropy and its gradient, of the head's shape."""
    log_probability = log_softmax(features @ head[:, :-1].T + head[:, -1], axis=1)
    residual = weights[:, None] * (np.exp(log_probability) - onehot)
    gradient = np.column_stack([residual.T @ features, residual.sum(0)])
    return -float(weights @ (log_probability * onehot).sum(1)), gradient


def _curvature(features: np.ndarray) -> float:
    """Return a bound on the mean cross-entropy's second derivative: half the largest eigenvalue of x x^T, with bias.

    Source: Böhning 1992, "Multinomial logistic regression algorithm".
    """
    wide = np.column_stack([features, np.ones(len(features))])
    gram = wide.T @ wide if len(wide) > wide.shape[1] else wide @ wide.T
    return 0.5 * float(np.linalg.eigvalsh(gram)[-1]) / len(features)
