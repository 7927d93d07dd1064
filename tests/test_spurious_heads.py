"""Heads compared on toy features: an object's and a background's, each in a column of its own."""

import numpy as np
import pandas as pd
import pytest

from d3s_utils import spurious_heads
from d3s_utils.spurious_heads import compare_heads
from d3s_utils.spurious_sets import draw_training_set, reserve_foregrounds
from d3s_utils.spurious_task import tie

CLASSES, BACKGROUNDS = ("bird", "dog", "fish"), ("cave", "grass", "sand", "snow")
TABLE = pd.DataFrame([
    {"superclass": name, "background": background, "foreground_id": f"{name}-{split}-{number}", "split": split}
    for split, count in (("train", 12), ("val", 6)) for name in CLASSES for number in range(count)
    for background in BACKGROUNDS
])  # fmt: skip
TIE = tie(CLASSES, BACKGROUNDS, seed=0)
RESERVED = reserve_foregrounds(TABLE, share=0.5, seed=0)
TRAINING = draw_training_set(TABLE, TIE, correlation=1, size=18, seed=0, among=~RESERVED)
RANDOM = np.random.default_rng(0)
OBJECT = np.eye(3)[TABLE["superclass"].map(CLASSES.index)] + RANDOM.normal(0, 0.4, (len(TABLE), 3))
SCENE = 3 * np.eye(4)[TABLE["background"].map(BACKGROUNDS.index)] + RANDOM.normal(0, 0.1, (len(TABLE), 4))
FEATURES = {"all": np.hstack([OBJECT, SCENE]), "foreground": OBJECT, "background": SCENE}
METHODS = ("erm", "group_balanced", "group_dro", "dfr")


@pytest.fixture(scope="module")
def compared():
    return compare_heads(
        TABLE, FEATURES, TIE, training=TRAINING, balanced=np.flatnonzero(RESERVED), seed=0, methods=METHODS,
        penalties=[0.1],
    )  # fmt: skip


def test_the_background_misleads_those_who_see_it_and_are_told_nothing(compared):
    value = compared[0].set_index(["head", "measure"])["value"]
    assert value["background/erm", "matching"] == 1
    assert value["background/erm", "non_matching"] == 0
    assert value["all/erm", "matching"] - value["all/erm", "non_matching"] > 0.5
    assert abs(value["foreground/erm", "matching"] - value["foreground/erm", "non_matching"]) < 0.2


@pytest.mark.parametrize("method", ["group_balanced", "group_dro", "dfr"])
def test_balanced_pictures_help_those_who_are_given_them(compared, method):
    value = compared[0].set_index(["head", "measure"])["value"]
    assert value[f"all/{method}", "non_matching"] > value["all/erm", "non_matching"] + 0.3


def test_all_heads_are_tested_on_the_same_pictures(compared):
    outcomes = compared[1]
    assert outcomes.groupby("head").size().tolist() == [6 * 3 * 4] * 12
    assert outcomes.groupby("picture")["foreground_id"].nunique().eq(1).all()


def test_erm_does_not_depend_on_the_balanced_pictures(compared):
    other, _ = compare_heads(
        TABLE, FEATURES, TIE, training=TRAINING, balanced=TRAINING, seed=0, methods=["erm"], penalties=[0.1]
    )
    erm = compared[0][compared[0]["method"] == "erm"].reset_index(drop=True)
    pd.testing.assert_frame_equal(erm, other.reset_index(drop=True))


def test_each_method_is_told_which_object_an_image_shows(monkeypatch):
    train, told = spurious_heads.train_head, []
    monkeypatch.setattr(spurious_heads, "train_head", lambda *a, **o: (told.append((a[0], o)), train(*a, **o))[1])
    balanced, objects = np.flatnonzero(RESERVED), TABLE["foreground_id"].to_numpy()
    features = {"foreground": OBJECT}
    compare_heads(TABLE, features, TIE, training=TRAINING, balanced=balanced, seed=0, methods=METHODS, penalties=[0.1])
    assert [method for method, _ in told] == list(METHODS)
    for method, options in told:
        learned = np.concatenate([TRAINING, balanced]) if method in ("group_balanced", "group_dro") else TRAINING
        assert options["foregrounds"].tolist() == objects[learned].tolist()
        assert options["balanced"][3].tolist() == objects[balanced].tolist()


def test_the_duality_gap_of_group_dro_is_told_and_of_no_other(compared):
    rows = compared[0].set_index("method")
    assert rows.loc["group_dro", "dro_gap"].between(0, 0.01).all()
    assert (rows.loc["group_dro", "dro_steps"] >= 0).all()
    assert rows.drop(index="group_dro")[["dro_gap", "dro_steps"]].isna().all(axis=None)
