"""Codelengths: what independent labels cost, what determined ones cost, and what must not matter."""

import numpy as np
import pytest

from d3s_utils.codelength import online_codelength
from d3s_utils.randomness import numpy_generator


def _data(count: int = 400, *, strength: float, labels: int = 4, width: int = 6, per_group: int = 2):
    random = numpy_generator(0, "codelength data")
    groups = np.arange(count) // per_group
    label = random.integers(0, labels, count)
    return random.normal(size=(count, width)) + strength * np.eye(labels, width)[label], label, groups


def test_independent_labels_cost_their_entropy_and_determined_ones_far_less():
    noise = online_codelength(*_data(strength=0), seed=0)
    assert 1.95 < noise.bits_per_label < 2.2  # the entropy of four equal labels is 2 bits
    assert 0.9 < noise.compression < 1.03
    clear = online_codelength(*_data(strength=30), seed=0)
    assert clear.bits_per_label < 0.4
    assert clear.compression > 5


def test_unequal_labels_cost_their_own_entropy_not_the_uniform_code():
    features, _, groups = _data(1000, strength=0)
    labels = (numpy_generator(0, "rare").random(1000) < 0.1).astype(int)
    share = labels.mean()
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    found = online_codelength(features, labels, groups, seed=0, block_ends=(0.02, 0.1, 0.3, 1.0))
    assert entropy - 0.05 < found.bits_per_label < entropy + 0.12


def test_uniform_code_is_exact_where_nothing_is_known():
    features, labels, groups = _data(strength=30)
    found = online_codelength(features, labels, groups, seed=0, block_ends=(1.0,))
    assert found.bits == pytest.approx(400 * 2, rel=1e-12)
    assert (found.uniform_bits, found.compression) == (800, pytest.approx(1))
    assert online_codelength(features, labels, groups, seed=0).blocks["bits"][0] == pytest.approx(20 * 2)


def test_the_more_is_told_the_shorter_the_code():
    bits = [online_codelength(*_data(200, strength=strength), seed=0).bits for strength in (0.0, 1.5, 4.0)]
    assert bits[0] > bits[1] > bits[2]


def test_names_of_labels_and_order_of_pictures_do_not_matter():
    features, labels, groups = _data(160, strength=2)
    bits = online_codelength(features, labels, groups, seed=0).bits
    names = np.array(["newt", "crane", "zebra", "ant"])[labels]
    assert online_codelength(features, names, groups, seed=0).bits == pytest.approx(bits, rel=1e-3)
    order = numpy_generator(0, "order").permutation(160)
    assert online_codelength(features[order], labels[order], groups[order], seed=0).bits == pytest.approx(
        bits, rel=1e-3
    )


def test_only_the_seed_sets_the_order():
    data = _data(160, strength=2)
    first, again, other = (online_codelength(*data, seed=seed).bits for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first == pytest.approx(other, rel=0.25)


def test_groups_are_never_torn():
    features, labels, _ = _data(120, strength=2)
    groups = np.arange(120) // 12
    blocks = online_codelength(features, labels, groups, seed=0).blocks
    assert (blocks["count"] % 12 == 0).all()
    assert blocks["count"].sum() == 120
    assert np.array_equal(blocks["first"], blocks["count"].cumsum() - blocks["count"])


def test_copies_in_one_group_do_not_tell_each_other():
    """Labels random by group: only pictures of the same group could help, and those come together."""
    random = numpy_generator(0, "copies")
    groups = np.repeat(np.arange(60), 5)
    features, labels = random.normal(size=(60, 8))[groups], random.integers(0, 2, 60)[groups]
    torn = online_codelength(features, labels, np.arange(300), seed=0)
    whole = online_codelength(features, labels, groups, seed=0)
    assert whole.bits_per_label > 0.95
    assert torn.bits_per_label < whole.bits_per_label - 0.1


def test_a_mixture_is_nearly_as_short_as_its_best_predictor():
    data = _data(200, strength=3)
    candidates = (0.0003, 0.03, 3.0)
    alone = [online_codelength(*data, seed=0, regularisations=(each,)).bits for each in candidates]
    mixed = online_codelength(*data, seed=0, regularisations=candidates).bits
    assert min(alone) - 1e-3 < mixed <= min(alone) + np.log2(3) + 1e-3
    assert max(alone) - min(alone) > 2 * np.log2(3)


def test_a_label_that_comes_late_has_a_finite_price():
    labels = np.zeros(60, dtype=int)
    labels[-1] = 1
    found = online_codelength(np.arange(60.0)[:, None], labels, np.arange(60), seed=0)
    assert np.isfinite(found.bits)
    assert found.bits_per_label < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros(8)}, r"features must have shape \(n, width\)"),
        ({"features": np.full((8, 2), np.nan)}, "features must be finite, got 8 rows"),
        ({"labels": np.zeros(7)}, "labels and groups must have one value for each of 8 rows"),
        ({"labels": np.zeros(8)}, "labels must hold at least 2 different ones"),
        ({"block_ends": (0.5, 0.4, 1.0)}, "block_ends must grow"),
        ({"block_ends": (0.5,)}, "block_ends must grow"),
        ({"block_ends": ()}, "block_ends must grow"),
        ({"regularisations": (0.0,)}, "regularisations must be positive"),
        ({"regularisations": ()}, "regularisations must be positive"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {"features": np.eye(8), "labels": np.arange(8) % 2, "groups": np.arange(8), "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        online_codelength(given.pop("features"), given.pop("labels"), given.pop("groups"), **given)
