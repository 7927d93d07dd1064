"""The notebooks as a graph: what each needs, what it hangs on, and snakemake to run those that are out of date."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from d3s_utils.atomic_files import sha256_of, write_text
from d3s_utils.module_imports import PACKAGE, needed_modules, notebook_cells
from d3s_utils.notebook_run import WATCHED
from d3s_utils.processes import exclusive, own_identity, stop_tree

SNAKEFILE = PACKAGE.parent / "Snakefile"


class NotebookError(RuntimeError):
    """A notebook, or snakemake itself, did not run through; what was said about it stands above."""


@dataclass(frozen=True)
class NotebookJob:
    """One notebook of a run.

    Attributes:
        notebook: The file; its stem names the output folder.
        needs: Stems of the notebooks whose outputs it reads.
        parameters: What goes into its parameters cell; plain values that YAML can hold.
        sources: Files and folders it reads that no notebook writes: photos, weights.
    """

    notebook: Path
    needs: tuple[str, ...]
    parameters: Mapping[str, Any]
    sources: tuple[Path, ...] = ()

    @property
    def stem(self) -> str:
        """The notebook's file name without its suffix."""
        return self.notebook.stem


def run_notebooks(
    jobs: Sequence[NotebookJob], folder: Path, *, cores: int, snakemake_flags: Iterable[str] = ()
) -> list[str]:
    """Run those of `jobs` that are out of date or were cut short, in the order that their needs ask for.

    Args:
        jobs: Notebooks, each after those it needs.
        folder: The run's folder; each notebook writes into ``folder/stem``.
        cores: Number of cores; each notebook gets all of them.
        snakemake_flags: Handed to snakemake as they are.

    Returns:
        The stems of the notebooks that ran.

    Raises:
        RunningError: If another run is at work in `folder`.
        NotebookError: If a notebook failed; its executed copy lies in its folder.
    """
    with exclusive(folder / ".lock") as descriptor:
        for job in jobs:
            _write_if_changed(folder / job.stem / "parameters.yaml", _parameters_file(job))
        before = _writing_times(jobs, folder)
        command = _snakemake(jobs, folder, cores, "--quiet", "all", *snakemake_flags)
        environment = {**os.environ, WATCHED: own_identity()}
        with _exit_on_termination():
            # The child holds the lock too: if we are killed, nobody starts before it has gone.
            snakemake = subprocess.Popen(command, env=environment, pass_fds=(descriptor,))
            try:
                status = snakemake.wait()
            finally:
                stop_tree(snakemake.pid)
        after = _writing_times(jobs, folder)
        if status != 0:
            missing = [job.stem for job in jobs if after[job.stem] is None]
            raise NotebookError(f"not finished: {', '.join(missing) or 'snakemake'}; the reason stands above")
        return [job.stem for job in jobs if after[job.stem] != before[job.stem]]


def pending_notebooks(jobs: Sequence[NotebookJob], folder: Path) -> list[str]:
    """Return the stems of those `jobs` that `run_notebooks` would run, and write nothing.

    Raises:
        NotebookError: If snakemake cannot tell.
    """
    if not (folder / ".snakemake").is_dir():
        return [job.stem for job in jobs]
    command = _snakemake(jobs, folder, 1, "--dry-run", "--quiet", "all", "--summary")
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise NotebookError(f"snakemake cannot plan the run:\n{answer.stderr or answer.stdout}")
    rows = [line.split("\t") for line in answer.stdout.splitlines() if "\t" in line]
    up_to_date = {Path(row[0]).parent.name for row in rows[1:] if row[-1] == "no update"}
    pending: list[str] = []
    for job in jobs:
        if job.stem not in up_to_date or set(job.needs) & set(pending):
            pending.append(job.stem)
    return pending


def fingerprints(jobs: Sequence[NotebookJob]) -> dict[str, str]:
    """Return a hash, by stem, of all that a notebook's results hang on.

    That is its parameters, its cells, the modules that they import (and those that these import), its `sources`,
    the weights in ``d3s_utils/models`` and lists in ``d3s_utils/zoos`` that its modules name, and the fingerprints of
    the notebooks it needs.
    """
    found: dict[str, str] = {}
    for job in jobs:
        cells = notebook_cells(job.notebook)
        modules = sorted(needed_modules("\n".join(text for kind, text in cells if kind == "code")))
        code = {name: (PACKAGE / f"{name}.py").read_text(encoding="utf-8") for name in modules}
        shipped = sorted([*PACKAGE.glob("models/*"), *PACKAGE.glob("zoos/*")])
        weights = [path for path in shipped if any(path.stem in text for text in code.values())]
        content = {
            "parameters": _parameters_file(job),
            "cells": cells,
            "code": code,
            "weights": [_contents(path) for path in weights],
            "sources": [_listing(path) for path in job.sources],
            "needs": [found[stem] for stem in job.needs],
        }
        found[job.stem] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return found


def _snakemake(jobs: Sequence[NotebookJob], folder: Path, cores: int, *flags: str) -> list[str]:
    hashes = fingerprints(jobs)
    notebooks = {
        job.stem: {
            "name": job.stem.lstrip("0123456789_"),
            "file": os.path.relpath(job.notebook, folder),
            "needs": list(job.needs),
            "fingerprint": hashes[job.stem],
        }
        for job in jobs
    }
    config = {"python": sys.executable, "root": str(PACKAGE.parent), "notebooks": notebooks}
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(folder)),
        *("--cores", str(cores), "--rerun-incomplete", "--nolock", "--rerun-triggers", "params", "input", "mtime"),
        *("--config", *(f"{name}={json.dumps(value)}" for name, value in config.items())),
        *flags,
    ]


def _parameters_file(job: NotebookJob) -> str:
    return yaml.safe_dump(dict(job.parameters), sort_keys=False, allow_unicode=True)


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def _writing_times(jobs: Sequence[NotebookJob], folder: Path) -> dict[str, int | None]:
    paths = {job.stem: folder / job.stem / "metrics.json" for job in jobs}
    return {stem: path.stat().st_mtime_ns if path.exists() else None for stem, path in paths.items()}


def _contents(path: Path) -> list[tuple[str, str]]:
    """Name and hash of each file in `path`, for weights: few, and their bytes are what counts."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(file.relative_to(path.parent).as_posix(), sha256_of(file)) for file in files if file.is_file()]


def _listing(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of each file in `path`, for photos: there may be a million."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(file.relative_to(path.parent).as_posix(), file.stat()) for file in files if file.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


@contextmanager
def _exit_on_termination() -> Iterator[None]:
    """Within it SIGTERM raises SystemExit, so that children are stopped on the way out."""

    def leave(number, _frame):
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
