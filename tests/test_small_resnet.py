"""The small residual network: the shipped one is whole, a tiny one learns, and only judge photos train it."""

import copy
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from coloured_shapes import SHAPES, draw_shape
from matplotlib.colors import hsv_to_rgb
from PIL import Image

from d3s_utils import small_resnet_training
from d3s_utils.classifiers import look
from d3s_utils.small_resnet import BUNDLED_FOLDER, TRANSFORM, SmallResnetError, load_small_resnet
from d3s_utils.small_resnet_card import card_text
from d3s_utils.small_resnet_measures import (
    calibration_error,
    fit_temperature,
    logits_and_labels,
    measure_logits,
    measure_small_resnet,
    measured_images,
)
from d3s_utils.small_resnet_photos import (
    NONE,
    Batches,
    LabelledImages,
    LabelledPhotos,
    composites,
    labelled_scenes,
    paste_object,
    read_labelled_photos,
)
from d3s_utils.small_resnet_training import (
    Recipe,
    find_temperatures,
    fold_in,
    make_small_resnet,
    ready,
    train_small_resnet,
)
from d3s_utils.taxonomy import BACKGROUNDS, IN9, imagenet_class
from d3s_utils.training_photos import split_of

FILES = ("model.safetensors", "card.json", "README.md", "SHA256SUMS")
TINY = Recipe(
    layers=(1, 1, 1, 1),
    channels=(8, 16, 16, 24),
    steps=150,
    sizes=(12, 6, 6),
    scenes_per_background=8,
    learning_rate=0.1,
    average_decay=0.9,
)


def coloured_scenes(count, seed):
    """Return scenes whose colour tells their background, uint8 (10 x count, 64, 64, 3), and the backgrounds' names."""
    random = np.random.default_rng(seed)
    colours = 255 * np.array([hsv_to_rgb((i / 10, 0.9, 0.4 + 0.5 * (i % 2))) for i in range(10)])
    colours = np.tile(colours, (count, 1))[:, None, None]
    pixels = (colours + random.normal(0, 8, (10 * count, 64, 64, 3))).clip(0, 255).astype(np.uint8)
    return pixels, np.array(list(BACKGROUNDS) * count)


def shape_photos(count, seed):
    """Return photos of three shapes, which stand for the first three superclasses, and coloured scenes."""
    shapes = np.tile(np.arange(len(SHAPES)), count)
    drawn = [draw_shape(SHAPES[shape], None, seed=seed + i) for i, shape in enumerate(shapes)]
    objects = np.stack([image.repeat(2, axis=0).repeat(2, axis=1) for image in drawn])
    boxes = np.tile((0, 0, 63, 63), (len(objects), 1))
    return LabelledPhotos(objects, boxes, shapes, np.array(SHAPES)[shapes], *coloured_scenes(count, seed))


@pytest.fixture(scope="module")
def photos():
    return shape_photos(20, seed=0)


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    return train_small_resnet(photos, TINY, checkpoint=tmp_path_factory.mktemp("tiny") / "training.pt")


@pytest.fixture(scope="module")
def shipped():
    return load_small_resnet()


@pytest.fixture
def copied(tmp_path):
    """A copy of the shipped folder that may be spoilt."""
    return shutil.copytree(BUNDLED_FOLDER, tmp_path / "small_resnet")


def test_the_shipped_network_answers_in_its_shapes(shipped):
    images = [*np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)]
    lookers = [shipped.looker, shipped.superclass_looker, shipped.background_looker]
    (all_of_it, superclasses, backgrounds), _ = look(images, lookers)
    assert all_of_it.shape == (3, 9 + 10 + shipped.model.num_features)
    assert superclasses.shape == (3, 9)
    assert backgrounds.shape == (3, 10)
    for probabilities, logits in ((superclasses, all_of_it[:, :9]), (backgrounds, all_of_it[:, 9:19])):
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(probabilities, torch.from_numpy(logits).softmax(1), atol=1e-6)


def test_the_heads_answer_from_the_features(shipped):
    (answers,), _ = look([np.full((64, 64, 3), 90, np.uint8)], [shipped.looker])
    features = torch.from_numpy(answers[:, 19:])
    with torch.no_grad():
        both = torch.cat([shipped.model.superclass(features), shipped.model.background(features)], dim=1)
    np.testing.assert_allclose(answers[:, :19], both, atol=1e-4)


def test_answers_do_not_depend_on_the_batch(shipped):
    images = [*np.random.default_rng(1).integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)]
    (one,), _ = look(images, [shipped.looker], batch_size=1)
    (many,), _ = look(images, [shipped.looker], batch_size=7)
    np.testing.assert_allclose(one, many, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (200, 120), (31, 47), (1, 1)])
