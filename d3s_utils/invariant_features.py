"""Features of the object alone and of the background alone, learned by penalising what they tell about the other."""

import hashlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from d3s_utils.atomic_files import write_bytes
from d3s_utils.checkpoints import save_atomically
from d3s_utils.classifiers import load_classifier, predict
from d3s_utils.dependence import Dependence, make_dependence
from d3s_utils.randomness import derive_seed, torch_generator

HISTORY_COLUMNS = [
    "step",
    "foreground_cross_entropy",
    "background_cross_entropy",
    "foreground_dependence",
    "background_dependence",
]


@dataclass(frozen=True)
class BackboneFeatures:
    """Frozen features of pictures.

    Attributes:
        features: float32, shape (n, width), in the pictures' order; NaN where one cannot be read.
        readable: Which rows are not NaN, shape (n,), bool.
        weights_sha256: Of the backbone.
        from_cache: Whether they were computed before.
    """

    features: np.ndarray
    readable: np.ndarray
    weights_sha256: str
    from_cache: bool


@dataclass(frozen=True)
class PictureSplit:
    """Training and held-out pictures with their frozen features.

    Attributes:
        train, test: The pictures' tables; the column foreground holds the class's synset, background the background.
        train_features, test_features: Shape (n, width) and (m, width).
        left_out: Number of held-out pictures that are in neither, because no training picture has their label.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    train_features: np.ndarray
    test_features: np.ndarray
    left_out: int

    def numbers(self, label: str, pictures: pd.DataFrame) -> np.ndarray:
        """Return the ``foreground`` or ``background`` of `train` or `test` as 0, 1, … in alphabetical order."""
        names = np.unique(self.train[label].to_numpy(str))
        return np.searchsorted(names, pictures[label].to_numpy(str))


@dataclass(frozen=True)
class LearnedFeatures:
    """A trained split of frozen features into foreground features and background features.

    Attributes:
        method: The penalty, such as ``wasserstein``.
        whitening: Fitted on the training pictures; turns frozen features into the projection's input.
        projection: The trained module.
        history: A row for each logged step: step, foreground_cross_entropy, background_cross_entropy (nats, on the
            step's batch), foreground_dependence, background_dependence (the critics' estimates, in standard
            deviations of a feature; zero without a penalty).
    """

    method: str
    whitening: PCA
    projection: "SplitProjection"
    history: pd.DataFrame

    def __call__(self, frozen_features: ArrayLike) -> dict[str, np.ndarray]:
        """Return ``{"foreground": (n, width), "background": (n, width)}`` for frozen features (n, backbone width)."""
        white = torch.from_numpy(self.whitening.transform(np.asarray(frozen_features)).astype(np.float32))
        with torch.no_grad():
            foreground, background = self.projection(white)
        return {"foreground": foreground.numpy(), "background": background.numpy()}


class SplitProjection(torch.nn.Module):
    """A linear projection whose output is split into foreground and background features, with a linear head each.

    Each part has orthonormal columns, so that white inputs give white features. That fixes their scale: a
    Wasserstein distance could otherwise be lowered by shrinking the features, which forgets nothing.
    """

    def __init__(
        self,
        *,
        input_width: int,
        foreground_width: int,
        background_width: int,
        foreground_count: int,
        background_count: int,
        seed: int,
    ) -> None:
        """Make a random projection and heads of zeros.

        Raises:
            ValueError: If a part is wider than the input.
        """
        super().__init__()
        for name, width in (("foreground_width", foreground_width), ("background_width", background_width)):
            if not 1 <= width <= input_width:
                raise ValueError(f"{name} must be between 1 and the input's width ({input_width}), got {width}")
        generator = torch_generator(seed, "projection")
        scale = input_width**-0.5  # nearly unit columns, so that a learning rate means the same for all widths
        self.foreground_weight = torch.nn.Parameter(
            scale * torch.randn(input_width, foreground_width, generator=generator)
        )
        self.background_weight = torch.nn.Parameter(
            scale * torch.randn(input_width, background_width, generator=generator)
        )
        self.foreground_head = _zero_linear(foreground_width, foreground_count)
        self.background_head = _zero_linear(background_width, background_count)

    def forward(self, white: Tensor) -> tuple[Tensor, Tensor]:
        """Return foreground features (n, foreground_width) and background features of white inputs."""
        foreground_basis, background_basis = self.bases()
        return white @ foreground_basis, white @ background_basis

    def cross_entropies(self, white: Tensor, labels: list[Tensor]) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
        """Return both halves, and the cross-entropy (nats) of each one's own label, foreground first."""
        halves = self(white)
        heads = (self.foreground_head, self.background_head)
        return halves, [cross_entropy(head(half), own) for head, half, own in zip(heads, halves, labels, strict=True)]

    def bases(self) -> tuple[Tensor, Tensor]:
        """Return the two parts of the projection: the orthonormal columns nearest in span to the weights."""
        return torch.linalg.qr(self.foreground_weight)[0], torch.linalg.qr(self.background_weight)[0]


