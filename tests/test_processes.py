import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from d3s_utils.processes import RunningError, die_with, exclusive, is_alive, own_identity, stop_tree

HOLD = """
import sys, time
from d3s_utils.processes import exclusive
with exclusive(sys.argv[1]):
    print(1, flush=True)
    time.sleep(60)
"""
WATCH = """
import subprocess, sys, time
from d3s_utils.processes import die_with
die_with(sys.argv[1], every=0.05)
print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
time.sleep(60)
"""


def start(program, *arguments):
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def wait_until(condition, *, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_identity_is_ours_and_not_of_a_later_process_with_our_number():
    host, number, birth = own_identity().split()
    assert is_alive(own_identity())
    assert not is_alive(f"{host} {number} {float(birth) - 1}")
    assert not is_alive("")
    assert is_alive(f"some-other-machine {number} {birth}")


def test_two_at_once_are_told_apart_and_the_second_is_told(tmp_path):
    lock = tmp_path / "run" / ".lock"
    with (
        exclusive(lock),
        pytest.raises(RunningError, match=f"process {os.getpid()}\\) is at work in .*run"),
        exclusive(lock),
    ):
        pass
    with exclusive(lock, patience=0):
        pass


def test_a_killed_holder_leaves_no_lock(tmp_path):
    lock = tmp_path / ".lock"
    holder, _ = start(HOLD, lock)
    with pytest.raises(RunningError, match=str(holder.pid)), exclusive(lock):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with exclusive(lock, patience=5):
        pass


def test_one_dies_with_whom_it_watches_and_takes_its_children_along():
    watched = subprocess.Popen(["sleep", "60"])
    birth = psutil.Process(watched.pid).create_time()
    watcher, child = start(WATCH, f"{own_identity().split()[0]} {watched.pid} {birth}")
    assert watcher.poll() is None
    watched.kill()
    watched.wait()
    assert watcher.wait(timeout=20) == 1
    wait_until(lambda: not psutil.pid_exists(int(child)) or psutil.Process(int(child)).status() == "zombie")


def test_a_process_of_another_machine_is_not_watched():
    die_with("some-other-machine 1 0.0", every=0.01)
    time.sleep(0.05)  # we are still here


def test_a_tree_is_stopped_with_its_branches():
    process = subprocess.Popen([sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])"])
    wait_until(lambda: psutil.Process(process.pid).children())
    branch = psutil.Process(process.pid).children()[0]
    stop_tree(process.pid, grace=2)
    process.wait()
    wait_until(lambda: not branch.is_running() or branch.status() == psutil.STATUS_ZOMBIE)
    stop_tree(process.pid)  # nobody there is no error
