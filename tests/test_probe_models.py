"""Nonlinear probes find what linear ones cannot, nothing where nothing is, and each model does what it says."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from d3s_utils.probe_models import PROBE_MODELS, choose_setting, read_labels, read_mlp, read_nearest
from d3s_utils.probes import cross_validated_probe, probe
from d3s_utils.randomness import numpy_generator

NONLINEAR = ("mlp", "nearest", "boosted")


def _noise(count: int, *, seed: int):
    random = numpy_generator(seed, "noise")
    return random.normal(size=(count, 4)), random.integers(0, 2, count), np.arange(count) // 3


def _rings(count: int, *, seed: int):
    """Two labels that differ in the distance from the middle: no line tells them apart."""
    features, labels, groups = _noise(count, seed=seed)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / length * (1 + 2 * labels[:, None]), labels, groups


def _probe(train, test, **options):
    return probe(*train[:2], *test[:2], train_groups=train[2], test_groups=test[2], **({"seed": 0} | options))


@pytest.mark.parametrize("kind", NONLINEAR)
def test_nonlinear_probes_read_rings_and_a_linear_one_does_not(kind):
    train, test = _rings(240, seed=0), _rings(120, seed=1)
    assert _probe(train, test).accuracy.value < 0.7
    found = _probe(train, test, kind=kind)
    assert found.accuracy.value > 0.9
    assert (found.kind, found.chance) == (kind, 0.5)
    assert found.setting in PROBE_MODELS[kind].settings
    assert np.isnan(found.regularisation)


@pytest.mark.parametrize("kind", PROBE_MODELS)
def test_nothing_is_read_from_noise(kind):
    accuracy = _probe(_noise(150, seed=2), _noise(300, seed=3), kind=kind).accuracy
    assert 0.38 < accuracy.value < 0.62


@pytest.mark.parametrize("kind", NONLINEAR)
def test_labels_may_have_any_names_and_features_any_scale(kind):
    train, test = _rings(120, seed=0), _rings(60, seed=1)
    names = np.array(["newt", "zebra"])
    moved = [(5 + 2.0**10 * features, names[labels], groups) for features, labels, groups in (train, test)]
    share = (_probe(train, test, kind=kind).correct == _probe(*moved, kind=kind).correct).mean()
    assert share > 0.95  # rounding may turn a picture at the edge


@pytest.mark.parametrize("kind", NONLINEAR)
def test_probes_repeat_themselves(kind):
    train, test = _rings(90, seed=0), _rings(60, seed=1)
    assert np.array_equal(_probe(train, test, kind=kind).correct, _probe(train, test, kind=kind).correct)


@pytest.mark.parametrize("kind", NONLINEAR)
def test_folds_do_not_learn_from_a_groups_other_pictures(kind):
    """Pictures of a group are copies, and labels are random by group: only a leak could read them."""
    random = numpy_generator(0, "copies")
    groups = np.repeat(np.arange(60), 3)
    features, labels = random.normal(size=(60, 5))[groups], random.integers(0, 2, 60)[groups]
    assert cross_validated_probe(features, labels, groups, seed=0, kind=kind, folds=3).accuracy.value < 0.68


def test_nearest_votes_as_scikit_learns():
    random = numpy_generator(0, "nearest")
    features, labels, asked = random.normal(size=(80, 3)), random.integers(0, 2, 80), random.normal(size=(50, 3))
    settings = [{"neighbours": count} for count in (1, 3, 7)]  # odd, two labels: no ties
    found = read_nearest(features, labels, asked, settings=settings, seed=0, device="cpu")
    for answer, setting in zip(found, settings, strict=True):
        model = KNeighborsClassifier(setting["neighbours"]).fit(features, labels)
        assert np.array_equal(answer, model.predict(asked))


def test_of_a_tie_the_nearest_wins():
    features, labels = np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([1, 0, 0, 1])
    settings = [{"neighbours": 2}, {"neighbours": 4}, {"neighbours": 40}]
    found = read_nearest(features, labels, np.array([[0.0], [2.4]]), settings=settings, seed=0, device="cpu")
    assert [answer.tolist() for answer in found] == [[1, 0], [1, 0], [1, 0]]


def test_networks_trained_side_by_side_do_not_touch_each_other():
    features, labels, _ = _rings(60, seed=0)
    both = [{"weight_decay": decay, "steps": 15} for decay in (0.5, 0.001)]
    options = {"seed": 0, "device": "cpu"}
    together = read_mlp(features, labels, features, settings=both, **options)
    for answer, setting in zip(together, both, strict=True):
        alone = read_mlp(features, labels, features, settings=[setting], **options)[0]
        assert (answer == alone).mean() > 0.98  # float32 sums in another order
    assert (together[0] != together[1]).any()


def test_setting_is_chosen_by_groups_that_were_not_trained_on():
    """Copies within a group make one neighbour look perfect, unless whole groups judge."""
    random = numpy_generator(0, "judges")
    groups = np.repeat(np.arange(80), 3)
    truth = random.integers(0, 2, 80)
    features = (random.normal(size=(80, 2)) + 1.5 * truth[:, None])[groups]
    candidates = [{"neighbours": 30}, {"neighbours": 1}]
    labels = np.where(random.random(80) < 0.25, 1 - truth, truth)[groups]  # a quarter are wrong, as groups
    options = {"kind": "nearest", "device": "cpu", "seed": 0, "choice_share": 0.25}
    assert choose_setting(features, labels, groups, candidates, **options) == candidates[0]
    assert (
        read_labels(features, labels, features, candidates[1:], kind="nearest", device="cpu", seed=0) == labels
    ).all()


def test_unknown_kinds_and_empty_settings_are_named():
    data = _rings(30, seed=0)
    with pytest.raises(ValueError, match="kind must be one of linear, mlp, nearest, boosted, got 'forest'"):
        _probe(data, data, kind="forest")
    with pytest.raises(ValueError, match="settings must hold at least one candidate"):
        _probe(data, data, kind="mlp", settings=[])
