"""Foregrounds come back out of guides, pixel by pixel, and an import is a run that notebook 04 can read."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skimage.data
import skimage.util
from matplotlib.cbook import get_sample_data
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image
from tiny_outputs import tiny_settings, write_tiny_outputs

from d3s_utils.compositing import centre_square, paste, pasted_size, resized
from d3s_utils.d3s_import import NOT_FOUND, import_d3s
from d3s_utils.d3s_layout import join_pair, main, write_d3s_layout
from d3s_utils.d3s_reading import D3SLayoutError
from d3s_utils.evaluation import (
    accuracy_table,
    cell_table,
    drop_table,
    evaluation_metrics,
    paired_scores,
    read_pictures,
)
from d3s_utils.gathering import gather_foregrounds
from d3s_utils.one_pass import score_logits
from d3s_utils.paste_finding import find_paste
from d3s_utils.photos import read_photo
from d3s_utils.randomness import numpy_generator
from d3s_utils.taxonomy import BACKGROUNDS, imagenet_class, object_prompt
from d3s_utils.validation import read_generated

SIZES = [(512, 0.4), (64, 0.7)]  # of the paper, and of the profile `mini`
SKIMAGE = ("astronaut", "chelsea", "coffee", "rocket")
HARD = ("brick", "camera", "coins", "grass", "gravel", "page", "text", "moon", "horse", "clock")


@pytest.fixture(scope="module")
def photos() -> dict[str, np.ndarray]:
    """Return photos by name, in colour."""
    found = {name: getattr(skimage.data, name)() for name in SKIMAGE}
    found |= {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=True)) as image:
        return found | {"hopper": np.asarray(image.convert("RGB"))}


def drawn_foreground(random: np.random.Generator, photos: dict[str, np.ndarray], side: int) -> tuple[str, np.ndarray]:
    """Return the name and the pixels of a smooth, a noisy, or (three in five) a photographed foreground."""
    kind = random.integers(5)
    if kind == 0:
        return "smooth", resized(random.integers(0, 256, (3, 3, 3)).astype(np.uint8), side)
    if kind == 1:
        return "noisy", random.integers(0, 256, (side, side, 3)).astype(np.uint8)
    name = str(random.choice(list(photos)))
    return name, resized(centre_square(photos[name]), side)


def drawn_cases(photos: dict[str, np.ndarray], *, canvas: int, side: int, count: int):
    """Yield foreground, another photo and the place; every tenth touches an edge, every twentieth a corner."""
    random = numpy_generator(0, "pastes", canvas)
    for case in range(count):
        name, foreground = drawn_foreground(random, photos, side)
        other = str(random.choice([photo for photo in photos if photo != name]))
        left, top = (int(place) for place in random.integers(0, canvas - side + 1, 2))
        left, top = 0 if case % 10 == 0 else left, canvas - side if case % 20 == 0 else top
        yield foreground, resized(centre_square(photos[other]), canvas), left, top


@pytest.mark.parametrize(("canvas", "scale"), SIZES)
def test_nearly_all_pastes_are_found_to_the_pixel_and_none_elsewhere(photos, canvas, scale):
    side, exact, wrong = pasted_size(canvas, scale), 0, 0
    for foreground, background, left, top in drawn_cases(photos, canvas=canvas, side=side, count=100):
        found = find_paste(paste(foreground, background, left=left, top=top), side=side)
        exact += found is not None and (found.left, found.top, found.side) == (left, top, side)
        wrong += found is not None and (found.left, found.top) != (left, top)
    print(f"{canvas} px: {exact} of 100 pastes found, {wrong} at a wrong place")
    assert exact >= 95
    assert wrong == 0


@pytest.mark.parametrize(("canvas", "scale"), SIZES)
def test_photos_without_a_paste_have_none(photos, canvas, scale):
    random, side = numpy_generator(0, "crops", canvas), pasted_size(canvas, scale)
    hard = {name: skimage.util.img_as_ubyte(getattr(skimage.data, name)()) for name in HARD}
    hard = {name: np.asarray(Image.fromarray(pixels).convert("RGB")) for name, pixels in hard.items()}
    claimed, count = [], 0
    for name, pixels in (photos | hard).items():
        for crop in range(8):
            short = min(pixels.shape[:2])
            cut = short if crop == 0 else int(short * random.uniform(0.4, 1))
            top, left = (int(random.integers(0, length - cut + 1)) for length in pixels.shape[:2])
            picture = resized(np.ascontiguousarray(pixels[top : top + cut, left : left + cut]), canvas)
            claimed += [name] * (find_paste(picture, side=side) is not None)
            count += 1
    print(f"{canvas} px: {len(claimed)} of {count} plain pictures are said to have a paste: {claimed}")
    assert len(claimed) <= 0.02 * count


@pytest.mark.parametrize(("canvas", "scale"), SIZES)
def test_masked_pastes_are_not_taken_for_squares(photos, canvas, scale):
    side, claimed = pasted_size(canvas, scale), 0
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).ellipse((2, 2, side - 3, side - 3), fill=255)
    shown = np.asarray(mask)[..., None] > 0
    for foreground, background, left, top in drawn_cases(photos, canvas=canvas, side=side, count=50):
        under = background[top : top + side, left : left + side]
        guide = paste(np.where(shown, foreground, under), background, left=left, top=top)
        claimed += find_paste(guide, side=side) is not None
    assert claimed == 0


def test_every_edge_and_corner_is_found(photos):
    background, foreground = resized(centre_square(photos["china"]), 64), resized(centre_square(photos["chelsea"]), 44)
    for left, top in [(0, 0), (0, 20), (20, 0), (20, 20), (0, 7), (20, 7), (7, 0), (7, 20), (1, 1), (19, 19)]:
        found = find_paste(paste(foreground, background, left=left, top=top), side=44)
        assert (found.left, found.top) == (left, top)


def test_pictures_without_steps_or_without_room_have_no_paste():
    for guide, side in (
        (np.zeros((64, 64, 3), np.uint8), 44),
        (np.full((64, 64, 3), 255, np.uint8), 8),
        (numpy_generator(0, "noise").integers(0, 256, (64, 64, 3)).astype(np.uint8), 44),
        *((np.zeros((16, 16, 3), np.uint8), side) for side in (1, 7, 13, 15, 16)),
    ):
        assert find_paste(guide, side=side) is None
    with pytest.raises(ValueError, match=r"side must be in \[1, 16\], got 17"):
        find_paste(np.zeros((16, 16, 3), np.uint8), side=17)
    with pytest.raises(ValueError, match=r"guide must be uint8 of shape \(n, n, 3\)"):
        find_paste(np.zeros((16, 8, 3), np.uint8), side=4)


def write_authors_split(
    folder: Path, photos: dict[str, np.ndarray], names: dict[int, str], *, canvas: int, side: int
) -> dict[str, np.ndarray]:
    """Write each photo in `names`, by its class, on ten backgrounds and a plain one, and return what was pasted."""
    random, entries, pasted = numpy_generator(0, "authors"), [], {}
    folder.mkdir(parents=True)
    others = [name for name in photos if name not in names.values()]
    for index, name in names.items():
        foreground = resized(centre_square(photos[name]), side)
        for place, background in enumerate([*BACKGROUNDS, "snow"]):
            guide = resized(centre_square(photos[others[place % len(others)]]), canvas)
            file = f"{index:03d}_{place}.png"
            if place < len(BACKGROUNDS):
                left, top = (int(start) for start in random.integers(0, canvas - side + 1, 2))
                guide = paste(foreground, guide, left=left, top=top)
                pasted[file[:-4]] = foreground
            Image.fromarray(join_pair(guide, guide[::-1])).save(folder / file)
            prompt = object_prompt(imagenet_class(index), background=background)
            entries.append({"image": file, "classIdx": index, "prompt": prompt, "background": background})
    (folder / "metadata.json").write_text(json.dumps(entries))
    return pasted


def evaluated(run_folder: Path) -> pd.DataFrame:
    """Return the paired scores of a random classifier, with every table of notebook 04 made of them."""
    pictures = read_pictures(run_folder)
    assert all((run_folder / file).is_file() for file in pictures["file"])
    logits = numpy_generator(0, "logits").normal(size=(len(pictures), 1000)).astype(np.float32)
    scores = paired_scores(score_logits(pictures, logits).assign(model="tiny"))
    drops = drop_table(scores, seed=0)
    assert "tiny/top1_drop" in evaluation_metrics(accuracy_table(scores), drops)
    assert len(cell_table(scores, ["model", "background"]))
    return scores


def judge_all(run_folder: Path) -> None:
    """Write what notebook 03 would if it kept everything."""
    (run_folder / "03_validation").mkdir()
    read_generated(run_folder).assign(keep=True, reason="").to_parquet(run_folder / "03_validation/validated.parquet")


@pytest.mark.parametrize(("canvas", "scale"), SIZES)
def test_the_authors_foregrounds_come_back_and_join_their_ten_backgrounds(tmp_path, photos, canvas, scale):
    names = {291: "chelsea", 985: "flower"}
    folder, run, side = tmp_path / "d3s", tmp_path / "run", pasted_size(canvas, scale)
    pasted = write_authors_split(folder / "val", photos, names, canvas=canvas, side=side)
    made = import_d3s(folder, run, scale=scale)
    pictures = made.pictures.set_index("image_id")
    assert set(pictures.index[pictures["foreground_found"]]) == set(pasted)
    assert made.problems.empty
    problems = pd.read_csv(run / "02_diffusion_generation/import_problems.csv")
    assert list(problems["image"]) == ["291_10.png", "985_10.png"]
    assert set(problems["problem"]) == {NOT_FOUND}
    foregrounds = pd.read_parquet(run / "01_compositing/foregrounds.parquet")
    assert list(foregrounds["imagenet_index"]) == [291, 985]
    assert foregrounds["foreground_id"].str.match(r"n\d{8}-[0-9a-f]{12}$").all()
    assert (foregrounds["source"] == "guide").all()
    generated = read_generated(run).set_index("image_id")
    for image_id, pixels in pasted.items():
        row = generated.loc[image_id]
        assert row["foreground_id"] == foregrounds.set_index("imagenet_index")["foreground_id"][row["imagenet_index"]]
        assert (row["width"], row["height"], row["scale"], row["canvas"]) == (side, side, scale, canvas)
        np.testing.assert_array_equal(read_photo(row["foreground_file"], root=run).pixels, pixels)
        guide = read_photo(row["guide_file"], root=run).pixels
        left, top = int(row["left"]), int(row["top"])
        np.testing.assert_array_equal(guide[top : top + side, left : left + side], pixels)
    plain = generated.loc["291_10"]
    assert plain["foreground_id"] == "291_10"
    assert plain[["foreground_file", "left", "scale"]].isna().all()
    judge_all(run)
    scores = evaluated(run)
    counts = scores.groupby("foreground_id")["kind"].value_counts().unstack()
    assert counts.to_dict("records") == [{"guide": 10, "original": 1, "shifted": 10}] * 2
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.png")}
    import_d3s(folder, run, scale=scale)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.png")} == before


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Return a run's folder and its export."""
    folder = tmp_path_factory.mktemp("own")
    settings = tiny_settings(folder)
    write_tiny_outputs(settings)
    run = settings.run_folder
    write_d3s_layout(pd.read_parquet(run / "03_validation/validated.parquet"), folder / "d3s", root=run)
    return run, folder / "d3s"