def test_any_size_and_grey_images_are_seen(shipped, size):
    grey = Image.new("L", size, 128)
    assert TRANSFORM(grey.convert("RGB")).shape == (3, 64, 64)
    (answers,), _ = look([grey], [shipped.looker])
    assert np.isfinite(answers).all()


def test_of_a_square_image_all_is_seen_and_of_a_wide_one_the_middle():
    square = np.zeros((64, 64, 3), np.uint8)
    square[0, 0] = 255
    torch.testing.assert_close(
        TRANSFORM(Image.fromarray(square)), torch.from_numpy(square).permute(2, 0, 1) / 127.5 - 1, atol=1e-6, rtol=0
    )
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, :32] = wide[:, 96:] = 255
    assert TRANSFORM(Image.fromarray(wide)).max() == -1


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(SmallResnetError, match=f"lacks {name}"):
        load_small_resnet(copied)


@pytest.mark.parametrize("name", FILES[:3])
def test_a_changed_file_is_named(copied, name):
    content = bytearray((copied / name).read_bytes())
    content[-2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(SmallResnetError, match=rf"{name} has sha256 \w{{64}}, SHA256SUMS pins"):
        load_small_resnet(copied)


def test_the_shipped_folder_is_small_and_says_what_its_card_says():
    card = json.loads((BUNDLED_FOLDER / "card.json").read_text())
    assert sorted(path.name for path in BUNDLED_FOLDER.iterdir()) == sorted(FILES)
    assert sum(path.stat().st_size for path in BUNDLED_FOLDER.iterdir()) < 4_000_000
    assert (BUNDLED_FOLDER / "README.md").read_text() == card_text(card)
    assert card["superclasses"] == list(IN9)
    assert card["backgrounds"] == list(BACKGROUNDS)
    for measured in card["test"].values():
        right, n = np.trace(np.array(measured["confusion"])), measured["accuracy"]["n"]
        assert right / n == pytest.approx(measured["accuracy"]["value"])
        assert measured["accuracy"]["low"] <= right / n <= measured["accuracy"]["high"]
        recalls = [recall["value"] for recall in measured["recall"].values()]
        assert np.mean(recalls) == pytest.approx(measured["balanced_accuracy"]["value"])


@pytest.mark.slow
def test_the_card_is_right_about_photos_that_trained_nothing(shipped, shared_data):
    card = json.loads((BUNDLED_FOLDER / "card.json").read_text())
    images = measured_images(read_labelled_photos(shared_data, "test"), per_background=20, seed=1)
    shown = {name: images[name] for name in ("superclass/photos", "background/scenes")}
    measured = measure_small_resnet(shipped, shown)
    told = {name: card["test"][name]["accuracy"]["value"] for name in shown}
    assert measured["superclass/photos"]["accuracy"]["value"] == pytest.approx(told["superclass/photos"], abs=0.02)
    # other crops of the same scenes, 200 of them: four standard errors
    assert measured["background/scenes"]["accuracy"]["value"] == pytest.approx(told["background/scenes"], abs=0.1)


def test_a_tiny_network_learns_shapes_and_colours(trained):
    other = shape_photos(10, seed=1000)
    network = ready(trained, {})
    scenes = labelled_scenes(other, per_background=10, seed=1)
    objects = LabelledImages(other.objects, other.superclasses, np.full(len(other.objects), NONE))
    measured = measure_small_resnet(network, {"superclass/photos": objects, "background/scenes": scenes})
    assert measured["superclass/photos"]["accuracy"]["low"] > 0.5  # chance is a third
    assert measured["background/scenes"]["accuracy"]["low"] > 0.3  # chance is a tenth


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(photos, tmp_path):
    short = replace(TINY, steps=3)
    one, same = (train_small_resnet(photos, short, checkpoint=tmp_path / f"{i}.pt").state_dict() for i in range(2))
    other = train_small_resnet(photos, replace(short, seed=1), checkpoint=tmp_path / "2.pt").state_dict()
    for name in one:
        assert torch.equal(one[name], same[name]), name
    assert not torch.equal(one["superclass.weight"], other["superclass.weight"])


def test_training_does_not_touch_the_global_generators(photos, tmp_path):
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    train_small_resnet(photos, replace(TINY, steps=1), checkpoint=tmp_path / "training.pt")
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


def test_a_killed_run_goes_on_to_the_same_weights(photos, tmp_path, monkeypatch):
    short = replace(TINY, steps=6)
    whole = train_small_resnet(photos, short, checkpoint=tmp_path / "whole.pt", checkpoint_every=2).state_dict()
    at_step, seen = Batches.at_step, []

    def killed_at_four(batches, step):
        if step == 4:
            raise KeyboardInterrupt
        return at_step(batches, step)

    monkeypatch.setattr(Batches, "at_step", killed_at_four)
    with pytest.raises(KeyboardInterrupt):
        train_small_resnet(photos, short, checkpoint=tmp_path / "killed.pt", checkpoint_every=3)
    monkeypatch.setattr(Batches, "at_step", lambda batches, step: seen.append(step) or at_step(batches, step))
    again = train_small_resnet(photos, short, checkpoint=tmp_path / "killed.pt").state_dict()
    assert seen == [3, 4, 5]
    for name in whole:
        assert torch.equal(whole[name], again[name]), name


def test_a_checkpoint_of_another_run_is_refused(photos, tmp_path):
    checkpoint = tmp_path / "training.pt"
    train_small_resnet(photos, replace(TINY, steps=1), checkpoint=checkpoint)
    with pytest.raises(ValueError, match=r"training\.pt must be of this recipe"):
        train_small_resnet(photos, replace(TINY, steps=1, seed=1), checkpoint=checkpoint)
    with pytest.raises(ValueError, match=r"training\.pt must be of this recipe"):
        train_small_resnet(photos.every_nth(3, left_out=True), replace(TINY, steps=1), checkpoint=checkpoint)


def test_a_batch_labels_what_it_shows_and_nothing_else(photos):
    scenes = labelled_scenes(photos, per_background=4, seed=0)
    batch = Batches(photos, scenes, sizes=(5, 3, 4), seed=0).at_step(7)
    assert batch.pixels.shape == (12, 3, 64, 64)
    assert batch.pixels.dtype == torch.float32
    assert ((batch.superclasses == NONE) == torch.tensor([False] * 5 + [True] * 3 + [False] * 4)).all()
    assert ((batch.backgrounds == NONE) == torch.tensor([True] * 5 + [False] * 7)).all()
    assert ((batch.classes == NONE) == (batch.superclasses == NONE)).all()


def test_balance_decides_how_often_a_rare_superclass_is_drawn(photos):
    rare = LabelledPhotos(*(getattr(photos, name)[1:] for name in ("objects", "boxes")), np.array([0] * 58 + [1]),
                          photos.classes[1:], photos.scenes, photos.scene_classes)  # fmt: skip
    scenes = labelled_scenes(photos, per_background=2, seed=0)
    share = {b: Batches(rare, scenes, sizes=(12, 6, 6), seed=0, balance=b).weights[-1] for b in (0.0, 1.0)}
    assert share[0.0] == pytest.approx(1 / 59)
    assert share[1.0] == pytest.approx(1 / 2)


def test_an_object_is_pasted_as_a_square_inside_the_image():
    image, photo = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    photo[10:21, 30:41] = 200  # the box, its last row and column included
    paste_object(image, photo, (30, 10, 40, 20), edge=45, random=np.random.default_rng(0))
    rows, columns = np.nonzero(image[..., 0])
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1, len(rows)) == (45, 45, 45 * 45)
    assert (image[image > 0] == 200).all()


