"""Parquet files for Hugging Face: every byte and label comes back, by our reader and by `datasets`."""

import io

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_outputs import tiny_settings, write_tiny_outputs

from d3s_utils.dataset_export import DatasetExportError, class_names, read_parquet, write_parquet
from d3s_utils.photos import PhotoError
from d3s_utils.taxonomy import BACKGROUNDS, imagenet_class


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = tiny_settings(tmp_path_factory.mktemp("run"), classes=["goldfish", "n02012849"])
    write_tiny_outputs(settings)
    return settings.run_folder


@pytest.fixture(scope="module")
def table(run):
    table = pd.read_parquet(run / "03_validation" / "validated.parquet")
    keep = table["background"] == "snow"
    return table.assign(keep=keep, reason=np.where(keep, "", "background: dark"), verdict_source="models")


def test_the_thousand_names_differ():
    names = class_names()
    assert len(set(names)) == 1000
    assert names[134] == "crane (n02012849)"
    assert names[0] == imagenet_class(0).name == "tench"


def test_files_and_labels_come_back(run, table, tmp_path):
    paths = write_parquet(table, tmp_path / "out", root=run, rows_per_file=3)
    assert [path.name for path in paths] == [
        "train-00000-of-00003.parquet", "train-00001-of-00003.parquet", "train-00002-of-00003.parquet",
        "val-00000-of-00002.parquet", "val-00001-of-00002.parquet",
    ]  # fmt: skip
    assert [pq.read_metadata(path).num_rows for path in paths] == [3, 3, 2, 3, 1]
    back = read_parquet(tmp_path / "out", pictures_to=tmp_path / "pictures")
    expected = table.sort_values(["split", "image_id"], ignore_index=True)
    assert set(back) == set(expected)
    pd.testing.assert_frame_equal(back[expected.columns.tolist()], expected, check_dtype=False)
    assert back["seed"].dtype == np.int64
    for name in (*table["file"], *table["guide_file"]):
        assert (tmp_path / "pictures" / name).read_bytes() == (run / name).read_bytes()
    assert len([path for path in (tmp_path / "pictures").rglob("*") if path.is_file()]) == 24


def test_datasets_reads_them_offline(run, table, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    write_parquet(table, tmp_path, root=run, rows_per_file=5)
    files = {split: str(tmp_path / "data" / f"{split}-*.parquet") for split in ("train", "val")}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 8, "val": 4}
    by_id = table.set_index("image_id")
    for row in loaded["val"]:
        known = by_id.loc[row["image_id"]]
        np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(Image.open(run / known["file"])))
        np.testing.assert_array_equal(np.asarray(row["guide"]), np.asarray(Image.open(run / known["guide_file"])))
        assert row["label"] == known["imagenet_index"]
        assert row["seed"] == known["seed"]
        assert row["keep"] is bool(known["keep"])
    features = loaded["train"].features
    assert features["background"].names == list(BACKGROUNDS)
    assert {features["background"].int2str(row["background"]) for row in loaded["val"]} == {"snow", "night"}
    assert {features["label"].int2str(row["label"]) for row in loaded["val"]} == {"goldfish", "crane (n02012849)"}
    raw = loaded["val"].cast_column("image", datasets.Image(decode=False))
    for row in raw:
        assert row["image"]["bytes"] == (run / by_id.loc[row["image_id"], "file"]).read_bytes()
        assert row["image"]["path"] == f"{row['image_id']}.png"


def test_columns_have_one_order_and_the_same_rows_give_the_same_bytes(run, table, tmp_path):
    table = table.assign(zebra=1.5, answer=None)
    first = write_parquet(table, tmp_path / "a", root=run, rows_per_file=3)
    mixed = table.sample(frac=1, random_state=1)[sorted(table.columns, reverse=True)]
    second = write_parquet(mixed, tmp_path / "b", root=run, rows_per_file=3)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    names = pq.read_schema(first[0]).names
    assert names[:8] == ["image", "guide", "label", "background", "image_id", "split", "foreground_id", "synset"]
    assert names[-1] == "zebra"
    other = write_parquet(table.assign(seed=table["seed"] + 1), tmp_path / "c", root=run, rows_per_file=3)
    assert other[0].read_bytes() != first[0].read_bytes()


def test_whole_numbers_stay_whole_where_some_are_missing(run, table, tmp_path):
    seeds = pd.Series([2**62 + 1, None] * 6, dtype="Int64")
    write_parquet(table.assign(seed=seeds, nothing=None), tmp_path, root=run)
    back = read_parquet(tmp_path).set_index("image_id")
    expected = dict(zip(table["image_id"], seeds, strict=True))
    assert {i: s for i, s in back["seed"].items() if pd.notna(s)} == {i: s for i, s in expected.items() if pd.notna(s)}
    assert back["seed"].isna().sum() == 6
    assert back["nothing"].isna().all()


