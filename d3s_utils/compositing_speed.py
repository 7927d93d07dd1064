"""How many composites a second: the batched way beside the plain one, in one interleaved run."""

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from PIL import Image

from d3s_utils.compositing import pasted_size, place_of, write_composites
from d3s_utils.photos import read_photo


def write_composites_plainly(guides: pd.DataFrame, folder: Path, files: Mapping[str, Path]) -> None:
    """Write every guide by itself with Pillow: open two files, crop, resize, paste, save.

    Args:
        guides: As for `write_composites`.
        folder: Where the guides go.
        files: The file of each foreground and template, by id.
    """
    for row in guides.itertuples(index=False):
        squares = []
        for photo_id, size in ((row.foreground_id, row.width), (row.template_id, row.canvas)):
            with Image.open(files[photo_id]) as image:
                width, height = image.size
                side = min(width, height)
                left, top = (width - side) // 2, (height - side) // 2
                square = image.convert("RGB").crop((left, top, left + side, top + side))
                squares.append(square.resize((size, size), Image.Resampling.BICUBIC))
        foreground, guide = squares
        guide.paste(foreground, (row.left, row.top))
        guide.save(Path(folder) / row.guide_file)


def compare_speed(
    foregrounds: Mapping[str, Path],
    templates: Mapping[str, Path],
    *,
    canvas: int,
    scale: float,
    rounds: int = 3,
    seed: int = 0,
    workers: int = 2,
) -> pd.DataFrame:
    """Composite every foreground on every template both ways, taking turns, and measure.

    Args:
        foregrounds, templates: Files of photos by id.
        canvas: Side of the composites in pixels.
        scale: Side of the pasted foreground over the canvas's.
        rounds: How often each way runs.
        seed: Seed of the places.
        workers: Threads of the batched way.

    Returns:
        One row a round: `canvas`, `composites`, `round`, `plain_per_second`, `batched_per_second`, `speedup`,
        `largest_difference` (between the two ways' pixels, in grey levels).
    """
    size = pasted_size(canvas, scale)
    rows = []
    for foreground_id in foregrounds:
        for template_id in templates:
            image_id = f"{foreground_id}-{template_id}"
            left, top = place_of(image_id, seed=seed, canvas=canvas, size=size)
            rows.append((foreground_id, template_id, f"{image_id}.png", left, top, size, canvas))
    columns = ["foreground_id", "template_id", "guide_file", "left", "top", "width", "canvas"]
    guides = pd.DataFrame(rows, columns=columns)
    results = []
    with TemporaryDirectory() as temporary:
        for number in range(rounds):  # new folders each time: a disk takes longer to write over a file
            plain, batched = Path(temporary) / f"plain-{number}", Path(temporary) / f"batched-{number}"
            plain.mkdir()
            start = time.perf_counter()
            write_composites_plainly(guides, plain, {**foregrounds, **templates})
            middle = time.perf_counter()
            write_composites(
                guides,
                batched,
                read_foreground=lambda photo_id: (read_photo(foregrounds[photo_id]), None, None),
                read_template=lambda photo_id: read_photo(templates[photo_id]).pixels,
                workers=workers,
                progress=False,
            )
            rates = len(guides) / (middle - start), len(guides) / (time.perf_counter() - middle)
            results.append((canvas, len(guides), number, *rates, rates[1] / rates[0]))
        difference = max(_difference(plain / file, batched / file) for file in guides.guide_file)
    names = ["canvas", "composites", "round", "plain_per_second", "batched_per_second", "speedup"]
    return pd.DataFrame(results, columns=names).assign(largest_difference=difference)


def best_of(rounds: pd.DataFrame) -> pd.DataFrame:
    """Return one row a canvas: each way's best rate over its rounds, their ratio, and the rounds' lowest and highest.

    The best of several rounds is what the code can do when nothing else holds it up.
    """
    table = rounds.groupby("canvas").agg(
        composites=("composites", "first"),
        plain_per_second=("plain_per_second", "max"),
        batched_per_second=("batched_per_second", "max"),
        lowest_speedup=("speedup", "min"),
        highest_speedup=("speedup", "max"),
        rounds=("round", "count"),
        largest_difference=("largest_difference", "max"),
    )
    return table.assign(speedup=table.batched_per_second / table.plain_per_second).reset_index()


def _difference(first: Path, second: Path) -> int:
    pixels = [np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (first, second)]
    return int(np.abs(pixels[0] - pixels[1]).max())
