"""The fast solver against scikit-learn, against the conditions of a minimum, and over what must not matter."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from d3s_utils.probe_speed import best_speedup, compare_probe_speed, make_probe_data, softmax_objective
from d3s_utils.randomness import numpy_generator
from d3s_utils.softmax_solver import SoftmaxProblem, solve_path


def _data(count: int = 150, width: int = 8, labels: int = 4, seed: int = 0):
    random = numpy_generator(seed, "data")
    label = random.integers(0, labels, count)
    features = random.normal(size=(count, width)) + 1.5 * random.normal(size=(labels, width))[label]
    return torch.from_numpy(features @ random.normal(size=(width, width)) + 3), torch.from_numpy(label)


def _gradient(features, labels, fit, penalty):
    weight, bias = fit.weight.clone().requires_grad_(), fit.bias.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(features @ weight.T + bias, labels) + penalty / 2 * (weight**2).sum()
    loss.backward()
    return loss.item(), torch.cat([weight.grad, bias.grad[:, None]], 1)


@pytest.mark.parametrize("penalty", [1.0, 0.01, 0.0005])
@pytest.mark.parametrize(("count", "width"), [(150, 8), (20, 40)])
def test_coefficients_are_scikit_learns(count, width, penalty):
    features, labels = _data(count, width)
    fit = SoftmaxProblem(features, labels, label_count=4).solve(penalty, tolerance=1e-12)
    model = LogisticRegression(C=1 / (penalty * count), tol=1e-9, max_iter=10_000).fit(features, labels)
    assert np.allclose(fit.weight, model.coef_, atol=2e-4 * abs(model.coef_).max())
    bias = fit.bias - fit.bias.mean()
    assert np.allclose(bias, model.intercept_ - model.intercept_.mean(), atol=1e-3 * (1 + abs(model.intercept_).max()))


def test_gradient_vanishes_at_the_solution_and_the_gap_is_about_what_is_left():
    features, labels = _data()
    problem = SoftmaxProblem(features, labels, label_count=4)
    best, gradient = _gradient(features, labels, problem.solve(0.01, tolerance=1e-12), 0.01)
    assert gradient.abs().max() < 1e-5
    rough = problem.solve(0.01, tolerance=1e-3)
    objective, _ = _gradient(features, labels, rough, 0.01)
    assert rough.objective == pytest.approx(objective, rel=1e-9)
    assert rough.gap / 30 < objective - best < 30 * rough.gap


@pytest.mark.parametrize("penalty", [1.0, 0.03, 0.001])
def test_the_usual_tolerance_is_an_equal_objective(penalty):
    for seed in range(5):
        features, labels = _data(seed=seed)
        problem = SoftmaxProblem(features, labels, label_count=4)
        best, usual = problem.solve(penalty, tolerance=1e-13), problem.solve(penalty)
        assert best.evaluations > usual.evaluations
        assert usual.objective <= best.objective * (1 + 1e-4)


def test_float32_reaches_the_minimum_of_float64():
    features, labels = _data(400, 20)
    single = SoftmaxProblem(features.float(), labels, label_count=4).solve(0.03)
    exact = SoftmaxProblem(features, labels, label_count=4).solve(0.03, tolerance=1e-12)
    assert single.weight.dtype == torch.float32
    head = single.weight.double(), single.bias.double()
    found = softmax_objective(features.numpy(), labels.numpy(), *(each.numpy() for each in head), 0.03)
    assert found == pytest.approx(exact.objective, rel=1e-5)


def test_many_pictures_use_only_some_for_their_axes_and_reach_the_same_minimum():
    features, labels = _data(3000, 6)
    fit = SoftmaxProblem(features, labels, label_count=4).solve(0.01, tolerance=1e-10)
    assert _gradient(features, labels, fit, 0.01)[1].abs().max() < 1e-4


def test_a_path_gives_what_each_penalty_alone_gives_in_the_order_asked():
    features, labels = _data()
    penalties = [0.001, 1.0, 0.03]
    path = solve_path(features, labels, penalties, label_count=4, tolerance=1e-12)
    for fit, penalty in zip(path, penalties, strict=True):
        alone = SoftmaxProblem(features, labels, label_count=4).solve(penalty, tolerance=1e-12)
        assert torch.allclose(fit.weight, alone.weight, atol=1e-4)


def test_a_warm_start_at_the_solution_stays_there_at_once():
    features, labels = _data()
    problem = SoftmaxProblem(features, labels, label_count=4)
    fit = problem.solve(0.01, tolerance=1e-10)
    again = problem.solve(0.01, start=fit, tolerance=1e-6)
    assert again.evaluations == 1
    assert torch.allclose(again.weight, fit.weight, atol=1e-9)


def test_a_strong_penalty_leaves_the_labels_shares():
    features, labels = _data()
    fit = SoftmaxProblem(features, labels, label_count=4).solve(1e6, tolerance=1e-12)
    shares = torch.bincount(labels).double() / len(labels)
    assert torch.allclose(torch.softmax(fit.bias, 0), shares, atol=1e-3)
    assert fit.weight.abs().max() < 1e-4


def test_features_without_any_variance_are_allowed():
    features, labels = torch.ones(30, 3, dtype=torch.float64), torch.arange(30) % 3
    fit = SoftmaxProblem(features, labels, label_count=3).solve(0.1)
    assert torch.isfinite(fit.weight).all()
    assert fit.objective == pytest.approx(np.log(3))


def test_speed_is_compared_at_an_equal_objective():
    features, labels = make_probe_data(300, 12, 5)
    table = compare_probe_speed(features, labels, tolerances=[1e-2, 1e-4], rounds=2)
    assert table["relative_gap"].abs().max() <= 1e-2
    assert table["relative_gap"].max() <= 1e-6, "the solver stops no earlier than where scikit-learn did"
    assert (table["solver_objective"] > 0.1).all()
    steps = table.groupby("tolerance")["solver_steps"].max()
    assert steps[1e-2] < steps[1e-4], "and not much later"
    one = table[table["tolerance"] == 1e-4]
    assert best_speedup(table)[1e-4] == one["scikit_learn_seconds"].min() / one["solver_seconds"].min()


def test_a_target_is_good_enough():
    features, labels = _data()
    problem = SoftmaxProblem(features, labels, label_count=4)
    best = problem.solve(0.01, tolerance=1e-12)
    wanted = best.objective + 0.1
    fit = problem.solve(0.01, tolerance=1e-12, target=wanted)
    assert best.objective < fit.objective <= wanted
    assert fit.evaluations < best.evaluations


def test_the_benchmarks_labels_are_readable_in_part():
    features, labels = make_probe_data(600, 20, 5)
    fit = SoftmaxProblem(torch.from_numpy(features), torch.from_numpy(labels), label_count=5).solve(0.01)
    right = (fit.logits(torch.from_numpy(features)).argmax(1).numpy() == labels).mean()
    assert 0.4 < right < 0.98


@pytest.mark.parametrize(
    ("features", "labels", "count", "message"),
    [
        (torch.zeros(4), torch.zeros(4, dtype=int), 2, "features must be floating-point numbers of shape"),
        (torch.zeros(4, 2, dtype=int), torch.zeros(4, dtype=int), 2, "features must be floating-point"),
        (torch.zeros(4, 2), torch.zeros(3, dtype=int), 2, "labels must be 4 integers"),
        (torch.zeros(4, 2), torch.zeros(4), 2, "labels must be 4 integers"),
        (torch.zeros(4, 2), torch.arange(4), 3, "got 0 to 3 and label_count=3"),
        (torch.zeros(4, 2), torch.zeros(4, dtype=int), 1, "label_count=1"),
    ],
)
def test_bad_data_is_named(features, labels, count, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxProblem(features, labels, label_count=count)


@pytest.mark.parametrize("options", [{"penalty": 0.0}, {"penalty": -1.0}, {"penalty": 1.0, "tolerance": 0.0}])
def test_bad_options_are_named(options):
    problem = SoftmaxProblem(*_data(), label_count=4)
    with pytest.raises(ValueError, match="penalty and tolerance must be positive"):
        problem.solve(**options)
