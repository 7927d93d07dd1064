"""Validation: hand-computed verdicts, probabilities that add up, and pictures that cannot be read."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from statsmodels.stats.proportion import proportion_confint

from d3s_utils.background_classifier import BackgroundHead
from d3s_utils.classifiers import Classifier
from d3s_utils.taxonomy import BACKGROUNDS, imagenet_class
from d3s_utils.validation import (
    Thresholds,
    acceptance_by_threshold,
    agreement_metrics,
    agreement_table,
    decide,
    judge,
    read_generated,
)

LENIENT = Thresholds(foreground=0.3, background=0.5, unsafe=0.8)


def judged_table():
    """Five pictures: all well, foreground saved by its probability, wrong background, unsafe, unreadable."""
    return pd.DataFrame(
        {
            "image_id": list("abcde"),
            "foreground_id": ["f", "f", "g", "g", "g"],
            "class_name": "lion",
            "in9": "carnivore",
            "background": ["snow", "cave", "snow", "cave", "cave"],
            "foreground_prediction": ["carnivore", "dog", "carnivore", "carnivore", ""],
            "foreground_probability": [0.9, 0.4, 0.8, 0.7, np.nan],
            "foreground_named": [True, False, True, True, False],
            "background_prediction": ["snow", "cave", "sand", "cave", ""],
            "background_probability": [0.8, 0.6, 0.1, 0.9, np.nan],
            "background_named": [True, True, False, True, False],
            "unsafe_score": [0.0, 0.1, 0.2, 0.8, np.nan],
            "unreadable": ["", "", "", "", "picture 'e.png' cannot be read: torn"],
        }
    )


def test_verdicts_by_hand():
    verdict = decide(judged_table(), LENIENT)
    assert verdict["foreground_agrees"].tolist() == [True, True, True, True, False]
    assert verdict["background_agrees"].tolist() == [True, True, False, True, False]
    assert verdict["safe"].tolist() == [True, True, True, False, False]
    assert verdict["keep"].tolist() == [True, True, False, False, False]
    assert set(verdict["verdict_source"]) == {"models"}


def test_every_rejection_has_a_reason_and_no_other_picture_has():
    verdict = decide(judged_table(), LENIENT)
    assert (verdict["keep"] == (verdict["reason"] == "")).all()
    assert verdict["reason"][2] == "background: looks like sand, snow 0.10 < 0.5"
    assert verdict["reason"][3] == "unsafe: 0.80 >= 0.8"
    assert verdict["reason"][4].startswith("unreadable: picture 'e.png'")


def test_a_stricter_threshold_takes_back_what_probability_saved():
    verdict = decide(judged_table(), dataclasses.replace(LENIENT, foreground=0.5))
    assert verdict["reason"][1] == "foreground: looks like dog, carnivore 0.40 < 0.5"
    assert verdict["keep"].tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_impossible_thresholds_are_named(value):
    with pytest.raises(ValueError, match="unsafe threshold"):
        Thresholds(foreground=0.5, background=0.5, unsafe=value)


def test_agreement_by_cell_is_counted_right():
    table = agreement_table(decide(judged_table(), LENIENT))
    cell = table.query("background == 'cave' and measure == 'foreground_agreement'").iloc[0]
    low, high = proportion_confint(2, 3, method="wilson")
    assert (cell["value"], cell["low"], cell["high"], cell["n"]) == pytest.approx((2 / 3, low, high, 3))
    assert len(table) == 2 * 3


def test_metrics_have_the_issues_names():
    metrics = agreement_metrics(decide(judged_table(), LENIENT))
    assert metrics["foreground_agreement"].value == pytest.approx(4 / 5)
    assert metrics["background_agreement"].value == pytest.approx(3 / 5)
    assert metrics["acceptance"].value == pytest.approx(2 / 5)
    assert metrics["safe"].value == pytest.approx(3 / 5)
    assert metrics["snow/background_agreement"].value == pytest.approx(1 / 2)
    assert list(metrics)[4:7] == ["snow/foreground_agreement", "snow/background_agreement", "snow/acceptance"]


def test_acceptance_falls_with_the_threshold_down_to_what_is_named_first():
    curve = acceptance_by_threshold(
        judged_table().head(4), probability="foreground_probability", named="foreground_named"
    )
    assert (curve["strict"].diff().dropna() <= 0).all()
    assert curve["used"].iloc[0] == 1.0
    assert curve["used"].iloc[-1] == pytest.approx(3 / 4)
    assert curve["strict"].iloc[-1] == 0.0


class BrightnessModel(torch.nn.Module):
    """Stands for a timm model: its only feature is a picture's mean, its logits favour the class `index`."""

    num_features = 1

    def __init__(self, index):
        super().__init__()
        self.index = index

    def forward_features(self, batch):
        return batch.mean((1, 2, 3), keepdim=False)[:, None]

    def forward_head(self, features, pre_logits=False):
        if pre_logits:
            return features
        logits = torch.zeros(len(features), 1000)
        logits[:, self.index] = 5 * features[:, 0]
        return logits


