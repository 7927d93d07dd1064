"""Mutual information as a number in nats: by counting, in closed form, and by nearest neighbours."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from scipy.special import digamma, entr

CORRECTIONS = ("none", "miller_madow")


def label_entropy(labels: ArrayLike, *, correction: str = "none") -> float:
    """Return the entropy of labels (n,) by their frequencies, in nats.

    Args:
        correction: ``none`` is the plug-in estimate, which is too low by about (k - 1) / 2n for k labels;
            ``miller_madow`` adds that.

    Raises:
        ValueError: If there is no label, or the correction has another name.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not labels.size:
        raise ValueError(f"labels must be one-dimensional and not empty, got shape {labels.shape}")
    return _entropy(np.unique(labels, return_counts=True)[1], correction)


def contingency_table(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Return how often each pair of two labels occurs, shape (labels of first, labels of second), both sorted.

    Raises:
        ValueError: If the labels are not two sequences of one length, or empty.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.ndim != 1 or first.shape != second.shape or not first.size:
        raise ValueError(f"first and second must be sequences of one length, got {first.shape} and {second.shape}")
    rows, row = np.unique(first, return_inverse=True)
    columns, column = np.unique(second, return_inverse=True)
    return np.bincount(row * len(columns) + column, minlength=len(rows) * len(columns)).reshape(len(rows), -1)


def counted_mutual_information(table: ArrayLike, *, correction: str = "none") -> float:
    """Return I of the row and the column of a table of counts or probabilities, in nats: H(row) + H(column) - H(both).

    Args:
        table: Shape (k, l), not negative. Of counts of n pairs, or of probabilities, which give the exact value.
        correction: ``none`` is the plug-in estimate, which for n counted pairs of independent labels is too high by
            about (k - 1)(l - 1) / 2n; ``miller_madow`` corrects each entropy, for counts only.

    Raises:
        ValueError: If the table is not one, is empty, or is corrected without being counts.

    Source: Miller 1955, "Note on the bias of information estimates".
    """
    table = np.asarray(table)
    if table.ndim != 2 or not (np.isfinite(table).all() and (table >= 0).all() and table.sum() > 0):
        raise ValueError(f"table must have shape (k, l), entries of at least 0 and a positive sum, got {table}")
    return _entropy(table.sum(1), correction) + _entropy(table.sum(0), correction) - _entropy(table.ravel(), correction)


def discrete_mutual_information(first: ArrayLike, second: ArrayLike, *, correction: str = "none") -> float:
    """Return I of two sequences of labels (n,) by counting their pairs, in nats (see `counted_mutual_information`)."""
    return counted_mutual_information(contingency_table(first, second), correction=correction)


def gaussian_mutual_information(correlations: ArrayLike) -> float:
    """Return I(X; Y) of Gaussian vectors in nats: minus half the sum of log(1 - correlation^2).

    Args:
        correlations: Canonical ones: of X_i with Y_i, where no other coordinates are correlated, shape (d,) or ().

    Raises:
        ValueError: If one is not between -1 and 1.

    Source: Cover & Thomas 2006, "Elements of information theory", example 8.5.1.
    """
    correlations = np.atleast_1d(np.asarray(correlations, dtype=float))
    if not (np.abs(correlations) < 1).all():
        raise ValueError(f"correlations must be between -1 and 1, both left out, got {correlations.tolist()}")
    return float(-0.5 * np.log1p(-np.square(correlations)).sum())


def symmetric_channel_mutual_information(label_count: int, error: float) -> float:
    """Return I of a uniform label and its noisy copy, in nats.

    The copy is another label with probability `error`, each of the others equally often: I = log k - H(error) -
    error log(k - 1), which is log k at no error and 0 at an error of (k - 1) / k.

    Raises:
        ValueError: If there are fewer than two labels, or `error` is no probability.

    Source: Cover & Thomas 2006, "Elements of information theory", section 7.2.
    """
    if label_count < 2 or not 0 <= error <= 1:
        raise ValueError(
            f"label_count must be at least 2 and error in [0, 1], got label_count={label_count}, error={error}"
        )
    noise = entr(error) + entr(1 - error) + error * np.log(label_count - 1)
    return float(np.log(label_count) - noise)


def nearest_neighbour_mutual_information(features: ArrayLike, labels: ArrayLike, *, neighbours: int = 3) -> float:
    """Estimate I of continuous features and a discrete label by distances to nearest neighbours, in nats.

    For each picture: how many of all pictures lie nearer than its `neighbours`-th nearest of its own label. Euclidean
    distances, so rotation and a common scale of the features change nothing. Equal rows have no nearest neighbour:
    give features without ties. In many dimensions it is far too low, as all distances become alike.

    Args:
        features: Shape (n, width) or (n,).
        labels: Shape (n,). Pictures whose label nobody shares are left out.
        neighbours: At least 1; fewer for a label with fewer pictures.

    Returns:
        Noise may make it negative; it is not cut at 0.

    Raises:
        ValueError: If shapes differ, a feature is not finite, no label occurs twice or `neighbours` is below 1.

    Source: Ross 2014, "Mutual information between discrete and continuous data sets", PLoS ONE 9(2), e87357.
    """
    features, labels = np.asarray(features, dtype=float), np.asarray(labels)
    features = features[:, None] if features.ndim == 1 else features
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features must have a row for each label, got {features.shape} for {labels.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"features must be finite, got {(~np.isfinite(features)).any(1).sum()} rows that are not")
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    _, code, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = counts[code] > 1
    if not kept.any():
        raise ValueError(f"labels must hold one that occurs twice, got {len(labels)} different ones")
    features, code = features[kept], code[kept]
    radius, rank = np.empty(len(code)), np.minimum(neighbours, counts[code] - 1)
    for label in np.unique(code):
        own = code == label
        away, _ = cKDTree(features[own]).query(features[own], k=[rank[own][0] + 1])  # the nearest is the row itself
        radius[own] = np.nextafter(away[:, 0], 0)
    nearer = cKDTree(features).query_ball_point(features, radius, return_length=True)  # counts the row itself
    return float(digamma(len(code)) + np.mean(digamma(rank) - digamma(counts[code]) - digamma(nearer)))


def _entropy(counts: np.ndarray, correction: str) -> float:
    if correction not in CORRECTIONS:
        raise ValueError(f"correction must be one of {', '.join(CORRECTIONS)}, got {correction!r}")
    total = counts.sum()
    entropy = float(entr(counts / total).sum())
    if correction == "none":
        return entropy
    if not np.array_equal(counts, np.round(counts)):
        raise ValueError(
            f"correction {correction!r} is for counts, got entries that are not whole, such as {counts[0]}"
        )
    return entropy + (np.count_nonzero(counts) - 1) / (2 * float(total))