def test_an_import_of_our_own_export_is_a_run_that_notebook_04_reads(own, tmp_path):
    run, exported = own
    made = import_d3s(exported, tmp_path / "run")
    assert made.pictures["foreground_found"].all()
    original = pd.read_parquet(run / "01_compositing/foregrounds.parquet")
    again = pd.read_parquet(tmp_path / "run/01_compositing/foregrounds.parquet")
    same = ["foreground_id", "split", "synset", "class_name", "imagenet_index", "in9", "file"]
    pd.testing.assert_frame_equal(
        again[same].sort_values("foreground_id", ignore_index=True),
        original[same].sort_values("foreground_id", ignore_index=True),
    )
    guides = pd.read_parquet(tmp_path / "run/01_compositing/guides.parquet").drop_duplicates("foreground_id")
    for row in guides.itertuples():  # the box that was recorded, of the first guide
        guide = read_photo(row.guide_file, root=tmp_path / "run").pixels
        crop = guide[row.top : row.top + row.height, row.left : row.left + row.width]
        np.testing.assert_array_equal(read_photo(row.foreground_file, root=tmp_path / "run").pixels, crop)
    judge_all(tmp_path / "run")
    before, after = (
        read_pictures(folder).sort_values("picture_id", ignore_index=True) for folder in (run, tmp_path / "run")
    )
    before = before[~before["kind"].str.startswith("placed")]  # the layout holds no twins
    pd.testing.assert_frame_equal(
        after.drop(columns="template_id"), before.drop(columns="template_id").reset_index(drop=True)
    )
    assert set(evaluated(tmp_path / "run")["kind"]) == {"original", "guide", "shifted"}


