"""Notebook 06 through papermill on fake pictures, whose colours tell class and background."""

import pandas as pd
import papermill
import pytest
from PIL import Image
from tiny_outputs import write_tiny_outputs

from d3s_utils.atomic_files import sha256_of, write_table
from d3s_utils.metrics import read_metrics
from d3s_utils.settings import load_settings

PICTURES = {
    "classes": ["n02129165", "n01443537", "n02056570"], "backgrounds": ["grass", "snow", "cave", "road"],
    "guides_per_class_train": 4, "guides_per_class_val": 3, "templates_per_background": 2,
}  # fmt: skip
TINY = {
    "feature_components": 12, "foreground_width": 4, "background_width": 4, "warmup_steps": 2, "training_steps": 4,
    "training_batch_size": 16, "critic_steps": 1, "critic_width": 16, "spurious_seeds": 1,
    "spurious_correlations": [0.5, 1.0], "balanced_share": 0.5, "saliency_pictures": 2, "bootstrap_samples": 100,
    "device": "cpu",
}  # fmt: skip
FEATURES = ("all", "foreground", "background", "erased", "whitened", "whitened_foreground")
METHODS = ("erm", "group_balanced", "group_dro", "jtt", "dfr")
MEASURES = ("matching", "non_matching", "left_out", "photo", "worst_group", "picture_average",
            "training_group_average")  # fmt: skip

pytestmark = pytest.mark.notebook


def write_real_photos(folder):
    for name, colour in (("n02129165", "red"), ("n01443537", "green"), ("n02056570", "blue")):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (64, 64), colour).save(folder / name / "photo.png")
    return str(folder)


def add_guides_hashes(settings):
    file = settings.folder("03_validation") / "validated.parquet"
    table = pd.read_parquet(file)
    hashes = [sha256_of(settings.run_folder / guide) for guide in table["guide_file"]]
    write_table(file, table.assign(guide_sha256=hashes))


def test_every_number_figure_and_table_is_there(root, tmp_path):
    settings = load_settings("mini", output_dir=str(tmp_path / "outputs"), **PICTURES)
    write_tiny_outputs(settings)
    add_guides_hashes(settings)
    parameters = {**TINY, "output_dir": str(tmp_path / "outputs"), "real_photos": write_real_photos(tmp_path / "real")}
    papermill.execute_notebook(
        root / "notebooks" / "06_spurious_correlation.ipynb", tmp_path / "executed.ipynb",
        parameters=parameters, cwd=tmp_path, progress_bar=False,
    )  # fmt: skip
    folder = tmp_path / "outputs" / "mini" / "06_spurious_correlation"
    record = read_metrics(folder / "metrics.json")
    heads = [f"{name}/{method}" for name in FEATURES for method in METHODS]
    assert {f"{head}/{measure}" for head in heads for measure in MEASURES} <= set(record["metrics"])
    assert record["metrics"]["all/erm/photo"].n == 3
    assert record["metrics"]["all/erm/matching"].n == 3 * 3 * 2  # guides and results of three objects a class
    assert {"all/erm/guide_heat_overlap", "foreground/erm/result_heat_overlap"} <= set(record["metrics"])
    assert "heads on foreground features close" in record["answer"]
    for name in ("worst_groups", "robustness_curve", "saliency_guides", "saliency_results"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
    measures = pd.read_parquet(folder / "measures.parquet")
    assert len(measures) == 2 * len(heads) * len(MEASURES)
    outcomes = pd.read_parquet(folder / "outcomes.parquet")
    assert len(outcomes) == 2 * len(heads) * (3 * 3 * 4 * 2 + 3)
    assert set(pd.read_parquet(folder / "gaps.parquet")["base"]) == {"all/erm", "whitened/erm"}
    assert sorted(pd.read_parquet(folder / "sizes.parquet")["share"].unique()) == [0.33, 0.67, 1.0]
