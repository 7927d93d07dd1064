"""Twins of guides: the same object, size and place, on what surrounded it, or on what lies nearest."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from d3s_utils.compositing import blend, centre_square, paste, resized
from d3s_utils.dreaming import DreamOptions
from d3s_utils.generation_requests import make_requests, make_twin_requests
from d3s_utils.guides import plan_guides, write_guides
from d3s_utils.masks import ellipse_mask
from d3s_utils.own_ground import continued, placed_blend, placed_paste, write_placed
from d3s_utils.photos import Photo
from d3s_utils.png_files import write_png

OPTIONS = DreamOptions(strength=0.5, steps=4, guidance_scale=2.0)


def smooth(height, width, *, seed=0):
    """A photo without edges, so that resampling changes little."""
    random = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(random).resize((width, height), Image.Resampling.BICUBIC))


def test_the_object_is_that_of_the_guide_pixel_by_pixel():
    photo, box = smooth(100, 140), (40, 30, 80, 60)
    place = {"left": 11, "top": 23, "width": 20, "canvas": 64}
    placed = placed_paste(photo, box=box, **place)
    patch = resized(centre_square(photo, box=box), 20)
    np.testing.assert_array_equal(placed.pixels[23:43, 11:31], patch)
    guide = paste(patch, np.zeros((64, 64, 3), np.uint8), left=11, top=23)
    np.testing.assert_array_equal(placed.pixels[23:43, 11:31], guide[23:43, 11:31])


def test_around_it_is_the_photo_itself_at_the_same_scale():
    """Zooming out of a large photo is the same as having taken the picture from further away."""
    photo, box = smooth(400, 400), (180, 180, 220, 220)
    square = centre_square(photo, box=box)  # 200 x 200, in the middle
    placed = placed_paste(photo, box=box, left=20, top=20, width=40, canvas=80)
    assert square.shape == (200, 200, 3)
    assert placed.share == 1.0
    whole = np.asarray(Image.fromarray(photo).resize((80, 80), Image.Resampling.BICUBIC), int)
    assert np.abs(placed.pixels - whole).max() <= 12
    assert np.abs(placed.pixels - whole).mean() < 1.5


@pytest.mark.parametrize(
    ("left", "top", "share"),
    [(20, 20, 1.0), (0, 0, (60 * 60 - 1600) / (80 * 80 - 1600)), (40, 20, (60 * 80 - 1600) / (80 * 80 - 1600))],
)
def test_the_share_of_real_ground_is_counted(left, top, share):
    placed = placed_paste(smooth(400, 400), box=(180, 180, 220, 220), left=left, top=top, width=40, canvas=80)
    assert placed.share == pytest.approx(share)


def test_beyond_the_photo_goes_on_what_lies_nearest():
    photo = np.zeros((40, 40, 3), np.uint8)
    photo[:, :20], photo[:, 20:] = (250, 0, 0), (0, 0, 250)
    placed = placed_paste(photo, left=20, top=20, width=24, canvas=64)
    assert placed.share == 0
    assert (placed.pixels[:, :8, 0] > 240).all(), "red goes on to the left"
    assert (placed.pixels[:, -8:, 2] > 240).all(), "blue to the right"


def test_a_cut_out_keeps_its_outline_and_loses_nothing_of_its_photo():
    photo = Photo(smooth(60, 90))
    mask = ellipse_mask((60, 90), (30, 15, 60, 45))
    placed = placed_blend(photo, mask, canvas=90)
    np.testing.assert_array_equal(placed.pixels[15:75], photo.pixels)
    object_area = (mask > 127).sum()
    assert placed.share == pytest.approx((60 * 90 - object_area) / (90 * 90 - object_area))
    other = blend(photo.pixels, mask, np.zeros((90, 90, 3), np.uint8), canvas=90)
    inside = np.zeros((90, 90), bool)
    inside[15:75] = mask == 255
    np.testing.assert_array_equal(placed.pixels[inside], other[inside])


def test_what_lies_under_transparent_pixels_is_never_shown():
    pixels = np.full((60, 60, 3), 255, np.uint8)
    pixels[20:40, 20:40] = (0, 200, 0)
    mask = np.zeros((60, 60), np.uint8)
    mask[20:40, 20:40] = 255
    placed = placed_blend(Photo(pixels, mask), mask, canvas=60, surroundings=False)
    assert placed.share == 0
    assert (np.abs(placed.pixels.astype(int) - (0, 200, 0)).max(2) < 10).all(), "green goes on, the white is hidden"


def test_known_pixels_stay_and_nothing_to_go_on_from_is_refused():
    pixels, known = smooth(20, 20), np.zeros((20, 20), bool)
    known[5:15, 5:15] = True
    found = continued(pixels, known)
    np.testing.assert_array_equal(found[known], pixels[known])
    np.testing.assert_array_equal(continued(pixels, np.ones((20, 20), bool)), pixels)
    with pytest.raises(ValueError, match="at least one pixel"):
        continued(pixels, np.zeros((20, 20), bool))


@pytest.fixture
def run(tmp_path):
    """Two foregrounds, one of them cut out, on two backgrounds: tables and files of a run."""
    (tmp_path / "01_compositing").mkdir()
    rows = []
    for number, mode in enumerate(("none", "ellipse")):
        file = f"01_compositing/f{number}.png"
        write_png(tmp_path / file, smooth(32, 32, seed=number))
        rows.append({
            "foreground_id": f"n01443537-{number:04d}", "split": "val", "synset": "n01443537", "class_name": "goldfish",
            "imagenet_index": 1, "in9": "fish", "file": file, "mask_mode": mode, "source": "dreamt",
            "mask_file": None if mode == "none" else f"01_compositing/masks/{number}.png", "source_name": "tiny",
            "source_sha256": str(number), "source_width": 32, "source_height": 32, "box": None,
        })  # fmt: skip
    templates = []
    for background in ("snow", "cave"):
        file = f"01_compositing/{background}.png"
        write_png(tmp_path / file, smooth(32, 32, seed=9))
        templates.append({"template_id": background, "split": "val", "background": background, "file": file,
                          "source_sha256": background})  # fmt: skip
    foregrounds, templates = pd.DataFrame(rows), pd.DataFrame(templates)
    guides = plan_guides(foregrounds, templates, backgrounds=["snow", "cave"], canvas=32, scale=0.5, seed=0)
    write_guides(guides, foregrounds, templates, run_folder=tmp_path)
    return tmp_path, foregrounds, guides


def test_every_guide_gets_a_twin_and_none_is_made_twice(run):
    folder, foregrounds, guides = run
    twins = write_placed(guides, foregrounds, run_folder=folder)
    assert twins["image_id"].tolist() == guides["image_id"].tolist()
    assert twins["own_ground"].tolist() == ["continued"] * 2 + ["surroundings"] * 2
    pasted, cut_out = twins[twins["mask_file"].isna()], twins[twins["mask_file"].notna()]
    assert pasted["placed_file"].nunique() == 2, "each at the place of its own guide"
    assert cut_out["placed_file"].nunique() == 1, "whose place is its photo's"
    for row in pasted.itertuples():
        guide, twin = (np.asarray(Image.open(folder / file)) for file in (row.guide_file, row.placed_file))
        box = np.s_[row.top : row.top + row.height, row.left : row.left + row.width]
        np.testing.assert_array_equal(guide[box], twin[box])
        assert not np.array_equal(guide, twin)
    times = {file: (folder / file).stat().st_mtime_ns for file in twins["placed_file"]}
    again = write_placed(guides.sample(frac=1, random_state=0), foregrounds, run_folder=folder)
    assert {file: (folder / file).stat().st_mtime_ns for file in times} == times
    pd.testing.assert_frame_equal(again.sort_index(), twins)
    changed = foregrounds.assign(source_sha256="other")
    write_placed(guides, changed, run_folder=folder)
    assert all((folder / file).stat().st_mtime_ns > time for file, time in times.items())


def test_a_twin_is_asked_for_with_its_images_seed_and_without_the_background(run):
    folder, foregrounds, guides = run
    guides = write_placed(guides, foregrounds, run_folder=folder)
    images = make_requests(guides, root=folder, seed=3, options=OPTIONS).set_index("image_id")
    twins = make_twin_requests(guides, root=folder, seed=3, options=OPTIONS).set_index("image_id")
    assert twins.index.tolist() == images.index.tolist()
    for name in ("seed", "strength", "steps", "guidance_scale", "eta", "left", "top", "width", "scale"):
        assert twins[name].tolist() == images[name].tolist()
    assert all(image.startswith(twin + ", ") for image, twin in zip(images["prompt"], twins["prompt"], strict=True))
    assert not twins["prompt"].str.contains("snow|cave").any()
    assert set(twins["guide_file"]) == set(guides["placed_file"])
    assert twins["guide_sha256"].ne(images["guide_sha256"]).all()
    some = guides.assign(placed_file=guides["placed_file"].where(guides["background"] == "snow"))
    assert len(make_twin_requests(some, root=folder, seed=3, options=OPTIONS)) == 2
    with pytest.raises(ValueError, match="at least one line"):
        make_twin_requests(guides.drop(columns="placed_file"), root=folder, seed=3, options=OPTIONS)
