"""Image sets: every layout as a small imitation, and what each fault of it is called."""

import csv
import io
import json
import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from d3s_utils.benchmark_readers import (
    CORRUPTIONS,
    IN9_FOLDERS,
    IN9_VARIANTS,
    CroppedPicture,
    foreground_of,
    read_in9_masks,
)  # fmt: skip
from d3s_utils.d3s_layout import join_pair
from d3s_utils.image_sets import READERS, ImageSet, ImageSetError, read_image_set
from d3s_utils.randomness import numpy_generator
from d3s_utils.taxonomy import IN9, imagenet_class, object_prompt


def picture(value: int = 0, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value % 256, 255 - value % 256, 7)).save(buffer, kind)
    return buffer.getvalue()


def put(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return folder


def problem(images: ImageSet, source_name: str) -> str:
    """Return the only problem of that name."""
    (found,) = images.problems.loc[images.problems["source_name"] == source_name, "problem"]
    return found


@pytest.fixture
def never_decoded(monkeypatch):
    def refuse(*_):
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)


def some(count: int = 6, **columns) -> ImageSet:
    table = pd.DataFrame({"picture_id": [f"p{n}" for n in range(count)], "imagenet_index": 291, "in9": "carnivore"})
    problems = pd.DataFrame({"source_name": ["x"], "problem": ["gone"]})
    return ImageSet("some", table.assign(**columns), tuple(bytes([n]) for n in range(count)), problems)


# the set itself


def test_a_subset_keeps_rows_and_pictures_together():
    images = some()
    for chosen in ([4, 1], np.array([4, 1]), pd.Series([4, 1], index=[7, 9])):
        part = images.subset(chosen)
        assert part.table["picture_id"].tolist() == ["p4", "p1"]
        assert part.pictures == (b"\x04", b"\x01")
        assert part.table.index.tolist() == [0, 1]
    for mask in (images.table["picture_id"] > "p3", [False] * 4 + [True] * 2):
        assert images.subset(mask).pictures == (b"\x04", b"\x05")
    assert len(images.subset([])) == 0
    assert len(images.subset([False] * 6)) == 0
    assert images.subset([0]).problems.equals(images.problems)


@pytest.mark.parametrize("chosen", [[6], [-1], [1, 1], [True, False], [0.5], ["p1"], [[0, 1]], [None]])
def test_a_subset_of_pictures_that_are_not_there_is_refused(chosen):
    with pytest.raises(ImageSetError, match="mask_or_rows must be 6 true or false values, or different places"):
        some().subset(chosen)


def test_a_limit_is_the_same_choice_for_the_same_seed_in_order_and_nested():
    images = some(40)
    ids = {limit: images.limited(limit, seed=3).table["picture_id"].tolist() for limit in (5, 10, 40, 99)}
    rows = [int(name[1:]) for name in ids[10]]
    assert rows == sorted(rows)
    assert rows == sorted(numpy_generator(3, "image set").permutation(40)[:10])
    assert set(ids[5]) < set(ids[10])
    assert ids[40] == ids[99] == images.table["picture_id"].tolist()
    assert ids[10] != images.limited(10, seed=4).table["picture_id"].tolist()
    for limit in (0, -1, 2.0, True, None):
        with pytest.raises(ImageSetError, match="limit must be a whole number of at least 1"):
            images.limited(limit, seed=0)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture_id": "same"}, "no other picture has; used again: .*'same'"),
        ({"picture_id": range(6)}, "picture_id must be a text"),
        ({"imagenet_index": 1000}, r"from -1 to 999, got \[1000\]"),
        ({"imagenet_index": 1.5}, "imagenet_index must be whole numbers"),
        ({"in9": "cat"}, "in9 must be one of dog, .* got cat"),
    ],
)
def test_a_table_that_says_nonsense_is_refused(columns, message):
    with pytest.raises(ImageSetError, match=message):
        some(**columns)


def test_a_table_needs_its_columns_and_a_picture_a_row():
    images = some()
    with pytest.raises(ImageSetError, match="missing: in9"):
        ImageSet("x", images.table.drop(columns="in9"), images.pictures, images.problems)
    with pytest.raises(ImageSetError, match="one a row of table, 6; got 5"):
        ImageSet("x", images.table, images.pictures[:5], images.problems)


