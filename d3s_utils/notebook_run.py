"""Run one notebook through papermill: what a rule of the Snakefile calls.

    python -m d3s_utils.notebook_run notebooks/03_validation.ipynb outputs/mini/03_validation --threads 2

The folder holds ``parameters.yaml``; the executed notebook comes to lie beside it, whether or not it ran through.
"""

import argparse
import os
import sys
from pathlib import Path

import papermill
import yaml
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from d3s_utils.metrics import read_metrics
from d3s_utils.processes import die_with, exclusive
from d3s_utils.progress_lines import ProgressLines

WATCHED = "D3S_JOB"  # environment variable: the process whose death ends this one


def run_notebook(notebook: Path, folder: Path, *, threads: int) -> Path:
    """Execute `notebook` with the parameters in ``folder/parameters.yaml`` and return the executed copy's path.

    It runs in the folder above `notebook`'s own, the project's root. Progress goes to standard output.

    Raises:
        ValueError: If a parameter is not in the notebook's parameters cell, or it wrote no valid ``metrics.json``.
        PapermillExecutionError: If a cell raises; the executed copy holds the traceback.
    """
    parameters = yaml.safe_load((folder / "parameters.yaml").read_text(encoding="utf-8"))
    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in known:
            raise ValueError(f"parameter {name!r} is not in {notebook.name}, whose parameters are {', '.join(known)}")
    root = notebook.resolve().parents[1]
    _prepare_environment(root, threads)
    executed = folder / f"{folder.name}.ipynb"
    bar, output, errors = (ProgressLines(sys.stdout, label=f"{notebook.stem} │") for _ in range(3))
    try:
        papermill.execute_notebook(
            notebook,
            executed.resolve(),
            parameters,
            kernel_name="python3",
            cwd=root,
            start_timeout=600,  # a busy machine is slow, not broken
            progress_bar={"file": bar, "desc": "cells", "ncols": 90, "mininterval": 0},
            stdout_file=output,
            stderr_file=errors,
            coalesce_streams=True,
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        )
    finally:
        for lines in (bar, output, errors):
            lines.close()
    read_metrics(folder / "metrics.json")
    return executed


def _prepare_environment(root: Path, threads: int) -> None:
    """Let the kernel find the package, this environment's Python and no more cores than it was given."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # bars are plain text here, and meant to be
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)


def main() -> int:
    """Run the notebook named on the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Run one notebook through papermill.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if os.environ.get(WATCHED):
        die_with(os.environ[WATCHED])
    try:
        with exclusive(arguments.folder / ".lock"):
            run_notebook(arguments.notebook, arguments.folder, threads=arguments.threads)
    except PapermillExecutionError as error:
        executed = arguments.folder / f"{arguments.folder.name}.ipynb"
        place = f"cell {error.exec_count}" if error.exec_count else "a cell"
        print(f"{arguments.notebook.name} failed in {place}: {error.ename}: {error.evalue}", file=sys.stderr)
        print(f"The executed copy holds the traceback: {executed.resolve()}", file=sys.stderr)
        return 1
    except (ValueError, OSError, RuntimeError) as error:  # a kernel that does not start is a RuntimeError
        print(f"{arguments.notebook.name} failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
