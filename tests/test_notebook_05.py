"""Notebook 05 through papermill on fake images, whose colours tell class and background."""

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
    "feature_methods": ["none", "wasserstein", "club", "hsic", "inlp", "leace"], "penalty_weights": [1.0],
    "inlp_rounds": [1, 2], "leace_directions": [1, 2], "device": "cpu",
}  # fmt: skip
THROUGH = {"fine_tune": {"steps": 2, "warmup_steps": 1, "batch_size": 8, "critic_steps": 1, "log_every": 1}}
FIGURES = ("coloured_digits", "training_curves", "cross_probes", "cross_probe_intervals", "leakage_utility",
           "foreground_features")  # fmt: skip

pytestmark = pytest.mark.notebook


def run(root, tmp_path, **changes):
    papermill.execute_notebook(
        root / "notebooks" / "05_invariant_features.ipynb", tmp_path / "executed.ipynb",
        parameters={**TINY, **changes, "output_dir": str(tmp_path / "outputs")}, cwd=tmp_path, progress_bar=False,
    )  # fmt: skip
    return tmp_path / "outputs" / "mini" / "05_invariant_features"


def test_every_number_figure_and_table_is_there(root, tmp_path):
    write_tiny_outputs(load_settings("mini", output_dir=str(tmp_path / "outputs"), **PICTURES))
    folder = run(root, tmp_path, **THROUGH)
    record = read_metrics(folder / "metrics.json")
    for method in (*TINY["feature_methods"], "finetuned"):
        for probe in ("foreground_from_foreground", "background_from_foreground"):
            for kind in ("", "_mlp", "_fresh"):
                assert record["metrics"][f"{method}/{probe}{kind}"].n == 27
    assert record["metrics"]["wasserstein/background_from_foreground_nats"].n == 27
    assert -0.5 <= record["metrics"]["hsic/leakage"].value <= 1
    assert record["metrics"]["backbone/foreground_from_all"].low > 1 / 3  # the colours tell the class
    assert "27 held-out images" in record["answer"]
    for name in FIGURES:
        assert (folder / f"{name}.png").stat().st_size > 10_000
    probes = pd.read_parquet(folder / "probes.parquet")
    assert probes["chance"].tolist() == pytest.approx([1 / 3] * len(probes))
    assert len(pd.read_parquet(folder / "outcomes.parquet")) == len(probes) * 27
    runs = probes.groupby("method")[["strength", "seed"]].agg(lambda x: x.nunique())
    assert runs.loc["wasserstein"].tolist() == [2, 2]
    assert runs.loc["inlp"].tolist() == [3, 1], "strength 0 is where its curve begins"
    curve = pd.read_csv(folder / "tradeoff.csv")
    assert set(curve["protocol"]) == {"linear", "mlp", "linear, fresh", "mlp, fresh"}
    assert set(pd.read_csv(folder / "estimates.csv")["estimator"]) >= {"counted", "mine", "club", "hsic"}
    assert (folder / "features.npz").exists()
    (through,) = (folder / "finetuned").iterdir()
    assert list((through / "tensorboard").iterdir())

    killed = folder / "checkpoints" / "hsic_3_1.pt"
    before = {path.name: path.stat().st_mtime_ns for path in killed.parent.iterdir()}
    killed.unlink()  # as a run leaves it that was killed while it learned these features
    run(root, tmp_path, **THROUGH)
    again = {path.name: path.stat().st_mtime_ns for path in killed.parent.iterdir()}
    assert [name for name in before if again[name] != before[name]] == ["hsic_3_1.pt"], "what had ended is not repeated"
    assert read_metrics(folder / "metrics.json")["metrics"] == record["metrics"]
