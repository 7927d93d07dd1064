"""Pictures of learned features: training curves, cross-probes with chance lines, and scatters coloured by label."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.manifold import TSNE

METHOD_COLORS = {  # Paul Tol's "vibrant" scheme, and two of his "muted" one
    "none": "#ee7733", "wasserstein": "#0077bb", "adversarial": "#cc3311", "mine": "#33bbee", "club": "#ee3377",
    "hsic": "#009988", "distance_covariance": "#117733", "inlp": "#999933", "leace": "#332288", "published": "0.2",
}  # fmt: skip
METHOD_MARKERS = {  # so that nobody needs the colours
    "none": "*", "wasserstein": "o", "adversarial": "s", "mine": "^", "club": "D",
    "hsic": "v", "distance_covariance": "<", "inlp": "P", "leace": "X", "published": "h",
}  # fmt: skip
_OTHER_METHOD = "#bbbbbb"
_GREY = "0.4"


def draw_training_curve(history: pd.DataFrame, ax: Axes, *, column: str, title: str, label: str) -> Axes:
    """Draw one column of training histories against the step: the seeds' mean as a line, their range as a band.

    Args:
        history: Has the columns method, seed, step and `column`.
        label: The vertical axis, with its unit.
    """
    for method, part in history.groupby("method", sort=False):
        by_step = part.groupby("step")[column].agg(["mean", "min", "max"])
        color = METHOD_COLORS.get(method, _OTHER_METHOD)
        ax.fill_between(by_step.index, by_step["min"], by_step["max"], color=color, alpha=0.2, linewidth=0)
        ax.plot(by_step.index, by_step["mean"], color=color, label=method)
    ax.set(xlabel="training step", ylabel=label)
    ax.set_title(title, fontsize=10)
    ax.grid(color="0.92")
    return ax


def draw_probe_matrix(probes: pd.DataFrame, ax: Axes, *, title: str) -> Axes:
    """Draw cross-probes as a matrix: a row for the features that are read, a column for the label that is asked for.

    Args:
        probes: One row for each combination, with the columns features, label, value, chance, and low and high
            (NaN where no interval is known); shares in [0, 1].

    Raises:
        ValueError: If a combination occurs twice.
    """
    if probes.duplicated(["features", "label"]).any():
        raise ValueError("probes must hold each combination of features and label once, got one twice")
    names = list(dict.fromkeys(probes["features"]))
    cells = probes.set_index(["features", "label"])
    values = np.array([[100 * cells.loc[(row, column), "value"] for column in names] for row in names])
    words = np.array([[_words(cells.loc[(row, column)]) for column in names] for row in names])
    sns.heatmap(
        values, ax=ax, vmin=0, vmax=100, cmap="cividis", annot=words, fmt="", annot_kws={"fontsize": 10}, cbar=False,
        linewidths=1, xticklabels=names, yticklabels=names, square=True,
    )  # fmt: skip
    ax.set(xlabel="label that is read", ylabel="features it is read from")
    ax.tick_params(axis="y", rotation=90)
    ax.set_title(title, fontsize=11)
    return ax


def draw_probe_intervals(probes: pd.DataFrame, ax: Axes, *, title: str, kind: str = "linear") -> Axes:
    """Draw cross-probes as dots with their intervals, a line for each probe, with its chance level as a dashed stroke.

    Args:
        probes: Has the columns method, probe, value, low, high and chance; low and high may be NaN.
        kind: Of the probes, for the axis.
    """
    names, methods = list(dict.fromkeys(probes["probe"])), list(dict.fromkeys(probes["method"]))
    for offset, method in zip(np.linspace(-0.22, 0.22, len(methods)), methods, strict=True):
        rows = probes[probes["method"] == method].set_index("probe").reindex(names)
        places = np.arange(len(names)) + offset
        color = METHOD_COLORS.get(method, _OTHER_METHOD)
        ax.hlines(places, 100 * rows["low"], 100 * rows["high"], color=color, linewidth=2)
        ax.scatter(100 * rows["value"], places, s=45, color=color, label=method, zorder=3)
        ax.vlines(100 * rows["chance"], places - 0.1, places + 0.1, color=_GREY, linestyle=(0, (2, 1)), linewidth=1.5)
    ax.plot([], [], color=_GREY, linestyle=(0, (2, 1)), label="chance")
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel=f"accuracy of {kind} probes on held-out images (%), 95 % interval")
    ax.set_title(title, fontsize=11)
    ax.grid(axis="x", color="0.92")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return ax


def draw_leakage_utility(
    table: pd.DataFrame,
    ax: Axes,
    *,
    title: str,
    leakage_label: str = "other label read, above a blind answer (points)",
    utility_label: str = "own label read (%)",
    scale: float = 100.0,
) -> Axes:
    """Draw utility against leakage: every method a curve over its strength, from its weakest (small) to its strongest.

    Up and to the left is better: the own label kept, the other one gone. Intervals are light crosses.

    Args:
        table: A row for each method and strength, with the columns method, strength (a number that orders the
            method's points), leakage, leakage_low, leakage_high, utility, utility_low, utility_high; interval ends
            may be NaN.
        leakage_label, utility_label: The axes, with their units.
        scale: What the columns' numbers are multiplied by: 100 turns shares into points.

    Raises:
        ValueError: If a column is missing, or a method has one strength twice.
    """
    axes = ("leakage", "utility")
    needed = ["method", "strength", *(f"{axis}{end}" for axis in axes for end in ("", "_low", "_high"))]
    missing = [name for name in needed if name not in table]
    if missing:
        raise ValueError(f"table must have the column {missing[0]}, got {', '.join(map(str, table.columns))}")
    if table.duplicated(["method", "strength"]).any():
        raise ValueError("table must hold each strength of a method once, got one twice")
    for method, rows in table.groupby("method", sort=False):
        rows = rows.sort_values("strength")
        x, y = (scale * rows[axis].to_numpy() for axis in axes)
        ends = {axis: scale * rows[[f"{axis}_low", f"{axis}_high"]].to_numpy().T for axis in axes}
        color, marker = METHOD_COLORS.get(method, _OTHER_METHOD), METHOD_MARKERS.get(method, ".")
        ax.hlines(y, *ends["leakage"], color=color, alpha=0.25, linewidth=1.2)
        ax.vlines(x, *ends["utility"], color=color, alpha=0.25, linewidth=1.2)
        ax.plot(x, y, color=color, linewidth=1.2, zorder=2)
        sizes = np.linspace(20, 75, len(rows)) if len(rows) > 1 else [130]
        ax.scatter(x, y, s=sizes, color=color, marker=marker, edgecolors="white", linewidths=0.6, zorder=3)
        size = 8 if len(rows) > 1 else 9
        ax.plot([], [], color=color, marker=marker, markersize=size, markeredgecolor="white", label=method)
    ax.axvline(0, color=_GREY, linestyle=(0, (2, 1)), linewidth=1)
    ax.set(xlabel=leakage_label, ylabel=utility_label)
    ax.set_title(title, fontsize=11)
    ax.grid(color="0.92")
    ax.legend(
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        title="method\n(larger: stronger)",
        title_fontsize=9,
    )
    return ax


def discriminant_map(
    train_features: np.ndarray, train_labels: Sequence[str], features: np.ndarray, *, seed: int
) -> np.ndarray:
    """Return where pictures lie on a map of all that separates the labels of the training pictures linearly.

    The features are reduced to the linear discriminants, one fewer than there are labels, and those are laid out in a
    plane by t-SNE, which keeps neighbours together; distances and axes mean nothing.

    Args:
        train_features, features: Shape (n, width) and (m, width), m of at least 2.
        seed: Of t-SNE.

    Returns:
        Shape (m, 2).
    """
    discriminants = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1).fit(train_features, train_labels)
    places = discriminants.transform(features)
    perplexity = min(30.0, (len(places) - 1) / 3)
    return TSNE(perplexity=perplexity, init="random", random_state=seed % 2**32).fit_transform(places)


def draw_scatter(
    places: np.ndarray, labels: Sequence[str], ax: Axes, *, title: str, colors: Mapping[str, str] | None = None
) -> Axes:
    """Draw pictures as points of a plane, coloured by label.

    Args:
        places: Shape (n, 2), in units that mean nothing.
        labels: Of the n pictures.
        colors: By label; a colour-blind-safe palette where None.
    """
    labels = np.asarray(labels)
    names = list(dict.fromkeys(sorted(labels)))
    colors = colors or dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    names = [name for name in colors if name in set(names)]
    size = np.clip(2500 / len(places), 9, 40)  # square points
    for name in names:
        chosen = labels == name
        ax.scatter(*places[chosen].T, s=size, color=colors[name], label=name, linewidths=0)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)
    return ax


def _words(cell: pd.Series) -> str:
    interval = "" if np.isnan(cell["low"]) else f"\n[{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"
    return f"{100 * cell['value']:.1f} %{interval}\nchance {100 * cell['chance']:.1f}"
