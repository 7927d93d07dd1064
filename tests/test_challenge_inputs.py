"""What the challenge is run on and by: folders read back and challenged, and classifiers that name superclasses."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_outputs import tiny_settings, write_tiny_outputs
from tiny_zoo import make_tiny_zoo

from d3s_utils.backgrounds_challenge import challenge_accuracy
from d3s_utils.challenge_inputs import (
    challenge_of_folder,
    remembered_challenge,
    superclass_classifier,
    whole_pictures,
)
from d3s_utils.image_sets import ImageSetError, read_in9
from d3s_utils.imitated_challenge import imitate
from d3s_utils.in9_variants import render_variant, write_variants
from d3s_utils.taxonomy import IN9, IN9_OF_INDEX

HOMES = {"fish": "water", "carnivore": "snow"}


@pytest.fixture
def run(tmp_path):
    """A run whose objects were pasted into the left upper three quarters of each image."""
    settings = tiny_settings(tmp_path, guides_per_class_train=2, guides_per_class_val=2, backgrounds=["water", "snow"])
    write_tiny_outputs(settings)
    path = settings.folder("03_validation") / "validated.parquet"
    table = pd.read_parquet(path)
    table.assign(width=48, height=48).to_parquet(path)
    return settings


def plan_of(run, *, limit=6):
    return imitate(run.run_folder, HOMES, limit=limit, seed=0).plan


def test_a_folder_comes_back_as_a_challenge(run, tmp_path):
    plan = plan_of(run)
    write_variants(tmp_path / "in9", plan, progress=False)
    images = read_in9(tmp_path / "in9")
    foregrounds, behind = challenge_of_folder(images)
    assert sorted(foregrounds.ids) == sorted(behind.ids) == sorted(plan.ids)
    for name, scene in zip(behind.ids, behind.pictures, strict=True):
        row = plan.table[(plan.table["picture_id"] == name) & (plan.table["variant"] == "only_bg_t")].index[0]
        assert np.array_equal(scene, render_variant(plan, row))
    limited, _ = challenge_of_folder(images, limit=2, seed=1)
    assert sorted(limited.superclasses) == ["carnivore", "fish"]
    assert set(limited.ids) < set(foregrounds.ids)


def test_a_challenge_is_not_run_twice(run, tmp_path):
    write_variants(tmp_path / "in9", plan_of(run), progress=False)
    images = read_in9(tmp_path / "in9")
    foregrounds, behind = challenge_of_folder(images)
    (model,) = make_tiny_zoo(32)
    options = {"seed": 0, "limit": None, "batch_size": 4}
    first = remembered_challenge(tmp_path / "c", model, foregrounds, behind, own_class=False, **options)
    shown = model.network.shown
    again = remembered_challenge(tmp_path / "c", model, foregrounds, behind, own_class=False, **options)
    pd.testing.assert_frame_equal(first, again)
    assert model.network.shown == shown
    remembered_challenge(tmp_path / "c", model, foregrounds, behind, own_class=True, **options)
    assert model.network.shown > shown, "another rule is another question"


def test_a_whole_picture_loses_nothing():
    (model,) = whole_pictures(make_tiny_zoo(32))
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[0, 0] = picture[-1, -1] = 255
    seen = model.preprocessing.pixels(Image.fromarray(picture))
    assert seen[:, 0, 0].min() > 0
    assert seen[:, -1, -1].min() > 0


def test_missing_parts_are_named(run, tmp_path):
    write_variants(tmp_path / "in9", plan_of(run, limit=4), progress=False)
    images = read_in9(tmp_path / "in9")
    with pytest.raises(ImageSetError, match="needs the variant only_bg_t"):
        challenge_of_folder(images.subset((images.table["variant"] != "only_bg_t").to_numpy()))
    for path in (tmp_path / "in9" / "fg_mask").rglob("*.npy"):
        path.unlink()
    with pytest.raises(ImageSetError, match="masks"):
        challenge_of_folder(images)


def test_a_classifier_answers_with_superclasses(run):
    (model,) = make_tiny_zoo(32)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    answers = superclass_classifier(model)(pictures)
    batch = torch.stack([model.preprocessing(Image.fromarray(picture)) for picture in pictures])
    with torch.inference_mode():
        plain = model.network(batch).argmax(1)
    assert answers.tolist() == [IN9_OF_INDEX.get(int(index), "") for index in plain]


def test_a_classifier_of_nine_classes_answers_with_them(run):
    (model,) = make_tiny_zoo(32)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)

    def tells_fish(batch):
        return torch.nn.functional.one_hot(torch.full((len(batch),), IN9.index("fish")), len(IN9)).float()

    model.network.forward = tells_fish
    assert superclass_classifier(model)(pictures).tolist() == ["fish"] * 3


def test_a_challenge_runs_from_end_to_end(run, tmp_path):
    write_variants(tmp_path / "in9", plan_of(run), progress=False)
    foregrounds, behind = challenge_of_folder(read_in9(tmp_path / "in9"))
    (model,) = make_tiny_zoo(32)
    classifiers = {model.name: superclass_classifier(model)}
    outcomes = challenge_accuracy(foregrounds, behind, classifiers, seed=0, progress=False)
    assert len(outcomes) == 6
    assert not outcomes["robust"].any(), "random weights do not know a lion from a goldfish"
