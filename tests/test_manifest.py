"""The record survives torn lines, lost and changed files, a full disk and two writers, and refuses other runs."""

import errno
import json
import multiprocessing
import os
import threading

import numpy as np
import pandas as pd
import pytest

from d3s_utils.atomic_files import write_bytes
from d3s_utils.generation_requests import image_seed
from d3s_utils.manifest import (
    FolderInUseError,
    OtherRunError,
    check_same_run,
    load_manifest,
    locked,
    merge_shard,
    plain_rows,
    read_rows,
    recover,
    set_aside,
    with_twins,
    write_rows,
)
from d3s_utils.row_appender import RowAppender


def request_of(image_id, split="train", **changes):
    request = {
        "file_name": f"{image_id}.png", "image_id": image_id, "split": split, "prompt": "a photo", "run_seed": 0,
        "seed": image_seed(0, image_id), "strength": 0.7, "mask_file": None, "model_sha256": "ab",
    }  # fmt: skip
    return {**request, **changes}


REQUESTS = {row["image_id"]: row for row in [request_of("a"), request_of("b"), request_of("c", split="val")]}


def put(images, request, attempts=1, content=None):
    """Write a picture and its row, as a run does."""
    content = content or request["image_id"].encode()
    digest = write_bytes(images / request["split"] / request["file_name"], content)
    seed = image_seed(request["run_seed"], request["image_id"], attempt=attempts)
    with RowAppender(images) as appender:
        appender.append({**request, "seed": seed, "attempts": attempts, "sha256": digest})


@pytest.fixture
def images(tmp_path):
    images = tmp_path / "images"
    for request in REQUESTS.values():
        put(images, request)
    return images


def test_a_whole_folder_stays_as_it_is(images):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in images.rglob("*") if path.is_file()}
    found = recover(images, REQUESTS)
    assert list(found.rows) == ["a", "b", "c"]
    assert not found.dropped
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    table = load_manifest(images)
    assert list(table["split"]) == ["train", "train", "val"]
    assert table.columns[0] == "file_name"


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_torn_last_line_is_dropped_wherever_it_is_torn(images, cut):
    path = images / "train" / "metadata.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    found = recover(images, REQUESTS)
    assert set(found.rows) == {"a", "c"}
    assert found.dropped == {"train/metadata.jsonl:2": "torn line"}
    assert path.read_text().count("\n") == 1
    put(images, REQUESTS["b"])  # the next line starts a line of its own
    assert set(recover(images, REQUESTS).rows) == {"a", "b", "c"}


def test_a_line_of_zeros_as_after_a_power_cut_is_dropped(images):
    with open(images / "train" / "metadata.jsonl", "ab") as file:
        file.write(b"\0" * 300 + b"\n\xff\xfe\n")
    found = recover(images, REQUESTS)
    assert set(found.rows) == {"a", "b", "c"}
    assert list(found.dropped.values()) == ["torn line", "torn line"]
    assert not recover(images, REQUESTS).dropped


def test_missing_changed_and_half_written_files(images):
    (images / "train" / "a.png").unlink()
    (images / "val" / "c.png").write_bytes(b"C")
    (images / "train" / ".b.png.99-abcd.partial").write_bytes(b"half")
    (images / "train" / "mine.txt").write_text("a file of somebody else's")
    found = recover(images, REQUESTS)
    assert set(found.rows) == {"b"}
    assert found.dropped == {"a": "picture missing", "c": "picture changed"}
    assert sorted(path.name for path in (images / "train").iterdir()) == ["b.png", "metadata.jsonl", "mine.txt"]
    assert set(read_rows(images).rows) == {"b"}


def test_a_row_written_twice_counts_once(images):
    put(images, REQUESTS["a"], attempts=2, content=b"later")
    found = recover(images, REQUESTS)
    assert not found.dropped
    assert found.rows["a"]["attempts"] == 2
    write_rows(images, {name: found.rows[name] for name in REQUESTS})
    assert (images / "train" / "metadata.jsonl").read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strength": 0.9}, r"differ from this run in strength \(0.7 there, 0.9 here; 3 rows\)\. Nothing was changed"),
        ({"model_sha256": "cd"}, "model_sha256 \\('ab' there, 'cd' here; 3 rows\\)"),
        ({"run_seed": 1}, r"run_seed \(0 there, 1 here"),
        ({"new_column": 1}, r"new_column \(None there, 1 here"),
    ],
)
def test_another_run_is_refused_and_nothing_changed(images, change, message):
    (images / "train" / "a.png").unlink()
    before = sorted((path, path.read_bytes()) for path in images.rglob("*") if path.is_file())
    requests = {image_id: {**request, **change} for image_id, request in REQUESTS.items()}
    with pytest.raises(OtherRunError, match=message):
        recover(images, requests)
    assert sorted((path, path.read_bytes()) for path in images.rglob("*") if path.is_file()) == before


