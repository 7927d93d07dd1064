"""The dataset is the same whatever the batch, the order, a kill, a fault of the model, the memory or the disk."""

import errno
import multiprocessing
import os
import random
import subprocess
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from d3s_utils import generation
from d3s_utils.atomic_files import sha256_of
from d3s_utils.dreaming import DreamOptions, dream_batch
from d3s_utils.generation import DiskFullError, generate, shard_folder
from d3s_utils.generation_requests import image_seed, make_requests
from d3s_utils.manifest import FolderInUseError, OtherRunError, load_manifest, locked, read_rows
from d3s_utils.pipelines import load_pipeline

OPTIONS = DreamOptions(strength=0.5, steps=4, guidance_scale=2.0)


@pytest.fixture(scope="module")
def guides(settings):
    return pd.read_parquet(settings.folder("01_compositing") / "guides.parquet")


@pytest.fixture(scope="module")
def requests(settings, guides):
    return make_requests(guides, root=settings.run_folder, seed=0, options=OPTIONS)


@pytest.fixture(scope="module")
def make(settings, requests, pipeline):
    """Return `generate` with everything given but the folder."""

    def make(images, **changes):
        options = {"requests": requests, "pipeline": pipeline, "root": settings.run_folder, "batch_size": 4}
        return generate(images=images, **{**options, **changes})

    return make


@pytest.fixture(scope="module")
def reference(make, tmp_path_factory):
    """A dataset made in one go."""
    images = tmp_path_factory.mktemp("reference") / "images"
    make(images)
    return images


def pictures_of(images):
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(images.rglob("*.png"))}


def assert_same_dataset(images, reference):
    """Same pictures within one grey level, same rows in the same order but for the pictures' hashes, nothing else."""
    made, expected = pictures_of(images), pictures_of(reference)
    assert made.keys() == expected.keys()
    assert max(int(np.abs(made[name].astype(int) - expected[name]).max()) for name in made) <= 1
    pd.testing.assert_frame_equal(
        load_manifest(images).drop(columns="sha256"), load_manifest(reference).drop(columns="sha256")
    )
    for row in read_rows(images).rows.values():
        assert sha256_of(images / row["split"] / row["file_name"]) == row["sha256"]
    assert not [path for path in images.rglob("*") if path.is_file() and path.suffix not in (".png", ".jsonl")]


def test_every_request_becomes_a_picture_and_a_row(make, reference, requests, pipeline):
    table = load_manifest(reference)
    assert list(table["image_id"]) == list(requests["image_id"])
    assert (reference / "train" / "metadata.jsonl").read_text().count("\n") == 8
    assert set(requests.columns) | {
        "file_name", "model", "model_sha256", "precision", "attempts", "sha256",
    } == set(table)  # fmt: skip
    assert set(table["model_sha256"]) == {pipeline.sha256}
    assert table["seed"].tolist() == [image_seed(0, image_id) for image_id in requests["image_id"]]
    assert all(picture.shape == (64, 64, 3) and picture.std() > 5 for picture in pictures_of(reference).values())
    assert_same_dataset(reference, reference)


def test_a_second_call_finds_everything_and_dreams_nothing(make, reference, monkeypatch):
    monkeypatch.setattr(generation, "dream_batch", None)
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*")}
    report = make(reference)
    assert (report.kept, report.made, report.repaired) == (12, 0, {})
    assert {path: path.stat().st_mtime_ns for path in reference.rglob("*")} == before


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_the_batch_size_changes_nothing(make, reference, tmp_path, batch_size):
    report = make(tmp_path / "images", batch_size=batch_size)
    assert (report.requested, report.made, report.retried, len(report.failures)) == (12, 12, 0, 0)
    assert_same_dataset(tmp_path / "images", reference)


def test_a_run_that_grows_is_the_run_made_at_once(make, reference, guides, settings, tmp_path):
    few = make_requests(guides.iloc[[7, 3, 10]], root=settings.run_folder, seed=0, options=OPTIONS)
    make(tmp_path / "images", requests=few)
    report = make(tmp_path / "images")
    assert (report.kept, report.made) == (3, 9)
    assert_same_dataset(tmp_path / "images", reference)


def test_torn_missing_and_corrupt_are_made_again_and_nothing_else(make, reference, tmp_path, monkeypatch):
    images = tmp_path / "images"
    make(images)
    train = images / "train"
    names = [row["file_name"] for row in read_rows(images).rows.values() if row["split"] == "train"]
    (train / names[0]).unlink()
    (train / names[1]).write_bytes((train / names[2]).read_bytes())
    (train / f".{names[3]}.1-ab.partial").write_bytes(b"half")
    (train / "metadata.jsonl").write_bytes((train / "metadata.jsonl").read_bytes()[:-30])  # tears the last one's line
    dreamt = []

    def remember(pipeline, prompts, seeds, **options):
        dreamt.extend(seeds)
        return dream_batch(pipeline, prompts, seeds, **options)

    monkeypatch.setattr(generation, "dream_batch", remember)
    report = make(images)
    assert (report.kept, report.made) == (9, 3)
    assert sorted(report.repaired.values()) == ["picture changed", "picture missing", "torn line"]
    assert sorted(dreamt) == sorted(image_seed(0, names[i].removesuffix(".png")) for i in (0, 1, 7))
    assert_same_dataset(images, reference)


