"""PNG files with their recipe inside."""

import io

import numpy as np
import pytest
from PIL import Image

from d3s_utils.png_files import encode_png, has_recipe, write_png

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
RECIPE = {"prompt": "a photo of a lion, ∅", "seed": 7}


def test_pixels_and_recipe_survive(tmp_path):
    write_png(tmp_path / "a.png", PIXELS, recipe=RECIPE)
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        np.testing.assert_array_equal(np.asarray(image), PIXELS)
        assert '"seed": 7' in image.text["d3s-recipe"]
    assert has_recipe(tmp_path / "a.png", RECIPE)
    assert not has_recipe(tmp_path / "a.png", {**RECIPE, "seed": 8})
    assert not has_recipe(tmp_path / "none.png", RECIPE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_torn_file_has_no_recipe(tmp_path):
    content = encode_png(PIXELS, recipe=RECIPE)
    for length in (0, 10, 100, len(content) - 1):
        (tmp_path / "torn.png").write_bytes(content[:length])
        assert not has_recipe(tmp_path / "torn.png", RECIPE)


def test_grey_pixels():
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_png(PIXELS[..., 0])))), PIXELS[..., 0])


def test_other_arrays_are_refused():
    for pixels in (PIXELS.astype(float), PIXELS[None], PIXELS[..., :2]):
        with pytest.raises(ValueError, match="pixels must be uint8"):
            encode_png(pixels)


def test_a_failed_write_names_the_file_and_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match=r"missing/a\.png"):
        write_png(tmp_path / "missing" / "a.png", PIXELS)
    with pytest.raises(ValueError, match="pixels"):
        write_png(tmp_path / "a.png", PIXELS.astype(float))
    assert not list(tmp_path.iterdir())
