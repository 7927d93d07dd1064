"""Notebook 01 through papermill, tiny: on dreamt pictures, on a small folder, on real photos."""

import json

import numpy as np
import pandas as pd
import papermill
import pytest
from PIL import Image
from tiny_models import make_tiny_pipeline

from d3s_utils.metrics import read_metrics
from d3s_utils.photos import read_photo

TINY = {
    "image_size": 64, "classes": ["n02129165", "n01443537"], "backgrounds": ["grass", "snow", "cave"],
    "guides_per_class_train": 2, "guides_per_class_val": 1, "templates_per_background": 2, "dream_steps": 1,
    "batch_size": 8, "device": "cpu",
}  # fmt: skip

pytestmark = pytest.mark.notebook


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return str(make_tiny_pipeline(tmp_path_factory.mktemp("generator")))


def run(root, tmp_path, **parameters):
    parameters = {**TINY, "output_dir": str(tmp_path / "outputs"), **parameters}
    papermill.execute_notebook(
        root / "notebooks" / "01_compositing.ipynb", tmp_path / "executed.ipynb", parameters=parameters,
        cwd=tmp_path, progress_bar=False,
    )  # fmt: skip
    folder = tmp_path / "outputs" / "mini" / "01_compositing"
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in
              ("foregrounds", "templates", "guides", "skipped", "counts", "benchmarks")}  # fmt: skip
    return folder, tables, read_metrics(folder / "metrics.json")


def check_guides(folder, guides):
    assert guides.image_id.is_unique
    assert not set(guides[guides.split == "train"].template_id) & set(guides[guides.split == "val"].template_id)
    for row in guides.itertuples():
        for file in (row.guide_file, row.foreground_file, row.template_file):
            assert read_photo(file, root=folder.parent).pixels.shape == (64, 64, 3)


def test_dreamt_pictures_then_again(root, tmp_path, generator):
    folder, tables, record = run(root, tmp_path, generator=generator)
    guides = tables["guides"]
    assert len(guides) == 2 * 3 * 3
    assert record["metrics"]["guides"].value == 18
    assert record["metrics"]["benchmark/largest_difference"].value <= 2
    assert record["metrics"]["benchmark/speedup"].value > 0
    assert "18 guides" in record["answer"]
    assert set(tables["foregrounds"].source) == {"dreamt"}
    check_guides(folder, guides)
    for name in ("one_composite", "masks", "guides", "sizes", "positions"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.png")}
    _, again, _ = run(root, tmp_path, generator=generator)
    pd.testing.assert_frame_equal(again["guides"], guides)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*.png")} == before


def test_own_photos_and_templates(root, tmp_path, generator):
    random = np.random.default_rng(0)
    for number in range(4):
        for name in ("photos/lion", "photos/n01443537", "templates/grass", "templates/snow"):
            path = tmp_path / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photos" / "lion" / "torn.jpg").write_bytes(b"\xff\xd8\xff torn")
    folder, tables, record = run(
        root, tmp_path, generator=generator, photos=str(tmp_path / "photos"), templates=str(tmp_path / "templates"),
        guides_per_class_train=4, guides_per_class_val=2, mask_mode="ellipse",
    )  # fmt: skip
    sources = tables["templates"].groupby("background").source.first().to_dict()
    assert sources == {"grass": "photo", "snow": "photo", "cave": "dreamt"}
    assert tables["skipped"].source_name.tolist() == ["lion/torn.jpg"]
    assert len(tables["guides"]) == 8 * 3
    check_guides(folder, tables["guides"])
    assert record["metrics"]["pictures_skipped"].value == 1
    assert record["provenance"]["data"]["photos"] == str(tmp_path / "photos")
    json.dumps(record["provenance"])


def test_real_photos(root, tmp_path, generator, shared_data):
    photos, scenes = (
        pd.read_parquet(shared_data / f"tiny-imagenet-{name}.parquet").groupby("synset").head(count)
        for name, count in (("in9", 6), ("scenes", 60))
    )
    photos.to_parquet(tmp_path / "photos.parquet")
    scenes.to_parquet(tmp_path / "scenes.parquet")
    folder, tables, _ = run(
        root, tmp_path, generator=generator, photos=str(tmp_path / "photos.parquet"),
        templates=str(tmp_path / "scenes.parquet"), mask_mode="grabcut",
    )  # fmt: skip
    assert set(tables["foregrounds"].synset) == set(TINY["classes"])
    assert set(tables["foregrounds"].mask_mode) == {"grabcut"}
    check_guides(folder, tables["guides"])
