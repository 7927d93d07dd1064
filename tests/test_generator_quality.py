"""Judging a generator: the judges' answers, and curves over a setting."""

import numpy as np
import pandas as pd
import pytest
import skimage
import sklearn
import torch
from PIL import Image

from d3s_utils.background_classifier import load_background_head
from d3s_utils.classifiers import load_classifier, predict
from d3s_utils.dreaming import DreamOptions, dream_from_guides
from d3s_utils.generator_quality import (
    candidates_curve,
    dreaming_cost,
    family_gap,
    judge_pictures,
    load_judges,
    named_superclasses,
    picture_features,
    recommended_text_settings,
    recommended_value,
    setting_curve,
    text_settings,
)
from d3s_utils.randomness import numpy_generator
from d3s_utils.small_resnet import load_small_resnet
from d3s_utils.taxonomy import BACKGROUNDS, IN9, classes_of, in9_of_logits


@pytest.fixture(scope="module")
def judges():
    return load_judges()


def photos():
    cat = Image.open(f"{skimage.__path__[0]}/data/chelsea.png").convert("RGB")
    china = Image.open(f"{sklearn.__path__[0]}/datasets/images/china.jpg").convert("RGB")
    return [np.asarray(image.resize((96, 96), Image.BICUBIC)) for image in (cat, china, cat.rotate(5))]


def test_the_judges_say_what_each_would_say_alone(judges):
    pictures = photos()
    verdicts = judge_pictures(judges, pictures, batch_size=2)
    alone = predict([load_classifier("tf_efficientnet_lite2")], pictures)["tf_efficientnet_lite2"].logits
    assert list(verdicts.sister_in9) == [IN9[i] for i in in9_of_logits(alone)]
    assert verdicts.sister_in9[0] == "carnivore"
    small = load_small_resnet()
    nine, ten, _ = small.answers(torch.stack([small.transform(Image.fromarray(picture)) for picture in pictures]))
    assert list(verdicts.in9) == [IN9[place] for place in nine.argmax(1)]
    assert list(named_superclasses(judges, pictures)) == list(verdicts.in9)
    assert list(verdicts.background) == [list(BACKGROUNDS)[place] for place in ten.argmax(1)]
    assert list(verdicts.sister_background) == list(load_background_head().predict(pictures))
    assert verdicts.features.shape == (3, 1280)
    apart = np.linalg.norm(verdicts.features - verdicts.features[0], axis=1)
    assert apart[2] < apart[1], "a cat turned a little is nearer to the cat than a pavilion is"
    np.testing.assert_allclose(
        picture_features(judges, pictures, batch_size=2), verdicts.features, rtol=1e-4, atol=1e-4
    )
    assert set(judges.sha256) == {
        "small_resnet", "tf_efficientnet_lite0", "tf_efficientnet_lite2", "background_head",
    }  # fmt: skip


def test_no_picture_gives_no_verdict(judges):
    verdicts = judge_pictures(judges, [])
    assert verdicts.features.shape == (0, 1280)
    assert len(verdicts.in9) == len(verdicts.background) == len(verdicts.sister_background) == 0


def test_a_curve_dreams_the_same_guides_at_each_value(judges, pipeline):
    random = numpy_generator(0, "guides")
    guides = random.integers(0, 255, (6, 64, 64, 3)).astype(np.uint8)
    table = pd.DataFrame({
        "prompt": "a photo of a lion, in snow", "seed": range(6), "in9": "carnivore", "background": "snow",
        "foreground_id": ["a", "a", "b", "b", "c", "c"],
    })  # fmt: skip
    options = DreamOptions(strength=0.5, steps=4, guidance_scale=2.0)
    features = judge_pictures(judges, photos()).features
    common = {"options": options, "judges": judges, "photo_features": features}
    curve = setting_curve(pipeline, guides, table, setting="strength", values=[0.25, 1.0], **common)
    assert sorted(set(curve["at"])) == [0.25, 1.0]
    expected = dream_from_guides(
        pipeline, guides, list(table["prompt"]), list(table["seed"]), strength=1.0, steps=4, guidance_scale=2.0
    )
    assert len(curve) == 12
    distance = curve[curve["measure"] == "guide_distance"].set_index("at")["value"]
    assert distance[1.0] == pytest.approx(np.abs(expected.astype(int) - guides).mean())
    assert distance[0.25] < distance[1.0]
    assert (curve["low"] <= curve["value"] + 1e-9).all()
    said = judge_pictures(judges, list(expected))
    right = {
        "foreground_agreement": said.in9 == "carnivore", "auxiliary_agreement": said.sister_in9 == "carnivore",
        "background_agreement": said.background == "snow",
        "auxiliary_background_agreement": said.sister_background == "snow",
    }  # fmt: skip
    at_one = curve[curve["at"] == 1.0].set_index("measure")["value"]
    for measure, named in right.items():
        assert at_one[measure] == named.mean()
    with pytest.raises(ValueError, match="setting must be strength or guidance_scale, got 'eta'"):
        setting_curve(pipeline, guides, table, setting="eta", values=[0.5], **common)


