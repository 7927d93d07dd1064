"""Reference photos: the user's own, the shared ones, or none."""

import numpy as np
import pytest
from PIL import Image
from tiny_outputs import tiny_settings, write_tiny_outputs
from tiny_zoo import make_tiny_zoo

from d3s_utils.classifiers import read_picture
from d3s_utils.image_sets import ImageSetError
from d3s_utils.one_pass import evaluate
from d3s_utils.reference_photos import find_reference_photos, realism_reference


def test_a_users_folder_is_read_and_bad_photos_are_problems(tmp_path):
    for folder in ("n02129165", "banana"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            Image.fromarray(np.full((20, 30, 3), number * 40, np.uint8)).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "banana" / "bad.jpg").write_bytes(b"no photo")
    (photos,) = find_reference_photos(str(tmp_path), limit=100, seed=0)
    assert len(photos) == 7
    found = evaluate(make_tiny_zoo(32), photos)
    assert len(found.scores) == 6
    assert found.problems["problem"].str.contains("cannot be read").tolist() == [True]
    assert sorted(set(photos.table["imagenet_index"])) == [291, 954]
    assert set(photos.table["in9"]) == {"carnivore", ""}
    (fewer,) = find_reference_photos(str(tmp_path), limit=2, seed=0)
    assert len(fewer) == 2


def test_a_wrong_folder_is_named(tmp_path):
    with pytest.raises(ImageSetError, match="missing"):
        find_reference_photos(str(tmp_path / "missing"), limit=5, seed=0)


def test_without_any_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("D3S_SHARED_DATA", str(tmp_path))
    assert find_reference_photos(None, limit=5, seed=0) == []


def test_shared_photos_are_found(shared_data, monkeypatch):
    monkeypatch.setenv("D3S_SHARED_DATA", str(shared_data))
    full, tiny = find_reference_photos(None, limit=4, seed=0)
    assert len(full) == len(tiny) == 4
    assert all(tiny.table["in9"])
    assert min(read_picture(full.pictures[0]).size) > 64


def test_realism_is_held_against_photos_or_else_against_what_the_set_was_made_from(tmp_path, monkeypatch):
    monkeypatch.setenv("D3S_SHARED_DATA", str(tmp_path))
    settings = tiny_settings(tmp_path, guides_per_class_train=1)
    write_tiny_outputs(settings, until="01_compositing")
    options = {"limit": 3, "side": 32, "seed": 0}
    name, pictures = realism_reference(settings.run_folder, real_photos=None, **options)
    assert name == "the set's own foregrounds"
    assert {picture.shape for picture in pictures} == {(32, 32, 3)}
    assert len(pictures) == 4
    (settings.folder("01_compositing") / "foregrounds.parquet").unlink()
    assert realism_reference(settings.run_folder, real_photos=None, **options)[0] == "the set's own guides"
    (tmp_path / "photos" / "lion").mkdir(parents=True)
    Image.fromarray(np.full((20, 40, 3), 9, np.uint8)).save(tmp_path / "photos" / "lion" / "a.png")
    name, pictures = realism_reference(settings.run_folder, real_photos=str(tmp_path / "photos"), **options)
    assert "photos" in name
    assert pictures[0].shape == (32, 32, 3)
