"""HSIC and distance correlation: oracles, no bias, invariances, limits."""

from itertools import permutations

import pytest
import torch

from d3s_utils import kernel_dependence
from d3s_utils.kernel_dependence import (
    DistanceCovarianceDependence,
    HsicDependence,
    centred,
    delta_kernel,
    gaussian_kernel,
    unbiased_correlation,
)

BOTH = pytest.mark.parametrize("dependence", [HsicDependence(), DistanceCovarianceDependence()])


def _points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _labelled(count: int = 24, *, strength: float = 1.5, width: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(count) % 3
    return _points(count, width) + strength * torch.nn.functional.one_hot(labels, width), labels


def test_centred_products_are_song_s_unbiased_hsic():
    """Song et al. 2012, equation 5: [tr(KL) + 1K1 1L1 / ((n-1)(n-2)) - 2 1KL1 / (n-2)] / (n (n-3))."""
    features, labels = _labelled(9)
    first, second = gaussian_kernel(features, bandwidth=1.3), delta_kernel(labels, like=features)
    n = len(first)
    found = (centred(first) * centred(second)).sum() / (n * (n - 3))
    first, second = (each - torch.diag(each.diagonal()) for each in (first, second))
    trace, ends = (first @ second).trace(), (first @ second).sum()
    expected = (trace + first.sum() * second.sum() / ((n - 1) * (n - 2)) - 2 * ends / (n - 2)) / (n * (n - 3))
    assert found.item() == pytest.approx(expected.item(), abs=1e-14)


@BOTH
def test_estimate_has_no_bias_for_independent_labels(dependence):
    """Over all orders of the labels, in which nothing is shared with the features, the mean is zero exactly."""
    features, labels = _points(6, 2), torch.tensor([0, 0, 0, 1, 1, 2])
    values = [dependence.penalty(features, labels[list(order)]).item() for order in permutations(range(6))]
    assert sum(values) / len(values) == pytest.approx(0, abs=1e-12)
    assert max(values) > 0.3


@BOTH
def test_estimate_is_one_where_pictures_of_a_label_coincide(dependence):
    labels = torch.arange(12) % 3
    assert dependence.penalty(torch.eye(3, dtype=torch.float64)[labels], labels).item() == pytest.approx(1, abs=1e-12)


@BOTH
def test_estimates_are_those_of_the_function_that_notebook_05_prints(dependence, monkeypatch):
    monkeypatch.setattr(kernel_dependence, "unbiased_correlation", lambda first, second: 7 + 0 * first.sum())
    assert dependence.penalty(*_labelled()).item() == 7
    assert dependence.fit_step(*_labelled()) == 7


def test_estimates_may_be_negative():
    """Pictures of one label that lie apart from each other and near those of the other label."""
    features = torch.tensor([[0.0], [5.0], [0.1], [5.1]], dtype=torch.float64)
    assert HsicDependence().penalty(features, torch.tensor([0, 0, 1, 1])).item() < -0.3


@BOTH
def test_estimate_rises_with_what_features_tell(dependence):
    values = [dependence.penalty(*_labelled(60, strength=strength)).item() for strength in (0, 1, 2, 4, 16)]
    assert values == sorted(values)
    assert abs(values[0]) < 0.1
    assert values[-1] > 0.9


@BOTH
def test_rotation_shift_and_scale_change_nothing(dependence):
    features, labels = _labelled()
    rotation = torch.linalg.qr(_points(3, 3, seed=1))[0]
    value = dependence.penalty(features, labels).item()
    for other in (features @ rotation, features + 5, 1e3 * features, 1e-3 * features):
        assert dependence.penalty(other, labels).item() == pytest.approx(value, abs=1e-9)
    stretched = dependence.penalty(features * torch.tensor([9.0, 1.0, 0.1]), labels).item()
    assert stretched != pytest.approx(value, abs=1e-3), "only isometries and scales are invariances"


@BOTH
def test_renamed_labels_and_reordered_pictures_change_nothing(dependence):
    features, labels = _labelled()
    value = dependence.penalty(features, labels).item()
    assert dependence.penalty(features, (labels + 1) % 3).item() == pytest.approx(value, abs=1e-12)
    assert dependence.penalty(features.flip(0), labels.flip(0)).item() == pytest.approx(value, abs=1e-12)


@BOTH
def test_gradient_is_finite_differences_and_never_shrinks_the_features(dependence):
    features, labels = _labelled(8)
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dependence.penalty(x, labels), features)
    (gradient,) = torch.autograd.grad(dependence.penalty(features, labels), features)
    assert gradient.norm() > 0.01
    assert (gradient * features).sum().item() == pytest.approx(0, abs=1e-10)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_nothing_varies_there_is_no_dependence_and_no_gradient(dependence, dtype):
    features, labels = torch.full((10, 3), 1 / 3, dtype=dtype, requires_grad=True), torch.arange(10) % 2
    penalty = dependence.penalty(features, labels)
    penalty.backward()
    assert penalty.item() == pytest.approx(0, abs=1e-2)
    assert torch.isfinite(features.grad).all()
    assert dependence.penalty(_points(10, 3), torch.zeros(10, dtype=torch.long)).item() == pytest.approx(0, abs=1e-9)


def test_gaussian_kernel_has_the_median_distance_as_its_width():
    features = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)  # distances 1, 2, 3
    expected = torch.exp(-torch.tensor([1.0, 9.0, 4.0], dtype=torch.float64) / (2 * 2**2))
    assert torch.allclose(gaussian_kernel(features)[[0, 0, 1], [1, 2, 2]], expected)
    assert torch.equal(gaussian_kernel(features, bandwidth=2.0), gaussian_kernel(features))


@pytest.mark.parametrize("shapes", [((3, 3), (3, 3)), ((5, 5), (6, 6)), ((5, 4), (5, 4))])
def test_matrices_that_do_not_fit_are_named(shapes):
    with pytest.raises(ValueError, match=r"must both have shape \(n, n\), n at least 4"):
        unbiased_correlation(*(torch.ones(shape) for shape in shapes))