def faulty_dream(monkeypatch, fault, *, until_attempt, image_id):
    """Make the picture of `image_id` come out as `fault` in all attempts before `until_attempt`."""
    bad = {image_seed(0, image_id, attempt=attempt) for attempt in range(1, until_attempt)}

    def dream(pipeline, prompts, seeds, **options):
        pictures = dream_batch(pipeline, prompts, seeds, **options)
        for place, seed in enumerate(seeds):
            if seed in bad:
                pictures[place] = fault
        return pictures

    monkeypatch.setattr(generation, "dream_batch", dream)


@pytest.mark.parametrize("fault", [float("nan"), float("inf"), 0.0])
def test_a_faulty_picture_is_dreamt_again_with_a_new_recorded_seed(make, reference, tmp_path, monkeypatch, fault):
    image_id = "n02129165-0001-snow"
    faulty_dream(monkeypatch, fault, until_attempt=3, image_id=image_id)
    report = make(tmp_path / "images")
    assert (report.made, report.retried, len(report.failures)) == (12, 2, 0)
    row = read_rows(tmp_path / "images").rows[image_id]
    assert (row["attempts"], row["seed"]) == (3, image_seed(0, image_id, attempt=3))
    changed = {
        name
        for name, picture in pictures_of(tmp_path / "images").items()
        if np.abs(picture.astype(int) - pictures_of(reference)[name]).max() > 1
    }
    assert changed == {image_id}
    assert make(tmp_path / "images").kept == 12  # a row of a later attempt belongs to this run


def test_a_picture_that_stays_faulty_is_reported_and_never_accepted(make, tmp_path, monkeypatch):
    image_id = "n03854065-0000-grass"
    faulty_dream(monkeypatch, float("nan"), until_attempt=4, image_id=image_id)
    for made in (11, 0):  # the second call tries it again, with the same seeds and the same end
        report = make(tmp_path / "images")
        assert (report.made, report.retried) == (made, 2)
        assert report.failures.to_dict("records") == [
            {
                "image_id": image_id, "split": "train", "class_name": "organ", "background": "grass",
                "prompt": report.failures["prompt"][0], "attempts": 3, "reason": "not finite",
            }
        ]  # fmt: skip
    assert image_id not in pictures_of(tmp_path / "images")
    assert image_id not in read_rows(tmp_path / "images").rows


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: not enough memory: you tried")],
)
def test_out_of_memory_halves_the_batch_and_goes_on(make, reference, tmp_path, monkeypatch, error, capsys):
    sizes = []

    def dream(pipeline, prompts, seeds, **options):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise error
        return dream_batch(pipeline, prompts, seeds, **options)

    monkeypatch.setattr(generation, "dream_batch", dream)
    report = make(tmp_path / "images", batch_size=8)
    assert report.batch_size == 2
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2]
    assert "memory is full: going on with batches of 4" in capsys.readouterr().out
    assert_same_dataset(tmp_path / "images", reference)


def test_writing_goes_on_while_the_next_batch_is_dreamt(make, reference, tmp_path, monkeypatch):
    second_begun, waited = threading.Event(), []
    write, dreams = generation._write, []

    def dream(pipeline, prompts, seeds, **options):
        dreams.append(len(prompts))
        if len(dreams) == 2:
            second_begun.set()
        return dream_batch(pipeline, prompts, seeds, **options)

    def wait_and_write(*arguments):
        waited.append(second_begun.wait(60))
        return write(*arguments)

    monkeypatch.setattr(generation, "dream_batch", dream)
    monkeypatch.setattr(generation, "_write", wait_and_write)
    make(tmp_path / "images")
    assert all(waited)
    assert_same_dataset(tmp_path / "images", reference)


