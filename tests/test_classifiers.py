"""Classifiers: the same numbers as plain timm, whatever the batch, and clear words when something cannot be had."""

import io

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from skimage import data

from d3s_utils.classifiers import (
    BUNDLED,
    CRITIC,
    CRITIC_SIDE,
    ClassifierError,
    PictureError,
    bundled_weights_file,
    load_bundled_classifier,
    load_classifier,
    predict,
    read_picture,
    recognisability,
)

LITE0 = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def lite0():
    return load_classifier(LITE0)


@pytest.fixture(scope="module")
def pictures():
    return list(np.random.default_rng(0).integers(0, 256, (5, 48, 64, 3), dtype=np.uint8))


def plain_timm_logits(name, images):
    """Classify one image at a time, as timm's README does it."""
    model = load_bundled_classifier(name)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    with torch.no_grad():
        return np.concatenate([model(transform(image.convert("RGB")).unsqueeze(0)).numpy() for image in images])


def test_logits_are_those_of_plain_timm_whatever_the_batch(lite0, pictures):
    expected = plain_timm_logits(LITE0, [Image.fromarray(picture) for picture in pictures])
    for batch_size in (1, 2, 32):
        found = predict([lite0], pictures, batch_size=batch_size)[LITE0]
        np.testing.assert_allclose(found.logits, expected, atol=2e-4)


def test_preprocessing_is_the_models_own(lite0):
    config = timm.data.resolve_model_data_config(timm.create_model(LITE0))
    assert (config["input_size"], config["crop_pct"], config["interpolation"]) == ((3, 224, 224), 0.875, "bicubic")
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (80, 60, 3), dtype=np.uint8))
    expected = timm.data.create_transform(**config, is_training=False)(image)
    assert torch.equal(lite0.transform(image), expected)


def test_features_are_what_the_last_layer_sees(lite0, pictures):
    found = predict([lite0], pictures)[LITE0]
    last = lite0.model.get_classifier()
    expected = found.features @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    assert found.features.shape == (5, 1280)
    np.testing.assert_allclose(found.logits, expected, atol=1e-4)


def test_files_and_arrays_give_the_same(lite0, pictures, tmp_path):
    Image.fromarray(pictures[0]).save(tmp_path / "picture.png")
    from_file = predict([lite0], [tmp_path / "picture.png"])[LITE0]
    np.testing.assert_array_equal(from_file.logits, predict([lite0], pictures[:1])[LITE0].logits)


def test_no_pictures_give_no_rows(lite0):
    assert predict([lite0], [])[LITE0].logits.shape == (0, 1000)


def test_an_unreadable_picture_is_named_or_skipped(lite0, pictures, tmp_path):
    encoded = io.BytesIO()
    Image.fromarray(pictures[0]).save(encoded, "PNG")
    cut_off = tmp_path / "cut_off.png"
    cut_off.write_bytes(encoded.getvalue()[:200])
    with pytest.raises(PictureError, match=r"cut_off\.png"):
        predict([lite0], [pictures[0], cut_off])
    found = predict([lite0], [pictures[0], cut_off, pictures[1]], skip_unreadable=True)[LITE0]
    assert np.isnan(found.logits[1]).all()
    assert np.isfinite(found.logits[[0, 2]]).all()
    assert list(found.unreadable) == [1]
    assert "cut_off.png" in found.unreadable[1]


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_what_is_no_picture_is_named(tmp_path, content):
    path = tmp_path / "fake.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=r"fake\.png"):
        read_picture(path)
    with pytest.raises(PictureError, match="missing"):
        read_picture(tmp_path / "missing.png")


def test_a_wrong_array_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        read_picture(np.zeros((4, 4, 3)))


def test_bad_options_are_refused(lite0, pictures):
    with pytest.raises(ValueError, match="batch_size"):
        predict([lite0], pictures, batch_size=0)
    with pytest.raises(ValueError, match="different names"):
        predict([lite0, lite0], pictures)


def test_bundled_weights_are_hashed_and_all_there(lite0):
    assert len(lite0.sha256) == 64
    assert all(bundled_weights_file(name).is_file() for name in BUNDLED)
    with pytest.raises(ValueError, match="name must be one of"):
        bundled_weights_file("resnet50")


@pytest.mark.parametrize("name", ["resnet18", "hf-hub:timm/resnet18.a1_in1k", "efficientnet_lite99", "no/such/model"])
def test_what_cannot_be_had_names_the_local_alternative(name):
    with pytest.raises(ClassifierError, match="local folder") as caught:
        load_classifier(name)
    assert repr(name) in str(caught.value)
    assert LITE0 in str(caught.value)


def test_a_local_folder_is_loaded(tmp_path):
    model = timm.create_model("resnet10t").eval()
    timm.models.save_for_hf(model, tmp_path / "mine", safe_serialization=True)
    classifier = load_classifier(str(tmp_path / "mine"))
    batch = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(classifier.model(batch), model(batch), rtol=1e-4, atol=1e-5)


def test_a_folder_without_a_model_or_with_other_classes_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClassifierError, match="empty"):
        load_classifier(str(tmp_path / "empty"))
    timm.models.save_for_hf(timm.create_model("resnet10t", num_classes=7), tmp_path / "seven", safe_serialization=True)
    with pytest.raises(ClassifierError, match="1000 ImageNet classes"):
        load_classifier(str(tmp_path / "seven"))


def test_lite0_on_real_photos_is_as_good_as_plain_timm(lite0, shared_data):
    table = pd.read_parquet(shared_data / "imagenet-samples-even.parquet").iloc[::9][:56]
    images = [Image.open(io.BytesIO(image["bytes"])) for image in table["image"]]
    truth = table["imagenet_index"].to_numpy()
    plain = (plain_timm_logits(LITE0, images).argmax(1) == truth).mean()
    ours = (predict([lite0], images)[LITE0].logits.argmax(1) == truth).mean()
    assert abs(ours - plain) <= 0.005
    assert ours > 0.75


def test_the_critic_counts_by_superclass_and_by_class_where_there_is_none():
    cat, cup = data.chelsea(), data.coffee()
    lynx, retriever, goldfish, egyptian_cat, espresso = "n02127052", "n02099601", "n01443537", "n02124075", "n07920052"
    found = recognisability([cat, cat, cat, cup, cup], [lynx, retriever, goldfish, egyptian_cat, espresso])
    assert found[0] > 0.5 > max(found[1], found[2]), "of the superclasses a carnivore is nearest to a cat"
    assert found[4] > 0.5 > 0.01 > found[3], "neither a cup nor a cat has a superclass"
    critic = load_classifier(CRITIC)
    whole = np.asarray(Image.fromarray(cup).resize((CRITIC_SIDE, CRITIC_SIDE), Image.BICUBIC)) / 127.5 - 1
    with torch.inference_mode():
        logits = critic.model(torch.from_numpy(whole).float().permute(2, 0, 1)[None])[0].numpy()
    assert found[4] == pytest.approx(np.exp(logits[967]) / np.exp(logits).sum(), rel=0.02)


def test_the_critic_needs_a_class_for_each_picture():
    with pytest.raises(ValueError, match="synsets must name the class of each of 2 pictures, got 1"):
        recognisability([data.chelsea()] * 2, ["n02127052"])
