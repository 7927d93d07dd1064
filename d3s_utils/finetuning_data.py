"""Pictures for fine-tuning: labels as numbers, augmentation by timm, batches that depend on the step alone."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from d3s_utils.photos import SUFFIXES, read_photo
from d3s_utils.randomness import derive_seed, numpy_generator, torch_generator
from d3s_utils.taxonomy import imagenet_class

NO_BACKGROUND = -1  # the number of a background that nobody named
Draw = tuple[int, int]  # a picture's row, and the seed of its augmentation


@dataclass(frozen=True)
class LabelledFiles:
    """Pictures in files.

    Attributes:
        files: Their paths, n of them.
        foregrounds: The number of each one's class, int64 (n,).
        backgrounds: The number of each one's background, int64 (n,), `NO_BACKGROUND` where it is not known.
    """

    files: list[Path]
    foregrounds: np.ndarray
    backgrounds: np.ndarray


@dataclass(frozen=True)
class FinetuningData:
    """What fine-tuning learns from and is stopped by.

    Attributes:
        training: The plain photos, then the pictures with a background.
        photo_count: How many plain photos there are.
        held_out: Pictures for early stopping.
        foregrounds, backgrounds: Names of the labels, in the order of their numbers.
    """

    training: LabelledFiles
    photo_count: int
    held_out: LabelledFiles
    foregrounds: list[str]
    backgrounds: list[str]


def finetuning_data(
    photos: pd.DataFrame | None, pictures: pd.DataFrame, held_out: pd.DataFrame, *, root: str | Path
) -> FinetuningData:
    """Number the labels of three tables with the columns file, foreground and background.

    Args:
        photos: Plain photos: ``background`` is missing or NaN. None or no rows: there are none.
        pictures: Pictures of which both labels are known.
        held_out: Either kind; labels that no training picture has are refused.
        root: Folder below which each ``file`` lies, unless it is absolute.

    Raises:
        ValueError: If a table lacks a column, rows or a label, a photo has a background, there are fewer than two
            classes or backgrounds, or a held-out picture has a label that is not trained.
    """
    photos = pictures.iloc[:0] if photos is None else photos
    tables = {"photos": photos, "pictures": pictures, "held_out": held_out}
    for name, table in tables.items():
        needed = ("file", "foreground", "background") if name == "pictures" else ("file", "foreground")
        missing = [column for column in needed if column not in table]
        if missing:
            raise ValueError(f"{name} must have the column {missing[0]}, got {', '.join(map(str, table.columns))}")
        if name != "photos" and table.empty:
            raise ValueError(f"{name} must have rows, got none")
        unlabelled = [column for column in needed if table[column].isna().any()]
        if unlabelled:
            place = int(np.flatnonzero(table[unlabelled[0]].isna())[0])
            raise ValueError(f"{name} must have a {unlabelled[0]} in each row, got none in row {place}")
    if "background" in photos and photos["background"].notna().any():
        raise ValueError("photos must have no background: put a row that has one into pictures")
    foregrounds = sorted({*photos["foreground"].map(str), *pictures["foreground"].map(str)})
    backgrounds = sorted(set(pictures["background"].map(str)))
    for label, names in (("foreground", foregrounds), ("background", backgrounds)):
        if len(names) < 2:
            raise ValueError(f"pictures must have two labels or more in the column {label}, got {names[0]!r} alone")
    training = pd.concat([photos.assign(background=np.nan), pictures]) if len(photos) else pictures
    return FinetuningData(
        training=_numbered(training, foregrounds, backgrounds, root, "pictures"),
        photo_count=len(photos),
        held_out=_numbered(held_out, foregrounds, backgrounds, root, "held_out"),
        foregrounds=foregrounds,
        backgrounds=backgrounds,
    )


def plain_photos(folder: str | Path) -> pd.DataFrame:
    """List the photos of an image folder that has a folder for each class, for `finetuning_data`.

    Args:
        folder: Its folders are named by synset or class name; photos may lie deeper in them.

    Returns:
        A row a photo, sorted: file (absolute) and foreground (synset).

    Raises:
        ValueError: If there is no such folder, a name is no ImageNet class, or there is no photo.
    """
    folder = Path(folder).expanduser().resolve()
    if not folder.is_dir():
        raise ValueError(f"photos must be a folder with a folder for each class, got {folder.name!r}, which is none")
    rows = [
        {"file": str(path), "foreground": imagenet_class(place.name).synset}
        for place in sorted(folder.iterdir())
        if place.is_dir()
        for path in sorted(place.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not rows:
        raise ValueError(f"photos must hold pictures in folders named by class, got none in {folder.name!r}")
    return pd.DataFrame(rows)


class LabelledPictures(Dataset):
    """Transformed pictures with their two labels; what a random transform does hangs on the draw's seed alone."""

    def __init__(self, labelled: LabelledFiles, transform: Callable[[Image.Image], Tensor]) -> None:
        self.labelled = labelled
        self.transform = transform

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int, int]:
        """Return a picture (3, side, side), its class and its background.

        Raises:
            PhotoError: If the file cannot be read; the message names it.
        """
        row, seed = draw
        image = Image.fromarray(read_photo(self.labelled.files[row]).pixels)
        with seeded_choices(seed):
            picture = self.transform(image)
        return picture, int(self.labelled.foregrounds[row]), int(self.labelled.backgrounds[row])