def test_a_picture_that_was_not_asked_for_is_another_runs(images):
    with pytest.raises(OtherRunError, match=r"image_id \('c' there, 'not asked for' here; 1 rows\)"):
        recover(images, {name: REQUESTS[name] for name in ("a", "b")})
    with pytest.raises(OtherRunError, match=r"seed \(5 there"):
        check_same_run({"a": {**REQUESTS["a"], "seed": 5}}, REQUESTS, images=images)


def test_a_run_may_grow(images):
    assert len(recover(images, {**REQUESTS, "d": request_of("d")}).rows) == 3


@pytest.mark.parametrize("line", ['{"file_name": "cat.jpg"}', "[1]", '{"image_id": "../../x", "file_name": "../../x"}'])
def test_somebody_elses_metadata_is_refused(images, line):
    with open(images / "train" / "metadata.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(OtherRunError, match="line 3, is no row that this project wrote"):
        recover(images, REQUESTS)


def test_an_empty_folder_is_a_fresh_run(tmp_path):
    assert recover(tmp_path / "none", REQUESTS).rows == {}
    assert set_aside(tmp_path / "none") is None


def test_set_aside_keeps_everything(images):
    first = set_aside(images)
    assert first.name == "images.superseded-1"
    assert set(read_rows(first).rows) == {"a", "b", "c"}
    put(images, REQUESTS["a"])
    assert set_aside(images).name == "images.superseded-2"


def hold(images, started, end):
    with locked(images):
        started.set()
        end.wait(300)


def test_only_one_process_writes(images):
    context = multiprocessing.get_context("spawn")
    started, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(images, started, end))
    process.start()
    assert started.wait(120)
    with (
        pytest.raises(FolderInUseError, match=rf"written by another process \(process {process.pid}\)"),
        locked(images),
    ):
        pass
    process.kill()  # the system frees the lock of a killed process
    process.join()
    with locked(images):
        pass


def test_lines_of_many_threads_stay_whole(tmp_path):
    rows = [request_of(f"i{number}", prompt="x" * 5000) for number in range(200)]
    with RowAppender(tmp_path) as appender:
        threads = [
            threading.Thread(target=lambda part=rows[k::8]: [appender.append(r) for r in part]) for k in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        appender.sync()
    assert read_rows(tmp_path).rows.keys() == {row["image_id"] for row in rows}
    assert not read_rows(tmp_path).dropped


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(images, monkeypatch):
    path = images / "train" / "metadata.jsonl"
    before = path.read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:10]))
    with RowAppender(images) as appender, pytest.raises(OSError, match="No space left") as caught:
        appender.append(REQUESTS["a"])
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before


def test_nan_is_no_row(tmp_path):
    with RowAppender(tmp_path) as appender, pytest.raises(ValueError, match="not JSON compliant"):
        appender.append(request_of("a", strength=float("nan")))


def test_plain_rows_are_json():
    table = pd.DataFrame(
        {"a": np.array([1, 2]), "b": [0.1, np.nan], "c": ["x", None], "d": np.array([1, 2], np.uint8)}
    )  # fmt: skip
    rows = plain_rows(table)
    assert rows == [{"a": 1, "b": 0.1, "c": "x", "d": 1}, {"a": 2, "b": None, "c": None, "d": 2}]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_a_shard_is_gathered_even_after_a_kill_in_the_middle(images, tmp_path):
    shard, extra = tmp_path / "shard", {name: request_of(name) for name in ("d", "e")}
    for request in extra.values():
        put(shard, request)
    os.replace(shard / "train" / "d.png", images / "train" / "d.png")  # killed after the move, before the row
    requests = REQUESTS | extra
    assert merge_shard(images, shard, requests) == 2
    assert merge_shard(images, shard, requests) == 0
    assert set(recover(images, requests).rows) == {"a", "b", "c", "d", "e"}
    put(shard, request_of("f", strength=0.9))
    with pytest.raises(OtherRunError, match="strength"):
        merge_shard(images, shard, {**requests, "f": request_of("f")})


def test_images_find_their_twins(tmp_path):
    table = pd.DataFrame({"image_id": ["a", "b"], "placed_file": ["planned", "planned"]})
    pd.testing.assert_frame_equal(with_twins(table, tmp_path), table)
    images = tmp_path / "02_diffusion_generation" / "placed"
    put(images, request_of("a") | {"guide_file": "01_compositing/placed/a.png"})
    found = with_twins(table, tmp_path)
    assert found["placed_file"].tolist()[0] == "01_compositing/placed/a.png"
    assert found["placed_repainted_file"].tolist()[0] == "02_diffusion_generation/placed/train/a.png"
    assert found["placed_repainted_sha256"].str.len().tolist()[0] == 64
    assert found.loc[1, ["placed_file", "placed_repainted_file"]].isna().all(), "b has none"
