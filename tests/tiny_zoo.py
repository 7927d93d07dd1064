"""Small classifiers and image sets in memory, for tests of what is done with them."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from PIL import Image

from d3s_utils.classifier_zoo import ZooClassifier
from d3s_utils.classifiers import sha256_of_tensors
from d3s_utils.image_sets import ImageSet
from d3s_utils.preprocessing import Preprocessing


class TinyNetwork(torch.nn.Module):
    """Logits from a picture shrunk to 4 x 4; counts the pictures that it was shown."""

    def __init__(self, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(1000, 48, generator=generator))
        self.shown = 0

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.shown += len(batch)
        return torch.nn.functional.adaptive_avg_pool2d(batch, 4).flatten(1) @ self.weight.T


def make_tiny_zoo(*sides: int, first_seed: int = 0, **preprocessing) -> list[ZooClassifier]:
    """Return a classifier for each side that it looks at in pixels: ``tiny-0-32``, ``tiny-1-48`` and so on."""
    found = []
    for number, side in enumerate(sides):
        network = TinyNetwork(first_seed + number).eval()
        shaper = Preprocessing(size=(side, side), **preprocessing)
        name = f"tiny-{number}-{side}"
        found.append(ZooClassifier(name, "supervised conv", network, shaper, sha256_of_tensors(network), "made up"))
    return found


def make_image_set(count: int, *, seed: int = 0, labels: Sequence[int] | None = None, folder=None) -> ImageSet:
    """Return `count` noisy pictures of different sizes, as PNG in memory, or as files in `folder`."""
    random = np.random.default_rng(seed)
    pictures = []
    for number in range(count):
        coarse = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((60 + number, 50), Image.Resampling.BICUBIC).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    if folder is not None:
        paths = [folder / f"{number:03d}.png" for number in range(count)]
        for path, content in zip(paths, pictures, strict=True):
            path.write_bytes(content)
        pictures = paths
    truth = [37 * number % 1000 for number in range(count)] if labels is None else list(labels)
    table = pd.DataFrame({"picture_id": [f"p{n}" for n in range(count)], "imagenet_index": truth, "in9": "dog"})
    return ImageSet("tiny", table, tuple(pictures))