def test_the_foregrounds_have_the_columns_of_gathered_ones(own, tmp_path):
    _, exported = own
    columns = import_d3s(exported, tmp_path / "run").foregrounds.columns
    told = gather_foregrounds.__doc__.split("Returns:")[1].split("Raises:")[0]
    assert all(f"`{name}`" in told for name in columns)
    assert {"file", "foreground_id", "synset"} <= set(columns)


@pytest.mark.parametrize("box", [(0, 8, 64, 48), (40, 40, 45, 45), (-1, 0, 45, 45), (3, 3, 0, 5)])
def test_a_box_that_no_square_was_pasted_in_gives_no_foreground(own, tmp_path, box):
    run, _ = own
    table = pd.read_parquet(run / "03_validation/validated.parquet")
    changed = table.assign(**dict(zip(("left", "top", "width", "height"), box, strict=True)))
    write_d3s_layout(changed, tmp_path / "d3s", root=run)
    made = import_d3s(tmp_path / "d3s", tmp_path / "run")
    assert not made.pictures["foreground_found"].any()
    assert made.foregrounds.empty
    recorded = table.set_index("image_id")["foreground_id"]
    assert list(made.pictures["foreground_id"]) == list(recorded[made.pictures["image_id"]])
    assert list(pd.read_parquet(tmp_path / "run/01_compositing/foregrounds.parquet")) == list(made.foregrounds)


