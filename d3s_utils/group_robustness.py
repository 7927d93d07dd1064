"""Linear heads on frozen features that do, or do not, lean on what is only mostly true: five ways to train them.

All minimise a weighted multinomial cross-entropy on features standardised by the training set, plus an L2 penalty on
the weights but not on the biases; all are full-batch and deterministic. They differ in the pictures' weights:

- ``erm``: every picture the same (empirical risk minimisation).
- ``group_balanced``: every group the same.
- ``group_dro``: those under which the best head's loss is largest (Sagawa et al. 2020, arXiv:1911.08731).
- ``jtt``: more for those that an early-stopped first head gets wrong (Liu et al. 2021, arXiv:2107.09044).
- ``dfr``: none of them; the head learns from another, group-balanced set (Kirichenko et al. 2022, arXiv:2204.02937).

`train_head` says where each differs from its authors' version.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from d3s_utils.group_samples import Sample, balanced_subset, held_out_part, make_sample
from d3s_utils.randomness import numpy_generator
from d3s_utils.softmax_regression import Compact, early_stopped, group_losses, minimise, minimise_soft_worst, predicted

METHODS = ("erm", "group_balanced", "group_dro", "jtt", "dfr")
PENALTIES = (10.0, 1.0, 0.1, 0.01)  # beside the *mean* cross-entropy; scikit-learn's C is 1 / (n * penalty)


@dataclass(frozen=True)
class LinearHead:
    """A trained linear classifier of features as they come, not standardised.

    Attributes:
        method: One of `METHODS`.
        classes: The labels it tells apart, sorted, shape (k,).
        weight: Shape (k, width), float64.
        bias: Shape (k,), float64.
        penalty: The strength that was chosen, beside the mean cross-entropy.
        upweight: How many times the first head's errors counted (JTT; 1 for the others).
        errors: How many training pictures the first head got wrong (JTT; 0 for the others).
        groups: The groups in training, sorted, shape (g,); one, called -1, where none were given.
        group_counts: Training pictures of each, shape (g,).
        weight_path: GroupDRO's q after each of its steps, the first uniform, shape (steps + 1, g); else empty.
        gap: GroupDRO's duality gap at the head, as a share of its objective; NaN for the others.
    """

    method: str
    classes: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    penalty: float
    upweight: float
    errors: int
    groups: np.ndarray
    group_counts: np.ndarray
    weight_path: np.ndarray
    gap: float

    def scores(self, features: ArrayLike) -> np.ndarray:
        """Return the classes' scores (logits) of features of shape (n, width), shape (n, k)."""
        features = np.asarray(features, dtype=np.float64)
        if features.ndim != 2 or features.shape[1] != self.weight.shape[1]:
            raise ValueError(f"features must have shape (n, {self.weight.shape[1]}), got {features.shape}")
        if not np.isfinite(features).all():
            raise ValueError("features must be finite, got some that are not")
        return features @ self.weight.T + self.bias

    def predict(self, features: ArrayLike) -> np.ndarray:
        """Return the most probable label of each picture, shape (n,)."""
        return self.classes[self.scores(features).argmax(1)]


