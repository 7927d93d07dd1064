"""Five ways to train a head, on data where the right answers are known."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from d3s_utils import group_robustness
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


TRAIN, TEST = biased(200, 10), biased(2000, 1000, seed=1)
BALANCED = (*biased(120, 60, seed=2), np.arange(120))
HARD = (np.where((TRAIN[2] == 3)[:, None], TRAIN[0] * [-0.5, 1, 1], TRAIN[0]), *TRAIN[1:])  # one large group misleads


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


def losses_of(head, data=TRAIN):
    """Losses by group of a head on its training pictures, and its penalty: half of the squared standardised weights."""
    features, labels, groups = data
    scores = head.scores(features)
    own = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(labels)), labels]
    weight = head.weight * np.where(features.std(0) > 0, features.std(0), 1)
    return np.array([own[groups == group].mean() for group in np.unique(groups)]), np.square(weight).sum() / 2


def least_worst_loss(features, labels, groups, penalty):
    """The oracle: min t + penalty / 2 |W|^2 where every group's loss is at most t, by SLSQP."""
    x, width = standardised(features), features.shape[1]

    def group_losses_of(flat):
        scores = x @ flat[: 2 * width].reshape(2, width).T + flat[2 * width : -1]
        own = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(labels)), labels]
        return np.array([own[groups == group].mean() for group in np.unique(groups)])

    start = np.append(np.zeros(2 * width + 2), 1.0)
    found = minimize(
        lambda flat: flat[-1] + penalty / 2 * np.square(flat[: 2 * width]).sum(), start,
        constraints={"type": "ineq", "fun": lambda flat: flat[-1] - group_losses_of(flat)}, method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-12},
    )  # fmt: skip
    assert found.success
    return found.x[-1], found.fun


@pytest.mark.parametrize("data", [TRAIN, HARD])
@pytest.mark.parametrize("penalty", [1.0, 0.1, 0.01])
def test_group_dro_ends_at_the_least_worst_loss(penalty, data):
    worst, objective = least_worst_loss(*data, penalty)
    head = train_head("group_dro", *data, seed=0, penalties=[penalty], dro_gap=0.001)
    losses, squares = losses_of(head, data)
    assert head.gap <= 0.001
    assert losses.max() + penalty * squares == pytest.approx(objective, rel=0.0011)
    assert losses.max() + penalty * squares >= objective * (1 - 1e-6)
    assert losses.max() == pytest.approx(worst, rel=0.02)


@pytest.mark.parametrize("penalty", [0.1, 0.01])
def test_group_dro_goes_further_than_group_balancing(penalty):
    worst = [
        losses_of(train_head(method, *HARD, seed=0, penalties=[penalty]), HARD)[0].max()
        for method in ("group_dro", "group_balanced")
    ]
    assert worst[0] < 0.95 * worst[1]


def test_the_gap_is_that_between_the_worst_group_and_the_dual():
    """Nothing but the biases can learn. Group 0 is all label 0, group 1 a quarter: both lose log 2 at even odds."""
    labels, groups = np.array([0] * 4 + [0, 1, 1, 1]), np.repeat([0, 1], 4)
    data = (np.zeros((8, 2)), labels, groups)
    balanced = train_head("group_dro", *data, seed=0, penalties=[1.0], dro_steps=0)
    odds = (1 + 1 / 4) / 2  # the share of label 0, groups counting the same
    each = [-np.log(odds), -np.log(odds) / 4 - 3 * np.log(1 - odds) / 4]
    assert losses_of(balanced, data)[0] == pytest.approx(each, abs=1e-4)
    assert balanced.gap == pytest.approx((each[1] - np.mean(each)) / each[1], abs=1e-4)
    for gap in (0.1, 0.01, 0.001):
        head = train_head("group_dro", *data, seed=0, penalties=[1.0], dro_gap=gap)
        assert 0 <= head.gap <= gap
        assert np.log(2) * (1 - 1e-6) <= losses_of(head, data)[0].max() <= np.log(2) / (1 - gap) + 1e-6


def test_more_steps_do_not_lower_the_worst_loss_further():
    penalised = []
    for steps in (0, 1, 5, 20, 60):
        head = train_head("group_dro", *HARD, seed=0, penalties=[0.1], dro_gap=1e-4, dro_steps=steps)
        losses, squares = losses_of(head, HARD)
        penalised.append(losses.max() + 0.1 * squares)
    assert np.all(np.diff(penalised) <= 1e-9)
    assert penalised[0] > 1.1 * penalised[-1]
    assert penalised[3] == pytest.approx(penalised[4], rel=1e-4)


def test_each_step_of_group_dro_is_the_exponential_of_the_losses_that_it_leads_to():
    head = trained("group_dro", penalties=[0.1], dro_rate=7.0, dro_steps=1, dro_gap=0.0)
    sample = make_sample("", standardised(TRAIN[0]), *TRAIN[1:], None)
    uniform = np.full(4, 0.25)
    start = minimise(sample.features, sample.onehot, sample.spread(uniform), 0.1, tolerance=1e-9)
    objective = group_losses(sample.features, sample.onehot, start, sample.group).mean()
    objective += 0.05 * np.square(start[:, :-1]).sum()
    there = minimise(sample.features, sample.onehot, sample.spread(head.weight_path[1]), 0.1, tolerance=1e-9)
    q = np.exp(7.0 / objective * group_losses(sample.features, sample.onehot, there, sample.group))
    assert head.weight_path.shape == (2, 4)
    assert head.weight_path[0] == pytest.approx(uniform)
    assert head.weight_path[1] == pytest.approx(q / q.sum(), abs=1e-4)


