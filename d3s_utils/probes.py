"""What a model can read out of frozen features: linear and nonlinear probes, with intervals and chance levels."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.model_selection import StratifiedGroupKFold

from d3s_utils.intervals import clustered_wilson
from d3s_utils.metrics import Estimate
from d3s_utils.probe_models import PROBE_MODELS, REGULARISATIONS, Setting, choose_setting, read_labels

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
    """The result of a probe on pictures that it was not trained on.

    Attributes:
        correct: Whether each tested picture's label was read out, shape (n,), bool.
        accuracy: Share of `correct`, with an interval that knows which pictures belong to one group.
        chance: Accuracy of guessing blindly, one over the number of labels.
        majority: Accuracy of always saying the label that training saw most.
        setting: What was chosen, such as ``{"regularisation": 0.03}``; see `probe_models`.
        kind: A key of `probe_models.PROBE_MODELS`.
    """

    correct: np.ndarray
    accuracy: Estimate
    chance: float
    majority: float
    setting: Setting
    kind: str = "linear"

    @property
    def regularisation(self) -> float:
        """The C that was chosen for a linear probe, NaN for another."""
        return self.setting.get("regularisation", float("nan"))


def probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    train_groups: ArrayLike,
    test_groups: ArrayLike,
    seed: int,
    kind: str = "linear",
    settings: Sequence[Setting] | None = None,
    choice_share: float = 0.25,
    device: str = "cpu",
) -> Probe:
    """Train a probe on one set of pictures and test it on another.

    The setting is chosen on `choice_share` of the training groups, then the probe is trained on all of them. With too
    few groups to spare one, the first setting (the simplest model) is taken.

    Args:
        train_features, test_features: Shape (n, width) and (m, width).
        train_labels, test_labels: Shape (n,) and (m,).
        train_groups, test_groups: What pictures share with others, such as the foreground's id: groups are never
            torn apart, and the interval is about new groups.
        seed: Of the choice of groups, and of what a probe draws.
        kind: ``linear`` (multinomial logistic regression), ``mlp``, ``nearest`` or ``boosted``.
        settings: Candidates, the simplest first, which wins among equally good ones; the kind's own where None.
        choice_share: Share of the training groups that judge the candidates.
        device: Where the probe is trained; boosting always is on the CPU.

    Raises:
        ValueError: If lengths differ, a feature is not finite, fewer than two labels are there to be told apart,
            a tested label was never trained, or `kind` is unknown.
    """
    settings = _settings(kind, settings)
    train = _checked("train", train_features, train_labels, train_groups)
    test = _checked("test", test_features, test_labels, test_groups)
    widths = (train[0].shape[1], test[0].shape[1])
    if widths[0] != widths[1]:
        raise ValueError(f"test_features must be as wide as train_features ({widths[0]}), got {widths[1]}")
    unknown = sorted(set(test[1].tolist()) - set(train[1].tolist()))
    if unknown:
        raise ValueError(f"test_labels must be among the training labels, got {unknown[0]!r} too")
    options = {"kind": kind, "seed": seed, "device": device}
    setting = choose_setting(*train, settings, choice_share=choice_share, **options)
    correct = read_labels(*train[:2], test[0], [setting], **options)[0] == test[1]
    majority = float((test[1] == _most_frequent(train[1])).mean())
    return Probe(
        correct, clustered_wilson(correct, test[2]), 1 / len(np.unique(train[1])), majority, dict(setting), kind
    )


def linear_probe(*data: ArrayLike, regularisations: Sequence[float] = REGULARISATIONS, **options) -> Probe:
    """Train multinomial logistic regression on one set of pictures and test it on another.

    Args:
        data: Training features and labels, test features and labels.
        regularisations: Candidates for scikit-learn's C; of equally good ones the strongest is taken.
        options: The other arguments of `probe`.

    Raises:
        ValueError: As in `probe`, or if a regularisation is not positive.
    """
    return probe(*data, kind="linear", settings=_regularisation_settings(regularisations), **options)


def cross_validated_probe(
    features: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    seed: int,
    folds: int = 5,
    kind: str = "linear",
    regularisations: Sequence[float] | None = None,
    device: str = "cpu",
) -> Probe:
    """Train and test probes on the folds of one set of pictures, each picture tested once.

    It asks what is left in features to be found by somebody who has new pictures of his own: features that were made
    free of a label on the pictures which made them need not be free of it on others.

    Args:
        features, labels, groups: As in `probe`, of n pictures.
        seed: Of the choices of setting; the folds depend on the groups only.
        folds: Number of folds, each of whole groups.
        kind, device: As in `probe`.
        regularisations: Candidates for a linear probe's C; `REGULARISATIONS` where None.

    Returns:
        A probe whose `correct` is in the order given, and whose `setting` holds the folds' medians.

    Raises:
        ValueError: As in `probe`, or if there are fewer groups than folds.
    """
    settings = _settings(kind, None if regularisations is None else _regularisation_settings(regularisations))
    features, labels, groups = _checked("fold", features, labels, groups)
    group_count = len(np.unique(groups))
    if not 2 <= folds <= group_count:
        raise ValueError(f"folds must be between 2 and the number of groups ({group_count}), got {folds}")
    correct, majority, chosen = np.zeros(len(labels), dtype=bool), np.zeros(len(labels), dtype=bool), []
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():  # a label rarer than the folds is missing from some of them, and that is all
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        splits = list(splitter.split(features, labels, groups))
    for fold, (train, test) in enumerate(splits):
        known, options = (features[train], labels[train]), {"kind": kind, "seed": seed + fold, "device": device}
        chosen.append(choose_setting(*known, groups[train], settings, choice_share=0.25, **options))
        correct[test] = read_labels(*known, features[test], chosen[-1:], **options)[0] == labels[test]
        majority[test] = labels[test] == _most_frequent(labels[train])
    return Probe(
        correct,
        clustered_wilson(correct, groups),
        1 / len(np.unique(labels)),
        float(majority.mean()),
        {name: float(np.median([setting[name] for setting in chosen])) for name in chosen[0]},
        kind,
    )


def cross_probes(
    train_features: Mapping[str, ArrayLike],
    test_features: Mapping[str, ArrayLike],
    train: pd.DataFrame,
    test: pd.DataFrame,
    *,
    group: str,
    seed: int,
    kinds: Sequence[str] = ("linear",),
    fresh_folds: int = 5,
    device: str = "cpu",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every label from every set of features by every kind of probe.

    Args:
        train_features, test_features: By name (``foreground``, ``background``), shape (n, width) and (m, width).
        train, test: Tables of n and m rows whose columns of the same names hold the labels.
        group: The column that tells which pictures share a foreground.
        seed: Of the choices of setting.
        kinds: Keys of `probe_models.PROBE_MODELS`.
        fresh_folds: Folds of `cross_validated_probe` on the tested pictures, fewer where there are fewer groups; 0
            leaves those probes out.
        device: As in `probe`.

    Returns:
        Two tables. The first has a row for each probe, with the columns probe (such as
        ``foreground_from_background``), label, features, fresh (False: trained on `train`; True: a
        `cross_validated_probe` on the tested pictures), kind, value, low, high, n, chance, majority, regularisation
        (NaN where the probe is not linear), setting (in words). The second has a row for each probe and tested
        picture: probe, kind, fresh, picture (its place in `test`), group, correct.
    """
    summary, outcomes = [], []
    folds = min(fresh_folds, test[group].nunique())
    for label, source, kind in product(train_features, train_features, kinds):
        options = {"seed": seed, "kind": kind, "device": device}
        tested = (test_features[source], test[label], test[group])
        known = (train_features[source], train[label])
        probes = {False: probe(*known, *tested[:2], train_groups=train[group], test_groups=tested[2], **options)}
        if folds:
            probes[True] = cross_validated_probe(*tested, folds=folds, **options)
        for fresh, found in probes.items():
            names = {"probe": f"{label}_from_{source}", "kind": kind, "fresh": fresh}
            summary.append(
                names
                | {"label": label, "features": source}
                | asdict(found.accuracy)
                | {
                    "chance": found.chance,
                    "majority": found.majority,
                    "regularisation": found.regularisation,
                    "setting": ", ".join(f"{name} {number:g}" for name, number in found.setting.items()),
                }
            )
            pictures = {"picture": np.arange(len(test)), "group": np.asarray(tested[2]), "correct": found.correct}
            outcomes.append(pd.DataFrame(names | pictures))
    return pd.DataFrame(summary), pd.concat(outcomes, ignore_index=True)


def _settings(kind: str, settings: Sequence[Setting] | None) -> Sequence[Setting]:
    if kind not in PROBE_MODELS:
        raise ValueError(f"kind must be one of {', '.join(PROBE_MODELS)}, got {kind!r}")
    settings = PROBE_MODELS[kind].settings if settings is None else settings
    if not len(settings):
        raise ValueError("settings must hold at least one candidate, got none")
    return settings


def _regularisation_settings(candidates: Sequence[float]) -> list[Setting]:
    if len(candidates) == 0 or min(candidates) <= 0:
        raise ValueError(f"regularisations must be positive numbers, at least one, got {list(candidates)}")
    return [{"regularisation": float(each)} for each in sorted(candidates)]


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
