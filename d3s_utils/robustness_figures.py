"""Pictures of robustness tables: a table and an `Axes` go in, the `Axes` comes back."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from mpl_toolkits.axes_grid1 import make_axes_locatable
from scipy.cluster.hierarchy import dendrogram, leaves_list, linkage
from scipy.spatial.distance import squareform

from d3s_utils.accuracy_figures import MODEL_COLORS
from d3s_utils.paste_biases import COLUMNS, ROWS
from d3s_utils.zoo_measures import predicted_accuracy

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "0.35"
_NAMED = 12  # models whose names still find room


def group_styles(groups: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return a colour and a marker for each group, in the order in which groups first occur.

    The same mapping gives the same styles in every figure, whichever of its models are drawn.

    Args:
        groups: Model -> group; up to 42 groups no pair occurs twice.
    """
    names = list(dict.fromkeys(groups.values()))
    return {
        name: (
            MODEL_COLORS[i % len(MODEL_COLORS)],
            MARKERS[(i % len(MODEL_COLORS) + i // len(MODEL_COLORS)) % len(MARKERS)],
        )
        for i, name in enumerate(names)
    }


def draw_zoo_scatter(
    accuracy: pd.DataFrame,
    ax: Axes,
    groups: Mapping[str, str],
    *,
    measure: str = "top1",
    robustness: pd.DataFrame | None = None,
    title: str,
    label: str = "top-1 accuracy",
) -> Axes:
    """Draw each model's accuracy on shifted pictures over that on originals, with intervals, by model group.

    Args:
        accuracy: From `evaluation.accuracy_table`.
        groups: Model -> group; one colour and marker each (see `group_styles`).
        measure: The measure to draw.
        robustness: From `zoo_measures.effective_robustness`, whose line is drawn; None, or one without a line, draws
            none.
        label: What the measure is called on the axes.

    Returns:
        `ax`. Up to 12 models are named beside their dots.

    Raises:
        ValueError: If a model has no group, or the measure is not in the table.
    """
    table = accuracy[accuracy["measure"] == measure].set_index(["model", "kind"])
    models = list(dict.fromkeys(table.index.get_level_values("model")))
    if not models or not set(models) <= set(groups):
        raise ValueError(f"accuracy must have {measure} of models that groups name, got {', '.join(models) or 'none'}")
    ends = table[["low", "high"]].to_numpy() * 100
    low, high = max(0, ends.min() - 4), min(100, ends.max() + 4)
    ax.plot([low, high], [low, high], color=_GREY, linestyle="--", linewidth=1, zorder=0, label="no drop")
    if robustness is not None and np.isfinite(robustness["slope"].iloc[0]):
        row = robustness.iloc[0]
        counts = {name: robustness[name].median() for name in ("n_original", "n_shifted")}
        x = np.linspace(max(low, 0.1), min(high, 99.9), 200)
        y = 100 * predicted_accuracy(x / 100, slope=row["slope"], intercept=row["intercept"], **counts)
        ax.plot(x, y, color=_GREY, linewidth=1.5, zorder=0, label="fitted to logits")
    for group, (color, marker) in group_styles(groups).items():
        members = [model for model in models if groups[model] == group]
        if not members:
            continue
        x, y = (table.loc[[(model, kind) for model in members]] for kind in ("original", "shifted"))
        ax.errorbar(x["value"] * 100, y["value"] * 100, xerr=_bars(x), yerr=_bars(y), fmt="none", ecolor=color,
                    elinewidth=1, alpha=0.55, zorder=1)  # fmt: skip
        ax.scatter(x["value"] * 100, y["value"] * 100, s=60, color=color, marker=marker, edgecolor="white",
                   linewidth=0.5, label=group, zorder=2)  # fmt: skip
    ax.set(xlim=(low, high), ylim=(low, high), xlabel=f"{label} on originals (%)", ylabel=f"{label} on shifted (%)")
    ax.set_aspect("equal")
    ax.set_title(title)
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    if len(models) <= _NAMED:
        places = [[100 * table.loc[(model, kind), "value"] for kind in ("original", "shifted")] for model in models]
        _name_points(ax, np.array(places), models)
    return ax


def draw_sorted_drops(
    tests: pd.DataFrame,
    ax: Axes,
    *,
    title: str,
    groups: Mapping[str, str] | None = None,
    label: str = "drop in top-1: original − shifted (percentage points)",
) -> Axes:
    """Draw each model's drop with its interval, the smallest first; dots of drops beyond chance are filled.

    Args:
        tests: From `robustness_measures.drop_tests`.
        groups: Model -> group, for colours and markers; one colour where None.
        label: The horizontal axis, with its unit.

    Raises:
        ValueError: If a model has no group.
    """
    groups = dict.fromkeys(tests["model"], "") if groups is None else groups
    lost = sorted(set(tests["model"]) - set(groups))
    if lost:
        raise ValueError(f"groups must name the group of each model, got none for {lost[0]!r}")
    styles, found = group_styles(groups), {groups[model] for model in tests["model"]}
    rows = tests.sort_values(["drop", "model"])
    for place, row in enumerate(rows.to_dict("records")):
        color, marker = styles[groups[row["model"]]]
        ax.plot([row["drop_low"] * 100, row["drop_high"] * 100], [place, place], color=color, linewidth=1.5, zorder=1)
        face = color if row["p_holm"] < 0.05 else "white"
        ax.scatter(row["drop"] * 100, place, s=52, marker=marker, facecolor=face, edgecolor=color, zorder=2)
    ax.axvline(0, color=_GREY, linestyle="--", linewidth=1, zorder=0)
    for group, (color, marker) in styles.items():
        if group in found - {""}:
            ax.scatter([], [], color=color, marker=marker, label=group)
    ax.scatter([], [], facecolor=_GREY, edgecolor=_GREY, label="beyond chance (Holm p < 0.05)")
    ax.scatter([], [], facecolor="white", edgecolor=_GREY, label="may be chance")
    ax.set_yticks(range(len(rows)), rows["model"])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=label)
    ax.set_title(title)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return ax


def draw_error_consistency(table: pd.DataFrame, ax: Axes, *, title: str) -> Axes:
    """Draw Cohen's kappa between models as a matrix, like ones side by side, with a dendrogram above from 3 models on.

    Models are clustered by average linkage on 1 - kappa; an undefined kappa counts as 0 there and stays grey,
    as does a model with itself.

    Args:
        table: From `zoo_measures.error_consistency`, at least one pair.

    Raises:
        ValueError: If the table is empty.
    """
    if table.empty:
        raise ValueError("table must hold at least one pair of models, got none")
    models = sorted(set(table["model_1"]) | set(table["model_2"]))
    kappa = pd.DataFrame(np.eye(len(models)), index=models, columns=models)
    for row in table.itertuples():
        kappa.loc[row.model_1, row.model_2] = kappa.loc[row.model_2, row.model_1] = row.kappa
    divider, tree = make_axes_locatable(ax), None
    if len(models) > 2:
        distance = 1 - kappa.fillna(0).to_numpy()
        np.fill_diagonal(distance, 0)
        tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
        order = leaves_list(tree)
        kappa = kappa.iloc[order, order]
    floor = min(0.0, np.nanmin(kappa.to_numpy()))
    ax.set_facecolor("0.92")
    picture = ax.imshow(kappa.mask(np.eye(len(models), dtype=bool)), cmap="cividis", vmin=floor, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(kappa.to_numpy()):
        if len(models) <= 16 and i != j and np.isfinite(value):
            dark = np.dot(colormaps["cividis"]((value - floor) / (1 - floor))[:3], [0.299, 0.587, 0.114]) < 0.5
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    ax.set_xticks(range(len(models)), kappa.columns, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(models)), kappa.index)
    ax.tick_params(length=0)
    ax.figure.colorbar(picture, cax=divider.append_axes("right", 0.15, pad=0.12), label="error consistency (kappa)")
    top = ax
    if tree is not None:
        top = divider.append_axes("top", 0.7, pad=0.06)
        dendrogram(tree, ax=top, no_labels=True, color_threshold=0, above_threshold_color=_GREY)
        first, last = tree[[0, -1], 2]
        if last > first:
            top.set_ylim(bottom=max(0, first - 0.6 * (last - first)))  # leaves are cut off where they tell nothing
        top.set_axis_off()
    top.set_title(title)
    return ax


def draw_places(table: pd.DataFrame, ax: Axes, *, title: str, label: str = "top-1 accuracy (%)") -> Axes:
    """Draw accuracy by place of the foreground as a 3 × 3 grid with intervals and numbers of pictures.

    Args:
        table: From `paste_biases.accuracy_by_place`, of one model; places without pictures stay blank.
        label: What the colour means, with its unit.

    Raises:
        ValueError: If the table holds another number of rows than nine places.
    """
    if len(table) != 9 or table.duplicated(["row", "column"]).any():
        raise ValueError(f"table must hold nine places of one model, got {len(table)} rows")
    cells = table.set_index(["row", "column"])
    values = np.array([[cells.loc[(row, column), "value"] for column in COLUMNS] for row in ROWS]) * 100
    picture = ax.imshow(values, cmap="cividis", vmin=0, vmax=100)
    for (i, j), value in np.ndenumerate(values):
        cell = cells.loc[(ROWS[i], COLUMNS[j])]
        text, color = "no picture", _GREY
        if np.isfinite(value):
            text = f"{value:.0f} %\n{cell['low'] * 100:.0f} to {cell['high'] * 100:.0f}\nn = {int(cell['n'])}"
            color = "white" if value < 55 else "black"
        ax.text(j, i, text, ha="center", va="center", fontsize=9, color=color)
    ax.set_xticks(range(3), COLUMNS)
    ax.set_yticks(range(3), ROWS)
    ax.tick_params(length=0)
    ax.set(xlabel="place of the foreground, from the left", ylabel="from the top")
    ax.figure.colorbar(picture, ax=ax, label=label, shrink=0.85)
    ax.set_title(title)
    return ax


def _bars(rows: pd.DataFrame) -> np.ndarray:
    return np.abs(rows[["low", "high"]].to_numpy().T - rows["value"].to_numpy()) * 100


def _name_points(ax: Axes, points: np.ndarray, names: list[str]) -> None:
    """Write a name beside each point, where it covers no point, name or legend, with a line to it if it is far off."""
    figure = ax.figure
    figure.canvas.draw()  # an aspect or a layout may move the axes only now
    renderer, scale = figure.canvas.get_renderer(), figure.dpi / 72
    dots = ax.transData.transform(points)
    taken = [Bbox.from_bounds(x - 5 * scale, y - 5 * scale, 10 * scale, 10 * scale) for x, y in dots]
    if ax.get_legend() is not None:
        taken.append(ax.get_legend().get_window_extent(renderer))
    inside = ax.get_window_extent(renderer).padded(-4 * scale)
    halo = [withStroke(linewidth=2.5, foreground="white")]
    angles = np.deg2rad([-25, 25, 205, 155, -70, 70, 250, 110, 0, 180])
    tries = [(r * np.cos(a), r * np.sin(a)) for r in (9, 18, 30, 45, 62, 80, 100) for a in angles]
    for place in np.argsort(points[:, 1], kind="stable"):
        best = None
        for right, up in tries:
            near = np.hypot(right, up) < 17
            note = ax.annotate(
                names[place], points[place], xytext=(right, up), textcoords="offset points", fontsize=8,
                ha="left" if right >= 0 else "right", va="center", color="0.15", zorder=3, path_effects=halo,
                arrowprops=None if near else {"arrowstyle": "-", "color": "0.6", "linewidth": 0.7, "shrinkB": 4},
            )  # fmt: skip
            box = _text_box(note, renderer)
            free = not any(box.overlaps(other) for other in taken)
            if free and inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1:
                best = box
                break
            note.remove()
        if best is None:  # no room left: better a name that covers something than none
            note = ax.annotate(names[place], points[place], xytext=(7, 7), textcoords="offset points", fontsize=8)
            best = _text_box(note, renderer)
        taken.append(best)


def _text_box(note, renderer) -> Bbox:
    """Return the room that a note's words take, without its line."""
    note.update_positions(renderer)
    return Text.get_window_extent(note, renderer)