def learn_features(
    frozen_features: ArrayLike,
    foreground: ArrayLike,
    background: ArrayLike,
    *,
    method: str,
    seed: int,
    components: int = 128,
    foreground_width: int = 32,
    background_width: int = 32,
    penalty_weight: float = 3.0,
    warmup_steps: int = 200,
    steps: int = 600,
    critic_steps: int = 5,
    critic_width: int | Literal["halving"] | None = 128,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    critic_learning_rate: float = 3e-3,
    gradient_penalty_weight: float = 10.0,
    log_every: int = 10,
    device: str = "cpu",
    checkpoint: Path | None = None,
    checkpoint_every: int = 200,
) -> LearnedFeatures:
    """Learn a split of frozen features whose halves tell their own label and, if penalised, not the other one.

    The loss is CE(foreground) + CE(background) + `penalty_weight` x (dependence of the foreground features on the
    background label + dependence of the background features on the foreground label). After `warmup_steps` of
    cross-entropy alone, `critic_steps` steps of the estimators go before each step of the projection. What is
    returned is the running average of the projection since then: players of a game circle around its solution.

    Args:
        frozen_features: Of n training pictures, shape (n, backbone width).
        foreground, background: Labels 0, 1, … of the pictures, shape (n,), integers.
        method: A key of `dependence.DEPENDENCES`.
        seed: The result depends on nothing else (on one machine).
        components: Principal components that are kept and scaled to unit variance; fewer where there are fewer
            pictures or frozen features.
        foreground_width, background_width: Number of features in each half, at most `components`.
        penalty_weight: One over D3S's alpha, which weighs the cross-entropies instead.
        warmup_steps, steps: Steps without the penalty, and steps in all.
        critic_steps: Steps of the estimators before each step of the projection (D3S: 5 in the paper, 4 in the code).
        critic_width: First hidden width of a critic, or ``halving``: half of its input, and halves down to 1, as in
            D3S's code; None is each method's own (see `dependence.make_dependence`).
        learning_rate, critic_learning_rate: Of the projection's and the critics' Adam.
        gradient_penalty_weight: Of the critics.
        log_every: Steps between rows of the history.
        checkpoint: File that is written on the way, and gone on from where it is of the same data and options: a run
            that was killed ends with the same weights as one that was not, and one that had ended is not repeated. One
            that is of another run, or broken, is replaced.
        checkpoint_every: Steps between two of them.

    Raises:
        ValueError: If shapes differ, a label is missing or alone, a feature is not finite, or an option is out of
            its range.
        FloatingPointError: If the loss stops being finite.

    Source: Kattakinda, Levine, Feizi 2022, arXiv:2211.10370.
    """
    given = locals()
    key_names = [name for name in given if name not in ("frozen_features", "foreground", "background", "checkpoint",
                                                        "checkpoint_every")]  # fmt: skip
    features, labels = _checked(frozen_features, foreground, background)
    least = {"components": 1, "steps": 1, "warmup_steps": 0, "critic_steps": 1, "batch_size": 2, "log_every": 1,
             "checkpoint_every": 1}  # fmt: skip
    for name, limit in least.items():
        if given[name] < limit:
            raise ValueError(f"{name} must be at least {limit}, got {given[name]}")
    key = _run_key({name: given[name] for name in key_names}, features, *labels)
    components = min(components, len(features) - 1, features.shape[1])
    whitening = PCA(components, whiten=True, svd_solver="full").fit(features)
    white = torch.from_numpy(whitening.transform(features).astype(np.float32)).to(device)
    labels = [torch.from_numpy(each).to(device) for each in labels]
    counts = [int(each.max()) + 1 for each in labels]
    widths = [min(foreground_width, components), min(background_width, components)]
    projection = SplitProjection(
        input_width=components,
        foreground_width=widths[0],
        background_width=widths[1],
        foreground_count=counts[0],
        background_count=counts[1],
        seed=seed,
    ).to(device)
    dependences = [
        make_dependence(
            method,
            feature_width=width,
            label_count=other_count,
            seed=derive_seed(seed, "dependence", half),
            critic_width=critic_width,
            learning_rate=critic_learning_rate,
            gradient_penalty_weight=gradient_penalty_weight,
            device=device,
        )
        for half, width, other_count in zip(("foreground", "background"), widths, counts[::-1], strict=True)
    ]
    optimizer = torch.optim.Adam(projection.parameters(), lr=learning_rate, betas=(0.9, 0.99))
    average = AveragedModel(projection, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    generator = torch_generator(seed, "batches")
    history = []
    parts = {"projection": projection, "optimizer": optimizer, "average": average}
    parts |= {f"dependence {number}": dependence for number, dependence in enumerate(dependences)}
    done = 0
    found = _read_checkpoint(checkpoint, key)
    if found is not None:
        done, history = found["step"], found["history"]
        for name, part in parts.items():
            part.load_state_dict(found["parts"][name])
        generator.set_state(found["generator"])

    def draw() -> Tensor:
        return torch.randint(len(white), (batch_size,), generator=generator).to(device)

    bar = tqdm(
        range(done + 1, steps + 1), initial=done, total=steps, desc=f"features, {method}", file=sys.stdout,
        mininterval=2.0,
    )  # fmt: skip
    for step in bar:
        penalised = step > warmup_steps
        estimates = [0.0, 0.0]
        if penalised and any(dependence.parts for dependence in dependences):  # there is something to fit
            estimates = _fit_dependences(dependences, projection, white, labels[::-1], draw, critic_steps)
        rows = draw()
        halves, entropies = projection.cross_entropies(white[rows], [each[rows] for each in labels])
        loss = sum(entropies)
        if penalised:
            for i, (dependence, half, other) in enumerate(zip(dependences, halves, labels[::-1], strict=True)):
                penalty = dependence.penalty(half, other[rows])
                loss = loss + penalty_weight * penalty
                if not dependence.parts:
                    estimates[i] = penalty.item()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"method {method}: the loss at step {step} is {loss.item()}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step >= warmup_steps:
            average.update_parameters(projection)
        if step % log_every == 0 or step == steps:
            history.append([step, *(each.item() for each in entropies), *estimates])
            bar.set_postfix(loss=f"{loss.item():.3f}", dependence=f"{sum(estimates):.3f}", refresh=False)
        if checkpoint is not None and (step % checkpoint_every == 0 or step == steps):
            states = {name: part.state_dict() for name, part in parts.items()}
            state = {"key": key, "step": step, "history": history, "parts": states, "generator": generator.get_state()}
            save_atomically(state, checkpoint)
    learned = average.module if steps >= warmup_steps else projection
    return LearnedFeatures(method, whitening, learned.cpu(), pd.DataFrame(history, columns=HISTORY_COLUMNS))


def split_pictures(pictures: pd.DataFrame, features: np.ndarray) -> PictureSplit:
    """Part validated pictures into those that train and those that are held out.

    Args:
        pictures: Rows with the columns split (``train`` or ``val``), synset, class_name, background, foreground_id.
        features: Their frozen features, shape (n, width).

    Raises:
        ValueError: If a column or one of the splits is missing, or the lengths differ.
    """
    needed = ("split", "synset", "class_name", "background", "foreground_id")
    missing = [name for name in needed if name not in pictures]
    if missing:
        raise ValueError(f"pictures must have the column {missing[0]}, got {', '.join(map(str, pictures.columns))}")
    if len(features) != len(pictures):
        raise ValueError(f"features must have a row for each of {len(pictures)} pictures, got {len(features)}")
    pictures = pictures.assign(foreground=pictures["synset"])
    training = (pictures["split"] == "train").to_numpy()
    known = np.ones(len(pictures), dtype=bool)
    for label in ("foreground", "background"):
        known &= pictures[label].isin(pictures.loc[training, label]).to_numpy()
    held_out = ~training & known
    for split, rows in (("train", training), ("val", held_out)):
        if not rows.any():
            raise ValueError(f"pictures must have validated ones of split {split} with labels that train has, got none")
    return PictureSplit(
        train=pictures[training].reset_index(drop=True),
        test=pictures[held_out].reset_index(drop=True),
        train_features=features[training],
        test_features=features[held_out],
        left_out=int((~training & ~known).sum()),
    )


def cached_backbone_features(
    cache: Path,
    pictures: pd.DataFrame,
    *,
    root: Path,
    backbone: str,
    device: str = "cpu",
    batch_size: int = 32,
) -> BackboneFeatures:
    """Return the pooled features of pictures, computed once: from `cache` if it is of these pictures and weights.

    Args:
        cache: An ``.npz`` file, written if it is missing, broken, or of other pictures or weights.
        pictures: A table with the columns image_id, file (relative to `root`) and sha256 (of the file).
        root: The folder of a run's outputs.
        backbone: See `classifiers.load_classifier`.

    Raises:
        ValueError: If `pictures` is empty or lacks a column, or none of them can be read.
    """
    missing = [column for column in ("image_id", "file", "sha256") if column not in pictures]
    if missing or not len(pictures):
        lacking = ", ".join(missing) or "rows"
        raise ValueError(f"pictures must have rows and the columns image_id, file, sha256; it lacks {lacking}")
    classifier = load_classifier(backbone, device=device)
    key = _cache_key(classifier.sha256, pictures)
    found = _read_cache(cache, key)
    from_cache = found is not None
    if not from_cache:
        files = [root / file for file in pictures["file"]]
        predictions = predict(
            [classifier], files, batch_size=batch_size, skip_unreadable=True, description="backbone features"
        )
        found = predictions[backbone].features
        buffer = io.BytesIO()
        np.savez(buffer, key=key, features=found)
        write_bytes(cache, buffer.getvalue())
    readable = np.isfinite(found).all(1)
    if not readable.any():
        first = pictures["file"].iloc[0]
        raise ValueError(f"pictures must hold a readable one, got {len(pictures)} that are not, such as {first!r}")
    return BackboneFeatures(found, readable, classifier.sha256, from_cache)


def _cache_key(weights_sha256: str, pictures: pd.DataFrame) -> str:
    """Return the hash of the weights, and of each picture's id and content in order."""
    digest = hashlib.sha256(weights_sha256.encode())
    for image_id, sha256 in zip(pictures["image_id"], pictures["sha256"], strict=True):
        digest.update(f"\n{image_id} {sha256}".encode())
    return digest.hexdigest()


def _read_cache(cache: Path, key: str) -> np.ndarray | None:
    """Return the features in `cache`, or None where it is missing, broken, or has another key."""
    try:
        with np.load(cache, allow_pickle=False) as stored:
            return stored["features"] if str(stored["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _run_key(options: dict, features: np.ndarray, *labels: np.ndarray) -> str:
    """Return the hash of what decides a run's outcome."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for array in (features, *labels):
        digest.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _read_checkpoint(checkpoint: Path | None, key: str) -> dict | None:
    """Return the state in `checkpoint`, or None where there is none of this run that can be read."""
    if checkpoint is None or not checkpoint.is_file():
        return None
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        return state if state["key"] == key else None
    except (OSError, RuntimeError, KeyError, EOFError, UnpicklingError):
        return None


def _fit_dependences(
    dependences: list[Dependence],
    projection: SplitProjection,
    white: Tensor,
    others: list[Tensor],
    draw: Callable[[], Tensor],
    critic_steps: int,
) -> list[float]:
    """Train the estimators for `critic_steps` batches on the projection as it stands; return their last estimates."""
    with torch.no_grad():
        halves = projection(white)
    for _ in range(critic_steps):
        rows = draw()
        estimates = [
            dependence.fit_step(half[rows], other[rows])
            for dependence, half, other in zip(dependences, halves, others, strict=True)
        ]
    return estimates


def _checked(features: ArrayLike, *labels: ArrayLike) -> tuple[np.ndarray, list[np.ndarray]]:
    features, labels = np.asarray(features, dtype=np.float64), [np.asarray(each) for each in labels]
    if features.ndim != 2 or len(features) < 3:
        raise ValueError(f"frozen_features must have shape (n, width) with n of at least 3, got {features.shape}")
    if not np.isfinite(features).all():
        broken = (~np.isfinite(features)).any(1).sum()
        raise ValueError(f"frozen_features must be finite, got {broken} rows that are not")
    for name, each in zip(("foreground", "background"), labels, strict=True):
        if each.shape != features.shape[:1] or not np.issubdtype(each.dtype, np.integer):
            raise ValueError(f"{name} must be {len(features)} integers, got {each.dtype} of shape {each.shape}")
        present = np.unique(each)
        if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
            raise ValueError(f"{name} must be labels 0, 1, … without a gap, at least two, got {present.tolist()}")
    return features, [each.astype(np.int64) for each in labels]


def _zero_linear(width: int, count: int) -> torch.nn.Linear:
    linear = torch.nn.utils.skip_init(torch.nn.Linear, width, count)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    return linear