@pytest.mark.parametrize("nothing", [{"dro_rate": 0}, {"dro_steps": 0}])
def test_group_dro_without_a_rate_or_a_step_is_group_balanced(nothing):
    still = trained("group_dro", penalties=[0.01], **nothing)
    balanced = trained("group_balanced", penalties=[0.01])
    assert np.allclose(still.scores(TEST[0]), balanced.scores(TEST[0]), atol=1e-2)
    assert np.isnan(balanced.gap)
    assert still.gap > 0.05


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


def crossed(objects, backgrounds, noise, *, wrong=0, seed=0):
    """Objects of two classes, each before every background; each `wrong`-th of a class bears the other's label."""
    random = np.random.default_rng(seed)
    classes = np.arange(objects) % 2
    looks = random.normal(size=(objects, 40))
    looks[:, :10] += 0.7 * (2 * classes[:, None] - 1)
    labels = np.where(np.arange(objects) // 2 % wrong == 0, 1 - classes, classes) if wrong else classes
    features = np.repeat(looks, backgrounds, axis=0) + noise * random.normal(size=(objects * backgrounds, 40))
    labels, scene = np.repeat(labels, backgrounds), np.tile(np.arange(backgrounds), objects)
    return features, labels, labels * backgrounds + scene, np.repeat(np.arange(objects), backgrounds)


def test_no_object_is_held_out_and_learned_from_and_every_group_is_on_both_sides():
    sample = make_sample("", *crossed(20, 5, 0.1))
    held = held_out_part(sample, share=0.25, seed=0, within="group")
    assert not set(sample.foreground[held]) & set(sample.foreground[~held])
    per_group = np.bincount(sample.group[held]), np.bincount(sample.group[~held])
    assert per_group[0].tolist() == [2] * 10, "round(0.25 x 10) objects of each group"
    assert per_group[1].tolist() == [8] * 10


def test_a_group_keeps_an_object_where_few_were_kept():
    rows = np.array([(f, g) for f in range(12) for g in range(6) if (f + g) % 3 == 0 or g == 0] + [(12, 6)])
    labels = np.where(rows[:, 1] < 3, 0, 1)
    sample = make_sample("", np.random.default_rng(0).normal(size=(len(rows), 2)), labels, rows[:, 1], rows[:, 0])
    for seed in range(20):
        held = held_out_part(sample, share=0.4, seed=seed, within="group")
        assert held.any()
        assert set(sample.group[~held]) == set(range(7)), "no group is held out as a whole"
        assert not set(sample.foreground[held]) & set(sample.foreground[~held])


def test_dfr_judges_its_penalty_on_objects_that_it_did_not_learn_from(monkeypatch):
    seen = []
    score = group_robustness._score
    learner = group_robustness._learner
    monkeypatch.setattr(group_robustness, "_score", lambda s, h, **o: (seen.append(s), score(s, h, **o))[1])
    monkeypatch.setattr(group_robustness, "_learner", lambda m, s, o: (seen.append(s), learner(m, s, o))[1])
    data = crossed(24, 5, 0.1)
    train_head("dfr", *data[:2], None, seed=0, balanced=data)
    learned, judged = set(seen[0].foreground), set(seen[1].foreground)
    assert len(judged) == 6
    assert not learned & judged
    assert learned | judged == set(range(24))


def test_dfr_takes_the_penalty_that_is_best_for_new_objects():
    """Every fifth object bears the wrong label: a weak penalty learns it by heart, for all backgrounds of the object.

    So it errs on other objects, but not on other pictures of the same ones.
    """
    penalties, chosen, leaking, gains = (1e-4, 1.0), [], [], []
    for seed in range(6):
        data, new = crossed(40, 4, 0.05, wrong=5, seed=seed), crossed(400, 4, 0.05, seed=100 + seed)
        heads = [train_head("dfr", *data[:2], None, seed=0, balanced=data, penalties=[p]) for p in penalties]
        gains.append(np.diff([(head.predict(new[0]) == new[1]).mean() for head in heads])[0])
        for balanced, found in ((data, chosen), ((*data[:3], np.arange(160)), leaking)):
            head = train_head("dfr", *data[:2], None, seed=0, balanced=balanced, penalties=penalties)
            found.append(head.penalty)
    assert min(gains) > 0.05
    assert leaking == [1e-4] * 6, "if pictures of one object are on both sides"
    assert chosen.count(1.0) >= 5


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
        ({"dro_gap": -0.1}, "dro_gap must be at least 0"),
        ({"first_steps": 0}, "first_steps must be at least 1"),
        ({"method": "group_dro", "groups": None}, "groups must be given for group_dro"),
        ({"method": "dfr"}, "balanced must hold the features, classes, groups and foregrounds"),
        ({"method": "dfr", "balanced": BALANCED[:3]}, "balanced must hold the features, classes, groups and foreg"),
        ({"method": "dfr", "balanced": (BALANCED[0][:, :2], *BALANCED[1:])}, "balanced features must be 3 wide"),
        ({"method": "dfr", "balanced": (BALANCED[0], BALANCED[1] + 1, *BALANCED[2:])}, "must hold the classes"),
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
