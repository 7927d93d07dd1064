"""Figures of dreams: how far they are from their guides, and what a setting does to them."""

from collections.abc import Sequence

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


MEASURES = {  # of `generator_quality.setting_curve` -> how its axis is labelled
    "foreground_agreement": "object found (share)",
    "auxiliary_agreement": "object found by a sister\nof the generator's teacher (share)",
    "background_agreement": "background found (share)",
    "auxiliary_background_agreement": "background found by a head\non a sister's features (share)",
    "kernel_distance": "kernel distance to photos",
    "guide_distance": "distance to the guide\n(grey levels of 255)",
}


def draw_setting_curve(curve: pd.DataFrame, axes: Sequence[Axes], *, chosen: float, wanted: dict[str, float]) -> None:
    """Draw what a setting does to dreams, a panel for each of the `MEASURES`.

    Args:
        curve: Of `generator_quality.setting_curve`, of one setting.
        axes: As many as there are measures.
        chosen: The setting's value in the profile, marked in each panel.
        wanted: Measure -> the value that it should reach, drawn as a line.
    """
    setting = curve["setting"].iloc[0].replace("_", " ")
    for ax, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        rows = curve[curve["measure"] == measure]
        ax.plot(rows["at"], rows["value"], marker="o", color="0.2")
        ax.fill_between(rows["at"], rows["low"], rows["high"], color="0.2", alpha=0.15)
        ax.axvline(chosen, color="#cc6677", linestyle="--", label=f"chosen: {chosen:g}")
        if measure in wanted:
            ax.axhline(wanted[measure], color="#332288", linestyle=":", label=f"wanted: {wanted[measure]:.2f}")
        ax.set(xlabel=setting, ylabel=label, ylim=(0, None))
        ax.legend(frameon=False, fontsize=8)
