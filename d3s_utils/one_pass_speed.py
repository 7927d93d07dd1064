"""How much time one pass for many models saves over a pass for each, measured on photos that come with scikit-learn."""

import io
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from d3s_utils.classifier_zoo import ZooClassifier
from d3s_utils.classifiers import sha256_of_tensors
from d3s_utils.image_sets import ImageSet
from d3s_utils.metrics import Estimate
from d3s_utils.one_pass import evaluate
from d3s_utils.preprocessing import Preprocessing
from d3s_utils.randomness import derive_seed, numpy_generator

LIGHT = (  # a few million multiplications each
    "lcnet_035", "lcnet_050", "lcnet_075", "mobilenetv3_small_050", "mobilenetv3_small_075", "mobilenetv3_small_100",
    "mobilenetv4_conv_small_035", "mobilenetv4_conv_small_050",
)  # fmt: skip
LIGHT_SIDE = 96  # pixels that they look at
PHOTO_SIZE = (500, 375)  # of most ImageNet photos


def light_models(names: Sequence[str] = LIGHT, *, seed: int) -> list[ZooClassifier]:
    """Return small timm networks with random weights: right for measuring time, and for nothing else."""
    found = []
    for name in names:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, name))
            network = timm.create_model(name, pretrained=False).eval()
        shaper = Preprocessing(size=(LIGHT_SIDE, LIGHT_SIDE))
        found.append(ZooClassifier(name, "supervised conv", network, shaper, sha256_of_tensors(network), "random"))
    return found


def benchmark_photos(count: int, *, seed: int) -> ImageSet:
    """Return `count` JPEG photos of `PHOTO_SIZE`: cuts of scikit-learn's two sample photos, some mirrored."""
    random, pictures = numpy_generator(seed, "benchmark photos"), []
    samples = load_sample_images().images
    for number in range(count):
        sample, (width, height) = samples[number % len(samples)], PHOTO_SIZE
        top, left = (int(random.integers(0, room + 1)) for room in np.subtract(sample.shape[:2], (height, width)))
        cut = sample[top : top + height, left : left + width]
        buffer = io.BytesIO()
        Image.fromarray(cut[:, :: -1 if random.random() < 0.5 else 1]).save(buffer, "JPEG", quality=92)
        pictures.append(buffer.getvalue())
    table = pd.DataFrame({"picture_id": [f"photo-{n}" for n in range(count)], "imagenet_index": -1, "in9": ""})
    return ImageSet("benchmark photos", table, tuple(pictures))


def compare_passes(
    models: Sequence[ZooClassifier], images: ImageSet, *, device: str = "cpu", batch_size: int = 32, rounds: int = 3
) -> pd.DataFrame:
    """Evaluate all models in one pass, and each in a pass of its own, in turns, and time both.

    Nothing is kept between passes. One pass of each way goes first and is not timed.

    Returns:
        A row for each round and way: `round`, `way` ("one pass", "separate passes"), `seconds`, `decoded` (pictures).
    """
    ways = {"one pass": [list(models)], "separate passes": [[model] for model in models]}
    lines = []
    for number in range(-1, rounds):
        for way in list(ways) if number % 2 else list(ways)[::-1]:
            start = time.perf_counter()
            done = [evaluate(group, images, device=device, batch_size=batch_size) for group in ways[way]]
            seconds = time.perf_counter() - start
            if number >= 0:
                decoded = sum(each.decoded for each in done)
                lines.append({"round": number, "way": way, "seconds": seconds, "decoded": decoded})
    return pd.DataFrame(lines)


def time_ratio(times: pd.DataFrame) -> Estimate:
    """Return the time of one pass over that of separate passes: best of each; the interval spans the rounds' ratios.

    Args:
        times: From `compare_passes`.
    """
    by_way = times.pivot(index="round", columns="way", values="seconds")
    ratios = by_way["one pass"] / by_way["separate passes"]
    best = by_way["one pass"].min() / by_way["separate passes"].min()
    return Estimate(best, min(best, ratios.min()), max(best, ratios.max()), len(by_way))
