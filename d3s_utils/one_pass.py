"""Many classifiers over the same pictures in one pass: each picture is read and decoded once, and never shown twice.

A network of nine logits tells ImageNet-9's superclasses. They are its classes: its top-1 is whether it names the right
one, it has no top-5, and its predictions are numbered from 1000 on (see `taxonomy.label_name`).
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from d3s_utils.batching import is_out_of_memory
from d3s_utils.classifier_zoo import ZooClassifier
from d3s_utils.classifiers import PictureError, one_batch_ahead, read_picture
from d3s_utils.devices import choose_device
from d3s_utils.image_sets import ImageSet
from d3s_utils.prediction_store import ANSWER, TOP, PredictionStore, picture_key
from d3s_utils.processes import exclusive
from d3s_utils.taxonomy import IN9, IN9_OF_INDEX, in9_of_logits

_SUPERCLASS_OF = np.array([*(IN9.index(IN9_OF_INDEX[i]) if i in IN9_OF_INDEX else -1 for i in range(1000)), -1])
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Evaluation:
    """What classifiers said about pictures, and what it cost.

    Attributes:
        scores: A row for each model and picture that can be read, models in the order they came: `model`, the columns
            of the image set's table, `prediction` (see `taxonomy.label_name`), `prediction_2` to `prediction_5`,
            `confidence` (of the prediction), `probability` (of the true class), `rank` (classes before the true one),
            `top1`, `top5`, `in9_prediction` (name) and `in9_right`; right is 1.0, wrong 0.0, and NaN where the set does
            not tell the truth.
        problems: What is missing: `model` (empty: of all), `picture_id` (empty: all pictures), `problem`.
        decoded: How many pictures were decoded.
        forward_passes: How many pictures each model was shown, by name; the rest was known from earlier.
    """

    scores: pd.DataFrame = field(repr=False)
    problems: pd.DataFrame
    decoded: int
    forward_passes: dict[str, int]


def evaluate(
    models: Sequence[ZooClassifier],
    images: ImageSet,
    *,
    store: Path | None = None,
    device: str = "cpu",
    precision: str = "float32",
    compiled: bool = False,
    batch_size: int = 32,
    threads: int | None = None,
    memory_share: float = 0.7,
) -> Evaluation:
    """Show each picture to each model that has not seen it, and return what all say about all.

    Pictures are read, decoded, and resized once for each `Preprocessing.geometry`, in threads, one batch ahead of the
    models. A picture that cannot be read is a problem, and the others go on; so is a model that fails. On a GPU as many
    models as fit share a pass. Progress goes to stdout.

    Args:
        models: From `classifier_zoo.load_zoo`; they come back on the CPU.
        images: From `image_sets.read_image_set`.
        store: Folder where answers are kept by weights, preprocessing, precision and picture, or None. What it knows is
            not asked again, so a run that was killed goes on where it was.
        device: See `devices.choose_device`.
        precision: A key of `PRECISIONS`; other than float32 is autocast.
        compiled: Compile the networks (`torch.compile`) first: pays for many pictures only.
        batch_size: Pictures at a time. On a CPU no answer depends on it beyond the last digits.
        threads: That read and resize; as many as there are cores, but at least 2, where None.
        memory_share: Of a GPU's free memory that weights may take; the rest is for activations.

    Raises:
        ValueError: If models share a name, or an option is none of the above.
        RunningError: If another process is at work in `store`.
        OSError: If the store's disk is full; what was finished is kept.
    """
    names = [model.name for model in models]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"models must be at least one, with different names, got {', '.join(names) or 'none'}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    chosen = choose_device(device)
    with ExitStack() as stack:
        if store is not None:
            stack.enter_context(exclusive(Path(store) / ".lock"))
        books = {model.name: _book_of(model, store, precision, chosen, stack) for model in models}
        found = _Pass(images, books, Counter())
        for wave in waves(models, _budget(chosen, memory_share)):
            show = _Shower(chosen, PRECISIONS[precision], compiled)
            try:
                found.run(wave, show, batch_size=batch_size, threads=threads or max(2, os.cpu_count() or 2))
            finally:
                for model in wave:
                    model.network.to("cpu")
    failed = {name for name, _ in found.failed}
    tables = [
        _scores(images.table, found.answers[model.name], found.known[model.name]).assign(model=model.name)
        for model in models if model.name not in failed
    ]  # fmt: skip
    problems = [(name, "", text) for name, text in found.failed]
    problems += [("", images.table["picture_id"].iloc[place], text) for place, text in sorted(found.unreadable.items())]
    nothing = np.zeros(len(images), bool)
    empty = _scores(images.table, np.zeros(len(images), ANSWER), nothing).assign(model="")
    scores = pd.concat(tables, ignore_index=True) if tables else empty
    table = pd.DataFrame(problems, columns=["model", "picture_id", "problem"]).astype(str)
    return Evaluation(scores, table, found.decoded, {name: found.shown[name] for name in names})


def without_failed(
    models: Sequence[ZooClassifier], unavailable: pd.DataFrame, found: Evaluation
) -> tuple[list[ZooClassifier], pd.DataFrame]:
    """Return the models that answered, and the table of those that are not to be had with the failed ones added.

    Args:
        models, unavailable: From `classifier_zoo.load_zoo`.
        found: Of these models.

    Raises:
        ValueError: If none answered.
    """
    failed = found.problems[found.problems["model"] != ""].set_index("model")["problem"]
    rows = [
        {"name": m.name, "group": m.group, "source": m.source, "error": failed[m.name]}
        for m in models if m.name in failed.index
    ]  # fmt: skip
    left = [model for model in models if model.name not in failed.index]
    if not left:
        raise ValueError(f"none of {len(models)} classifiers could be shown pictures: {failed.iloc[0]}")
    return left, pd.concat([unavailable, pd.DataFrame(rows, columns=unavailable.columns)], ignore_index=True)


def waves(models: Sequence[ZooClassifier], budget: float) -> list[list[ZooClassifier]]:
    """Return the models in groups, in their order, whose weights take at most `budget` bytes, or that are alone."""
    found, used = [], 0.0
    for model in models:
        size = sum(tensor.numel() * tensor.element_size() for tensor in model.network.state_dict().values())
        if not found or used + size > budget:
            found.append([])
            used = 0.0
        found[-1].append(model)
        used += size
    return found


class _MemoryStore(dict):
    """The same as a `PredictionStore`, without a file."""

    def get(self, key: bytes, label: int):
        return super().get((key, label))

    def add(self, answers: np.ndarray) -> None:
        self.update(((bytes(answer["key"]), int(answer["label"])), answer) for answer in answers)


@dataclass
class _Seen:
    """A picture as the threads prepared it: what is missing of it is here, resized for each geometry."""

    place: int
    key: bytes = b""
    missing: frozenset[str] = frozenset()
    pixels: dict[tuple, np.ndarray] = field(default_factory=dict)
    error: str = ""


class _Pass:
    """One way through the pictures for each wave of models, and all that was found."""

    def __init__(self, images: ImageSet, books: dict[str, PredictionStore | _MemoryStore], shown: Counter):
        self.images, self.books, self.shown = images, books, shown
        self.labels = images.table["imagenet_index"].to_numpy(np.int16)
        self.answers = {name: np.zeros(len(images), ANSWER) for name in books}
        self.known = {name: np.zeros(len(images), bool) for name in books}
        self.unreadable: dict[int, str] = {}
        self.failed: list[tuple[str, str]] = []
        self.decoded = 0

    def run(self, wave: Sequence[ZooClassifier], show: "_Shower", *, batch_size: int, threads: int) -> None:
        active = {model.name: model for model in wave}
        batches = one_batch_ahead(
            lambda place: self._prepare(place, wave), len(self.images),
            batch_size=batch_size, threads=threads, description=self.images.name,
        )  # fmt: skip
        for batch in batches:
            self.unreadable.update((seen.place, seen.error) for seen in batch if seen.error)
            self.decoded += sum(bool(seen.pixels) for seen in batch)
            inputs = _Inputs(batch, show.device)
            for name, model in list(active.items()):
                try:
                    self._ask(model, batch, inputs, show)
                except OSError:  # the store's disk is full: nothing more can be kept
                    raise
                except Exception as error:  # a network of somebody else's may raise anything; the others go on
                    words = " ".join(str(error).split())[:300]
                    self.failed.append((name, f"{type(error).__name__}: {words}".rstrip(": ")))
                    del active[name]
            if not active:
                break

    def _prepare(self, place: int, wave: Sequence[ZooClassifier]) -> _Seen:
        picture, label = self.images.pictures[place], int(self.labels[place])
        box = getattr(picture, "box", None)
        try:
            content = picture if isinstance(picture, bytes) else Path(getattr(picture, "path", picture)).read_bytes()
            key = picture_key(content, "" if box is None else str(tuple(box)))
            missing = frozenset(m.name for m in wave if self.books[m.name].get(key, label) is None)
            if not missing:
                return _Seen(place, key)
            image = read_picture(content)
            image = image if box is None else image.crop(box)
        except (OSError, PictureError) as error:
            return _Seen(place, error=str(error))
        shapes = {m.preprocessing.geometry: m.preprocessing for m in wave if m.name in missing}
        return _Seen(place, key, missing, {shape: shaper.pixels(image) for shape, shaper in shapes.items()})

    def _ask(self, model: ZooClassifier, batch: list[_Seen], inputs: "_Inputs", show: "_Shower") -> None:
        book, rows = self.books[model.name], [seen for seen in batch if not seen.error]
        new = [seen for seen in rows if model.name in seen.missing]
        if new:
            logits = show.in_parts(model, inputs.of(model, new))
            book.add(_answers([seen.key for seen in new], self.labels[[seen.place for seen in new]], logits))
            self.shown[model.name] += len(new)
        for seen in rows:
            self.answers[model.name][seen.place] = book.get(seen.key, int(self.labels[seen.place]))
            self.known[model.name][seen.place] = True


class _Inputs:
    """A batch's pictures on the device, once for each geometry, and normalised once for each mean and deviation."""

    def __init__(self, batch: list[_Seen], device: torch.device):
        self._batch, self._device, self._made = batch, device, {}

    def of(self, model: ZooClassifier, wanted: list[_Seen]) -> torch.Tensor:
        """Return the input for `wanted`, float32 (len(wanted), 3, h, w), channels last."""
        shaper = model.preprocessing
        if shaper not in self._made:
            pixels = self._pixels(shaper.geometry)
            self._made[shaper] = shaper.normalised(pixels).contiguous(memory_format=torch.channels_last)
        having = [seen.place for seen in self._batch if shaper.geometry in seen.pixels]
        rows = [having.index(seen.place) for seen in wanted]
        return self._made[shaper] if len(rows) == len(having) else self._made[shaper][rows]

    def _pixels(self, geometry: tuple) -> torch.Tensor:
        if geometry not in self._made:
            stacked = np.stack([seen.pixels[geometry] for seen in self._batch if geometry in seen.pixels])
            pixels = torch.from_numpy(stacked)
            pixels = pixels.pin_memory() if self._device.type == "cuda" else pixels
            self._made[geometry] = pixels.to(self._device, non_blocking=True)
        return self._made[geometry]