def test_a_full_disk_stops_with_a_clear_error_and_no_partial_file(make, reference, tmp_path, monkeypatch):
    images, written = tmp_path / "images", []
    write = os.replace

    def replace(source, target):
        if str(target).endswith(".png"):
            if len(written) >= 5:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(target)
        return write(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(DiskFullError, match=r"disk is full: \d+ of 12 pictures are safe.*Free about .* run again"):
        make(images)
    monkeypatch.undo()
    assert not list(images.rglob("*.partial"))
    assert len(pictures_of(images)) == 5
    assert make(images).kept == 5
    assert_same_dataset(images, reference)


def test_a_real_full_disk(make, reference, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "none", small], capture_output=True, check=False
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        with pytest.raises(DiskFullError, match="disk is full") as caught:
            make(small / "images")
        assert caught.value.errno == errno.ENOSPC
        assert not list(small.rglob("*.partial"))
        kept = read_rows(small / "images")
        assert 0 < len(kept.rows) < 12
        assert not kept.dropped
        subprocess.run(["mount", "-o", "remount,size=10m", small], check=True)
        make(small / "images")
        assert_same_dataset(small / "images", reference)
    finally:
        subprocess.run(["umount", small], check=True)


def test_another_run_is_refused_or_set_aside(make, reference, guides, settings, tmp_path):
    stronger = DreamOptions(strength=0.75, steps=4, guidance_scale=2.0)
    others = make_requests(guides, root=settings.run_folder, seed=0, options=stronger)
    images = tmp_path / "images"
    make(images, requests=others)
    with pytest.raises(OtherRunError, match=r"strength \(0\.75 there, 0\.5 here; 12 rows\)"):
        make(images)
    with pytest.raises(ValueError, match="other_run must be refuse or set_aside, got 'overwrite'"):
        make(images, other_run="overwrite")
    report = make(images, other_run="set_aside")
    assert report.set_aside == tmp_path / "images.superseded-1"
    assert len(pictures_of(report.set_aside)) == 12
    assert_same_dataset(images, reference)
    assert make(images, other_run="set_aside").kept == 12


def test_shards_gather_into_the_same_dataset(make, reference, tmp_path):
    images = tmp_path / "images"
    made = [make(images, shard=(index, 3)).made for index in range(3)]
    assert made == [4, 4, 4]
    assert not images.exists()
    (shard_folder(images, index=1, count=3) / "train" / "n02129165-0000-grass.png").unlink(missing_ok=True)
    report = make(images)
    assert report.kept + report.made == 12
    assert report.kept >= 11
    assert_same_dataset(images, reference)
    assert not shard_folder(images, index=0, count=3).exists()


def test_two_processes_do_not_write_to_one_folder(make, tmp_path):
    with locked(tmp_path / "images"), pytest.raises(FolderInUseError, match="wait until it ends"):
        make(tmp_path / "images")


def test_requests_that_do_not_fit(make, requests, tmp_path):
    with pytest.raises(ValueError, match="requests must share strength"):
        make(tmp_path / "images", requests=requests.assign(steps=range(4, 16)))
    with pytest.raises(ValueError, match="has changed since the requests were made"):
        make(tmp_path / "images", requests=requests.assign(guide_sha256="0" * 64))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        make(tmp_path / "images", batch_size=0)
    with pytest.raises(ValueError, match="max_attempts must be at least 1, got 0"):
        make(tmp_path / "images", max_attempts=0)


def live(folder, requests, root, images, batch_size, log):
    """One life of a run that will be killed: `log` gets a line when a batch begins and one for each picture."""

    def note(line):
        with open(log, "a") as file:
            file.write(line + "\n")

    def logged_dream(pipeline, prompts, seeds, **options):
        note(f"begin {os.getpid()}")
        time.sleep(0.05)  # as slow as a real model beside the writing of its pictures
        pictures = dream_batch(pipeline, prompts, seeds, **options)
        for seed in seeds:
            note(f"dreamt {os.getpid()} {seed}")
        return pictures

    generation.dream_batch = logged_dream
    generate(requests, images, load_pipeline(folder, device="cpu"), root=root, batch_size=batch_size)


def test_killed_at_any_instant_it_ends_with_the_same_dataset(folder, requests, settings, reference, tmp_path):
    """Real SIGKILLs in a loop: each life is ended after a few batches, at any place in the next one.

    Lives come from a fork server, which has no threads: a fork of this process may wait for one for ever.
    """
    images, log, batch_size = tmp_path / "images", tmp_path / "log", 2
    log.touch()
    context, choice, kills = multiprocessing.get_context("forkserver"), random.Random(5), 0
    context.set_forkserver_preload(["pytest", "d3s_utils.diffusion_training", "d3s_utils.generation"])
    given = (folder, requests, settings.run_folder, images, batch_size, log)
    for life in range(60):
        process = context.Process(target=live, args=given)
        process.start()
        batches = choice.choice([0, 1, 1, 2]) if life < 20 else 99
        while process.is_alive() and log.read_text().count(f"begin {process.pid}") < batches:
            time.sleep(0.002)
        if batches < 99:
            time.sleep(choice.uniform(0, 0.12))
            process.kill()
        process.join(120)
        kills += process.exitcode == -9
        if process.exitcode == 0:
            break
    assert process.exitcode == 0
    assert kills >= 4
    assert_same_dataset(images, reference)
    dreamt = [line.split() for line in log.read_text().splitlines() if line.startswith("dreamt")]
    seen, redone = set(), {}
    for _, life, seed in dreamt:
        redone[life] = redone.get(life, 0) + (seed in seen)
        seen.add(seed)
    assert max(redone.values()) <= batch_size


def test_the_folder_is_a_hugging_face_imagefolder(reference, requests, tmp_path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(reference), cache_dir=str(tmp_path))
    assert {name: split.num_rows for name, split in loaded.items()} in (
        {"train": 8, "validation": 4},
        {"train": 8, "val": 4},
    )
    first = loaded["train"][0]
    assert first["image"].size == (64, 64)
    assert first["image_id"] == requests["image_id"][0]
