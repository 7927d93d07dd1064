"""Multinomial logistic regression to the minimum, fast: the solver behind linear probes, on a CPU or a GPU."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

_MEMORY = 20  # steps that L-BFGS remembers
_GRAM_ROWS = 4  # pictures a feature that the covariance is estimated from: it only has to be about right


@dataclass(frozen=True)
class SoftmaxFit:
    """A fitted linear softmax model.

    Attributes:
        weight: Shape (k, width).
        bias: Shape (k,).
        objective: Mean cross-entropy (nats) + penalty / 2 x |weight|², as the solver saw it.
        gap: How far above the minimum that is by the solver's own quadratic model: an estimate, not a bound. Under
            weak penalties it has been seen twenty times too small.
        evaluations: How many gradients were computed.
    """

    weight: Tensor
    bias: Tensor
    objective: float
    gap: float
    evaluations: int

    def logits(self, features: Tensor) -> Tensor:
        """Return the scores (m, k) of features (m, width) of the model's dtype and device."""
        return torch.addmm(self.bias, features, self.weight.T)


class SoftmaxProblem:
    """Features and labels, prepared once so that many penalties can be solved.

    The objective is mean_i cross-entropy(softmax(W x_i + b), y_i) + penalty / 2 x |W|², with b free: scikit-learn's
    `LogisticRegression` with C = 1 / (penalty x n) for three labels or more (its model of two labels has one weight
    vector; this one has two, and its penalty is therefore worth half as much).

    Features are rotated to their principal axes and each axis is scaled by the curvature that all labels together
    have along it at W = 0, (1/k)(1 - 1/k) x variance + penalty: there the Hessian is nearly the identity, and L-BFGS
    needs tens of steps where it would need hundreds.
    """

    def __init__(self, features: Tensor, labels: Tensor, *, label_count: int) -> None:
        """Rotate the features.

        Args:
            features: Shape (n, width), float32 or float64, on any device; finite. float32 resolves the objective to
                about 1e-6 nats, which matters only where labels are told apart perfectly.
            labels: Shape (n,), integers in [0, label_count).

        Raises:
            ValueError: If shapes or types do not fit, or a label is out of its range.
        """
        if features.ndim != 2 or not len(features) or not features.is_floating_point():
            raise ValueError(
                f"features must be floating-point numbers of shape (n, width) and not empty, "
                f"got {features.dtype} of shape {tuple(features.shape)}"
            )
        if labels.shape != features.shape[:1] or labels.is_floating_point():
            raise ValueError(f"labels must be {len(features)} integers, got {labels.dtype} of {tuple(labels.shape)}")
        if label_count < 2 or labels.min() < 0 or labels.max() >= label_count:
            raise ValueError(
                f"labels must lie in [0, label_count) with label_count at least 2, "
                f"got {int(labels.min())} to {int(labels.max())} and label_count={label_count}"
            )
        self.label_count = label_count
        self.mean = features.mean(0)
        self.axes, self.variances = _principal_axes(features - self.mean)
        self.features = (features - self.mean) @ self.axes
        self.onehot = one_hot(labels.long(), label_count).to(features)

    def solve(
        self,
        penalty: float,
        *,
        start: SoftmaxFit | None = None,
        tolerance: float = 1e-6,
        target: float = -np.inf,
        iterations: int = 500,
    ) -> SoftmaxFit:
        """Minimise the objective.

        Args:
            penalty: Positive.
            start: Where to begin, such as the solution for a stronger penalty; zero where None.
            tolerance: The estimated gap, as a share of the objective, at which it stops; 1e-6 keeps the true one below
                1e-4.
            target: An objective that is good enough: it stops there too.
            iterations: At most this many steps.

        Raises:
            ValueError: If `penalty` or `tolerance` is not positive.
        """
        if not penalty > 0 or not tolerance > 0:
            raise ValueError(f"penalty and tolerance must be positive, got {penalty} and {tolerance}")
        head = torch.zeros(self.label_count, self.features.shape[1] + 1).to(self.features)
        if start is not None:
            head = torch.cat([start.weight @ self.axes, (start.bias + start.weight @ self.mean)[:, None]], 1)
        probability = torch.softmax(self._scores(head), 1)
        spread = (probability * (1 - probability)).mean(0).clamp_min(1e-6)[:, None]  # of each label, (k, 1)
        scale = torch.rsqrt(torch.cat([spread * self.variances + penalty, spread], 1))
        decay = penalty * torch.square(scale)
        decay[:, -1] = 0
        point = head / scale
        point, objective, gap, evaluations = self._descend(point, scale, decay, tolerance, target, iterations)
        head = point * scale
        weight = head[:, :-1] @ self.axes.T
        return SoftmaxFit(weight, head[:, -1] - weight @ self.mean, objective, gap, evaluations)

    def _descend(
        self, point: Tensor, scale: Tensor, decay: Tensor, tolerance: float, target: float, iterations: int
    ) -> tuple:
        """Run L-BFGS in scaled coordinates; return the last point, its objective, the gap and the evaluations."""
        memory = _Memory()
        logits = self._scores(point * scale)
        objective = self._objective(logits, point, decay)
        gradient = self._gradient(logits, point, scale, decay)
        for iteration in range(1, iterations + 1):
            direction = -memory.times_inverse_hessian(gradient)
            slope = float((gradient * direction).sum())
            gap = -slope / 2
            if gap <= tolerance * objective or objective <= target:
                break
            change = self._scores(direction * scale)  # scores are linear in the step: trying another one costs little
            step = 1.0
            while True:
                moved = point + step * direction
                new_objective = self._objective(logits + step * change, moved, decay)
                if new_objective <= objective + 1e-4 * step * slope:
                    break
                step /= 2
                if step < 1e-6:  # what is left to gain is below rounding
                    return point, objective, gap, iteration
            logits = logits + step * change
            new_gradient = self._gradient(logits, moved, scale, decay)
            memory.add(moved - point, new_gradient - gradient)
            point, objective, gradient = moved, new_objective, new_gradient
        return point, objective, gap, iteration

    def _scores(self, head: Tensor) -> Tensor:
        return torch.addmm(head[:, -1], self.features, head[:, :-1].T)

    def _objective(self, logits: Tensor, point: Tensor, decay: Tensor) -> float:
        losses = torch.logsumexp(logits, 1) - (logits * self.onehot).sum(1)
        return float(losses.mean(dtype=torch.float64) + (torch.square(point) * decay).sum(dtype=torch.float64) / 2)

    def _gradient(self, logits: Tensor, point: Tensor, scale: Tensor, decay: Tensor) -> Tensor:
        residual = (torch.softmax(logits, 1) - self.onehot) / len(logits)
        gradient = torch.cat([residual.T @ self.features, residual.sum(0)[:, None]], 1)
        return gradient * scale + point * decay


