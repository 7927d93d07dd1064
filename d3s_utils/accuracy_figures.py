"""Pictures of accuracy tables: a table and an `Axes` go in, the `Axes` comes back."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from d3s_utils.figures import BACKGROUND_COLORS

MODEL_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")  # Paul Tol's "bright" scheme
_GREY = "0.35"


def draw_heat_map(
    cells: pd.DataFrame, ax: Axes, *, rows: str, columns: str, title: str, label: str = "share of pictures (%)"
) -> Axes:
    """Draw `value` (a share in [0, 1]) of a tidy table as a heat map with the percentage in each cell.

    Args:
        cells: Has the columns `rows`, `columns` and `value`; one row a cell. A cell without a row stays blank.
        label: What the colour means, with its unit.

    Raises:
        ValueError: If the table is empty or a cell occurs twice.
    """
    if cells.empty or cells.duplicated([rows, columns]).any():
        raise ValueError(f"cells must hold each {rows} × {columns} once, got {len(cells)} rows with repeats or none")
    wide = cells.pivot(index=rows, columns=columns, values="value") * 100
    wide = wide.reindex(index=_in_order(cells[rows]), columns=_in_order(cells[columns]))
    sns.heatmap(
        wide, ax=ax, vmin=0, vmax=100, cmap="cividis", annot=True, fmt=".0f", linewidths=0.5,
        annot_kws={"fontsize": 9}, cbar_kws={"label": label},
    )  # fmt: skip
    ax.set(xlabel=columns.replace("_", " "), ylabel=rows.replace("_name", "").replace("_", " "))
    ax.set_title(title)
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=35 if wide.shape[1] > 6 else 0)
    return ax


def draw_shares(table: pd.DataFrame, ax: Axes, *, groups: str, title: str, label: str, chance: float | None) -> Axes:
    """Draw shares with their intervals as dots, one line for each value of `groups`, backgrounds in their colours.

    Args:
        table: Has the columns `groups`, `value`, `low`, `high`.
        label: The horizontal axis, with its unit.
        chance: Share that guessing would get, drawn as a dashed line; None draws none.
    """
    names = _in_order(table[groups])
    for place, name in enumerate(names):
        row = table[table[groups] == name].iloc[0]
        ax.plot([row["low"] * 100, row["high"] * 100], [place, place], color=_GREY, linewidth=1.5, zorder=1)
        ax.scatter(
            row["value"] * 100,
            place,
            s=70,
            color=BACKGROUND_COLORS.get(name, MODEL_COLORS[0]),
            edgecolor=_GREY,
            zorder=2,
        )
    if chance is not None:
        ax.axvline(chance * 100, color=_GREY, linestyle="--", linewidth=1)
        above = ax.get_xaxis_transform()  # percent along the axis, height as a share of the axes
        ax.text(chance * 100, 1.01, "chance", transform=above, fontsize=8, color=_GREY, ha="center", va="bottom")
    ax.set_yticks(range(len(names)), names)
    ax.set(xlim=(-2, 102), ylim=(len(names) - 0.5, -0.5), xlabel=label)
    ax.set_title(title, pad=16 if chance is not None else 6)
    ax.grid(axis="x", color="0.9")
    return ax


def draw_estimates(table: pd.DataFrame, ax: Axes, *, groups: str, title: str, label: str) -> Axes:
    """Draw numbers of any unit with their intervals as dots, one line for each value of `groups`.

    Args:
        table: Has the columns `groups`, `value`, `low`, `high`; each group once.
        label: The horizontal axis, with its unit.
    """
    names = _in_order(table[groups])
    rows = table.set_index(groups).loc[names]
    bars = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
    ax.errorbar(rows["value"], range(len(names)), xerr=bars, fmt="none", ecolor=_GREY, elinewidth=1.5, zorder=1)
    colors = [BACKGROUND_COLORS.get(name, MODEL_COLORS[0]) for name in names]
    ax.scatter(rows["value"], range(len(names)), s=70, c=colors, edgecolor=_GREY, zorder=2)
    ax.set_yticks(range(len(names)), names)
    ax.set(ylim=(len(names) - 0.5, -0.5), xlabel=label)
    ax.set_title(title)
    ax.grid(axis="x", color="0.9")
    return ax


def draw_thresholds(curve: pd.DataFrame, ax: Axes, *, chosen: float, title: str) -> Axes:
    """Draw how many images agree at each threshold (see `validation.acceptance_by_threshold`)."""
    ax.plot(curve["threshold"], curve["value"] * 100, color=MODEL_COLORS[0], label="at least this probable")
    ax.axvline(chosen, color=_GREY, linestyle="--", linewidth=1, label=f"threshold used: {chosen:g}")
    ax.set(xlim=(0, 1), ylim=(0, 100), xlabel="threshold on the label's probability", ylabel="pictures that agree (%)")
    ax.set_title(title)
    ax.legend(frameon=False, fontsize=8)
    return ax


def draw_filter_curve(curve: pd.DataFrame, ax: Axes, *, wanted: float, chosen: float | None, title: str) -> Axes:
    """Draw a filter's precision and recall against people at each threshold (see `calibration.filter_curve`).

    Args:
        wanted: Precision, drawn as a dotted line.
        chosen: Threshold that reaches it, drawn as a dashed line; None draws none.
    """
    for name, color in zip(("precision", "recall"), MODEL_COLORS, strict=False):
        ax.plot(curve["threshold"], curve[name] * 100, color=color, label=name)
        ax.fill_between(curve["threshold"], curve[f"{name}_low"] * 100, curve[f"{name}_high"] * 100, color=color,
                        alpha=0.15, linewidth=0)  # fmt: skip
    ax.axhline(wanted * 100, color=_GREY, linestyle=":", linewidth=1, label=f"precision wanted: {wanted:.0%}")
    if chosen is not None:
        ax.axvline(chosen, color=_GREY, linestyle="--", linewidth=1, label=f"reached from {chosen:.2f} on")
    ax.set(xlim=(0, 1), ylim=(0, 102), xlabel="threshold on the score", ylabel="pictures (%)")
    ax.set_title(title)
    ax.legend(frameon=False, fontsize=8)
    return ax


def draw_calibration(curve: pd.DataFrame, ax: Axes, *, title: str, label: str) -> Axes:
    """Draw how often people accept pictures of like score (see `calibration.calibration_curve`), with intervals.

    Args:
        label: The vertical axis, with its unit.
    """
    bars = [(curve["value"] - curve["low"]) * 100, (curve["high"] - curve["value"]) * 100]
    ax.errorbar(curve["score"], curve["value"] * 100, yerr=bars, fmt="o-", capsize=3, color=MODEL_COLORS[0])
    ax.plot([0, 1], [0, 100], color=_GREY, linestyle="--", linewidth=1, label="as often as the score says")
    ax.set(xlim=(0, 1), ylim=(0, 102), xlabel="score (mean of its bin)", ylabel=label)
    ax.set_title(title)
    ax.legend(frameon=False, fontsize=8)
    return ax


def draw_shift_scatter(accuracy: pd.DataFrame, ax: Axes, *, measure: str, title: str, label: str) -> Axes:
    """Draw each model's accuracy on shifted pictures over that on originals, with intervals, as in the D3S paper.

    Args:
        accuracy: From `evaluation.accuracy_table`.
        measure: The measure to draw.
        label: What the measure is called on the axes.
    """
    table = accuracy[accuracy["measure"] == measure].set_index(["model", "kind"])
    models = list(dict.fromkeys(accuracy["model"]))
    for color, model in zip(_colors(models), models, strict=True):
        x, y = table.loc[(model, "original")], table.loc[(model, "shifted")]
        ax.errorbar(
            x["value"] * 100,
            y["value"] * 100,
            xerr=_bars(x),
            yerr=_bars(y),
            fmt="o",
            color=color,
            capsize=3,
            label=model,
        )
    ends = table[["low", "high"]].to_numpy() * 100
    low, high = max(0, ends.min() - 5), min(100, ends.max() + 5)
    ax.plot([low, high], [low, high], color=_GREY, linestyle="--", linewidth=1, zorder=0)
    place = low + 0.82 * (high - low)
    ax.text(place, place, "no drop", rotation=45, rotation_mode="anchor", fontsize=8, color=_GREY, va="bottom")
    ax.set(xlim=(low, high), ylim=(low, high), xlabel=f"{label} on originals (%)", ylabel=f"{label} on shifted (%)")
    ax.set_aspect("equal")
    ax.set_title(title)
    ax.legend(frameon=False, fontsize=8)
    return ax


def draw_drops(drops: pd.DataFrame, ax: Axes, *, measures: dict[str, str], title: str) -> Axes:
    """Draw each model's drop (original minus shifted, percentage points) with its paired interval.

    Args:
        drops: From `evaluation.drop_table`.
        measures: Measure -> its name in the legend, in the order drawn.
    """
    models = list(dict.fromkeys(drops["model"]))
    spread = 0.5 / max(1, len(measures))
    for number, (measure, name) in enumerate(measures.items()):
        rows = drops[drops["measure"] == measure].set_index("model").reindex(models)
        places = np.arange(len(models)) + (number - (len(measures) - 1) / 2) * spread
        bars = np.abs(rows[["low", "high"]].to_numpy().T - rows["value"].to_numpy()) * 100
        ax.errorbar(rows["value"] * 100, places, xerr=bars, fmt="o", capsize=3, color=MODEL_COLORS[number], label=name)
    ax.axvline(0, color=_GREY, linestyle="--", linewidth=1)
    ax.set_yticks(range(len(models)), models)
    ax.set_ylim(len(models) - 0.5, -0.5)
    ax.set_xlabel("drop: original − shifted (percentage points)")
    ax.set_title(title)
    ax.grid(axis="x", color="0.9")
    ax.legend(frameon=False, fontsize=8, ncols=len(measures), loc="lower center", bbox_to_anchor=(0.5, 1.08))
    return ax


def _in_order(values: pd.Series) -> list:
    """Return the distinct values, backgrounds in the paper's order and others as they come."""
    found = list(dict.fromkeys(values))
    return [name for name in BACKGROUND_COLORS if name in found] if set(found) <= set(BACKGROUND_COLORS) else found


def _colors(names: Sequence[str]) -> list[str]:
    return [MODEL_COLORS[i % len(MODEL_COLORS)] for i in range(len(names))]


def _bars(row: pd.Series) -> np.ndarray:
    return np.array([[row["value"] - row["low"]], [row["high"] - row["value"]]]).clip(0) * 100
