"""One pass: right answers, each picture decoded once, nothing asked twice, not even after a kill."""

import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from tiny_zoo import TinyNetwork, make_image_set, make_tiny_zoo

from d3s_utils.classifier_zoo import entries_of, load_zoo
from d3s_utils.classifiers import read_picture
from d3s_utils.image_sets import ImageSet
from d3s_utils.one_pass import evaluate, score_logits, waves, without_failed
from d3s_utils.one_pass_speed import benchmark_photos, compare_passes, light_models, time_ratio
from d3s_utils.processes import RunningError
from d3s_utils.taxonomy import IN9, in9_of_logits


def plain_logits(model, images) -> np.ndarray:
    batch = torch.stack([model.preprocessing(read_picture(picture)) for picture in images.pictures])
    with torch.inference_mode():
        return TinyNetwork.forward(model.network, batch).numpy()


def test_the_scores_are_those_of_a_plain_loop():
    models, images = make_tiny_zoo(32, 32, 48), make_image_set(11)
    found = evaluate(models, images, batch_size=4)
    assert found.decoded == 11
    assert found.forward_passes == {model.name: 11 for model in models}
    assert found.problems.empty
    for model in models:
        rows = found.scores[found.scores["model"] == model.name].reset_index(drop=True)
        logits = plain_logits(model, images)
        plain = score_logits(images.table, logits)
        assert rows["picture_id"].tolist() == images.table["picture_id"].tolist()
        for column in ("prediction", "top1", "top5", "in9_right"):
            assert rows[column].tolist() == plain[column].tolist(), column
        np.testing.assert_allclose(rows["probability"], plain["probability"], rtol=1e-4)
        order = np.argsort(-logits, axis=1)[:, :5]
        assert rows[["prediction", *(f"prediction_{k}" for k in range(2, 6))]].to_numpy().tolist() == order.tolist()
        assert rows["in9_prediction"].tolist() == [IN9[k] for k in in9_of_logits(logits)]
        np.testing.assert_array_equal(
            rows["rank"], (logits > logits[range(11), images.table["imagenet_index"]][:, None]).sum(1)
        )


def test_the_batch_changes_nothing():
    models, images = make_tiny_zoo(32, 48), make_image_set(7)
    one, other = (evaluate(models, images, batch_size=size).scores for size in (1, 7))
    pd.testing.assert_frame_equal(one, other, rtol=1e-4)


def test_what_is_known_is_not_asked_again(tmp_path):
    models, images = make_tiny_zoo(32, 48), make_image_set(9)
    first = evaluate(models[:1], images, store=tmp_path)
    both = evaluate(models, images, store=tmp_path)
    assert both.forward_passes == {models[0].name: 0, models[1].name: 9}
    again = evaluate(models, images, store=tmp_path)
    assert (again.decoded, set(again.forward_passes.values())) == (0, {0})
    pd.testing.assert_frame_equal(again.scores, both.scores)
    pd.testing.assert_frame_equal(first.scores, both.scores.iloc[:9])
    more = make_image_set(12)
    assert evaluate(models, more, store=tmp_path).decoded == 3, "pictures are known by what is in them"


def test_other_weights_preprocessing_or_labels_are_asked(tmp_path):
    images = make_image_set(5)
    evaluate(make_tiny_zoo(32), images, store=tmp_path)
    for models in (make_tiny_zoo(32, first_seed=1), make_tiny_zoo(32, crop_fraction=0.9)):
        assert evaluate(models, images, store=tmp_path).forward_passes == {"tiny-0-32": 5}
    relabelled = make_image_set(5, labels=[1, 2, 3, 4, 5])
    assert evaluate(make_tiny_zoo(32), relabelled, store=tmp_path).decoded == 5
    assert evaluate(make_tiny_zoo(32), images, store=tmp_path, precision="bfloat16").decoded == 5


