"""Pictures of the spurious task: accuracy over correlation strength, and the worst group by method and features."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from d3s_utils.accuracy_figures import MODEL_COLORS

MARKERS = ("o", "s", "^", "D", "v", "P")
METHOD_NAMES = {
    "erm": "ERM", "group_balanced": "group balancing", "group_dro": "GroupDRO", "jtt": "JTT", "dfr": "DFR",
}  # fmt: skip
_GREY = "0.35"


def draw_robustness_curve(
    table: pd.DataFrame,
    ax: Axes,
    *,
    title: str,
    lines: Sequence[str] = ("features", "method"),
    measures: Sequence[str] = ("matching", "non_matching"),
    chance: float | None = None,
) -> Axes:
    """Draw accuracy on matching and on non-matching pairs over the correlation of the training sets.

    Each line has a colour and a marker of its own; pairs of the first of `measures` are dashed and hollow, those of
    the second solid and full. Lines of one correlation stand a little apart, so that no interval hides another.

    Args:
        table: Has the columns `lines`, correlation (in [0, 1]), measure, value, low, high (shares); one row each.
        title: What is to be seen.
        lines: The columns that make a line; at most six lines.
        measures: One or two values of the column measure.
        chance: Share that guessing would get, drawn as a dotted line; None draws none.

    Raises:
        ValueError: If a column is missing, there is nothing to draw, a point comes twice, or there are more lines than
            colours or measures than two.
    """
    _require(table, [*lines, "correlation", "measure", "value", "low", "high"])
    if not 1 <= len(measures) <= 2:
        raise ValueError(f"measures must be one or two, got {list(measures)}")
    shown = table[table["measure"].isin(list(measures))]
    if shown.empty or shown.duplicated([*lines, "correlation", "measure"]).any():
        raise ValueError(f"table must hold each point of {', '.join(measures)} once, got none or one twice")
    names = _names(shown, lines, len(MODEL_COLORS))
    levels = np.sort(shown["correlation"].unique())
    apart = np.diff(levels).min() if len(levels) > 1 else 0.1
    offsets = np.linspace(-0.15, 0.15, len(names)) * apart * (len(names) > 1)
    handles = []
    for name, color, marker, offset in zip(names, MODEL_COLORS, MARKERS, offsets, strict=False):
        rows = shown[(shown[list(lines)] == list(name)).all(axis=1)]
        for measure, dashes, face in zip(measures[::-1], ("-", (0, (4, 2))), (color, "white"), strict=False):
            part = rows[rows["measure"] == measure].sort_values("correlation")
            bars = (part[["value", "value"]].to_numpy() - part[["low", "high"]].to_numpy()) * (100, -100)
            ax.errorbar(
                part["correlation"] + offset, part["value"] * 100, yerr=bars.T.clip(0), color=color, linestyle=dashes,
                marker=marker, markersize=6, markerfacecolor=face, elinewidth=1, linewidth=1.6,
            )  # fmt: skip
        handles.append(Line2D([], [], color=color, marker=marker, label=", ".join(map(_words, name))))
    if len(measures) == 2:
        for measure, dashes, face in zip(measures, ((0, (4, 2)), "-"), ("white", _GREY), strict=True):
            handles.append(
                Line2D([], [], color=_GREY, linestyle=dashes, marker="o", markerfacecolor=face, label=_words(measure))
            )
    if chance is not None:
        ax.axhline(chance * 100, color=_GREY, linestyle=":", linewidth=1)
        handles.append(Line2D([], [], color=_GREY, linestyle=":", linewidth=1, label="chance"))
    ax.set_xticks(levels, [f"{level:.2g}" for level in levels])
    ax.set(
        xlim=(levels[0] - apart / 2, levels[-1] + apart / 2),
        ylim=(-2, 102),
        xlabel="share of a class's training pictures that show its tied background",
        ylabel="accuracy on test pairs (%), 95 % interval" if len(measures) == 2 else f"{_words(measures[0])} (%)",
    )
    ax.set_title(title)
    ax.grid(axis="y", color="0.92")
    ax.legend(handles=handles, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def draw_worst_groups(
    table: pd.DataFrame,
    ax: Axes,
    *,
    title: str,
    rows: str = "method",
    colors: str = "features",
    measure: str = "worst_group",
    chance: float | None = None,
) -> Axes:
    """Draw one measure as dots with intervals, a line of the figure for each method, a colour for each set of features.

    Args:
        table: Has the columns `rows`, `colors`, measure, value, low, high (shares); NaN values are left out.
        title: What is to be seen.
        rows: The column that makes the lines of the figure, in the order of the table.
        colors: The column that makes colours and markers; at most six.
        measure: The value of the column measure that is drawn.
        chance: Share that guessing would get, drawn as a dotted line; None draws none.

    Raises:
        ValueError: If a column is missing, there is nothing to draw, a dot comes twice, or colours do not suffice.
    """
    _require(table, [rows, colors, "measure", "value", "low", "high"])
    shown = table[table["measure"] == measure]
    if shown["value"].isna().all() or shown.duplicated([rows, colors]).any():
        raise ValueError(f"table must hold each dot of {measure} once, got none or one twice")
    names, lines = _names(shown, [colors], len(MODEL_COLORS)), list(dict.fromkeys(shown[rows]))
    spread = np.linspace(-0.28, 0.28, len(names)) if len(names) > 1 else [0.0]
    for (name,), color, marker, offset in zip(names, MODEL_COLORS, MARKERS, spread, strict=False):
        part = shown[shown[colors] == name].dropna(subset="value")
        places = np.array([lines.index(each) for each in part[rows]]) + offset
        ax.hlines(places, part["low"] * 100, part["high"] * 100, color=color, linewidth=1.6)
        ax.scatter(part["value"] * 100, places, s=42, color=color, marker=marker, label=str(name), zorder=3)
    for place in range(1, len(lines)):
        ax.axhline(place - 0.5, color="0.9", linewidth=0.8)
    if chance is not None:
        ax.axvline(chance * 100, color=_GREY, linestyle=":", linewidth=1, label="chance", zorder=0)
    ax.set_yticks(range(len(lines)), [_words(line) for line in lines])
    ax.set(xlim=(-2, 102), ylim=(len(lines) - 0.5, -0.5), xlabel=f"{_words(measure)} accuracy (%), 95 % interval")
    ax.set_title(title)
    ax.grid(axis="x", color="0.92")
    ax.legend(title=colors, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def _names(table: pd.DataFrame, columns: Sequence[str], most: int) -> list[tuple]:
    names = list(dict.fromkeys(table[list(columns)].itertuples(index=False, name=None)))
    if len(names) > most:
        raise ValueError(f"table must hold at most {most} values of {' × '.join(columns)}, got {len(names)}")
    return names


def _words(name: str) -> str:
    return METHOD_NAMES.get(name) or str(name).replace("non_matching", "non-matching").replace("_", " ")


def _require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"table must have the columns {', '.join(columns)}; it lacks {', '.join(missing)}")