@contextmanager
def seeded_choices(seed: int, *, device: torch.device | None = None) -> Iterator[None]:
    """Seed the global generators that a library draws from (timm: Python's, NumPy's, torch's), then put them back."""
    before, numpy_before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)


@dataclass(frozen=True)
class BatchPlan:
    """Which pictures make each batch of a run: one batch of the model a step, after the critics' batches.

    Every batch has the same mixture of plain photos and of pictures with a background: batch normalisation then sees
    one distribution, and every process has as many of each. Both kinds run through in shuffled epochs.

    Attributes:
        photo_count, picture_count: Training rows of either kind, photos first.
        photos_per_batch, pictures_per_batch: Over all processes.
        warmup_steps: Steps before the critics get theirs.
        critic_steps: Batches for the critics in each later step.
        seed: Of shuffles and augmentations.
    """

    photo_count: int
    picture_count: int
    photos_per_batch: int
    pictures_per_batch: int
    warmup_steps: int
    critic_steps: int
    seed: int

    def draws(self, stream: str, number: int, *, process: int = 0, processes: int = 1) -> list[Draw]:
        """Return one process's part of batch `number` of the stream ``model`` or ``critics``, photos first."""
        draws = []
        kinds = (
            ("photos", self.photo_count, self.photos_per_batch, 0),
            ("pictures", self.picture_count, self.pictures_per_batch, self.photo_count),
        )
        for kind, count, per_batch, offset in kinds:
            own = per_batch // processes
            first = number * per_batch + process * own
            for place in range(first, first + own):
                order = _epoch_order(self.seed, stream, kind, place // count, count)
                draws.append((offset + int(order[place % count]), derive_seed(self.seed, stream, kind, place)))
        return draws

    def batches(self, start: int, steps: int, *, process: int = 0, processes: int = 1) -> Iterator[list[Draw]]:
        """Yield the batches of steps `start` to `steps` - 1, those of the critics before the model's."""
        share = {"process": process, "processes": processes}
        for step in range(start, steps):
            if step >= self.warmup_steps:
                for number in range(self.critic_steps):
                    yield self.draws("critics", (step - self.warmup_steps) * self.critic_steps + number, **share)
            yield self.draws("model", step, **share)


class _Batches:
    """The iterable of draws that torch's DataLoader wants as its `batch_sampler`."""

    def __init__(self, make: Callable[[], Iterator[list[Draw]]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[list[Draw]]:
        return self.make()


def load_batches(
    pictures: Dataset, make: Callable[[], Iterator[Sequence[Draw]]], *, workers: int, seed: int
) -> DataLoader:
    """Return torch's loader of the batches that `make` iterates over; `workers` processes read ahead."""
    return DataLoader(
        pictures, batch_sampler=_Batches(make), num_workers=workers, generator=torch_generator(seed, "workers")
    )


@lru_cache(maxsize=16)
def _epoch_order(seed: int, stream: str, kind: str, epoch: int, count: int) -> np.ndarray:
    return numpy_generator(seed, stream, kind, epoch).permutation(count)


def _numbered(
    table: pd.DataFrame, foregrounds: list[str], backgrounds: list[str], root: str | Path, name: str
) -> LabelledFiles:
    numbers = {}
    for label, names in (("foreground", foregrounds), ("background", backgrounds)):
        values = table[label] if label in table else pd.Series(np.nan, index=table.index)
        known = values.notna().to_numpy()
        numbers[label] = np.full(len(table), NO_BACKGROUND, dtype=np.int64)
        for place in np.flatnonzero(known):
            if (value := str(values.iloc[place])) not in names:
                raise ValueError(f"{name} must have labels that training has, got {label} {value!r} in row {place}")
        places = {value: number for number, value in enumerate(names)}
        numbers[label][known] = [places[str(value)] for value in values[known]]
    return LabelledFiles([Path(root) / file for file in table["file"]], numbers["foreground"], numbers["background"])
