"""On features whose structure is known the penalty must remove the leak and nothing else."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from d3s_utils import invariant_features
from d3s_utils.atomic_files import sha256_of
from d3s_utils.classifiers import Predictions
from d3s_utils.dependence import DEPENDENCES
from d3s_utils.invariant_features import SplitProjection, cached_backbone_features, learn_features, split_pictures
from d3s_utils.probes import cross_probes
from d3s_utils.randomness import numpy_generator, torch_generator

SMALL = {
    "components": 16,
    "foreground_width": 6,
    "background_width": 6,
    "critic_width": 32,
    "warmup_steps": 60,
    "steps": 240,
    "batch_size": 64,
    "learning_rate": 5e-3,
}
FOREGROUNDS, BACKGROUNDS = 3, 4


def _mixed(count: int, *, seed: int, width: int = 24) -> tuple[np.ndarray, pd.DataFrame]:
    """x = A onehot(foreground) + B onehot(background) + noise, with a random A and B."""
    mixing = numpy_generator(0, "mixing")
    first, second = 3 * mixing.normal(size=(FOREGROUNDS, width)), 3 * mixing.normal(size=(BACKGROUNDS, width))
    random = numpy_generator(seed, "noise")
    labels = pd.DataFrame({"guide": np.arange(count) // BACKGROUNDS, "background": np.arange(count) % BACKGROUNDS})
    labels["foreground"] = labels["guide"] % FOREGROUNDS
    noise = random.normal(size=(count, width))
    return first[labels["foreground"]] + second[labels["background"]] + noise, labels


def _learn(method: str, seed: int = 0, **options):
    features, labels = _mixed(360, seed=1)
    foreground, background = labels["foreground"].to_numpy(), labels["background"].to_numpy()
    return learn_features(features, foreground, background, method=method, seed=seed, **(SMALL | options))


@pytest.fixture(scope="module")
def learned():
    """Features learned with each method, once for all tests."""
    return {method: _learn(method) for method in ("none", "wasserstein")}


def _probes(features) -> pd.Series:
    (train, train_labels), (test, test_labels) = _mixed(360, seed=1), _mixed(360, seed=2)
    table, _ = cross_probes(features(train), features(test), train_labels, test_labels, group="guide", seed=0)
    return table[~table["fresh"]].set_index("probe")["value"]


def test_without_the_penalty_each_half_tells_both_labels(learned):
    values = _probes(learned["none"])
    assert values["foreground_from_foreground"] > 0.95
    assert values["background_from_background"] > 0.95
    assert values["foreground_from_background"] > 1 / FOREGROUNDS + 0.2
    assert values["background_from_foreground"] > 1 / BACKGROUNDS + 0.2


def test_with_the_penalty_the_leak_falls_to_near_chance_and_the_diagonal_stays(learned):
    values = _probes(learned["wasserstein"])
    assert values["foreground_from_foreground"] > 0.92
    assert values["background_from_background"] > 0.92
    assert values["foreground_from_background"] < 1 / FOREGROUNDS + 0.15
    assert values["background_from_foreground"] < 1 / BACKGROUNDS + 0.15


def test_learned_features_are_white_whatever_the_method(learned):
    features, _ = _mixed(360, seed=1)
    for method in learned.values():
        for half in method(features).values():
            assert np.allclose(np.cov(half.T, bias=True), np.eye(6), atol=0.02)


def test_history_tells_each_part_of_the_loss(learned):
    history = learned["wasserstein"].history
    assert history.columns.tolist() == invariant_features.HISTORY_COLUMNS
    assert history["step"].iloc[-1] == 240
    warmup = history[history["step"] <= 60]
    assert (warmup[["foreground_dependence", "background_dependence"]] == 0).all(axis=None)
    assert (history[history["step"] > 60][["foreground_dependence", "background_dependence"]] != 0).all(axis=None)
    assert history["foreground_cross_entropy"].iloc[0] > history["foreground_cross_entropy"].iloc[-1]


@pytest.mark.parametrize("method", ["none", "wasserstein"])
def test_the_seed_decides_everything(method):
    options = {"steps": 12, "warmup_steps": 5}
    before = torch.random.get_rng_state()
    first, again = _learn(method, **options), _learn(method, **options)
    other = _learn(method, seed=1, **options)
    assert torch.equal(before, torch.random.get_rng_state())
    pd.testing.assert_frame_equal(first.history, again.history, check_exact=True)
    assert torch.equal(first.projection.foreground_weight, again.projection.foreground_weight)
    assert not torch.equal(first.projection.foreground_weight, other.projection.foreground_weight)


@pytest.mark.parametrize("method", sorted(DEPENDENCES))
def test_a_killed_run_goes_on_to_the_same_weights(method, tmp_path, monkeypatch):
    options = {"steps": 12, "warmup_steps": 3, "log_every": 1}
    whole = _learn(method, **options)
    save, saved = invariant_features.save_atomically, []

    def save_then_die(state, path):
        save(state, path)
        saved.append(state["step"])
        raise KeyboardInterrupt

    options |= {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 5}
    for step in (5, 10):
        monkeypatch.setattr(invariant_features, "save_atomically", save_then_die)
        with pytest.raises(KeyboardInterrupt):
            _learn(method, **options)
        assert saved[-1] == step
    monkeypatch.setattr(invariant_features, "save_atomically", save)
    resumed = _learn(method, **options)
    for name, weights in whole.projection.state_dict().items():
        assert torch.equal(weights, resumed.projection.state_dict()[name]), name
    pd.testing.assert_frame_equal(whole.history, resumed.history, check_exact=True)


def test_a_finished_run_is_not_repeated_and_another_is_not_mistaken_for_it(tmp_path, monkeypatch):
    options = {"steps": 6, "warmup_steps": 2, "checkpoint": tmp_path / "run.pt"}
    first = _learn("none", **options)
    with monkeypatch.context() as context:
        context.setattr(SplitProjection, "cross_entropies", None)
        again = _learn("none", **options)
    assert torch.equal(first.projection.foreground_weight, again.projection.foreground_weight)
    other = _learn("none", seed=1, **options)
    assert torch.equal(other.projection.foreground_weight, _learn("none", seed=1, steps=6, warmup_steps=2)
                       .projection.foreground_weight)  # fmt: skip
    (tmp_path / "run.pt").write_bytes((tmp_path / "run.pt").read_bytes()[:200])
    mended = _learn("none", **options)
    assert torch.equal(first.projection.foreground_weight, mended.projection.foreground_weight)


def test_both_methods_start_from_the_same_place():
    first, second = (_learn(method, steps=5, warmup_steps=5).projection for method in ("none", "wasserstein"))
    assert torch.equal(first.foreground_weight, second.foreground_weight)


def test_projection_has_orthonormal_columns():
    projection = SplitProjection(
        input_width=9, foreground_width=4, background_width=2, foreground_count=3, background_count=2, seed=0
    )
    for basis in projection.bases():
        assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5)
    white = torch.randn(5, 9, generator=torch_generator(0, "white"))
    assert [part.shape for part in projection(white)] == [(5, 4), (5, 2)]


def test_projection_wider_than_its_input_is_named():
    with pytest.raises(ValueError, match="background_width must be between 1 and the input's width \\(4\\), got 5"):
        SplitProjection(
            input_width=4, foreground_width=4, background_width=5, foreground_count=3, background_count=2, seed=0
        )


def test_fewer_pictures_than_components_are_enough():
    features, labels = _mixed(12, seed=1)
    foreground, background = labels["foreground"].to_numpy(), labels["background"].to_numpy()
    options = SMALL | {"components": 500, "foreground_width": 400, "steps": 8, "warmup_steps": 4}
    learned = learn_features(features, foreground, background, method="wasserstein", seed=0, **options)
    assert {name: half.shape for name, half in learned(features).items()} == {
        "foreground": (12, 11),
        "background": (12, 6),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frozen_features": np.zeros((2, 3))}, "frozen_features must have shape"),
        ({"frozen_features": np.full((20, 3), np.inf)}, "frozen_features must be finite, got 20 rows"),
        ({"foreground": np.zeros(20, int)}, "foreground must be labels 0, 1, … without a gap, .* got \\[0\\]"),
        ({"background": np.arange(20) % 2 * 2}, "background must be labels .* got \\[0, 2\\]"),
        ({"background": np.arange(20) % 2 * 0.5}, "background must be 20 integers, got float64"),
        ({"foreground": np.arange(19) % 2}, "foreground must be 20 integers"),
        ({"method": "magic"}, "method must be one of none, .*, got 'magic'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"critic_steps": 0}, "critic_steps must be at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {
        "frozen_features": np.random.default_rng(0).normal(size=(20, 3)),
        "foreground": np.arange(20) % 2,
        "background": np.arange(20) % 3,
        "method": "none",
        "seed": 0,
    } | change
    with pytest.raises(ValueError, match=message):
        learn_features(**given)


@pytest.fixture
def validated():
    """Four training and three held-out pictures; the last one's background was never trained."""
    return pd.DataFrame(
        {
            "split": ["train"] * 4 + ["val"] * 3,
            "synset": ["n2", "n1"] * 3 + ["n1"],
            "class_name": ["two", "one"] * 3 + ["one"],
            "background": ["snow", "snow", "cave", "cave", "snow", "cave", "road"],
            "foreground_id": list("abcdefg"),
        }
    )


