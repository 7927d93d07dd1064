"""Dependence without a critic: how alike pictures are in features, against whether they share a label.

Both measures compare an (n, n) matrix of the features with one of the labels by one correlation, and both are zero for
independent data only (Sejdinovic et al. 2013, arXiv:1207.6076, on why the two are one family).
"""

import torch
from torch import Tensor

from d3s_utils.resumable import Resumable

LEAST_VARIATION = 1e-5  # of entries of order one: a matrix that varies less is constant but for rounding


class HsicDependence(Resumable):
    """The normalised Hilbert-Schmidt independence criterion (also called centred kernel alignment, CKA).

    A Gaussian kernel of the features, as wide as the median distance of the batch, against the delta kernel of the
    labels (1 where two are equal). The estimate has no unit and no bias for independent data, where it is zero on
    average; it is at most 1, where pictures of one label coincide and labels lie equally far apart.

    It is no mutual information, but it shrinks as features forget, and neither scale nor rotation of the features
    changes it: the kernel's width follows their scale, also in the gradient.

    Source: Gretton et al. 2005, "Measuring statistical dependence with Hilbert-Schmidt norms"; the estimator without
    bias is Song et al. 2012, "Feature selection via dependence maximization", equation 5; normalised as in Kornblith
    et al. 2019, arXiv:1905.00414.
    """

    def fit_step(self, features: Tensor, labels: Tensor) -> float:
        """Return the present estimate: there is nothing to fit."""
        with torch.no_grad():
            return self.penalty(features, labels).item()

    def penalty(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the estimate for features (n, width) and labels (n,), n of at least 4; noise may make it negative."""
        return unbiased_correlation(gaussian_kernel(features), delta_kernel(labels, like=features))


class DistanceCovarianceDependence(Resumable):
    """The squared distance correlation of features and labels, whose distance is 1 where they differ.

    The estimate has no unit and no bias for independent data; it is at most 1. As HSIC it is changed by neither scale
    nor rotation of the features; having no kernel width, it looks at all distances alike.

    Source: Székely, Rizzo, Bakirov 2007, arXiv:0803.4101; the estimator without bias is Székely & Rizzo 2014,
    arXiv:1310.2926; labels enter by the discrete metric (Lyons 2013, arXiv:1106.5758).
    """

    def fit_step(self, features: Tensor, labels: Tensor) -> float:
        """Return the present estimate: there is nothing to fit."""
        with torch.no_grad():
            return self.penalty(features, labels).item()

    def penalty(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the estimate for features (n, width) and labels (n,), n of at least 4; noise may make it negative."""
        distance = distances(features)
        tiny = torch.finfo(features.dtype).tiny
        return unbiased_correlation(distance / distance.mean().clamp_min(tiny), 1 - delta_kernel(labels, like=features))


def unbiased_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return the correlation of two matrices of the same pictures, each centred so that its mean bears no bias.

    Args:
        first, second: Symmetric kernels or distances with entries of order one, shape (n, n); diagonals do not count.

    Returns:
        Differentiable scalar in [-1, 1], zero on average for independent data and where a matrix is constant.

    Raises:
        ValueError: If the shapes differ or n is below 4.

    Source: Székely & Rizzo 2014, arXiv:1310.2926, equation 3.8. For kernels it is HSIC's estimator of Song et al. 2012.
    """
    if first.ndim != 2 or first.shape != second.shape or len(first) != first.shape[1] or len(first) < 4:
        raise ValueError(
            f"first and second must both have shape (n, n), n at least 4, got {tuple(first.shape)} "
            f"and {tuple(second.shape)}"
        )
    first, second = centred(first), centred(second)
    least = LEAST_VARIATION * len(first)
    return (first * second).sum() / (first.norm().clamp_min(least) * second.norm().clamp_min(least))


def centred(matrix: Tensor) -> Tensor:
    """Return a symmetric matrix (n, n) with zero diagonal whose rows and columns sum to zero (U-centred).

    Source: Székely & Rizzo 2014, arXiv:1310.2926, definition 2.
    """
    count = len(matrix)
    matrix = matrix - torch.diag(matrix.diagonal())
    rows = matrix.sum(1, keepdim=True) / (count - 2)
    result = matrix - rows - rows.T + matrix.sum() / ((count - 1) * (count - 2))
    return result - torch.diag(result.diagonal())


def gaussian_kernel(features: Tensor, *, bandwidth: float | None = None) -> Tensor:
    """Return exp(-|f_i - f_j|^2 / (2 bandwidth^2)), shape (n, n), differentiable in features (n, width).

    Args:
        bandwidth: In the features' unit; the median distance between two different rows where None, so that a scale
            of the features makes no difference.
    """
    squares = distances(features).square()
    if bandwidth is None:
        row, column = torch.triu_indices(*squares.shape, offset=1)
        width = squares[row, column].median().clamp_min(torch.finfo(features.dtype).tiny)
    else:
        width = bandwidth**2
    return torch.exp(-squares / (2 * width))


def delta_kernel(labels: Tensor, *, like: Tensor) -> Tensor:
    """Return 1 where two labels (n,) are equal and 0 elsewhere, shape (n, n), of the type and device of `like`."""
    return (labels[:, None] == labels[None, :]).to(like)


def distances(features: Tensor) -> Tensor:
    """Return the Euclidean distances between rows, shape (n, n); between equal rows the gradient is 0, not infinite."""
    return torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
