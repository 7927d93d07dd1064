"""Five ways to train a head, on data where the right answers are known."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from d3s_utils.group_robustness import METHODS, train_head
from d3s_utils.group_samples import balanced_subset, held_out_part, make_sample
from d3s_utils.softmax_regression import Compact, early_stopped, group_losses, minimise, predicted


def biased(count, minority, seed=0):
    """Two labels; one feature tells them weakly, another tells the attribute, which misleads `minority` of the rows."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    against = np.arange(count) < minority
    attribute = np.where(against, 1 - labels, labels)
    features = np.column_stack([
        random.normal(2 * labels - 1, 0.8), random.normal(2 * attribute - 1, 0.1), random.normal(size=count),
    ])  # fmt: skip
    return features, labels, 2 * labels + attribute


TRAIN, TEST, BALANCED = biased(200, 10), biased(2000, 1000, seed=1), biased(120, 60, seed=2)


def standardised(features):
    return (features - features.mean(0)) / features.std(0)


def worst_group(head):
    right = head.predict(TEST[0]) == TEST[1]
    return min(right[TEST[2] == group].mean() for group in range(4))


def trained(method, **options):
    return train_head(method, *TRAIN, seed=0, balanced=BALANCED, **options)


def test_erm_is_plain_logistic_regression_in_the_features_own_units():
    head = trained("erm", penalties=[0.1])
    theirs = LogisticRegression(C=1 / (200 * 0.05), tol=1e-10).fit(standardised(TRAIN[0]), TRAIN[1])
    expected = theirs.decision_function((TEST[0] - TRAIN[0].mean(0)) / TRAIN[0].std(0))
    scores = head.scores(TEST[0])
    assert np.allclose(scores[:, 1] - scores[:, 0], expected, atol=1e-3)


def test_group_balanced_weighs_groups_as_scikit_learn_does():
    weights = 1 / (4 * np.bincount(TRAIN[2])[TRAIN[2]])
    theirs = LogisticRegression(C=1 / 0.05, tol=1e-10).fit(standardised(TRAIN[0]), TRAIN[1], sample_weight=weights)
    scores = trained("group_balanced", penalties=[0.1]).scores(TRAIN[0])
    assert np.allclose(scores[:, 1] - scores[:, 0], theirs.decision_function(standardised(TRAIN[0])), atol=1e-3)


@pytest.mark.parametrize("method", ["group_balanced", "group_dro", "jtt", "dfr"])
def test_robust_methods_help_the_worst_group(method):
    options = {"first_steps": 3, "upweights": [20.0]} if method == "jtt" else {}
    assert worst_group(trained(method, **options)) > worst_group(trained("erm")) + 0.2


def test_each_step_of_group_dro_is_the_exponential_of_the_losses():
    head = trained("group_dro", penalties=[0.1], dro_rate=0.7, dro_steps=3)
    sample = make_sample("", standardised(TRAIN[0]), *TRAIN[1:], None)
    uniform = sample.spread(np.full(4, 0.25))
    first = minimise(sample.features, sample.onehot, uniform, 0.1, tolerance=1e-9)
    q = np.exp(0.7 * group_losses(sample.features, sample.onehot, first, sample.group))
    assert head.weight_path.shape == (4, 4)
    assert head.weight_path[0] == pytest.approx([0.25] * 4)
    assert head.weight_path[1] == pytest.approx(q / q.sum(), abs=1e-3)
    assert head.weight_path.sum(1) == pytest.approx(np.ones(4))


def test_group_dro_levels_the_groups_losses_and_without_a_rate_it_is_group_balanced():
    x, labels, groups = standardised(TRAIN[0]), TRAIN[1], TRAIN[2]

    def spread(head):
        weight = head.weight * TRAIN[0].std(0)
        stacked = np.column_stack([weight, head.bias + head.weight @ TRAIN[0].mean(0)])
        return np.ptp(group_losses(x, np.eye(2)[labels], stacked, groups))

    balanced = trained("group_balanced", penalties=[0.01])
    assert spread(trained("group_dro", penalties=[0.01], dro_steps=60)) < 0.5 * spread(balanced)
    still = trained("group_dro", penalties=[0.01], dro_rate=0, dro_steps=2)
    assert np.allclose(still.scores(x), balanced.scores(x), atol=1e-2)


