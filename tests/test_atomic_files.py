import errno
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from d3s_utils.atomic_files import sha256_of, write_bytes, write_json, write_table, write_text


def test_content_hash_and_parents(tmp_path):
    path = tmp_path / "a" / "b.txt"
    digest = write_text(path, "grün")
    assert path.read_bytes() == "grün".encode()
    assert digest == sha256_of(path) == hashlib.sha256("grün".encode()).hexdigest()
    assert os.listdir(path.parent) == ["b.txt"]


@pytest.mark.parametrize("name", ["table.parquet", "table.csv"])
def test_tables_come_back(tmp_path, name):
    frame = pd.DataFrame({"class": ["lion", "ladybug"], "accuracy": [0.5, 0.25]}, index=[7, 9])
    write_table(tmp_path / name, frame)
    read = pd.read_parquet if name.endswith("parquet") else pd.read_csv
    pd.testing.assert_frame_equal(read(tmp_path / name), frame.reset_index(drop=True))


def test_other_tables_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.parquet or \.csv, got 'table\.xlsx'"):
        write_table(tmp_path / "table.xlsx", pd.DataFrame())


def test_json_is_strict_and_the_old_file_stays(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"b": 1, "a": None})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": None, "b": 1}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_full_disk_leaves_the_old_file_and_names_the_path(tmp_path):
    path = tmp_path / "image.png"
    write_bytes(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # the system writes 4096 bytes, then refuses
    try:
        with pytest.raises(OSError, match=str(path)) as caught:
            write_bytes(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["image.png"]


def test_failing_sync_leaves_nothing(tmp_path, monkeypatch):
    def no_space(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left") as caught:
        write_bytes(tmp_path / "new.bin", b"content")
    assert caught.value.filename == str(tmp_path / "new.bin")
    assert os.listdir(tmp_path) == []


def test_killed_at_any_instant_it_is_old_or_new(tmp_path):
    path = tmp_path / "weights.bin"
    write_bytes(path, b"0" * 2_000_000)
    program = (
        "import itertools, sys; from d3s_utils.atomic_files import write_bytes\n"
        "for i in itertools.count(1):\n"
        "    write_bytes(sys.argv[1], str(i % 10).encode() * 2_000_000); print(i, flush=True)\n"
    )
    for number in range(4):
        writer = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(0.003 * number)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        content = path.read_bytes()
        assert len(content) == 2_000_000
        assert len(set(content)) == 1
    assert all(name == path.name or name.endswith(".partial") for name in os.listdir(tmp_path))
