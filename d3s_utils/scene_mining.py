"""Weak background labels for photos, from their scene class and the colours of their parts.

No data set names the ten D3S backgrounds. Seven are found in real photos by rules on colour; night is found and
also made, rain and caves are made photometrically from real photos (`make_night`, `make_rain`, `make_cave`).
"""

import numpy as np
from skimage.color import rgb2hsv
from skimage.filters import gaussian

SCENE_CLASSES = {  # background -> the ImageNet scene classes in which it is looked for
    "grass": ["lawn mower", "ox", "bison", "barn", "picket fence", "alp", "lakeside"],
    "road": ["trolleybus"],
    "forest": ["alp", "suspension bridge", "spider web", "lakeside", "viaduct", "cliff", "dam", "picket fence"],
    "water": ["coral reef", "lakeside", "seashore", "dam"],
    "sand": ["seashore"],
    "indoors": ["barbershop", "confectionery"],
    "snow": ["alp", "bison", "ox", "barn", "lakeside"],
    "cave": ["cliff dwelling", "cliff"],
    "night": ["suspension bridge", "triumphal arch", "barn", "dam", "viaduct", "seashore", "trolleybus"],
}


def colour_shares(pictures: np.ndarray, masks: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return how much of each picture's parts has a colour.

    Args:
        pictures: uint8, shape (n, h, w, 3).
        masks: Where to look, bool (n, h, w); everywhere by default.

    Returns:
        Shares in [0, 1], shape (n,), by names ``<colour>_<top|bottom>``, and ``brightness``, ``saturation``,
        ``light`` (share of bright pixels). An empty part counts as none of the colour.
    """
    hsv = rgb2hsv(pictures)
    hue, saturation, value = hsv[..., 0] * 360, hsv[..., 1], hsv[..., 2]
    colours = {
        "green": (hue > 60) & (hue < 170) & (saturation > 0.15) & (value > 0.1),
        "blue": (hue > 165) & (hue < 260) & (saturation > 0.15) & (value > 0.2),
        "white": (value > 0.68) & (saturation < 0.22),
        "grey": (value > 0.22) & (value < 0.75) & (saturation < 0.18),
        "sandy": (hue > 15) & (hue < 60) & (saturation > 0.1) & (saturation < 0.55) & (value > 0.45),
        "rocky": (hue > 5) & (hue < 60) & (saturation > 0.1) & (value > 0.15) & (value < 0.9),
        "dark": value < 0.22,
    }
    masks = np.ones(pictures.shape[:3], bool) if masks is None else masks
    half = pictures.shape[1] // 2
    shares = {}
    for part, rows in {"top": slice(None, half), "bottom": slice(half, None)}.items():
        area = np.maximum(masks[:, rows].sum((1, 2)), 1)
        for name, where in colours.items():
            shares[f"{name}_{part}"] = (where & masks)[:, rows].sum((1, 2)) / area
    area = np.maximum(masks.sum((1, 2)), 1)
    shares["brightness"] = (value * masks).sum((1, 2)) / area
    shares["saturation"] = (saturation * masks).sum((1, 2)) / area
    shares["light"] = ((value > 0.6) & masks).sum((1, 2)) / area
    return shares


def name_backgrounds(pictures: np.ndarray, masks: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return for each background that colour can tell whether each picture (or its masked part) shows it, bool (n,)."""
    s = colour_shares(pictures, masks)
    coloured = s["saturation"] > 0.06
    bright = s["brightness"] > 0.3
    return {
        "grass": (s["green_bottom"] > 0.6) & (s["green_top"] < 0.75) & bright,
        "forest": (s["green_top"] > 0.5) & (s["green_bottom"] > 0.35) & (s["brightness"] < 0.52) & (s["light"] < 0.3),
        "water": (s["blue_bottom"] > 0.6) & (s["white_bottom"] < 0.3) & bright,
        "sand": (s["sandy_bottom"] > 0.4) & bright & (s["green_bottom"] < 0.1) & (s["green_top"] < 0.3),
        "snow": (s["white_bottom"] > 0.4) & coloured & (s["sandy_bottom"] < 0.25) & (s["green_bottom"] < 0.15),
        "road": (s["grey_bottom"] > 0.45) & bright & (s["green_bottom"] < 0.2) & coloured,
        "night": (s["brightness"] < 0.27) & (s["dark_top"] > 0.5) & (s["light"] > 0.01) & (s["light"] < 0.25),
    }


def find_scenes(pictures: np.ndarray, class_names: np.ndarray) -> dict[str, np.ndarray]:
    """Return for each of nine backgrounds (all but rain) the rows of `pictures` that show it.

    Args:
        pictures: uint8, shape (n, h, w, 3).
        class_names: ImageNet class of each, strings (n,).
    """
    shows = name_backgrounds(pictures)
    s = colour_shares(pictures)
    sky = np.maximum(s["blue_top"], s["white_top"])
    shows["indoors"] = (s["blue_top"] < 0.25) & (s["green_bottom"] < 0.25) & (s["saturation"] > 0.08)
    shows["cave"] = (s["rocky_bottom"] > 0.5) & (s["rocky_top"] > 0.4) & (sky < 0.25)
    shows["road"] = (s["grey_bottom"] > 0.3) & (s["brightness"] > 0.3) & (s["green_bottom"] < 0.3)
    return {
        background: np.flatnonzero(shows[background] & np.isin(class_names, classes))
        for background, classes in SCENE_CLASSES.items()
    }


def make_night(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a uint8 picture (h, w, 3) as at night: dark, blue, its brightest parts kept as lamps."""
    light = (picture / 255.0) ** random.uniform(1.1, 1.5)
    lamps = np.clip((light.max(-1, keepdims=True) - 0.8) / 0.2, 0, 1) * random.uniform(0.0, 0.35)
    tint = np.array([0.75, 0.85, 1.25]) * random.uniform(0.34, 0.48)
    night = light * (tint * (1 - lamps) + lamps * np.array([1.0, 0.85, 0.55]))
    return _to_uint8(night + random.normal(0, 0.008, picture.shape))


def make_rain(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a uint8 picture (h, w, 3) as in rain: grey, dim, with slanted streaks of one direction."""
    height, width, _ = picture.shape
    light = picture / 255.0
    grey = light.mean(-1, keepdims=True)
    wet = 0.45 * light + 0.55 * grey
    wet = 0.30 * np.array([0.92, 0.98, 1.06]) + 0.55 * wet
    length, slant = height // 4, random.uniform(-0.25, 0.25)
    streaks = np.zeros((height, width))
    for _ in range(int(height * width / 80)):
        top, left = random.integers(-length, height), random.integers(0, width)
        rows = np.arange(max(0, top), min(height, top + int(length * random.uniform(0.5, 1.0))))
        columns = (left + slant * (rows - top)).astype(int) % width
        streaks[rows, columns] = np.maximum(streaks[rows, columns], random.uniform(0.12, 0.32))
    return _to_uint8(wet * random.uniform(0.8, 1.0) + streaks[..., None])


def make_cave(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a uint8 picture (h, w, 3) of rock as in a cave: a pool of light, dark towards the edges."""
    height, width, _ = picture.shape
    rows, columns = np.mgrid[:height, :width] / height - 0.5
    centre = random.uniform(-0.15, 0.15, 2)
    distance = np.hypot(rows - centre[0], columns - centre[1]) / random.uniform(0.3, 0.42)
    rough = gaussian(random.normal(0, 1, (height, width)), height / 12) * 4
    light = np.clip(np.exp(-(np.clip(distance + 0.12 * rough, 0, None) ** 2)), 0, 1)[..., None]
    return _to_uint8(picture / 255.0 * (0.10 + 0.85 * light) * np.array([1.05, 0.95, 0.8]))


def _to_uint8(light: np.ndarray) -> np.ndarray:
    return (np.clip(light, 0, 1) * 255 + 0.5).astype(np.uint8)
