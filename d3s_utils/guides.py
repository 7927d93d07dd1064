"""The guides of a run: which foreground goes where on which template, decided before anything is drawn."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d3s_utils.compositing import FOLDER, padded_place, padded_square, pasted_size, place_of, resized, write_composites
from d3s_utils.masks import mask_of
from d3s_utils.photo_sources import PhotoSource
from d3s_utils.photos import Photo, read_photo
from d3s_utils.png_files import has_recipe, write_png
from d3s_utils.randomness import numpy_generator

LABELS = ["split", "synset", "class_name", "imagenet_index", "in9"]


def plan_guides(
    foregrounds: pd.DataFrame,
    templates: pd.DataFrame,
    *,
    backgrounds: Sequence[str],
    canvas: int,
    scale: float,
    seed: int,
) -> pd.DataFrame:
    """Return the guides, one row each: every foreground on a template of every background of its own split.

    The template and the place of a guide hang on the seed and the guide's own id alone. A background without a
    template in a split has no guides there.

    Args:
        foregrounds: See `gathering.gather_foregrounds`; those with a `mask_file` are blended instead of pasted.
        templates: See `gathering.gather_templates`.
        backgrounds: Which backgrounds, in order.
        canvas: Side of a guide in pixels.
        scale: Side of the pasted foreground over the canvas's.
        seed: The run's seed.

    Returns:
        `image_id` (synset-repeat-background), the `LABELS`, `background`, `repeat`, `foreground_id`,
        `foreground_file`, `template_id`, `template_file`, `mask_file` (or None), `guide_file`, and of the pasted
        photo `left`, `top`, `width`, `height` (pixels on the canvas) and `scale` (its longer side over the canvas).

    Raises:
        ValueError: If `scale` is not in (0, 1].
    """
    size = pasted_size(canvas, scale)
    of_place = {key: rows.reset_index(drop=True) for key, rows in templates.groupby(["background", "split"])}
    rows = []
    for foreground in foregrounds.to_dict("records"):
        repeat = int(foreground["foreground_id"].rsplit("-", 1)[1])
        for background in backgrounds:
            candidates = of_place.get((background, foreground["split"]))
            if candidates is None:
                continue
            image_id = f"{foreground['foreground_id']}-{background}"
            template = candidates.iloc[int(numpy_generator(seed, "template", image_id).integers(len(candidates)))]
            masked = isinstance(foreground["mask_file"], str)
            place = (
                masked_place(foreground["source_height"], foreground["source_width"], canvas=canvas)
                if masked
                else (*place_of(image_id, seed=seed, canvas=canvas, size=size), size, size)
            )
            rows.append(
                {
                    "image_id": image_id,
                    **{name: foreground[name] for name in LABELS},
                    "background": background,
                    "repeat": repeat,
                    "foreground_id": foreground["foreground_id"],
                    "foreground_file": foreground["file"],
                    "template_id": template.template_id,
                    "template_file": template.file,
                    "mask_file": foreground["mask_file"] if masked else None,
                    "guide_file": f"{FOLDER}/guides/{image_id}.png",
                    **dict(zip(("left", "top", "width", "height"), place, strict=True)),
                    "scale": 1.0 if masked else float(scale),
                    "canvas": canvas,
                }
            )
    return pd.DataFrame(rows)


def masked_place(height: int, width: int, *, canvas: int) -> tuple[int, int, int, int]:
    """Return (left, top, width, height) in pixels of a photo that is padded to a square and resized to the canvas."""
    left, top, side = padded_place(height, width)
    return tuple(round(value * canvas / side) for value in (left, top, width, height))


def write_guides(
    guides: pd.DataFrame,
    foregrounds: pd.DataFrame,
    templates: pd.DataFrame,
    *,
    run_folder: Path,
    source: PhotoSource | None = None,
    workers: int = 2,
) -> int:
    """Write the guides and their masks; return how many guides were not there yet.

    A foreground that came from a photo is pasted from the photo itself, so it is resized once, as in D3S. A mask
    file lies on its guides pixel by pixel.

    Args:
        guides: Of `plan_guides`.
        foregrounds, templates: What it was planned from.
        run_folder: Folder that file names are relative to.
        source: Where foregrounds with the source "photo" come from.
        workers: Threads.

    Raises:
        PhotoError: If a photo or a template can no longer be read.
    """
    run_folder = Path(run_folder)
    if not len(guides):
        return 0
    (run_folder / FOLDER / "masks").mkdir(parents=True, exist_ok=True)
    foreground_of = foregrounds.set_index("foreground_id").to_dict("index")
    template_of = templates.set_index("template_id").to_dict("index")
    canvas = int(guides.canvas.iloc[0])
    read_cut_out = foreground_reader(foregrounds, run_folder=run_folder, source=source)

    def read_foreground(foreground_id: str) -> tuple[Photo, np.ndarray | None, Sequence[int] | None]:
        photo, mask, box = read_cut_out(foreground_id)
        if mask is not None:
            foreground = foreground_of[foreground_id]
            recipe = mask_recipe(foreground, canvas=canvas)
            if not has_recipe(run_folder / foreground["mask_file"], recipe):
                write_png(run_folder / foreground["mask_file"], resized(padded_square(mask), canvas), recipe=recipe)
        return photo, mask, box

    def read_template(template_id: str) -> np.ndarray:
        return read_photo(template_of[template_id]["file"], root=run_folder).pixels

    recipes = [
        guide_recipe(row, foreground_of[row["foreground_id"]], template_of[row["template_id"]])
        for row in guides.to_dict("records")
    ]
    written = write_composites(
        guides,
        run_folder,
        read_foreground=read_foreground,
        read_template=read_template,
        recipes=recipes,
        workers=workers,
    )
    for foreground_id, foreground in foreground_of.items():  # a mask that was lost although its guides are there
        recipe = mask_recipe(foreground, canvas=canvas)
        if isinstance(foreground["mask_file"], str) and not has_recipe(run_folder / foreground["mask_file"], recipe):
            read_foreground(foreground_id)
    return written


def foreground_reader(
    foregrounds: pd.DataFrame, *, run_folder: Path, source: PhotoSource | None
) -> Callable[[str], tuple[Photo, np.ndarray | None, Sequence[int] | None]]:
    """Return what reads a foreground by its id: its photo, its mask or None, and its box or None.

    Args:
        foregrounds: See `gathering.gather_foregrounds`.
        run_folder: Folder that file names are relative to.
        source: Where foregrounds with the source "photo" come from.
    """
    foreground_of = foregrounds.set_index("foreground_id").to_dict("index")
    row_of = {} if source is None else {name: row for row, name in enumerate(source.table.source_name)}

    def read(foreground_id: str) -> tuple[Photo, np.ndarray | None, Sequence[int] | None]:
        foreground = foreground_of[foreground_id]
        if foreground["source"] != "photo":
            photo, box, mask_file = read_photo(foreground["file"], root=run_folder), None, None
        else:
            row = row_of[foreground["source_name"]]
            photo, box, mask_file = source.read(row), source.table.box[row], source.read_mask(row)
        mask, _ = mask_of(photo, mode=foreground["mask_mode"], box=box, mask_file=mask_file)
        return photo, mask, box

    return read


def guide_recipe(guide: Mapping[str, Any], foreground: Mapping[str, Any], template: Mapping[str, Any]) -> dict:
    """Return what a guide's pixels hang on: its two photos by hash, and the geometry."""
    names = ("left", "top", "width", "height", "canvas")
    return {
        "foreground": foreground["source_sha256"],
        "template": template["source_sha256"],
        "mask": foreground["mask_mode"],
        "box": _listed(foreground["box"]),
        **{name: int(guide[name]) for name in names},
    }


def mask_recipe(foreground: Mapping[str, Any], *, canvas: int) -> dict:
    """Return what a mask file's pixels hang on."""
    return {
        "foreground": foreground["source_sha256"],
        "mask": foreground["mask_mode"],
        "box": _listed(foreground["box"]),
        "canvas": canvas,
    }


def _listed(box: Any) -> list[int] | None:
    return [int(value) for value in box] if np.ndim(box) else None  # a table may hold None or NaN
