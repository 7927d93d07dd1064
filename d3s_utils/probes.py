"""What a linear model can read out of frozen features: cross-probes, with intervals and chance levels."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from d3s_utils.intervals import clustered_wilson
from d3s_utils.metrics import Estimate
from d3s_utils.randomness import numpy_generator

REGULARISATIONS = (0.0003, 0.003, 0.03, 0.3, 3.0)  # scikit-learn's C, smaller is stronger

# Kattakinda, Levine, Feizi 2022 (arXiv:2211.10370): ResNet-50 trained with the penalty on ImageNet and D3S, 1000
# classes and 10 backgrounds; no intervals were published.
PUBLISHED_CROSS_PROBES = {
    "foreground_from_foreground": 0.829,
    "foreground_from_background": 0.024,
    "background_from_foreground": 0.456,
    "background_from_background": 0.938,
}


@dataclass(frozen=True)
class Probe:
    """The result of a linear probe on pictures that it was not trained on.

    Attributes:
        correct: Whether each tested picture's label was read out, shape (n,), bool.
        accuracy: Share of `correct`, with an interval that knows which pictures belong to one group.
        chance: Accuracy of guessing blindly, one over the number of labels.
        majority: Accuracy of always saying the label that training saw most.
        regularisation: The C that was chosen.
    """

    correct: np.ndarray
    accuracy: Estimate
    chance: float
    majority: float
    regularisation: float


def linear_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    train_groups: ArrayLike,
    test_groups: ArrayLike,
    seed: int,
    regularisations: Sequence[float] = REGULARISATIONS,
    choice_share: float = 0.25,
) -> Probe:
    """Train multinomial logistic regression on one set of pictures and test it on another.

    The regularisation is chosen on `choice_share` of the training groups, then the probe is trained on all of them.
    With too few groups to spare one, the strongest regularisation is taken.

    Args:
        train_features, test_features: Shape (n, width) and (m, width).
        train_labels, test_labels: Shape (n,) and (m,).
        train_groups, test_groups: What pictures share with others, such as the foreground's id: groups are never
            torn apart, and the interval is about new groups.
        seed: Of the choice of groups.
        regularisations: Candidates for scikit-learn's C; of equally good ones the strongest is taken.
        choice_share: Share of the training groups that judge the candidates.

    Raises:
        ValueError: If lengths differ, a feature is not finite, fewer than two labels are there to be told apart,
            or a tested label was never trained.
    """
    train = _checked("train", train_features, train_labels, train_groups)
    test = _checked("test", test_features, test_labels, test_groups)
    widths = (train[0].shape[1], test[0].shape[1])
    if widths[0] != widths[1]:
        raise ValueError(f"test_features must be as wide as train_features ({widths[0]}), got {widths[1]}")
    unknown = sorted(set(test[1].tolist()) - set(train[1].tolist()))
    if unknown:
        raise ValueError(f"test_labels must be among the training labels, got {unknown[0]!r} too")
    strength = _choose_regularisation(*train, regularisations, choice_share=choice_share, seed=seed)
    return _tested(_fitted(train[0], train[1], strength), train[1], test, strength)


def cross_validated_probe(
    features: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    seed: int,
    folds: int = 5,
    regularisations: Sequence[float] = REGULARISATIONS,
) -> Probe:
    """Train and test probes on the folds of one set of pictures, each picture tested once.

    It asks what is left in features to be found by somebody who has new pictures of his own: features that were made
    free of a label on the pictures which made them need not be free of it on others.

    Args:
        features, labels, groups: As in `linear_probe`, of n pictures.
        seed: Of the choices of regularisation; the folds depend on the groups only.
        folds: Number of folds, each of whole groups.

    Returns:
        A probe whose `correct` is in the order given, and whose `regularisation` is the folds' median.

    Raises:
        ValueError: As in `linear_probe`, or if there are fewer groups than folds.
    """
    features, labels, groups = _checked("fold", features, labels, groups)
    group_count = len(np.unique(groups))
    if not 2 <= folds <= group_count:
        raise ValueError(f"folds must be between 2 and the number of groups ({group_count}), got {folds}")
    correct, majority, strengths = np.zeros(len(labels), dtype=bool), np.zeros(len(labels), dtype=bool), []
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():  # a label rarer than the folds is missing from some of them, and that is all
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        splits = list(splitter.split(features, labels, groups))
    for fold, (train, test) in enumerate(splits):
        known = (features[train], labels[train], groups[train])
        strengths.append(_choose_regularisation(*known, regularisations, choice_share=0.25, seed=seed + fold))
        correct[test] = _fitted(*known[:2], strengths[-1]).predict(features[test]) == labels[test]
        majority[test] = labels[test] == _most_frequent(labels[train])
    return Probe(
        correct,
        clustered_wilson(correct, groups),
        1 / len(np.unique(labels)),
        float(majority.mean()),
        float(np.median(strengths)),
    )


def cross_probes(
    train_features: Mapping[str, ArrayLike],
    test_features: Mapping[str, ArrayLike],
    train: pd.DataFrame,
    test: pd.DataFrame,
    *,
    group: str,
    seed: int,
    fresh_folds: int = 5,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every label from every set of features.

    Args:
        train_features, test_features: By name (``foreground``, ``background``), shape (n, width) and (m, width).
        train, test: Tables of n and m rows whose columns of the same names hold the labels.
        group: The column that tells which pictures share a foreground.
        seed: Of the choices of regularisation.
        fresh_folds: Folds of `cross_validated_probe` on the tested pictures, fewer where there are fewer groups.

    Returns:
        Two tables. The first has a row for each probe, with the columns probe (such as
        ``foreground_from_background``), label, features, fresh (False: trained on `train`; True: a
        `cross_validated_probe` on the tested pictures), value, low, high, n, chance, majority, regularisation. The
        second has a row for each probe and tested picture: probe, fresh, picture (its place in `test`), group,
        correct.
    """
    summary, outcomes = [], []
    for label in train_features:
        for source in train_features:
            name = f"{label}_from_{source}"
            tested = (test_features[source], test[label], test[group])
            folds = min(fresh_folds, test[group].nunique())
            probes = {
                False: linear_probe(
                    train_features[source],
                    train[label],
                    *tested[:2],
                    train_groups=train[group],
                    test_groups=tested[2],
                    seed=seed,
                ),
                True: cross_validated_probe(*tested, seed=seed, folds=folds),
            }
            for fresh, probe in probes.items():
                estimate = probe.accuracy
                summary.append(
                    {
                        "probe": name,
                        "label": label,
                        "features": source,
                        "fresh": fresh,
                        "value": estimate.value,
                        "low": estimate.low,
                        "high": estimate.high,
                        "n": estimate.n,
                        "chance": probe.chance,
                        "majority": probe.majority,
                        "regularisation": probe.regularisation,
                    }
                )
                outcomes.append(
                    pd.DataFrame(
                        {
                            "probe": name,
                            "fresh": fresh,
                            "picture": np.arange(len(test)),
                            "group": np.asarray(tested[2]),
                            "correct": probe.correct,
                        }
                    )
                )
    return pd.DataFrame(summary), pd.concat(outcomes, ignore_index=True)


