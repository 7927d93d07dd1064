"""What the challenge is run on: an imitation written, read back and challenged, and the published rule."""

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
    imitate,
    published_scores,
    remembered_challenge,
    superclass_classifier,
    whole_pictures,
    write_imitation,
)
from d3s_utils.image_sets import ImageSetError, read_in9
from d3s_utils.in9_variants import render_variant, write_variants
from d3s_utils.taxonomy import IN9_OF_INDEX, imagenet_class


@pytest.fixture
def run(tmp_path):
    """A run whose objects were pasted into the left upper three quarters of each picture."""
    settings = tiny_settings(tmp_path, guides_per_class_train=2, guides_per_class_val=2, backgrounds=["water", "snow"])
    write_tiny_outputs(settings)
    path = settings.folder("03_validation") / "validated.parquet"
    table = pd.read_parquet(path)
    table.assign(width=48, height=48).to_parquet(path)
    return settings


def test_objects_at_home_become_variants_and_come_back_as_a_challenge(run, tmp_path):
    made = imitate(run.run_folder, limit=6, seed=0)
    assert sorted(made.plan.table["superclass"].unique()) == ["carnivore", "fish"]
    assert len(made.masks) == 6
    assert set(made.masks["mask"]) <= {"grabcut", "ellipse"}
    backgrounds = pd.read_parquet(run.folder("03_validation") / "validated.parquet").set_index("image_id")["background"]
    homes = {made.plan.superclasses[k]: backgrounds[name] for k, name in enumerate(made.plan.ids)}
    assert homes == {"fish": "water", "carnivore": "snow"}

    write_variants(tmp_path / "in9", made.plan, progress=False)
    images = read_in9(tmp_path / "in9")
    foregrounds, behind = challenge_of_folder(images)
    assert sorted(foregrounds.ids) == sorted(behind.ids) == sorted(made.plan.ids)
    rows = made.plan.table.reset_index(drop=True)
    for name, scene in zip(behind.ids, behind.pictures, strict=True):
        row = rows[(rows["picture_id"] == name) & (rows["variant"] == "only_bg_t")].index[0]
        assert np.array_equal(scene, render_variant(made.plan, row))
    limited, _ = challenge_of_folder(images, limit=2, seed=1)
    assert sorted(limited.superclasses) == ["carnivore", "fish"]
    assert set(limited.ids) < set(foregrounds.ids)


def test_another_plan_takes_the_place_of_the_last_one(run, tmp_path):
    first = write_imitation(tmp_path / "variants", imitate(run.run_folder, limit=6, seed=0))
    times = {path: path.stat().st_mtime_ns for path in first.rglob("*.png")}
    again = write_imitation(tmp_path / "variants", imitate(run.run_folder, limit=6, seed=0))
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in again.rglob("*.png")} == times, "the same plan stays"
    other = write_imitation(tmp_path / "variants", imitate(run.run_folder, limit=6, seed=1))
    assert [path for path in (tmp_path / "variants").iterdir()] == [other] != [first]


def test_a_challenge_is_not_run_twice(run, tmp_path):
    images = read_in9(write_imitation(tmp_path / "variants", imitate(run.run_folder, limit=6, seed=0)))
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
    made = imitate(run.run_folder, limit=4, seed=0)
    write_variants(tmp_path / "in9", made.plan, progress=False)
    images = read_in9(tmp_path / "in9")
    with pytest.raises(ImageSetError, match="needs the variant only_bg_t"):
        challenge_of_folder(images.subset((images.table["variant"] != "only_bg_t").to_numpy()))
    for path in (tmp_path / "in9" / "fg_mask").rglob("*.npy"):
        path.unlink()
    with pytest.raises(ImageSetError, match="masks"):
        challenge_of_folder(images)
    with pytest.raises(ValueError, match="run notebook 03_validation first"):
        imitate(tmp_path / "nothing", limit=4, seed=0)


def test_the_published_rule_wants_a_class_that_has_a_superclass():
    lion, banana, goldfish = (imagenet_class(name).index for name in ("lion", "banana", "goldfish"))
    scores = pd.DataFrame({"prediction": [lion, banana, goldfish], "in9": "carnivore", "in9_right": [1.0, 1.0, 0.0]})
    found = published_scores(scores)
    assert found["in9_right"].tolist() == [1.0, 0.0, 0.0]
    assert found["in9_right_of_nine"].tolist() == [1.0, 1.0, 0.0]


def test_a_classifier_answers_with_superclasses(run):
    (model,) = make_tiny_zoo(32)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    answers = superclass_classifier(model)(pictures)
    batch = torch.stack([model.preprocessing(Image.fromarray(picture)) for picture in pictures])
    with torch.inference_mode():
        plain = model.network(batch).argmax(1)
    assert answers.tolist() == [IN9_OF_INDEX.get(int(index), "") for index in plain]


def test_a_challenge_runs_from_end_to_end(run, tmp_path):
    write_variants(tmp_path / "in9", imitate(run.run_folder, limit=6, seed=0).plan, progress=False)
    foregrounds, behind = challenge_of_folder(read_in9(tmp_path / "in9"))
    (model,) = make_tiny_zoo(32)
    classifiers = {model.name: superclass_classifier(model)}
    outcomes = challenge_accuracy(foregrounds, behind, classifiers, seed=0, progress=False)
    assert len(outcomes) == 6
    assert not outcomes["robust"].any(), "random weights do not know a lion from a goldfish"
