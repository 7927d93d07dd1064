"""Zero-shot scores by a tiny random CLIP: its arithmetic, its independence of the batch, and what is not there."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import make_tiny_clip
from transformers import CLIPModel, CLIPProcessor

from d3s_utils.classifiers import look
from d3s_utils.taxonomy import BACKGROUNDS, imagenet_class
from d3s_utils.zero_shot import ZeroShotError, clip_scores, load_clip, opinions, zero_shot


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return make_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture(scope="module")
def clip(clip_folder):
    return load_clip(clip_folder)


@pytest.fixture(scope="module")
def pictures():
    return list(np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def table():
    labels = {"imagenet_index": [291, 722, 291, 9, 722], "background": ["cave", "snow", "grass", "rain", "night"]}
    return pd.DataFrame(labels, index=[7, 5, 3, 2, 1])


def test_it_loads_from_a_folder_as_transformers_does(clip, clip_folder, pictures):
    assert (clip.name, clip.device, clip.model.training) == ("tiny-clip", "cpu", False)
    assert clip.sha256 == load_clip(str(clip_folder)).sha256
    prompts = ["a photo of a lion", "a photo of a scene, in a cave"]
    inputs = CLIPProcessor.from_pretrained(clip_folder)(
        text=prompts, images=[Image.fromarray(picture) for picture in pictures], return_tensors="pt", padding=True
    )
    with torch.inference_mode():
        expected = CLIPModel.from_pretrained(clip_folder)(**inputs).logits_per_image
    batch = torch.stack([clip.transform(Image.fromarray(picture)) for picture in pictures])
    ours = clip.logit_scale * clip.image_embeddings(batch) @ clip.text_embeddings(prompts).T
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    assert ours.std() > 0.1


def test_the_sha256_is_of_the_weights(clip, tmp_path):
    assert load_clip(make_tiny_clip(tmp_path / "other", seed=1)).sha256 != clip.sha256


def test_probabilities_are_a_softmax_of_cosines_by_hand(clip, pictures, table):
    found = clip_scores(clip, pictures, table)
    assert found.index.equals(table.index)
    names = ["ostrich", "lion", "ping-pong ball"]  # by index
    prompts = {
        "foreground": [f"a photo of a {name}" for name in names],
        "background": [f"a photo of a scene, {phrase}" for phrase in BACKGROUNDS.values()],
    }
    candidates = {"foreground": names, "background": list(BACKGROUNDS)}
    labels = {
        "foreground": [imagenet_class(i).name for i in table["imagenet_index"]],
        "background": table["background"],
    }
    for row, picture in enumerate(pictures):
        image = clip.image_embeddings(clip.transform(Image.fromarray(picture))[None])[0].double().numpy()
        for part in ("foreground", "background"):
            text = clip.text_embeddings(prompts[part]).double().numpy()
            cosines = text @ image / np.linalg.norm(text, axis=1) / np.linalg.norm(image)
            shares = np.exp(clip.logit_scale * cosines)
            shares /= shares.sum()
            own = candidates[part].index(list(labels[part])[row])
            seen = found.iloc[row]
            assert seen[f"clip_{part}_similarity"] == pytest.approx(cosines[own], abs=1e-5)
            assert seen[f"clip_{part}_probability"] == pytest.approx(shares[own], abs=1e-4)
            assert seen[f"clip_{part}_prediction"] == candidates[part][cosines.argmax()]
    assert found["clip_foreground_probability"].std() > 1e-3


def test_probabilities_over_the_candidates_add_up(clip, pictures):
    chooser = zero_shot(clip, [291, 722, 9])
    scores = chooser.scores_of_batch(torch.stack([clip.transform(Image.fromarray(pictures[0]))]))
    tables = [pd.DataFrame({"imagenet_index": [index], "background": ["cave"]}) for index in (291, 722, 9)]
    shares = [opinions(chooser, scores, one)["clip_foreground_probability"][0] for one in tables]
    assert sum(shares) == pytest.approx(1)
    tables = [pd.DataFrame({"imagenet_index": [9], "background": [name]}) for name in BACKGROUNDS]
    assert sum(opinions(chooser, scores, one)["clip_background_probability"][0] for one in tables) == pytest.approx(1)


def test_scores_hang_on_the_picture_and_not_on_the_batch(clip, pictures, table):
    together = clip_scores(clip, pictures, table, batch_size=5)
    numbers = [name for name in together if not name.endswith("prediction")]
    for options in ({"batch_size": 1}, {"batch_size": 3}):
        np.testing.assert_allclose(clip_scores(clip, pictures, table, **options)[numbers], together[numbers], atol=1e-4)
    backwards = clip_scores(clip, pictures[::-1], table[::-1])[::-1]
    np.testing.assert_allclose(backwards[numbers], together[numbers], atol=1e-4)
    shared, _ = look(pictures, [zero_shot(clip, [9, 291, 722]).looker] * 2)
    np.testing.assert_array_equal(shared[0], shared[1])
    pd.testing.assert_frame_equal(opinions(zero_shot(clip, [9, 291, 722]), shared[0], table), together)


def test_an_unreadable_picture_has_no_scores(clip, pictures, table, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    found = clip_scores(clip, [*pictures[:2], tmp_path / "torn.png", *pictures[3:]], table)
    torn = found.loc[3]
    assert torn["clip_foreground_prediction"] == torn["clip_background_prediction"] == ""
    assert torn.drop(["clip_foreground_prediction", "clip_background_prediction"]).isna().all()
    rest = clip_scores(clip, pictures, table).drop(index=3)
    pd.testing.assert_frame_equal(found.drop(index=3), rest, rtol=1e-4)


def test_all_classes_are_candidates_when_asked_and_namesakes_are_one(clip, pictures, table):
    chooser = zero_shot(clip, [134, 517, 291])  # crane, the bird, and crane, the machine
    assert chooser.foregrounds == ("crane", "lion")
    cranes = pd.DataFrame({"imagenet_index": [134, 517], "background": "snow"})
    scores = chooser.scores_of_batch(torch.stack([clip.transform(Image.fromarray(pictures[0]))]))
    assert opinions(chooser, np.repeat(scores, 2, 0), cranes)["clip_foreground_probability"].nunique() == 1
    among_all = clip_scores(clip, pictures, table, all_classes=True)["clip_foreground_probability"]
    assert (among_all < clip_scores(clip, pictures, table)["clip_foreground_probability"]).all()


def test_a_hub_id_without_a_network_is_refused_with_the_way_out(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ZeroShotError, match=r"name: the CLIP 'nobody/no-such-clip'.*CLIPModel\.save_pretrained"):
        load_clip("nobody/no-such-clip")


def test_a_folder_that_is_no_complete_clip_is_refused(clip_folder, tmp_path):
    with pytest.raises(ZeroShotError, match=r"name must be a folder or a hub id.*got '\./nowhere'.*no such folder"):
        load_clip("./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ZeroShotError, match=r"name: the CLIP .*CLIPProcessor\.save_pretrained wrote"):
        load_clip(tmp_path / "empty")
    partial = make_tiny_clip(tmp_path / "partial")
    tensors = load_file(partial / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ZeroShotError, match=r"lacks 1 of CLIP's tensors, such as visual_projection\.weight"):
        load_clip(partial)


def test_labels_and_shapes_that_do_not_fit_are_named(clip, pictures, table):
    chooser = zero_shot(clip, [291])
    with pytest.raises(ValueError, match=r"scores must have shape \(5, 11\), got \(5, 3\)"):
        opinions(chooser, np.zeros((5, 3)), table)
    with pytest.raises(ValueError, match="2 are not, such as 'ostrich'"):
        opinions(chooser, np.zeros((5, 11)), table)
    with pytest.raises(ValueError, match="a row for each of 1 pictures, got 5"):
        clip_scores(clip, pictures[:1], table)
    with pytest.raises(ValueError, match="at least one class, got none"):
        zero_shot(clip, [])
    with pytest.raises(ValueError, match="prompts must have at most 77 tokens, got 102"):
        clip.text_embeddings(["x" * 100])