def test_the_cost_of_a_dream_is_given_in_forward_passes(judges, pipeline):
    options = DreamOptions(strength=1.0, steps=2, guidance_scale=2.0)
    cost = dreaming_cost(pipeline, judges.features, options=options, pictures=2, rounds=2)
    assert list(cost["round"]) == [0, 1]
    assert (cost[["dreamt_per_second", "classified_per_second"]] > 0).all(axis=None)
    np.testing.assert_allclose(cost["passes"], cost["classified_per_second"] / cost["dreamt_per_second"])


def test_the_greatest_strength_that_keeps_both_labels_is_recommended():
    found = {"foreground_agreement": [0.9, 0.8, 0.5], "background_agreement": [0.8, 0.7, 0.9]}
    curve = pd.DataFrame(
        [{"at": at, "measure": name, "value": values[i]} for name, values in found.items()
         for i, at in enumerate((0.3, 0.5, 0.7))]
    )  # fmt: skip
    reachable = {"foreground_agreement": 0.7, "background_agreement": 0.7}
    assert recommended_value(curve.sample(frac=1, random_state=0), reachable) == 0.5
    assert recommended_value(curve, {"foreground_agreement": 0.95, "background_agreement": 0.8}) == 0.3, "the nearest"
    assert recommended_value(curve, {"background_agreement": 0.85}) == 0.7
    assert recommended_value(curve, reachable, least=True) == 0.3
    with pytest.raises(ValueError, match=r"wanted must name measures of the curve .* got \['beauty'\]"):
        recommended_value(curve, {"beauty": 1.0})
    with pytest.raises(ValueError, match=r"wanted must name measures .* got none"):
        recommended_value(curve, {})
    with pytest.raises(ValueError, match="curve must have at least one value"):
        recommended_value(curve[:0], reachable)


def test_the_family_gap_by_hand_and_under_equal_eyes():
    photos = {"stranger": [1, 0, 1, 0], "sister": [1, 1, 1, 0]}  # 50 %; 100 % of a, 50 % of b
    generated = {"stranger": [1, 0, 0, 0], "sister": [1, 1, 1, 1]}  # 50 % of a, 0 of b; all
    found = family_gap(generated, photos, list("aabb"), list("aabb"))
    assert found.value == pytest.approx(np.mean([(1 - 1) - (0.5 - 0.5), (1 - 0.5) - (0 - 0.5)]))
    assert found.n == 2
    random = np.random.default_rng(0)
    classes = np.repeat(np.arange(40), 20)
    gaps = []
    for _ in range(40):  # both rise by ten points from photos to generated images, from rates of their own
        rates = {"stranger": 0.4, "sister": 0.7}
        kinds = [{name: random.random(800) < rate + rise for name, rate in rates.items()} for rise in (0.1, 0)]
        gaps.append(family_gap(*kinds, classes, classes))
    assert np.mean([gap.low <= 0 <= gap.high for gap in gaps]) >= 0.85
    with pytest.raises(ValueError, match="got none"):
        family_gap(generated, photos, list("aabb"), list("ccdd"))


def test_the_most_varied_settings_that_are_recognised_are_recommended():
    table = pd.DataFrame({
        "guidance_scale": [1.0, 2.0, 3.0], "eta": [0.0, 1.0, 0.0], "foreground_agreement": [0.4, 0.6, 0.8],
        "distance": [0.9, 0.7, 0.5],
    })  # fmt: skip
    assert recommended_text_settings(table, wanted=0.5) == (2.0, 1.0)
    assert recommended_text_settings(table, wanted=0.3) == (1.0, 0.0)
    assert recommended_text_settings(table, wanted=0.9) == (3.0, 0.0), "at none, the most recognised"


def test_settings_are_tried_on_the_same_noise(judges, pipeline):
    options = {"guidance_scales": [1.0, 2.0], "etas": [0.0], "steps": 2, "per_class": 2, "judges": judges, "seed": 0}
    table = text_settings(pipeline, classes_of(["lion", "goldfish"]), **options)
    assert table[["guidance_scale", "eta"]].to_numpy().tolist() == [[1, 0], [2, 0]]
    assert table[["foreground_agreement", "auxiliary_agreement"]].isin([0, 0.25, 0.5, 0.75, 1]).all(axis=None)
    pd.testing.assert_frame_equal(table, text_settings(pipeline, classes_of(["lion", "goldfish"]), **options))


def test_of_more_candidates_the_critics_favourite_is_judged(judges, monkeypatch):
    images = numpy_generator(0, "candidates").integers(0, 255, (8, 64, 64, 3)).astype(np.uint8)
    monkeypatch.setattr(
        "d3s_utils.generator_quality.recognisability", lambda *_, **__: np.array([0.1, 0.9, 0.5, 0.2] * 2)
    )
    found = np.array([0, 1, 0, 0, 1, 0, 1, 0], bool)
    names = np.where(found, ["carnivore"] * 4 + ["fish"] * 4, "dog")
    monkeypatch.setattr("d3s_utils.generator_quality.named_superclasses", lambda *_, **__: names)
    synsets = [c.synset for c in classes_of(["lion", "goldfish"]) for _ in range(4)]
    curve = candidates_curve(images, synsets, candidates=[1, 2, 4], judges=judges).set_index("candidates")
    assert curve["n"].tolist() == [8, 4, 2]
    assert curve["value"].tolist() == [3 / 8, 2 / 4, 1 / 2], "of pairs 1 and 2, then 5 and 6; of fours 1 and 5"
