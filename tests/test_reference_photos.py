"""Reference photos: the user's own, the shared ones, or none."""

import numpy as np
import pytest
from PIL import Image

from d3s_utils.photos import PhotoError
from d3s_utils.reference_photos import find_reference_photos


def test_a_users_folder_is_read_and_bad_photos_are_counted(tmp_path):
    for folder in ("n02129165", "banana"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            Image.fromarray(np.full((20, 30, 3), number * 40, np.uint8)).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "banana" / "bad.jpg").write_bytes(b"no photo")
    (photos,) = find_reference_photos(str(tmp_path), limit=100, seed=0)
    assert len(photos.pictures) == len(photos.imagenet_index) == 6
    assert photos.skipped == 1
    assert sorted(set(photos.imagenet_index.tolist())) == [291, 954]
    assert set(photos.in9) == {"carnivore", ""}
    (fewer,) = find_reference_photos(str(tmp_path), limit=2, seed=0)
    assert len(fewer.pictures) + fewer.skipped == 2


def test_a_wrong_folder_is_named(tmp_path):
    with pytest.raises(PhotoError, match="missing"):
        find_reference_photos(str(tmp_path / "missing"), limit=5, seed=0)


def test_without_any_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("D3S_SHARED_DATA", str(tmp_path))
    assert find_reference_photos(None, limit=5, seed=0) == []


def test_shared_photos_are_found(shared_data, monkeypatch):
    monkeypatch.setenv("D3S_SHARED_DATA", str(shared_data))
    full, tiny = find_reference_photos(None, limit=4, seed=0)
    assert len(full.pictures) == len(tiny.pictures) == 4
    assert all(tiny.in9)
    assert min(full.pictures[0].size) > 64