def train_head(
    method: str,
    features: ArrayLike,
    classes: ArrayLike,
    groups: ArrayLike | None,
    *,
    seed: int,
    foregrounds: ArrayLike | None = None,
    penalties: Sequence[float] = PENALTIES,
    held_out_share: float = 0.25,
    dro_rate: float = 10.0,
    dro_steps: int = 100,
    dro_gap: float = 0.01,
    first_steps: int = 20,
    upweights: Sequence[float] = (5.0, 20.0),
    balanced: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike] | None = None,
    draws: int = 5,
) -> LinearHead:
    """Train a linear head by one of five methods.

    The penalty (for JTT with the upweight) is chosen on held-out foregrounds of what the method learns from, never on
    the test pictures, and the head is then trained on all of it. No picture of a held-out foreground is learned from.
    Methods that are told no groups (``erm``, ``jtt``) choose by accuracy, the others by the mean of the groups'
    accuracies. Of equally good candidates the strongest penalty and the largest upweight are taken, and so they are
    where there are too few foregrounds to hold any out.

    - ``group_dro`` solves min over heads of the worst group's loss plus the penalty, which is max over q of the least
      loss weighted by q. q starts uniform; each step takes q_g <- q_g exp(rate * loss_g / scale), normalised, where the
      losses are those of the head that is best for the *new* q (an implicit step: see
      `softmax_regression.minimise_soft_worst`), and the scale is the objective of group balancing. Any head bounds the
      solution from above, any q from below; steps end when the lowest upper bound lies within `dro_gap` of the highest
      lower one, and the head with the lowest upper bound is returned. The lower bound holds as far as L-BFGS has
      minimised. The authors take a stochastic gradient step of a whole network between two explicit updates of q, and
      stop early. A rate of 0, or no steps, leaves ``group_balanced``.
    - ``jtt``: the first head takes `first_steps` steps of full-batch gradient descent from zero, and its errors count
      lambda times in the second. The authors put lambda copies of them into the set that stochastic gradient descent
      draws from; a full-batch sum is the same for copies and weights. They choose by the worst group's accuracy on
      validation pictures with group labels, which this version is not given. With fewer pictures than features the
      first head soon makes no error (see `LinearHead.errors`), and JTT is ERM.
    - ``dfr``: training pictures only standardise the features; the head is the mean of L2-penalised heads on
      group-balanced draws from `balanced`, and the penalty is chosen by the mean of the groups' accuracies. The authors
      average such draws too, but with an L1 penalty, chosen by the worst group's accuracy.

    Args:
        method: One of `METHODS`.
        features: Shape (n, width), finite.
        classes: Labels, shape (n,), at least two different ones.
        groups: Each picture's group, shape (n,); None where the method needs none.
        seed: Of the held-out part and of the balanced draws.
        foregrounds: What pictures share with others, shape (n,): held out as a whole. None: each picture its own.
        penalties: Candidates, positive.
        held_out_share: Share of each class's training foregrounds that judge the candidates, in (0, 1).
        dro_rate: GroupDRO's step size (eta), not negative; the losses are measured in units of the objective.
        dro_steps: At most this many steps.
        dro_gap: The duality gap that is small enough, as a share of the objective.
        first_steps: JTT's early stopping (T).
        upweights: JTT's candidates for how often an error counts (lambda), at least 1.
        balanced: DFR's features, classes, groups and foregrounds, shapes (m, width), (m,), (m,) and (m,).
        draws: Number of DFR's balanced draws.

    Raises:
        ValueError: If an option is out of range, shapes do not fit, a feature is not finite, groups or the balanced
            set are missing where they are needed, or that set lacks a class.
    """
    options = _Options(
        seed, tuple(penalties), held_out_share, dro_rate, dro_steps, dro_gap, first_steps, tuple(upweights), draws
    )
    _check(method, options, groups, balanced)
    sample = make_sample("", features, classes, groups, foregrounds)
    mean, scale = sample.features.mean(0), sample.features.std(0)
    scale[scale < 1e-12 * np.maximum(1.0, np.abs(mean))] = 1.0  # a constant feature says nothing at any scale
    learned = sample
    if method == "dfr":
        learned = make_sample("balanced ", *balanced)
        if learned.features.shape[1] != len(mean):
            raise ValueError(f"balanced features must be {len(mean)} wide, got {learned.features.shape[1]}")
        if not np.array_equal(learned.names, sample.names):
            raise ValueError(f"balanced must hold the classes of training, got {learned.names.tolist()}")
    found = _chosen(method, replace(learned, features=(learned.features - mean) / scale), options)
    weight = found.head[:, :-1] / scale
    bias = found.head[:, -1] - weight @ mean
    counts = np.bincount(sample.group)
    setting = (found.penalty, found.upweight, found.errors)
    return LinearHead(method, sample.names, weight, bias, *setting, sample.group_names, counts, found.path, found.gap)


@dataclass(frozen=True)
class _Options:
    seed: int
    penalties: tuple
    held_out_share: float
    dro_rate: float
    dro_steps: int
    dro_gap: float
    first_steps: int
    upweights: tuple
    draws: int


@dataclass(frozen=True)
class _Found:
    """A head (k, width + 1) of standardised features, and how it came about."""

    head: np.ndarray
    penalty: float
    upweight: float
    errors: int = 0
    path: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    gap: float = np.nan


def _chosen(method: str, sample: Sample, options: _Options) -> _Found:
    """Train with the candidate that does best on the held-out part."""
    upweights = sorted(set(options.upweights), reverse=True) if method == "jtt" else [1.0]
    candidates = list(product(sorted(set(options.penalties), reverse=True), upweights))
    best = candidates[0]
    within = "group" if method == "dfr" else "label"  # so that both parts of DFR's set stay balanced
    judging = held_out_part(sample, share=options.held_out_share, seed=options.seed, within=within)
    if len(candidates) > 1 and judging.any():
        learn, judges = _learner(method, sample.take(~judging), options), sample.take(judging)
        by_group = method not in ("erm", "jtt")
        best = max(candidates, key=lambda candidate: _score(judges, learn(*candidate).head, by_group=by_group))
    return _learner(method, sample, options)(*best)


