"""What happens to a picture before a classifier sees it, as data that can be compared, hashed and shared by models."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import transforms_factory

CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


@dataclass(frozen=True)
class Preprocessing:
    """How an RGB picture becomes a classifier's input: resized, cropped (both on uint8, antialiased), normalised.

    Models whose `geometry` is the same can share the resized picture; each normalises it by itself.

    Attributes:
        size: Height and width of the input in pixels.
        crop_fraction: Share of the resized picture's side that the crop keeps, in (0, 1].
        crop_mode: ``center`` resizes the shorter side and cuts the middle out, ``squash`` resizes both sides,
            ``border`` shrinks the longer side in and pads.
        interpolation: One of `INTERPOLATIONS`, as Pillow does it.
        mean, std: Of each channel, on pixels in [0, 1].

    Raises:
        ValueError: If a value is none of the above.
    """

    size: tuple[int, int] = (224, 224)
    crop_fraction: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self):
        for name, kind, count in (("size", int, 2), ("mean", float, 3), ("std", float, 3)):
            values = tuple(kind(value) for value in getattr(self, name))
            if len(values) != count or (name != "mean" and min(values) <= 0):
                raise ValueError(f"{name} must be {count} positive numbers, got {getattr(self, name)!r}")
            object.__setattr__(self, name, values)
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction must be in (0, 1], got {self.crop_fraction}")
        for name, allowed in (("crop_mode", CROP_MODES), ("interpolation", INTERPOLATIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")

    @classmethod
    def of_timm(cls, config: Mapping[str, Any]) -> "Preprocessing":
        """Return what timm's `resolve_model_data_config` of a model asks for."""
        _, height, width = config["input_size"]
        return cls(
            size=(height, width), crop_fraction=config["crop_pct"], crop_mode=config["crop_mode"],
            interpolation=config["interpolation"], mean=tuple(config["mean"]), std=tuple(config["std"]),
        )  # fmt: skip

    @classmethod
    def resized_and_cropped(cls, resize: int, crop: int, *, interpolation="bilinear", **others) -> "Preprocessing":
        """Return torchvision's: the shorter side resized to `resize` pixels, the middle `crop` pixels cut out.

        Raises:
            ValueError: If the crop is larger than the resized picture.
        """
        if not 0 < crop <= resize:
            raise ValueError(f"crop must be in (0, resize={resize}], got {crop}")
        fraction = crop / resize
        while math.floor(crop / fraction) < resize:  # timm floors crop / fraction, which may have lost its last bit
            fraction = math.nextafter(fraction, 0)
        return cls(size=(crop, crop), crop_fraction=fraction, interpolation=interpolation, **others)

    @property
    def geometry(self) -> tuple:
        """What two models must agree on to share a resized picture."""
        shape = (self.size, self.crop_fraction, self.crop_mode, self.interpolation)
        return (*shape, self.mean) if self.crop_mode == "border" else shape  # which is padded with the mean

    @property
    def sha256(self) -> str:
        """The hash of all of it, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return an RGB picture resized and cropped, uint8 (3, height, width), by timm's own evaluation transform."""
        return np.asarray(self._transform(image))  # timm gives an array or a tensor, as its version has it

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return uint8 pixels (n, 3, height, width) as the model's input, float32, on the same device."""
        mean, std = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) * 255 for v in (self.mean, self.std))
        return (pixels.float() - mean) / std

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return an RGB picture as the model's input, float32 (3, height, width)."""
        return self.normalised(torch.from_numpy(self.pixels(image))[None])[0]

    @cached_property
    def _transform(self):
        return transforms_factory.transforms_imagenet_eval(
            img_size=self.size, crop_pct=self.crop_fraction, crop_mode=self.crop_mode,
            interpolation=self.interpolation, mean=self.mean, use_prefetcher=True,
        )  # fmt: skip