class _Memory:
    """The last steps and the changes of the gradient along them: an inverse Hessian in compact form.

    Source: Byrd, Nocedal, Schnabel 1994, "Representations of quasi-Newton matrices", equation 3.1.
    """

    def __init__(self) -> None:
        self.steps: Tensor | None = None
        self.changes: Tensor | None = None

    def add(self, step: Tensor, change: Tensor) -> None:
        """Remember one more pair; both of one shape."""
        if float((step * change).sum()) <= 1e-12 * float(torch.square(change).sum()):
            return  # rounding: a convex objective has none such
        step, change = step.reshape(1, -1), change.reshape(1, -1)
        if self.steps is None:
            self.steps, self.changes = step, change
        else:
            self.steps = torch.cat([self.steps[1 - _MEMORY :], step])
            self.changes = torch.cat([self.changes[1 - _MEMORY :], change])

    def times_inverse_hessian(self, gradient: Tensor) -> Tensor:
        """Return the inverse Hessian times `gradient`, of its shape."""
        if self.steps is None:
            return gradient
        flat = gradient.reshape(-1)
        both = self.steps @ self.changes.T
        own = self.changes @ self.changes.T
        gamma = both[-1, -1] / own[-1, -1]
        upper = torch.triu(both)
        first = torch.linalg.solve_triangular(upper, (self.steps @ flat)[:, None], upper=True)
        inner = both.diagonal()[:, None] * first + gamma * (own @ first - (self.changes @ flat)[:, None])
        second = torch.linalg.solve_triangular(upper.T, inner, upper=False)
        return (gamma * flat + second[:, 0] @ self.steps - gamma * first[:, 0] @ self.changes).reshape(gradient.shape)


def solve_path(
    features: Tensor, labels: Tensor, penalties: Sequence[float], *, label_count: int, tolerance: float = 1e-6
) -> list[SoftmaxFit]:
    """Return the fit of each penalty, in the order given; each starts from the next stronger one's solution.

    Args and Raises: As for `SoftmaxProblem` and its `solve`.
    """
    problem = SoftmaxProblem(features, labels, label_count=label_count)
    fits, last = {}, None
    for penalty in sorted(set(penalties), reverse=True):
        last = fits[penalty] = problem.solve(penalty, start=last, tolerance=tolerance)
    return [fits[penalty] for penalty in penalties]


def _principal_axes(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return orthonormal columns (width, rank) that span the features, and their variance along each, (rank,).

    Rank is at most the number of pictures: penalised weights never leave the pictures' span. With many pictures the
    axes are those of an even choice of them, which changes the solver's path and not its goal.
    """
    count, width = centred.shape
    if count < width:
        _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
        kept = sizes > 1e-7 * sizes[0].clamp_min(1e-30)
        kept[0] = True
        return axes[kept].T.contiguous(), torch.square(sizes[kept]) / count
    some = centred[:: max(1, count // (_GRAM_ROWS * width))]
    variances, axes = torch.linalg.eigh(some.T @ some / len(some))
    return axes, variances.clamp_min(0)