def test_kinds_are_dispatched_and_named(tmp_path):
    put(tmp_path, "lion/a.png")
    images = read_image_set("folders", str(tmp_path), name="my lions")
    assert images.name == "my lions"
    assert READERS["folders"](tmp_path).name == f"pictures in {tmp_path.name}"
    assert set(READERS) == {"folders", "imagenet_val", "d3s", "in9", "imagenet_c", "counteranimal"}
    with pytest.raises(ImageSetError, match=r"kind must be one of folders, imagenet_val.* got 'folder'"):
        read_image_set("folder", tmp_path)
    with pytest.raises(ImageSetError, match="class_map belongs to kind 'folders', got it for 'in9'"):
        read_image_set("in9", tmp_path, class_map={"a": "dog"})


@pytest.mark.parametrize("kind", READERS)
def test_empty_and_missing_folders_say_what_to_put_there(kind, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(ImageSetError) as caught:
            read_image_set(kind, folder)
        assert folder.name in str(caught.value)
        assert any(word in str(caught.value) for word in ("without photos", "is missing", "which is n", "must hold"))


# any folder


def test_folders_are_synsets_indices_or_names_at_the_top_or_below_splits(tmp_path, never_decoded):
    put(tmp_path, "n02129165/deep/é 1.png", "test/goldfish/b.JPEG", "val/12/c.webp", "unicorn/d.png", "unicorn/e.png",
        ".hidden/f.png", "stray.png", "lion/.g.png")  # fmt: skip
    (tmp_path / "lion" / "notes.txt").write_text("left alone")
    images = read_image_set("folders", tmp_path)
    assert images.table["picture_id"].tolist() == ["n02129165/deep/é 1.png", "test/goldfish/b.JPEG", "val/12/c.webp"]
    assert images.table["imagenet_index"].tolist() == [291, 1, 12]
    assert images.table["in9"].tolist() == ["carnivore", "fish", "bird"]
    assert images.table["class_name"].tolist() == ["lion", "goldfish", "house finch"]
    assert images.pictures[0] == tmp_path / "n02129165" / "deep" / "é 1.png"
    assert images.pictures[0].read_bytes() == picture(0)
    assert images.root == tmp_path
    assert "2 pictures left out" in problem(images, "unicorn")
    assert "no ImageNet class" in problem(images, "unicorn")
    assert "no folder that names its class" in problem(images, "stray.png")
    assert len(images.problems) == 2


def test_links_are_not_followed_out_of_the_folder(tmp_path):
    put(tmp_path, "outside/a.png", "root/lion/b.png")
    (tmp_path / "root" / "lion" / "link.png").symlink_to(tmp_path / "outside" / "a.png")
    (tmp_path / "root" / "lion" / "inner.png").symlink_to("b.png")
    (tmp_path / "root" / "tiger").symlink_to(tmp_path / "outside")
    images = read_image_set("folders", tmp_path / "root")
    assert images.table["picture_id"].tolist() == ["lion/b.png", "lion/inner.png"]
    assert "leaves its root" in problem(images, "lion/link.png")
    assert "not followed" in problem(images, "tiger")


MAP = {"Löwen und Tiger": "n02129165", "12": 1, "hounds": "dog", "idle": "tench"}


def write_map(path: Path) -> Path:
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("folder", "class"), *MAP.items()])
    elif path.suffix == ".json":
        path.write_text(json.dumps(MAP), encoding="utf-8-sig")
    else:
        path.write_text("".join(f"{key}: {value}\n" for key, value in MAP.items()), encoding="utf-8")
    return path


