"""Figures of the Backgrounds Challenge: accuracy by variant, gap and control, all variants, backgrounds that turn."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d3s_utils.accuracy_figures import MODEL_COLORS
from d3s_utils.backgrounds_challenge import RULES, Backgrounds, Foregrounds
from d3s_utils.classifiers import read_picture
from d3s_utils.controlled_gap import PARTS
from d3s_utils.figures import picture_grid
from d3s_utils.image_sets import ImageSet
from d3s_utils.in9_variants import VARIANTS, fitted, paste
from d3s_utils.taxonomy import IN9

_GREY = "0.35"
_MARKERS = "osD^vP*X"


def draw_variant_accuracy(table: pd.DataFrame, ax: Axes, *, title: str, chance: float | None = 1 / len(IN9)) -> Axes:
    """Draw the accuracy of each model on each variant as a dot with its interval, one line a variant.

    Args:
        table: From `backgrounds_challenge.variant_accuracy`; the axis says by which rule an answer is right.
        title: What it shows.
        chance: Share that guessing among the nine classes would get, drawn as a dashed line; None draws none.

    Raises:
        ValueError: If the table is empty or holds a model's variant twice, such as by both rules.
    """
    if table.empty or table.duplicated(["model", "variant"]).any():
        raise ValueError(f"table must hold each model × variant once, got {len(table)} rows with repeats or none")
    variants = [name for name in VARIANTS if name in set(table["variant"])]
    models = list(dict.fromkeys(table["model"]))
    spread = 0.6 / len(models)
    for number, model in enumerate(models):
        rows = table[table["model"] == model].set_index("variant").reindex(variants)
        places = np.arange(len(variants)) + (number - (len(models) - 1) / 2) * spread
        bars = np.array([rows["value"] - rows["low"], rows["high"] - rows["value"]]) * 100
        ax.errorbar(
            rows["value"] * 100, places, xerr=bars, fmt=_MARKERS[number % len(_MARKERS)], capsize=2, label=model,
            color=MODEL_COLORS[number % len(MODEL_COLORS)],
        )  # fmt: skip
    if chance is not None:
        ax.axvline(chance * 100, color=_GREY, linestyle="--", linewidth=1, label="guessing among nine")
    ax.set_yticks(range(len(variants)), [name.replace("_", " ") for name in variants])
    ax.set(xlim=(-2, 102), ylim=(len(variants) - 0.5, -0.5), xlabel=f"{RULES[table['measure'].iloc[0]]} (% of images)")
    ax.set_title(title)
    ax.grid(axis="x", color="0.9")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def draw_controlled_gap(gaps: pd.DataFrame, ax: Axes, *, title: str) -> Axes:
    """Draw each model's raw gap, its control and their difference as dots with intervals, one line a part.

    Args:
        gaps: From `controlled_gap.controlled_gap`.
        title: What it shows.

    Raises:
        ValueError: If the table is empty or holds a model's part twice.
    """
    if gaps.empty or gaps.duplicated(["model", "part"]).any():
        raise ValueError(f"gaps must hold each model × part once, got {len(gaps)} rows with repeats or none")
    models = list(dict.fromkeys(gaps["model"]))
    spread = 0.6 / len(models)
    for number, model in enumerate(models):
        rows = gaps[gaps["model"] == model].set_index("part").reindex(list(PARTS))
        places = np.arange(len(PARTS)) + (number - (len(models) - 1) / 2) * spread
        bars = np.array([rows["value"] - rows["low"], rows["high"] - rows["value"]]) * 100
        ax.errorbar(
            rows["value"] * 100, places, xerr=bars, fmt=_MARKERS[number % len(_MARKERS)], capsize=2, label=model,
            color=MODEL_COLORS[number % len(MODEL_COLORS)],
        )  # fmt: skip
    ax.axvline(0, color=_GREY, linestyle="--", linewidth=1)
    ax.set_yticks(range(len(PARTS)), ["own home", "another class's home", "difference"])
    ax.set(ylim=(len(PARTS) - 0.5, -0.5), xlabel="mixed-same minus mixed-rand (percentage points)")
    ax.set_title(title)
    ax.grid(axis="x", color="0.9")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def variant_sheet(images: ImageSet, *, title: str, cell_pixels: int = 96) -> Figure:
    """Draw one object of each class in all variants, a row a class: the first that has most of them.

    Args:
        images: From `image_sets.read_in9`.
        title: What the sheet shows.
        cell_pixels: Side of a picture in the sheet, in pixels.
    """
    table = images.table.assign(place=range(len(images)))
    variants = [name for name in VARIANTS if name in set(table["variant"])]
    classes = [name for name in IN9 if name in set(table["in9"])]
    cells = []
    for superclass in classes:
        rows = table[table["in9"] == superclass]
        fullest = rows.groupby("foreground_id", sort=False)["variant"].nunique().idxmax()
        shown = rows[rows["foreground_id"] == fullest]
        places = shown.drop_duplicates("variant").set_index("variant")["place"]
        cells.append([_cell(images, places.get(name), cell_pixels) for name in variants])
    columns = [name.replace("_", " ") for name in variants]
    return picture_grid(cells, row_names=classes, column_names=columns, title=title)


def _cell(images: ImageSet, place: int | None, side: int) -> np.ndarray | None:
    return None if place is None else fitted(np.asarray(read_picture(images.pictures[place])), (side, side))


def turned_sheet(
    outcomes: pd.DataFrame,
    foregrounds: Foregrounds,
    backgrounds: Backgrounds,
    *,
    title: str,
    number: int = 6,
    cell_pixels: int = 128,
) -> Figure:
    """Draw foregrounds beside the backgrounds that turned them, and what the model said then.

    One foreground of each class is shown first, then a second of each, until there are `number`.

    Args:
        outcomes: From `backgrounds_challenge.challenge_accuracy`.
        foregrounds: Those it was given.
        backgrounds: Those it was given.
        title: What the sheet shows.
        number: Rows at most.
        cell_pixels: Side of a picture in the sheet, in pixels.

    Raises:
        ValueError: If no foreground was turned.
    """
    turned = outcomes[~outcomes["robust"].astype(bool)]
    if turned.empty:
        raise ValueError("outcomes must hold a foreground that was turned, got none")
    turn = turned.groupby("superclass", sort=False).cumcount()
    turned = turned.assign(turn=turn).sort_values("turn", kind="stable").head(number)
    front = {name: place for place, name in enumerate(foregrounds.ids)}
    behind = {name: place for place, name in enumerate(backgrounds.ids)}
    cells, names = [], []
    for line in turned.itertuples():
        picture, mask = (values[front[line.foreground_id]] for values in (foregrounds.pictures, foregrounds.masks))
        background = backgrounds.pictures[behind[line.turned_by]]
        both = paste(picture, mask, background, name=line.foreground_id)
        cells.append([fitted(pixels, (cell_pixels, cell_pixels)) for pixels in (picture, background, both)])
        said = line.predicted_superclass or "none of the nine"
        names.append(f"{line.superclass} on {line.background_superclass}\n{line.model}: {said}")
    columns = ["original", "background", "together"]
    return picture_grid(cells, row_names=names, column_names=columns, title=title)