class _Shower:
    """Shows a batch to a model and returns its logits; a model moves to the device when it is first needed there."""

    def __init__(self, device: torch.device, dtype: torch.dtype, compiled: bool):
        self.device, self.dtype, self.compiled = device, dtype, compiled
        self._networks: dict[str, Callable] = {}

    def in_parts(self, model: ZooClassifier, batch: torch.Tensor) -> torch.Tensor:
        """Return the logits, float64 on the CPU; where memory does not suffice, by halves."""
        try:
            return self(model, batch)
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(batch) < 2:
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return torch.cat([self.in_parts(model, half) for half in batch.tensor_split(2)])

    @torch.inference_mode()
    def __call__(self, model: ZooClassifier, batch: torch.Tensor) -> torch.Tensor:
        if model.name not in self._networks:
            self._networks[model.name] = _ready(model, self.device, self.compiled)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            logits = self._networks[model.name](batch)
        logits = logits.float().cpu().double()  # Apple's GPUs have no float64
        right_shape = logits.shape in ((len(batch), 1000), (len(batch), len(IN9)))
        if not right_shape or not torch.isfinite(logits).all():
            raise FloatingPointError(f"{model.name} answers {tuple(logits.shape)} logits, or some that are not finite")
        return logits


def _ready(model: ZooClassifier, device: torch.device, compiled: bool) -> Callable:
    network = model.network.to(device, memory_format=torch.channels_last).eval()
    return torch.compile(network) if compiled else network


