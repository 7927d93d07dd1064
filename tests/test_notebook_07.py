"""Notebook 07 through papermill: on an imitation, and on folders in the published layout."""

import pandas as pd
import papermill
import pytest
from tiny_outputs import tiny_settings, write_tiny_outputs

from d3s_utils.in9_variants import VARIANTS
from d3s_utils.metrics import read_metrics


@pytest.mark.notebook
def test_it_imitates_the_challenge_and_reads_its_folders_alike(tmp_path, root):
    settings = tiny_settings(tmp_path, guides_per_class_train=1, guides_per_class_val=2, backgrounds=["water", "snow"])
    write_tiny_outputs(settings)
    path = settings.folder("03_validation") / "validated.parquet"
    pd.read_parquet(path).assign(width=48, height=48).to_parquet(path)  # the tiny paste is the whole picture
    found = []
    for name, more in (("imitation", {}), ("folders", {"in9_folder": str(tmp_path / "in9")})):
        papermill.execute_notebook(
            str(root / "notebooks" / "07_backgrounds_challenge.ipynb"), str(tmp_path / f"{name}.ipynb"), cwd=str(root),
            parameters={
                "output_dir": str(tmp_path), "classifiers": ["tf_efficientnet_lite0"], "bootstrap_samples": 100,
                "challenge_pictures": 4, "challenge_backgrounds": 2, "device": "cpu", **more,
            },
            progress_bar=False,
        )  # fmt: skip
        folder = settings.folder("07_backgrounds_challenge")
        record = read_metrics(folder / "metrics.json")
        found.append(record["metrics"])
        if not more:
            (variants,) = (folder / "variants").iterdir()
            variants.rename(tmp_path / "in9")
    names = [f"{variant}_accuracy" for variant in VARIANTS] + ["background_gap", "challenge_accuracy"]
    names.append("challenge_accuracy_all_classes")
    assert set(found[0]) == {f"tf_efficientnet_lite0/{name}" for name in names}
    assert found[0] == found[1], "the same pictures, read from folders"
    assert found[0]["tf_efficientnet_lite0/original_accuracy"].n == 4
    assert record["provenance"]["data"]["images"] == "published folders"
    assert (folder / "backgrounds_challenge.csv").exists()
    assert {"variants.png", "accuracy_by_variant.png"} <= {path.name for path in folder.glob("*.png")}
