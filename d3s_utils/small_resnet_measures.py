"""How good the small residual network is: accuracy with intervals, recall, confusion, calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import confusion_matrix

from d3s_utils.background_training import paste_foregrounds
from d3s_utils.classifiers import look
from d3s_utils.intervals import clustered_wilson, wilson
from d3s_utils.small_resnet import SmallResnet
from d3s_utils.small_resnet_photos import LabelledImages, LabelledPhotos, composites, labelled_scenes
from d3s_utils.taxonomy import BACKGROUNDS, IN9

PARTS = {  # what is measured -> what it is measured on
    "superclass/photos": "whole photos",
    "superclass/photos_blurred": "the same, blurred (Gaussian, sigma 1 pixel)",
    "superclass/composites": "objects cut by their boxes, pasted at 0.7 of the side on scenes",
    "background/scenes": "scenes without an object",
    "background/scenes_blurred": "the same, blurred (Gaussian, sigma 1 pixel)",
    "background/scenes_with_object": "the same scenes, an object pasted at 0.4 to 0.65 of the side",
    "background/composites": "objects pasted at 0.7 of the side",
}


def measured_images(photos: LabelledPhotos, *, per_background: int, seed: int) -> dict[str, LabelledImages]:
    """Return the images of each of `PARTS`, by its name."""
    objects = LabelledImages(photos.objects, photos.superclasses, np.full(len(photos.objects), -1))
    scenes = labelled_scenes(photos, per_background=per_background, seed=seed)
    pasted = composites(photos, scenes, seed=seed)
    with_object = paste_foregrounds(scenes.pixels, photos.objects, photos.boxes, seed=seed)
    return {
        "superclass/photos": objects,
        "superclass/photos_blurred": _blurred(objects),
        "superclass/composites": pasted,
        "background/scenes": scenes,
        "background/scenes_blurred": _blurred(scenes),
        "background/scenes_with_object": LabelledImages(with_object, scenes.superclasses, scenes.backgrounds),
        "background/composites": pasted,
    }


def measure_small_resnet(network: SmallResnet, images: Mapping[str, LabelledImages]) -> dict[str, dict]:
    """Return how often the network names the label of each part's images; see `measure_logits`."""
    found = {}
    for part, shown in images.items():
        logits, truth, names = logits_and_labels(network, part, shown)
        found[part] = measure_logits(logits, truth, names=names)
    return found


def logits_and_labels(
    network: SmallResnet, part: str, images: LabelledImages
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return the logits of the head that `part` asks, the true labels (n,) and the names of the labels."""
    answers = look(list(images.pixels), [network.looker], batch_size=128, description=part)[0][0]
    if part.startswith("superclass/"):
        return answers[:, : len(IN9)], images.superclasses, IN9
    return answers[:, len(IN9) : len(IN9) + len(BACKGROUNDS)], images.backgrounds, tuple(BACKGROUNDS)


def measure_logits(logits: np.ndarray, truth: np.ndarray, *, names: Sequence[str]) -> dict:
    """Return what logits are worth.

    Args:
        logits: Shape (n, labels).
        truth: The right label of each row, shape (n,).
        names: Of the labels.

    Returns:
        `labels`: the names; `accuracy` and `balanced_accuracy` (the mean of the labels' recalls), each with its Wilson
        interval; `recall` by name, likewise; `confusion` (rows are the truth); `calibration_error`.
    """
    right = logits.argmax(1) == truth
    counts = np.bincount(truth, minlength=len(names))
    weights = len(truth) / (np.count_nonzero(counts) * counts[truth])
    balanced = clustered_wilson(right, np.arange(len(right)), weights=weights)
    recall = {
        name: asdict(wilson(int(right[truth == place].sum()), int(counts[place])))
        for place, name in enumerate(names)
        if counts[place]
    }
    return {
        "labels": list(names),
        "accuracy": asdict(wilson(int(right.sum()), len(right))),
        "balanced_accuracy": asdict(balanced),
        "recall": recall,
        "confusion": confusion_matrix(truth, logits.argmax(1), labels=range(len(names))).tolist(),
        "calibration_error": calibration_error(softmax(logits, axis=1), truth),
    }


def calibration_error(probabilities: np.ndarray, truth: np.ndarray, *, bins: int = 15) -> float:
    """Return the expected calibration error: how far the first answer's probability is from how often it is right.

    Args:
        probabilities: Shape (n, labels), rows sum to one.
        truth: The right label of each row, shape (n,).
        bins: Of equal width, over the probability of the first answer.

    Returns:
        The mean over images of the distance within their bin, in [0, 1]; with few images chance alone gives above 0.

    Source: Naeini, Cooper, Hauskrecht 2015; Guo et al. 2017, arXiv:1706.04599.
    """
    sure = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    places = np.minimum((sure * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(places, weights=right - sure, minlength=bins)).sum() / len(truth))


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """Return the number by which logits are divided so that the labels are likeliest, in [0.05, 20].

    Args:
        logits: Of images that trained nothing, shape (n, labels).
        truth: The right label of each row, shape (n,).

    Source: Guo et al. 2017, arXiv:1706.04599.
    """

    def surprise(log_temperature: float) -> float:
        return -log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(truth)), truth].mean()

    return float(np.exp(minimize_scalar(surprise, bounds=np.log((0.05, 20.0)), method="bounded").x))


def _blurred(images: LabelledImages, *, sigma: float = 1.0) -> LabelledImages:
    pixels = np.stack([gaussian_filter(image, (sigma, sigma, 0)) for image in images.pixels])
    return LabelledImages(pixels, images.superclasses, images.backgrounds)
