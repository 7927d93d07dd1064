"""Robustness figures: what the tables say is what is drawn, and names stay readable."""

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Annotation, Text

from d3s_utils.robustness_figures import (
    draw_error_consistency,
    draw_places,
    draw_sorted_drops,
    draw_zoo_scatter,
    group_styles,
)
from d3s_utils.zoo_measures import effective_robustness

GROUPS = {"vgg": "cnn", "resnet": "cnn", "vit": "transformer", "clip": "zero-shot"}
PAIRS = {"vgg": (0.6, 0.3), "resnet": (0.75, 0.5), "vit": (0.85, 0.6), "clip": (0.7, 0.65)}


@pytest.fixture
def ax():
    figure, ax = plt.subplots(figsize=(7, 7))
    yield ax
    plt.close(figure)


def accuracies(pairs):
    return pd.DataFrame(
        [{"model": model, "measure": "top1", "kind": kind, "value": value, "low": value - 0.04, "high": value + 0.02,
          "n": 400, "foregrounds": 400}
         for model, pair in pairs.items() for kind, value in zip(("original", "shifted"), pair, strict=True)]
    )  # fmt: skip


def text_box(note):
    return Text.get_window_extent(note)


def test_styles_are_different_and_do_not_hang_on_what_is_drawn():
    styles = group_styles({str(i): f"group{i}" for i in range(42)})
    assert len(set(styles.values())) == 42
    assert list(group_styles(GROUPS)) == ["cnn", "transformer", "zero-shot"]


def test_the_scatter_holds_each_model_in_its_groups_style_with_intervals(ax):
    draw_zoo_scatter(accuracies(PAIRS), ax, GROUPS, title="clip stands out")
    dots = {dots.get_label(): dots for dots in ax.collections if dots.get_label() in GROUPS.values()}
    assert dots["cnn"].get_offsets().tolist() == [pytest.approx([60, 30]), pytest.approx([75, 50])]
    assert dots["zero-shot"].get_offsets().tolist() == [pytest.approx([70, 65])]
    for group, (color, _) in group_styles(GROUPS).items():
        assert to_hex(dots[group].get_facecolor()[0]) == color
    bars = [s for c in ax.collections if hasattr(c, "get_segments") for s in c.get_segments()]
    assert any(np.allclose(bar, [[66, 65], [72, 65]]) for bar in bars)
    assert any(np.allclose(bar, [[70, 61], [70, 67]]) for bar in bars)
    labels = [line.get_label() for line in ax.lines]
    assert "no drop" in labels
    assert "fitted to logits" not in labels
    assert ax.get_xlim() == ax.get_ylim()


def test_the_fitted_line_goes_through_the_predictions(ax):
    robustness = effective_robustness(accuracies(PAIRS))
    draw_zoo_scatter(accuracies(PAIRS), ax, GROUPS, robustness=robustness, title="")
    (line,) = [line for line in ax.lines if line.get_label() == "fitted to logits"]
    drawn = np.interp(robustness["original"] * 100, *line.get_data())
    assert drawn == pytest.approx(robustness["predicted"].to_numpy() * 100, abs=0.1)
    other = ax.figure.add_subplot()
    two = effective_robustness(accuracies({"vgg": (0.6, 0.3), "vit": (0.8, 0.5)}))
    draw_zoo_scatter(accuracies(PAIRS), other, GROUPS, robustness=two, title="")
    assert len(other.lines) == len(ax.lines) - 1


@pytest.mark.parametrize("seed", range(4))
def test_names_of_twelve_models_cover_neither_each_other_nor_dots(ax, seed):
    rng = np.random.default_rng(seed)
    pairs = {f"some_model_of_{i:02d}": tuple(rng.uniform(0.6, 0.8, 2)) for i in range(12)}
    draw_zoo_scatter(accuracies(pairs), ax, dict.fromkeys(pairs, "all"), title="many")
    ax.figure.canvas.draw()
    notes = [text for text in ax.texts if isinstance(text, Annotation)]
    assert sorted(note.get_text() for note in notes) == sorted(pairs)
    assert not [(a, b) for a, b in combinations(notes, 2) if text_box(a).overlaps(text_box(b))]
    dots = ax.transData.transform(np.array(list(pairs.values())) * 100)
    assert not any(text_box(note).contains(*dot) for note in notes for dot in dots)
    assert not any(text_box(note).overlaps(ax.get_legend().get_window_extent()) for note in notes)


def test_more_models_than_have_room_are_not_named(ax):
    pairs = {f"m{i}": (0.5 + i / 100, 0.4) for i in range(13)}
    draw_zoo_scatter(accuracies(pairs), ax, dict.fromkeys(pairs, "all"), title="")
    assert not ax.texts