@pytest.mark.parametrize("source", ["dictionary", "m.json", "m.yaml", "m.csv"])
def test_a_class_map_gives_folders_a_class_or_a_superclass(source, tmp_path):
    decomposed = unicodedata.normalize("NFD", "Löwen und Tiger")  # as macOS writes it
    put(tmp_path / "p", f"{decomposed}/a.png", "12/b.png", "hounds/c.png", "tench/d.png")
    class_map = MAP if source == "dictionary" else write_map(tmp_path / source)
    images = read_image_set("folders", tmp_path / "p", class_map=class_map)
    rows = images.table.set_index(images.table["picture_id"].str[-5:])
    assert rows["imagenet_index"].to_dict() == {"a.png": 291, "b.png": 1, "c.png": -1}
    assert rows["in9"].to_dict() == {"a.png": "carnivore", "b.png": "fish", "c.png": "dog"}
    assert rows["class_name"].to_dict() == {"a.png": "lion", "b.png": "goldfish", "c.png": "dog"}
    assert "does not say what 'tench' is" in problem(images, "tench")
    assert "no pictures of it" in problem(images, "idle")
    assert len(images.problems) == 2


def test_a_superclass_is_no_folder_name_without_a_map(tmp_path):
    put(tmp_path, "dog/a.png")
    with pytest.raises(ImageSetError, match=r"none of its 1 pictures can be used: dog: photos are labelled 'dog'"):
        read_image_set("folders", tmp_path)
    with pytest.raises(ImageSetError, match="none of its 1 pictures can be used: dog: class_map does not say"):
        read_image_set("folders", tmp_path, class_map={"cat": "carnivore"})


@pytest.mark.parametrize(
    ("class_map", "message"),
    [
        ({"a": "unicorn"}, "got 'unicorn' for 'a'"),
        ({"a": 1000}, "got 1000 for 'a'"),
        ({"a": True}, "got True for 'a'"),
        ({"a": None}, "got None for 'a'"),
        ({"a": "crane"}, "several classes have that name"),
        ({"é": 1, "e\u0301": 2}, "one class for each name, got several for 'é'"),
        ({}, "at least one class"),
        ("m.json", "cannot be read"),
        ("m.yaml", "cannot be read"),
        ("m.csv", "must hold pairs"),
        ("m.txt", r"file \.json, \.yaml, \.yml, \.csv, got"),
        ("none.json", "cannot be read"),
        ("list.json", "must hold pairs"),
    ],
)
def test_a_class_map_that_says_nonsense_is_refused(class_map, message, tmp_path):
    put(tmp_path, "p/a/a.png")
    contents = {"m.json": "{", "m.yaml": "a: [", "m.csv": "a,b,c\n", "m.txt": "a b", "list.json": '["a"]'}
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ImageSetError, match=message):
        read_image_set(
            "folders", tmp_path / "p", class_map=tmp_path / class_map if isinstance(class_map, str) else class_map
        )


def test_a_parquet_file_gives_its_bytes_undecoded(tmp_path, never_decoded):
    put(tmp_path, "data/a.png", "secret.png")
    values = [{"bytes": picture(5, "JPEG"), "path": "x"}, {"bytes": None, "path": "a.png"},
              {"bytes": None, "path": "../secret.png"}, None, {"bytes": b"not a picture", "path": None},
              {"bytes": None, "path": "gone.png"}, {"bytes": picture(), "path": None}]  # fmt: skip
    labels = ["lion", "n02129165", "lion", "lion", "goldfish", "lion", "unicorn"]
    pd.DataFrame({"image": values, "label": labels}).to_parquet(tmp_path / "data" / "p.parquet")
    images = read_image_set("folders", tmp_path / "data" / "p.parquet")
    assert images.pictures == (picture(5, "JPEG"), tmp_path / "data" / "a.png", b"not a picture")
    assert images.table["picture_id"].tolist() == ["p.parquet#0", "p.parquet#1", "p.parquet#4"]
    assert images.table["imagenet_index"].tolist() == [291, 291, 1]
    assert "leaves its root" in problem(images, "p.parquet#2")
    assert "neither bytes nor a path" in problem(images, "p.parquet#3")
    assert "'gone.png' is missing" in problem(images, "p.parquet#5")
    assert "1 pictures left out" in problem(images, "p.parquet, label unicorn")
    mapped = read_image_set("folders", tmp_path / "data" / "p.parquet", class_map={"unicorn": "musical instrument"})
    assert mapped.table[["imagenet_index", "in9"]].to_numpy().tolist() == [[-1, "musical instrument"]]


