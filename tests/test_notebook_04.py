"""Notebook 04 through papermill, on a tiny made-up data set."""

import pandas as pd
import papermill
import pytest
from tiny_outputs import tiny_settings, write_tiny_outputs

from d3s_utils.metrics import read_metrics


@pytest.mark.notebook
@pytest.mark.parametrize("own_photos", [False, True])
def test_it_measures_a_drop(tmp_path, root, monkeypatch, own_photos):
    monkeypatch.setenv("D3S_SHARED_DATA", str(tmp_path / "nothing"))
    settings = tiny_settings(tmp_path, guides_per_class_train=1, guides_per_class_val=2)
    write_tiny_outputs(settings)
    photos = {}
    if own_photos:
        foregrounds = pd.read_parquet(settings.folder("01_compositing") / "foregrounds.parquet")
        for row in foregrounds.itertuples():
            target = tmp_path / "photos" / row.synset / f"{row.foreground_id}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((settings.run_folder / row.file).read_bytes())
        photos = {"real_photos": str(tmp_path / "photos")}
    executed = papermill.execute_notebook(
        str(root / "notebooks" / "04_classifier_evaluation.ipynb"), str(tmp_path / "04.ipynb"), cwd=str(root),
        parameters={
            "output_dir": str(tmp_path), "classifiers": ["tf_efficientnet_lite0"], "bootstrap_samples": 100,
            "device": "cpu", **photos,
        },
        progress_bar=False,
    )  # fmt: skip
    folder = settings.folder("04_classifier_evaluation")
    metrics = read_metrics(folder / "metrics.json")["metrics"]
    names = {f"tf_efficientnet_lite0/{m}_{k}" for m in ("top1", "top5", "in9") for k in ("original", "shifted", "drop")}
    assert set(metrics) == names
    assert metrics["tf_efficientnet_lite0/top1_original"].n == 4
    assert metrics["tf_efficientnet_lite0/top1_shifted"].n == 8
    assert len(pd.read_parquet(folder / "predictions.parquet")) == 12
    text = "".join(str(output) for cell in executed.cells for output in cell.get("outputs", []))
    assert ("No real photos here" in text) is not own_photos
    assert (folder / "real_photos.parquet").exists() is own_photos
    assert {"original_and_shifted.png", "drops.png"} <= {path.name for path in folder.glob("*.png")}