def test_a_foreground_that_both_splits_use_has_a_row_in_each(tmp_path, photos):
    for split in ("train", "val"):
        write_authors_split(tmp_path / "d3s" / split, photos, {291: "chelsea"}, canvas=64, side=44)
    made = import_d3s(tmp_path / "d3s", tmp_path / "run", scale=0.7)
    assert list(made.foregrounds["split"]) == ["train", "val"]
    assert made.foregrounds[["foreground_id", "file"]].nunique().tolist() == [1, 1]


def test_an_id_that_cannot_name_a_file_is_a_problem(own, tmp_path):
    run, _ = own
    table = pd.read_parquet(run / "03_validation/validated.parquet")
    write_d3s_layout(table.assign(foreground_id="../../x"), tmp_path / "d3s", root=run)
    with pytest.raises(D3SLayoutError, match="foreground_id must be at most 200 letters"):
        import_d3s(tmp_path / "d3s", tmp_path / "run")


@pytest.mark.parametrize("change", ["foreground", "stray", "scale"])
def test_other_foregrounds_are_not_overwritten(tmp_path, photos, change):
    folder, run = tmp_path / "d3s", tmp_path / "run"
    write_authors_split(folder / "val", photos, {291: "chelsea"}, canvas=64, side=44)
    import_d3s(folder, run, scale=0.7)
    (crop,) = (run / "01_compositing/foregrounds").glob("*.png")
    if change != "scale":
        Image.new("RGB", (8, 8)).save(crop if change == "foreground" else crop.with_name("mine.png"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(D3SLayoutError, match="choose another"):
        import_d3s(folder, run, scale=0.4 if change == "scale" else 0.7)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_command_line_takes_a_scale_and_tells_what_was_found(tmp_path, photos, capsys):
    write_authors_split(tmp_path / "d3s/val", photos, {291: "chelsea"}, canvas=64, side=44)
    assert main(["import", str(tmp_path / "d3s"), str(tmp_path / "run"), "--scale", "0.7"]) == 0
    told = capsys.readouterr().out
    assert "Read 11 pictures" in told
    assert "1 foregrounds cut out of the guides, none found in 1 of them" in told
    for scale in ("0", "1.5", "nan"):
        assert main(["import", str(tmp_path / "d3s"), str(tmp_path / "other"), "--scale", scale]) == 1
        assert "foreground_scale must be in (0, 1]" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
