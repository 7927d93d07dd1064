"""Figures of accuracy: what the table says is what is drawn."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from d3s_utils.accuracy_figures import (
    draw_calibration,
    draw_drops,
    draw_estimates,
    draw_filter_curve,
    draw_heat_map,
    draw_shares,
    draw_shift_scatter,
    draw_thresholds,
)
from d3s_utils.taxonomy import BACKGROUNDS


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_a_heat_map_shows_each_cell_in_percent_and_backgrounds_in_order(ax):
    cells = pd.DataFrame(
        {"class_name": "lion", "background": list(reversed(BACKGROUNDS)), "value": [i / 10 for i in range(10)]}
    )
    assert draw_heat_map(cells, ax, rows="class_name", columns="background", title="found") is ax
    assert [label.get_text() for label in ax.get_xticklabels()] == list(BACKGROUNDS)
    assert [text.get_text() for text in ax.texts] == [f"{10 * (9 - i)}" for i in range(10)]


def test_a_heat_map_refuses_repeated_or_no_cells(ax):
    cells = pd.DataFrame({"class_name": ["a", "a"], "background": ["snow", "snow"], "value": [0.1, 0.2]})
    for table in (cells, cells.head(0)):
        with pytest.raises(ValueError, match="cells must hold"):
            draw_heat_map(table, ax, rows="class_name", columns="background", title="")


def test_the_scatter_holds_a_dot_a_model_with_its_intervals(ax):
    accuracy = pd.DataFrame(
        [
            {"model": model, "measure": "top1", "kind": kind, "value": value, "low": value - 0.1, "high": value + 0.05}
            for model, original, shifted in (("one", 0.8, 0.6), ("two", 0.7, 0.3))
            for kind, value in (("original", original), ("shifted", shifted))
        ]
    )
    draw_shift_scatter(accuracy, ax, measure="top1", title="all lose", label="top-1 accuracy")
    places = [container.lines[0].get_xydata()[0].tolist() for container in ax.containers]
    assert places == [pytest.approx([80, 60]), pytest.approx([70, 30])]
    assert ax.get_xlim() == ax.get_ylim()


def test_drops_and_shares_and_thresholds_are_labelled(ax):
    rows = [{"model": m, "measure": "top1", "value": 0.1, "low": -0.1, "high": 0.2} for m in ("one", "two")]
    draw_drops(pd.DataFrame(rows), ax, measures={"top1": "top-1"}, title="one drop")
    assert "percentage points" in ax.get_xlabel()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
    ax.clear()
    shares = pd.DataFrame({"background": ["cave", "snow"], "value": [0.2, 0.5], "low": [0.1, 0.4], "high": [0.3, 0.6]})
    draw_shares(shares, ax, groups="background", title="found", label="pictures (%)", chance=0.1)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["snow", "cave"]
    ax.clear()
    curve = pd.DataFrame({"threshold": [0.0, 1.0], "value": [1.0, 0.0]})
    draw_thresholds(curve, ax, chosen=0.5, title="falls")
    assert len(ax.get_legend().get_texts()) == 2


def test_estimates_keep_their_unit_and_their_intervals(ax):
    table = pd.DataFrame({"group": ["snow", "all"], "value": [0.4, -0.1], "low": [0.3, -0.2], "high": [0.6, 0.0]})
    draw_estimates(table, ax, groups="group", title="far", label="kernel distance")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["snow", "all"]
    assert [tuple(offset) for offset in ax.collections[-1].get_offsets()] == [(0.4, 0), (-0.1, 1)]
    (segments,) = (c.get_segments() for c in ax.collections if hasattr(c, "get_segments"))
    assert [sorted(s[:, 0].round(6).tolist()) for s in segments] == [[0.3, 0.6], [-0.2, 0.0]]


def test_a_filters_curve_shows_both_sides_and_the_chosen_threshold(ax):
    curve = pd.DataFrame({"threshold": [0.0, 1.0], "precision": [0.5, 1.0], "recall": [1.0, 0.2]})
    curve = curve.assign(**{f"{n}_{e}": curve[n] for n in ("precision", "recall") for e in ("low", "high")})
    draw_filter_curve(curve, ax, wanted=0.9, chosen=0.7, title="")
    labels = [line.get_label() for line in ax.lines]
    assert labels == ["precision", "recall", "precision wanted: 90%", "reached from 0.70 on"]
    assert ax.lines[0].get_ydata().tolist() == [50, 100]
    draw_filter_curve(curve, ax.figure.add_subplot(), wanted=0.9, chosen=None, title="")
    assert len(ax.figure.axes[-1].lines) == 3


def test_calibration_is_drawn_in_percent(ax):
    curve = pd.DataFrame({"score": [0.2, 0.9], "value": [0.1, 0.6], "low": [0.0, 0.5], "high": [0.2, 0.7]})
    draw_calibration(curve, ax, title="boastful", label="accepted (%)")
    assert ax.lines[0].get_xdata().tolist() == [0.2, 0.9]
    assert ax.lines[0].get_ydata().tolist() == [10, 60]
