"""Sources of photos: folder, parquet, Hugging Face folder; and what bad ones get."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from d3s_utils.photo_sources import class_of_label, open_photos
from d3s_utils.photos import PhotoError


def png(value: int, side: int = 12) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (value, 255 - value, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def put(path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_image_folder_names_classes_by_folder(tmp_path):
    put(tmp_path / "n02129165" / "deep" / "a.png", png(1))
    put(tmp_path / "train" / "goldfish" / "b.jpeg", png(2))
    put(tmp_path / "masks" / "n02129165" / "deep" / "a.png", png(255))
    put(tmp_path / "n02129165" / "notes.txt", b"left alone")
    put(tmp_path / ".hidden" / "c.png", png(3))
    put(tmp_path / "stray.png", png(4))
    source = open_photos(tmp_path)
    assert source.table.source_name.tolist() == ["n02129165/deep/a.png", "train/goldfish/b.jpeg"]
    assert source.table.label.tolist() == ["n02129165", "goldfish"]
    assert source.read(1).pixels[0, 0].tolist() == [2, 253, 7]
    assert source.read_mask(0).pixels[0, 0, 0] == 255
    assert source.read_mask(1) is None
    assert source.skipped.source_name.tolist() == ["stray.png"]


def test_links_out_of_an_image_folder_are_not_followed(tmp_path):
    put(tmp_path / "outside" / "a.png", png(1))
    put(tmp_path / "root" / "lion" / "b.png", png(2))
    (tmp_path / "root" / "lion" / "link.png").symlink_to(tmp_path / "outside" / "a.png")
    (tmp_path / "root" / "tiger").symlink_to(tmp_path / "outside")
    source = open_photos(tmp_path / "root")
    assert source.skipped.source_name.tolist() == ["tiger"]
    with pytest.raises(PhotoError, match="leaves its root"):
        source.read(1)


def test_parquet_with_bytes_boxes_and_masks(tmp_path):
    table = pd.DataFrame(
        {
            "image": [{"bytes": png(i), "path": None} for i in range(5)],
            "synset": ["n02129165"] * 5,
            "bbox_xyxy": [[1, 2, 9, 10]] * 5,
            "mask": [png(255), None, None, None, None],
        }
    )
    table.to_parquet(tmp_path / "photos.parquet", row_group_size=2)
    source = open_photos(tmp_path / "photos.parquet")
    assert [source.read(i).pixels[0, 0, 0] for i in (4, 0, 3)] == [4, 0, 3]
    assert source.table.box[2] == (1, 2, 9, 10)
    assert source.read_mask(0).pixels.shape == (12, 12, 3)
    assert source.read_mask(1) is None


def test_parquet_paths_stay_below_the_files_folder(tmp_path):
    put(tmp_path / "data" / "a.png", png(9))
    put(tmp_path / "secret.png", png(8))
    paths = ["a.png", "../secret.png", None, str(tmp_path / "secret.png")]
    table = pd.DataFrame({"image": [{"bytes": None, "path": path} for path in paths], "label": [291] * 4})
    table.to_parquet(tmp_path / "data" / "photos.parquet")
    source = open_photos(tmp_path / "data" / "photos.parquet")
    assert source.read(0).pixels[0, 0, 0] == 9
    for row, reason in ((1, "leaves its root"), (2, "neither bytes nor a path"), (3, "leaves its root")):
        with pytest.raises(PhotoError, match=reason):
            source.read(row)


def test_hugging_face_folder_keeps_its_class_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["lion", "goldfish"])})
    rows = {"image": [{"bytes": png(3), "path": None}, {"bytes": b"torn", "path": None}], "label": [1, 0]}
    data = datasets.Dataset.from_dict(rows, features=features)
    data.save_to_disk(tmp_path / "data")
    source = open_photos(tmp_path / "data")
    assert source.table.label.tolist() == ["goldfish", "lion"]
    assert source.read(0).pixels[0, 0, 0] == 3
    with pytest.raises(PhotoError, match="cannot be read"):
        source.read(1)
    data.to_parquet(tmp_path / "photos.parquet")
    assert open_photos(tmp_path / "photos.parquet").table.label.tolist() == ["goldfish", "lion"]


def test_an_id_that_cannot_be_reached_names_the_local_folder(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def no_network(name):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", no_network)
    with pytest.raises(PhotoError, match=r"'somebody/photos'.*Couldn't reach.*local folder"):
        open_photos("somebody/photos")


def test_sources_that_are_none(tmp_path):
    with pytest.raises(PhotoError, match="folder without photos"):
        open_photos(tmp_path)
    with pytest.raises(PhotoError, match="is missing"):
        open_photos(tmp_path / "nowhere")
    put(tmp_path / "a.txt", b"text")
    with pytest.raises(PhotoError, match="must be a folder, a parquet file"):
        open_photos(tmp_path / "a.txt")
    put(tmp_path / "torn.parquet", b"PAR1 no")
    with pytest.raises(PhotoError, match="cannot be read as parquet"):
        open_photos(tmp_path / "torn.parquet")
    pq.write_table(pa.table({"image": [b""], "colour": ["red"]}), tmp_path / "unlabelled.parquet")
    with pytest.raises(PhotoError, match=r"needs one of the columns synset.*has image, colour"):
        open_photos(tmp_path / "unlabelled.parquet")
    pq.write_table(pa.table({"synset": ["n02129165"]}), tmp_path / "imageless.parquet")
    with pytest.raises(PhotoError, match="needs a column 'image'"):
        open_photos(tmp_path / "imageless.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary()), "synset": pa.array([], pa.string())}),
                   tmp_path / "empty.parquet")  # fmt: skip
    with pytest.raises(PhotoError, match="without rows"):
        open_photos(tmp_path / "empty.parquet")


@pytest.mark.parametrize("label", ["n02129165", "lion", "LION", 291, "291", np.int32(291), "lion, king of beasts"])
def test_labels_of_every_kind_name_the_class(label):
    assert class_of_label(label).synset == "n02129165"


@pytest.mark.parametrize("label", ["unicorn", "1000", -1, "crane", None, ""])
def test_unknown_labels_say_what_came(label):
    with pytest.raises(PhotoError, match=r"labelled .*no ImageNet class"):
        class_of_label(label)