def test_tables_that_are_none_are_refused(tmp_path):
    pq.write_table(pa.table({"image": [b""], "colour": ["red"]}), tmp_path / "p.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "a.zip").write_bytes(b"PK")
    pq.write_table(pa.table({"image": [b"", None], "label": ["lion", "unicorn"]}), tmp_path / "useless.parquet")
    for name, message in (
        ("p.parquet", "needs one of the columns"),
        ("torn.parquet", "cannot be read as parquet"),
        ("a.zip", "must be a folder, a parquet file"),
        ("useless.parquet", "no picture that can be used: useless.parquet#0: its image has neither"),
        ("none.parquet", "is missing"),
    ):
        with pytest.raises(ImageSetError, match=message):
            read_image_set("imagenet_val", tmp_path / name)


# ImageNet's validation photos


def test_imagenet_val_in_class_folders_counts_what_is_there(tmp_path, never_decoded):
    put(tmp_path, "val/n01440764/ILSVRC2012_val_00000293.JPEG", "val/n02129165/ILSVRC2012_val_00000016.JPEG",
        "val/n99999999/a.JPEG", "train/n01440764/n01440764_18.JPEG")  # fmt: skip
    images = read_image_set("imagenet_val", tmp_path)
    assert images.table["picture_id"].tolist() == ["n01440764/ILSVRC2012_val_00000293.JPEG",
                                                   "n02129165/ILSVRC2012_val_00000016.JPEG"]  # fmt: skip
    assert images.table["imagenet_index"].tolist() == [0, 291]
    assert "2 of 1000 classes and 2 of 50000 pictures" in problem(images, str(tmp_path))
    assert "missing classes: n01443537, n01484850, " in problem(images, str(tmp_path))
    assert "no ImageNet class" in problem(images, "n99999999")
    assert read_image_set("imagenet_val", tmp_path / "val").table.equals(images.table)


def test_the_training_photos_are_not_taken_for_the_validation_photos(tmp_path):
    put(tmp_path, "train/n01440764/n01440764_18.JPEG")
    with pytest.raises(ImageSetError, match="has a folder train"):
        read_image_set("imagenet_val", tmp_path)


def solution(path: Path, *lines: str, head: str = "ImageId,PredictionString") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


@pytest.mark.parametrize(
    ("photos", "table"),
    [("", ""), ("val", ""), ("val", "val"), ("ILSVRC/Data/CLS-LOC/val", "")],
)
def test_flat_imagenet_val_is_labelled_by_kaggles_table(photos, table, tmp_path, never_decoded):
    names = [f"ILSVRC2012_val_{number:08d}" for number in range(1, 6)]
    put(tmp_path / photos, *(f"{name}.JPEG" for name in names))
    solution(
        tmp_path / table / "LOC_val_solution.csv", f"{names[0]},n01978287 85 1 499 272 n01978287 1 2 3 4 ",
        f"{names[1]},n02129165 0 0 9 9", f"{names[2]},n00000000 1 1 2 2", f"{names[3]},n01440764 1 1 2 2",
        f"{names[3]},n02129165 1 1 2 2", "ILSVRC2012_val_00000099,",
    )  # fmt: skip
    images = read_image_set("imagenet_val", tmp_path)
    assert images.table["picture_id"].tolist() == [f"{name}.JPEG" for name in names[:2]]
    assert images.table["imagenet_index"].tolist() == [imagenet_class("n01978287").index, 291]
    assert images.pictures[1] == tmp_path / photos / f"{names[1]}.JPEG"
    assert "no ImageNet class" in problem(images, "LOC_val_solution.csv, line 4")
    assert "names no class" in problem(images, "LOC_val_solution.csv, line 7")
    assert "several classes" in problem(images, f"{names[3]}.JPEG")
    assert "no line for it" in problem(images, f"{names[4]}.JPEG")
    assert "6 lines, 50000 are published: is it cut off?" in problem(images, "LOC_val_solution.csv")


def test_flat_imagenet_val_without_a_table_that_names_classes_is_refused(tmp_path):
    put(tmp_path, "ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("490\n" * 50_000)
    with pytest.raises(ImageSetError, match=r"LOC_val_solution.csv.*ground_truth.txt cannot do.*named by synset"):
        read_image_set("imagenet_val", tmp_path)
    path = solution(tmp_path / "LOC_val_solution.csv", "1,2", head="a,b")
    with pytest.raises(ImageSetError, match=r"must have the columns ImageId and PredictionString.* got a, b"):
        read_image_set("imagenet_val", tmp_path)
    path.write_bytes(b"")
    with pytest.raises(ImageSetError, match="got no line"):
        read_image_set("imagenet_val", tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ImageSetError, match="cannot be read as CSV"):
        read_image_set("imagenet_val", tmp_path)
    solution(path, "ILSVRC2012_val_00000002,n01440764 1 1 2 2")
    with pytest.raises(ImageSetError, match=r"labels none: is it whole\? It labels 1 of 50000"):
        read_image_set("imagenet_val", tmp_path)


@pytest.mark.parametrize("names", [None, ["tench, Tinca tinca", "lion", "crane", "goldfish"]])
def test_imagenet_val_of_hugging_face_takes_the_validation_split_and_numbers_of_shared_names(
    names, tmp_path, never_decoded
):
    datasets = pytest.importorskip("datasets")
    names = names or [c.name for c in map(imagenet_class, range(1000))]
    labels = [517 if len(names) == 1000 else names.index("crane"), names.index("lion")]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=_distinct(names))})
    parts = {
        split: datasets.Dataset.from_dict(
            {"image": [{"bytes": picture(n + 10 * k), "path": None} for n in range(2)], "label": labels},
            features=features,
        )
        for k, split in enumerate(("train", "validation"))
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "data")
    images = read_image_set("imagenet_val", tmp_path / "data")
    assert images.table["imagenet_index"].tolist() == ([517, 291] if len(names) == 1000 else [291])
    assert images.pictures == tuple(picture(10 + n) for n in range(2))[-len(images) :]
    if len(names) < 1000:
        assert "several classes have that name" in problem(images, "data, label crane")


