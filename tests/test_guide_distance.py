"""Distances to the guide are told apart inside and outside the pasted box."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from d3s_utils.guide_distance import guide_distances
from d3s_utils.photos import PhotoError


@pytest.fixture
def table(tmp_path):
    guide = np.full((8, 8, 3), 100, np.uint8)
    picture = guide.copy()
    picture[2:4, 1:5] += 40  # the box: 8 of 64 pixels
    picture[0, 0] = 44  # one pixel of the scene
    Image.fromarray(guide).save(tmp_path / "guide.png")
    Image.fromarray(picture).save(tmp_path / "picture.png")
    row = {
        "image_id": "a", "class_name": "lion", "background": "snow", "foreground_id": "f", "guide_file": "guide.png",
        "file": "picture.png", "left": 1, "top": 2, "width": 4, "height": 2,
    }  # fmt: skip
    return pd.DataFrame([row, {**row, "image_id": "b", "left": 0, "top": 0, "width": 8, "height": 8}])


def test_distances_are_mean_absolute_differences(table, tmp_path):
    measured = guide_distances(table, root=tmp_path)
    assert list(measured["image_id"]) == ["a", "b"]
    whole = (8 * 40 + 56) / 64
    np.testing.assert_allclose(measured["whole"], whole)
    np.testing.assert_allclose(measured["object"], [40, whole])
    np.testing.assert_allclose(measured["scene"], [1, np.nan])


def test_a_missing_picture_is_named(table, tmp_path):
    with pytest.raises(PhotoError, match=r"none\.png"):
        guide_distances(table.assign(file="none.png"), root=tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "picture.png")
    with pytest.raises(ValueError, match="has shape"):
        guide_distances(table, root=tmp_path)
