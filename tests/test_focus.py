"""Saliency on pasted foregrounds: masks by hand, a network that looks where it is told, and sheets."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_zoo import make_tiny_zoo

from d3s_utils.classifier_zoo import ZooClassifier
from d3s_utils.focus import measure_focus, pasted_masks, saliency_maps, saliency_sheet
from d3s_utils.preprocessing import Preprocessing
from d3s_utils.taxonomy import IN9


class Bright(torch.nn.Module):
    """Its feature map is the picture's brightness at a quarter of its side; every logit is the map's mean."""

    def forward_features(self, batch):
        return torch.nn.functional.avg_pool2d(batch.mean(1, keepdim=True), 4)

    def forward_head(self, features):
        return features.mean((2, 3)).expand(-1, 1000)

    def forward(self, batch):
        return self.forward_head(self.forward_features(batch))


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    """Two black pictures of 32 pixels with a white square of 16: one where it was pasted, one elsewhere."""
    rows = []
    for name, left, bright in (("on", 0, 0), ("off", 16, 0)):
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[8:24, bright : bright + 16] = 255
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        rows.append({"picture_id": name, "file": f"{name}.png", "imagenet_index": 3, "class_name": name,
                     "foreground_id": name, "background": "snow", "left": left, "top": 8, "width": 16, "height": 16,
                     "canvas": 32})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def model() -> ZooClassifier:
    shaper = Preprocessing(size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear")
    return ZooClassifier("bright", "supervised conv", Bright().eval(), shaper, "0" * 64, "made up")


def test_masks_are_shares_of_pixels():
    table = pd.DataFrame({"left": [1], "top": [0], "width": [2], "height": [4], "canvas": [4]})
    assert pasted_masks(table, 4, 4)[0].tolist() == [[0, 1, 1, 0]] * 4
    assert pasted_masks(table, 2, 2)[0].tolist() == [[0.5, 0.5]] * 2
    assert pasted_masks(table, 8, 6).mean() == pytest.approx(0.5), "area is kept at any size"


def test_a_model_that_sees_the_bright_square_looks_at_it(table, model, tmp_path):
    maps = saliency_maps(model, table, root=tmp_path, batch_size=1)
    assert maps.shape == (2, 32, 32)
    assert maps[0, 10:22, 2:14].min() > 5 * maps[0, :, 22:].max()
    found, _ = measure_focus([model], table.iloc[:1], root=tmp_path)
    on = found.iloc[0]
    assert on["n"] == 1
    assert 3 < on["value"] <= 4, "a square of a quarter of the picture holds nearly all"
    off = measure_focus([model], table.iloc[1:], root=tmp_path)[0].iloc[0]
    assert off["value"] < 0.5


def test_a_model_without_feature_maps_gets_a_reason(table, model, tmp_path):
    found, maps = measure_focus([*make_tiny_zoo(32), model], table, root=tmp_path)
    assert found["reason"].map(bool).tolist() == [True, False]
    assert np.isnan(found["value"][0])
    assert list(maps) == ["bright"]


def test_a_model_of_nine_classes_is_asked_about_the_superclass(table, model, tmp_path):
    class OnlyFish(Bright):
        def forward_head(self, features):
            return features.mean((2, 3)) * torch.nn.functional.one_hot(torch.tensor(IN9.index("fish")), len(IN9))

    of_nine = replace(model, network=OnlyFish().eval(), classes=len(IN9))
    fish = saliency_maps(of_nine, table.assign(in9="fish"), root=tmp_path)
    assert np.array_equal(fish > 0, saliency_maps(model, table, root=tmp_path) > 0)
    assert fish.max() > 0
    assert saliency_maps(of_nine, table.assign(in9="dog"), root=tmp_path).max() == 0
    found, _ = measure_focus([of_nine], table.assign(in9="", class_name="tabby"), root=tmp_path)
    assert found["reason"].tolist() == ["bright tells the nine superclasses, of which tabby has none"]


def test_without_pictures_there_is_nothing(table, model, tmp_path):
    found, maps = measure_focus([model], table.iloc[:0], root=tmp_path)
    assert found.empty
    assert list(found.columns) == ["model", "value", "low", "high", "n", "reason"]
    assert maps == {}


def test_the_sheet_has_a_row_a_model_and_marks_the_box(table, model, tmp_path):
    maps = {"bright": saliency_maps(model, table, root=tmp_path)}
    figure = saliency_sheet(table, maps, root=tmp_path, title="where it looks", side=32)
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["picture", "bright"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["on\nsnow", "off\nsnow"]
    sheet = np.asarray(ax.images[0].get_array())
    second = sheet[:32, 33:65]
    assert (second[8, 17:31] == 255).all(), "the box's upper edge"
    assert (second[12, 18:30] == 0).all(), "what is in the box stays as it was"
    plt.close(figure)
