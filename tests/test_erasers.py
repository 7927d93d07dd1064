"""Erasers: rank, idempotence, the guarantee of LEACE, and that something was there before it was erased."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from d3s_utils.erasers import ERASERS, erase_features, erase_label
from d3s_utils.randomness import numpy_generator


def _data(count: int = 240, width: int = 10, labels: int = 4, seed: int = 0):
    """Correlated features of unequal scales whose mean depends on the label."""
    random = numpy_generator(seed, "erasers")
    label = np.concatenate([np.arange(labels), random.integers(0, labels, count - labels)])
    features = random.normal(size=(count, width)) + 2 * random.normal(size=(labels, width))[label]
    return features @ random.normal(size=(width, width)) + 5, label


def _read(features, labels):
    scaled = (features - features.mean(0)) / max(features.std(0).max(), 1e-300)
    return LogisticRegression(C=100, max_iter=2000).fit(scaled, labels).score(scaled, labels)


def _class_means(features, labels):
    return np.stack([features[labels == label].mean(0) for label in np.unique(labels)])


@pytest.mark.parametrize("method", ERASERS)
def test_no_strength_changes_nothing(method):
    features, labels = _data()
    erasure = erase_label(features, labels, method=method, strengths=[0])[0]
    assert np.array_equal(erasure(features), features)
    assert (erasure.rank, np.isnan(erasure.readable)) == (0, True)


@pytest.mark.parametrize("method", ERASERS)
@pytest.mark.parametrize("strength", [1, 2, 3])
def test_what_is_removed_is_a_projection_of_the_rank_it_says(method, strength):
    features, labels = _data()
    erasure = erase_label(features, labels, method=method, strengths=[strength])[strength]
    assert np.linalg.matrix_rank(erasure.removed, tol=1e-8) == erasure.rank
    assert np.allclose(erasure.removed @ erasure.removed, erasure.removed, atol=1e-8)
    once = erasure(features)
    assert np.allclose(erasure(once), once, atol=1e-8)
    assert np.allclose(once.mean(0), features.mean(0))
    assert erasure.rank == (strength if method == "leace" else min(10, 3 * strength))


def test_leace_makes_class_means_equal_so_that_no_linear_classifier_beats_the_majority():
    features, labels = _data()
    erased = erase_label(features, labels, method="leace", strengths=[3])[3](features)
    assert np.ptp(_class_means(features, labels), axis=0).max() > 1
    assert np.allclose(_class_means(erased, labels), features.mean(0), atol=1e-7)
    majority = np.bincount(labels).max() / len(labels)
    assert _read(features, labels) > majority + 0.3
    assert _read(erased, labels) == pytest.approx(majority, abs=1e-9)


def test_least_squares_finds_nothing_after_leace():
    features, labels = _data()
    erased = erase_label(features, labels, method="leace", strengths=[3])[3](features)
    onehot = np.eye(4)[labels]
    cross = (erased - erased.mean(0)).T @ (onehot - onehot.mean(0)) / len(labels)
    assert abs(cross).max() < 1e-8


def test_leace_moves_features_less_than_other_erasers_that_equal_the_means():
    """Against the orthogonal projection away from the mean differences, and other oblique ones with its kernel."""
    features, labels = _data()
    leace = erase_label(features, labels, method="leace", strengths=[3])[3]
    differences = _class_means(features, labels) - features.mean(0)
    basis = np.linalg.svd(differences, full_matrices=False)[2][:3].T
    moved = np.square(leace(features) - features).sum(1).mean()
    centred, random = features - features.mean(0), numpy_generator(0, "others")
    for size in (0.0, 0.03, 0.3):
        other = basis + size * random.normal(size=basis.shape)  # removed = other (basis' other)^-1 basis'
        removed = other @ np.linalg.inv(basis.T @ other) @ basis.T
        assert np.allclose(differences @ removed, differences, atol=1e-6)
        assert moved < np.square(centred @ removed).sum(1).mean()


def test_from_white_features_leace_is_the_orthogonal_projection():
    features, labels = _data()
    left, _, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
    white = left * np.sqrt(len(features))
    removed = erase_label(white, labels, method="leace", strengths=[3])[3].removed
    assert np.allclose(removed, removed.T, atol=1e-8)


def test_the_first_direction_of_leace_tells_most():
    features, labels = _data()
    found = erase_label(features, labels, method="leace", strengths=[1, 2, 3, 9])
    left = [_read(found[strength](features), labels) for strength in (1, 2, 3)]
    assert left[0] > left[1] > left[2]
    assert found[9].rank == 3
    assert np.array_equal(found[9].removed, found[3].removed)


def test_inlp_reads_less_every_round_until_only_the_majority_is_left():
    features, labels = _data()
    found = erase_label(features, labels, method="inlp", strengths=range(5))
    majority = np.bincount(labels).max() / len(labels)
    read = [_read(found[rounds](features), labels) - majority for rounds in range(5)]
    assert read[0] > 0.3
    assert read[1] < read[0] - 0.2
    assert read[4] == pytest.approx(0, abs=1e-9)
    assert [found[rounds].rank for rounds in range(5)] == [0, 3, 6, 9, 10]
    assert found[1].readable > 0.3
    assert found[4].readable < 0.2
    assert (found[4](features) == features.mean(0)).all()  # ten features, all gone to the last bit


def test_no_rounding_is_left_to_be_read_where_features_lack_directions():
    """Six features that span three: when those are gone, a scaler must not find the label in what rounding left."""
    features, labels = _data(width=3, labels=3)
    wide = features @ numpy_generator(0, "wide").normal(size=(3, 6))
    found = erase_label(wide, labels, method="inlp", strengths=[0, 3])
    assert _read(found[0](wide), labels) > 0.6
    assert np.ptp(found[3](wide), axis=0).max() == 0


def test_rounds_beyond_the_last_feature_change_nothing():
    features, labels = _data()
    found = erase_label(features, labels, method="inlp", strengths=[4, 30])
    assert np.allclose(found[4].removed, found[30].removed, atol=1e-12)


@pytest.mark.parametrize("method", ERASERS)
def test_one_strength_alone_is_what_it_is_among_others(method):
    features, labels = _data()
    among = erase_label(features, labels, method=method, strengths=[0, 1, 2, 3])[2]
    alone = erase_label(features, labels, method=method, strengths=[2])[2]
    assert np.array_equal(alone.removed, among.removed)


@pytest.mark.parametrize("method", ERASERS)
def test_names_of_labels_do_not_matter(method):
    features, labels = _data()
    renamed = np.array([2, 0, 3, 1])[labels]
    first, second = (erase_label(features, each, method=method, strengths=[2])[2] for each in (labels, renamed))
    assert np.allclose(first.removed, second.removed, atol=1e-2)


@pytest.mark.parametrize(("method", "strength"), [("leace", 4), ("inlp", 1)])
def test_each_half_loses_the_other_label_and_keeps_its_own(method, strength):
    random = numpy_generator(0, "halves")
    foreground, background = np.arange(300) % 4, np.arange(300) // 4 % 5
    own = [8 * np.eye(8)[foreground], 8 * np.eye(8)[background]]
    features = np.concatenate(own, 1) @ random.normal(size=(16, 20)) + random.normal(size=(300, 20))
    split = erase_features(features, foreground, background, method=method, strengths=[0, strength], components=12)
    before, after = split[0](features), split[strength](features)
    assert before["foreground"].shape == after["background"].shape == (300, 12)
    assert np.array_equal(before["foreground"], before["background"])
    assert np.allclose(before["foreground"].std(0, ddof=1), 1)
    assert _read(before["foreground"], background) > 0.95
    assert _read(after["foreground"], background) < 0.5
    assert _read(after["background"], foreground) < 0.5
    assert _read(after["foreground"], foreground) > 0.9
    assert _read(after["background"], background) > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros(5)}, r"features must have shape \(n, width\)"),
        ({"features": np.full((6, 2), np.inf)}, "features must be finite, got 6 rows"),
        ({"labels": np.arange(6) % 2 * 1.0}, "labels must be 6 integers"),
        ({"labels": np.arange(6) % 2 * 2}, r"without a gap, at least two, got \[0, 2\]"),
        ({"labels": np.zeros(6, dtype=int)}, r"at least two, got \[0\]"),
        ({"method": "r-lace"}, "method must be one of inlp, leace, got 'r-lace'"),
        ({"strengths": [-1]}, "strengths must be whole numbers of at least 0, got -1"),
        ({"strengths": [0.5]}, "strengths must be whole numbers of at least 0, got 0.5"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {
        "features": np.arange(12.0).reshape(6, 2), "labels": np.arange(6) % 2, "method": "leace", "strengths": [1]
    } | change  # fmt: skip
    with pytest.raises(ValueError, match=message):
        erase_label(given.pop("features"), given.pop("labels"), **given)


def test_too_few_components_are_named():
    with pytest.raises(ValueError, match="components must be at least 1, got 0"):
        erase_features(np.eye(6), np.arange(6) % 2, np.arange(6) % 3, method="inlp", strengths=[1], components=0)
