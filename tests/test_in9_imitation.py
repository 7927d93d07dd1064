"""Pictures at home: one background a superclass, one picture a foreground, evenly and by a seed."""

import pandas as pd
import pytest

from d3s_utils.in9_imitation import HOMES, home_of_each, home_pictures
from d3s_utils.taxonomy import BACKGROUNDS, IN9


def made_up(*, superclasses=("fish", "dog", "bird"), foregrounds=6, keep=lambda row: True) -> pd.DataFrame:
    rows = [
        {"image_id": f"{name}-{number}-{background}-{repeat}", "foreground_id": f"{name}-{number}", "in9": name,
         "background": background}
        for name in superclasses for number in range(foregrounds) for background in BACKGROUNDS for repeat in range(2)
    ]  # fmt: skip
    return pd.DataFrame([row | {"keep": keep(row)} for row in rows])


def test_every_superclass_has_a_home_of_its_own():
    assert set(HOMES) == set(IN9)
    assert len(set(HOMES.values())) == 9
    assert set(HOMES.values()) < set(BACKGROUNDS)


def test_they_stand_at_home_once_each():
    found = home_pictures(made_up(), limit=100, seed=0)
    assert len(found) == 18
    assert found["foreground_id"].is_unique
    assert dict(zip(found["in9"], found["background"], strict=True)) == {k: HOMES[k] for k in ("fish", "dog", "bird")}


def test_a_limit_is_spread_over_classes_and_chosen_by_the_seed():
    table = made_up()
    found = home_pictures(table, limit=9, seed=0)
    assert found["in9"].value_counts().to_dict() == {"fish": 3, "dog": 3, "bird": 3}
    assert home_pictures(table.sample(frac=1, random_state=1), limit=9, seed=0).equals(found)
    others = {tuple(home_pictures(table, limit=9, seed=seed)["image_id"]) for seed in range(5)}
    assert len(others) > 1


def test_where_home_has_nothing_valid_the_fullest_background_is_home():
    def keep(row):
        return not (row["in9"] == "fish" and row["background"] in ("water", "grass"))

    table = made_up(keep=keep)
    table.loc[(table["in9"] == "fish") & ~table["background"].isin(["night", "water", "grass"]) &
              (table["foreground_id"] == "fish-0"), "keep"] = False  # fmt: skip
    assert home_of_each(table)["fish"] == "night"
    assert set(home_pictures(table, limit=100, seed=0).query("in9 == 'fish'")["background"]) == {"night"}


def test_too_little_is_refused():
    with pytest.raises(ValueError, match="two pictures of two superclasses at home, got 6 pictures of 1"):
        home_pictures(made_up(superclasses=["fish"]), limit=10, seed=0)
    with pytest.raises(ValueError, match="got 0 pictures of 0"):
        home_pictures(made_up(keep=lambda row: False), limit=10, seed=0)
