"""Probes against scikit-learn, against known answers, and against what they must refuse."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from d3s_utils.intervals import clustered_wilson
from d3s_utils.probes import cross_probes, cross_validated_probe, linear_probe
from d3s_utils.randomness import numpy_generator


def _data(count: int, *, strength: float, labels: int = 4, width: int = 6, seed: int = 0, per_group: int = 5):
    """Features whose mean depends on the label, in groups of `per_group` pictures of one label."""
    random = numpy_generator(seed, "data")
    groups = np.arange(count) // per_group
    label = random.integers(0, labels, groups.max() + 1)[groups]
    features = random.normal(size=(count, width)) + strength * np.eye(labels, width)[label]
    return features, label, groups


def _probe(train, test, **options):
    return linear_probe(
        *train[:2], *test[:2], train_groups=train[2], test_groups=test[2], **({"seed": 0} | options)
    )  # fmt: skip


def test_one_candidate_gives_what_scikit_learn_gives():
    train, test = _data(200, strength=1.5), _data(100, strength=1.5, seed=1)
    probe = _probe(train, test, regularisations=(0.1,))
    scaler = StandardScaler().fit(train[0])
    model = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(train[0]), train[1])
    assert np.array_equal(probe.correct, model.predict(scaler.transform(test[0])) == test[1])
    assert probe.accuracy == clustered_wilson(probe.correct, test[2])
    assert (probe.chance, probe.regularisation) == (0.25, 0.1)


def test_separable_labels_are_read_out_and_random_ones_are_not():
    assert _probe(_data(400, strength=20), _data(200, strength=20, seed=1)).accuracy.value == 1.0
    accuracy = _probe(_data(400, strength=0), _data(400, strength=0, seed=1)).accuracy
    assert accuracy.low < 0.25 < accuracy.high


def test_features_may_have_any_scale_and_place():
    train, test = _data(200, strength=1.5), _data(100, strength=1.5, seed=1)
    moved = [(1e3 * np.diag([1, 1e-5, 1, 1, 1e4, 1]) @ each[0].T).T + 100 for each in (train, test)]
    same = _probe((moved[0], *train[1:]), (moved[1], *test[1:])).correct
    assert np.array_equal(_probe(train, test).correct, same)


def test_regularisation_is_chosen_without_the_tested_pictures():
    train, test = _data(200, strength=1.0), _data(100, strength=1.0, seed=1)
    other = _data(100, strength=0.0, seed=2)
    assert _probe(train, test).regularisation == _probe(train, other).regularisation


def test_of_equally_good_regularisations_the_strongest_is_taken():
    train, test = _data(400, strength=50), _data(100, strength=50, seed=1)
    assert _probe(train, test, regularisations=(10.0, 1.0, 100.0)).regularisation == 1.0


def test_majority_is_the_share_of_the_label_that_training_saw_most():
    features, labels, groups = _data(100, strength=1, labels=2)
    labels[:80], labels[80:] = 1, 0
    test_labels = np.array([1] * 30 + [0] * 70)
    probe = _probe((features, labels, groups), (features, test_labels, groups))
    assert probe.majority == pytest.approx(0.3)


def test_probes_repeat_themselves():
    train, test = _data(200, strength=1), _data(100, strength=1, seed=1)
    assert np.array_equal(_probe(train, test).correct, _probe(train, test).correct)
    first, second = (cross_validated_probe(*test, seed=3) for _ in range(2))
    assert np.array_equal(first.correct, second.correct)


def test_interval_covers_the_accuracy_on_many_pictures_about_as_often_as_it_says():
    train = _data(200, strength=1.5)
    truth = _probe(train, _data(20_000, strength=1.5, seed=99), regularisations=(0.3,)).accuracy.value
    covered = []
    for repeat in range(60):
        accuracy = _probe(train, _data(150, strength=1.5, seed=repeat + 1), regularisations=(0.3,)).accuracy
        covered.append(accuracy.low <= truth <= accuracy.high)
    assert np.mean(covered) >= 0.85  # 60 draws of 0.95 fall below this less than once in a thousand


def test_cross_validation_does_not_learn_from_a_groups_other_pictures():
    """Pictures of a group are copies, and labels are random by group: only a leak could read them."""
    random = numpy_generator(0, "copies")
    groups = np.repeat(np.arange(60), 5)
    features, labels = random.normal(size=(60, 20))[groups], random.integers(0, 2, 60)[groups]
    accuracy = cross_validated_probe(features, labels, groups, seed=0).accuracy
    assert accuracy.low < 0.5 < accuracy.high or accuracy.value < 0.5


def test_cross_validation_reads_what_is_there():
    probe = cross_validated_probe(*_data(300, strength=20), seed=0)
    assert probe.accuracy.value > 0.99
    assert probe.correct.shape == (300,)


def test_two_foregrounds_are_enough():
    """A class each: a probe of the class that trains on one foreground can only say that foreground's class."""
    table = pd.DataFrame({"foreground": [0, 0, 0, 1, 1, 1], "background": [0, 1, 2] * 2, "guide": [0, 0, 0, 1, 1, 1]})
    features = {"foreground": np.eye(6), "background": np.eye(3)[table["background"]]}
    summary, _ = cross_probes(features, features, table, table, group="guide", seed=0)
    fresh = summary[summary["fresh"]].set_index("probe")["value"]
    assert fresh["foreground_from_foreground"] == 0
    assert fresh["background_from_background"] == 1


