"""How different pictures of one class look: the mean perceptual distance between two of them."""

import pickle
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import lpips
import numpy as np
import pandas as pd
import safetensors.torch
import torch
from numpy.typing import ArrayLike
from PIL import Image
from safetensors import SafetensorError
from tqdm import tqdm

from d3s_utils.atomic_files import sha256_of
from d3s_utils.classifiers import Picture, read_picture
from d3s_utils.devices import choose_device
from d3s_utils.intervals import clustered_mean
from d3s_utils.metrics import Estimate
from d3s_utils.randomness import numpy_generator

HUB_FILE = "alexnet-owt-7be5be79.pth"  # as torchvision's AlexNet_Weights.IMAGENET1K_V1 is kept by torch.hub
LEAST_SIDE = 64  # pixels; AlexNet's last maps need as many


class LpipsError(ValueError):
    """AlexNet's weights cannot be had or do not fit; the message names the local alternative."""


class Distance(Protocol):
    """How different two pictures are.

    Attributes:
        name: What the numbers are, for a report.
    """

    name: str

    def prepare(self, picture: Any) -> torch.Tensor:
        """Return one picture as a tensor; those of all pictures have one shape."""

    def __call__(self, first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
        """Return the distance of each pair of two batches of n prepared pictures, shape (n,)."""


@dataclass(frozen=True)
class Lpips:
    """LPIPS on AlexNet, ready to use.

    Attributes:
        network: The package's network, version 0.1, in evaluation mode.
        sha256: Of the file with AlexNet's weights.
        side: Pixels that pictures are resized to; LPIPS hangs on it, so compare values of one side only.
        device: Where the network lies.

    Source: Zhang et al. 2018, arXiv:1801.03924.
    """

    network: torch.nn.Module = field(repr=False)
    sha256: str
    side: int
    device: str

    @property
    def name(self) -> str:
        """What the numbers are."""
        return f"LPIPS (AlexNet, {self.side} px)"

    def prepare(self, picture: Picture) -> torch.Tensor:
        """Return a picture in [-1, 1], float32 (3, side, side); what is not square is squeezed."""
        image = read_picture(picture).resize((self.side, self.side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1)

    @torch.inference_mode()
    def __call__(self, first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
        """Return LPIPS of each pair, float32 (n,), from 0 for equal pictures."""
        return self.network(first.to(self.device), second.to(self.device)).reshape(-1).float().cpu().numpy()


@dataclass(frozen=True)
class FeatureDistance:
    """Stands in for LPIPS where AlexNet's weights are absent; its pictures are features that were computed before.

    It knows what is shown rather than how it looks, and its values cannot be compared with LPIPS.
    """

    name: str = "cosine distance of EfficientNet-Lite0 features, standing in for LPIPS"

    def prepare(self, picture: ArrayLike) -> torch.Tensor:
        """Return one picture's features, shape (width,), as float64.

        Raises:
            ValueError: If they are not finite (such as those of an unreadable picture), or all 0.
        """
        features = torch.as_tensor(np.asarray(picture, np.float64))
        if features.ndim != 1 or not features.isfinite().all() or not features.any():
            raise ValueError(f"pictures must be finite features that are not all 0, got one of shape {features.shape}")
        return features

    def __call__(self, first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
        """Return the cosine distance of each pair, float64 (n,), in [0, 2]."""
        return (1 - torch.nn.functional.cosine_similarity(first, second, eps=0)).clamp(min=0).numpy()


def load_lpips(backbone_weights: str | Path | None = None, *, side: int = 256, device: str = "cpu") -> Lpips:
    """Return LPIPS on AlexNet; nothing is downloaded.

    The weights of its last layers ship with the package lpips, those of AlexNet do not.

    Args:
        backbone_weights: File with the state dict of torchvision's ``alexnet`` (torch.save or safetensors); where
            None, torch.hub's cache is looked into.
        side: See `Lpips`; at least 64. Choi et al. 2020 (StarGAN v2) use 256.
        device: See `devices.choose_device`.

    Raises:
        LpipsError: If there is no such file, or it holds something else.
        ValueError: If `side` is too small or the device unknown.
    """
    if side < LEAST_SIDE:
        raise ValueError(f"side must be at least {LEAST_SIDE} pixels, got {side!r}")
    device = str(choose_device(device))
    advice = (
        "give a local file with the state dict of torchvision's alexnet (`torch.save(alexnet(weights='DEFAULT')."
        f"state_dict(), file)` makes one on a machine with a network), or put {HUB_FILE} into torch.hub's cache"
    )
    file = Path(backbone_weights or Path(torch.hub.get_dir()) / "checkpoints" / HUB_FILE).expanduser()
    if not file.is_file():
        wanted = (
            f"there is no file {backbone_weights!s}" if backbone_weights else f"torch.hub's cache has no {HUB_FILE}"
        )
        raise LpipsError(f"backbone_weights: {wanted}; {advice}")
    try:
        if file.suffix == ".safetensors":
            state = safetensors.torch.load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        network = _network(state)
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()
        raise LpipsError(
            f"backbone_weights: {file.name} does not hold AlexNet ({' '.join(reason[:2])}); {advice}"
        ) from error
    return Lpips(network.eval().requires_grad_(False).to(device), sha256_of(file), side, device)


def choose_distance(backbone_weights: str | Path | None = None, *, device: str = "cpu") -> Lpips | FeatureDistance:
    """Return LPIPS where AlexNet's weights are (named, or in torch.hub's cache), else the stand-in that says so.

    Raises:
        LpipsError: If `backbone_weights` are named and cannot be used.
    """
    try:
        return load_lpips(backbone_weights, device=device)
    except LpipsError:
        if backbone_weights is not None:
            raise
        return FeatureDistance()


def diversity_by_class(
    pictures: Sequence,
    labels: ArrayLike,
    *,
    distance: Distance,
    pairs_per_class: int,
    seed: int,
    batch_size: int = 64,
    samples: int = 2000,
    description: str = "comparing pairs",
) -> pd.DataFrame:
    """Return the mean distance between two different pictures of each class; progress goes to stdout.

    Each pair counts once, whichever of its pictures comes first, and no picture is paired with itself. Where a class
    has more than `pairs_per_class` pairs, so many are drawn without repeats.

    The interval is a percentile bootstrap over pictures, as pairs that share a picture are no independent trials:
    each sample draws the pictures of a class with replacement and weights a pair by the product of how often its two
    were drawn. Where the pairs are few beside the pictures, and hardly share any, it is too wide (up to √3 times);
    with all pairs of 30 pictures it is a tenth too narrow, as the bootstrap of a small sample is.

    Args:
        pictures: n of what `distance` prepares: files, arrays or images for `Lpips`, features for `FeatureDistance`.
        labels: Class of each, shape (n,).
        distance: `Lpips`, `FeatureDistance`, or one's own.
        pairs_per_class: At most so many pairs a class. Its prepared pictures are held at once: 0.8 MB each at 256 px.
        seed: Of the pairs and the bootstrap; those of a class hang on nothing but it, the label and the number of
            its pictures.
        batch_size: Pairs at a time.
        samples: Of the bootstrap.

    Returns:
        A row a class, in the order in which they first occur: `class`, `value`, `low`, `high` (95 %) and `n`, the
        number of pairs. A class with one pair has no interval: `low` and `high` are NaN.

    Raises:
        ValueError: If lengths differ, a class has one picture only, or a number is below 1.
        PictureError: If a picture cannot be read.
    """
    labels = pd.Series(np.asarray(labels))
    if len(labels) != len(pictures) or not len(labels):
        raise ValueError(f"labels must be one a picture, and some, got {len(labels)} for {len(pictures)}")
    for name, number in (("pairs_per_class", pairs_per_class), ("batch_size", batch_size), ("samples", samples)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number!r}")
    members = labels.groupby(labels, sort=False).groups
    lonely = [label for label, places in members.items() if len(places) < 2]
    if lonely:
        raise ValueError(f"labels must name each class at least twice, got {lonely[0]!r} once")
    rows = []
    with ThreadPoolExecutor(max_workers=2) as workers:
        for label, places in tqdm(
            members.items(), desc=description, file=sys.stdout, mininterval=1.0, unit="class"
        ):  # fmt: skip
            generator = numpy_generator(seed, "diversity_by_class", str(label))
            first, second = draw_pairs(len(places), pairs_per_class, generator=generator)
            used = np.unique([first, second])
            prepared = torch.stack(list(workers.map(lambda i, of=places: distance.prepare(pictures[of[i]]), used)))
            at = [np.searchsorted(used, side) for side in (first, second)]
            values = np.concatenate(
                [
                    distance(*(prepared[side[start : start + batch_size]] for side in at))
                    for start in range(0, len(first), batch_size)
                ]
            ).astype(np.float64)
            low, high = _interval(values, first, second, len(places), generator=generator, samples=samples)
            rows.append({"class": label, "value": values.mean(), "low": low, "high": high, "n": len(values)})
    return pd.DataFrame(rows)


def overall_diversity(table: pd.DataFrame) -> Estimate:
    """Return the mean over the classes of `diversity_by_class`, with an interval over them; `n` counts classes."""
    return clustered_mean(table["value"])


def draw_pairs(count: int, pairs: int, *, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return different pairs of `count` things as two arrays of places, first < second; all if there are no more.

    Args:
        count: At least 2.
        pairs: How many are wanted, at least 1.
        generator: From `numpy_generator`.
    """
    starts = np.concatenate([[0], np.cumsum(np.arange(count - 1, 0, -1))])  # number of the first pair of each thing
    total = int(starts[-1])
    numbers = np.arange(total) if pairs >= total else np.sort(generator.choice(total, pairs, replace=False))
    first = np.searchsorted(starts, numbers, side="right") - 1
    return first, numbers - starts[first] + first + 1


def _interval(values, first, second, count: int, *, generator, samples: int) -> tuple[float, float]:
    if len(values) == 1:
        return np.nan, np.nan
    draws = []
    for _ in range(samples):
        times = np.bincount(generator.integers(0, count, count), minlength=count)
        weights = times[first] * times[second]
        if weights.any():  # a sample of one picture alone has no pair
            draws.append(weights @ values / weights.sum())
    low, high = np.quantile(draws, [0.025, 0.975]) if draws else (np.nan, np.nan)
    return min(low, values.mean()), max(high, values.mean())


def _network(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Return the package's network with AlexNet's convolutions from a state dict in torchvision's names."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    names = {key: "features." + key.split(".", 1)[1] for key in network.net.state_dict()}  # slice2.3.bias and the like
    network.net.load_state_dict({key: state[name] for key, name in names.items()})
    return network
