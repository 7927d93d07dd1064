"""Pairs within classes against slow ways, and LPIPS on an AlexNet with random weights."""

from itertools import combinations
from pathlib import Path

import lpips
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import alexnet

from d3s_utils.classifiers import PictureError
from d3s_utils.lpips_diversity import (
    HUB_FILE,
    FeatureDistance,
    LpipsError,
    choose_distance,
    diversity_by_class,
    draw_pairs,
    load_lpips,
    overall_diversity,
)
from d3s_utils.randomness import numpy_generator


class Apart:
    """The distance of two numbers; remembers what it was shown."""

    name = "difference"

    def __init__(self):
        self.pairs = []

    def prepare(self, picture):
        return torch.tensor([float(picture)])

    def __call__(self, first, second):
        self.pairs += zip(first[:, 0].tolist(), second[:, 0].tolist(), strict=True)
        return (first - second).abs()[:, 0].numpy()


@pytest.fixture(scope="module")
def state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {key: value for key, value in alexnet(weights=None).state_dict().items() if key.startswith("features")}


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory):
    file = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save(state, file)
    return file


@pytest.fixture(scope="module")
def perceptual(weights):
    return load_lpips(weights, side=64)


@pytest.fixture(scope="module")
def pictures():
    return list(numpy_generator(0, "pictures").integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))


def test_equal_pictures_are_at_no_distance_and_the_order_does_not_matter(perceptual, pictures):
    batch = torch.stack([perceptual.prepare(picture) for picture in pictures])
    assert perceptual(batch, batch).tolist() == [0] * 4
    there, back = perceptual(batch[:2], batch[2:]), perceptual(batch[2:], batch[:2])
    np.testing.assert_allclose(there, back, rtol=1e-5)
    assert (there > 1e-4).all()
    slight = (batch[:2] + 0.05 * batch[2:]).clamp(-1, 1)
    assert (perceptual(batch[:2], slight) < there).all()


def test_it_is_lpips_written_out_with_the_weights_given(perceptual, state, pictures):
    layers = torch.load(Path(lpips.__file__).parent / "weights/v0.1/alex.pth", map_location="cpu")
    model = alexnet(weights=None).features.eval()
    model.load_state_dict({key.removeprefix("features."): value for key, value in state.items()})
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    found = []
    for picture in pictures[:2]:
        x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
        x, maps = (x - shift[:, None, None]) / scale[:, None, None], []
        for place, layer in enumerate(model):
            x = layer(x) if not isinstance(layer, torch.nn.ReLU) else x.relu()
            if place in (1, 4, 7, 9, 11):
                maps.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        found.append(maps)
    expected = sum(
        ((a - b).square() * layers[f"lin{k}.model.1.weight"]).sum(1).mean()
        for k, (a, b) in enumerate(zip(*found, strict=True))
    )
    batch = torch.stack([perceptual.prepare(picture) for picture in pictures[:2]])
    assert perceptual(batch[:1], batch[1:])[0] == pytest.approx(float(expected.detach()), rel=1e-4)


def test_weights_load_from_either_kind_of_file_and_from_the_cache(
    weights, state, perceptual, pictures, tmp_path, monkeypatch
):
    save_file(state, tmp_path / "alexnet.safetensors")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(LpipsError, match=rf"backbone_weights: torch\.hub's cache has no {HUB_FILE}; give a local file"):
        load_lpips(None)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / HUB_FILE).write_bytes(weights.read_bytes())
    batch = torch.stack([perceptual.prepare(picture) for picture in pictures])
    for source in (tmp_path / "alexnet.safetensors", None):
        same = load_lpips(source, side=64)
        np.testing.assert_array_equal(same(batch[:2], batch[2:]), perceptual(batch[:2], batch[2:]))
    assert same.sha256 == perceptual.sha256
    assert perceptual.name == "LPIPS (AlexNet, 64 px)"


def test_loading_leaves_the_global_generator_alone(weights):
    before = torch.get_rng_state()
    load_lpips(weights)
    assert torch.equal(torch.get_rng_state(), before)