def _distinct(names: list[str]) -> list[str]:
    """Return names as Hugging Face wants them, all different: a further lemma tells the second crane."""
    return [f"{name}, again" if name in names[:place] else name for place, name in enumerate(names)]


def test_numbered_parquet_labels_are_indices_even_where_some_are_missing(tmp_path):
    table = pa.table({"image": [picture()] * 3, "label": pa.array([291, None, 7], pa.int64())})
    pq.write_table(table, tmp_path / "p.parquet")
    images = read_image_set("imagenet_val", tmp_path / "p.parquet")
    assert images.table["imagenet_index"].tolist() == [291, 7]
    assert images.table["picture_id"].tolist() == ["p.parquet#0", "p.parquet#2"]


def test_a_hub_id_that_cannot_be_reached_names_the_local_folder(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def no_network(name):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", no_network)
    with pytest.raises(ImageSetError, match=r"'somebody/photos'.*Couldn't reach.*save_to_disk"):
        read_image_set("imagenet_val", "somebody/photos")


# D3S


def pixels_of(side: int, *names: str) -> np.ndarray:
    return numpy_generator(0, *names).integers(1, 255, (side, side, 3)).astype(np.uint8)


@pytest.fixture
def d3s(tmp_path):
    for split, known in (("train", {}), ("val", {"d3s_utils": {"foreground_id": "lion-7"}})):
        entries = []
        for number, background in enumerate(("forest", "cave")):
            name = f"{number}.png"
            (tmp_path / split).mkdir(exist_ok=True)
            canvas = join_pair(pixels_of(8, "guide", name), pixels_of(8, split, name))
            Image.fromarray(canvas).save(tmp_path / split / name)
            prompt = object_prompt(imagenet_class(291), background=background)
            entries.append({"image": name, "classIdx": 291, "prompt": prompt, "background": background, **known})
        (tmp_path / split / "metadata.json").write_text(json.dumps(entries))
    return tmp_path


def test_d3s_pictures_are_the_right_halves(d3s):
    (d3s / "train" / "unlisted.png").write_bytes((d3s / "train" / "0.png").read_bytes())
    (d3s / "val" / "1.png").write_bytes((d3s / "val" / "1.png").read_bytes()[:60])
    images = read_image_set("d3s", d3s)
    assert images.table["picture_id"].tolist() == ["train-0", "train-1", "val-0"]
    assert images.table["background"].tolist() == ["forest", "cave", "forest"]
    assert images.table["split"].tolist() == ["train", "train", "val"]
    assert images.table["foreground_id"].fillna("").tolist() == ["", "", "lion-7"]
    assert set(images.table["kind"]) == {"shifted"}
    assert images.pictures[2] == CroppedPicture(d3s / "val" / "0.png", (14, 2, 22, 10))
    assert pickle.loads(pickle.dumps(images.pictures[2])) == images.pictures[2]
    for place, split in ((0, "train"), (2, "val")):
        cut = Image.open(images.pictures[place].path).crop(images.pictures[place].box)
        np.testing.assert_array_equal(np.asarray(cut), pixels_of(8, split, "0.png"))
    assert problem(images, "train/unlisted.png") == "not in metadata.json"
    assert "val/1.png" in set(images.problems["source_name"])


def test_d3s_without_foregrounds_or_usable_pictures(d3s):
    (d3s / "val" / "metadata.json").write_text("[]")
    assert "foreground_id" not in read_image_set("d3s", d3s).table
    (d3s / "train" / "metadata.json").write_text("[]")
    with pytest.raises(ImageSetError, match=r"no D3S picture that can be used: .*not in metadata.json"):
        read_image_set("d3s", d3s)
    (d3s / "val" / "metadata.json").unlink()
    with pytest.raises(ImageSetError, match=r"layout of the authors of D3S: .*is missing"):
        read_image_set("d3s", d3s)


# ImageNet-9


def in9_name(variant: str, synset: str) -> str:
    mixed = variant.startswith("mixed")
    return f"fg_{synset}_05944_bg_n02536864_02721.JPEG" if mixed else f"{synset}_05944.JPEG"


@pytest.fixture
def in9(tmp_path):
    names = [
        f"{variant}/val/{folder}/{in9_name(variant, f'n0000000{number}')}"
        for variant in IN9_VARIANTS
        for number, folder in enumerate(IN9_FOLDERS)
    ]
    return put(tmp_path / "bg_challenge", *names)


def test_the_class_folders_are_the_published_ones():
    assert list(IN9_FOLDERS) == [
        "00_dog", "01_bird", "02_wheeled vehicle", "03_reptile", "04_carnivore", "05_insect", "06_musical instrument",
        "07_primate", "08_fish",
    ]  # fmt: skip


@pytest.mark.parametrize("inner", ["", "bg_challenge"])
def test_in9_pairs_a_photo_across_its_variants(in9, inner, never_decoded):
    images = read_image_set("in9", in9.parent / inner)
    assert len(images) == 8 * 9
    assert (images.table["imagenet_index"] == -1).all()
    pairs = images.table.groupby("foreground_id")
    assert (pairs["variant"].agg(set) == set(IN9_VARIANTS)).all()
    assert (pairs["in9"].nunique() == 1).all()
    assert pairs["in9"].first().to_dict() == {f"n0000000{n}_05944": name for n, name in enumerate(IN9)}
    assert images.table["picture_id"].str.startswith("original/val/02_wheeled vehicle/").sum() == 1
    assert "9 of 4050 pictures are there" in problem(images, "mixed_rand")


def test_in9_names_what_is_missing_and_strange(in9):
    for path in (in9 / "only_fg").rglob("*.JPEG"):
        path.unlink()
    next((in9 / "no_fg" / "val" / "00_dog").iterdir()).unlink()
    put(in9, "original/val/09_cat/a.JPEG", "original/train/00_dog/a.JPEG", "blurred/val/00_dog/a.JPEG")
    (in9 / "original" / "val" / "00_dog" / "readme.txt").write_text("stray")
    images = read_image_set("in9", in9)
    assert len(images) == 7 * 9 - 1
    assert "missing" in problem(images, "only_fg")
    assert "8 of 4050" in problem(images, "no_fg")
    assert "dog 0, bird 1" in problem(images, "no_fg")
    assert "'09_cat' must be one of 00_dog" in problem(images, "original/val/09_cat")
    for place in ("original/train/00_dog", "blurred/val/00_dog"):
        assert "must lie in VARIANT/val/CLASS" in problem(images, place)


def test_a_whole_variant_is_no_problem(in9, monkeypatch):
    monkeypatch.setattr("d3s_utils.benchmark_readers.IN9_PER_CLASS", 1)
    assert read_image_set("in9", in9).problems.empty


def test_other_folders_are_no_in9(tmp_path):
    put(tmp_path, "00_dog/a.JPEG")
    with pytest.raises(ImageSetError, match=r"must hold .*original/val/00_dog.* none of its 1 pictures"):
        read_image_set("in9", tmp_path)


@pytest.mark.parametrize(
    ("stem", "foreground"),
    [
        ("fg_n02497673_05944_bg_n02536864_02721", "n02497673_05944"),
        ("fg_n02497673_5_bg_n02536864_123456", "n02497673_5"),
        ("n02497673_05944", "n02497673_05944"),
        ("fg_alone", "fg_alone"),
    ],
)
def test_a_mixed_pictures_name_tells_its_foreground(stem, foreground):
    assert foreground_of(stem) == foreground


def test_masks_are_read_on_demand_and_pair_with_the_photos(in9):
    mask = numpy_generator(0, "mask").random((8, 6)) < 0.5
    for number, folder in enumerate(IN9_FOLDERS):
        (in9 / "fg_mask" / "val" / folder).mkdir(parents=True)
        np.save(in9 / "fg_mask" / "val" / folder / f"n0000000{number}_05944.npy", mask if number else mask.astype(int))
    masks = read_in9_masks(in9.parent)
    originals = read_image_set("in9", in9).table.query("variant == 'mixed_rand'")
    assert set(masks) == set(zip(originals["in9"], originals["foreground_id"], strict=True))
    for key in (("dog", "n00000000_05944"), ("fish", "n00000008_05944")):
        assert masks[key].dtype == bool
        np.testing.assert_array_equal(masks[key], mask)
    assert masks.paths["bird", "n00000001_05944"].suffix == ".npy"
    assert ("dog", "none") not in masks
    with pytest.raises(KeyError):
        masks["dog", "none"]


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_masks_that_are_none_are_refused_and_pickles_never_loaded(in9, tmp_path):
    folder = in9 / "fg_mask" / "val" / "00_dog"
    with pytest.raises(ImageSetError, match="such as fg_mask/val/00_dog"):
        read_in9_masks(in9)
    folder.mkdir(parents=True)
    np.save(folder / "object.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)
    (folder / "pickle.npy").write_bytes(pickle.dumps(Bomb()))
    np.save(folder / "torn.npy", np.ones((64, 64), bool))
    (folder / "torn.npy").write_bytes((folder / "torn.npy").read_bytes()[:500])
    (folder / "empty.npy").write_bytes(b"")
    np.save(folder / "colour.npy", np.ones((4, 4, 3), bool))
    np.save(folder / "text.npy", np.array([["a"]]))
    np.save(folder / "grey.npy", np.full((4, 4), 255, np.uint8))
    np.save(tmp_path / "outside.npy", np.ones((4, 4), bool))
    (folder / "link.npy").symlink_to(tmp_path / "outside.npy")
    masks = read_in9_masks(in9)
    messages = {
        "object": "cannot be read", "pickle": "cannot be read", "torn": "cannot be read", "empty": "cannot be read",
        "colour": r"boolean of shape \(h, w\), got bool \(4, 4, 3\)", "text": "must be boolean", "grey": "up to 255",
        "link": "leaves its root",
    }  # fmt: skip
    assert {stem for _, stem in masks} == set(messages)
    for stem, message in messages.items():
        with pytest.raises(ImageSetError, match=message):
            masks["dog", stem]


# ImageNet-C


@pytest.mark.parametrize("group", ["", "noise/"])
def test_imagenet_c_pairs_a_photo_across_corruptions(group, tmp_path, never_decoded):
    names = [f"{group}{corruption}/{severity}/n02129165/ILSVRC2012_val_{photo:08d}.JPEG"
             for corruption in ("gaussian_noise", "shot_noise") for severity in range(1, 6)
             for photo in (16, 17)]  # fmt: skip
    put(tmp_path, *names)
    (tmp_path / group / "gaussian_noise" / "1" / "note.txt").write_text("stray")
    images = read_image_set("imagenet_c", tmp_path)
    assert len(images) == 20
    assert set(images.table["imagenet_index"]) == {291}
    assert images.table.groupby("foreground_id").size().to_dict() == {
        "ILSVRC2012_val_00000016": 10, "ILSVRC2012_val_00000017": 10,
    }  # fmt: skip
    assert images.table.groupby("corruption")["severity"].agg(set).tolist() == [{1, 2, 3, 4, 5}] * 2
    assert len(images.problems) == 1
    assert "impulse_noise" in problem(images, str(tmp_path))


def test_imagenet_c_names_what_is_missing_double_and_strange(tmp_path):
    put(tmp_path, *(f"{name}/{level}/n02129165/{photo}.JPEG" for name in CORRUPTIONS for level in range(1, 6)
                    for photo in "ab"))  # fmt: skip
    assert read_image_set("imagenet_c", tmp_path).problems.empty
    put(tmp_path, "fog/6/n02129165/a.JPEG", "fog/n02129165/a.JPEG", "fog/1/unicorn/a.JPEG", "fog/1/n02129165/a.png",
        "weather/fog/2/n02129165/b.JPEG", "my blur/3/n02129165/a.JPEG")  # fmt: skip
    (tmp_path / "snow" / "4" / "n02129165" / "a.JPEG").unlink()
    images = read_image_set("imagenet_c", tmp_path)
    assert len(images) == 15 * 5 * 2 - 1 + 1
    assert "severity must be a folder 1 to 5, got '6'" in problem(images, "fog/6/n02129165")
    assert "must lie in CORRUPTION/SEVERITY/SYNSET" in problem(images, "fog/n02129165")
    assert "no ImageNet class" in problem(images, "fog/1/unicorn")
    for name in ("fog/1/n02129165/a.png", "weather/fog/2/n02129165/b.JPEG"):
        assert "same photo with the same corruption" in problem(images, name)
    assert problem(images, "snow/4") == "1 photos are there; the fullest corruption has 2"
    assert problem(images, "my blur/1") == "0 photos are there; the fullest corruption has 2"
    assert [path.exists() for path in images.pictures] == [True] * len(images)
    for row, path in zip(images.table["picture_id"], images.pictures, strict=True):
        assert path == tmp_path / row


# CounterAnimal


@pytest.mark.parametrize("inner", ["", "LAION-final/"])
def test_counteranimal_tells_kind_and_background(inner, tmp_path, never_decoded):
    put(tmp_path, *(inner + name for name in (
        "9 ostrich/common-ground/é a.jpg", "9 ostrich/counter-water/b.jpeg", "296 ice bear/common-snow/a.jpg",
        "296 ice bear/other-grass/a.jpg", "296 ice bear/c.jpg", "1000 dragon/common-sky/a.jpg", "lion/counter-/a.jpg",
    )))  # fmt: skip
    (tmp_path / inner / "imagenet_names.txt").write_text("stray")
    images = read_image_set("counteranimal", tmp_path)
    columns = ["imagenet_index", "in9", "kind", "background"]
    assert images.table.sort_values("picture_id")[columns].to_numpy().tolist() == [
        [296, "carnivore", "common", "snow"], [9, "bird", "common", "ground"], [9, "bird", "counter", "water"],
    ]  # fmt: skip
    for place in ("296 ice bear/other-grass", "296 ice bear", "lion/counter-"):
        assert "common-BACKGROUND or counter-BACKGROUND" in problem(images, place)
    assert "no ImageNet class" in problem(images, "1000 dragon/common-sky")
    assert "no counter pictures" in problem(images, imagenet_class(296).name)
    assert "2 of 45 classes, 2 of 7174 common, 1 of 5926 counter" in problem(images, str(tmp_path / inner))


def test_a_file_name_that_is_no_text_is_a_problem(tmp_path):
    put(tmp_path, "lion/a.png")
    try:
        (tmp_path / "lion" / "b\udcff.png").write_bytes(picture())
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only names that are text")
    images = read_image_set("folders", tmp_path)
    assert images.table["picture_id"].tolist() == ["lion/a.png"]
    assert "no text in UTF-8" in problem(images, "lion/b\\udcff.png")
