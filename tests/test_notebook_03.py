"""Notebook 03 through papermill, on a tiny made-up data set."""

from pathlib import Path

import pandas as pd
import papermill
import pytest
from tiny_outputs import write_tiny_outputs

from d3s_utils.metrics import read_metrics
from d3s_utils.settings import load_settings


@pytest.mark.notebook
def test_it_judges_a_tiny_data_set(tmp_path, root):
    settings = load_settings(
        "mini", output_dir=str(tmp_path), classes=["goldfish", "lion"], backgrounds=["snow", "night"],
        guides_per_class_train=1, guides_per_class_val=1, templates_per_background=2,
    )  # fmt: skip
    write_tiny_outputs(settings, until="02_diffusion_generation")
    torn = next((settings.folder("02_diffusion_generation") / "images" / "train").glob("*.png"))
    torn.write_bytes(torn.read_bytes()[:100])
    papermill.execute_notebook(
        str(root / "notebooks" / "03_validation.ipynb"), str(tmp_path / "03.ipynb"), cwd=str(root),
        parameters={"output_dir": str(tmp_path), "foreground_judge": "tf_efficientnet_lite0", "device": "cpu"},
        progress_bar=False,
    )  # fmt: skip
    folder = settings.folder("03_validation")
    record = read_metrics(folder / "metrics.json")
    table = pd.read_parquet(folder / "validated.parquet")
    assert {"foreground_agreement", "background_agreement", "acceptance"} <= set(record["metrics"])
    assert "snow/foreground_agreement" in record["metrics"]
    assert record["metrics"]["foreground_agreement"].n == len(table) == 8
    assert table.loc[table["file"].str.endswith(torn.name), "reason"].str.startswith("unreadable").all()
    assert (table["keep"] == (table["reason"] == "")).all()
    assert len(pd.read_parquet(folder / "agreement.parquet")) == 2 * 2 * 3
    assert {"agreement.png", "thresholds.png"} <= {path.name for path in Path(folder).glob("*.png")}
    assert set(record["provenance"]["weights"]) == {"tf_efficientnet_lite0", "background_head", "open_nsfw"}
