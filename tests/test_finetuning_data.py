"""Labels become numbers, and batches hang on their number alone."""

import random

import numpy as np
import pandas as pd
import pytest
import torch

from d3s_utils.finetuning_data import NO_BACKGROUND, BatchPlan, finetuning_data, plain_photos, seeded_choices

PHOTOS = pd.DataFrame({"file": ["a.jpg"], "foreground": ["dog"]})
PICTURES = pd.DataFrame({"file": ["b.png", "/c.png"], "foreground": ["cat", "dog"], "background": ["sand", "cave"]})
HELD_OUT = pd.DataFrame({"file": ["d.png", "e.png"], "foreground": ["dog", "cat"], "background": ["sand", np.nan]})


def test_labels_are_numbered_by_name_and_files_lie_below_the_root(tmp_path):
    data = finetuning_data(PHOTOS, PICTURES, HELD_OUT, root=tmp_path)
    assert (data.foregrounds, data.backgrounds, data.photo_count) == (["cat", "dog"], ["cave", "sand"], 1)
    assert data.training.foregrounds.tolist() == [1, 0, 1]
    assert data.training.backgrounds.tolist() == [NO_BACKGROUND, 1, 0]
    assert data.held_out.backgrounds.tolist() == [1, NO_BACKGROUND]
    assert [str(file) for file in data.training.files] == [str(tmp_path / "a.jpg"), str(tmp_path / "b.png"), "/c.png"]
    assert finetuning_data(None, PICTURES, HELD_OUT, root=tmp_path).photo_count == 0


def test_plain_photos_are_listed_by_class(tmp_path):
    for name in ("lion/a.jpg", "n01443537/deep/b.PNG", "lion/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = plain_photos(tmp_path)
    assert found["foreground"].tolist() == ["n02129165", "n01443537"]
    assert found["file"].tolist() == [str(tmp_path / "lion/a.jpg"), str(tmp_path / "n01443537/deep/b.PNG")]
    with pytest.raises(ValueError, match="photos must be a folder with a folder for each class, got 'nowhere'"):
        plain_photos(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="photos must hold pictures in folders named by class, got none in 'lion'"):
        plain_photos(tmp_path / "lion")
    (tmp_path / "chair of mine").mkdir()
    (tmp_path / "chair of mine" / "c.jpg").touch()
    with pytest.raises(ValueError, match="chair of mine"):
        plain_photos(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pictures": PICTURES.drop(columns="background")}, "pictures must have the column background, got file, fore"),
        ({"pictures": PICTURES.iloc[:0]}, "pictures must have rows, got none"),
        ({"pictures": HELD_OUT}, "pictures must have a background in each row, got none in row 1"),
        ({"pictures": PICTURES.assign(background="sand")}, "two labels or more in the column background, got 'sand'"),
        ({"photos": PICTURES}, "photos must have no background: put a row that has one into pictures"),
        ({"held_out": HELD_OUT.assign(foreground="owl")}, "held_out must have labels that training has, .* 'owl'"),
    ],
)  # fmt: skip
def test_wrong_tables_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        finetuning_data(**({"photos": PHOTOS, "pictures": PICTURES, "held_out": HELD_OUT} | changed), root=".")


def _plan(**changed) -> BatchPlan:
    sizes = {"photo_count": 5, "picture_count": 7, "photos_per_batch": 2, "pictures_per_batch": 4}
    return BatchPlan(**(sizes | {"warmup_steps": 2, "critic_steps": 3, "seed": 0} | changed))


def test_every_epoch_shows_each_picture_once():
    rows = [row for number in range(35) for row, _ in _plan().draws("model", number)]
    # 35 batches of 2 are 14 epochs of 5 photos, 35 of 4 are 20 epochs of 7 pictures.
    assert np.bincount(rows).tolist() == [14] * 5 + [20] * 7
    first_epoch = [row for number in range(3) for row, _ in _plan().draws("model", number) if row >= 5][:7]
    assert sorted(first_epoch) == list(range(5, 12))


def test_every_view_of_a_picture_has_its_own_seed_and_streams_differ():
    draws = [draw for number in range(20) for draw in _plan().draws("model", number)]
    assert len({seed for _, seed in draws}) == len(draws)
    assert _plan().draws("model", 3) != _plan().draws("critics", 3)
    assert _plan().draws("model", 3) != _plan(seed=1).draws("model", 3)


def test_processes_share_a_batch():
    whole = _plan().draws("model", 4)
    parts = [_plan().draws("model", 4, process=process, processes=2) for process in range(2)]
    assert [len(part) for part in parts] == [3, 3]
    assert [*parts[0][:1], *parts[1][:1], *parts[0][1:], *parts[1][1:]] == whole


def test_a_run_that_starts_later_gets_the_rest_of_the_batches():
    whole = list(_plan().batches(0, 5))
    assert len(whole) == 2 + 3 * 4
    assert list(_plan().batches(3, 5)) == whole[6:]


def test_seeded_choices_repeat_and_put_every_generator_back():
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), torch.rand(1).item()

    before = random.getstate(), torch.random.get_rng_state()
    with seeded_choices(3):
        first = draw()
    assert random.getstate() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    draw()
    with seeded_choices(3):
        assert draw() == first
