"""Notebook 06 through papermill on fake pictures, whose colours tell class and background."""

import re

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


def execute(root, tmp_path, *, settings=PICTURES, **parameters):
    """Run the notebook on fake images; return its folder and its metrics file."""
    output = {"output_dir": str(tmp_path / "outputs")}
    settings = load_settings("mini", **output, **settings)
    write_tiny_outputs(settings)
    add_guides_hashes(settings)
    papermill.execute_notebook(
        root / "notebooks" / "06_spurious_correlation.ipynb", tmp_path / "executed.ipynb",
        parameters={**TINY, **output, **parameters}, cwd=tmp_path, progress_bar=False,
    )  # fmt: skip
    folder = settings.folder("06_spurious_correlation")
    return folder, read_metrics(folder / "metrics.json")


def test_every_number_figure_and_table_is_there(root, tmp_path):
    folder, record = execute(root, tmp_path, real_photos=write_real_photos(tmp_path / "real"))
    heads = [f"{name}/{method}" for name in FEATURES for method in METHODS]
    assert {f"{head}/{measure}" for head in heads for measure in MEASURES} <= set(record["metrics"])
    assert record["metrics"]["all/erm/photo"].n == 3
    assert record["metrics"]["all/erm/matching"].n == 3 * 3 * 2  # guides and results of three objects a class
    assert {"all/erm/guide_heat_overlap", "foreground/erm/result_heat_overlap"} <= set(record["metrics"])
    assert record["metrics"]["superclasses"].value == 3
    assert {f"all/{method}/gap_closed" for method in METHODS[1:]} <= set(record["metrics"])
    assert "heads on foreground features close" in record["answer"]
    for name in ("group balancing", "GroupDRO", "DFR"):
        assert f" On all features {name} closes " in record["answer"], "none is picked by what is tested"
    assert len(re.findall(r"-?[0-9]+[.]?[0-9]*", record["plain"])) == 2
    assert record["chart"] == "robustness_curve.png"
    for name in ("worst_groups", "robustness_curve", "saliency_guides", "saliency_results"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
    measures = pd.read_parquet(folder / "measures.parquet")
    assert len(measures) == 2 * len(heads) * len(MEASURES)
    gap = measures[measures["method"] == "group_dro"]
    assert gap["dro_gap"].between(0, 0.01).all()
    outcomes = pd.read_parquet(folder / "outcomes.parquet")
    assert len(outcomes) == 2 * len(heads) * (3 * 3 * 4 * 2 + 3)
    assert set(pd.read_parquet(folder / "gaps.parquet")["base"]) == {"all/erm", "whitened/erm"}
    assert sorted(pd.read_parquet(folder / "sizes.parquet")["share"].unique()) == [0.33, 0.67, 1.0]


def test_classes_without_a_superclass_are_labels_of_their_own(root, tmp_path):
    """Five classes before four backgrounds: three labels can stay."""
    names = ["tabby", "school_bus", "goldfish", "lion", "fig"]
    folder, record = execute(
        root, tmp_path, settings=PICTURES | {"classes": names}, saliency_pictures=0, spurious_correlations=[1.0]
    )
    assert record["provenance"]["data"]["labels"] == ["carnivore", "fig", "fish"]
    outcomes = pd.read_parquet(folder / "outcomes.parquet")
    assert set(outcomes["label"]) == {"carnivore", "fig", "fish"}
    assert record["answer"].endswith(f"Left out: 2 classes with {2 * 7 * 4} images (school bus, tabby).")


def test_two_classes_without_a_superclass_make_a_run(root, tmp_path):
    """No group has ten tested images, so there is no worst one, and the rest is there."""
    two = PICTURES | {"classes": ["tabby", "school_bus"]}
    folder, record = execute(root, tmp_path, settings=two, saliency_pictures=0, spurious_correlations=[1.0])
    assert record["provenance"]["data"]["labels"] == ["school bus", "tabby"]
    assert {f"{name}/erm/{kind}" for name in FEATURES for kind in MEASURES[:3]} <= set(record["metrics"])
    assert not [name for name in record["metrics"] if name.endswith("worst_group")]
    assert (folder / record["chart"]).exists()


def test_it_says_when_nothing_can_be_measured(root, tmp_path):
    folder = tmp_path / "outputs" / "mini" / "06_spurious_correlation"
    folder.mkdir(parents=True)
    (folder / "gaps.csv").write_text("an earlier run's")
    few = PICTURES | {"classes": ["goldfish", "tabby"], "backgrounds": ["grass", "snow"]}
    _, record = execute(root, tmp_path, settings=few)
    assert set(record["metrics"]) == {"superclasses"}
    assert record["metrics"]["superclasses"].value == 1
    assert record["answer"].startswith("Nothing was measured: two labels are needed")
    assert "1 label (fish) like that and 2 backgrounds" in record["answer"]
    assert not (folder / "gaps.csv").exists()
