"""How much features and a label depend on each other, as a number that a model can lower by gradient descent."""

from inspect import signature
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from d3s_utils.kernel_dependence import DistanceCovarianceDependence, HsicDependence
from d3s_utils.randomness import torch_generator
from d3s_utils.resumable import Resumable
from d3s_utils.variational_dependence import AdversarialDependence, ClubDependence, MineDependence
from d3s_utils.wasserstein_dependence import WassersteinDependence


class Dependence(Protocol):
    """What every penalty offers: an estimate that is zero when features and labels are independent."""

    def fit_step(self, features: Tensor, labels: Tensor) -> float:
        """Improve the estimator by one step on features that no gradient reaches; return the present estimate."""

    def penalty(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the estimate as a scalar that is differentiable in `features`."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that a training needs to go on: networks, optimizers, generators."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same method and sizes."""


class NoDependence(Resumable):
    """The penalty of the method ``none``: always zero."""

    def fit_step(self, features: Tensor, labels: Tensor) -> float:
        """Return 0.0: there is nothing to fit."""
        return 0.0

    def penalty(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return a zero scalar."""
        return features.new_zeros(())


DEPENDENCES: dict[str, type[Dependence]] = {
    "none": NoDependence,
    "adversarial": AdversarialDependence,
    "wasserstein": WassersteinDependence,
    "mine": MineDependence,
    "club": ClubDependence,
    "hsic": HsicDependence,
    "distance_covariance": DistanceCovarianceDependence,
}


def make_dependence(
    method: str,
    *,
    feature_width: int,
    label_count: int,
    seed: int,
    critic_width: int | Literal["halving"] | None = None,
    learning_rate: float = 1e-3,
    gradient_penalty_weight: float = 10.0,
    device: str = "cpu",
) -> Dependence:
    """Return the penalty called `method` for features and labels of the given sizes.

    Args:
        feature_width, label_count, seed: As in `ScoringNetwork`.
        critic_width: Of a method that has a network, a number or ``halving``; None is the method's own: ``halving`` for
            ``wasserstein``, as in D3S's code, for the others the width of the features.
        learning_rate: Of a method that has a network.
        gradient_penalty_weight: Of ``wasserstein``.
        device: Where its network is.

    A method is given those options that it has; the others do not concern it: ``hsic``, which has no network, has
    none of them.

    Raises:
        ValueError: If there is no such method, or a size is too small for one that has a network.
    """
    options = {name: value for name, value in locals().items() if name != "method" and value is not None}
    if method not in DEPENDENCES:
        raise ValueError(f"method must be one of {', '.join(DEPENDENCES)}, got {method!r}")
    return DEPENDENCES[method](**{name: options[name] for name in _options_of(DEPENDENCES[method]) & options.keys()})


def measure_dependence(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    seed: int,
    method: str = "wasserstein",
    steps: int = 300,
    batch_size: int = 128,
    critic_width: int | Literal["halving"] = 128,
    learning_rate: float = 3e-3,
) -> float:
    """Return the dependence that a fresh estimator, trained on some pictures, finds on others.

    The critic that trained the features stops where the game stops; a fresh one starts against features that no
    longer move, so different methods are measured alike. What it finds on held-out pictures cannot be chance
    resemblance of its training pictures.

    Args:
        train, test: Features of one scale, shape (n, width), and labels 0, 1, …, shape (n,).
        seed: Of the estimator and its batches.
        method: A key of `DEPENDENCES`; ``hsic`` and ``distance_covariance`` learn nothing from `train`.
        steps, batch_size, critic_width, learning_rate: Of the fresh estimator.

    Returns:
        In the method's unit, about zero for independent labels; the mean over ten shuffles.

    Raises:
        ValueError: If features and labels differ in length, or there is no such method.
    """
    for name, (features, labels) in (("train", train), ("test", test)):
        if len(features) != len(labels):
            raise ValueError(f"{name} must have a label for each of {len(features)} features, got {len(labels)}")
    features, labels = train
    dependence = make_dependence(
        method,
        feature_width=features.shape[1],
        label_count=int(max(labels.max(), test[1].max())) + 1,
        seed=seed,
        critic_width=critic_width,
        learning_rate=learning_rate,
        device=str(features.device),
    )
    generator = torch_generator(seed, "batches of a fresh critic")
    learns = bool(dependence.state_dict())
    for _ in range(steps if learns else 0):
        rows = torch.randint(len(features), (batch_size,), generator=generator).to(features.device)
        dependence.fit_step(features[rows], labels[rows])
    shuffles = 10 if isinstance(dependence, WassersteinDependence) else 1  # the others draw nothing
    with torch.no_grad():
        return float(np.mean([dependence.penalty(*test).item() for _ in range(shuffles)]))


def _options_of(method: type[Dependence]) -> set[str]:
    """Return the names of the options that a penalty and its bases take."""
    return {name for base in method.__mro__ for name in signature(base.__init__).parameters}
