"""Three toy notebooks and the graph they make: each takes a moment, can go on after a kill, and writes metrics."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from d3s_utils.notebook_graph import NotebookJob, run_notebooks

STEMS = {"01_one": (), "02_two": ("01_one",), "03_three": ("01_one",)}
PARAMETERS = "folder = ''\nsteps = 3\nseconds_a_step = 0.01\nfail = False"
WORK = """
import json, time
from pathlib import Path
log = Path(folder) / "steps.txt"
done = len(log.read_text().split()) if log.exists() else 0
for step in range(done, steps):
    time.sleep(seconds_a_step)
    with log.open("a") as file:
        print(step, file=file)
    print(f"step {step}")
"""
FAIL = "assert not fail, 'it was told to fail'"
WRITE = """
record = {
    "notebook": Path(folder).name, "profile": "toy", "seed": 0, "provenance": {},
    "metrics": {"steps": {"value": steps, "low": steps, "high": steps, "n": 1}},
}
(Path(folder) / "metrics.json").write_text(json.dumps(record))
"""


def write_toy_notebooks(root: Path) -> None:
    """Write the notebooks into ``root/notebooks``."""
    (root / "notebooks").mkdir(parents=True)
    for stem in STEMS:
        cells = [nbformat.v4.new_code_cell(text) for text in (PARAMETERS, WORK, FAIL, WRITE)]
        cells[0].metadata["tags"] = ["parameters"]
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), root / "notebooks" / f"{stem}.ipynb")


def toy_jobs(root: Path, changes: Mapping[str, Mapping[str, Any]]) -> list[NotebookJob]:
    """Return the jobs, with `changes` to a notebook's parameters by stem."""
    return [
        NotebookJob(
            root / "notebooks" / f"{stem}.ipynb", needs, {"folder": str(root / "run" / stem), **changes.get(stem, {})}
        )
        for stem, needs in STEMS.items()
    ]


if __name__ == "__main__":  # a driver that a test can kill
    place, changed = Path(sys.argv[1]), json.loads(sys.argv[2])
    print("ran", run_notebooks(toy_jobs(place, changed), place / "run", cores=1), flush=True)
