"""Real snakemake, real papermill, real kernels, real kills, on three toy notebooks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from toy_notebooks import toy_jobs, write_toy_notebooks

from d3s_utils.notebook_graph import NotebookError, NotebookJob, fingerprints, pending_notebooks, run_notebooks
from d3s_utils.processes import RunningError, exclusive

DRIVER = Path(__file__).with_name("toy_notebooks.py")


@pytest.fixture
def toy(tmp_path) -> Path:
    write_toy_notebooks(tmp_path)
    return tmp_path


def start(root, changes):
    environment = {**os.environ, "PYTHONPATH": str(DRIVER.parents[1])}
    return subprocess.Popen([sys.executable, str(DRIVER), str(root), json.dumps(changes)], env=environment)


def wait_for(condition, *, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def at_work(root) -> list[psutil.Process]:
    """Processes that name the run's folder on their command line or work in it."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(root) in part for part in process.info["cmdline"] or []) and process.pid != os.getpid():
            found.append(process)
    return found


@pytest.mark.slow
def test_killed_it_goes_on_and_then_only_what_changed_runs_again(toy):
    run = toy / "run"
    changes = {"02_two": {"steps": 400, "seconds_a_step": 0.05}}
    jobs = toy_jobs(toy, changes)
    assert pending_notebooks(jobs, run) == ["01_one", "02_two", "03_three"]
    assert not run.exists(), "asking writes nothing"

    driver = start(toy, changes)
    steps = run / "02_two" / "steps.txt"
    wait_for(lambda: steps.exists() and len(steps.read_text().split()) > 3)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not at_work(run), seconds=60)  # nobody is left who could still write
    first = (run / "01_one" / "metrics.json").stat().st_mtime_ns
    done = len(steps.read_text().split())
    assert done < 400
    assert not (run / "02_two" / "metrics.json").exists()

    assert run_notebooks(jobs, run, cores=1) == ["02_two", "03_three"]
    assert (run / "01_one" / "metrics.json").stat().st_mtime_ns == first
    assert [int(step) for step in steps.read_text().split()] == list(range(400))
    assert nbformat.read(run / "02_two" / "02_two.ipynb", as_version=4).cells[1].metadata.tags == [
        "injected-parameters"
    ]

    assert run_notebooks(jobs, run, cores=1) == []
    assert pending_notebooks(jobs, run) == []
    changed = toy_jobs(toy, changes | {"03_three": {"steps": 2}})
    assert pending_notebooks(changed, run) == ["03_three"]
    assert run_notebooks(changed, run, cores=1) == ["03_three"]
    assert pending_notebooks(toy_jobs(toy, changes | {"01_one": {"steps": 2}}), run) == ["01_one", "02_two", "03_three"]


@pytest.mark.slow
def test_a_failed_notebook_leaves_its_copy_and_its_reason(toy, capfd):
    jobs = toy_jobs(toy, {"02_two": {"fail": True}})[:2]
    with pytest.raises(NotebookError, match="not finished: 02_two"):
        run_notebooks(jobs, toy / "run", cores=1)
    said = capfd.readouterr()
    assert "01_one │ step 2" in said.out
    assert "AssertionError: it was told to fail" in said.err
    executed = nbformat.read(toy / "run" / "02_two" / "02_two.ipynb", as_version=4)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any(output.output_type == "error" for output in outputs)
    assert not (toy / "run" / "02_two" / "metrics.json").exists()


def test_the_second_of_two_runs_is_told(toy):
    with exclusive(toy / "run" / ".lock"), pytest.raises(RunningError, match=r"another run .* is at work in"):
        run_notebooks(toy_jobs(toy, {}), toy / "run", cores=1)
    assert os.listdir(toy / "run") == [".lock"]


def test_a_fingerprint_knows_what_a_notebook_hangs_on(toy):
    before = fingerprints(toy_jobs(toy, {}))
    assert before == fingerprints(toy_jobs(toy, {}))

    def changed(jobs) -> set[str]:
        after = fingerprints(jobs)
        return {stem for stem in before if after[stem] != before[stem]}

    assert changed(toy_jobs(toy, {"02_two": {"steps": 4}})) == {"02_two"}
    assert changed(toy_jobs(toy, {"01_one": {"steps": 4}})) == set(before)
    photo = toy / "photos" / "lion" / "1.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"a photo")
    jobs = toy_jobs(toy, {})
    jobs[2] = NotebookJob(jobs[2].notebook, jobs[2].needs, jobs[2].parameters, (toy / "photos",))
    assert changed(jobs) == {"03_three"}

    notebook = toy / "notebooks" / "02_two.ipynb"
    content = nbformat.read(notebook, as_version=4)
    content.cells[1].outputs = [nbformat.v4.new_output("stream", text="seen in JupyterLab")]
    nbformat.write(content, notebook)
    assert changed(toy_jobs(toy, {})) == set(), "outputs are not what a notebook hangs on"
    content.cells[1].source += "\nfrom d3s_utils.progress_lines import ProgressLines"
    nbformat.write(content, notebook)
    assert changed(toy_jobs(toy, {})) == {"02_two"}
