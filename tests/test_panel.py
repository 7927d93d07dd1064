"""Models look at pictures: each once, each vote kept, pictures that cannot be read set aside."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from judged_tables import LENIENT, judged_table
from PIL import Image

from d3s_utils.background_classifier import BackgroundHead
from d3s_utils.classifiers import Classifier, Looker
from d3s_utils.panel import Panel, foreground_opinions, judge, load_panel, witness_table
from d3s_utils.small_resnet import TRANSFORM, SmallResnet, TwoHeads
from d3s_utils.taxonomy import BACKGROUNDS, IN9, imagenet_class
from d3s_utils.validation import decide


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
        return np.full((len(batch), 1), 0.25, np.float32)

    looker = Looker(transform, score, 1)


def to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255.0


@pytest.fixture
def panel():
    weight = torch.zeros(10, 2)  # upper and lower half
    weight[list(BACKGROUNDS).index("snow")] = 2.0  # bright means snow
    bias = torch.zeros(10)
    bias[list(BACKGROUNDS).index("night")] = 2.0

    class Head(BackgroundHead):
        transform = staticmethod(to_tensor)

    return Panel(
        (Classifier("brightness", BrightnessModel(imagenet_class("lion").index), to_tensor, "", "cpu"),),
        (Classifier("contrary", BrightnessModel(imagenet_class("goldfish").index), to_tensor, "", "cpu"),),
        {"head": Head(BrightnessStage(), weight, bias, {})},
        {"afraid of the dark": Head(BrightnessStage(), weight, 3 * bias, {})},
        NothingUnsafe(),
        Classifier("features", BrightnessModel(0), to_tensor, "", "cpu"),
    )


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


def test_judges_see_each_picture(panel, tmp_path):
    for name, value in (("bright", 255), ("dark", 0)):
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    judged = judge(claims(["bright.png", "dark.png"]), root=tmp_path, panel=panel).table
    assert judged["background_prediction"].tolist() == ["snow", "night"]
    assert judged["background_named"].tolist() == [True, False]
    assert judged["foreground_prediction"][0] == "carnivore"
    assert judged["foreground_probability"][0] > judged["foreground_probability"][1]
    assert judged["unsafe_score"].tolist() == [0.25, 0.25]
    assert judged["foreground_vote/brightness"].equals(judged["foreground_prediction"].rename(""))
    assert judged["foreground_vote/contrary"][0] == "fish"
    assert judged["background_vote/afraid of the dark"].tolist() == ["night", "night"]
    assert (judged["foreground_score/contrary"] < judged["foreground_score/brightness"]).tolist() == [True, False]


def test_several_judges_decide_by_their_mean_probability(panel, tmp_path):
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(tmp_path / "bright.png")
    both = dataclasses.replace(
        panel, foreground_judges=panel.foreground_judges + panel.foreground_witnesses, foreground_witnesses=(),
        background_judges=panel.background_judges | panel.background_witnesses, background_witnesses={},
    )  # fmt: skip
    judged = judge(claims(["bright.png"]), root=tmp_path, panel=both).table.iloc[0]
    for question, models in (
        ("foreground", ("brightness", "contrary")),
        ("background", ("head", "afraid of the dark")),
    ):
        scores = [judged[f"{question}_score/{model}"] for model in models]
        assert judged[f"{question}_probability"] == pytest.approx(np.mean(scores))


def test_a_panel_holds_each_model_once(panel):
    with pytest.raises(ValueError, match="got brightness twice"):
        dataclasses.replace(panel, foreground_witnesses=panel.foreground_judges)
    with pytest.raises(ValueError, match="must have a foreground judge"):
        dataclasses.replace(panel, foreground_judges=())


def test_witnesses_are_compared_with_the_label_and_with_each_other():
    judged = judged_table().assign(**{
        "foreground_vote/a": ["carnivore", "dog", "carnivore", "carnivore", ""],
        "foreground_vote/b": ["carnivore", "dog", "dog", "bird", ""],
        "background_vote/c": ["snow", "cave", "sand", "cave", ""],
    })  # fmt: skip
    found = witness_table(judged).set_index(["model", "other"])["value"]
    assert found["a", "a"] == pytest.approx(3 / 4)  # the unreadable picture counts for nobody
    assert found["b", "b"] == pytest.approx(1 / 4)
    assert found["a", "b"] == found["b", "a"] == pytest.approx(1 / 2)
    assert found["c", "c"] == pytest.approx(3 / 4)


def test_a_class_outside_imagenet9_is_judged_by_itself(panel, tmp_path):
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(tmp_path / "bright.png")
    panel.foreground_judges[0].model.index = imagenet_class("banana").index
    judged = judge(claims(["bright.png"], key="banana"), root=tmp_path, panel=panel).table
    assert judged["foreground_named"][0]
    assert judged["foreground_prediction"][0] == "banana"
    assert judged["foreground_probability"][0] == pytest.approx(np.exp(5) / (np.exp(5) + 999))


@pytest.fixture
def small():
    torch.manual_seed(0)
    model = TwoHeads(layers=(1, 1, 1, 1), channels=(64, 8, 8, 8)).eval()
    return SmallResnet(model, TRANSFORM, "0" * 64, "cpu", {})


def noise(folder, count=3):
    random = np.random.default_rng(0)
    files = [f"{number}.png" for number in range(count)]
    for file in files:
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / file)
    return files


def test_the_small_network_judges_superclasses_and_backgrounds(panel, small, tmp_path):
    files = noise(tmp_path)
    asked = dataclasses.replace(panel, foreground_judges=(small,), background_judges={"small_resnet": small})
    judged = judge(claims(files), root=tmp_path, panel=asked).table
    batch = torch.stack([small.transform(Image.open(tmp_path / file)) for file in files])
    nine, ten, _ = (torch.from_numpy(part).softmax(1).numpy() for part in small.answers(batch))
    np.testing.assert_allclose(judged["foreground_probability"], nine[:, IN9.index("carnivore")], rtol=1e-5)
    assert judged["foreground_prediction"].tolist() == [IN9[place] for place in nine.argmax(1)]
    np.testing.assert_allclose(judged["background_probability"], ten[:, list(BACKGROUNDS).index("snow")], rtol=1e-5)
    assert set(judged["foreground_judged_by"]) == {"small_resnet"}
    alone = foreground_opinions(claims(files), [tmp_path / file for file in files], [small])
    pd.testing.assert_frame_equal(alone, judged[list(alone)])


def test_on_a_class_that_no_judge_knows_an_auxiliary_judge_decides(panel, small, tmp_path):
    files = noise(tmp_path)
    table = pd.concat([claims(files[:1], key="banana"), claims(files[1:])], ignore_index=True)
    asked = dataclasses.replace(panel, foreground_judges=(small,))
    judged = judge(table, root=tmp_path, panel=asked).table
    assert judged["foreground_judged_by"].tolist() == ["contrary", "small_resnet", "small_resnet"]
    assert judged["foreground_probability"][0] == pytest.approx(judged["foreground_score/contrary"][0])
    assert judged["foreground_vote/small_resnet"][0] == ""
    assert np.isnan(judged["foreground_score/small_resnet"][0])
    shares = witness_table(judged.assign(foreground_id=files)).set_index(["model", "other"])["n"]
    assert shares["small_resnet", "small_resnet"] == 2, "what it abstains on counts for nobody"
    nobody = judge(table, root=tmp_path, panel=dataclasses.replace(asked, foreground_witnesses=())).table
    assert nobody["foreground_judged_by"][0] == ""
    assert not nobody["foreground_named"][0]
    verdict = decide(nobody, LENIENT)
    assert not verdict["keep"][0]
    assert "no judge knows banana" in verdict["reason"][0]


def test_a_torn_picture_is_rejected_and_the_others_are_judged(panel, tmp_path):
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(tmp_path / "bright.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "bright.png").read_bytes()[:30])
    verdict = decide(judge(claims(["torn.png", "bright.png"]), root=tmp_path, panel=panel).table, LENIENT)
    assert verdict["keep"].tolist() == [False, True]
    assert verdict["reason"][0].startswith("unreadable")
    assert "torn.png" in verdict["reason"][0]


def test_two_heads_of_one_name_are_refused_before_anything_is_loaded():
    with pytest.raises(ValueError, match="must have different names, got mine, mine"):
        load_panel(foreground_judges=["tf_efficientnet_lite0"], background_judges=["a/mine", "b/mine"])
