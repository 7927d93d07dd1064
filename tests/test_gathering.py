"""From a user's photos to a run's foregrounds, templates and guides."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from d3s_utils.gathering import choose_classes, count_templates, gather_foregrounds, gather_templates, split_names
from d3s_utils.guides import masked_place, plan_guides, write_guides
from d3s_utils.photo_sources import open_photos
from d3s_utils.photos import PhotoError, read_photo
from d3s_utils.taxonomy import classes_of

LION, GOLDFISH = "n02129165", "n01443537"


def put_photo(path: Path, seed: int, *, size: tuple[int, int] = (40, 30), suffix: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, suffix)


@pytest.fixture
def photos(tmp_path):
    for number in range(5):
        put_photo(tmp_path / "photos" / LION / f"{number}.png", number)
        put_photo(tmp_path / "photos" / "goldfish" / f"{number}.png", 100 + number)
    return tmp_path / "photos"


@pytest.fixture
def scenes(tmp_path):
    for number in range(4):
        put_photo(tmp_path / "scenes" / "grass" / f"{number}.png", 200 + number, size=(64, 64))
        put_photo(tmp_path / "scenes" / "water" / f"{number}.png", 300 + number, size=(64, 80))
    return tmp_path / "scenes"


def gather(photos, run_folder, *, classes=(LION, GOLDFISH), mask_mode="none", seed=0, train=3, val=2):
    return gather_foregrounds(
        open_photos(photos), classes_of(classes), train=train, val=val, run_folder=run_folder, size=32,
        mask_mode=mask_mode, seed=seed,
    )  # fmt: skip


def test_foregrounds_are_split_without_overlap(photos, tmp_path):
    gathered = gather(photos, tmp_path / "run")
    table = gathered.table
    assert table.groupby(["synset", "split"]).size().tolist() == [3, 2, 3, 2]
    assert table.source_sha256.is_unique
    assert gathered.skipped.empty
    for file in table.file:
        assert read_photo(tmp_path / "run" / file).pixels.shape == (32, 32, 3)
    pd.testing.assert_frame_equal(table, gather(photos, tmp_path / "run").table)
    assert gather(photos, tmp_path / "run", seed=1).table.source_name.tolist() != table.source_name.tolist()


def test_one_bad_photo_among_many_is_skipped_and_listed(photos, tmp_path):
    (photos / LION / "torn.png").write_bytes((photos / LION / "0.png").read_bytes()[:300])
    (photos / LION / "copy.png").write_bytes((photos / LION / "1.png").read_bytes())
    (photos / LION / "link.png").symlink_to(tmp_path / "elsewhere.png")
    gathered = gather(photos, tmp_path / "run", train=6, val=4)
    assert (gathered.table.synset == LION).sum() == 5
    reasons = dict(zip(gathered.skipped.source_name, gathered.skipped.reason, strict=True))
    assert "cannot be read" in reasons[f"{LION}/torn.png"]
    assert "leaves its root" in reasons[f"{LION}/link.png"]
    assert any("same file as" in reason for reason in reasons.values())
    assert len(reasons) == 3


def test_no_usable_photo_at_all_is_an_error(tmp_path):
    for number in range(3):
        path = tmp_path / "photos" / "lion" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"torn")
    with pytest.raises(PhotoError, match=r"none of the photos.*3 were skipped.*cannot be read"):
        gather(tmp_path / "photos", tmp_path / "run", classes=(LION,))


def test_unknown_classes_and_backgrounds_are_named(photos, scenes, tmp_path):
    put_photo(photos / "unicorn" / "a.png", 1)
    with pytest.raises(PhotoError, match="'unicorn', which is no ImageNet class"):
        choose_classes(open_photos(photos), classes_of([LION]))
    put_photo(scenes / "moon" / "a.png", 1)
    with pytest.raises(PhotoError, match=r"'moon', which is no background: .*grass"):
        templates_of(scenes, tmp_path / "run")


def test_classes_are_those_wanted_or_the_most_frequent(photos):
    source = open_photos(photos)
    assert [c.synset for c in choose_classes(source, classes_of(["n02056570", LION]))] == [LION]
    put_photo(photos / LION / "more.png", 50)
    assert [c.synset for c in choose_classes(open_photos(photos), classes_of(["n02056570"]))] == [LION]


def templates_of(scenes, run_folder, backgrounds=("grass", "snow", "water")):
    return gather_templates(
        open_photos(scenes), backgrounds, number=3, val_share=0.4, run_folder=run_folder, size=32, seed=0
    )


def test_templates_say_which_backgrounds_have_none(scenes, tmp_path):
    gathered = templates_of(scenes, tmp_path / "run")
    counts = count_templates(gathered.table, ["grass", "snow", "water"])
    assert counts.loc["snow"].tolist() == [0, 0]
    assert counts.loc["grass"].tolist() == [2, 1]
    assert gathered.table.source_sha256.is_unique


def test_scene_classes_become_the_backgrounds_their_colours_show(tmp_path):
    def picture(top, bottom):
        pixels = np.random.default_rng(0).normal(0, 6, (64, 64, 3)) + np.where(
            np.arange(64)[:, None, None] < 32, top, bottom
        )
        buffer = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    meadow, sea = picture((150, 170, 190), (70, 150, 50)), picture((170, 190, 230), (40, 90, 180))
    table = pd.DataFrame({"image": [meadow, sea, meadow], "class_name": ["lawn mower", "lakeside", "organ"]})
    table.to_parquet(tmp_path / "scenes.parquet")
    gathered = templates_of(tmp_path / "scenes.parquet", tmp_path / "run")
    rows = dict(zip(gathered.table.background, gathered.table.source_name, strict=True))
    assert rows == {"grass": "scenes.parquet#0", "water": "scenes.parquet#1"}
    pd.DataFrame({"image": [meadow], "class_name": ["organ"]}).to_parquet(tmp_path / "organs.parquet")
    filled = pd.DataFrame({"image": [meadow], "class_name": ["lawn mower"], "bbox_xyxy": [[0, 0, 64, 40]]})
    filled.to_parquet(tmp_path / "filled.parquet")
    with pytest.raises(PhotoError, match="show none of the backgrounds"):
        templates_of(tmp_path / "filled.parquet", tmp_path / "run")
    with pytest.raises(PhotoError, match="show none of the backgrounds"):
        templates_of(tmp_path / "organs.parquet", tmp_path / "run")


def test_splits_keep_the_proportion_and_never_leave_one_empty():
    assert split_names(26, train=16, val=10).count("val") == 10
    assert split_names(2, train=1000, val=1) == ["train", "val"]
    assert split_names(0, train=1, val=1) == []
    singles = [split_names(1, train=3, val=1, position=i / 100)[0] for i in range(100)]
    assert singles.count("val") == 25


@pytest.mark.parametrize("mask_mode", ["none", "ellipse"])
def test_guides_pair_every_foreground_with_every_background(photos, scenes, tmp_path, mask_mode):
    run = tmp_path / "run"
    foregrounds = gather(photos, run, mask_mode=mask_mode).table
    templates = templates_of(scenes, run, ("grass", "water")).table
    guides = plan_guides(foregrounds, templates, backgrounds=["grass", "water"], canvas=32, scale=0.5, seed=0)
    assert len(guides) == 2 * len(foregrounds)
    assert guides.image_id.is_unique
    assert (guides.image_id == [f"{r.synset}-{r.repeat:04d}-{r.background}" for r in guides.itertuples()]).all()
    assert (guides.split == guides.template_id.map(templates.set_index("template_id").split)).all()
    source = open_photos(photos)
    assert write_guides(guides, foregrounds, templates, run_folder=run, source=source) == len(guides)
    assert write_guides(guides, foregrounds, templates, run_folder=run, source=source) == 0
    row = guides.iloc[3]
    guide = read_photo(run / row.guide_file).pixels
    background = read_photo(run / row.template_file).pixels
    if mask_mode == "none":
        changed = (guide != background).any(-1)
        assert changed[row.top : row.top + 16, row.left : row.left + 16].mean() > 0.9
        changed[row.top : row.top + 16, row.left : row.left + 16] = False
        assert not changed.any()
    else:
        assert (row.left, row.top, row.width, row.height) == masked_place(30, 40, canvas=32) == (0, 4, 32, 24)
        mask = read_photo(run / row.mask_file).pixels[..., 0]
        assert mask.shape == (32, 32)
        assert mask[:4].max() == 0
        assert mask[16, 16] == 255
        (run / row.mask_file).unlink()
        assert write_guides(guides, foregrounds, templates, run_folder=run, source=source) == 0
        assert (run / row.mask_file).exists()


def test_a_guide_does_not_hang_on_the_others(photos, scenes, tmp_path):
    foregrounds = gather(photos, tmp_path / "run").table
    templates = templates_of(scenes, tmp_path / "run", ("grass", "water")).table
    plan = {"canvas": 32, "scale": 0.5, "seed": 0}
    everything = plan_guides(foregrounds, templates, backgrounds=["grass", "water"], **plan)
    part = plan_guides(foregrounds.iloc[::-2], templates, backgrounds=["water"], **plan)
    expected = everything[everything.image_id.isin(part.image_id)].sort_values("image_id", ignore_index=True)
    pd.testing.assert_frame_equal(part.sort_values("image_id", ignore_index=True), expected)


def test_alpha_is_asked_for_but_not_there(photos, tmp_path):
    with pytest.raises(PhotoError, match="no alpha"):
        gather(photos, tmp_path / "run", mask_mode="alpha")
    with pytest.raises(ValueError, match="mask_mode must be one of"):
        gather(photos, tmp_path / "run", mask_mode="magic")


def test_real_photos_go_the_whole_way(shared_data, tmp_path):
    photos = open_photos(shared_data / "imagenet-samples-even.parquet")
    classes = choose_classes(photos, classes_of(["n01484850", "n02128385"]))
    gathered = gather_foregrounds(
        photos, classes, train=1, val=1, run_folder=tmp_path, size=64, mask_mode="auto", seed=0
    )
    scenes = open_photos(shared_data / "tiny-imagenet-scenes.parquet")
    assert scenes.table.box[0] is not None
    assert len(gathered.table) == 2
    templates = gathered.table.assign(background="grass", template_id=gathered.table.foreground_id)
    guides = plan_guides(gathered.table, templates, backgrounds=["grass"], canvas=64, scale=0.4, seed=0)
    assert write_guides(guides, gathered.table, templates, run_folder=tmp_path, source=photos) == 2
