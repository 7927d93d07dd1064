"""What the small residual network is trained and measured on: photos, scenes, and objects pasted on scenes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchvision.transforms import v2

from d3s_utils.randomness import derive_seed, numpy_generator
from d3s_utils.small_resnet import SIDE
from d3s_utils.taxonomy import BACKGROUNDS, IN9
from d3s_utils.training_photos import make_scenes, read_photos

NONE = -1  # the label of what an image does not show; the loss leaves it out


@dataclass(frozen=True)
class LabelledPhotos:
    """Photos of objects and of scenes.

    Attributes:
        objects: uint8, shape (n, 64, 64, 3).
        boxes: left, top, right, bottom of the object in each, pixels, inclusive, shape (n, 4).
        superclasses: Place of each object's superclass in `taxonomy.IN9`, shape (n,).
        classes: ImageNet synset of each object, strings (n,).
        scenes: uint8, shape (m, 64, 64, 3).
        scene_classes: ImageNet class name of each scene, strings (m,).
    """

    objects: np.ndarray
    boxes: np.ndarray
    superclasses: np.ndarray
    classes: np.ndarray
    scenes: np.ndarray
    scene_classes: np.ndarray

    @property
    def sha256(self) -> str:
        """Of all pixels and labels."""
        digest = hashlib.sha256()
        for part in (self.objects, self.boxes, self.superclasses, self.scenes):
            digest.update(np.ascontiguousarray(part).tobytes())
        digest.update("\n".join([*self.classes, *self.scene_classes]).encode())
        return digest.hexdigest()

    def every_nth(self, n: int, *, left_out: bool) -> "LabelledPhotos":
        """Return every n-th photo, or with `left_out` all others, so that no photo is on both sides."""
        objects, scenes = ((np.arange(len(p)) % n == 0) != left_out for p in (self.objects, self.scenes))
        return LabelledPhotos(
            *(part[objects] for part in (self.objects, self.boxes, self.superclasses, self.classes)),
            *(part[scenes] for part in (self.scenes, self.scene_classes)),
        )


@dataclass(frozen=True)
class LabelledImages:
    """Images with their labels; `NONE` where an image has no object or no background of the ten.

    Attributes:
        pixels: uint8, shape (n, 64, 64, 3).
        superclasses: Places in `taxonomy.IN9`, shape (n,).
        backgrounds: Places in `taxonomy.BACKGROUNDS`, shape (n,).
    """

    pixels: np.ndarray
    superclasses: np.ndarray
    backgrounds: np.ndarray


@dataclass(frozen=True)
class Batch:
    """What one step learns from.

    Attributes:
        pixels: float32, as `small_resnet.TRANSFORM` gives them, shape (n, 3, 64, 64).
        superclasses, backgrounds, classes: Labels, `NONE` where there is none, shape (n,).
    """

    pixels: torch.Tensor
    superclasses: torch.Tensor
    backgrounds: torch.Tensor
    classes: torch.Tensor


def read_labelled_photos(data: Path, split: str) -> LabelledPhotos:
    """Read the photos of one split of `training_photos.SPLITS` from the two Tiny-ImageNet parquet files in `data`.

    An object without a box counts as filling its photo.
    """
    objects, object_pixels = _of_split(data / "tiny-imagenet-in9.parquet", split)
    scenes, scene_pixels = _of_split(data / "tiny-imagenet-scenes.parquet", split)
    whole = (0, 0, SIDE - 1, SIDE - 1)
    return LabelledPhotos(
        object_pixels,
        np.array([whole if box is None else box for box in objects["bbox_xyxy"]]),
        np.array([IN9.index(name) for name in objects["in9"]]),
        objects["synset"].to_numpy(),
        scene_pixels,
        scenes["class_name"].to_numpy(),
    )


def labelled_scenes(photos: LabelledPhotos, *, per_background: int, seed: int) -> LabelledImages:
    """Return scenes of each background without an object, made by `training_photos.make_scenes`."""
    pixels, names = make_scenes(photos.scenes, photos.scene_classes, per_background=per_background, seed=seed)
    backgrounds = np.array([list(BACKGROUNDS).index(name) for name in names])
    return LabelledImages(pixels, np.full(len(pixels), NONE), backgrounds)


def composites(photos: LabelledPhotos, scenes: LabelledImages, *, seed: int, share: float = 0.7) -> LabelledImages:
    """Return each object once (the inside of its box), pasted at a random place on a random scene.

    Args:
        share: Side of the pasted square over the image's.
    """
    random = numpy_generator(seed, "composites")
    chosen = random.integers(len(scenes.pixels), size=len(photos.objects))
    pixels = scenes.pixels[chosen]
    for image, photo, box in zip(pixels, photos.objects, photos.boxes, strict=True):
        paste_object(image, photo, box, edge=round(SIDE * share), random=random)
    return LabelledImages(pixels, photos.superclasses, scenes.backgrounds[chosen])


def paste_object(
    image: np.ndarray, photo: np.ndarray, box: Sequence[int], *, edge: int, random: np.random.Generator
) -> None:
    """Paste the inside of `box` (inclusive) into `image`, in place, as a square of `edge` pixels somewhere."""
    left, top, right, bottom = box
    inside = Image.fromarray(photo[top : bottom + 1, left : right + 1])
    y, x = (random.integers(0, length - edge + 1) for length in image.shape[:2])
    image[y : y + edge, x : x + edge] = inside.resize((edge, edge), Image.Resampling.BICUBIC)


class Batches:
    """Every batch of a training, each drawn from its step's number alone.

    A part of each batch are whole photos (with a superclass), a part scenes (with a background), and a part objects
    pasted on scenes (with both): so the superclass head does not lean on the ground, and the background head looks
    past an object.
    """

    def __init__(
        self,
        photos: LabelledPhotos,
        scenes: LabelledImages,
        *,
        sizes: tuple[int, int, int],
        seed: int,
        balance: float = 0.5,
    ) -> None:
        """Prepare to draw.

        Args:
            photos: Objects.
            scenes: From `labelled_scenes`.
            sizes: Number of photos, scenes and composites in a batch.
            seed: The only source of randomness.
            balance: 0 draws every photo as often, 1 every superclass.
        """
        self.photos, self.scenes, self.sizes, self.seed = photos, scenes, sizes, seed
        counts = np.bincount(photos.superclasses, minlength=len(IN9)).astype(float)
        self.weights = counts[photos.superclasses] ** -balance
        self.weights /= self.weights.sum()
        self.synsets, self.classes = np.unique(photos.classes, return_inverse=True)

    def at_step(self, step: int) -> Batch:
        """Return the batch of step number `step`."""
        random = numpy_generator(self.seed, "small resnet's batch", step)
        photo_count, scene_count, pasted_count = self.sizes
        shown = random.choice(len(self.weights), size=photo_count + pasted_count, p=self.weights)
        behind = random.integers(len(self.scenes.pixels), size=scene_count + pasted_count)
        scenes = self.scenes.pixels[behind]
        for image, row in zip(scenes[scene_count:], shown[photo_count:], strict=True):
            edge = int(SIDE * random.uniform(0.4, 0.9))
            paste_object(image, self.photos.objects[row], self.photos.boxes[row], edge=edge, random=random)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "small resnet's views", step))
            views = [PHOTO_VIEW(image) for image in _channels_first(self.photos.objects[shown[:photo_count]])]
            views += [SCENE_VIEW(image) for image in _channels_first(scenes)]
        return Batch(
            torch.stack(views),
            *(torch.from_numpy(labels) for labels in self._labels(shown, behind)),
        )

    def _labels(self, shown: np.ndarray, behind: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        photo_count, scene_count, _ = self.sizes
        no_object, no_scene = np.full(scene_count, NONE), np.full(photo_count, NONE)
        superclasses, classes = (
            np.concatenate([labels[shown[:photo_count]], no_object, labels[shown[photo_count:]]])
            for labels in (self.photos.superclasses, self.classes)
        )
        return superclasses, np.concatenate([no_scene, self.scenes.backgrounds[behind]]), classes


def _view(*, smallest: float, jitter: float, hue: float, blurred: float, grey: float) -> v2.Compose:
    """Return a random view of a uint8 tensor image; blur since a small generator draws softer images than a camera."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(SIDE, (smallest, 1), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(jitter, jitter, jitter, hue)], 0.8),
            v2.RandomGrayscale(grey),
            v2.RandomApply([v2.GaussianBlur(7, (0.3, 2.0))], blurred),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            v2.RandomErasing(0.25, (0.05, 0.25)),
        ]
    )


PHOTO_VIEW = _view(smallest=0.35, jitter=0.3, hue=0.05, blurred=0.4, grey=0.1)
SCENE_VIEW = _view(smallest=0.6, jitter=0.2, hue=0.02, blurred=0.5, grey=0)  # colours tell the background


def _channels_first(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _of_split(parquet: Path, split: str) -> tuple[pd.DataFrame, np.ndarray]:
    table, pixels = read_photos(parquet, side=SIDE)
    rows = (table["split"] == split).to_numpy()
    return table[rows], pixels[rows]