def _fitted(features: np.ndarray, labels: np.ndarray, strength: float) -> Pipeline | DummyClassifier:
    if len(np.unique(labels)) < 2:  # a small fold may hold one label only: then that is all one can say
        return DummyClassifier(strategy="most_frequent").fit(features, labels)
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000)).fit(features, labels)


def _tested(probe: Pipeline | DummyClassifier, train_labels: np.ndarray, test: tuple, strength: float) -> Probe:
    features, labels, groups = test
    correct = probe.predict(features) == labels
    return Probe(
        correct,
        clustered_wilson(correct, groups),
        1 / len(np.unique(train_labels)),
        float((labels == _most_frequent(train_labels)).mean()),
        strength,
    )


def _choose_regularisation(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    candidates: Sequence[float],
    *,
    choice_share: float,
    seed: int,
) -> float:
    """Return the candidate with the best accuracy on groups that its probe did not see."""
    if len(candidates) == 0 or min(candidates) <= 0:
        raise ValueError(f"regularisations must be positive numbers, at least one, got {list(candidates)}")
    if len(candidates) == 1:
        return float(candidates[0])
    if not 0 < choice_share < 1:
        raise ValueError(f"choice_share must be between 0 and 1, got {choice_share}")
    names = np.unique(groups)
    judges = max(1, round(choice_share * len(names)))
    drawn = numpy_generator(seed, "regularisation").choice(names, judges, replace=False)
    judging = np.isin(groups, drawn)
    if len(np.unique(labels[~judging])) < 2:  # too few groups to spare one: the strongest is the careful choice
        return float(min(candidates))
    scores = {}
    for strength in sorted(candidates):
        probe = _fitted(features[~judging], labels[~judging], strength)
        scores[strength] = (probe.predict(features[judging]) == labels[judging]).mean()
    return float(max(scores, key=scores.get))


def _most_frequent(labels: np.ndarray):
    names, counts = np.unique(labels, return_counts=True)
    return names[counts.argmax()]


def _checked(name: str, features: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> tuple:
    """Return the three as arrays that fit each other."""
    features, labels, groups = np.asarray(features, dtype=float), np.asarray(labels), np.asarray(groups)
    if features.ndim != 2 or not features.size:
        raise ValueError(f"{name}_features must have shape (n, width) and not be empty, got {features.shape}")
    if labels.shape != features.shape[:1] or groups.shape != features.shape[:1]:
        raise ValueError(
            f"{name}_labels and {name}_groups must have one value for each of {len(features)} rows, "
            f"got {labels.shape} and {groups.shape}"
        )
    if not np.isfinite(features).all():
        broken = (~np.isfinite(features)).any(1).sum()
        raise ValueError(f"{name}_features must be finite, got {broken} rows that are not")
    if name != "test" and len(np.unique(labels)) < 2:
        raise ValueError(f"{name}_labels must hold at least 2 labels, got {np.unique(labels).tolist()}")
    return features, labels, groups
