"""Where foregrounds lie: counted by hand, and tested against places that are uneven."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from d3s_utils.placing import coverage, draw_coverage, draw_places, place_counts, place_shares, uniformity


def guides_at(left, top, *, width=3, canvas=8, mask_file=None) -> pd.DataFrame:
    table = pd.DataFrame({"left": left, "top": top})
    return table.assign(
        image_id=np.arange(len(table)), foreground_id="f", width=width, height=width, canvas=canvas, mask_file=mask_file
    )


def test_coverage_counts_the_boxes():
    guides = pd.DataFrame({"left": [0, 2], "top": [0, 1], "width": [2, 2], "height": [4, 2]})
    expected = np.zeros((4, 4))
    expected[:, :2] += 0.5
    expected[1:3, 2:] += 0.5
    np.testing.assert_allclose(coverage(guides, canvas=4), expected)


def test_shares_reach_from_zero_to_one():
    shares = place_shares(guides_at([0, 5, 2], [5, 0, 1]))
    assert shares.left_share.tolist() == [0, 1, 0.4]
    assert shares.top_share.tolist() == [1, 0, 0.2]
    assert shares.left_room.tolist() == [6, 6, 6]
    assert place_shares(guides_at([0], [0], width=8)).empty
    assert place_shares(guides_at([0], [0], mask_file="m.png")).empty


def test_uniformity_tells_even_from_uneven():
    random = np.random.default_rng(0)
    even = place_shares(guides_at(*random.integers(0, 6, (2, 2000))))
    centred = place_shares(guides_at(*random.binomial(5, 0.5, (2, 2000))))
    assert uniformity(*place_counts(even)) > 0.01
    assert uniformity(*place_counts(centred)) < 1e-6


def test_counts_stand_beside_the_counts_expected():
    shares = place_shares(guides_at([0, 5, 5], [0, 0, 5]))
    counts, expected = place_counts(shares, bins=4)
    assert counts[0, 0] == counts[0, 3] == counts[3, 3] == 1
    assert counts.sum() == expected.sum() == pytest.approx(3)
    assert expected[0, 0] == pytest.approx(3 * (2 / 6) ** 2)
    with pytest.raises(ValueError, match="one room"):
        place_counts(shares[:0])


def test_p_values_are_uniform_when_chances_are_even():
    random = np.random.default_rng(1)
    values = [
        uniformity(*place_counts(place_shares(guides_at(*random.integers(0, 6, (2, 300)))), bins=4)) for _ in range(60)
    ]
    assert np.mean(np.array(values) < 0.2) == pytest.approx(0.2, abs=0.15)


def test_figures_name_their_axes():
    _, (left, right) = plt.subplots(1, 2)
    guides = guides_at([0, 5, 2], [5, 0, 1])
    draw_places(*place_counts(place_shares(guides)), left)
    draw_coverage(coverage(guides, canvas=8), right)
    assert "free room" in left.get_xlabel()
    assert "pixels" in right.get_ylabel()
    plt.close("all")
