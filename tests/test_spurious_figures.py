"""The spurious task's figures: what is drawn is what the table says."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from d3s_utils.spurious_figures import draw_robustness_curve, draw_worst_groups

TABLE = pd.DataFrame([
    {"features": features, "method": method, "correlation": correlation, "measure": measure,
     "value": value - correlation / 10, "low": value - 0.2, "high": value + 0.05}
    for features, offset in (("all", 0.0), ("foreground", 0.1)) for method in ("erm", "group_dro")
    for correlation in (0.5, 0.75, 1.0)
    for measure, value in (("matching", 0.85 + offset / 2), ("non_matching", 0.6 + offset), ("worst_group", 0.5))
])  # fmt: skip
ERM = TABLE[TABLE["method"] == "erm"]
STRONGEST = TABLE[TABLE["correlation"] == 1]


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_the_curve_goes_through_the_values(ax):
    draw_robustness_curve(ERM, ax, title="It falls", chance=0.1)
    solid = [line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 3]
    expected = ERM[(ERM["features"] == "all") & (ERM["measure"] == "non_matching")]["value"] * 100
    assert np.allclose(solid[0].get_ydata(), expected)
    assert ax.get_title() == "It falls"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["all, ERM", "foreground, ERM", "matching", "non-matching", "chance"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0.5", "0.75", "1"]


def test_worst_groups_stand_in_their_methods_line(ax):
    draw_worst_groups(STRONGEST, ax, title="Even", chance=0.1)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["ERM", "GroupDRO"]
    points = np.concatenate([dots.get_offsets() for dots in ax.collections if len(dots.get_offsets()) == 2])
    assert np.allclose(points[:, 0], 40)
    assert np.round(points[:, 1]).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("draw", "table", "message"),
    [
        (draw_robustness_curve, ERM.drop(columns="low"), "it lacks low"),
        (draw_robustness_curve, pd.concat([ERM, ERM]), "each point of matching, non_matching once"),
        (draw_robustness_curve, ERM[:0], "got none or one twice"),
        (draw_worst_groups, TABLE, "each dot of worst_group once"),
        (draw_worst_groups, STRONGEST.drop(columns="features"), "it lacks features"),
    ],
)
def test_tables_that_cannot_be_drawn_are_refused(ax, draw, table, message):
    with pytest.raises(ValueError, match=message):
        draw(table, ax, title="No")


def test_more_lines_than_colours_are_refused(ax):
    many = pd.concat([ERM.assign(features=f"set {number}") for number in range(7)]).drop_duplicates(
        ["features", "correlation", "measure"]
    )
    with pytest.raises(ValueError, match="at most 6 values of features × method, got 7"):
        draw_robustness_curve(many, ax, title="No")
