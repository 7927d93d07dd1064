"""The figure of leakage against utility shows every number of its table."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from d3s_utils.probe_figures import METHOD_COLORS, METHOD_MARKERS, draw_leakage_utility


def _table():
    rows = [("none", 0, 0.3, 0.9), ("leace", 9, 0.02, 0.8), ("leace", 3, 0.2, 0.85), ("a new one", 1, 0.1, 0.7)]
    table = pd.DataFrame(rows, columns=["method", "strength", "leakage", "utility"])
    for axis in ("leakage", "utility"):
        table[f"{axis}_low"], table[f"{axis}_high"] = table[axis] - 0.05, table[axis] + 0.04
    return table


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_every_method_is_a_curve_in_the_order_of_its_strength_with_growing_points(ax):
    assert draw_leakage_utility(_table(), ax, title="t") is ax
    lines = {
        line.get_color(): line.get_xydata()
        for line in ax.lines
        if len(line.get_xydata()) and line.get_label()[0] == "_"
    }
    assert np.allclose(lines[METHOD_COLORS["leace"]], [[20, 85], [2, 80]])
    points = [group for group in ax.collections if isinstance(group, PathCollection)]
    leace = next(group for group in points if np.allclose(group.get_offsets()[0], [20, 85]))
    assert leace.get_sizes()[0] < leace.get_sizes()[1]
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["none", "leace", "a new one"]


def test_intervals_are_crosses_of_the_tables_ends(ax):
    draw_leakage_utility(_table()[:1], ax, title="t")
    across, up = (group.get_segments()[0] for group in ax.collections[:2])
    assert np.allclose(across, [[25, 90], [34, 90]])
    assert np.allclose(up, [[30, 85], [30, 94]])


def test_missing_intervals_are_left_out(ax):
    table = _table().assign(leakage_low=np.nan, leakage_high=np.nan)
    draw_leakage_utility(table, ax, title="t", scale=1.0)
    ax.figure.canvas.draw()
    assert ax.get_xlim()[1] < 0.5


def test_methods_differ_in_colour_and_in_marker():
    assert set(METHOD_COLORS) == set(METHOD_MARKERS)
    assert len(set(METHOD_COLORS.values())) == len(set(METHOD_MARKERS.values())) == len(METHOD_COLORS)


def test_bad_tables_are_named(ax):
    with pytest.raises(ValueError, match="table must have the column utility_low"):
        draw_leakage_utility(_table().drop(columns="utility_low"), ax, title="t")
    with pytest.raises(ValueError, match="each strength of a method once"):
        draw_leakage_utility(pd.concat([_table(), _table()]), ax, title="t")
