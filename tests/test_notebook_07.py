"""Notebook 07 through papermill: on an imitation, on folders in the published layout, and with nothing to measure."""

import json

import pandas as pd
import papermill
import pytest
from tiny_outputs import tiny_settings, write_tiny_outputs

from d3s_utils.in9_variants import VARIANTS
from d3s_utils.metrics import read_metrics

MODEL = "tf_efficientnet_lite0"
HOMES = {"fish": "water", "carnivore": "snow"}


def execute(root, tmp_path, settings, **parameters) -> dict:
    """Run the notebook and return its metrics file."""
    papermill.execute_notebook(
        str(root / "notebooks" / "07_backgrounds_challenge.ipynb"), str(tmp_path / "executed.ipynb"), cwd=str(root),
        parameters={
            "output_dir": str(tmp_path), "classifiers": [MODEL], "challenge_pictures": 4, "challenge_backgrounds": 2,
            "device": "cpu", **parameters,
        },
        progress_bar=False,
    )  # fmt: skip
    return read_metrics(settings.folder("07_backgrounds_challenge") / "metrics.json")


@pytest.mark.notebook
def test_it_imitates_the_challenge_and_reads_its_folders_alike(tmp_path, root):
    settings = tiny_settings(
        tmp_path, classes=["goldfish", "lion", "banana"], guides_per_class_train=1, guides_per_class_val=2,
        backgrounds=["water", "snow"],
    )  # fmt: skip
    write_tiny_outputs(settings)
    path = settings.folder("03_validation") / "validated.parquet"
    pd.read_parquet(path).assign(width=48, height=48).to_parquet(path)  # the tiny paste is the whole image
    folder = settings.folder("07_backgrounds_challenge")

    record = execute(root, tmp_path, settings, homes=HOMES)
    imitated = record["metrics"]
    shared = {f"{MODEL}/{variant}_{rule}" for variant in VARIANTS for rule in ("in9", "in9_of_1000")}
    shared |= {f"{MODEL}/challenge_accuracy", f"{MODEL}/challenge_accuracy_all_classes"}
    gaps = {f"{MODEL}/background_gap{part}" for part in ("", "_raw", "_control")}
    assert set(imitated) == shared | gaps | {"superclasses", "ellipse_share"}
    assert imitated["superclasses"].value == 2
    assert imitated[f"{MODEL}/original_in9"].n == 4
    raw, control = (imitated[f"{MODEL}/background_gap_{part}"].value for part in ("raw", "control"))
    assert imitated[f"{MODEL}/background_gap"].value == pytest.approx(raw - control)
    for variant in VARIANTS:
        strict, mild = (imitated[f"{MODEL}/{variant}_{rule}"].value for rule in ("in9_of_1000", "in9"))
        assert strict <= mild
    data = record["provenance"]["data"]
    assert data["images"].startswith("imitation")
    assert data["homes"] == HOMES
    for text in (record["answer"], record["plain"]):
        assert "imitation" in text
    assert "banana" in record["answer"], "what is left out is named"
    assert pd.read_csv(folder / "homes.csv")["source"].tolist() == ["setting", "setting"]
    both = pd.read_csv(folder / "variant_accuracy.csv")
    assert (both["in9_of_1000"] <= both["in9"]).all()
    figures = {"variants.png", "accuracy_by_variant.png", "controlled_gap.png"}
    assert figures <= {path.name for path in folder.glob("*.png")}

    (variants,) = (folder / "variants").iterdir()
    (variants / "home").rename(tmp_path / "in9")
    record = execute(root, tmp_path, settings, in9_folder=str(tmp_path / "in9"))
    assert set(record["metrics"]) == shared | {f"{MODEL}/background_gap"}
    for name in shared:
        assert record["metrics"][name] == imitated[name], "the same images, read from folders"
    assert record["provenance"]["data"]["images"] == "published folders"
    assert "imitation" not in record["answer"]


@pytest.mark.notebook
def test_classes_without_a_superclass_end_in_an_answer(tmp_path, root):
    settings = tiny_settings(tmp_path, classes=["tabby", "school_bus"])
    write_tiny_outputs(settings)
    folder = settings.folder("07_backgrounds_challenge")
    folder.mkdir()
    (folder / "turned.png").write_bytes(b"of an earlier run")
    record = execute(root, tmp_path, settings)
    assert record["metrics"]["superclasses"].value == 0
    assert set(record["metrics"]) == {"superclasses"}
    for words in ("Nothing was measured", "tabby", "school bus"):
        assert words in record["answer"]
    assert not list(folder.glob("*.png"))
    cells = json.loads((tmp_path / "executed.ipynb").read_text())["cells"]
    assert cells[-1]["execution_count"] is None, "it ended before"


@pytest.mark.notebook
def test_a_single_superclass_ends_in_an_answer_too(tmp_path, root):
    settings = tiny_settings(tmp_path, classes=["goldfish", "tench"], backgrounds=["water", "snow"])
    write_tiny_outputs(settings)
    path = settings.folder("03_validation") / "validated.parquet"
    pd.read_parquet(path).assign(width=48, height=48).to_parquet(path)
    record = execute(root, tmp_path, settings, homes={"fish": "water"})
    assert record["metrics"]["superclasses"].value == 1
    assert "images of 1" in record["answer"]


@pytest.mark.notebook
def test_without_a_control_only_the_raw_gap_is_told(tmp_path, root):
    settings = tiny_settings(tmp_path, guides_per_class_train=1, guides_per_class_val=2, backgrounds=["water", "snow"])
    write_tiny_outputs(settings)
    path = settings.folder("03_validation") / "validated.parquet"
    table = pd.read_parquet(path).assign(width=48, height=48)
    table.assign(keep=table["background"] == table["in9"].map(HOMES)).to_parquet(path)
    record = execute(root, tmp_path, settings, homes=HOMES)
    gaps = {name for name in record["metrics"] if "gap" in name}
    assert gaps == {f"{MODEL}/background_gap_raw"}, "what is not controlled has not the name of what is"
    assert "not known" in record["answer"]
    assert "imitation" in record["plain"]
    assert record["headline"] == [f"{MODEL}/background_gap_raw", f"{MODEL}/challenge_accuracy"]