class BrightnessStage(torch.nn.Module):
    """Stands for a backbone of one stage, whose only map is the picture's brightness."""

    def forward(self, batch):
        return [batch.mean(1, keepdim=True)]


class NothingUnsafe:
    """Stands for the safety check."""

    @staticmethod
    def transform(image):
        return torch.zeros(1)

    @staticmethod
    def score(batch):
        return np.full(len(batch), 0.25, np.float32)


def to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255.0


@pytest.fixture
def judges():
    weight = torch.zeros(10, 2)  # upper and lower half
    weight[list(BACKGROUNDS).index("snow")] = 2.0  # bright means snow
    bias = torch.zeros(10)
    bias[list(BACKGROUNDS).index("night")] = 2.0

    class Head(BackgroundHead):
        transform = staticmethod(to_tensor)

    return {
        "foreground_judge": Classifier(
            "brightness", BrightnessModel(imagenet_class("lion").index), to_tensor, "", "cpu"
        ),
        "background_judge": Head(BrightnessStage(), weight, bias, {}),
        "safety_check": NothingUnsafe(),
    }


def claims(files, background="snow", key="lion"):
    label = imagenet_class(key)
    return pd.DataFrame(
        {
            "file": files,
            "in9": label.in9,
            "imagenet_index": label.index,
            "class_name": label.name,
            "background": background,
        }
    )


def test_judges_see_each_picture(judges, tmp_path):
    for name, value in (("bright", 255), ("dark", 0)):
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    judged = judge(claims(["bright.png", "dark.png"]), root=tmp_path, **judges)
    assert judged["background_prediction"].tolist() == ["snow", "night"]
    assert judged["background_named"].tolist() == [True, False]
    assert judged["foreground_prediction"][0] == "carnivore"
    assert judged["foreground_probability"][0] > judged["foreground_probability"][1]
    assert judged["unsafe_score"].tolist() == [0.25, 0.25]


def test_a_class_outside_imagenet9_is_judged_by_itself(judges, tmp_path):
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(tmp_path / "bright.png")
    judges["foreground_judge"].model.index = imagenet_class("banana").index
    judged = judge(claims(["bright.png"], key="banana"), root=tmp_path, **judges)
    assert judged["foreground_named"][0]
    assert judged["foreground_prediction"][0] == "banana"
    assert judged["foreground_probability"][0] == pytest.approx(np.exp(5) / (np.exp(5) + 999))


def test_a_torn_picture_is_rejected_and_the_others_are_judged(judges, tmp_path):
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(tmp_path / "bright.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "bright.png").read_bytes()[:30])
    verdict = decide(judge(claims(["torn.png", "bright.png"]), root=tmp_path, **judges), LENIENT)
    assert verdict["keep"].tolist() == [False, True]
    assert verdict["reason"][0].startswith("unreadable")
    assert "torn.png" in verdict["reason"][0]


def test_nothing_generated_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="run notebook 02_diffusion_generation first"):
        read_generated(tmp_path)
