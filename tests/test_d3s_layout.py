"""The authors' layout: crops by known pixels, there and back without loss, and whatever is broken is named."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_outputs import tiny_settings, write_tiny_outputs

from d3s_utils import d3s_import
from d3s_utils.d3s_import import import_d3s
from d3s_utils.d3s_layout import join_pair, main, write_d3s_layout
from d3s_utils.d3s_reading import D3SLayoutError, crop_boxes, read_d3s_layout, read_pair
from d3s_utils.generation_requests import GUIDE_COLUMNS
from d3s_utils.manifest import read_rows
from d3s_utils.photos import read_photo
from d3s_utils.randomness import numpy_generator
from d3s_utils.taxonomy import BACKGROUNDS, imagenet_class, object_prompt
from d3s_utils.validation import read_generated


def pixels_of(side: int, *names: str) -> np.ndarray:
    return numpy_generator(0, *names).integers(1, 255, (side, side, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = tiny_settings(tmp_path_factory.mktemp("run"))
    write_tiny_outputs(settings)
    return settings.run_folder


@pytest.fixture(scope="module")
def table(run):
    return pd.read_parquet(run / "03_validation" / "validated.parquet")


@pytest.fixture
def exported(run, table, tmp_path):
    write_d3s_layout(table, tmp_path / "d3s", root=run)
    return tmp_path / "d3s"


def foreign(folder: Path, *, split: str = "val", side: int = 8, **change) -> Path:
    """Write what the authors would have: one good entry and picture, none of our keys, with changes to the entry."""
    entry = {
        "image": "0001.png", "classIdx": 291, "prompt": object_prompt(imagenet_class(291), background="forest"),
        "args": {"ddim_steps": 50, "strength": 0.9, "scale": 5.0, "seed": None}, "hasInit": True,
        "background": "forest",
    } | change  # fmt: skip
    (folder / split).mkdir(parents=True, exist_ok=True)
    Image.fromarray(join_pair(pixels_of(side, "guide"), pixels_of(side, "result"))).save(folder / split / "0001.png")
    (folder / split / "metadata.json").write_text(json.dumps([entry]))
    return folder


def test_the_last_words_of_the_ten_phrases_name_them():
    assert [phrase.split()[-1] for phrase in BACKGROUNDS.values()] == list(BACKGROUNDS)


def test_the_crops_at_512_are_the_published_ones():
    assert crop_boxes(1032, 516) == ((2, 2, 514, 514), (518, 2, 1030, 514))
    assert crop_boxes(1030, 516) == ((2, 2, 514, 514), (516, 2, 1028, 514))
    canvas = join_pair(pixels_of(512, "g"), pixels_of(512, "r"))
    assert canvas.shape == (516, 1032, 3)
    cropped = np.asarray(Image.fromarray(canvas).crop((518, 2, 1030, 514)))
    np.testing.assert_array_equal(cropped, pixels_of(512, "r"))
    np.testing.assert_array_equal(canvas[2:514, 2:514], pixels_of(512, "g"))
    assert canvas.astype(int).sum() == pixels_of(512, "g").astype(int).sum() + pixels_of(512, "r").astype(int).sum()


@pytest.mark.parametrize("side", [1, 5, 64])
def test_pairs_come_apart_as_they_were_joined_by_us_and_by_torchvision(tmp_path, side):
    import torch
    from torchvision.utils import make_grid

    guide, result = pixels_of(side, "g"), pixels_of(side, "r")
    grid = make_grid(torch.stack([torch.from_numpy(p).permute(2, 0, 1) for p in (guide, result)]), padding=2)
    assert grid.shape == (3, side + 4, 2 * side + 6)
    for name, canvas in (("ours.png", join_pair(guide, result)), ("grid.png", grid.permute(1, 2, 0).numpy())):
        Image.fromarray(canvas).save(tmp_path / name)
        found = read_pair(name, root=tmp_path)
        np.testing.assert_array_equal(found[0], guide)
        np.testing.assert_array_equal(found[1], result)


@pytest.mark.parametrize("size", [(1024, 511), (1031, 516), (516, 516), (1033, 517), (8, 4), (6, 4)])
def test_another_canvas_is_refused_by_name(size):
    with pytest.raises(D3SLayoutError, match=rf"x\.png must be 2\(s \+ 4\).* got {size[0]} x {size[1]}"):
        crop_boxes(*size, name="x.png")


def test_two_pictures_without_padding_are_not_taken_for_smaller_ones_with_some(tmp_path):
    unpadded = np.hstack([pixels_of(16, "g"), pixels_of(16, "r")])  # 32 x 16 would do for s = 12
    Image.fromarray(unpadded).save(tmp_path / "x.png")
    with pytest.raises(D3SLayoutError, match=r"x\.png must have 2 pixels of one colour"):
        read_pair("x.png", root=tmp_path)
    white = join_pair(pixels_of(12, "g"), pixels_of(12, "r"))
    white[(white == 0).all(2)] = 255
    Image.fromarray(white).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_pair("x.png", root=tmp_path)[1], pixels_of(12, "r"))


def test_an_export_has_the_authors_keys_and_ours(exported, table):
    for split in ("train", "val"):
        entries = json.loads((exported / split / "metadata.json").read_text())
        rows = table[table["split"] == split].set_index("image_id")
        assert [entry["image"] for entry in entries] == [f"{image_id}.png" for image_id in rows.index]
        for entry in entries:
            row = rows.loc[entry["image"][:-4]]
            assert set(entry) == {"image", "classIdx", "prompt", "args", "hasInit", "background", "d3s_utils"}
            assert entry["classIdx"] == row["imagenet_index"]
            assert entry["background"] == row["background"] == entry["prompt"].split()[-1]
            assert entry["hasInit"] is True
            assert entry["args"]["seed"] == row["seed"]
            assert entry["args"]["strength"] == row["strength"]
            assert entry["d3s_utils"]["foreground_id"] == row["foreground_id"]
            assert [entry["d3s_utils"][name] for name in ("left", "width", "canvas")] == [0, row["width"], 64]


def test_export_then_import_gives_the_same_pixels_and_labels(exported, table, run, tmp_path):
    layout = import_d3s(exported, tmp_path / "again")
    assert layout.problems.empty
    before, after = read_generated(run).set_index("image_id"), read_generated(tmp_path / "again").set_index("image_id")
    assert list(after.index) == list(before.index)
    same = ["split", "synset", "class_name", "imagenet_index", "in9", "background", "repeat", "foreground_id",
            "template_id", "guide_file", "left", "top", "width", "height", "scale", "canvas", "prompt", "seed",
            "strength", "steps", "guidance_scale", "model", "model_sha256", "attempts", "file"]  # fmt: skip
    pd.testing.assert_frame_equal(after[same], before[same])
    for row in after.itertuples():
        for file in (row.guide_file, row.file):
            old, new = read_photo(file, root=run), read_photo(file, root=tmp_path / "again")
            np.testing.assert_array_equal(old.pixels, new.pixels)
        assert new.sha256 == row.sha256
        assert read_photo(row.guide_file, root=tmp_path / "again").sha256 == row.guide_sha256
    assert after[["template_file", "mask_file"]].isna().all(axis=None)
    assert list(after["foreground_file"]) == [f"01_compositing/foregrounds/{i}.png" for i in after["foreground_id"]]
    guides = pd.read_parquet(tmp_path / "again" / "01_compositing" / "guides.parquet")
    original = pd.read_parquet(run / "01_compositing" / "guides.parquet")
    assert list(guides) == list(GUIDE_COLUMNS)
    kept = [name for name in GUIDE_COLUMNS if name in original and not name.endswith("_file")]
    pd.testing.assert_frame_equal(
        guides[kept].sort_values("image_id", ignore_index=True),
        original[kept].sort_values("image_id", ignore_index=True),
    )


def test_an_import_exports_to_the_same_files(exported, tmp_path):
    import_d3s(exported, tmp_path / "again")
    generated = read_generated(tmp_path / "again").set_index("image_id")
    order = [p.image_id for p in read_d3s_layout(exported).pictures.itertuples()]
    write_d3s_layout(generated.loc[order].reset_index(), tmp_path / "twice", root=tmp_path / "again")
    for path in sorted(exported.rglob("*.png")):
        assert (tmp_path / "twice" / path.relative_to(exported)).read_bytes() == path.read_bytes()
    for split in ("train", "val"):
        first, second = (json.loads((f / split / "metadata.json").read_text()) for f in (exported, tmp_path / "twice"))
        for entry in first:
            entry["d3s_utils"] = {k: v for k, v in entry["d3s_utils"].items() if k not in ("keep", "reason")}
        assert first == second


def test_a_resized_export_keeps_the_box_where_the_object_is(run, table, tmp_path):
    write_d3s_layout(table.assign(left=16, top=8), tmp_path / "d3s", root=run, size=32)
    read = read_d3s_layout(tmp_path / "d3s").pictures
    assert (read[["left", "top", "canvas"]] == [8, 4, 32]).all(axis=None)
    assert (abs(read["width"] - table["width"].iloc[0] / 2) <= 1).all()
    row = table.iloc[0]
    guide, result = read_pair(f"{row['split']}/{row['image_id']}.png", root=tmp_path / "d3s")
    for found, file in ((guide, row["guide_file"]), (result, row["file"])):
        expected = Image.open(run / file).resize((32, 32), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(found, np.asarray(expected))


def test_only_kept_pictures_are_exported_unless_asked(run, table, tmp_path):
    some = table.assign(keep=table["background"] == "snow")
    assert write_d3s_layout(some, tmp_path / "kept", root=run) == {"train": 4, "val": 2}
    assert set(read_d3s_layout(tmp_path / "kept").pictures["background"]) == {"snow"}
    assert write_d3s_layout(some, tmp_path / "all", root=run, kept_only=False) == {"train": 8, "val": 4}
    assert read_d3s_layout(tmp_path / "all").pictures["keep"].sum() == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "../x"}, "image_id must be letters"),
        ({"image_id": "same"}, "image_id must be used once"),
        ({"split": "test"}, "split must be one of train, val, got 'test'"),
        ({"background": "moon"}, "background must be one of"),
        ({"imagenet_index": 1000}, "class must be"),
        ({"background": "cave"}, "must end in its background, 'cave'"),
        ({"keep": False}, "at least one row that is kept"),
        ({"file": "../secret.png"}, "leaves its root"),
    ],
)
def test_a_table_that_cannot_be_exported_is_refused(run, table, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_d3s_layout(table.assign(**change), tmp_path / "d3s", root=run)
    assert not list(tmp_path.rglob("*.png"))
    assert not list(tmp_path.rglob("metadata.json"))


def test_pictures_that_are_no_squares_of_one_size_are_refused(table, tmp_path):
    row = table.iloc[:1].assign(file="a.png", guide_file="b.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for size, shown in (((8, 6), "8 x 6"), ((6, 6), "6 x 6")):
        Image.new("RGB", size).save(tmp_path / "b.png")
        with pytest.raises(ValueError, match=f"squares of one size, got {shown}"):
            write_d3s_layout(row, tmp_path / "d3s", root=tmp_path)
    assert write_d3s_layout(row, tmp_path / "d3s", root=tmp_path, size=4) == {"train": 1, "val": 0}
    Image.new("RGB", (8, 6)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="squares of one size"):
        write_d3s_layout(row, tmp_path / "d3s", root=tmp_path, size=4)


def test_an_export_does_not_mix_with_other_pictures(exported, run, table):
    write_d3s_layout(table, exported, root=run)
    with pytest.raises(D3SLayoutError, match="other pictures, such as n"):
        write_d3s_layout(table.iloc[:1], exported, root=run)


def test_the_authors_own_entries_are_read(tmp_path):
    prompt = "a photo of a lion, large cat, in the Forest. "
    folder = foreign(tmp_path / "d3s", prompt=prompt, hasInit=False)
    layout = read_d3s_layout(folder)
    assert layout.problems.empty
    row = layout.pictures.iloc[0]
    told = {"image_id": "0001", "split": "val", "file": "val/0001.png", "imagenet_index": 291, "synset": "n02129165",
            "class_name": "lion", "in9": "carnivore", "background": "forest", "prompt": prompt, "steps": 50,
            "strength": 0.9, "guidance_scale": 5.0, "canvas": 8}  # fmt: skip
    assert {name: row[name] for name in told} == told
    assert not row["has_init"]
    assert row[["seed", "foreground_id", "left", "model"]].isna().all()
    assert json.loads(row["args"])["ddim_steps"] == 50
    import_d3s(folder, tmp_path / "run")
    generated = read_generated(tmp_path / "run").iloc[0]
    assert generated["foreground_id"] == "0001"
    assert generated["guide_file"] == "01_compositing/guides/0001.png"
    np.testing.assert_array_equal(
        read_photo(generated["guide_file"], root=tmp_path / "run").pixels, pixels_of(8, "guide")
    )
    np.testing.assert_array_equal(read_photo(generated["file"], root=tmp_path / "run").pixels, pixels_of(8, "result"))
    write_d3s_layout(read_generated(tmp_path / "run"), tmp_path / "back", root=tmp_path / "run")
    (entry,) = json.loads((tmp_path / "back" / "val" / "metadata.json").read_text())
    assert entry["hasInit"] is False
    assert entry["prompt"] == prompt


def test_a_class_without_a_superclass_has_an_empty_one(tmp_path):
    daisy = object_prompt(imagenet_class(985), background="forest")
    import_d3s(foreign(tmp_path / "d3s", classIdx=985, prompt=daisy), tmp_path / "run")
    assert read_generated(tmp_path / "run")["in9"].tolist() == [""]
    assert pd.read_parquet(tmp_path / "run" / "01_compositing" / "guides.parquet")["in9"].tolist() == [""]


def test_a_name_that_both_splits_use_is_told_apart_and_seeds_keep_every_digit(tmp_path):
    seed = 2**62 + 1
    foreign(tmp_path / "d3s", split="train", args={"seed": seed})
    folder = foreign(tmp_path / "d3s", split="val")
    pictures = read_d3s_layout(folder).pictures
    assert list(pictures["image_id"]) == ["train-0001", "val-0001"]
    assert pictures["seed"][0] == seed
    assert pd.isna(pictures["seed"][1])
    import_d3s(folder, tmp_path / "run")
    assert read_rows(tmp_path / "run" / "02_diffusion_generation" / "images").rows["train-0001"]["seed"] == seed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classIdx": 1000}, "0 to 999, got 1000"),
        ({"classIdx": -1}, "0 to 999"),
        ({"classIdx": True}, "0 to 999"),
        ({"classIdx": "7"}, "0 to 999"),
        ({"prompt": "a photo of a lion, in Saudi Arabia", "background": "Arabia"}, "got 'Arabia'"),
        ({"prompt": "an old color photo of a lion, from the 1900s", "background": "1900s"}, "got '1900s'"),
        ({"background": "snow"}, "got 'snow', and a prompt that ends in 'forest'"),
        ({"prompt": " "}, "prompt must be a text"),
        ({"prompt": None}, "prompt must be a text"),
        ({"prompt": "\ud800, in a forest"}, "prompt must be a text"),
        ({"image": "\ud800.png"}, "image must be letters"),
        ({"hasInit": "yes"}, "hasInit must be"),
        ({"image": "../0001.png"}, "image must be letters"),
        ({"image": "/etc/0001.png"}, "image must be letters"),
        ({"image": "a/0001.png"}, "image must be letters"),
        ({"image": "..\\0001.png"}, "image must be letters"),
        ({"image": ".png"}, "image must be letters"),
        ({"image": 5}, "must have a text under 'image'"),
        ({"image": "gone.png"}, "missing"),
        ({"image": "a" * 300 + ".png"}, "cannot be opened|missing"),
        ({"d3s_utils": []}, "must be an object"),
        ({"d3s_utils": {"image_id": "../../x"}}, "d3s_utils.image_id must be '0001'"),
        ({"d3s_utils": {"synset": "n01443537"}}, "d3s_utils.synset must be 'n02129165'"),
        ({"d3s_utils": {"left": "3"}}, "d3s_utils.left must be int"),
        ({"d3s_utils": {"left": 2**63}}, "d3s_utils.left must be int"),
        ({"d3s_utils": {"canvas": 0}}, "canvas must be at least 1"),
    ],
)
def test_an_entry_that_cannot_be_used_is_left_out_and_named(tmp_path, change, message):
    folder = foreign(tmp_path, **change)
    layout = read_d3s_layout(folder)
    assert layout.pictures.empty
    assert layout.problems["problem"].str.contains(message, regex="|" in message).any()
    assert set(layout.problems["split"]) == {"val"}
    with pytest.raises(D3SLayoutError, match="no picture that can be used"):
        import_d3s(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damaged_pictures_are_left_out_and_the_others_stay(exported, tmp_path):
    names = sorted(path.name for path in (exported / "train").glob("*.png"))
    torn, wide, text, strange, linked = (exported / "train" / name for name in names[:5])
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    Image.fromarray(pixels_of(16, "wide")).save(wide)
    text.write_text("no picture")
    (exported / "train" / "unlisted.png").write_bytes(strange.read_bytes())
    outside = tmp_path / "outside.png"
    linked.rename(outside)
    linked.symlink_to(outside)
    layout = import_d3s(exported, tmp_path / "run")
    problems = layout.problems.set_index("image")["problem"]
    assert set(problems.index) == {torn.name, wide.name, text.name, linked.name, "unlisted.png"}
    assert "truncated" in problems[torn.name]
    assert "got 16 x 16" in problems[wide.name]
    assert "leaves its root" in problems[linked.name]
    assert problems["unlisted.png"] == "not in metadata.json"
    left_out = {f"{name[:-4]}" for name in problems.index}
    assert len(layout.pictures) == 12 - 4
    assert not left_out & set(read_generated(tmp_path / "run")["image_id"])
    saved = pd.read_csv(tmp_path / "run" / "02_diffusion_generation" / "import_problems.csv")
    assert len(saved) == 5


def test_a_name_used_twice_is_a_problem_for_every_entry(exported):
    path = exported / "val" / "metadata.json"
    entries = json.loads(path.read_text())
    path.write_text(json.dumps([*entries, entries[0] | {"classIdx": 3, "d3s_utils": None}]))
    layout = read_d3s_layout(exported)
    assert list(layout.problems["image"]) == [entries[0]["image"]] * 2
    assert layout.problems["problem"].str.contains("used by 2 entries").all()
    assert entries[0]["image"][:-4] not in set(layout.pictures["image_id"])
    assert len(layout.pictures) == 11


@pytest.mark.parametrize("content", ["{}", "[", "null", "[" * 100_000, "\x00", b"\xff\xfe"])
def test_metadata_that_is_no_list_is_named(exported, content):
    path = exported / "val" / "metadata.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(D3SLayoutError, match=r"val.metadata\.json (must be a list|cannot be read)"):
        read_d3s_layout(exported)


def test_missing_folders_are_named_and_one_split_is_enough(exported, tmp_path):
    with pytest.raises(D3SLayoutError, match="nowhere, which is no folder"):
        read_d3s_layout(tmp_path / "nowhere")
    with pytest.raises(D3SLayoutError, match="must hold a folder train or val"):
        read_d3s_layout(tmp_path)
    (exported / "val" / "metadata.json").unlink()
    with pytest.raises(D3SLayoutError, match=r"val.metadata\.json is missing"):
        read_d3s_layout(exported)
    (exported / "val").rename(tmp_path / "elsewhere")
    assert set(read_d3s_layout(exported).pictures["split"]) == {"train"}


def test_entries_that_are_no_objects_are_problems(exported):
    (exported / "val" / "metadata.json").write_text('[1, null, "x", [], {}]')
    problems = read_d3s_layout(exported).problems
    assert list(problems["image"][:5]) == [f"entry {place}" for place in range(5)]
    assert list(problems["problem"][5:]) == ["not in metadata.json"] * 4


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_importing_again_changes_nothing(exported, tmp_path):
    import_d3s(exported, tmp_path / "run")
    before = files_of(tmp_path / "run")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.png")}
    import_d3s(exported, tmp_path / "run")
    assert files_of(tmp_path / "run") == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.png")} == times


@pytest.mark.parametrize("change", ["picture", "guide", "stray", "row", "other rows", "guides table"])
def test_a_folder_with_other_pictures_is_refused_untouched(exported, tmp_path, change):
    run = tmp_path / "run"
    import_d3s(exported, run)
    row = read_generated(run).iloc[0]
    jsonl = run / "02_diffusion_generation" / "images" / "train" / "metadata.jsonl"
    if change in ("picture", "guide"):
        Image.new("RGB", (64, 64)).save(run / row["file" if change == "picture" else "guide_file"])
    elif change == "stray":
        Image.new("RGB", (4, 4)).save(run / "01_compositing" / "guides" / "mine.png")
    elif change == "row":
        jsonl.write_text(jsonl.read_text().replace("a photo of", "a picture of", 1))
    elif change == "other rows":
        line = json.loads(jsonl.read_text().splitlines()[0]) | {"image_id": "mine", "file_name": "mine.png"}
        jsonl.write_text(jsonl.read_text() + json.dumps(line) + "\n")
    else:
        path = run / "01_compositing" / "guides.parquet"
        pd.read_parquet(path).assign(left=1).to_parquet(path)
    before = files_of(run)
    with pytest.raises(D3SLayoutError, match="choose another"):
        import_d3s(exported, run)
    assert files_of(run) == before


def test_an_import_that_fails_halfway_leaves_whole_files_and_no_rows_and_goes_on(exported, tmp_path, monkeypatch):
    run, calls, write = tmp_path / "run", [], d3s_import.write_bytes

    def failing(path, content):
        calls.append(path)
        if len(calls) > 9:
            raise OSError(28, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(d3s_import, "write_bytes", failing)
    with pytest.raises(OSError, match="No space"):
        import_d3s(exported, run)
    assert len(list(run.rglob("*.png"))) == 9
    assert not list(run.rglob("*.jsonl"))
    monkeypatch.undo()
    (run / "01_compositing" / "guides" / ".x.png.1-ab.partial").write_bytes(b"half")
    import_d3s(exported, run)
    import_d3s(exported, tmp_path / "at once")
    assert files_of(run) == files_of(tmp_path / "at once")


@pytest.mark.slow
def test_a_killed_import_leaves_no_half_file(exported, tmp_path):
    run = tmp_path / "run"
    slow = (
        "import sys, time, d3s_utils.atomic_files as a, d3s_utils.d3s_layout as m\n"
        "sync = a.os.fsync\n"
        "a.os.fsync = lambda file: (time.sleep(0.15), sync(file))\n"  # most of the time a file is half-finished
        "m.main(['import', *sys.argv[1:]])"
    )
    process = subprocess.Popen([sys.executable, "-c", slow, str(exported), str(run)], start_new_session=True)
    deadline = time.monotonic() + 300
    while len(list(run.rglob("*.png"))) < 5:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    pictures = list(run.rglob("*.png"))
    assert 5 <= len(pictures) < 24
    for path in pictures:
        with Image.open(path) as image:
            image.load()
    assert list(run.rglob("*.partial"))
    assert not list(run.rglob("metadata.jsonl"))
    import_d3s(exported, run)
    import_d3s(exported, tmp_path / "at once")
    assert {name: content for name, content in files_of(run).items() if not name.endswith(".lock")} == {
        name: content for name, content in files_of(tmp_path / "at once").items() if not name.endswith(".lock")
    }


def test_the_command_line_exports_imports_and_says_what_is_wrong(run, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "d3s"), "--size", "16"]) == 0
    assert "Wrote 8 train, 4 val" in capsys.readouterr().out
    (tmp_path / "d3s" / "val" / "stray.png").write_bytes(b"")
    assert main(["import", str(tmp_path / "d3s"), str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "Read 12 pictures" in told
    assert "val/stray.png: not in metadata.json" in told
    assert main(["import", str(tmp_path / "none"), str(tmp_path / "run")]) == 1
    assert "which is no folder" in capsys.readouterr().err
    assert main(["export", str(run), str(tmp_path / "e"), "--size", "0"]) == 1
    assert "size must be" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none"), str(tmp_path / "e")]) == 1
