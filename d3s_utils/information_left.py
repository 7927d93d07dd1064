"""How much of a label features still tell: a lower bound on mutual information by what a classifier finds elsewhere."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from d3s_utils.intervals import clustered_mean
from d3s_utils.metrics import Estimate
from d3s_utils.mutual_information import label_entropy
from d3s_utils.randomness import derive_seed

CLASSIFIERS = ("linear", "kernel")
LEAST_LOG_PROBABILITY = -12.0  # of a label that a fold's classifier rules out or never saw


@dataclass(frozen=True)
class InformationLeft:
    """A lower bound on the mutual information of features and a label.

    Attributes:
        nats: The bound, with an interval over groups of tested pictures. Not cut at 0: where features tell nothing
            it scatters around 0, or slightly below. Cut it where it is reported, not where it is averaged.
        share: The same as a share of the label's entropy.
        label_entropy: In nats, of the tested pictures' labels.
        classifier: The one chosen, of `CLASSIFIERS`.
        trust: How far it was trusted: 0 says the labels' frequencies and nothing else, 1 says what it says.
        pointwise: The bound's summand of each tested picture, in nats, shape (m,).
    """

    nats: Estimate
    share: Estimate
    label_entropy: float
    classifier: str
    trust: float
    pointwise: np.ndarray


def mutual_information_left(
    train: tuple[ArrayLike, ArrayLike],
    test: tuple[ArrayLike, ArrayLike],
    *,
    seed: int,
    train_groups: ArrayLike | None = None,
    test_groups: ArrayLike | None = None,
    classifiers: Sequence[str] = CLASSIFIERS,
    regularisations: Sequence[float] = (0.001, 0.03, 1.0),
    folds: int = 3,
    kernel_points: int = 128,
) -> InformationLeft:
    """Estimate a lower bound on I(features; label) in nats: the label's entropy less a classifier's log loss.

    The classifier is trained on some pictures and judged on others, so what it finds is there. Logistic regression on
    the features, or on a Gaussian kernel of them as well, and its regularisation are chosen by cross-validation on
    the training pictures; the same calibrates it, so that it falls back on the labels' frequencies where it is no
    use. Nothing is chosen on the tested pictures.

    Args:
        train, test: Features (n, width) and labels (n,).
        seed: Of folds, kernel points and the bootstrap.
        train_groups, test_groups: What pictures share with others, such as a foreground's id, shape (n,): folds do
            not tear groups apart, and the interval is about new groups. Each picture is its own where None.
        classifiers: ``linear``, ``kernel`` or both.
        regularisations: Candidates for scikit-learn's C.
        folds: Of the cross-validation, at least 2; fewer where there are fewer groups.
        kernel_points: Training pictures at which the kernel is taken (Nyström), fewer where there are fewer.

    Raises:
        ValueError: If lengths differ, a feature is not finite, an option is out of its range, training has fewer than
            two labels or groups, or testing has one label only or one that training has not.

    Source: Barber & Agakov 2003 (the bound); McAllester & Stratos 2020, arXiv:1811.04251 (why a held-out difference
        of entropies is what can be measured); Platt 1999 and Guo et al. 2017, arXiv:1706.04599 (calibration).
    """
    train_features, train_labels, train_groups = _checked("train", train, train_groups)
    test_features, test_labels, test_groups = _checked("test", test, test_groups)
    names, code = np.unique(train_labels, return_inverse=True)
    unknown = np.setdiff1d(test_labels, names)
    if len(unknown):
        raise ValueError(f"test must have labels that train has, got {unknown.tolist()[0]!r} too")
    if test_features.shape[1] != train_features.shape[1]:
        raise ValueError(f"test must be as wide as train ({train_features.shape[1]}), got {test_features.shape[1]}")
    if not set(classifiers) <= set(CLASSIFIERS) or not len(classifiers):
        raise ValueError(f"classifiers must be some of {', '.join(CLASSIFIERS)}, got {list(classifiers)}")
    splits = _splits(code, train_groups, folds=folds, seed=seed)
    log_frequencies = np.log(np.bincount(code) / len(code))
    best = None
    for classifier in classifiers:
        options = {"kernel_points": kernel_points if classifier == "kernel" else 0, "seed": seed}
        judged = {strength: np.empty((len(code), len(names))) for strength in regularisations}
        for known, held_out in splits:
            path = _log_probabilities(
                train_features[known], code[known], train_features[held_out], regularisations, len(names), **options
            )
            for strength, log_probabilities in path:
                judged[strength][held_out] = log_probabilities
        for strength, log_probabilities in judged.items():
            loss, trust = _calibrated(log_probabilities, log_frequencies, code)
            if best is None or loss < best[0]:
                best = (loss, trust, classifier, strength, options)
    _, trust, classifier, strength, options = best
    ((_, found),) = _log_probabilities(train_features, code, test_features, [strength], len(names), **options)
    tested = np.searchsorted(names, test_labels)
    shares = np.bincount(tested, minlength=len(names)) / len(tested)
    pointwise = _tempered(found, log_frequencies, trust)[np.arange(len(tested)), tested] - np.log(shares[tested])
    nats = clustered_mean(pointwise, groups=test_groups)
    entropy = label_entropy(test_labels)
    share = Estimate(nats.value / entropy, nats.low / entropy, nats.high / entropy, nats.n)
    return InformationLeft(nats, share, entropy, classifier, trust, pointwise)


def _splits(code: np.ndarray, groups: np.ndarray, *, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return rows to know and rows to judge on, of folds in which every group is whole."""
    group_count = len(np.unique(groups))
    if folds < 2 or group_count < 2:
        raise ValueError(f"folds and the number of train_groups must be at least 2, got {folds} and {group_count}")
    splitter = StratifiedGroupKFold(
        min(folds, group_count), shuffle=True, random_state=derive_seed(seed, "information folds") % 2**32
    )
    with warnings.catch_warnings():  # a label rarer than the folds is missing from some of them, and that is all
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(splitter.split(code, code, groups))


