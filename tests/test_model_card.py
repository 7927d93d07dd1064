"""The generator's card: its numbers are those that were measured, with what was wanted of them."""

import json
import re

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from d3s_utils.metrics import Estimate, read_metrics
from d3s_utils.model_card import TARGETS, read_history, target_table, write_model_card
from d3s_utils.pipelines import BUNDLED_FOLDER, load_pipeline
from d3s_utils.settings import BROUGHT_ALONG

METRICS = {
    "text_to_image/foreground_fidelity": Estimate(0.9, 0.8, 1.0, 42),
    "image_to_image/kernel_distance_ratio": Estimate(0.7, 0.6, 0.8, 90),
    "copies/near_share": Estimate(0.01, 0.0, 0.02, 100),
}


def test_a_target_says_whether_it_is_met():
    table = target_table(METRICS | {"other": Estimate(1, 1, 1, 1)}).set_index("metric")
    assert set(table.index) == set(METRICS)
    assert table.loc["text_to_image/foreground_fidelity", "met"]
    assert table.loc["text_to_image/foreground_fidelity", "wanted"] == "at least 0.85"
    assert not table.loc["image_to_image/kernel_distance_ratio", "met"]
    assert table.loc["image_to_image/kernel_distance_ratio", "wanted"] == "at most 0.5"
    assert table.loc["copies/near_share", "met"] is None
    assert len({target.metric for target in TARGETS}) == len(TARGETS)


def test_the_card_holds_the_numbers_in_text_and_as_hugging_face_reads_them(tmp_path):
    (tmp_path / "sheet.jpg").write_bytes(b"picture")
    options = {"metrics": METRICS, "history": ["First.", "Then."], "classes": ["lion", "organ"],
               "settings": {"seed": 0}}  # fmt: skip
    path = write_model_card(tmp_path, sheets={"sheet.jpg": "Guides"}, **options)
    text = path.read_text()
    assert "| dreamt over raw | 0.7 [0.6, 0.8] | at most 0.5: **not met** | 90 |" in text
    assert "| the same over photos | 0.9 [0.8, 1] | at least 0.85: met | 42 |" in text
    assert "2 ImageNet classes\n(lion, organ)" in text
    assert "1. First.\n1. Then." in text
    assert "![Guides](sheet.jpg)" in text
    results = ModelCard(text).data.eval_results
    assert {result.metric_type: result.metric_value for result in results} == {n: e.value for n, e in METRICS.items()}
    assert read_history(tmp_path) == ["First.", "Then."]
    assert read_history(tmp_path / "elsewhere") == []
    with pytest.raises(ValueError, match=r"lacks none\.jpg"):
        write_model_card(tmp_path, sheets={"none.jpg": ""}, **options)


def test_the_shipped_card_is_that_of_the_shipped_weights():
    record = read_metrics(BUNDLED_FOLDER / "metrics.json")
    assert record["provenance"]["weights"]["mini_diffusion"] == load_pipeline("bundled", device="cpu").sha256
    settings = record["provenance"]["settings"]
    recommended = json.loads((BUNDLED_FOLDER / "recommended.json").read_text())
    assert recommended == {name: settings[name] for name in BROUGHT_ALONG}, "what mini does is what was measured"
    text = (BUNDLED_FOLDER / "README.md").read_text()
    for row in target_table(record["metrics"]).itertuples():
        assert f"| {row.meaning} | {row.value:.3g} [{row.low:.3g}, {row.high:.3g}] |" in text
    for file in re.findall(r"\]\(([^)]+\.(?:jpg|csv))\)", text):
        assert (BUNDLED_FOLDER / file).is_file()
    assert json.loads((BUNDLED_FOLDER / "training.json").read_text())
    assert not pd.read_csv(BUNDLED_FOLDER / "ablations.csv").isna().any(axis=None)
    assert sum(path.stat().st_size for path in BUNDLED_FOLDER.rglob("*") if path.is_file()) < 40e6
