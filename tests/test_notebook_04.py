"""Notebook 04 through papermill, on a tiny made-up data set."""

import json

import pandas as pd
import papermill
import pytest
from tiny_outputs import tiny_settings, write_tiny_outputs

from d3s_utils.evaluation import KINDS
from d3s_utils.metrics import read_metrics
from d3s_utils.robustness_measures import holm


def run_it(tmp_path, root, **parameters):
    return papermill.execute_notebook(
        str(root / "notebooks" / "04_classifier_evaluation.ipynb"), str(tmp_path / "04.ipynb"), cwd=str(root),
        parameters={
            "output_dir": str(tmp_path), "classifiers": ["tf_efficientnet_lite0"],
            "bootstrap_samples": 100, "focus_pictures": 3, "device": "cpu", **parameters,
        },
        progress_bar=False,
    )  # fmt: skip


def number_beyond_chance(folder):
    contrasts = pd.read_csv(folder / "contrasts.csv")
    rows = contrasts[(contrasts["effect"] == "background_effect") & (contrasts["measure"] == "top1")]
    return int((holm(rows["p_value"].to_numpy()) < 0.05).sum())


@pytest.mark.notebook
@pytest.mark.parametrize("own_photos", [False, True])
def test_it_measures_a_drop(tmp_path, root, monkeypatch, own_photos):
    monkeypatch.setenv("D3S_SHARED_DATA", str(tmp_path / "nothing"))
    settings = tiny_settings(tmp_path, guides_per_class_train=1, guides_per_class_val=2)
    write_tiny_outputs(settings)
    more = {}
    if own_photos:
        foregrounds = pd.read_parquet(settings.folder("01_compositing") / "foregrounds.parquet")
        for row in foregrounds.itertuples():
            for target in (
                tmp_path / "photos" / row.synset / f"{row.foreground_id}.png",
                tmp_path / "corrupted" / "fog" / "3" / row.synset / f"{row.foreground_id}.png",
            ):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((settings.run_folder / row.file).read_bytes())
        zoo = tmp_path / "zoo.yaml"
        entries = [
            {"name": "lite0", "group": "supervised conv", "kind": "timm", "source": "tf_efficientnet_lite0"},
            {"name": "gone", "group": "transformer", "kind": "timm", "source": str(tmp_path / "no_such_folder")},
        ]
        zoo.write_text(json.dumps(entries))
        more = {
            "real_photos": str(tmp_path / "photos"), "image_sets": [f"imagenet_c:{tmp_path / 'corrupted'}"],
            "classifiers": [str(zoo), "tf_efficientnet_lite1"],
        }  # fmt: skip
    executed = run_it(tmp_path, root, **more)
    folder = settings.folder("04_classifier_evaluation")
    record = read_metrics(folder / "metrics.json")
    metrics, models = record["metrics"], ["lite0", "tf_efficientnet_lite1"] if own_photos else ["tf_efficientnet_lite0"]
    names = {f"{model}/{m}_{k}" for model in models for m in ("top1", "top5", "in9")
             for k in ("original", "shifted", "drop")}  # fmt: skip
    assert names | {"one_pass_time_ratio"} <= set(metrics)
    effects = {"background_effect", "background_effect_plain", "repaint_effect", "size_effect", "interaction",
               "detectable_drop", "background_spread", "background_effect_all", "in9_background_effect",
               "top1_placed", "top1_placed_repainted", "top1_guide"}  # fmt: skip
    assert {f"{model}/{effect}" for model in models for effect in effects} <= set(metrics)
    assert metrics[f"{models[0]}/top1_original"].n == 6, "foregrounds of both splits"
    assert metrics[f"{models[0]}/top1_shifted"].n == metrics[f"{models[0]}/top1_placed"].n == 12
    assert metrics[f"{models[0]}/background_effect"].n == 6
    assert record["plain"].startswith("When only the background changes")
    assert f"beyond chance: {number_beyond_chance(folder)}." in record["answer"]
    assert f"Over {len(models)} model" in record["answer"]
    assert (folder / record["chart"]).exists()
    assert f"{models[0]}/foreground_focus" in metrics
    assert set(record["provenance"]["weights"]) == set(models)
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert len(predictions) == (6 + 4 * 12) * len(models)
    assert predictions["kind"].value_counts().to_dict() == {
        kind: (6 if kind == "original" else 12) * len(models) for kind in KINDS
    }
    text = "".join(str(output) for cell in executed.cells for output in cell.get("outputs", []))
    assert ("No real photos here" in text) is not own_photos
    assert (folder / "real_photos.parquet").exists() is own_photos
    board, overview = (pd.read_csv(folder / f"{name}.csv") for name in ("leaderboard", "accuracy_overview"))
    assert set(board["model"]) == set(overview["model"]) == set(models)
    unavailable = pd.read_csv(folder / "unavailable.csv")
    assert unavailable["name"].tolist() == (["gone"] if own_photos else [])
    figures = {
        "original_and_shifted.png",
        "drops.png",
        "drops_sorted.png",
        "accuracy_by_place.png",
        "saliency.png",
        "waterfall.png",
        "effects.png",
    }
    assert figures <= {path.name for path in folder.glob("*.png")}
    if own_photos:
        corrupted = pd.read_parquet(folder / "image_sets.parquet")
        assert set(corrupted["model"]) == set(models)
        assert (folder / "error_consistency.png").exists()
        again = run_it(tmp_path, root, **more)
        text = "".join(str(output) for cell in again.cells for output in cell.get("outputs", []))
        assert "0 decoded, 0 answers were new" in text
        assert read_metrics(folder / "metrics.json")["metrics"] | {"one_pass_time_ratio": 0} == metrics | {
            "one_pass_time_ratio": 0
        }


@pytest.mark.notebook
def test_a_judge_is_not_measured_on_what_it_kept(tmp_path, root, monkeypatch):
    monkeypatch.setenv("D3S_SHARED_DATA", str(tmp_path / "nothing"))
    settings = tiny_settings(tmp_path, guides_per_class_train=1, guides_per_class_val=2)
    write_tiny_outputs(settings)
    validated = settings.folder("03_validation") / "validated.parquet"
    pd.read_parquet(validated).assign(foreground_judged_by="small_resnet").to_parquet(validated)
    run_it(tmp_path, root, classifiers=["small_resnet", "tf_efficientnet_lite0"])
    record = read_metrics(settings.folder("04_classifier_evaluation") / "metrics.json")
    effects = {name for name in record["metrics"] if name.endswith("/background_effect")}
    assert effects == {"tf_efficientnet_lite0/background_effect"}
    assert "small_resnet/background_effect_all" in record["metrics"]
    told = {name for name in record["metrics"] if name.startswith("small_resnet/")}
    assert not {name for name in told if "shifted" in name or "drop" in name or "worst" in name}, "right by choice"
    assert record["answer"].startswith("When only the background changes, tf_efficientnet_lite0 loses")
    assert "Over 1 model the" in record["answer"]
