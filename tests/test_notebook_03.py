"""Notebook 03 through papermill, on a tiny made-up data set."""

import json

import pandas as pd
import papermill
import pytest
import torch
from tiny_models import make_tiny_clip
from tiny_outputs import tiny_settings, write_tiny_outputs
from torchvision.models import alexnet

from d3s_utils.annotation_answers import FORMAT
from d3s_utils.annotation_pages import read_tasks
from d3s_utils.dataset_export import read_parquet
from d3s_utils.metrics import read_metrics


@pytest.mark.notebook
def test_it_judges_a_tiny_data_set(tmp_path, root):
    settings = tiny_settings(tmp_path, guides_per_class_train=1)
    write_tiny_outputs(settings, until="02_diffusion_generation")
    torn = next((settings.folder("02_diffusion_generation") / "images" / "train").glob("*.png"))
    torn.write_bytes(torn.read_bytes()[:100])
    parameters = {
        "output_dir": str(tmp_path), "foreground_judges": ["tf_efficientnet_lite0"], "foreground_witnesses": [],
        "background_witnesses": [], "pictures_for_people": 6, "device": "cpu",
    }  # fmt: skip
    papermill.execute_notebook(
        str(root / "notebooks" / "03_validation.ipynb"), str(tmp_path / "03.ipynb"), cwd=str(root),
        parameters=parameters, progress_bar=False,
    )  # fmt: skip
    folder = settings.folder("03_validation")
    record = read_metrics(folder / "metrics.json")
    table = pd.read_parquet(folder / "validated.parquet")
    assert {"foreground_agreement", "background_agreement", "acceptance"} <= set(record["metrics"])
    assert {"snow/foreground_agreement", "acceptance/snow", "krippendorff_alpha/object"} <= set(record["metrics"])
    assert record["metrics"]["foreground_agreement"].n == len(table) == 8
    assert table.loc[table["file"].str.endswith(torn.name), "reason"].str.startswith("unreadable").all()
    assert (table["keep"] == (table["reason"] == "")).all()
    assert set(table["verdict_source"]) == {"models"}, "simulated people overrule nobody"
    assert (table["people_source"] == "simulated").sum() == 6
    assert len(pd.read_parquet(folder / "agreement.parquet")) == 2 * 2 * 3
    assert {"agreement.png", "thresholds.png", "calibration_foreground.png"} <= {
        path.name for path in folder.glob("*.png")
    }
    weights = {"tf_efficientnet_lite0", "background_head", "open_nsfw"}
    assert set(record["provenance"]["weights"]) == weights
    assert record["provenance"]["data"]["votes"] == "simulated"
    assert "simulated" in (folder / "release" / "README.md").read_text()
    assert len(read_parquet(folder / "release")) == 8

    alexnet_file = tmp_path / "alexnet.pth"
    torch.save(alexnet(weights=None).state_dict(), alexnet_file)
    answers = answer_by_hand(folder / "annotation", tmp_path / "answers")
    papermill.execute_notebook(
        str(root / "notebooks" / "03_validation.ipynb"), str(tmp_path / "03b.ipynb"), cwd=str(root),
        parameters=parameters | {
            "answers": str(answers), "votes_needed": 2, "vote_rule": "unanimous", "lpips_backbone": str(alexnet_file),
            "clip_model": str(make_tiny_clip(tmp_path / "tiny-clip")), "filters": ["foreground", "clip_foreground"],
        },
        progress_bar=False,
    )  # fmt: skip
    record = read_metrics(folder / "metrics.json")
    table = pd.read_parquet(folder / "validated.parquet")
    assert record["provenance"]["data"]["votes"] == "people"
    assert "krippendorff_alpha/object" not in record["metrics"], "undefined where all say the same"
    assert record["provenance"]["data"]["diversity_measure"].startswith("LPIPS")
    assert "tiny-clip" in record["provenance"]["weights"]
    assert {"filter_precision/clip_foreground", "filter_recall/clip_background"} & set(record["metrics"])
    assert table["clip_foreground_probability"].notna().sum() == 7
    by_people = table[table["verdict_source"] == "people"]
    assert len(by_people) == 6
    assert by_people["keep"].all(), "both workers accept everything, whatever the models say"
    assert set(by_people["rule"]) == {"people: unanimous, 2 votes"}
    assert "simulated" not in (folder / "release" / "README.md").read_text()


def answer_by_hand(tasks_folder, folder):
    """Write the answers of two workers who find everything as it was asked for."""
    tasks = read_tasks(tasks_folder)
    asked = pd.read_parquet(tasks_folder.parent / "validated.parquet").set_index("image_id")["background"]
    known = tasks.gold.set_index(["image_id", "question"])["answer"]
    folder.mkdir()
    for worker in ("ada", "bob"):
        for task_id, items in tasks.items.groupby("task_id"):
            answers = []
            for item in items.to_dict("records"):
                right = {"object": "yes", "background": asked.get(item["image_id"]), "unsafe": "no"}
                if item["kind"] == "gold":
                    right = {question: known[item["image_id"], question] for question in right}
                answers += [{"item_id": item["item_id"], "question": q, "answer": a} for q, a in right.items()]
            record = {"format": FORMAT, "task_id": task_id, "worker": worker, "answers": answers}
            (folder / f"{worker}-{task_id}.json").write_text(json.dumps(record))
    return folder