def _learner(method: str, sample: Sample, options: _Options) -> Callable[[float, float], _Found]:
    """Return what trains a head by `method`, given its penalty and upweight; what candidates share is done once."""
    compact = Compact.of(sample.features)
    x, onehot, count = compact.features, sample.onehot, len(sample.features)
    wrong = np.zeros(count, dtype=bool)
    if method == "jtt":
        wrong = predicted(x, early_stopped(x, onehot, steps=options.first_steps)) != sample.label
    group_count = len(sample.group_names)

    def learn(penalty: float, upweight: float) -> _Found:
        path, gap = np.zeros((0, 0)), np.nan
        if method == "group_dro":
            head, path, gap = _distributionally_robust(x, sample, penalty, options)
        elif method == "group_balanced":
            head = minimise(x, onehot, sample.spread(np.full(group_count, 1 / group_count)), penalty)
        elif method == "dfr":
            head = _balanced_mean(x, sample, penalty, options)
        else:
            weights = np.where(wrong, upweight, 1.0)
            head = minimise(x, onehot, weights / weights.sum(), penalty)
        return _Found(compact.widen(head), penalty, upweight, int(wrong.sum()), path, gap)

    return learn


def _distributionally_robust(x: np.ndarray, sample: Sample, penalty: float, options: _Options) -> tuple:
    """Return the head (k, width + 1) with the least penalised worst loss, the path of q (steps + 1, g), and the gap."""
    q = np.full(len(sample.group_names), 1 / len(sample.group_names))
    head = minimise(x, sample.onehot, sample.spread(q), penalty)
    path, upper, lower, scale = [q], np.inf, -np.inf, None
    while True:
        losses = group_losses(x, sample.onehot, head, sample.group)
        squares = penalty / 2 * np.square(head[:, :-1]).sum()
        lower = max(lower, q @ losses + squares)  # the head is optimal for this q
        if losses.max() + squares < upper:
            best, upper = head, losses.max() + squares
        scale = scale or lower
        if upper - lower <= options.dro_gap * upper or len(path) > options.dro_steps or not options.dro_rate:
            return best, np.stack(path), max(0.0, upper - lower) / upper
        temperature = scale / options.dro_rate
        head, q = minimise_soft_worst(x, sample.onehot, sample.group, q, temperature, penalty, start=head)
        path.append(q)


def _balanced_mean(x: np.ndarray, sample: Sample, penalty: float, options: _Options) -> np.ndarray:
    """Return the mean of heads (k, width + 1) on draws that hold as many pictures of each group."""
    heads = []
    for number in range(options.draws):
        drawn = balanced_subset(sample, numpy_generator(options.seed, "dfr", number))
        heads.append(minimise(x[drawn], sample.onehot[drawn], np.full(len(drawn), 1 / len(drawn)), penalty))
    return np.mean(heads, axis=0)


def _score(sample: Sample, head: np.ndarray, *, by_group: bool) -> float:
    right = predicted(sample.features, head) == sample.label
    if not by_group:
        return float(right.mean())
    return float((np.bincount(sample.group, right) / np.bincount(sample.group)).mean())


def _check(method: str, options: _Options, groups: ArrayLike | None, balanced: tuple | None) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    for name, values, least in (("penalties", options.penalties, 1e-12), ("upweights", options.upweights, 1)):
        if not values or not np.isfinite(values).all() or min(values) < least:
            raise ValueError(f"{name} must be numbers of at least {least:g}, one or more, got {list(values)}")
    if not 0 < options.held_out_share < 1:
        raise ValueError(f"held_out_share must be between 0 and 1, got {options.held_out_share}")
    for name, least in (("dro_rate", 0), ("dro_steps", 0), ("dro_gap", 0), ("first_steps", 1), ("draws", 1)):
        if not getattr(options, name) >= least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(options, name)}")
    if method in ("group_balanced", "group_dro") and groups is None:
        raise ValueError(f"groups must be given for {method}, got None")
    if method == "dfr" and (balanced is None or len(balanced) != 4):
        raise ValueError("balanced must hold the features, classes, groups and foregrounds that dfr learns from")