def test_pictures_are_parted_and_those_with_an_unknown_label_are_counted(validated):
    data = split_pictures(validated, np.arange(14).reshape(7, 2))
    assert data.train["foreground_id"].tolist() == list("abcd")
    assert data.test["foreground_id"].tolist() == list("ef")
    assert (data.train_features[:, 0].tolist(), data.test_features[:, 0].tolist()) == ([0, 2, 4, 6], [8, 10])
    assert data.left_out == 1
    assert data.numbers("foreground", data.train).tolist() == [1, 0, 1, 0]
    assert data.numbers("background", data.test).tolist() == [1, 0]


def test_pictures_that_cannot_be_parted_are_named(validated):
    with pytest.raises(ValueError, match="validated ones of split val with labels that train has, got none"):
        split_pictures(validated.query("split == 'train'"), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="must have the column synset"):
        split_pictures(validated.drop(columns="synset"), np.zeros((7, 2)))
    with pytest.raises(ValueError, match="a row for each of 7 pictures, got 6"):
        split_pictures(validated, np.zeros((6, 2)))


@pytest.fixture
def pictures(tmp_path):
    """A table of three small pictures below `tmp_path`."""
    rows = []
    for number in range(3):
        Image.new("RGB", (16, 16), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append({"image_id": f"picture-{number}", "file": f"{number}.png"})
    return pd.DataFrame(rows).assign(sha256=[sha256_of(tmp_path / row["file"]) for row in rows])


@pytest.fixture
def backbone(monkeypatch):
    """A backbone that counts its calls: its features are a picture's mean colour, NaN where there is no file."""
    calls = []

    class Stub:
        sha256 = "a" * 64

    def predict(classifiers, files, **options):
        calls.append(len(files))
        features = np.full((len(files), 3), np.nan, np.float32)
        for place, file in enumerate(files):
            if file.exists():
                features[place] = np.asarray(Image.open(file)).mean((0, 1))
        return {"stub": Predictions(np.zeros((len(files), 1000)), features, {})}

    monkeypatch.setattr(invariant_features, "load_classifier", lambda name, device: Stub())
    monkeypatch.setattr(invariant_features, "predict", predict)
    calls_and_class = calls, Stub
    return calls_and_class


def _cached(pictures, folder):
    return cached_backbone_features(folder / "cache" / "features.npz", pictures, root=folder, backbone="stub")


def test_features_are_computed_once(pictures, backbone, tmp_path):
    first, again = _cached(pictures, tmp_path), _cached(pictures, tmp_path)
    assert backbone[0] == [3]
    assert (first.from_cache, again.from_cache) == (False, True)
    assert np.array_equal(first.features, again.features)
    assert first.features[:, 0].tolist() == [0, 80, 160]


@pytest.mark.parametrize("what", ["weights", "picture", "order", "torn cache", "other file"])
def test_features_are_computed_again_when_something_changed(pictures, backbone, tmp_path, what):
    _cached(pictures, tmp_path)
    cache = tmp_path / "cache" / "features.npz"
    if what == "weights":
        backbone[1].sha256 = "b" * 64
    elif what == "picture":
        pictures.loc[1, "sha256"] = "0" * 64
    elif what == "order":
        pictures = pictures.iloc[::-1]
    elif what == "torn cache":
        cache.write_bytes(cache.read_bytes()[:100])
    else:
        cache.write_bytes(b"not an archive")
    second = _cached(pictures, tmp_path)
    assert (backbone[0], second.from_cache) == ([3, 3], False)
    assert _cached(pictures, tmp_path).from_cache


def test_an_unreadable_picture_is_told_apart(pictures, backbone, tmp_path):
    (tmp_path / "1.png").unlink()
    found = _cached(pictures, tmp_path)
    assert found.readable.tolist() == [True, False, True]
    assert found.weights_sha256 == "a" * 64


def test_no_readable_picture_is_an_error(pictures, backbone, tmp_path):
    with pytest.raises(ValueError, match=r"must hold a readable one, got 3 that are not, such as 'gone.png'"):
        _cached(pictures.assign(file="gone.png"), tmp_path)
    with pytest.raises(ValueError, match="it lacks sha256"):
        _cached(pictures.drop(columns="sha256"), tmp_path)
    with pytest.raises(ValueError, match="it lacks rows"):
        _cached(pictures.iloc[:0], tmp_path)
