"""Both ways of the speed comparison make the same pictures, and are timed in turns."""

import numpy as np
import pandas as pd
from PIL import Image
from tiny_models import make_tiny_pipeline
from tiny_outputs import write_tiny_outputs

from d3s_utils.dreaming import DreamOptions
from d3s_utils.generation import generate
from d3s_utils.generation_requests import make_requests
from d3s_utils.generation_speed import compare_speed, plain_loop
from d3s_utils.pipelines import load_pipeline
from d3s_utils.settings import load_settings


def test_the_plain_loop_makes_the_same_pictures(tmp_path):
    settings = load_settings(
        "mini", output_dir=tmp_path, classes=["n02129165"], backgrounds=["snow"], guides_per_class_train=2,
        guides_per_class_val=1, templates_per_background=2,
    )  # fmt: skip
    write_tiny_outputs(settings, until="01_compositing")
    guides = pd.read_parquet(settings.folder("01_compositing") / "guides.parquet")
    options = DreamOptions(strength=0.5, steps=4, guidance_scale=2.0)
    requests = make_requests(guides, root=settings.run_folder, seed=0, options=options)
    pipeline = load_pipeline(make_tiny_pipeline(tmp_path / "pipeline"), device="cpu")

    plain_loop(requests, tmp_path / "plain", pipeline, root=settings.run_folder)
    generate(requests, tmp_path / "batched", pipeline, root=settings.run_folder, batch_size=3)
    for row in requests.itertuples():
        plain = np.asarray(Image.open(tmp_path / "plain" / f"{row.image_id}.png")).astype(int)
        batched = np.asarray(Image.open(tmp_path / "batched" / row.split / f"{row.image_id}.png")).astype(int)
        assert np.abs(plain - batched).max() <= 1

    times = compare_speed(requests, pipeline, root=settings.run_folder, batch_size=3, rounds=2)
    assert list(times["way"]) == ["generate", "plain loop", "plain loop", "generate"]
    assert list(times["round"]) == [0, 0, 1, 1]
    assert (times["seconds"] > 0).all()
