"""Coloured digits: right labels, the joint distribution that was promised, and a feature that can be counted."""

import numpy as np
import pytest

from d3s_utils.coloured_digits import (
    COLOURS,
    cell_numbers,
    coloured_digits,
    dithered,
    label_distribution,
    quantised_colour,
)
from d3s_utils.mutual_information import (
    contingency_table,
    counted_mutual_information,
    discrete_mutual_information,
    label_entropy,
    nearest_neighbour_mutual_information,
)


def test_shapes_ranges_and_split():
    train, test = coloured_digits(seed=0)
    assert len(train.images) + len(test.images) == 1797
    assert train.images.shape[1:] == (8, 8, 3)
    assert train.features.shape == (len(train.images), 192)
    assert train.images.dtype == np.float32
    assert 0 <= train.images.min() < train.images.max() <= 1
    assert (
        np.abs(np.bincount(train.digits) / len(train.digits) - np.bincount(test.digits) / len(test.digits)).max() < 0.01
    )


def test_corners_show_the_colour_and_ink_is_white():
    train, _ = coloured_digits(seed=0, colour_noise=0.0)
    palette = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS]) / 255
    assert np.allclose(train.images[:, 0, 0], palette[train.colours], atol=0.02)
    assert train.images.max((1, 2)).min() > 0.85, "every digit has a pixel of nearly full ink (14 of 16 at least)"


@pytest.mark.parametrize("colour_count", [4, 10])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_labels_follow_the_joint_distribution(correlation, colour_count):
    train, test = coloured_digits(seed=1, correlation=correlation, colour_count=colour_count)
    for part in (train, test):
        assert part.joint.shape == (10, colour_count)
        assert part.joint.sum() == pytest.approx(1)
        counts = np.zeros_like(part.joint)
        np.add.at(counts, (part.digits, part.colours), 1)
        error = np.sqrt(part.joint * (1 - part.joint) / len(part.digits))
        assert (np.abs(counts / len(part.digits) - part.joint) <= 4.5 * error + 1e-12).all()


def test_mutual_information_of_the_labels_runs_from_nothing_to_everything():
    values = [counted_mutual_information(label_distribution(np.full(10, 0.1), correlation=c, colour_count=10))
              for c in (0.0, 0.5, 1.0)]  # fmt: skip
    assert values[0] == pytest.approx(0, abs=1e-12)
    assert values[0] < values[1] < values[2]
    assert values[2] == pytest.approx(np.log(10))
    train, _ = coloured_digits(seed=0, correlation=1.0)
    assert discrete_mutual_information(train.digits, train.colours) == pytest.approx(label_entropy(train.colours))


def test_held_out_part_may_break_the_correlation():
    train, test = coloured_digits(seed=0, correlation=1.0, test_correlation=0.0)
    assert (train.colours == train.digits).all()
    assert np.mean(test.colours == test.digits) == pytest.approx(0.1, abs=0.05)


def test_seed_decides_everything():
    first, same, other = (coloured_digits(seed=seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first.images, same.images)
    assert not np.array_equal(first.colours, other.colours)


def test_quantised_colour_tells_the_background_and_not_the_digit():
    train, _ = coloured_digits(seed=0)
    cells = cell_numbers(quantised_colour(train.images))
    table = contingency_table(cells, train.colours)
    assert table.shape[0] <= 27
    about_colour = counted_mutual_information(table, correction="miller_madow")
    about_digit = discrete_mutual_information(cells, train.digits, correction="miller_madow")
    assert about_colour > 1.0
    assert abs(about_digit) < 0.1


def test_dither_hides_nothing_and_makes_neighbours_countable():
    train, _ = coloured_digits(seed=0, colour_count=3)
    quantised = quantised_colour(train.images, levels=2)
    continuous = dithered(quantised, seed=0)
    assert np.array_equal(np.floor(continuous), quantised)
    assert len(np.unique(continuous, axis=0)) == len(continuous)
    truth = discrete_mutual_information(cell_numbers(quantised), train.colours, correction="miller_madow")
    assert nearest_neighbour_mutual_information(continuous, train.colours) == pytest.approx(truth, abs=0.12)


def test_cell_numbers_are_equal_where_rows_are():
    assert cell_numbers([[0, 1], [2, 2], [0, 1]]).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correlation": 1.5}, r"correlation must be in \[0, 1\], got 1.5"),
        ({"test_correlation": -1}, r"test_correlation must be in \[0, 1\], got -1"),
        ({"colour_count": 11}, "colour_count must be between 2 and 10, got 11"),
        ({"colour_noise": -0.1}, "colour_noise must be at least 0"),
        ({"test_share": 1}, "test_share must be between 0 and 1"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        coloured_digits(seed=0, **options)


def test_pictures_that_are_none_are_named():
    with pytest.raises(ValueError, match=r"images must have shape \(n, height, width, 3\)"):
        quantised_colour(np.ones((2, 64)))
    with pytest.raises(ValueError, match="levels must be at least 2"):
        quantised_colour(np.ones((2, 8, 8, 3)), levels=1)