def test_composites_hold_every_object_once_on_scenes_that_stay_as_they_are(photos):
    scenes = labelled_scenes(photos, per_background=2, seed=0)
    before = scenes.pixels.copy()
    pasted = composites(photos, scenes, seed=0)
    np.testing.assert_array_equal(pasted.superclasses, photos.superclasses)
    np.testing.assert_array_equal(scenes.pixels, before)
    for image, background in zip(pasted.pixels, pasted.backgrounds, strict=True):
        kept = [(image == scene).all(-1).mean() for scene in scenes.pixels[scenes.backgrounds == background]]
        assert max(kept) > 0.45  # all but a square of 0.7 of the side


def photo_file(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two parquet files like Tiny-ImageNet's."""
    folder = tmp_path_factory.mktemp("data")
    many = shape_photos(160, seed=5)
    synsets = [imagenet_class(name).synset for name in ("Chihuahua", "goose", "tractor")]
    for name, pixels, labels in (
        ("in9", many.objects, {"synset": [synsets[shape] for shape in many.superclasses]}),
        ("scenes", many.scenes, {"class_name": many.scene_classes}),
    ):
        files = [{"bytes": photo_file(image), "path": None} for image in pixels]
        boxes = {"bbox_xyxy": [[4, 4, 60, 60]] * len(files)} if name == "in9" else {}
        pd.DataFrame({"image": files, **labels, **boxes}).to_parquet(folder / f"tiny-imagenet-{name}.parquet")
    return folder


@pytest.mark.parametrize("split", ["judge", "test"])
def test_only_photos_of_the_asked_split_are_read(data, split):
    read = read_labelled_photos(data, split)
    for name, pixels in (("in9", read.objects), ("scenes", read.scenes)):
        files = [image["bytes"] for image in pd.read_parquet(data / f"tiny-imagenet-{name}.parquet")["image"]]
        wanted = [np.asarray(Image.open(io.BytesIO(file))) for file in files if split_of(file) == split]
        assert 0 < len(wanted) < len(files)
        np.testing.assert_array_equal(pixels, np.stack(wanted))
    assert set(read.superclasses) <= {0, 1, 2}
    np.testing.assert_array_equal(read.boxes, np.tile((4, 4, 59, 59), (len(read.boxes), 1)))


def test_judge_photos_train_it_and_test_photos_measure_it(data, tmp_path, monkeypatch):
    learnt = []

    def watched(photos, recipe, **options):
        learnt.append(photos.sha256)
        return train_small_resnet(photos, recipe, **options)

    monkeypatch.setattr(small_resnet_training, "train_small_resnet", watched)
    recipe = replace(TINY, steps=2)
    found = make_small_resnet(data, tmp_path / "made", recipe, checkpoints=tmp_path / "checkpoints", per_background=2)
    judge, test = (read_labelled_photos(data, split) for split in ("judge", "test"))
    assert learnt == [judge.every_nth(4, left_out=True).sha256, judge.sha256]
    network = load_small_resnet(tmp_path / "made")
    assert network.card["test"] == found
    assert found["superclass/photos"]["accuracy"]["n"] == len(test.objects)
    assert network.card["training_photos"] == {"objects": len(judge.objects), "scenes": len(judge.scenes)}
    assert measure_small_resnet(network, measured_images(test, per_background=2, seed=0)) == found


def test_no_photo_is_on_both_sides(photos):
    one, rest = (photos.every_nth(4, left_out=out) for out in (False, True))
    assert len(one.objects) + len(rest.objects) == len(photos.objects)
    assert len(one.scenes) + len(rest.scenes) == len(photos.scenes)
    assert not {image.tobytes() for image in one.objects} & {image.tobytes() for image in rest.objects}


def test_the_temperature_of_logits_that_are_too_sure_is_found():
    random = np.random.default_rng(0)
    logits = random.normal(0, 1.5, (20_000, 5))
    chances = torch.from_numpy(logits).softmax(1).numpy()
    truth = (random.random((20_000, 1)) > chances.cumsum(1)).sum(1).clip(max=4)
    assert fit_temperature(logits, truth) == pytest.approx(1, abs=0.05)
    assert fit_temperature(3 * logits, truth) == pytest.approx(3, abs=0.15)
    assert calibration_error(chances, truth) < 0.02
    sure = torch.from_numpy(3 * logits).softmax(1).numpy()
    assert calibration_error(sure, truth) == pytest.approx(
        sure.max(1).mean() - (logits.argmax(1) == truth).mean(), abs=0.02
    )


def test_the_error_of_calibration_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    assert calibration_error(probabilities, np.array([0, 1, 1, 1])) == pytest.approx((2 * 0.4 + 0.2 + 0.4) / 4)
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


def test_a_folded_temperature_divides_the_logits(trained, photos):
    model = copy.deepcopy(trained)
    image = LabelledImages(photos.objects[:4], photos.superclasses[:4], np.zeros(4, int))
    before, after = {}, {}
    for logits in (before, after):
        for part in ("superclass/x", "background/x"):
            logits[part] = logits_and_labels(ready(model, {}), part, image)[0]
        fold_in(model, {"superclass": 2.0, "background": 0.5} if logits is before else {})
    np.testing.assert_allclose(after["superclass/x"] * 2, before["superclass/x"], atol=1e-5)
    np.testing.assert_allclose(after["background/x"] / 2, before["background/x"], atol=1e-5)


def test_temperatures_are_found_for_both_heads(trained, photos):
    held_out = shape_photos(8, seed=500)
    sure = copy.deepcopy(trained)
    fold_in(sure, {"superclass": 0.25, "background": 0.25})
    plain, four_times = (find_temperatures(model, held_out, seed=0) for model in (trained, sure))
    for head, count in (("superclass", 2 * len(held_out.objects)), ("background", 2 * 10 * 8)):
        assert plain[head]["n"] == count
        assert four_times[head]["temperature"] == pytest.approx(4 * plain[head]["temperature"], rel=0.01)
        assert four_times[head]["calibration_error_after"] == pytest.approx(
            plain[head]["calibration_error_after"], abs=0.01
        )


def test_measures_of_known_logits():
    truth = np.array([0, 0, 0, 1])
    measured = measure_logits(np.eye(3)[[0, 0, 1, 1]] * 5, truth, names=("a", "b", "c"))
    assert measured["accuracy"]["value"] == 0.75
    assert measured["balanced_accuracy"]["value"] == pytest.approx((2 / 3 + 1) / 2)
    assert {name: recall["value"] for name, recall in measured["recall"].items()} == {"a": 2 / 3, "b": 1.0}
    assert measured["confusion"] == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
