"""How sets of pictures compare, by their features: distance to photos, variety within a class, and copying."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from d3s_utils.intervals import ratio_of_means
from d3s_utils.metrics import Estimate

NORMAL_95 = 1.959964  # standard errors to either side of a 95 % interval


@dataclass(frozen=True)
class KernelDistance:
    """A kernel distance between two sets of pictures.

    Attributes:
        value: Squared maximum mean discrepancy, unbiased: about 0 for two samples of one distribution, even below.
        standard_error: Of `value`, over pictures of both sets.
        n: Pictures of the smaller set.
    """

    value: float
    standard_error: float
    n: int

    @property
    def estimate(self) -> Estimate:
        """The value with its 95 % interval."""
        half = NORMAL_95 * self.standard_error
        return Estimate(self.value, self.value - half, self.value + half, self.n)


def kernel_distance(first: ArrayLike, second: ArrayLike, *, clusters: ArrayLike | None = None) -> KernelDistance:
    """Return the kernel inception distance of two sets, on whatever features they come with.

    The kernel is (x·y / width + 1)³ and the estimator unbiased, so the value does not hang on the number of pictures,
    as Fréchet's distance does. It is unbiased because no picture is compared with itself; pictures that share an object
    are not independent either, so no two of one cluster are compared. (Crops of a few real photos are else found to be
    far from photos.) The standard error is the jackknife's: each cluster is left out once, exactly.

    Args:
        first: Features, shape (n, width), of at least 3 clusters.
        second: Features, shape (m, width), m at least 3; each picture is a cluster.
        clusters: Of the pictures of `first`, shape (n,), such as the foreground that they share; each its own if None.

    Raises:
        ValueError: If the shapes do not fit, a set is too small, or a feature is not finite.

    Source: Bińkowski et al. 2018, arXiv:1801.01401.
    """
    first, second = (np.asarray(features, np.float64) for features in (first, second))
    for name, features in (("first", first), ("second", second)):
        if features.ndim != 2 or len(features) < 3 or not np.isfinite(features).all():
            raise ValueError(f"{name} must be finite features of at least 3 pictures, got shape {features.shape}")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"first and second must be equally wide, got {first.shape[1]} and {second.shape[1]}")
    n, m = len(first), len(second)
    members = np.arange(n) if clusters is None else pd.factorize(np.asarray(clusters))[0]
    if len(members) != n or len(np.unique(members)) < 3:
        raise ValueError(f"clusters must be at least 3, one of them a picture, got {clusters!r} for {n} pictures")
    across = _kernel(first, second)
    sets = [
        (*_sums_between(_kernel(first, first), members), np.bincount(members, across.sum(1)), np.bincount(members)),
        (*_sums_between(_kernel(second, second), np.arange(m)), across.sum(0), np.ones(m)),
    ]
    inside = [sums.sum() / pairs.sum() for sums, pairs, _, _ in sets]
    value = inside[0] + inside[1] - 2 * across.mean()
    variance = 0.0
    for (sums, pairs, cross, sizes), other in zip(sets, inside[::-1], strict=True):
        without = (sums.sum() - 2 * sums) / (pairs.sum() - 2 * pairs)
        across_without = (across.sum() - cross) / (across.size * (1 - sizes / sizes.sum()))
        left_out = without + other - 2 * across_without
        variance += (len(sums) - 1) / len(sums) * np.square(left_out - left_out.mean()).sum()
    return KernelDistance(float(value), float(np.sqrt(variance)), min(n, m))


def kernel_distance_ratio(numerator: KernelDistance, denominator: KernelDistance) -> Estimate:
    """Return how many times `denominator` the `numerator` is, its interval by the delta method.

    The two are taken as independent; where they share photos they err together, and the interval is too wide.
    """
    ratio = numerator.value / denominator.value
    error = np.hypot(numerator.standard_error, ratio * denominator.standard_error) / abs(denominator.value)
    n = min(numerator.n, denominator.n)
    return Estimate(ratio, ratio - NORMAL_95 * error, ratio + NORMAL_95 * error, n)


def kernel_distances(
    features: ArrayLike, groups: ArrayLike, reference: ArrayLike, *, clusters: ArrayLike
) -> pd.DataFrame:
    """Return the kernel distance of each group of pictures to the same reference, and of all of them together.

    Args:
        features: Shape (n, width); rows that are not finite (unreadable pictures) are left out.
        groups: Of each picture, such as its background, shape (n,).
        reference: Features of the pictures to be near to, shape (m, width); rows likewise.
        clusters: Of each picture, shape (n,), see `kernel_distance`.

    Returns:
        `group` (``all`` comes first), `value`, `low`, `high`, `n`. A group of fewer than 3 clusters has no row.

    Raises:
        ValueError: See `kernel_distance`.
    """
    features, groups, clusters = (np.asarray(values) for values in (features, groups, clusters))
    readable = np.isfinite(features).all(1)
    features, groups, clusters = features[readable], groups[readable], clusters[readable]
    reference = np.asarray(reference)[np.isfinite(reference).all(1)]
    members = {"all": np.ones(len(groups), bool)} | {name: groups == name for name in dict.fromkeys(groups)}
    return pd.DataFrame(
        [
            {"group": name} | vars(kernel_distance(features[mine], reference, clusters=clusters[mine]).estimate)
            for name, mine in members.items()
            if len(np.unique(clusters[mine])) >= 3
        ]
    )


def distances_within_classes(features: ArrayLike, labels: ArrayLike) -> pd.Series:
    """Return the mean cosine distance between two different pictures of each class, by class.

    Args:
        features: Shape (n, width), no row of zeros.
        labels: Class of each, shape (n,); a class needs two pictures.

    Raises:
        ValueError: If a class has one picture only, or the lengths differ.
    """
    unit = normalize(np.asarray(features, np.float64))
    labels = pd.Series(np.asarray(labels))
    if len(labels) != len(unit):
        raise ValueError(f"labels must be one a picture, got {len(labels)} for {len(unit)}")
    found = {}
    for label, rows in labels.groupby(labels, sort=False).groups.items():
        if len(rows) < 2:
            raise ValueError(f"labels must name each class at least twice, got {label!r} once")
        n = len(rows)
        together = np.square(unit[rows].sum(0)).sum()
        found[label] = 1 - (together - n) / (n * (n - 1))
    return pd.Series(found, name="distance")


def diversity(features: ArrayLike, labels: ArrayLike, photos: ArrayLike, photo_labels: ArrayLike):
    """Return how varied pictures of one class are beside photos of that class: the ratio of their mean distances.

    Args:
        features, labels: Of the pictures, see `distances_within_classes`.
        photos, photo_labels: Of real photos, of the same classes.
    Returns:
        An `Estimate`; 1 is as varied as photos.

    Raises:
        ValueError: If the two do not have the same classes.
    """
    ours, theirs = distances_within_classes(features, labels), distances_within_classes(photos, photo_labels)
    if set(ours.index) != set(theirs.index):
        raise ValueError(f"pictures and photos must be of the same classes, got {set(ours.index) ^ set(theirs.index)}")
    return ratio_of_means(ours, theirs[ours.index])


def nearest_pictures(features: ArrayLike, reference: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine distance of each picture to its nearest in `reference`, and which row that is, both (n,)."""
    search = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(np.asarray(reference))
    distances, rows = search.kneighbors(np.asarray(features))
    return distances[:, 0], rows[:, 0]


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return polynomial_kernel(first, second, degree=3, gamma=1 / first.shape[1], coef0=1)


def _sums_between(kernel: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of each cluster's kernel values with pictures of other clusters, and how many these are."""
    apart = members[:, None] != members
    return np.bincount(members, (kernel * apart).sum(1)), np.bincount(members, apart.sum(1))
