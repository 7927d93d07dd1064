"""Notebook 02 through papermill, tiny: a dataset from guides, then a refusal of other settings."""

import json

import papermill
import pytest
from PIL import Image
from tiny_models import make_tiny_pipeline
from tiny_outputs import tiny_settings, write_tiny_outputs

from d3s_utils.manifest import read_rows
from d3s_utils.metrics import read_metrics

STEM = "02_diffusion_generation"

pytestmark = pytest.mark.notebook


def test_notebook(root, tmp_path):
    settings = tiny_settings(tmp_path / "outputs", classes=["n02129165", "n01443537"], backgrounds=["grass", "snow"])
    write_tiny_outputs(settings, until="01_compositing")
    parameters = {
        "output_dir": str(tmp_path / "outputs"), "generator": str(make_tiny_pipeline(tmp_path / "generator")),
        "strength": 0.7, "steps": 3, "batch_size": 4, "device": "cpu",
    }  # fmt: skip
    options = {"cwd": tmp_path, "progress_bar": False}
    notebook = root / "notebooks" / f"{STEM}.ipynb"
    papermill.execute_notebook(notebook, tmp_path / "executed.ipynb", parameters=parameters, **options)

    folder = settings.folder(STEM)
    rows = read_rows(folder / "images").rows
    assert len(rows) == 2 * 2 * 3
    assert {row["strength"] for row in rows.values()} == {0.7}
    record = read_metrics(folder / "metrics.json")
    metrics = record["metrics"]
    assert (metrics["images"].value, metrics["failures"].value) == (12, 0)
    assert 0 < metrics["distance_to_guide"].value < 255
    assert {"grass/distance_to_guide", "snow/distance_to_guide", "object/distance_to_guide"} <= set(metrics)
    assert metrics["speedup"].value > 0
    assert "12 of 12 requests became pictures; 0 failed" in record["answer"]
    for name in ("dreams_train", "dreams_val", "distances", "strength", "strength_curve"):
        assert Image.open(folder / f"{name}.png").width > 300
    for name in ("requests.parquet", "failures.csv", "distances.parquet", "strength.parquet", "speed.csv"):
        assert (folder / name).is_file()

    with pytest.raises(papermill.PapermillExecutionError, match=r"OtherRunError.*strength \(0\.7 there, 0\.4 here"):
        papermill.execute_notebook(
            notebook, tmp_path / "refused.ipynb",
            parameters={**parameters, "strength": 0.4, "other_run": "refuse"}, **options,
        )  # fmt: skip
    assert read_rows(folder / "images").rows == rows
    executed = json.loads((tmp_path / "executed.ipynb").read_text())
    assert not [output for cell in executed["cells"] for output in cell.get("outputs", []) if "error" in output]
