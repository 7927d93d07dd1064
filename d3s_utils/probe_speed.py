"""How fast a linear probe is trained: the project's solver beside scikit-learn's, taking turns, at an equal objective.

Run as ``python -m d3s_utils.probe_speed --pictures 20000 --width 1280 --labels 200 --device cpu``.
"""

import argparse
import time
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression

from d3s_utils.randomness import numpy_generator
from d3s_utils.softmax_solver import SoftmaxProblem


def make_probe_data(pictures: int, width: int, labels: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised features (pictures, width), float32, and labels that they tell in part.

    As in a backbone's features the principal components' deviations fall like a power of their rank, and the label
    sits in many of them.
    """
    random = numpy_generator(seed, "probe speed")
    label = random.integers(0, labels, pictures)
    places = random.normal(size=(labels, width))
    hidden = 0.3 * places[label] + random.normal(size=(pictures, width))
    mixing = np.linalg.qr(random.normal(size=(width, width)))[0]
    features = (hidden * np.arange(1, width + 1) ** -0.5) @ mixing
    return ((features - features.mean(0)) / features.std(0)).astype(np.float32), label


def softmax_objective(
    features: np.ndarray, labels: np.ndarray, weight: np.ndarray, bias: np.ndarray, penalty: float
) -> float:
    """Return mean cross-entropy (nats) + penalty / 2 x |weight|², in float64.

    Args:
        features, labels: Shape (n, width) and (n,), labels 0, 1, ….
        weight, bias: Shape (k, width) and (k,).
    """
    weight, total = np.asarray(weight, dtype=np.float64), 0.0
    for rows in np.array_split(np.arange(len(features)), max(1, len(features) // 4096)):
        scores = torch.from_numpy(features[rows].astype(np.float64) @ weight.T + bias)
        total += float(torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels[rows]), reduction="sum"))
    return total / len(features) + penalty / 2 * float(np.square(weight).sum())


def compare_probe_speed(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    regularisation: float = 0.03,
    tolerances: Sequence[float] = (1e-4, 1e-5),
    rounds: int = 3,
    device: str = "cpu",
) -> pd.DataFrame:
    """Train one linear probe by scikit-learn's lbfgs (on the CPU) and by `softmax_solver`, taking turns.

    scikit-learn stops where no gradient exceeds its tolerance, which is 1e-4 by default; `softmax_solver` then has to
    reach the objective that it stopped at.

    Args:
        features: Shape (n, width), float32: both solvers get them so.
        labels: Shape (n,), integers 0, 1, …, three or more different ones.
        regularisation: scikit-learn's C.
        tolerances: scikit-learn's.
        rounds: How often each runs at each tolerance.
        device: Of `softmax_solver`; the copy to it and back is timed too.

    Returns:
        One row a round and tolerance: round, tolerance, device, scikit_learn_seconds, solver_seconds, speedup,
        scikit_learn_objective, solver_objective (float64, from the coefficients), relative_gap (how far the solver's
        objective is above scikit-learn's; negative where it is below), scikit_learn_steps, solver_steps.
    """
    penalty = 1 / (regularisation * len(features))
    _solver_run(features[:500], labels[:500], penalty, device, np.inf)  # what is set up once is not timed
    rows = []
    for number, tolerance in product(range(rounds), tolerances):
        start = time.perf_counter()
        model = LogisticRegression(C=regularisation, max_iter=5000, tol=tolerance).fit(features, labels)
        seconds = [time.perf_counter() - start]
        found = [softmax_objective(features, labels, model.coef_, model.intercept_, penalty)]
        start = time.perf_counter()
        weight, bias, steps = _solver_run(features, labels, penalty, device, found[0])
        seconds.append(time.perf_counter() - start)
        found.append(softmax_objective(features, labels, weight, bias, penalty))
        rows.append(
            {
                "round": number,
                "tolerance": tolerance,
                "device": device,
                "scikit_learn_seconds": seconds[0],
                "solver_seconds": seconds[1],
                "speedup": seconds[0] / seconds[1],
                "scikit_learn_objective": found[0],
                "solver_objective": found[1],
                "relative_gap": found[1] / found[0] - 1,
                "scikit_learn_steps": int(model.n_iter_[0]),
                "solver_steps": steps,
            }
        )
    return pd.DataFrame(rows)


def best_speedup(rounds: pd.DataFrame) -> pd.Series:
    """Return scikit-learn's best time over the solver's best time, by scikit-learn's tolerance."""
    best = rounds.groupby("tolerance")[["scikit_learn_seconds", "solver_seconds"]].min()
    return (best["scikit_learn_seconds"] / best["solver_seconds"]).rename("speedup")


def _solver_run(features: np.ndarray, labels: np.ndarray, penalty: float, device: str, target: float) -> tuple:
    known, truth = torch.from_numpy(features).to(device), torch.from_numpy(labels).to(device)
    problem = SoftmaxProblem(known, truth, label_count=int(labels.max()) + 1)
    fit = problem.solve(penalty, tolerance=1e-9, target=target)
    return fit.weight.cpu().numpy(), fit.bias.cpu().numpy(), fit.evaluations  # the copy waits for the device


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, default in {"pictures": 20_000, "width": 1280, "labels": 200, "rounds": 3, "seed": 0}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--regularisation", type=float, default=0.03, help="scikit-learn's C")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    data = make_probe_data(given.pictures, given.width, given.labels, seed=given.seed)
    table = compare_probe_speed(*data, regularisation=given.regularisation, rounds=given.rounds, device=given.device)
    print(table.to_string(index=False))
    for tolerance, speedup in best_speedup(table).items():
        print(f"best of {given.rounds}, tolerance {tolerance:g}: {speedup:.1f} times scikit-learn's speed")