def test_cross_probes_name_every_pair_and_find_the_planted_leak():
    random = numpy_generator(0, "leak")
    tables, features = [], []
    for count in (240, 160):
        table = pd.DataFrame({"foreground": np.arange(count) // 10 % 4, "background": np.arange(count) % 5})
        table["guide"] = np.arange(count) // 10
        own = np.eye(5)[table["foreground"]], np.eye(5)[table["background"]]
        leaky, clean = np.concatenate(own, 1), np.concatenate([0 * own[0], own[1]], 1)
        noise = random.normal(size=(2, count, 10)) * 0.3
        tables.append(table)
        features.append({"foreground": 3 * leaky + noise[0], "background": 3 * clean + noise[1]})
    summary, outcomes = cross_probes(*features, *tables, group="guide", seed=0)
    values = summary[~summary["fresh"]].set_index("probe")["value"]
    assert set(values.index) == {f"{a}_from_{b}" for a in features[0] for b in features[0]}
    assert values.drop("foreground_from_background").min() > 0.95
    assert values["foreground_from_background"] < 0.45
    assert summary.set_index("probe")["chance"].to_dict()["background_from_foreground"] == 0.2
    assert outcomes.groupby(["probe", "fresh"])["correct"].mean().to_dict() == pytest.approx(
        summary.set_index(["probe", "fresh"])["value"].to_dict()
    )
    assert outcomes["picture"].max() == 159


def test_cross_probes_of_several_kinds_and_without_fresh_ones():
    table = pd.DataFrame({"foreground": np.arange(24) % 2, "background": np.arange(24) // 2 % 3})
    table["guide"] = np.arange(24) // 6
    features = {name: 5 * np.eye(3)[table[name]] + np.arange(24)[:, None] % 5 / 50 for name in table.columns[:2]}
    tables = features, features, table, table
    summary, outcomes = cross_probes(*tables, group="guide", seed=0, kinds=("linear", "nearest"), fresh_folds=0)
    assert summary.groupby("kind", sort=False).size().to_dict() == {"linear": 4, "nearest": 4}
    assert not summary["fresh"].any()
    linear = cross_probes(*tables, group="guide", seed=0)[0]
    assert set(linear["kind"]) == {"linear"}
    pd.testing.assert_frame_equal(
        linear[~linear["fresh"]].reset_index(drop=True), summary[summary["kind"] == "linear"].reset_index(drop=True)
    )
    assert summary.loc[summary["kind"] == "nearest", "setting"].str.startswith("neighbours ").all()
    assert summary["regularisation"].isna().tolist() == [False, True] * 4
    assert len(outcomes) == 8 * 24
    assert outcomes.groupby(["probe", "kind"])["correct"].mean().to_dict() == pytest.approx(
        summary.set_index(["probe", "kind"])["value"].to_dict()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_features": np.zeros((0, 3))}, "train_features must have shape"),
        ({"train_features": np.full((20, 3), np.nan)}, "train_features must be finite, got 20 rows"),
        ({"train_labels": np.zeros(20)}, "train_labels must hold at least 2 labels"),
        ({"train_labels": np.arange(19)}, "one value for each of 20 rows"),
        ({"test_labels": np.full(20, 7)}, "test_labels must be among the training labels, got 7"),
        ({"test_features": np.zeros((20, 4))}, r"as wide as train_features \(3\), got 4"),
        ({"regularisations": (0.0, 1.0)}, "regularisations must be positive"),
        ({"regularisations": ()}, "regularisations must be positive"),
        ({"choice_share": 1.0}, "choice_share must be between 0 and 1, got 1.0"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {
        "train_features": np.random.default_rng(0).normal(size=(20, 3)),
        "train_labels": np.arange(20) % 2,
        "test_features": np.zeros((20, 3)),
        "test_labels": np.arange(20) % 2,
        "train_groups": np.arange(20) // 2,
        "test_groups": np.arange(20),
        "seed": 0,
    } | change
    with pytest.raises(ValueError, match=message):
        linear_probe(**given)


@pytest.mark.parametrize("folds", [1, 9])
def test_folds_beyond_the_groups_are_named(folds):
    with pytest.raises(ValueError, match=f"folds must be between 2 and the number of groups \\(4\\), got {folds}"):
        cross_validated_probe(np.eye(8), np.arange(8) % 2, np.arange(8) // 2, seed=0, folds=folds)
