"""The figures of notebook 02: how far dreams are from their guides, by background and by strength."""

import pandas as pd
from matplotlib.axes import Axes

from d3s_utils.figures import BACKGROUND_COLORS


def draw_distances(estimates: pd.DataFrame, ax: Axes, *, title: str) -> Axes:
    """Draw a bar with its interval for each background.

    Args:
        estimates: Columns ``background``, ``value``, ``low``, ``high``, in grey levels.
        ax: Where to draw.
        title: What the figure shows.

    Returns:
        `ax`.
    """
    colors = [BACKGROUND_COLORS[background] for background in estimates["background"]]
    errors = [estimates["value"] - estimates["low"], estimates["high"] - estimates["value"]]
    ax.bar(estimates["background"], estimates["value"], yerr=errors, color=colors, edgecolor="0.3", capsize=3)
    ax.set_ylabel("distance to the guide\n(grey levels of 255)")
    ax.set_xlabel("background (whiskers: 95 % interval over foregrounds)")
    ax.set_title(title)
    return ax


def draw_strength(estimates: pd.DataFrame, ax: Axes, *, chosen: float, title: str) -> Axes:
    """Draw the distance to the guide against strength, with the strength that the dataset was made with.

    Args:
        estimates: Columns ``strength``, ``value``, ``low``, ``high``, in grey levels.
        ax: Where to draw.
        chosen: The dataset's strength.
        title: What the figure shows.

    Returns:
        `ax`.
    """
    ax.plot(estimates["strength"], estimates["value"], marker="o", color="0.2")
    ax.fill_between(estimates["strength"], estimates["low"], estimates["high"], color="0.2", alpha=0.15)
    ax.axvline(chosen, color="#cc6677", linestyle="--", label=f"this dataset: {chosen:g}")
    ax.set_xlabel("strength (share of the noise schedule)")
    ax.set_ylabel("distance to the guide\n(grey levels of 255)")
    ax.set_ylim(bottom=0)
    ax.set_title(title)
    ax.legend(frameon=False)
    return ax