def test_a_picture_that_cannot_be_read_is_a_problem_and_the_others_go_on(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    images = make_image_set(6, folder=folder)
    images.pictures[2].write_bytes(images.pictures[2].read_bytes()[:60])
    images.pictures[4].unlink()
    found = evaluate(make_tiny_zoo(32), images, store=tmp_path / "store", batch_size=3)
    assert found.scores["picture_id"].tolist() == ["p0", "p1", "p3", "p5"]
    assert found.problems["picture_id"].tolist() == ["p2", "p4"]
    assert "003.png" not in found.problems["problem"].str.cat()
    assert evaluate(make_tiny_zoo(32), images, store=tmp_path / "store").forward_passes == {"tiny-0-32": 0}


def test_a_model_that_fails_is_a_problem_and_the_others_go_on():
    models, images = make_tiny_zoo(32, 32), make_image_set(6)
    with torch.no_grad():
        models[0].network.weight[3] = float("nan")
    found = evaluate(models, images)
    assert set(found.scores["model"]) == {"tiny-1-32"}
    assert found.problems[["model", "picture_id"]].to_numpy().tolist() == [["tiny-0-32", ""]]
    assert "not finite" in found.problems["problem"][0]


@pytest.mark.parametrize("error", [AssertionError("input height (32)\n does not match"), RuntimeError(), KeyError("x")])
def test_whatever_a_network_raises_the_others_go_on(error, monkeypatch):
    models, images = make_tiny_zoo(32, 32), make_image_set(4)

    def fail(_):
        raise error

    monkeypatch.setattr(models[0].network, "forward", fail)
    found = evaluate(models, images)
    assert set(found.scores["model"]) == {"tiny-1-32"}
    assert type(error).__name__ in found.problems["problem"][0]
    unavailable = pd.DataFrame(columns=["name", "group", "kind", "source", "error"])
    left, unavailable = without_failed(models, unavailable, found)
    assert [model.name for model in left] == ["tiny-1-32"]
    assert unavailable["name"].tolist() == ["tiny-0-32"]
    with pytest.raises(ValueError, match="none of 1 classifiers could be shown pictures"):
        without_failed(models[:1], unavailable, evaluate(models[:1], images))


def test_out_of_memory_halves_the_batch(monkeypatch):
    (model,), images = make_tiny_zoo(32), make_image_set(7)
    expected, forward, sizes = evaluate([model], images).scores, model.network.forward, []

    def scarce(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(batch)

    monkeypatch.setattr(model.network, "forward", scarce)
    pd.testing.assert_frame_equal(evaluate([model], images, batch_size=7).scores, expected, rtol=1e-4)
    assert max(sizes) == 7
    assert sizes.count(7) == 1


def test_of_equal_logits_the_lower_index_is_said_and_ranked_first():
    table = pd.DataFrame({"imagenet_index": [7, 3, 900], "in9": ""})
    logits = np.zeros((3, 1000))
    logits[:2, [3, 7]] = 5
    scores = score_logits(table, logits)
    assert scores["prediction"].tolist() == [3, 3, 0]
    assert scores["rank"].tolist() == [1, 0, 900]
    assert scores["top1"].tolist() == [0, 1, 0]
    assert (scores["top1"] == (scores["prediction"] == table["imagenet_index"])).all()


def test_one_file_of_weights_in_two_networks_is_two_stores(tmp_path):
    class Louder(TinyNetwork):
        def forward(self, batch):
            return 2 * super().forward(batch)

    (model,), images = make_tiny_zoo(32), make_image_set(3)
    evaluate([model], images, store=tmp_path)
    louder = Louder(0).eval()
    found = evaluate([replace(model, network=louder)], images, store=tmp_path)
    assert found.forward_passes == {model.name: 3}
    moved = replace(model, source="another place")
    assert evaluate([moved], images, store=tmp_path).forward_passes == {model.name: 0}, "where it lies changes nothing"


def test_a_superclass_alone_is_truth_enough():
    images = make_image_set(4, labels=[-1, -1, 151, -1])
    scores = evaluate(make_tiny_zoo(32), images).scores
    assert scores["top1"].isna().tolist() == [True, True, False, True]
    assert scores["in9_right"].notna().all()
    assert (scores["rank"] == -1).tolist() == [True, True, False, True]


def test_models_share_a_pass_as_memory_allows():
    models = make_tiny_zoo(32, 32, 32, 32)  # 192,000 bytes each
    assert [len(wave) for wave in waves(models, float("inf"))] == [4]
    assert [len(wave) for wave in waves(models, 400_000)] == [2, 2]
    assert [len(wave) for wave in waves(models, 10)] == [1, 1, 1, 1]
    assert [model.name for wave in waves(models, 600_000) for model in wave] == [model.name for model in models]


def test_mistakes_are_named(tmp_path):
    models, images = make_tiny_zoo(32), make_image_set(2)
    with pytest.raises(ValueError, match="different names, got tiny-0-32, tiny-0-32"):
        evaluate(models * 2, images)
    with pytest.raises(ValueError, match=r"precision must be one of float32, .* got 'half'"):
        evaluate(models, images, precision="half")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        evaluate(models, images, batch_size=0)


def test_two_runs_do_not_mix(tmp_path):
    images = make_image_set(2)
    process = multiprocessing.get_context("spawn").Process(target=_evaluate_slowly, args=(str(tmp_path), 2, 30.0))
    process.start()
    try:
        _wait_for_bytes(tmp_path, 1)
        with pytest.raises(RunningError, match="another run"):
            evaluate(make_tiny_zoo(32), images, store=tmp_path)
    finally:
        process.kill()
        process.join()


def test_a_killed_run_keeps_what_it_finished_and_goes_on(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_evaluate_slowly, args=(str(tmp_path), 12, 0.2))
    process.start()
    _wait_for_bytes(tmp_path, 4 * 59)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    images, models = make_image_set(12), make_tiny_zoo(32)
    resumed = evaluate(models, images, store=tmp_path, batch_size=1)
    done = 12 - resumed.forward_passes["tiny-0-32"]
    assert 4 <= done < 12, "some were finished before the kill"
    assert models[0].network.shown == 12 - done, "and none of these was shown again"
    pd.testing.assert_frame_equal(resumed.scores, evaluate(make_tiny_zoo(32), images, batch_size=1).scores)


def _wait_for_bytes(folder, count: int) -> None:
    for _ in range(1800):
        if sum(path.stat().st_size for path in folder.glob("*.answers")) >= count:
            return
        time.sleep(0.1)
    raise TimeoutError("nothing was stored within three minutes")


def _evaluate_slowly(folder: str, count: int, pause: float) -> None:
    forward = TinyNetwork.forward
    TinyNetwork.forward = lambda self, batch: (time.sleep(pause if self.shown else 0), forward(self, batch))[1]
    evaluate(make_tiny_zoo(32), make_image_set(count), store=folder, batch_size=1)


@pytest.mark.slow
def test_eight_light_models_decode_each_picture_once():
    images = benchmark_photos(24, seed=0)
    times = compare_passes(light_models(seed=0), images, rounds=1)
    assert times.groupby("way")["decoded"].first().to_dict() == {"one pass": 24, "separate passes": 8 * 24}
    assert (times["seconds"] > 0).all()
    assert 0 < time_ratio(times).value < 1


def test_the_time_ratio_is_that_of_the_best_rounds():
    ways = ["one pass", "separate passes"]
    rows = [(0, ways[0], 2.0), (0, ways[1], 8.0), (1, ways[0], 3.0), (1, ways[1], 5.0)]
    ratio = time_ratio(pd.DataFrame(rows, columns=["round", "way", "seconds"]))
    assert (ratio.value, ratio.low, ratio.high, ratio.n) == (2 / 5, 0.25, 0.6, 2)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_networks_say_the_same():
    models, images = make_tiny_zoo(32), make_image_set(4)
    plain = evaluate(models, images, batch_size=2).scores
    compiled = evaluate(make_tiny_zoo(32), images, batch_size=2, compiled=True).scores
    pd.testing.assert_frame_equal(plain, compiled, rtol=1e-4)


@pytest.mark.slow
def test_lite0_scores_on_real_photos_as_by_plain_timm(shared_data):
    """On all 500 photos the two may differ by half a point; nearly always they agree on every single one."""
    table = pd.read_parquet(shared_data / "imagenet-samples-even.parquet", columns=["image", "imagenet_index"])
    contents = tuple(image["bytes"] for image in table["image"])
    described = pd.DataFrame({"picture_id": [f"r{n}" for n in range(len(table))], "in9": ""})
    described["imagenet_index"] = table["imagenet_index"].to_numpy()
    images = ImageSet("ImageNet photos", described, contents)
    (model,), errors = load_zoo(entries_of(["tf_efficientnet_lite0"]))
    assert errors.empty
    scores = evaluate([model], images).scores

    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model.network), is_training=False)
    right = []
    for start in range(0, len(contents), 50):
        batch = torch.stack([transform(read_picture(content)) for content in contents[start : start + 50]])
        with torch.inference_mode():
            right += (model.network(batch).argmax(1).numpy() == table["imagenet_index"][start : start + 50]).tolist()
    assert len(scores) == 500
    assert abs(scores["top1"].mean() - np.mean(right)) <= 0.005
    assert 0.8 < scores["top1"].mean() < 0.95
