"""Fine-tuning learns, forgets what it should, stops in time, and goes on after a kill to the same weights."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from coloured_shapes import COLOURS, SHAPES, every_pair, make_tables
from PIL import Image
from sklearn.linear_model import LogisticRegression
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from d3s_utils import finetuning, split_game
from d3s_utils.dependence import measure_dependence
from d3s_utils.finetuned_features import load_finetuned
from d3s_utils.finetuning import CHECKPOINT, LOGS, RESULT, finetune
from d3s_utils.photos import PhotoError
from d3s_utils.split_game import PARTS, SplitGame

TINY = {
    "pretrained": False, "image_size": 32, "device": "cpu", "batch_size": 8, "photo_share": 0.25, "critic_steps": 2,
    "critic_width": 8, "warmup_steps": 2, "steps": 6, "log_every": 1, "evaluate_every": 2, "checkpoint_every": 3,
    "patience": None,
}  # fmt: skip
LEARNING = TINY | {
    "batch_size": 24, "background_width": 32, "warmup_steps": 10, "steps": 60,
    "learning_rate": 2e-3, "penalty_weight": 5.0, "evaluate_every": 60, "checkpoint_every": 60, "log_every": 10,
    "augmentation": {"color_jitter": None, "scale": (0.8, 1.0)},
}  # fmt: skip
HSIC = {"method": "hsic", "seed": 0}  # it learns nothing, so one set of pictures is enough


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> dict:
    """The tables and the root of made-up pictures."""
    root = tmp_path_factory.mktemp("shapes")
    return {**make_tables(root), "root": root}


def _tune(shapes: dict, folder: Path, *, backbone: str = "test_resnet", seed: int = 0, **options):
    return finetune(backbone, **shapes, folder=folder, seed=seed, **(TINY | options))


def _assert_same(first, second) -> None:
    """The two results have equal weights and equal histories, bit by bit."""
    own, other = first.network.state_dict(), second.network.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    pd.testing.assert_frame_equal(first.history, second.history, check_exact=True)
    pd.testing.assert_frame_equal(first.evaluations, second.evaluations, check_exact=True)


@pytest.fixture(scope="module")
def uninterrupted(shapes, tmp_path_factory):
    """The result of a tiny run that nothing disturbs, and its folder."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return _tune(shapes, folder), folder


@pytest.fixture(scope="module")
def learned(shapes, tmp_path_factory) -> dict:
    """Features with and without the penalty, learned until the loss is low."""
    return {
        method: _tune(shapes, tmp_path_factory.mktemp(method), **(LEARNING | {"method": method}))
        for method in ("none", "hsic")
    }


def test_the_loss_falls_and_held_out_pictures_are_recognised(learned):
    history = learned["none"].history
    assert history["foreground_cross_entropy"].iloc[-1] < 0.3 * history["foreground_cross_entropy"].iloc[0]
    assert history["background_cross_entropy"].iloc[-1] < 0.3 * history["background_cross_entropy"].iloc[0]
    last = learned["none"].evaluations.iloc[-1]
    assert min(last["foreground_accuracy"], last["background_accuracy"]) > 0.8


def test_the_penalty_lowers_the_dependence_on_new_pictures_and_keeps_the_class(learned):
    (train, train_labels), (test, test_labels) = every_pair(6, seed=7000), every_pair(6, seed=9000)
    colours = torch.from_numpy(test_labels["background"].factorize()[0])
    found = {}
    for method, features in learned.items():
        seen, new = (features(pictures, device="cpu")["foreground"] for pictures in (train, test))
        found[method] = measure_dependence((torch.from_numpy(new), colours), (torch.from_numpy(new), colours), **HSIC)
        probe = LogisticRegression(max_iter=300).fit(seen, train_labels["foreground"])
        assert probe.score(new, test_labels["foreground"]) > 0.8
    assert found["hsic"] < 0.5 * found["none"], found


def test_an_exception_at_any_step_changes_nothing(shapes, uninterrupted, tmp_path, monkeypatch):
    real = SplitGame.model_step
    for cut in (1, 4, 5):  # before the first checkpoint, and twice after it

        def fail_at_the_cut(self, batch, *, step, cut=cut):
            if step == cut:
                raise InterruptedError
            return real(self, batch, step=step)

        monkeypatch.setattr(SplitGame, "model_step", fail_at_the_cut)
        with pytest.raises(InterruptedError):
            _tune(shapes, tmp_path)
    monkeypatch.setattr(SplitGame, "model_step", real)
    _assert_same(_tune(shapes, tmp_path), uninterrupted[0])


