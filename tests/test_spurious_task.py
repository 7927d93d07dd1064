"""Ties of classes and backgrounds, the training sets drawn from them, and the test pictures sorted by them."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from d3s_utils.spurious_sets import draw_training_set, largest_training_set, reserve_foregrounds
from d3s_utils.spurious_task import Tie, group_ids, test_groups, tie

CLASSES, BACKGROUNDS = ("bird", "dog", "fish"), ("cave", "grass", "sand", "snow")
TIE = Tie(CLASSES, ("sand", "cave", "snow"), ("grass",))
TABLE = pd.DataFrame([
    {"superclass": name, "background": background, "foreground_id": f"{name}-{split}-{number}", "split": split}
    for split, count in (("train", 10), ("val", 2)) for name in CLASSES for number in range(count)
    for background in BACKGROUNDS
])  # fmt: skip


def drawn(correlation, size, table=TABLE, seed=0, **options):
    rows = draw_training_set(table, TIE, correlation=correlation, size=size, seed=seed, **options)
    return table.iloc[rows]


def test_each_class_has_a_background_of_its_own_and_one_is_left_out():
    found = tie(CLASSES, BACKGROUNDS, seed=0)
    assert len(set(found.backgrounds)) == 3
    assert sorted([*found.backgrounds, *found.left_out]) == sorted(BACKGROUNDS)
    assert tie(CLASSES[::-1], BACKGROUNDS[::-1], seed=0) == found, "the order of names does not matter"
    assert len({tie(CLASSES, BACKGROUNDS, seed=seed).backgrounds for seed in range(200)}) == 24  # 4 * 3 * 2


@pytest.mark.parametrize(("correlation", "matching"), [(1, 10), (0.7, 7), (0.5, 5), (1 / 3, 3)])
def test_the_wanted_share_of_each_class_matches(correlation, matching):
    rows = drawn(correlation, 30)
    own = rows["superclass"].map(dict(zip(CLASSES, TIE.backgrounds, strict=True))) == rows["background"]
    assert rows["superclass"].value_counts().to_dict() == dict.fromkeys(CLASSES, 10)
    assert own.groupby(rows["superclass"]).sum().tolist() == [matching] * 3
    assert rows["background"].value_counts().to_dict() == dict.fromkeys(TIE.backgrounds, 10), "never the left-out one"
    assert set(rows["split"]) == {"train"}
    assert not rows.index.has_duplicates


def test_a_larger_set_contains_the_smaller():
    sets = [set(drawn(0.7, size).index) for size in (9, 10, 17, 30)]
    assert all(small < large for small, large in pairwise(sets))


def test_seeds_draw_other_pictures():
    assert set(drawn(0.7, 9).index) != set(drawn(0.7, 9, seed=1).index)
    assert drawn(0.7, 9).index.equals(drawn(0.7, 9).index)


def test_the_largest_set_is_what_the_scarcest_cell_allows():
    scarce = (TABLE["superclass"] == "dog") & (TABLE["background"] == "cave") & (TABLE["split"] == "train")
    table = TABLE.drop(TABLE.index[scarce][4:]).reset_index(drop=True)
    most = largest_training_set(table, TIE, correlation=1, seed=0)
    assert 12 <= most <= 14  # four dogs, and at most five of the classes whose turn comes first
    assert len(drawn(1, None, table=table)) == most
    with pytest.raises(ValueError, match=f"size must be at most {most} at correlation 1, got 30: class 'dog'"):
        drawn(1, 30, table=table)


def test_reserved_foregrounds_are_whole_and_of_every_class():
    reserved = reserve_foregrounds(TABLE, share=0.4, seed=0)
    assert TABLE[reserved].groupby("superclass")["foreground_id"].nunique().tolist() == [4, 4, 4]
    assert reserved.sum() == 4 * 3 * 4
    rest = set(drawn(0.5, 18, among=~reserved)["foreground_id"])
    assert not rest & set(TABLE.loc[reserved, "foreground_id"])


def test_groups_are_numbered_by_class_and_background():
    groups = group_ids(["bird", "dog", "fish"], ["cave", "grass", "snow"], TIE)
    assert groups.tolist() == [0, 5, 11]
    assert TIE.group_name(5) == "dog × grass"
    assert TIE.training_groups == (0, 2, 3, 4, 6, 7, 8, 10, 11)


def test_tested_pictures_are_sorted_by_what_their_background_says():
    photo = pd.DataFrame({"superclass": ["dog"], "background": [None], "foreground_id": ["p"], "split": ["photo"]})
    table = pd.concat([TABLE, photo], ignore_index=True)
    found = test_groups(table, TIE)
    assert found["kind"].value_counts().to_dict() == {"non_matching": 12, "matching": 6, "left_out": 6, "photo": 1}
    assert found[found["kind"] == "left_out"]["background"].unique().tolist() == ["grass"]
    dogs = found[(found["superclass"] == "dog") & (found["kind"] == "matching")]
    assert set(dogs["background"]) == {"cave"}
    assert set(dogs["group"]) == {4}
    assert found.iloc[-1][["row", "group"]].tolist() == [len(TABLE), -1]
    assert (table["split"].to_numpy()[found["row"]] != "train").all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tie(CLASSES, CLASSES, seed=0), "backgrounds must be more than the 3 classes"),
        (lambda: tie(["a"], BACKGROUNDS, seed=0), "classes must be at least 2"),
        (lambda: tie(["a", "a"], BACKGROUNDS, seed=0), "classes must differ"),
        (lambda: drawn(0.2, 9), "correlation must be between chance"),
        (lambda: drawn(1, 2), "size must be an integer of at least 3"),
        (lambda: drawn(1, 9, among=np.ones(3, bool)), "among must be 144 booleans"),
        (lambda: drawn(1, 9, table=TABLE.drop(columns="split")), "table must have the columns"),
        (lambda: reserve_foregrounds(TABLE, share=1, seed=0), "share must be between 0 and 1"),
        (lambda: group_ids(["cat"], ["cave"], TIE), "classes must be among those of the tie"),
        (lambda: test_groups(TABLE[TABLE["split"] == "train"], TIE), "must have a row of split val"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
