"""Pictures of what a background costs: a table and an `Axes` go in, the `Axes` comes back."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from d3s_utils.accuracy_figures import MODEL_COLORS

EFFECT_COLORS = {  # effect -> colour, from Paul Tol's "bright" scheme; background effects alike
    "": "0.7", "size_effect": MODEL_COLORS[4], "repaint_effect": MODEL_COLORS[3], "repaint_effect_own": MODEL_COLORS[3],
    "background_effect": MODEL_COLORS[1], "background_effect_plain": MODEL_COLORS[1], "interaction": "0.5",
}  # fmt: skip
_NAMES = {
    "size_effect": "smaller, moved", "repaint_effect_own": "repainted, own ground",
    "repaint_effect": "repainted, on the background", "background_effect_plain": "background, pasted",
    "background_effect": "background, repainted", "interaction": "pasted minus repainted",
}  # fmt: skip


def draw_waterfall(steps: pd.DataFrame, ax: Axes, *, title: str, label: str = "top-1 accuracy (%)") -> Axes:
    """Draw how accuracy falls step by step from a photo to the image made of it; whiskers are each step's interval.

    Args:
        steps: From `background_contrasts.waterfall_steps`.
        label: The vertical axis, with its unit.
    """
    for place, row in enumerate(steps.itertuples()):
        bottom, top = (0.0, row.after) if not row.effect else sorted((row.before, row.after))
        ax.bar(place, 100 * (top - bottom), bottom=100 * bottom, width=0.6, color=EFFECT_COLORS[row.effect])
        if np.isfinite(row.low):
            ax.plot([place, place], [100 * row.low, 100 * row.high], color="0.15", linewidth=1.2)
        said = f"{100 * row.after:.0f}" if not row.effect else f"{100 * (row.after - row.before):+z.1f}"
        ax.annotate(said, (place, 100 * np.nanmax([top, row.high])), (0, 3), textcoords="offset points", ha="center")
        if row.effect:
            ax.plot([place - 0.7, place - 0.3], [100 * row.before] * 2, color="0.4", linewidth=0.8, linestyle=":")
    names = [row.step.replace(", ", ",\n") or row.kind for row in steps.itertuples()]
    ax.set_xticks(range(len(steps)), names)
    ax.set(ylim=(0, max(100, ax.get_ylim()[1])), ylabel=label)
    ax.set_title(title)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def draw_effects(
    contrasts: pd.DataFrame,
    ax: Axes,
    *,
    measure: str = "top1",
    title: str,
    label: str = "points of top-1 that it costs",
) -> Axes:
    """Draw what each change costs each model, with intervals: a line an effect, a dot a model.

    Args:
        contrasts: From `background_contrasts.background_contrasts`.
        label: The horizontal axis, with its unit.
    """
    rows = contrasts[(contrasts["measure"] == measure) & contrasts["effect"].isin(_NAMES)]
    effects, models = [name for name in _NAMES if name in set(rows["effect"])], list(rows["model"].unique())
    room = 0.7 / max(1, len(models))
    for number, model in enumerate(models):
        mine = rows[rows["model"] == model].set_index("effect").reindex(effects)
        places = np.arange(len(effects)) + (number - (len(models) - 1) / 2) * room
        bars = 100 * np.abs(mine[["low", "high"]].to_numpy().T - mine["value"].to_numpy())
        ax.errorbar(100 * mine["value"], places, xerr=bars, fmt="o", markersize=4, capsize=2, linewidth=1,
                    color=MODEL_COLORS[number % len(MODEL_COLORS)], label=model)  # fmt: skip
    ax.axvline(0, color="0.35", linestyle="--", linewidth=1, zorder=0)
    ax.set_yticks(range(len(effects)), [_NAMES[name] for name in effects])
    ax.set(ylim=(len(effects) - 0.5, -0.5), xlabel=label)
    ax.set_title(title)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    ax.legend(frameon=False, fontsize=8)
    return ax
