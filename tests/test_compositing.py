"""Composites: equal to an independent slow version written from the paper's description."""

import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import chisquare

from d3s_utils.compositing import (
    blend,
    centre_square,
    padded_square,
    pasted_size,
    place_of,
    resized,
    write_composites,
)
from d3s_utils.compositing_speed import best_of, compare_speed
from d3s_utils.photos import Photo, read_photo


def a_photo(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth shapes and fine noise, so that a wrong filter or an offset of a pixel shows."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 17
    waves = np.stack([np.sin(x * random.uniform(0.5, 2)) * np.cos(y * random.uniform(0.5, 2)) for _ in range(3)], -1)
    return np.clip(128 + 80 * waves + random.normal(0, 25, waves.shape), 0, 255).astype(np.uint8)


def slow_paste(foreground: Image.Image, background: Image.Image, *, canvas: int, scale: float, left: int, top: int):
    """The paper's words, one after the other: crop to a square, resize bicubically, paste on the cropped template."""

    def crop(image):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.crop((left, top, left + side, top + side))

    size = int(canvas * scale)
    guide = crop(background).resize((canvas, canvas), Image.BICUBIC)
    guide.paste(crop(foreground).resize((size, size), Image.BICUBIC), (left, top))
    return np.asarray(guide)


def slow_blend(foreground: np.ndarray, mask: np.ndarray, background: Image.Image, *, canvas: int) -> np.ndarray:
    """The masked way: pad both to a square, resize the background to it, blend pixel by pixel, then resize."""
    height, width = mask.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    behind = np.asarray(background.resize((side, side), Image.BICUBIC)).astype(float)
    blended = behind.copy()
    for row in range(height):
        for column in range(width):
            share = mask[row, column] / 255
            place = top + row, left + column
            blended[place] = share * foreground[row, column] + (1 - share) * behind[place]
    return np.asarray(Image.fromarray(np.round(blended).astype(np.uint8)).resize((canvas, canvas), Image.BICUBIC))


def table(foregrounds, templates, *, canvas, scale) -> pd.DataFrame:
    size = pasted_size(canvas, scale)
    rows = []
    for f in foregrounds:
        for t in templates:
            left, top = place_of(f"{f}-{t}", seed=0, canvas=canvas, size=size)
            rows.append((f, t, f"{f}-{t}.png", left, top, size, canvas))
    return pd.DataFrame(rows, columns=["foreground_id", "template_id", "guide_file", "left", "top", "width", "canvas"])


@pytest.mark.parametrize(("canvas", "scale"), [(512, 0.4), (64, 0.6)])
def test_batched_composites_equal_the_slow_version(tmp_path, canvas, scale):
    foregrounds = {"wide": a_photo(240, 331, 1), "tall": a_photo(130, 95, 2)}
    templates = {"large": a_photo(600, 701, 3), "small": a_photo(50, 40, 4)}
    guides = table(foregrounds, templates, canvas=canvas, scale=scale)
    written = write_composites(
        guides,
        tmp_path,
        read_foreground=lambda photo_id: (Photo(foregrounds[photo_id]), None, None),
        read_template=templates.__getitem__,
        progress=False,
    )
    assert written == len(guides) == 4
    for row in guides.itertuples():
        expected = slow_paste(
            Image.fromarray(foregrounds[row.foreground_id]),
            Image.fromarray(templates[row.template_id]),
            canvas=canvas,
            scale=scale,
            left=row.left,
            top=row.top,
        )
        difference = np.abs(read_photo(tmp_path / row.guide_file).pixels.astype(int) - expected)
        assert difference.max() <= 2


@pytest.mark.parametrize("shape", [(60, 91), (91, 60), (70, 70)])
def test_masked_composites_equal_the_slow_version(shape):
    photo, background = a_photo(*shape, 5), a_photo(64, 64, 6)
    mask = (a_photo(*shape, 7)[..., 0] // 2 + 60).astype(np.uint8)
    expected = slow_blend(photo, mask, Image.fromarray(background), canvas=48)
    assert np.abs(blend(photo, mask, background, canvas=48).astype(int) - expected).max() <= 2


def test_a_full_mask_shows_the_photo_and_an_empty_one_the_background():
    photo, background = a_photo(64, 64, 8), a_photo(64, 64, 9)
    np.testing.assert_array_equal(blend(photo, np.full((64, 64), 255, np.uint8), background, canvas=64), photo)
    np.testing.assert_array_equal(blend(photo, np.zeros((64, 64), np.uint8), background, canvas=64), background)


def test_the_plain_way_and_the_batched_way_give_the_same_pixels(tmp_path):
    files = {}
    for name, (height, width) in {"f": (90, 120), "t": (150, 100)}.items():
        files[name] = tmp_path / f"{name}.jpg"
        Image.fromarray(a_photo(height, width, 1)).save(files[name], quality=95)
    rounds = compare_speed({"f": files["f"]}, {"t": files["t"]}, canvas=64, scale=0.4, rounds=2)
    assert rounds.largest_difference.max() <= 2
    assert len(rounds) == 2
    best = best_of(rounds).iloc[0]
    assert best.composites == 1
    assert best.speedup == pytest.approx(best.batched_per_second / best.plain_per_second)


def test_the_pasted_size_is_rounded_down():
    assert pasted_size(512, 0.4) == 204
    assert pasted_size(100, 0.29) == 29
    assert pasted_size(64, 1.0) == 64
    for scale in (0, -1, 1.1, math.nan, 0.001):
        with pytest.raises(ValueError, match="foreground_scale"):
            pasted_size(64, scale)


def test_places_are_uniform_and_hang_on_the_id_alone():
    room = 16 - 9 + 1
    places = np.array([place_of(f"image-{i}", seed=3, canvas=16, size=9) for i in range(6400)])
    assert places.min() == 0
    assert places.max() == room - 1
    counts = np.zeros((room, room))
    np.add.at(counts, tuple(places.T), 1)
    assert chisquare(counts.ravel()).pvalue > 0.001
    assert place_of("image-7", seed=3, canvas=16, size=9) == tuple(places[7])
    assert place_of("x", seed=0, canvas=16, size=16) == (0, 0)


def test_squares():
    pixels = np.arange(6 * 10).reshape(6, 10)
    np.testing.assert_array_equal(centre_square(pixels), pixels[:, 2:8])
    np.testing.assert_array_equal(centre_square(pixels, box=(8, 0, 10, 6)), pixels[:, 4:10])
    np.testing.assert_array_equal(centre_square(pixels.T, box=(0, 0, 6, 4)), pixels.T[:6])
    np.testing.assert_array_equal(centre_square(pixels, box=(7, 1, 9, 3)), pixels[0:3, 6:9])  # half the shorter side
    square = padded_square(pixels)
    assert square.shape == (10, 10)
    np.testing.assert_array_equal(square[2:8], pixels)
    assert square.sum() == pixels.sum()


def test_shrinking_does_not_alias():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(resized(stripes, 51)[4:-4, 4:-4].astype(int)) < 30


def test_composites_with_their_recipe_are_not_made_twice(tmp_path):
    guides = table(["f"], ["t", "u"], canvas=32, scale=0.5)
    reads = []

    def write(recipes):
        return write_composites(
            guides,
            tmp_path,
            read_foreground=lambda name: reads.append(name) or (Photo(a_photo(40, 40, 1)), None, None),
            read_template=lambda name: a_photo(32, 32, 2),
            recipes=recipes,
            progress=False,
        )

    assert write([{"a": 1}, {"a": 2}]) == 2
    assert write([{"a": 1}, {"a": 2}]) == 0
    assert write([{"a": 1}, {"a": 3}]) == 1
    (tmp_path / "f-t.png").write_bytes((tmp_path / "f-t.png").read_bytes()[:-5])
    assert write([{"a": 1}, {"a": 3}]) == 1
    assert reads == ["f", "f", "f"]
