"""Notebook 00 through papermill: a model from made-up photos, in some seconds."""

import json

import numpy as np
import pandas as pd
import papermill
import pytest
from PIL import Image

from d3s_utils.metrics import read_metrics
from d3s_utils.model_card import TARGETS
from d3s_utils.pipelines import load_pipeline
from d3s_utils.randomness import numpy_generator
from d3s_utils.settings import load_settings
from d3s_utils.taxonomy import BACKGROUNDS


def write_photos(folder, labels, number):
    for place, label in enumerate(labels):
        (folder / label).mkdir(parents=True)
        for i in range(number):
            random = numpy_generator(11, label, i)  # two of the first 13 photos of each class are held out
            photo = np.full((64, 64, 3), 40 + 10 * place) + random.integers(-30, 30, (64, 64, 3))
            photo[20:44, 16:48] = [230, 180, 90]
            Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(folder / label / f"{i}.png")


@pytest.mark.notebook
def test_it_trains_measures_and_saves_a_model(tmp_path, root):
    settings = load_settings("mini", output_dir=str(tmp_path))
    write_photos(tmp_path / "objects", [*settings.classes, "n02129165"], 14)
    write_photos(tmp_path / "scenes", BACKGROUNDS, 6)
    parameters = {
        "output_dir": str(tmp_path), "object_photos": str(tmp_path / "objects"),
        "scene_photos": str(tmp_path / "scenes"), "autoencoder_steps": 24, "decoder_steps": 2, "diffusion_steps": 6,
        "critic_pictures": 2, "refining_steps": 3, "dream_steps": 3,
        "text_guidance_scales": [2.0], "candidate_numbers": [1, 2],
        "scenes_per_background": 2, "composites": 20, "samples_per_class": 2,
        "guides_per_class": 1, "strengths": [0.4], "guidance_scales": [2.0],
    }  # fmt: skip
    notebook = str(root / "notebooks" / "00_train_mini_diffusion.ipynb")
    options = {"cwd": str(root), "progress_bar": False}
    papermill.execute_notebook(notebook, str(tmp_path / "00.ipynb"), parameters=parameters, **options)
    folder = settings.folder("00_train_mini_diffusion")
    record = read_metrics(folder / "metrics.json")
    assert {target.metric for target in TARGETS} <= set(record["metrics"])
    assert record["metrics"]["text_to_image/foreground_agreement"].n == 20
    assert record["metrics"]["image_to_image/foreground_agreement"].n == 90
    model = folder / "mini_diffusion"
    assert load_pipeline(model).sha256 == record["provenance"]["weights"]["mini_diffusion"]
    assert read_metrics(model / "metrics.json") == record
    curves = pd.read_parquet(folder / "loss.parquet")
    autoencoder = curves[curves["part"] == "autoencoder"]["loss"]
    assert autoencoder.iloc[-1] < 0.9 * autoencoder.iloc[0], "the loss must fall"
    assert set(pd.read_parquet(folder / "setting_curves.parquet")["at"]) == {0.4, 2.0}
    names = "loss samples refined classes scenes pairs by_class nearest copying composites"
    names += " strength_curve guidance_scale_curve"
    assert {f"{name}.png" for name in names.split()} <= {path.name for path in folder.glob("*.png")}
    card = (model / "README.md").read_text()
    assert "10 ImageNet classes" in card
    assert "from random weights" in card.split("**Training**")[1]

    again = parameters | {
        "start_from": str(model), "output_dir": str(tmp_path / "again"), "autoencoder_steps": 0, "decoder_steps": 0,
        "diffusion_steps": 0, "refining_steps": 0,
    }  # fmt: skip
    papermill.execute_notebook(notebook, str(tmp_path / "again.ipynb"), parameters=again, **options)
    measured = tmp_path / "again" / folder.relative_to(tmp_path)
    unchanged = read_metrics(measured / "metrics.json")
    assert unchanged["provenance"]["weights"] == record["provenance"]["weights"], "no step trained, so nothing changed"
    timed = {"speed/passes", "speed/dreamt_per_second"}
    for name in set(record["metrics"]) - timed:
        assert unchanged["metrics"][name] == record["metrics"][name], name
    assert json.loads((measured / "mini_diffusion" / "training.json").read_text()) == json.loads(
        (model / "training.json").read_text()
    )
