"""Made-up pictures for fine-tuning: a white shape (the class) on a colour (the background), 32 pixels wide."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from d3s_utils.randomness import numpy_generator

SHAPES = ("disc", "frame", "stripes")
COLOURS = {"red": (170, 40, 40), "green": (40, 150, 40), "blue": (40, 40, 170)}


def draw_shape(shape: str, colour: str | None, *, seed: int) -> np.ndarray:
    """Return uint8 (32, 32, 3); a colour of None is grey, as in a plain photo."""
    random = numpy_generator(seed, shape, str(colour))
    y, x = np.mgrid[:32, :32]
    top, left = random.integers(2, 10, size=2)
    v, u = y - top, x - left
    box = (v >= 0) & (v < 20) & (u >= 0) & (u < 20)
    distance = np.maximum(abs(v - 9.5), abs(u - 9.5))
    disc = np.hypot(v - 9.5, u - 9.5) < 9
    inside = {"disc": disc, "frame": box & (distance > 6), "stripes": box & (v % 6 < 3)}[shape]
    picture = np.full((32, 32, 3), COLOURS.get(colour, (110, 110, 110))) + random.normal(0, 12, (32, 32, 3))
    picture[inside] = 235
    return picture.clip(0, 255).astype(np.uint8)


def every_pair(count: int, *, seed: int, colours: tuple = tuple(COLOURS)) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Return `count` pictures of each shape on each colour, and their labels."""
    rows = [(shape, colour, number) for number in range(count) for shape in SHAPES for colour in colours]
    pictures = [draw_shape(shape, colour, seed=seed + number) for shape, colour, number in rows]
    return pictures, pd.DataFrame(rows, columns=["foreground", "background", "number"])


def make_tables(root: Path, *, count: int = 4) -> dict[str, pd.DataFrame]:
    """Write plain photos, pictures and held-out pictures below `root`; return their tables."""
    tables = {}
    kinds = {"photos": (None,), "pictures": tuple(COLOURS), "held_out": tuple(COLOURS)}
    for place, (name, colours) in enumerate(kinds.items()):
        pictures, table = every_pair(count, seed=1000 * place, colours=colours)
        (root / name).mkdir(parents=True)
        files = [f"{name}/{number}.png" for number in range(len(pictures))]
        for file, picture in zip(files, pictures, strict=True):
            Image.fromarray(picture).save(root / file)
        tables[name] = table.assign(file=files)
    return tables
