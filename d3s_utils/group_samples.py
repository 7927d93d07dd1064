"""Features with their labels and groups, checked and numbered, and the parts of them that methods draw."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from d3s_utils.randomness import numpy_generator


@dataclass(frozen=True)
class Sample:
    """Pictures to learn from.

    Attributes:
        features: Shape (n, width), float64.
        label: Place of each picture's class in `names`, shape (n,).
        group: Place of each picture's group in `group_names`, shape (n,).
        foreground: What each picture shares with others, shape (n,).
        names: The classes, sorted.
        group_names: The groups, sorted; one, called -1, where none were given.
    """

    features: np.ndarray
    label: np.ndarray
    group: np.ndarray
    foreground: np.ndarray
    names: np.ndarray
    group_names: np.ndarray

    @property
    def onehot(self) -> np.ndarray:
        """The labels as rows of zeros and one 1, shape (n, k)."""
        return np.eye(len(self.names))[self.label]

    def take(self, rows: np.ndarray) -> "Sample":
        """Return some pictures; groups that have none among them are dropped, classes are kept."""
        present, group = np.unique(self.group[rows], return_inverse=True)
        return Sample(
            self.features[rows], self.label[rows], group, self.foreground[rows], self.names, self.group_names[present]
        )

    def spread(self, group_weights: np.ndarray) -> np.ndarray:
        """Return pictures' weights, shape (n,): each group's weight, shared evenly among its pictures."""
        return (group_weights / np.bincount(self.group))[self.group]


def make_sample(
    name: str, features: ArrayLike, classes: ArrayLike, groups: ArrayLike | None, foregrounds: ArrayLike | None
) -> Sample:
    """Check pictures and put them into an order that depends on what they are, not on how they came.

    Args:
        name: What the arguments are called in errors before their own names, such as ``"validation "``.
        features, classes, groups, foregrounds: As in `group_robustness.train_head`.

    Raises:
        ValueError: If shapes do not fit, a feature is not finite, or there are fewer than two classes.
    """
    features, classes = np.array(features, dtype=np.float64, order="C"), np.asarray(classes)
    if features.ndim != 2 or not features.size:
        raise ValueError(f"{name}features must have shape (n, width) and not be empty, got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError(
            f"{name}features must be finite, got {(~np.isfinite(features)).any(1).sum()} rows that are not"
        )
    groups = np.full(len(features), -1) if groups is None else np.asarray(groups)
    digests = np.array([hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in features])
    foregrounds = digests if foregrounds is None else np.asarray(foregrounds)
    for what, values in (("classes", classes), ("groups", groups), ("foregrounds", foregrounds)):
        if values.shape != features.shape[:1]:
            raise ValueError(f"{name}{what} must have one value for each of {len(features)} rows, got {values.shape}")
    names, label = np.unique(classes, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"{name}classes must hold at least 2 labels, got {names.tolist()}")
    group_names, group = np.unique(groups, return_inverse=True)
    order = np.argsort(digests, kind="stable")
    return Sample(features[order], label[order], group[order], foregrounds[order], names, group_names)


def held_out_part(
    sample: Sample, *, share: float, seed: int, within: Literal["label", "group"] = "label"
) -> np.ndarray:
    """Choose whole foregrounds to judge by: no picture of theirs is left to learn from.

    The choice does not depend on what classes are called.

    Args:
        share: Of the foregrounds, in (0, 1).
        within: ``label`` takes that share of each label's foregrounds, rounded, at least one; a label with one
            foreground keeps it. ``group`` wants that share of each group's: a foreground is before several backgrounds,
            so it is taken while more of its groups want one than have enough. No group gives up its last foreground.

    Returns:
        Shape (n,), bool.
    """
    names, code = np.unique(sample.foreground, return_inverse=True)
    order = numpy_generator(seed, "held-out foregrounds").permutation(len(names))
    groups = sample.group
    if within == "label":
        groups = np.empty(len(names), dtype=int)  # where a foreground has several labels, that of its first picture
        groups[code[::-1]] = sample.label[::-1]
        groups = groups[code]
    shown = np.zeros((len(names), groups.max() + 1), dtype=bool)
    shown[code, groups] = True
    there = shown.sum(0)
    wanted, most = np.maximum(1, np.round(share * there)), there - 1
    taken, chosen = np.zeros(len(there)), np.zeros(len(names), dtype=bool)
    for foreground in np.argsort(order):
        own = shown[foreground]
        lacking = (taken < wanted)[own]
        if (taken < most)[own].all() and lacking.sum() > (~lacking).sum():
            chosen[foreground] = True
            taken += own
    return chosen[code]


def balanced_subset(sample: Sample, random: np.random.Generator) -> np.ndarray:
    """Draw as many pictures of each group as the smallest has, without replacement; return their sorted positions."""
    smallest = np.bincount(sample.group).min()
    order = random.permutation(len(sample.group))
    order = order[np.argsort(sample.group[order], kind="stable")]
    starts = np.searchsorted(sample.group[order], np.arange(len(sample.group_names)))
    return np.sort((order[starts[:, None] + np.arange(smallest)]).ravel())