def test_jtt_upweights_what_the_first_head_gets_wrong():
    head = trained("jtt", penalties=[0.1], upweights=[20.0], first_steps=3)
    sample = make_sample("", standardised(TRAIN[0]), TRAIN[1], None, None)
    compact = Compact.of(sample.features)
    wrong = predicted(compact.features, early_stopped(compact.features, sample.onehot, steps=3)) != sample.label
    weights = np.where(wrong, 20.0, 1.0)
    expected = compact.widen(minimise(compact.features, sample.onehot, weights / weights.sum(), 0.1))
    assert head.errors == wrong.sum() > 0
    assert np.allclose(head.weight * TRAIN[0].std(0), expected[:, :-1], atol=1e-3)
    assert trained("erm").errors == 0


def test_jtt_without_upweight_is_erm():
    erm, jtt = (trained(method, penalties=[0.1], upweights=[1.0]) for method in ("erm", "jtt"))
    assert np.allclose(erm.weight, jtt.weight)


def test_dfr_learns_from_the_balanced_set_alone():
    head = trained("dfr", draws=3)
    other = train_head("dfr", TRAIN[0], 1 - TRAIN[1], None, seed=0, balanced=BALANCED, draws=3)
    assert np.allclose(head.weight, other.weight), "wrong training labels change nothing"


def test_balanced_draws_hold_as_many_of_each_group_as_the_smallest_has():
    sample = make_sample("", *TRAIN, None)
    drawn = balanced_subset(sample, np.random.default_rng(0))
    assert np.bincount(sample.group[drawn]).tolist() == [np.bincount(TRAIN[2]).min()] * 4
    assert len(np.unique(drawn)) == len(drawn)


def test_whole_foregrounds_of_every_label_are_held_out():
    foregrounds = np.array([f"{label}-{row // 2 % 10}" for row, label in enumerate(TRAIN[1])])
    sample = make_sample("", *TRAIN, foregrounds)
    held = held_out_part(sample, share=0.3, seed=0)
    assert not set(sample.foreground[held]) & set(sample.foreground[~held])
    for label in (0, 1):
        assert len(set(sample.foreground[held & (sample.label == label)])) == 3


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_pictures_does_not_matter(method):
    order = np.random.default_rng(3).permutation(200)
    shuffled = train_head(method, *(each[order] for each in TRAIN), seed=0, balanced=BALANCED)
    assert np.allclose(shuffled.weight, trained(method).weight, atol=1e-6)


def test_the_penalty_is_the_strongest_where_nothing_can_be_held_out():
    alone = train_head("erm", TRAIN[0], TRAIN[1], None, seed=0, foregrounds=TRAIN[1], penalties=[0.1, 3.0, 1.0])
    assert alone.penalty == 3.0


def test_a_constant_feature_is_harmless():
    features = np.column_stack([TRAIN[0], np.full(200, 7.0)])
    assert np.isfinite(train_head("erm", features, TRAIN[1], None, seed=0).weight).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magic"}, "method must be one of erm, group_balanced"),
        ({"penalties": []}, "penalties must be numbers of at least"),
        ({"upweights": [0.5]}, "upweights must be numbers of at least 1"),
        ({"held_out_share": 1.0}, "held_out_share must be between 0 and 1"),
        ({"dro_rate": -1}, "dro_rate must be at least 0"),
        ({"first_steps": 0}, "first_steps must be at least 1"),
        ({"method": "group_dro", "groups": None}, "groups must be given for group_dro"),
        ({"method": "dfr"}, "balanced must hold the features, classes and groups"),
        ({"method": "dfr", "balanced": (BALANCED[0][:, :2], *BALANCED[1:])}, "balanced features must be 3 wide"),
        ({"method": "dfr", "balanced": (BALANCED[0], BALANCED[1] + 1, BALANCED[2])}, "must hold the classes"),
        ({"features": np.full((200, 3), np.nan)}, "features must be finite, got 200 rows"),
        ({"features": np.zeros((5, 3))}, "classes must have one value for each of 5 rows"),
        ({"classes": np.zeros(200)}, "classes must hold at least 2 labels"),
    ],
)
def test_mistakes_are_named(changes, message):
    given = {"method": "erm", "features": TRAIN[0], "classes": TRAIN[1], "groups": TRAIN[2], "seed": 0} | changes
    with pytest.raises(ValueError, match=message):
        train_head(
            given.pop("method"), given.pop("features"), given.pop("classes"), given.pop("groups"), **given
        )  # fmt: skip


def test_a_head_refuses_other_features():
    with pytest.raises(ValueError, match=r"shape \(n, 3\), got \(4, 2\)"):
        trained("erm").predict(np.zeros((4, 2)))