def test_a_torn_picture_is_empty_if_rejected_and_an_error_if_kept(run, table, tmp_path):
    rows = table.iloc[:2].copy()
    for place, name in enumerate(rows["file"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        content = (run / name).read_bytes()
        (tmp_path / name).write_bytes(content if place else content[: len(content) // 2])
    for name in rows["guide_file"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((run / name).read_bytes())
    rows["keep"] = [False, True]
    (path,) = write_parquet(rows, tmp_path / "out", root=tmp_path)
    images = {row["image_id"]: row["image"] for row in pq.read_table(path).to_pylist()}
    assert images[rows["image_id"].iloc[0]] is None
    assert Image.open(io.BytesIO(images[rows["image_id"].iloc[1]]["bytes"])).size == (64, 64)
    read_parquet(tmp_path / "out", pictures_to=tmp_path / "back")
    assert not (tmp_path / "back" / rows["file"].iloc[0]).exists()
    with pytest.raises(PhotoError, match=f"file of {rows['image_id'].iloc[0]} cannot be exported"):
        write_parquet(rows.assign(keep=True), tmp_path / "other", root=tmp_path)
    with pytest.raises(PhotoError, match="cannot be exported"):
        write_parquet(rows.drop(columns="keep"), tmp_path / "other", root=tmp_path)
    assert not [path for path in (tmp_path / "other").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"image_id": "same"}, {}, "image_id must be used once, got 'same' again"),
        ({"split": "../val"}, {}, "split must be letters"),
        ({"background": "moon"}, {}, "background must be one of"),
        ({"imagenet_index": 1000}, {}, "class must be"),
        ({"label": 1}, {}, "must not have the columns label"),
        ({"box": [[1, 2]] * 12}, {}, "column box must hold plain values"),
        ({"note": [1, "a"] * 6}, {}, "column note must hold one plain type"),
        ({"file": "../../x.png"}, {"keep": True}, "leaves its root"),
        ({"file": None}, {"keep": True}, "file of .* cannot be exported"),
        ({"sha256": "0" * 64}, {"keep": True}, "has changed since its sha256"),
        ({}, {"rows_per_file": 0}, "rows_per_file must be"),
    ],
)
def test_a_table_that_cannot_be_exported_is_refused(run, table, tmp_path, change, options, message):
    options = dict(options)
    if "keep" in options:
        change = change | {"keep": options.pop("keep")}
    with pytest.raises(ValueError, match=message):
        write_parquet(table.assign(**change), tmp_path, root=run, **options)
    assert not list(tmp_path.rglob("*.parquet*"))


def test_empty_and_short_tables_are_refused(run, table, tmp_path):
    with pytest.raises(DatasetExportError, match="at least one row"):
        write_parquet(table.iloc[:0], tmp_path, root=run)
    with pytest.raises(DatasetExportError, match="missing: guide_file"):
        write_parquet(table.drop(columns="guide_file"), tmp_path, root=run)


def test_files_of_another_export_are_not_mixed_in(run, table, tmp_path):
    write_parquet(table, tmp_path, root=run, rows_per_file=3)
    write_parquet(table, tmp_path, root=run, rows_per_file=3)
    with pytest.raises(DatasetExportError, match="other files, such as train-00000-of-00003"):
        write_parquet(table, tmp_path, root=run)


def test_a_damaged_export_is_named(run, table, tmp_path):
    with pytest.raises(DatasetExportError, match="no parquet file"):
        read_parquet(tmp_path)
    paths = write_parquet(table, tmp_path, root=run, rows_per_file=3)
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetExportError, match=r"train-00001-of-00003\.parquet is no whole parquet file"):
        read_parquet(tmp_path)
    paths[1].unlink()
    with pytest.raises(DatasetExportError, match=r"train-00001-of-00003\.parquet does not fit"):
        read_parquet(tmp_path)
    pd.DataFrame({"a": [1]}).to_parquet(paths[1])
    with pytest.raises(DatasetExportError, match="no image"):
        read_parquet(tmp_path)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "data" / "more.parquet")
    with pytest.raises(DatasetExportError, match=r"holds more\.parquet"):
        read_parquet(tmp_path)


def test_a_hostile_path_does_not_leave_the_folder(run, table, tmp_path):
    (path,) = write_parquet(table.iloc[:1], tmp_path / "out", root=run)
    stored = pq.read_table(path)
    place = stored.column_names.index("file")
    evil = stored.set_column(place, stored.schema.field(place), [["../../evil.png"]])
    pq.write_table(evil, path)
    with pytest.raises(PhotoError, match="leaves its root"):
        read_parquet(tmp_path / "out", pictures_to=tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("evil.png"))
