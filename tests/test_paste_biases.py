"""Biases of place and size: by hand, against their definitions, and silent where nothing can be measured."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from d3s_utils.intervals import ratio_of_means
from d3s_utils.paste_biases import (
    accuracy_by_place,
    accuracy_by_size,
    center_bias,
    foreground_focus,
    picture_focus,
    size_bias,
)
from d3s_utils.placing import place_shares


def placed(right_of_cell, *, model="model"):
    """Return one shifted picture for each outcome: a list of outcomes for each of nine places, row by row."""
    rows = []
    for cell, outcomes in enumerate(right_of_cell):
        for number, right in enumerate(outcomes):
            rows.append(
                {"model": model, "picture_id": f"{cell}-{number}", "foreground_id": f"f{number}", "kind": "shifted",
                 "class_name": "lion", "background": "snow", "top1": float(right),
                 "left_share": (cell % 3 + 0.5) / 3, "top_share": (cell // 3 + 0.5) / 3}
            )  # fmt: skip
    return pd.DataFrame(rows)


NINE = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [1] * 4,
        [1] * 4]  # fmt: skip


def test_accuracy_by_place_by_hand():
    table = accuracy_by_place(placed(NINE)).set_index(["row", "column"])
    assert table.loc[("top", "left"), "value"] == 0.75
    assert table.loc[("bottom", "left"), "value"] == 0.25
    assert table.loc[("middle", "right"), "value"] == 0.75
    low, high = proportion_confint(1, 4, method="wilson")
    assert table.loc[("bottom", "left"), ["low", "high"]].tolist() == pytest.approx([low, high], abs=0.06)
    assert (table["n"] == 4).all()


def test_center_bias_follows_its_definition():
    row = center_bias(placed(NINE), seed=0, samples=300).iloc[0]
    assert (row["center"], row["corner"], row["side"]) == (1, 0.25, 0.5)
    assert row["value"] == pytest.approx(1 - (0.25 + 0.5) / 2)
    assert row["low"] < row["value"] <= row["high"]
    assert (row["n"], row["smallest"], row["reason"]) == (36, 4, "")
    mixed = placed(NINE).sample(frac=1, random_state=0)
    pd.testing.assert_series_equal(center_bias(mixed, seed=0, samples=300).iloc[0], row)


def test_turning_the_grid_leaves_center_bias_as_it_is_and_swapping_center_and_corner_does_not():
    turned = placed(np.array(NINE, dtype=object).reshape(3, 3, 4).transpose(1, 0, 2)[::-1].reshape(9, 4))
    assert center_bias(turned, seed=0, samples=5)["value"][0] == pytest.approx(0.625)
    swapped = [NINE[6], *NINE[1:4], NINE[6], NINE[5], NINE[4], *NINE[7:]]
    assert center_bias(placed(swapped), seed=0, samples=5)["value"][0] < 0


def test_center_bias_of_even_accuracy_is_near_0_and_its_interval_holds_it():
    rng, covered = np.random.default_rng(0), []
    for _ in range(40):
        row = center_bias(placed(rng.random((9, 100)) < 0.8), seed=0, samples=200).iloc[0]
        covered.append(row["low"] <= 0 <= row["high"])
    assert np.mean(covered) >= 0.65
    assert abs(row["value"]) < 0.2


def test_an_empty_place_or_a_blind_centre_is_not_measurable():
    row = center_bias(placed([[1]] * 8 + [[]]), seed=0, samples=20).iloc[0]
    assert np.isnan(row[["value", "low", "high"]].astype(float)).all()
    assert "bottom right" in row["reason"]
    cells = accuracy_by_place(placed([[1]] * 8 + [[]]))
    assert cells["value"].isna().tolist() == [False] * 8 + [True]
    blind = center_bias(placed([[1]] * 4 + [[0]] + [[1]] * 4), seed=0, samples=20).iloc[0]
    assert np.isnan(blind["value"])
    assert "centre" in blind["reason"]


def test_pixels_give_the_same_places_as_place_shares():
    rng = np.random.default_rng(0)
    scores = placed(rng.random((9, 20)) < 0.5).drop(columns=["left_share", "top_share"])
    pixels = scores.assign(left=rng.integers(0, 309, 180), top=rng.integers(0, 309, 180), width=204, height=204,
                           canvas=512)  # fmt: skip
    shares = place_shares(pixels.assign(image_id=pixels["picture_id"], mask_file=None))
    merged = scores.merge(shares[["image_id", "left_share", "top_share"]], left_on="picture_id", right_on="image_id")
    pd.testing.assert_frame_equal(accuracy_by_place(pixels), accuracy_by_place(merged))
    assert accuracy_by_place(pixels)["n"].sum() == 180
    no_room = pixels.assign(width=np.where(np.arange(180) < 50, 512, 204), left=0)
    assert accuracy_by_place(no_room)["n"].sum() == 130


def test_originals_do_not_count():
    scores = placed(NINE)
    original = scores.head(1).assign(kind="original", picture_id="original", left_share=np.nan)
    pd.testing.assert_frame_equal(accuracy_by_place(pd.concat([scores, original])), accuracy_by_place(scores))


def test_one_size_is_never_a_number():
    for scores in (placed(NINE).assign(scale=0.4), placed(NINE).assign(width=204, height=100, canvas=512)):
        table = size_bias(scores, seed=0, samples=10)
        assert table[["value", "low", "high"]].isna().all(axis=None)
        assert table["reason"].str.startswith("not measurable: all foregrounds have one size").all()
        assert len(accuracy_by_size(scores)) == 1


def test_size_bias_is_a_ratio_of_accuracies():
    scores = placed(NINE)
    scores["scale"] = np.where(np.arange(36) < 16, 0.2, 0.4)
    row = size_bias(scores, seed=0).iloc[0]
    small, large = (scores[scores["scale"] == size] for size in (0.2, 0.4))
    assert row[["size", "reference", "n", "n_reference"]].tolist() == pytest.approx([0.2, 0.4, 16, 20])
    oracle = ratio_of_means(
        small["top1"], large["top1"], groups=small["foreground_id"], second_groups=large["foreground_id"]
    )
    assert row["value"] == pytest.approx(oracle.value)
    assert (row["low"], row["high"]) == pytest.approx((oracle.low, oracle.high), abs=0.08)
    other = size_bias(scores, reference=0.25, seed=0, samples=10).iloc[0]
    assert other["value"] == pytest.approx(1 / row["value"])


def test_many_sizes_make_bins_of_like_counts():
    rng = np.random.default_rng(0)
    scores = placed(rng.random((9, 100)) < 0.7).assign(scale=rng.random(900) * 0.5 + 0.2)
    table = accuracy_by_size(scores, bins=3)
    assert table["n"].tolist() == [300, 300, 300]
    assert (table["size_from"].to_numpy()[1:] >= table["size_to"].to_numpy()[:-1]).all()
    assert table["size"].is_monotonic_increasing
    ratios = size_bias(scores, bins=3, seed=0, samples=200)
    assert len(ratios) == 2
    assert ((ratios["low"] < 1) & (ratios["high"] > 1)).all()


def test_a_reference_size_at_which_nothing_is_seen_has_a_reason():
    scores = placed([[0, 0], [1, 1]]).assign(scale=[0.4, 0.4, 0.2, 0.2])
    row = size_bias(scores, seed=0, samples=20).iloc[0]
    assert np.isnan(row["value"])
    assert "reference size" in row["reason"]


def test_focus_by_hand():
    attributions = np.zeros((3, 4, 4))
    attributions[0, 1, 1] = 2.0  # all on the foreground, which is a quarter of the picture
    attributions[1] = 5.0  # everywhere alike
    attributions[2, 3, 3] = 1.0  # all beside it
    boxes = np.tile([0, 0, 2, 2], (3, 1))
    assert picture_focus(attributions, boxes) == pytest.approx([4, 1, 0])
    masks = np.zeros((3, 4, 4))
    masks[:, :2, :2] = 1
    assert picture_focus(attributions, masks) == pytest.approx([4, 1, 0])
    focus = foreground_focus(attributions, boxes)
    assert (focus.value, focus.n) == (pytest.approx(5 / 3), 3)
    assert focus.low < focus.value < focus.high
    together = foreground_focus(attributions, boxes, foreground_ids=np.array(["a"] * 3))
    assert together.value == pytest.approx(5 / 3)
    assert not together.has_interval, "one foreground says nothing of others"


def test_boxes_may_cut_through_pixels_and_scale_does_not_matter():
    attributions = np.random.default_rng(0).random((2, 6, 8))
    halves = picture_focus(attributions, [[1.5, 0, 2, 3], [0, 0, 8, 6]])
    mask = np.zeros((6, 8))
    mask[:3, [1, 3]], mask[:3, 2] = 0.5, 1
    expected = (attributions[0] * mask).sum() / attributions[0].sum() / (6 / 48)
    assert halves == pytest.approx([expected, 1])
    assert picture_focus(attributions * 7, [[1.5, 0, 2, 3], [0, 0, 8, 6]]) == pytest.approx(halves)


def test_pictures_without_attribution_are_left_out():
    attributions = np.stack([np.zeros((4, 4)), np.ones((4, 4))])
    boxes = [[0, 0, 2, 2]] * 2
    assert np.isnan(picture_focus(attributions, boxes)[0])
    assert foreground_focus(attributions, boxes).n == 1
    with pytest.raises(ValueError, match="above 0 somewhere"):
        foreground_focus(attributions[:1], boxes[:1])


def test_bad_input_is_named():
    scores = placed(NINE)
    for call, message in [
        (lambda: accuracy_by_place(scores.drop(columns="left_share")), "left_share and top_share, or left"),
        (lambda: accuracy_by_place(scores.assign(left_share=1.2)), "places must lie"),
        (lambda: accuracy_by_place(scores.assign(left_share=np.nan)), "has a place"),
        (lambda: accuracy_by_size(scores), "scale, or width"),
        (lambda: accuracy_by_size(scores.assign(scale=0.0)), "above 0"),
        (lambda: accuracy_by_size(scores.assign(scale=0.4), bins=0), "bins"),
        (lambda: picture_focus(np.ones((4, 4)), [[0, 0, 1, 1]]), "attributions must have shape"),
        (lambda: picture_focus(-np.ones((1, 4, 4)), [[0, 0, 1, 1]]), "at least 0"),
        (lambda: picture_focus(np.ones((1, 4, 4)), [[0, 0, 5, 1]]), "boxes must lie"),
        (lambda: picture_focus(np.ones((1, 4, 4)), [[0, 0, 0, 1]]), "boxes must lie"),
        (lambda: picture_focus(np.ones((1, 4, 4)), np.zeros((1, 4, 4))), "none of them empty"),
        (lambda: picture_focus(np.ones((1, 4, 4)), np.ones((1, 5))), "foregrounds must have shape"),
        (lambda: foreground_focus(np.ones((1, 4, 4)), [[0, 0, 1, 1]], foreground_ids=["a", "b"]), "one a picture"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
