"""Notebook 00 through papermill: a model from made-up photos, in some seconds."""

import numpy as np
import pandas as pd
import papermill
import pytest
from PIL import Image

from d3s_utils.metrics import read_metrics
from d3s_utils.pipelines import load_pipeline
from d3s_utils.randomness import numpy_generator
from d3s_utils.settings import load_settings
from d3s_utils.taxonomy import BACKGROUNDS


def write_photos(folder, labels, number):
    for place, label in enumerate(labels):
        (folder / label).mkdir(parents=True)
        for i in range(number):
            random = numpy_generator(0, label, i)
            photo = np.full((64, 64, 3), 40 + 10 * place) + random.integers(-30, 30, (64, 64, 3))
            photo[20:44, 16:48] = [230, 180, 90]
            Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(folder / label / f"{i}.png")


@pytest.mark.notebook
def test_it_trains_measures_and_saves_a_model(tmp_path, root):
    settings = load_settings("mini", output_dir=str(tmp_path))
    write_photos(tmp_path / "objects", settings.classes, 8)
    write_photos(tmp_path / "scenes", BACKGROUNDS, 6)
    parameters = {
        "output_dir": str(tmp_path), "object_photos": str(tmp_path / "objects"),
        "scene_photos": str(tmp_path / "scenes"), "autoencoder_steps": 60, "decoder_steps": 4, "diffusion_steps": 6,
        "scenes_per_background": 2, "composites": 20, "samples_per_class": 1, "steps": 2, "checkpoint_every": 2,
    }  # fmt: skip
    papermill.execute_notebook(
        str(root / "notebooks" / "00_train_mini_diffusion.ipynb"), str(tmp_path / "00.ipynb"), cwd=str(root),
        parameters=parameters, progress_bar=False,
    )  # fmt: skip
    folder = settings.folder("00_train_mini_diffusion")
    record = read_metrics(folder / "metrics.json")
    assert {"dreamt/foreground_agreement", "scenes/background_agreement"} <= set(record["metrics"])
    assert record["metrics"]["with_background/foreground_agreement"].n == 90
    assert load_pipeline(folder / "mini_diffusion").sha256 == record["provenance"]["weights"]["mini_diffusion"]
    curves = pd.read_parquet(folder / "loss.parquet")
    autoencoder = curves[curves["part"] == "autoencoder"]["loss"]
    assert autoencoder.iloc[-1] < 0.7 * autoencoder.iloc[0], "the loss must fall"
    assert {"loss.png", "samples.png", "objects.png", "pairs.png", "scenes.png"} <= {
        path.name for path in folder.glob("*.png")
    }