KILLED = """
import os, signal, sys
import pandas as pd, torch
from d3s_utils.finetuning import finetune
from d3s_utils.split_game import SplitGame
torch.set_num_threads(int(sys.argv[2]))
real = SplitGame.model_step
def kill_at_step_4(self, batch, *, step):
    if step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, batch, step=step)
SplitGame.model_step = kill_at_step_4
finetune(**pd.read_pickle(sys.argv[1]))
"""


TWO_PROCESSES = """
import sys
import pandas as pd, torch
from accelerate import debug_launcher
from d3s_utils.finetuning import finetune
arguments = pd.read_pickle(sys.argv[1])
debug_launcher(lambda: finetune(**arguments), num_processes=2)
"""


def _run(script: str, arguments: dict, folder: Path) -> subprocess.CompletedProcess:
    """Run a script in its own process, with a file of arguments and this process's number of threads."""
    file = folder / "arguments.pickle"
    pd.to_pickle(arguments, file)
    return subprocess.run(
        [sys.executable, "-c", script, str(file), str(torch.get_num_threads())],
        env=os.environ | {"PYTHONPATH": str(Path(finetuning.__file__).parents[1])},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(shapes, tmp_path):
    """With layer normalisation, which knows no batch, they differ by rounding alone."""
    options = TINY | {"feature_scale": "raw", "learning_rate": 1e-3, "betas": (0.9, 0.999), "photo_share": 0.5}
    arguments = {"backbone": "test_convnext", **shapes, "seed": 0, **options}
    found = _run(TWO_PROCESSES, arguments | {"folder": tmp_path / "two"}, tmp_path)
    assert found.returncode == 0, found.stderr
    two, one = load_finetuned(tmp_path / "two" / RESULT), finetune(**arguments, folder=tmp_path / "one")
    pd.testing.assert_frame_equal(two.history, one.history, rtol=0.02, atol=2e-3)
    pd.testing.assert_frame_equal(two.evaluations, one.evaluations, rtol=0.02, atol=2e-3)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_weights(shapes, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    killed = _run(KILLED, {"backbone": "test_resnet", **shapes, "folder": folder, "seed": 0, **TINY}, tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert torch.load(folder / CHECKPOINT, weights_only=False)["step"] == 3
    _assert_same(_tune(shapes, folder), uninterrupted[0])


def test_the_seed_decides_everything_and_global_generators_stay(shapes, uninterrupted, tmp_path):
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    _assert_same(_tune(shapes, tmp_path / "again"), uninterrupted[0])
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])
    other = _tune(shapes, tmp_path / "other", seed=1, steps=2)
    assert not torch.equal(next(other.network.parameters()), next(uninterrupted[0].network.parameters()))


def test_workers_change_nothing(shapes, uninterrupted, tmp_path):
    _assert_same(_tune(shapes, tmp_path, workers=1), uninterrupted[0])


def test_a_finished_run_is_read_and_another_one_refused(shapes, uninterrupted, monkeypatch):
    result, folder = uninterrupted
    monkeypatch.setattr(SplitGame, "model_step", None)  # nothing may be trained
    _assert_same(_tune(shapes, folder), result)
    with pytest.raises(ValueError, match=r"holds a run with penalty_weight 3.0, got 5.0: choose another folder"):
        _tune(shapes, folder, penalty_weight=5.0)
    with pytest.raises(ValueError, match="holds a run with pictures"):
        _tune(shapes | {"pictures": shapes["pictures"].iloc[1:]}, folder)


def test_logs_and_history_hold_each_part_of_the_loss(uninterrupted):
    result, folder = uninterrupted
    assert result.history.columns.tolist() == ["step", *PARTS]
    dependences = result.history[["foreground_dependence", "background_dependence"]]
    assert (dependences[result.history["step"] <= 2] == 0).all(axis=None)
    assert (dependences[result.history["step"] > 2] != 0).all(axis=None)
    logs = EventAccumulator(str(folder / LOGS)).Reload()
    for name in PARTS:
        logged = [event.value for event in logs.Scalars(f"training/{name}")]
        assert logged == pytest.approx(result.history[name].tolist(), rel=1e-5)
    assert [event.step for event in logs.Scalars("held_out/foreground_accuracy")] == [2, 4, 6]


def test_features_of_files_and_arrays_are_alike_and_split_by_width(shapes, uninterrupted):
    result, _ = uninterrupted
    files = [shapes["root"] / file for file in shapes["held_out"]["file"][:3]]
    arrays, _ = every_pair(1, seed=2000)
    from_files, from_arrays = result(files, device="cpu"), result(arrays[:3], device="cpu")
    assert from_files["foreground"].shape == (3, 84)  # 96 features, of which 250 / 2048 are background's
    assert from_files["background"].shape == (3, 12)
    assert np.array_equal(from_files["foreground"], from_arrays["foreground"])
    assert result([], device="cpu")["background"].shape == (0, 12)
    assert (result.foregrounds, result.backgrounds) == (list(SHAPES), sorted(COLOURS))
    with pytest.raises(ValueError, match=r"a picture must be uint8 of shape \(h, w, 3\), got float64 \(2, 2, 3\)"):
        result([np.zeros((2, 2, 3))], device="cpu")


def _scores(monkeypatch, scores: list[float]) -> None:
    """Let held-out looks find these accuracies, one after the other."""
    left = iter(scores)
    monkeypatch.setattr(
        finetuning, "_evaluate", lambda *_: {"foreground_accuracy": next(left), "foreground_cross_entropy": 1.0}
    )


def test_early_stopping_keeps_the_best_and_stops_after_patience(shapes, tmp_path, monkeypatch):
    _scores(monkeypatch, [0.9, 0.5, 0.7, 0.7, 0.6, 0.8])
    options = {"method": "none", "warmup_steps": 0, "evaluate_every": 1, "earliest_best": 2, "patience": 2}
    result = _tune(shapes, tmp_path, **options)
    assert result.stopped_early
    assert result.evaluations["step"].tolist() == [1, 2, 3, 4, 5], "0.9 does not count, 0.7 has two chances"
    assert result.best_step == 3
    # The kept weights are those after three steps, not those after five.
    _scores(monkeypatch, [0.1, 0.2, 0.3])
    short = _tune(shapes, tmp_path / "short", **(options | {"steps": 3, "earliest_best": 0, "patience": None}))
    assert torch.equal(result.network.foreground_head.weight, short.network.foreground_head.weight)


def test_monitor_of_a_loss_wants_it_low(shapes, tmp_path, monkeypatch):
    left = iter([0.5, 0.2, 0.4])
    monkeypatch.setattr(finetuning, "_evaluate", lambda *_: {"foreground_cross_entropy": next(left)})
    options = {"method": "none", "steps": 3, "evaluate_every": 1, "earliest_best": 0}
    assert _tune(shapes, tmp_path, monitor="foreground_cross_entropy", **options).best_step == 2


def test_a_loss_that_is_not_finite_is_named(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(split_game, "cross_entropy", lambda logits, labels: float("nan") * logits.sum())
    with pytest.raises(FloatingPointError, match="method none: the loss at step 1 is nan"):
        _tune(shapes, tmp_path, method="none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method must be one of none, .* got 'magic'"),
        ({"foreground_width": 90, "background_width": 9}, "add up to the backbone's 96 features, got 90 and 9"),
        ({"feature_scale": "large"}, "feature_scale must be one of standardised, raw, got 'large'"),
        ({"photo_share": 1.0}, r"photo_share must be in \[0, 1\), got 1.0"),
        ({"batch_size": 8, "photo_share": 0.9}, "at least 2 with a background, got 8 with 7 plain photos"),
        ({"method": "hsic", "batch_size": 4, "photo_share": 0.25}, "at least 4 with a background, got 4 with 1"),
        ({"monitor": "luck"}, "monitor must be one of foreground_accuracy, .* got 'luck'"),
        ({"critic_width": "half"}, "critic_width must be 'halving' or an integer of at least 1, got 'half'"),
        ({"critic_width": True}, "critic_width must be 'halving' or an integer of at least 1, got True"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        ({"earliest_best": 7}, r"earliest_best must be at most steps \(6\), got 7"),
    ],
)
def test_wrong_options_are_named(shapes, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        _tune(shapes, tmp_path, **({"steps": 6} | options))


def test_a_broken_picture_is_named(shapes, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    pictures = shapes["pictures"].assign(file=str(tmp_path / "broken.png"))
    with pytest.raises(PhotoError, match=r"broken\.png cannot be read"):
        _tune(shapes | {"pictures": pictures}, tmp_path / "run")


def test_a_backbone_in_a_local_folder_is_trained_and_read_back(shapes, tmp_path):
    network = timm.create_model("test_resnet", num_classes=10)
    timm.models.save_for_hf(network, tmp_path / "own", safe_serialization=True)
    options = {"backbone": str(tmp_path / "own"), "pretrained": True, "steps": 1, "warmup_steps": 1}
    first, second = (_tune(shapes, tmp_path / "run", **options) for _ in range(2))
    _assert_same(first, second)


def test_a_run_of_other_pictures_is_not_taken_for_this_one(tmp_path):
    shapes = {**make_tables(tmp_path / "shapes"), "root": tmp_path / "shapes"}
    _tune(shapes, tmp_path / "run", steps=1, warmup_steps=1)
    changed = tmp_path / "shapes" / shapes["pictures"]["file"].iloc[0]
    Image.new("RGB", (77, 77), "red").save(changed)
    with pytest.raises(ValueError, match="holds a run with pictures"):
        _tune(shapes, tmp_path / "run", steps=1, warmup_steps=1)
