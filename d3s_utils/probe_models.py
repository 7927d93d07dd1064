"""The models behind probes: each reads labels from features once for every setting it may be given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from d3s_utils.randomness import derive_seed, numpy_generator, torch_generator
from d3s_utils.softmax_solver import solve_path

Setting = Mapping[str, float]
REGULARISATIONS = (0.0003, 0.003, 0.03, 0.3, 3.0)  # scikit-learn's C, smaller is stronger

_HIDDEN_WIDTH = 64
_MLP_BATCH = 2048
_MLP_LEARNING_RATE = 0.01
_EXACT_NUMBERS = 1_000_000  # up to so many features in all, float64 on a CPU costs little


@dataclass(frozen=True)
class ProbeModel:
    """A kind of probe.

    Attributes:
        settings: What it may be tuned to, the simplest model first.
        read: Called with training features (n, width), training labels 0, 1, … (n,), features to be read (m, width),
            and the keywords settings, seed and device; returns the labels read, (m,), for each setting. Features are
            float64 and standardised.
    """

    settings: tuple[Setting, ...]
    read: Callable[..., list[np.ndarray]]


def read_linear(
    features: np.ndarray, labels: np.ndarray, asked: np.ndarray, *, settings: Sequence[Setting], seed: int, device: str
) -> list[np.ndarray]:
    """Read by multinomial logistic regression; the setting is ``regularisation``, scikit-learn's C; `seed` is unused.

    The minimum is unique, so that nothing is random.
    """
    exact = device == "cpu" and features.size <= _EXACT_NUMBERS
    known, asked = (_tensor(each, torch.float64 if exact else torch.float32, device) for each in (features, asked))
    penalties = [1 / (setting["regularisation"] * len(features)) for setting in settings]
    fits = solve_path(known, torch.from_numpy(labels).to(device), penalties, label_count=int(labels.max()) + 1)
    return [fit.logits(asked).argmax(1).cpu().numpy() for fit in fits]


def read_nearest(
    features: np.ndarray, labels: np.ndarray, asked: np.ndarray, *, settings: Sequence[Setting], seed: int, device: str
) -> list[np.ndarray]:
    """Read by the vote of the nearest pictures; the setting is ``neighbours``, how many vote; `seed` is unused.

    Of labels with equally many votes the one whose first voter is nearest wins.
    """
    known, asked = (_tensor(each, torch.float32, device) for each in (features, asked))
    votes = torch.eye(int(labels.max()) + 1, device=device)[torch.from_numpy(labels).to(device)]
    counts = [min(int(setting["neighbours"]), len(known)) for setting in settings]
    found = []
    for part in asked.split(1024):
        nearest = torch.cdist(part, known).topk(max(counts), largest=False).indices
        ballots = votes[nearest]  # (part, neighbours, k)
        closeness = torch.arange(max(counts), 0, -1, device=device)[None, :, None] / (max(counts) + 1)
        earliest = (ballots * closeness).cummax(1).values  # below one vote, so it only settles ties
        tallies = ballots.cumsum(1) + earliest
        found.append(torch.stack([tallies[:, count - 1].argmax(1) for count in counts]))
    return list(torch.cat(found, 1).cpu().numpy())


def read_mlp(
    features: np.ndarray, labels: np.ndarray, asked: np.ndarray, *, settings: Sequence[Setting], seed: int, device: str
) -> list[np.ndarray]:
    """Read by a network of one hidden layer (64 units, ReLU), trained by Adam.

    The settings are ``weight_decay``, the factor of half the squared weights beside the mean cross-entropy, and
    ``steps``. Networks of all weight decays are trained side by side, from one start and on the same batches.
    """
    known, asked = (_tensor(each, torch.float32, device) for each in (features, asked))
    truth = torch.from_numpy(labels).to(device)
    decays = sorted({setting["weight_decay"] for setting in settings})
    steps = {int(setting["steps"]) for setting in settings}
    label_count, generator = int(labels.max()) + 1, torch_generator(seed, "mlp probe")
    parameters = [
        (scale * torch.randn(1, *shape, generator=generator)).to(device).repeat(len(decays), 1, 1).requires_grad_()
        for scale, shape in (
            ((2 / known.shape[1]) ** 0.5, (known.shape[1], _HIDDEN_WIDTH)),
            (0.0, (1, _HIDDEN_WIDTH)),
            (_HIDDEN_WIDTH**-0.5, (_HIDDEN_WIDTH, label_count)),
            (0.0, (1, label_count)),
        )
    ]
    factors = torch.tensor(decays, device=device)
    optimizer = torch.optim.Adam(parameters, lr=_MLP_LEARNING_RATE, fused=True)
    found = {}
    for step in range(1, max(steps) + 1):
        rows = slice(None)
        if len(known) > _MLP_BATCH:
            rows = torch.randint(len(known), (_MLP_BATCH,), generator=generator).to(device)
        scores = _mlp(known[rows], parameters)
        entropy = torch.nn.functional.cross_entropy(scores.flatten(0, 1), truth[rows].repeat(len(decays)))
        squares = sum(torch.square(parameters[i]).sum((1, 2)) for i in (0, 2))
        optimizer.zero_grad(set_to_none=True)
        (len(decays) * entropy + (factors * squares).sum() / 2).backward()  # a sum: networks do not touch each other
        optimizer.step()
        if step in steps:
            with torch.no_grad():
                answers = _mlp(asked, parameters).argmax(2).cpu().numpy()
            found |= {(decay, step): answer for decay, answer in zip(decays, answers, strict=True)}
    return [found[setting["weight_decay"], int(setting["steps"])] for setting in settings]


def read_boosted(
    features: np.ndarray, labels: np.ndarray, asked: np.ndarray, *, settings: Sequence[Setting], seed: int, device: str
) -> list[np.ndarray]:
    """Read by histogram gradient boosting (scikit-learn, on the CPU); the setting is ``rounds``, trees a label."""
    rounds = [int(setting["rounds"]) for setting in settings]
    model = HistGradientBoostingClassifier(
        max_iter=max(rounds),
        learning_rate=0.3,
        max_leaf_nodes=6,
        max_bins=32,
        min_samples_leaf=min(10, max(1, len(features) // 10)),
        early_stopping=False,
        random_state=derive_seed(seed, "boosted probe") % 2**32,
    ).fit(features, labels)
    answers = [answer for answer in model.staged_predict(asked)]
    return [answers[count - 1].astype(np.int64) for count in rounds]


PROBE_MODELS = {
    "linear": ProbeModel(tuple({"regularisation": each} for each in REGULARISATIONS), read_linear),
    "mlp": ProbeModel(
        tuple({"weight_decay": decay, "steps": steps} for steps in (40, 80) for decay in (0.1, 0.01)),
        read_mlp,
    ),
    "nearest": ProbeModel(tuple({"neighbours": count} for count in (40, 20, 10, 5, 1)), read_nearest),
    "boosted": ProbeModel(tuple({"rounds": count} for count in (4, 8, 12)), read_boosted),
}


def read_labels(
    features: np.ndarray,
    labels: np.ndarray,
    asked: np.ndarray,
    settings: Sequence[Setting],
    *,
    kind: str,
    seed: int,
    device: str,
) -> list[np.ndarray]:
    """Return the labels that models trained on the other features read from `asked`, for each setting.

    Args:
        features, labels: Of n training pictures, shape (n, width) and (n,); labels of any kind.
        asked: Shape (m, width).
        settings: Of the models.
        kind: A key of `PROBE_MODELS`.

    Returns:
        Arrays of shape (m,), in the settings' order.
    """
    names, codes = np.unique(labels, return_inverse=True)
    if len(names) < 2:  # a small fold may hold one label only: then that is all one can say
        return [np.repeat(names, len(asked))] * len(settings)
    scaler = StandardScaler().fit(features)
    known, asked = scaler.transform(features), scaler.transform(asked)
    answers = PROBE_MODELS[kind].read(known, codes, asked, settings=settings, seed=seed, device=device)
    return [names[answer] for answer in answers]


def choose_setting(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    candidates: Sequence[Setting],
    *,
    choice_share: float,
    seed: int,
    **options,
) -> Setting:
    """Return the candidate with the best accuracy on groups that its probe did not see, the first of equals.

    Args:
        features, labels, groups: Of n training pictures; `choice_share` of their groups are the judges.
        candidates: The simplest first, which is also taken where no group can be spared.
        options: kind and device, as for `read_labels`.

    Raises:
        ValueError: If `choice_share` is not between 0 and 1.
    """
    if len(candidates) == 1:
        return candidates[0]
    if not 0 < choice_share < 1:
        raise ValueError(f"choice_share must be between 0 and 1, got {choice_share}")
    names = np.unique(groups)
    judges = max(1, round(choice_share * len(names)))
    drawn = numpy_generator(seed, "regularisation").choice(names, judges, replace=False)
    judging = np.isin(groups, drawn)
    if len(np.unique(labels[~judging])) < 2:  # too few groups to spare one: the simplest is the careful choice
        return candidates[0]
    answers = read_labels(features[~judging], labels[~judging], features[judging], candidates, seed=seed, **options)
    scores = [(answer == labels[judging]).mean() for answer in answers]
    return candidates[int(np.argmax(scores))]


def _mlp(features: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return the scores (networks, n, k) of features (n, width)."""
    first, first_bias, second, second_bias = parameters
    hidden = torch.relu(features @ first + first_bias)
    return torch.baddbmm(second_bias, hidden, second)


def _tensor(array: np.ndarray, dtype: torch.dtype, device: str) -> Tensor:
    return torch.from_numpy(array).to(device, dtype)
