"""Backgrounds told by colour, and weather that is made."""

import numpy as np
import pytest

from d3s_utils.randomness import numpy_generator
from d3s_utils.scene_mining import colour_shares, find_scenes, make_cave, make_night, make_rain, name_backgrounds

COLOURS = {"green": (60, 150, 50), "sky": (120, 170, 230), "white": (235, 235, 240), "sand": (220, 190, 140),
           "grey": (120, 122, 124), "deep": (20, 90, 160), "dark": (12, 14, 20), "lamp": (250, 220, 150)}  # fmt: skip


def picture(top: str, bottom: str, side: int = 32) -> np.ndarray:
    pixels = np.empty((side, side, 3), np.uint8)
    pixels[: side // 2], pixels[side // 2 :] = COLOURS[top], COLOURS[bottom]
    return pixels


def test_colours_name_the_backgrounds_they_stand_for():
    cases = {"grass": picture("sky", "green"), "water": picture("sky", "deep"), "sand": picture("sky", "sand"),
             "snow": picture("sky", "white"), "road": picture("sky", "grey")}  # fmt: skip
    night = picture("dark", "dark")
    night[4:8, 4:8] = COLOURS["lamp"]
    cases["night"] = night
    shown = name_backgrounds(np.stack(list(cases.values())))
    for row, name in enumerate(cases):
        assert [other for other in cases if shown[other][row]] == [name]


def test_only_the_masked_part_is_looked_at():
    pictures = np.stack([picture("sky", "green")])
    mask = np.zeros((1, 32, 32), bool)
    mask[:, :16] = True
    assert colour_shares(pictures, mask)["green_bottom"][0] == 0
    assert not name_backgrounds(pictures, mask)["grass"][0]


def test_a_scene_needs_its_class_too():
    pictures = np.stack([picture("sky", "sand")] * 2)
    assert find_scenes(pictures, np.array(["seashore", "barn"]))["sand"].tolist() == [0]


@pytest.mark.parametrize("make", [make_night, make_rain, make_cave])
def test_weather_repeats_with_its_generator_and_keeps_shape_and_type(make):
    first, second = (make(picture("sky", "green"), numpy_generator(5, "weather")) for _ in range(2))
    assert first.dtype == np.uint8
    assert first.shape == (32, 32, 3)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, make(picture("sky", "green"), numpy_generator(6, "weather")))


def test_night_darkens_rain_greys_and_a_cave_is_dark_at_the_edge():
    day = picture("sky", "green", side=64)
    random = numpy_generator(0, "weather")
    assert make_night(day, random).mean() < 0.5 * day.mean()
    saturation = lambda p: float((p.max(-1).astype(int) - p.min(-1)).mean())  # noqa: E731
    assert saturation(make_rain(day, random)) < 0.5 * saturation(day)
    cave = make_cave(day, random)
    assert cave[24:40, 24:40].mean() > 2 * np.concatenate([cave[:4].ravel(), cave[-4:].ravel()]).mean()