def _budget(device: torch.device, share: float) -> float:
    return share * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else float("inf")


def _book_of(model: ZooClassifier, store: Path | None, precision: str, device: torch.device, stack: ExitStack):
    if store is None:
        return _MemoryStore()
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in model.name)
    network = hashlib.sha256(repr(model.network).encode()).hexdigest()  # one file of weights may fit two networks
    made_with = {
        "weights": model.sha256, "network": network, "preprocessing": model.preprocessing.sha256,
        "precision": precision, "device": device.type,
    }  # fmt: skip
    book = PredictionStore(Path(store), name, made_with, about={"model": model.name, "source": model.source})
    stack.callback(book.close)
    return book


def _answers(keys: list[bytes], labels: np.ndarray, logits: torch.Tensor) -> np.ndarray:
    """Return an array of dtype `ANSWER` for logits (n, 1000) or (n, 9), float64."""
    answers = np.zeros(len(keys), ANSWER)
    nine = logits.shape[1] == len(IN9)
    own_labels = _SUPERCLASS_OF[labels] if nine else labels  # -1 is nothing, and stays so
    likely, truth = logits.softmax(1), torch.from_numpy(own_labels.astype(np.int64))
    order = np.argsort(-logits.numpy(), axis=1, kind="stable")[:, :TOP]  # of equals the lower index comes first
    known, rows = own_labels >= 0, torch.arange(len(keys))
    own = logits[rows, truth.clamp(min=0)][:, None]
    earlier = torch.arange(logits.shape[1]) < truth[:, None]  # of equals the lower index comes first, here too
    before = ((logits > own) | ((logits == own) & earlier)).sum(1)
    answers["key"] = np.array([np.void(key.ljust(16, b"\0")) for key in keys])
    answers["label"], answers["classes"] = labels, order + 1000 * nine
    answers["probabilities"] = np.take_along_axis(likely.numpy(), order, 1)
    answers["probability"] = np.where(known, likely[rows, truth.clamp(min=0)].numpy(), np.nan)
    answers["rank"] = np.where(known, before.numpy(), -1)
    answers["in9"] = logits.numpy().argmax(1) if nine else in9_of_logits(logits.numpy())
    return answers


