"""How many bits labels cost somebody who has the features: minimum description length by an online code."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy.special import log_softmax, logsumexp
from sklearn.preprocessing import StandardScaler

from d3s_utils.randomness import numpy_generator
from d3s_utils.softmax_solver import solve_path

BLOCK_ENDS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # shares of the groups that are known after each block
REGULARISATIONS = (0.0003, 0.003, 0.03, 0.3, 3.0)  # scikit-learn's C of the predictors that are mixed


@dataclass(frozen=True)
class Codelength:
    """The length of a message from which somebody with the features can restore the labels.

    Attributes:
        bits: Of all labels.
        count: Number of labels.
        label_count: Number of different labels, k.
        blocks: A row for each block: first (how many labels were known before), count, bits.
    """

    bits: float
    count: int
    label_count: int
    blocks: pd.DataFrame

    @property
    def uniform_bits(self) -> float:
        """What all labels cost without any prediction, n x log2(k)."""
        return self.count * float(np.log2(self.label_count))

    @property
    def bits_per_label(self) -> float:
        """Mean cost of a label, in bits."""
        return self.bits / self.count

    @property
    def compression(self) -> float:
        """How many times shorter than the uniform code the message is; near 1 the features tell nothing."""
        return self.uniform_bits / self.bits


def online_codelength(
    features: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    seed: int,
    block_ends: Sequence[float] = BLOCK_ENDS,
    regularisations: Sequence[float] = REGULARISATIONS,
) -> Codelength:
    """Return the online (prequential) codelength of labels given features.

    Groups of pictures come in a random order, in blocks of growing size. The first block is sent by the uniform
    code. Each later one is coded with the predictions of softmax regressions that were trained on all blocks before
    it: their Bayesian mixture over `regularisations`, each weighted by how well it predicted so far, so that nothing
    is chosen by looking ahead. A predictor that knows n labels keeps 1/(n + 1) of its probability for all labels
    alike, so that one never seen before has a finite price.

    Unlike accuracy, it also measures how *hard* a label is to find: by how many pictures, and how surely.

    Args:
        features: Shape (n, width).
        labels: Shape (n,), of any kind; which label has which name changes nothing.
        groups: Shape (n,), such as the foreground's id: pictures of one group come in one block.
        seed: Of the order of the groups.
        block_ends: Shares of the groups that are known after each block, growing up to 1; blocks too small to hold
            a group are joined with the next.
        regularisations: scikit-learn's C of each predictor.

    Raises:
        ValueError: If shapes differ, a feature is not finite, fewer than two labels are there, `block_ends` do not
            grow from above 0 to 1, or a regularisation is not positive.

    Source: Voita & Titov 2020, arXiv:2003.12298; Blier & Ollivier 2018, arXiv:1802.07044 (online codes of networks).
    """
    features, codes, groups = _checked(features, labels, groups)
    if len(regularisations) == 0 or min(regularisations) <= 0:
        raise ValueError(f"regularisations must be positive numbers, at least one, got {list(regularisations)}")
    block = _blocks(groups, block_ends, seed=seed)
    label_count = int(codes.max()) + 1
    scores = np.zeros(len(regularisations))  # what each predictor has saved or cost so far, in nats
    rows = []
    for number in range(block.max() + 1):
        known, coded = block < number, block == number
        if number == 0:
            nats = -coded.sum() * np.log(label_count)
        else:
            data = (features[known], codes[known], features[coded], codes[coded])
            found = _log_likelihoods(*data, regularisations, label_count)
            nats = logsumexp(scores + found) - logsumexp(scores)
            scores = scores + found
        rows.append({"first": int(known.sum()), "count": int(coded.sum()), "bits": float(-nats / np.log(2))})
    blocks = pd.DataFrame(rows)
    return Codelength(float(blocks["bits"].sum()), len(codes), label_count, blocks)


def _blocks(groups: np.ndarray, ends: Sequence[float], *, seed: int) -> np.ndarray:
    """Return the number of each picture's block, shape (n,)."""
    if not len(ends) or ends[-1] != 1 or not (np.diff([0.0, *ends]) > 0).all():
        raise ValueError(f"block_ends must grow from above 0 up to 1, got {tuple(ends)}")
    names, codes = np.unique(groups, return_inverse=True)
    place = numpy_generator(seed, "codelength").permutation(len(names))  # of each group in the order of sending
    last = np.unique(np.maximum(1, np.round(np.asarray(ends) * len(names)).astype(int)))
    return np.searchsorted(last, place[codes], side="right")


def _log_likelihoods(
    features: np.ndarray,
    codes: np.ndarray,
    asked: np.ndarray,
    truth: np.ndarray,
    regularisations: Sequence[float],
    label_count: int,
) -> np.ndarray:
    """Return the log probability (nats) that each predictor gives to all of `truth` at once, shape (predictors,).

    Labels that training has not seen have only their share of the smoothing.
    """
    names, known = np.unique(codes, return_inverse=True)
    share = 1 / (len(codes) + 1)
    seen = np.isin(truth, names)
    place = np.searchsorted(names, truth).clip(max=len(names) - 1)
    if len(names) == 1:
        predictions = [np.where(seen, 0.0, -np.inf)] * len(regularisations)
    else:
        scaler = StandardScaler().fit(features)
        features, asked = torch.from_numpy(scaler.transform(features)), torch.from_numpy(scaler.transform(asked))
        penalties = [1 / (strength * len(features)) for strength in regularisations]
        fits = solve_path(features, torch.from_numpy(known), penalties, label_count=len(names), tolerance=1e-5)
        predictions = [
            np.where(seen, log_softmax(fit.logits(asked).numpy(), 1)[np.arange(len(truth)), place], -np.inf)
            for fit in fits
        ]
    return np.array([np.logaddexp(np.log1p(-share) + each, np.log(share / label_count)).sum() for each in predictions])


def _checked(features: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    features, labels, groups = np.asarray(features, dtype=np.float64), np.asarray(labels), np.asarray(groups)
    if features.ndim != 2 or not features.size:
        raise ValueError(f"features must have shape (n, width) and not be empty, got {features.shape}")
    if labels.shape != features.shape[:1] or groups.shape != features.shape[:1]:
        raise ValueError(
            f"labels and groups must have one value for each of {len(features)} rows, got {labels.shape} and "
            f"{groups.shape}"
        )
    if not np.isfinite(features).all():
        raise ValueError(f"features must be finite, got {(~np.isfinite(features)).any(1).sum()} rows that are not")
    names, codes = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"labels must hold at least 2 different ones, got {names.tolist()}")
    return features, codes, groups