def test_files_that_are_no_alexnet_are_refused(state, tmp_path):
    with pytest.raises(LpipsError, match=r"there is no file .*nowhere\.pth; give a local file"):
        load_lpips(tmp_path / "nowhere.pth")
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "text.safetensors").write_text("not weights")
    torch.save({key: value for key, value in state.items() if key != "features.3.bias"}, tmp_path / "lacks.pth")
    torch.save(state | {"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "narrow.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, why in {
        "text.pth": "UnpicklingError", "text.safetensors": "SafetensorError", "lacks.pth": r"features\.3\.bias",
        "narrow.pth": "size mismatch", "list.pth": "TypeError",
    }.items():  # fmt: skip
        with pytest.raises(LpipsError, match=f"{name} does not hold AlexNet .*{why}"):
            load_lpips(tmp_path / name)
    with pytest.raises(ValueError, match="side must be at least 64 pixels, got 32"):
        load_lpips(tmp_path / "text.pth", side=32)


@pytest.mark.parametrize(("count", "pairs"), [(2, 1), (2, 9), (5, 10), (5, 4), (9, 36), (9, 35), (200, 300)])
def test_pairs_are_drawn_without_repeats_and_never_of_one_thing(count, pairs):
    first, second = draw_pairs(count, pairs, generator=numpy_generator(0, "pairs"))
    drawn = set(zip(first.tolist(), second.tolist(), strict=True))
    every = set(combinations(range(count), 2))
    assert drawn <= every
    assert len(drawn) == len(first) == min(pairs, len(every))


def test_each_pair_is_as_likely_as_another():
    generator = numpy_generator(0, "fair")
    drawn = [tuple(zip(*draw_pairs(4, 2, generator=generator), strict=True)) for _ in range(3000)]
    counts = pd.Series([pair for pairs in drawn for pair in pairs]).value_counts()
    assert len(counts) == 6
    assert (abs(counts - 1000) < 120).all()  # 4.6 standard deviations of 3000 draws with probability 1/3


def test_the_mean_is_that_of_all_pairs_within_the_class():
    values, labels = [0, 1, 10, 14, 2, 30], ["a", "a", "b", "b", "a", "b"]
    distance = Apart()
    table = diversity_by_class(values, labels, distance=distance, pairs_per_class=100, seed=0, batch_size=2)
    assert table["class"].tolist() == ["a", "b"]
    assert table["n"].tolist() == [3, 3]
    assert table["value"].tolist() == pytest.approx([4 / 3, 40 / 3])
    assert sorted(tuple(sorted(pair)) for pair in distance.pairs) == [
        (0, 1),
        (0, 2),
        (1, 2),
        (10, 14),
        (10, 30),
        (14, 30),
    ]
    assert (table["low"] <= table["value"]).all()
    assert (table["high"] >= table["value"]).all()
    overall = overall_diversity(table)
    assert (overall.value, overall.n) == (pytest.approx(22 / 3), 2)


def test_a_class_of_two_has_one_pair_and_no_interval():
    distance = Apart()
    table = diversity_by_class([3, 5], [7, 7], distance=distance, pairs_per_class=50, seed=0)
    assert distance.pairs == [(3, 5)]
    assert (table["value"][0], table["n"][0]) == (2, 1)
    assert table[["low", "high"]].isna().all(axis=None)


def test_a_class_hangs_on_the_seed_and_not_on_its_neighbours():
    values = numpy_generator(0, "values").normal(size=80)
    options = {"distance": Apart(), "pairs_per_class": 30}
    both = diversity_by_class(values, ["a", "b"] * 40, seed=0, **options)
    alone = diversity_by_class(values[1::2], ["b"] * 40, seed=0, batch_size=7, **options)
    pd.testing.assert_frame_equal(both[1:].reset_index(drop=True), alone)
    assert diversity_by_class(values[1::2], ["b"] * 40, seed=1, **options)["value"][0] != alone["value"][0]


@pytest.mark.parametrize("pairs", [1000, 40])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(pairs):
    truth, hits = 2 / np.sqrt(np.pi), 0  # mean distance of two standard normal numbers
    for turn in range(120):
        values = numpy_generator(0, "coverage", turn).normal(size=30)
        row = diversity_by_class(
            values, ["a"] * 30, distance=Apart(), pairs_per_class=pairs, seed=turn, samples=200
        ).iloc[0]  # fmt: skip
        hits += row["low"] <= truth <= row["high"]
    assert 0.87 < hits / 120 < 1


def test_the_stand_in_is_the_cosine_distance_and_says_so():
    distance = FeatureDistance()
    assert "standing in for LPIPS" in distance.name
    features = np.array([[1, 0], [0, 2], [3, 0], [1, 1], [5, 5]], np.float32)
    table = diversity_by_class(features, list("aabbb"), distance=distance, pairs_per_class=9, seed=0)
    assert table["value"].tolist() == pytest.approx([1, 2 / 3 * (1 - np.sqrt(0.5))])
    features[4] = np.nan
    with pytest.raises(ValueError, match="finite features that are not all 0"):
        diversity_by_class(features, list("aabbb"), distance=distance, pairs_per_class=9, seed=0)


def test_lpips_of_files_and_copies(perceptual, pictures, tmp_path):
    for place, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{place}.png")
    files = [tmp_path / f"{place}.png" for place in range(4)]
    options = {"distance": perceptual, "pairs_per_class": 10, "seed": 0, "samples": 50}
    table = diversity_by_class([*files, files[0], files[0]], ["a"] * 4 + ["same"] * 2, **options)
    batch = torch.stack([perceptual.prepare(picture) for picture in pictures])
    slow = np.mean([perceptual(batch[[i]], batch[[j]])[0] for i, j in combinations(range(4), 2)])
    assert table["value"].tolist() == pytest.approx([slow, 0], rel=1e-5)
    with pytest.raises(PictureError, match=r"gone\.png"):
        diversity_by_class([files[0], tmp_path / "gone.png"], ["a", "a"], **options)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["a"], {}, "labels must be one a picture, and some, got 1 for 3"),
        (["a", "a", "b"], {}, "each class at least twice, got 'b' once"),
        (["a"] * 3, {"pairs_per_class": 0}, "pairs_per_class must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(labels, options, message):
    with pytest.raises(ValueError, match=message):
        diversity_by_class([1, 2, 3], labels, distance=Apart(), seed=0, **{"pairs_per_class": 5, **options})


def test_the_stand_in_is_chosen_only_where_nothing_was_named(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert isinstance(choose_distance(), FeatureDistance)
    assert choose_distance(weights).name.startswith("LPIPS")
    with pytest.raises(LpipsError):
        choose_distance(tmp_path / "missing.pth")