def drops():
    return pd.DataFrame(
        {"model": ["vit", "clip", "vgg"], "drop": [0.2, 0.01, 0.3], "drop_low": [0.1, -0.02, 0.2],
         "drop_high": [0.3, 0.04, 0.4], "p_holm": [0.01, 0.6, 0.049]}
    )  # fmt: skip


def test_drops_are_sorted_and_those_beyond_chance_are_filled(ax):
    assert draw_sorted_drops(drops(), ax, groups=GROUPS, title="all but clip") is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == ["clip", "vit", "vgg"]
    dots = [dots for dots in ax.collections if len(dots.get_offsets())][:3]
    assert [dot.get_offsets()[0].tolist() for dot in dots] == [pytest.approx(p) for p in ([1, 0], [20, 1], [30, 2])]
    colors = [to_hex(dot.get_facecolor()[0]) for dot in dots]
    styles = group_styles(GROUPS)
    assert colors == ["#ffffff", styles["transformer"][0], styles["cnn"][0]]
    assert list(ax.lines[0].get_xdata()) == pytest.approx([-2, 4])
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["cnn", "transformer", "zero-shot", "beyond chance (Holm p < 0.05)", "may be chance"]


def test_drops_without_groups_have_one_colour(ax):
    draw_sorted_drops(drops(), ax, title="")
    assert len({to_hex(dots.get_edgecolor()[0]) for dots in ax.collections[:3]}) == 1
    assert len(ax.get_legend().get_texts()) == 2


def consistency(kappas):
    models = sorted({model for pair in kappas for model in pair})
    rows = [{"model_1": a, "model_2": b, "kappa": kappas[a, b]} for a, b in combinations(models, 2)]
    return pd.DataFrame(rows)


def test_like_models_stand_side_by_side(ax):
    kappas = {("a", "b"): 0.1, ("a", "c"): 0.9, ("a", "d"): 0.2, ("b", "c"): 0.1, ("b", "d"): 0.8, ("c", "d"): 0.15}
    draw_error_consistency(consistency(kappas), ax, title="two camps")
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert {frozenset(names[:2]), frozenset(names[2:])} == {frozenset("ac"), frozenset("bd")}
    assert names == [label.get_text() for label in ax.get_yticklabels()]
    written = {tuple(text.get_position()): text.get_text() for text in ax.texts}
    for (x, y), text in written.items():
        assert text == f"{kappas[tuple(sorted((names[x], names[y])))]:.2f}"
    assert len(written) == 12
    assert len(ax.figure.axes) == 3, "matrix, colour bar, dendrogram"
    assert ax.figure.axes[-1].get_title() == "two camps"


def test_two_models_have_no_dendrogram_and_undefined_kappa_stays_blank(ax):
    draw_error_consistency(consistency({("a", "b"): -0.25}), ax, title="they differ")
    assert len(ax.figure.axes) == 2
    assert ax.get_title() == "they differ"
    assert ax.images[0].get_clim() == (-0.25, 1)
    other = ax.figure.add_subplot()
    draw_error_consistency(consistency({("a", "b"): np.nan, ("a", "c"): 0.5, ("b", "c"): 0.1}), other, title="")
    assert len(other.texts) == 4
    assert other.images[0].get_array().mask.sum() == 5


def places():
    grid = [(row, column) for row in ("top", "middle", "bottom") for column in ("left", "middle", "right")]
    values = [i / 10 for i in range(8)] + [np.nan]
    return pd.DataFrame(grid, columns=["row", "column"]).assign(
        value=values, low=np.array(values) - 0.05, high=np.array(values) + 0.05, n=[10] * 8 + [0]
    )


def test_places_are_drawn_where_they_are(ax):
    draw_places(places().sample(frac=1, random_state=0), ax, title="")
    written = {tuple(text.get_position()): text.get_text() for text in ax.texts}
    assert written[0, 1].startswith("30 %")
    assert written[1, 0] == "10 %\n5 to 15\nn = 10"
    assert written[2, 2] == "no picture"
    assert ax.images[0].get_array()[1, 2] == pytest.approx(50)
    assert ax.yaxis_inverted()


def test_bad_tables_are_named(ax):
    for call, message in [
        (lambda: draw_zoo_scatter(accuracies(PAIRS), ax, {"vgg": "cnn"}, title=""), "groups name"),
        (lambda: draw_zoo_scatter(accuracies(PAIRS), ax, GROUPS, measure="in9", title=""), "got none"),
        (lambda: draw_sorted_drops(drops(), ax, groups={"vit": "x"}, title=""), "group of each model"),
        (lambda: draw_error_consistency(consistency({("a", "b"): 0.1}).head(0), ax, title=""), "at least one pair"),
        (lambda: draw_places(places().head(8), ax, title=""), "nine places"),
        (lambda: draw_places(pd.concat([places().head(8), places().head(1)]), ax, title=""), "nine places"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
