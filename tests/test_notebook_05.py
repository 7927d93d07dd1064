"""Notebook 05 through papermill on fake pictures, whose colours tell class and background."""

import pandas as pd
import papermill
import pytest
from tiny_outputs import write_tiny_outputs

from d3s_utils.metrics import read_metrics
from d3s_utils.settings import load_settings

PICTURES = {
    "classes": ["n02129165", "n01443537", "n02056570"], "backgrounds": ["grass", "snow", "cave"],
    "guides_per_class_train": 4, "guides_per_class_val": 3, "templates_per_background": 2,
}  # fmt: skip
TINY = {
    "feature_components": 12, "foreground_width": 4, "background_width": 4, "warmup_steps": 3, "training_steps": 9,
    "training_batch_size": 16, "critic_steps": 2, "critic_width": 16, "feature_seeds": 2, "bootstrap_samples": 100,
    "device": "cpu",
}  # fmt: skip
FIGURES = ("training_curves", "cross_probes", "cross_probe_intervals", "fresh_probes", "foreground_features")

pytestmark = pytest.mark.notebook


def run(root, tmp_path):
    papermill.execute_notebook(
        root / "notebooks" / "05_invariant_features.ipynb", tmp_path / "executed.ipynb",
        parameters={**TINY, "output_dir": str(tmp_path / "outputs")}, cwd=tmp_path, progress_bar=False,
    )  # fmt: skip
    return tmp_path / "outputs" / "mini" / "05_invariant_features"


def test_every_number_figure_and_table_is_there(root, tmp_path):
    write_tiny_outputs(load_settings("mini", output_dir=str(tmp_path / "outputs"), **PICTURES))
    folder = run(root, tmp_path)
    record = read_metrics(folder / "metrics.json")
    for method in ("none", "wasserstein"):
        for probe in ("foreground_from_foreground", "background_from_foreground"):
            assert record["metrics"][f"{method}/{probe}"].n == 27
            assert record["metrics"][f"{method}/{probe}_fresh"].n == 27
    assert record["metrics"]["backbone/foreground"].low > 1 / 3  # the colours tell the class
    assert "27 held-out pictures" in record["answer"]
    for name in FIGURES:
        assert (folder / f"{name}.png").stat().st_size > 10_000
    probes = pd.read_parquet(folder / "probes.parquet")
    assert len(probes) == 2 * 2 * 4 * 2
    assert probes["chance"].tolist() == pytest.approx([1 / 3] * len(probes))
    assert len(pd.read_parquet(folder / "outcomes.parquet")) == len(probes) * 27
    assert len(pd.read_parquet(folder / "dependence.parquet")) == 2 * 2 * 2
    assert (folder / "features.npz").exists()
