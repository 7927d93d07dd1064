"""Linear erasers: take a label out of frozen features without training them, by INLP or LEACE."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from concept_erasure import LeaceFitter
from numpy.typing import ArrayLike
from sklearn.decomposition import PCA

from d3s_utils.softmax_solver import SoftmaxProblem

ERASERS = ("inlp", "leace")

_INLP_REGULARISATION = 0.03  # scikit-learn's C of INLP's classifiers, on white features
_LEAST_VARIANCE = 1e-9  # a direction with less of the features' largest variance holds nothing
_LEAST_DIRECTION = 1e-3  # a weight direction this much shorter than the longest is rounding


@dataclass(frozen=True)
class Erasure:
    """An affine map of features that takes a label out: x - (x - centre) @ removed.

    Attributes:
        method: One of `ERASERS`.
        strength: Rounds of INLP, or directions of LEACE; 0 changes nothing.
        centre: The features' mean where it was fitted, shape (width,): it stays where it is.
        removed: A projection, shape (width, width): oblique in LEACE, orthogonal in INLP.
        rank: How many directions are removed.
        readable: How much better than the majority the last round's classifier read the label from its own training
            pictures, before that round; for LEACE the correlation ratio of its first direction and the label. Near zero
            there was nothing to erase. NaN at strength 0.
    """

    method: str
    strength: int
    centre: np.ndarray
    removed: np.ndarray
    rank: int
    readable: float

    def __call__(self, features: ArrayLike) -> np.ndarray:
        """Return features (n, width) without the label, of the same shape."""
        features = np.asarray(features, dtype=np.float64)
        if self.rank == len(self.centre):  # nothing is left: not even rounding, which a scaler would blow up
            return np.tile(self.centre, (len(features), 1))
        return features - (features - self.centre) @ self.removed


@dataclass(frozen=True)
class ErasedFeatures:
    """Foreground features (the background erased) and background features (the class erased) of frozen features.

    Attributes:
        method, strength: As in `Erasure`.
        whitening: Fitted on the training pictures; turns frozen features into the erasures' input.
        erasures: ``foreground``: of the background label; ``background``: of the class.
    """

    method: str
    strength: int
    whitening: PCA
    erasures: dict[str, Erasure]

    def __call__(self, frozen_features: ArrayLike) -> dict[str, np.ndarray]:
        """Return ``{"foreground": (n, width), "background": (n, width)}`` for frozen features (n, backbone width)."""
        white = self.whitening.transform(np.asarray(frozen_features, dtype=np.float64))
        return {half: erasure(white) for half, erasure in self.erasures.items()}


def erase_label(features: ArrayLike, labels: ArrayLike, *, method: str, strengths: Sequence[int]) -> dict[int, Erasure]:
    """Fit an eraser of a label and return it at several strengths. Nothing is random.

    - ``inlp``, iterated nullspace projection: a softmax classifier is trained, the directions of its weights are
      projected away, and again. Its strength is the number of rounds. It stops where nothing is left to project.
    - ``leace``, least-squares concept erasure: the projection after which no linear classifier beats the majority on
      these features, and which moves them least among all that do so. It has at most k - 1 directions for k labels,
      ordered by their covariance with the labels' indicators; its strength is how many are removed. Each
      of the full strength's directions is whole or not there: features that were mixed with a share of what was
      erased would tell a linear probe as much as before. From *white* features (unit variance, uncorrelated) LEACE
      is the orthogonal projection away from the labels' mean features.

    Args:
        features: Shape (n, width).
        labels: Integers 0, 1, …, shape (n,), each there at least once.
        method: One of `ERASERS`.
        strengths: Whole numbers, at least 0. LEACE has no more directions than k - 1: beyond that it stays the same.

    Raises:
        ValueError: If shapes differ, a feature is not finite, fewer than two labels are there or one is left out,
            the method is unknown, or a strength is not a whole number of at least 0.

    Source: Ravfogel et al. 2020, arXiv:2004.07667 (INLP); Belrose et al. 2023, arXiv:2306.03819 (LEACE, by the
        authors' library concept-erasure).
    """
    features, labels = _checked(features, labels)
    if method not in ERASERS:
        raise ValueError(f"method must be one of {', '.join(ERASERS)}, got {method!r}")
    for strength in strengths:
        if isinstance(strength, bool) or strength != int(strength) or strength < 0:
            raise ValueError(f"strengths must be whole numbers of at least 0, got {strength!r}")
    wanted = [int(strength) for strength in strengths]
    return _inlp(features, labels, wanted) if method == "inlp" else _leace(features, labels, wanted)


def erase_features(
    train_features: ArrayLike,
    foreground: ArrayLike,
    background: ArrayLike,
    *,
    method: str,
    strengths: Sequence[int],
    components: int = 128,
) -> dict[int, ErasedFeatures]:
    """Erase the background for foreground features, and the class for background features, at several strengths.

    Frozen features are whitened first, as for the learned split (`invariant_features.learn_features`).

    Args:
        train_features: Of n training pictures, shape (n, backbone width).
        foreground, background: Labels 0, 1, … of the pictures, shape (n,).
        method, strengths: See `erase_label`; one strength is used for both labels.
        components: Principal components that are kept and scaled to unit variance; fewer where there are fewer
            pictures or frozen features.

    Raises:
        ValueError: As in `erase_label`, or if `components` is below 1.
    """
    features, _ = _checked(train_features, background)
    if components < 1:
        raise ValueError(f"components must be at least 1, got {components}")
    components = min(components, len(features) - 1, features.shape[1])
    whitening = PCA(components, whiten=True, svd_solver="full").fit(features)
    white = whitening.transform(features)
    halves = {
        half: erase_label(white, other, method=method, strengths=strengths)
        for half, other in (("foreground", background), ("background", foreground))
    }
    return {
        int(strength): ErasedFeatures(
            method, int(strength), whitening, {half: found[int(strength)] for half, found in halves.items()}
        )
        for strength in strengths
    }


def _inlp(features: np.ndarray, labels: np.ndarray, strengths: Sequence[int]) -> dict[int, Erasure]:
    """Project away the classifier's directions, round after round; keep the rounds that are asked for."""
    count, width = features.shape
    centre, label_count = features.mean(0), int(labels.max()) + 1
    majority = np.bincount(labels).max() / count
    basis, readable, found = np.zeros((width, 0)), float("nan"), {}
    centred, truth = features - centre, torch.from_numpy(labels)
    floor = _LEAST_VARIANCE * max(np.square(centred).mean(0).max(), 1e-300)
    for strength in range(max(strengths, default=0) + 1):
        if strength in strengths:
            found[strength] = Erasure("inlp", strength, centre, basis @ basis.T, basis.shape[1], readable)
        left = centred - centred @ basis @ basis.T
        if np.square(left).mean(0).max() <= floor:  # nothing is left to be read
            basis = np.eye(width)
            continue
        known = torch.from_numpy(left)
        problem = SoftmaxProblem(known, truth, label_count=label_count)
        fit = problem.solve(1 / (_INLP_REGULARISATION * count), tolerance=1e-5)
        readable = float((fit.logits(known).argmax(1) == truth).double().mean()) - majority
        weight = fit.weight.numpy()
        weight = weight - weight @ basis @ basis.T
        _, sizes, directions = np.linalg.svd(weight, full_matrices=False)
        basis = np.linalg.qr(np.column_stack([basis, directions[sizes > _LEAST_DIRECTION * sizes[0]].T]))[0]
    return found


def _leace(features: np.ndarray, labels: np.ndarray, strengths: Sequence[int]) -> dict[int, Erasure]:
    """Fit LEACE by the authors' library; keep as many of its directions, the most telling first, as are asked for."""
    onehot = torch.eye(int(labels.max()) + 1, dtype=torch.float64)[torch.from_numpy(labels)]
    known = torch.from_numpy(features)
    # Shrinkage and a bounded trace would trade the guarantee (no linear classifier) for stability on few pictures.
    fitter = LeaceFitter.fit(known, onehot, shrinkage=False, constrain_cov_trace=False, svd_tol=1e-8)
    left, right = fitter.eraser.proj_left.numpy(), fitter.eraser.proj_right.numpy()
    directions = int((np.abs(right).sum(1) > 0).sum())
    found = {}
    for strength in strengths:
        rank = min(strength, directions)
        removed = (left[:, :rank] @ right[:rank]).T
        readable = _correlation(features @ right[0], labels) if rank else float("nan")
        found[strength] = Erasure("leace", strength, features.mean(0), removed, rank, readable)
    return found


def _correlation(values: np.ndarray, labels: np.ndarray) -> float:
    """Return the correlation ratio: the share of the values' standard deviation that their labels' means have."""
    means = np.bincount(labels, values) / np.bincount(labels)
    return float(means[labels].std() / max(values.std(), 1e-300))


def _checked(features: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if features.ndim != 2 or len(features) < 3:
        raise ValueError(f"features must have shape (n, width) with n of at least 3, got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"features must be finite, got {(~np.isfinite(features)).any(1).sum()} rows that are not")
    if labels.shape != features.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be {len(features)} integers, got {labels.dtype} of shape {labels.shape}")
    present = np.unique(labels)
    if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
        raise ValueError(f"labels must be 0, 1, … without a gap, at least two, got {present.tolist()}")
    return features, labels.astype(np.int64)
