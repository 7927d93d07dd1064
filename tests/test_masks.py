"""Masks on shapes whose mask is known."""

import numpy as np
import pytest

from d3s_utils.masks import check_mask, clip_box, ellipse_mask, file_mask, grabcut_mask, mask_of
from d3s_utils.photos import Photo, PhotoError


def disc(side: int = 96, radius: float = 25.0, centre: tuple[float, float] = (52.0, 44.0)) -> np.ndarray:
    x, y = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    return np.hypot(x - centre[0], y - centre[1]) < radius


def disc_photo(inside: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 12, (*inside.shape, 3))
    return np.clip(np.where(inside[..., None], [210, 60, 40], [60, 110, 190]) + noise, 0, 255).astype(np.uint8)


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    return ((mask > 127) & truth).sum() / ((mask > 127) | truth).sum()


@pytest.mark.parametrize("side", [96, 400])
def test_grabcut_finds_a_disc(side):
    scale = side / 96
    inside = disc(side, 25 * scale, (52 * scale, 44 * scale))
    box = [round(value * scale) for value in (22, 14, 82, 74)]
    mask = grabcut_mask(disc_photo(inside), box)
    assert mask.shape == inside.shape
    assert overlap(mask, inside) > 0.93
    np.testing.assert_array_equal(mask, grabcut_mask(disc_photo(inside), box))


def test_grabcut_works_where_the_box_fills_the_photo():
    inside = disc()
    assert overlap(grabcut_mask(disc_photo(inside), (0, 0, 96, 96)), inside) > 0.9


def test_grabcut_that_finds_nothing_gives_way_to_the_ellipse():
    photo = Photo(np.full((40, 60, 3), 128, np.uint8))
    mask, mode = mask_of(photo, mode="grabcut", box=(10, 10, 30, 30))
    assert mode == "ellipse"
    np.testing.assert_array_equal(mask, ellipse_mask((40, 60), (10, 10, 30, 30)))


def test_ellipse_has_its_area_and_stays_in_its_box():
    mask = ellipse_mask((80, 120), (20, 10, 100, 60))
    assert mask.sum() / 255 == pytest.approx(np.pi / 4 * 80 * 50, rel=0.01)
    mask[10:60, 20:100] = 0
    assert mask.max() < 128  # only the soft edge


def test_alpha_and_file_masks_come_as_they_are():
    inside = disc()
    alpha = inside.astype(np.uint8) * 255
    photo = Photo(disc_photo(inside), alpha)
    assert mask_of(photo, mode="alpha")[0] is alpha
    ones = Photo(np.repeat(inside[..., None].astype(np.uint8), 3, axis=2))
    np.testing.assert_array_equal(file_mask(ones, shape=(96, 96)), alpha)


def test_auto_takes_the_first_there_is():
    pixels, alpha = np.zeros((96, 96, 3), np.uint8), disc().astype(np.uint8) * 255
    mask_file = Photo(np.repeat(alpha[..., None], 3, axis=2))
    assert check_mask(Photo(pixels, alpha), mode="auto", mask_file=mask_file) == "alpha"
    assert check_mask(Photo(pixels), mode="auto", mask_file=mask_file) == "file"
    assert check_mask(Photo(pixels), mode="auto", box=(10, 10, 50, 50)) == "none"


def test_what_cannot_be_masked_says_why():
    photo = Photo(np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(PhotoError, match="no alpha"):
        check_mask(photo, mode="alpha")
    with pytest.raises(PhotoError, match="no mask file"):
        check_mask(photo, mode="file")
    with pytest.raises(PhotoError, match="as large as its photo, 30 x 20"):
        check_mask(photo, mode="file", mask_file=Photo(np.zeros((5, 5, 3), np.uint8)))
    with pytest.raises(PhotoError, match="empty"):
        check_mask(photo, mode="file", mask_file=photo)
    with pytest.raises(PhotoError, match="overlap"):
        check_mask(photo, mode="ellipse", box=(40, 0, 50, 10))
    with pytest.raises(PhotoError, match="left, top, right, bottom"):
        clip_box((1, 2, float("nan"), 4), shape=(20, 30))
    with pytest.raises(ValueError, match="mask_mode must be one of"):
        check_mask(photo, mode="magic")