def _log_probabilities(
    known: np.ndarray,
    code: np.ndarray,
    asked: np.ndarray,
    strengths: Sequence[float],
    label_count: int,
    *,
    kernel_points: int,
    seed: int,
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield each strength of regularisation with log q(label | feature) of the rows asked, shape (m, label_count)."""
    scaler = StandardScaler().fit(known)
    known, asked = scaler.transform(known), scaler.transform(asked)
    if kernel_points:
        points = Nystroem(
            gamma=0.5 / known.shape[1],  # the kernel is as wide as a typical distance over root two
            n_components=min(kernel_points, len(known)),
            random_state=derive_seed(seed, "kernel points") % 2**32,
        )
        kernel = make_pipeline(points, StandardScaler()).fit(known)
        known, asked = (np.hstack([each, kernel.transform(each)]) for each in (known, asked))
    present = np.unique(code)
    model = LogisticRegression(warm_start=True, max_iter=200, tol=1e-3)
    for strength in sorted(strengths):  # from the strongest to the weakest, each starting where the last one ended
        result = np.full((len(asked), label_count), LEAST_LOG_PROBABILITY)
        if len(present) < 2:
            result[:, present] = 0.0
        else:
            found = model.set_params(C=strength).fit(known, code).predict_log_proba(asked)
            result[:, present] = np.maximum(found, LEAST_LOG_PROBABILITY)
        yield strength, log_softmax(result, axis=1)


def _calibrated(log_probabilities: np.ndarray, log_frequencies: np.ndarray, code: np.ndarray) -> tuple[float, float]:
    """Return the least log loss in nats, and the trust in the classifier at which it is reached."""

    def loss(trust: float) -> float:
        return -_tempered(log_probabilities, log_frequencies, trust)[np.arange(len(code)), code].mean()

    found = minimize_scalar(loss, bounds=(0.0, 2.0), method="bounded", options={"xatol": 1e-2})
    return (float(found.fun), float(found.x)) if found.fun < loss(0.0) else (loss(0.0), 0.0)


def _tempered(log_probabilities: np.ndarray, log_frequencies: np.ndarray, trust: float) -> np.ndarray:
    """Return log of q^trust x frequency^(1 - trust), normalised over labels, shape (n, labels)."""
    return log_softmax(trust * log_probabilities + (1 - trust) * log_frequencies, axis=1)


def _checked(name: str, data: tuple[ArrayLike, ArrayLike], groups: ArrayLike | None) -> tuple:
    """Return features, labels and groups as arrays that fit each other."""
    features, labels = np.asarray(data[0], dtype=float), np.asarray(data[1])
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    if features.ndim != 2 or not features.size or labels.shape != features.shape[:1] or groups.shape != labels.shape:
        raise ValueError(
            f"{name} must have features (n, width), a label and a group for each row, "
            f"got {features.shape}, {labels.shape} and {groups.shape}"
        )
    if not np.isfinite(features).all():
        raise ValueError(f"{name} must be finite, got {(~np.isfinite(features)).any(1).sum()} rows that are not")
    if len(np.unique(labels)) < 2:
        raise ValueError(f"{name} must have at least 2 labels, got {np.unique(labels).tolist()}")
    return features, labels, groups