def score_logits(table: pd.DataFrame, logits: np.ndarray) -> pd.DataFrame:
    """Return the scores of one model whose logits are known: the columns of `Evaluation.scores` but `model`.

    Args:
        table: Of an `ImageSet`, n rows.
        logits: Finite, shape (n, 1000), or (n, 9) of superclasses.

    Raises:
        ValueError: If the numbers of rows differ.
    """
    if np.shape(logits) not in ((len(table), 1000), (len(table), len(IN9))):
        raise ValueError(f"logits must have shape {(len(table), 1000)}, or 9 columns, got {np.shape(logits)}")
    labels = table["imagenet_index"].to_numpy(np.int16)
    answers = _answers([b""] * len(table), labels, torch.as_tensor(np.asarray(logits), dtype=torch.float64))
    return _scores(table, answers, np.ones(len(table), bool))


def _scores(table: pd.DataFrame, answers: np.ndarray, answered: np.ndarray) -> pd.DataFrame:
    """Return the scores of those rows of a table that were `answered`."""
    table, found = table[answered].reset_index(drop=True), answers[answered]
    rank, nine = found["rank"], found["classes"][:, 0] >= 1000
    truth = table["in9"].fillna("").to_numpy(str)
    said = np.array(IN9)[found["in9"]] if len(found) else np.array([], str)
    in9_right = np.where(truth == "", np.nan, said == truth).astype(float)
    columns = {"prediction": found["classes"][:, 0].astype(int)}
    columns |= {f"prediction_{k + 1}": found["classes"][:, k].astype(int) for k in range(1, TOP)}
    columns |= {
        "confidence": found["probabilities"][:, 0].astype(float),
        "probability": found["probability"].astype(float),
        "rank": rank.astype(int),
        "top1": np.where(nine, in9_right, np.where(rank >= 0, rank < 1, np.nan)).astype(float),
        "top5": np.where(nine | (rank < 0), np.nan, rank < TOP).astype(float),
        "in9_prediction": said,
        "in9_right": in9_right,
    }
    return table.assign(**columns)
