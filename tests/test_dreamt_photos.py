"""Foregrounds and templates dreamt by a tiny model: resumed, retried, reported."""

import numpy as np
import pytest
import torch

from d3s_utils import dreamt_photos
from d3s_utils.dreaming import DreamOptions
from d3s_utils.dreamt_photos import Dreamer, dream_foregrounds, dream_templates
from d3s_utils.photos import read_photo
from d3s_utils.taxonomy import classes_of

CLASSES = classes_of(["lion", "goldfish"])


def dreamer(pipeline, *, steps: int = 2, seed: int = 0) -> Dreamer:
    options = DreamOptions(strength=1.0, steps=steps, guidance_scale=2.0)
    return Dreamer(pipeline, options, size=64, batch_size=3, seed=seed)


def dream(dreamer, folder):
    return dream_foregrounds(dreamer, CLASSES, train=1, val=1, run_folder=folder, mask_mode="none")


def test_what_is_there_is_not_dreamt_again(pipeline, tmp_path, monkeypatch):
    batches = []
    original = dreamt_photos.dream_batch
    monkeypatch.setattr(dreamt_photos, "dream_batch", lambda *a, **k: batches.append(len(a[1])) or original(*a, **k))
    first = dream(dreamer(pipeline), tmp_path).table
    assert batches == [3, 1]
    assert first.split.tolist() == ["train", "val"] * 2
    pixels = {file: read_photo(tmp_path / file).pixels for file in first.file}
    (tmp_path / first.file[1]).unlink()
    (tmp_path / first.file[2]).write_bytes((tmp_path / first.file[2]).read_bytes()[:-3])
    again = dream(dreamer(pipeline), tmp_path).table
    assert batches == [3, 1, 2]
    assert again.seed.tolist() == first.seed.tolist()
    for file, expected in pixels.items():
        np.testing.assert_allclose(read_photo(tmp_path / file).pixels.astype(int), expected, atol=1)
    dream(dreamer(pipeline, steps=3), tmp_path)
    assert batches == [3, 1, 2, 3, 1]


def test_black_pictures_get_a_new_seed_then_are_reported(pipeline, tmp_path, monkeypatch):
    original, bad_seeds = dreamt_photos.dream_batch, set()

    def sometimes_black(pipeline, prompts, seeds, **options):
        pictures = original(pipeline, prompts, seeds, **options).clamp(0.2, 1)
        broken = torch.tensor([seed in bad_seeds for seed in seeds])
        return torch.where(broken[:, None, None, None], torch.nan, pictures)

    monkeypatch.setattr(dreamt_photos, "dream_batch", sometimes_black)
    this = dreamer(pipeline)
    prompt = dreamt_photos.object_prompt(CLASSES[0])
    bad_seeds |= {this.recipe("n02129165-0000", prompt, 0)["seed"]}
    bad_seeds |= {this.recipe("n02129165-0001", prompt, attempt)["seed"] for attempt in range(3)}
    gathered = dream(this, tmp_path)
    assert gathered.table.foreground_id.tolist() == ["n02129165-0000", "n01443537-0000", "n01443537-0001"]
    assert gathered.table.seed[0] == this.recipe("n02129165-0000", prompt, 1)["seed"]
    assert gathered.skipped.source_name.tolist() == ["01_compositing/foregrounds/n02129165-0001.png"]
    assert gathered.skipped.reason.tolist() == ["dreamt not finite 3 times"]
    assert not (tmp_path / gathered.skipped.source_name[0]).exists()


def test_templates_of_one_background_share_no_seed_between_splits(pipeline, tmp_path):
    wanted = [("snow", "train"), ("snow", "val"), ("cave", "val")]
    table = dream_templates(dreamer(pipeline), wanted, number=3, train_share=0.6, run_folder=tmp_path).table
    assert table.groupby(["background", "split"]).size().to_dict() == {
        ("cave", "val"): 1, ("snow", "train"): 2, ("snow", "val"): 1,
    }  # fmt: skip
    assert table.seed.is_unique
    assert (
        table.prompt == [f"a photo of a scene, {'in snow' if b == 'snow' else 'in a cave'}" for b in table.background]
    ).all()


def test_dreams_have_no_alpha(pipeline, tmp_path):
    with pytest.raises(ValueError, match="mask_mode 'alpha' needs photos"):
        dream_foregrounds(dreamer(pipeline), CLASSES, train=1, val=1, run_folder=tmp_path, mask_mode="alpha")


def test_the_critics_favourites_are_kept(pipeline, tmp_path, monkeypatch):
    marks = {"n02129165-0000": 0.1, "n02129165-0001": 0.8, "n02129165-0002": 0.3, "n02129165-0003": 0.9}

    def asked(files, synsets, *, device):
        assert device == "cpu"
        assert len(files) == len(synsets) == 8
        return np.array([marks.get(file.stem, 0.5) for file in files])

    monkeypatch.setattr(dreamt_photos, "recognisability", asked)
    options = {"train": 1, "val": 1, "run_folder": tmp_path, "mask_mode": "none"}
    table = dream_foregrounds(dreamer(pipeline), CLASSES, candidates=2, **options).table
    assert table.foreground_id.tolist() == ["n02129165-0001", "n02129165-0003", "n01443537-0000", "n01443537-0001"]
    assert table.split.tolist() == ["train", "val"] * 2
    assert table.recognised.tolist() == [0.8, 0.9, 0.5, 0.5]
    assert dream_foregrounds(dreamer(pipeline), CLASSES, **options).table.recognised.isna().all()
    with pytest.raises(ValueError, match="candidates must be at least 1, got 0"):
        dream_foregrounds(dreamer(pipeline), CLASSES, candidates=0, **options)
