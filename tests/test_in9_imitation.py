"""Images at home and on permuted homes: one a foreground, evenly, outlines first, and what a control may move."""

import pandas as pd
import pytest

from d3s_utils.in9_imitation import (
    HOMES,
    LEAST_PAIRED,
    OUTLINES,
    STAND_INS,
    TooFewImagesError,
    check_homes,
    choose_objects,
    control_images,
    headline_kinds,
    images_at,
    paired_objects,
    permuted_homes,
)
from d3s_utils.taxonomy import BACKGROUNDS, IN9

THREE = {"fish": "water", "dog": "grass", "bird": "sand"}


def made_up(*, superclasses=tuple(THREE), foregrounds=6, keep=lambda row: True) -> pd.DataFrame:
    rows = [
        {"image_id": f"{name}-{number}-{background}-{repeat}", "foreground_id": f"{name}-{number}", "in9": name,
         "background": background}
        for name in superclasses for number in range(foregrounds) for background in BACKGROUNDS for repeat in range(2)
    ]  # fmt: skip
    return pd.DataFrame([row | {"keep": keep(row)} for row in rows])


def at_home(**options) -> pd.DataFrame:
    return images_at(made_up(**options), THREE).assign(mask="grabcut")


def test_every_superclass_has_a_home_that_a_reader_can_believe():
    assert set(HOMES) == set(IN9)
    assert set(HOMES.values()) <= set(BACKGROUNDS)
    assert not {("primate", "rain"), ("reptile", "cave")} & set(HOMES.items())
    assert check_homes(HOMES) == HOMES
    with pytest.raises(ValueError, match=r"homes must be of dog, .*, got 'cat'"):
        check_homes({"cat": "grass"})
    with pytest.raises(ValueError, match=r"homes\['dog'\] must be one of grass, .*, got 'sofa'"):
        check_homes({"dog": "sofa"})


def test_they_stand_at_home_once_each_and_no_other_class_is_there():
    table = pd.concat([made_up(), made_up(superclasses=["insect", ""])])
    found = images_at(table.sample(frac=1, random_state=0), THREE)
    assert len(found) == 18
    assert found["foreground_id"].is_unique
    assert dict(zip(found["in9"], found["background"], strict=True)) == THREE
    assert found.equals(images_at(table, THREE))
    rejected = images_at(made_up(keep=lambda row: row["foreground_id"] != "fish-2"), THREE)
    assert "fish-2" not in set(rejected["foreground_id"])


def test_a_class_without_an_image_at_home_is_left_out_and_gets_no_other_home():
    nowhere = at_home(keep=lambda row: (row["in9"], row["background"]) != ("fish", "water"))
    assert set(choose_objects(nowhere, limit=100, seed=0)["in9"]) == {"dog", "bird"}
    alone = at_home(keep=lambda row: row["in9"] != "fish" or row["foreground_id"] == "fish-1")
    assert set(choose_objects(alone, limit=100, seed=0)["in9"]) == {"dog", "bird"}


def test_a_limit_is_spread_over_classes_and_chosen_by_the_seed():
    table = at_home()
    found = choose_objects(table, limit=9, seed=0)
    assert found["in9"].value_counts().to_dict() == {"fish": 3, "dog": 3, "bird": 3}
    assert choose_objects(table.sample(frac=1, random_state=1), limit=9, seed=0).equals(found)
    others = {tuple(choose_objects(table, limit=9, seed=seed)["image_id"]) for seed in range(5)}
    assert len(others) > 1
    assert len(choose_objects(table, limit=1, seed=0)) == 6, "two a class at least"


def test_objects_with_an_outline_come_first():
    table = at_home()
    has_outline = table["foreground_id"].str[-1].isin(["1", "4"])
    table["mask"] = has_outline.map({True: "file", False: "ellipse"})
    for seed in range(3):
        found = choose_objects(table, limit=9, seed=seed)
        assert (found["mask"] == "file").sum() == 6
        assert found["in9"].value_counts().to_dict() == {"fish": 3, "dog": 3, "bird": 3}


def test_too_little_is_refused():
    with pytest.raises(TooFewImagesError, match="two images of two superclasses at home, got 6 images of 1"):
        choose_objects(at_home(superclasses=["fish"]), limit=10, seed=0)
    with pytest.raises(TooFewImagesError, match="got 0 images of 0"):
        choose_objects(at_home(keep=lambda row: False), limit=10, seed=0)


def test_permuted_homes_are_homes_of_other_classes():
    nine = dict(zip(IN9, BACKGROUNDS, strict=False))
    found = permuted_homes(nine, number=5, seed=0)
    assert len({tuple(homes.items()) for homes in found}) == 5
    for homes in found:
        assert sorted(homes.values()) == sorted(nine.values()), "the same backgrounds in all"
        assert all(homes[name] != nine[name] for name in nine)
    assert permuted_homes(nine, number=5, seed=0) == found
    assert permuted_homes(nine, number=5, seed=1) != found
    assert permuted_homes({"dog": "grass", "fish": "water"}, seed=0) == [{"dog": "water", "fish": "grass"}]


def test_classes_that_share_a_home_do_not_get_it_from_each_other():
    shared = {"dog": "grass", "carnivore": "grass", "fish": "water", "bird": "water"}
    assert (
        permuted_homes(shared, seed=0)
        == [
            {
                "dog": "water",
                "carnivore": "water",
                "fish": "grass",
                "bird": "grass",
            },  # the only one that moves all four
            *permuted_homes(shared, seed=0)[1:],
        ]
    )
    crowded = {"dog": "grass", "carnivore": "grass", "fish": "water"}
    for homes in permuted_homes(crowded, seed=0):
        assert sum(homes[name] != crowded[name] for name in crowded) == 2, "one of the two grass classes has to stay"
    assert permuted_homes({"dog": "grass", "carnivore": "grass"}, seed=0) == []


def test_a_control_holds_the_chosen_objects_and_fills_up_with_others():
    table = images_at(made_up(), {"fish": "sand", "dog": "water", "bird": "grass"})
    chosen = ["fish-0", "fish-1", "dog-0", "bird-0"]
    found = control_images(table, chosen, each={"fish": 2, "dog": 3, "bird": 1}, seed=0)
    assert set(chosen[:3]) <= set(found["foreground_id"])
    assert found["in9"].value_counts().to_dict() == {"dog": 3, "fish": 2}, "one bird alone has no other background"
    assert found["foreground_id"].is_unique


def cut_outs(pairs: int, *, mask: str) -> pd.DataFrame:
    ids = [f"{mask}-{number}" for number in range(pairs)]
    rows = [{"control": control, "foreground_id": name, "mask": mask, "counts": True}
            for name in ids for control in (0, 1)]  # fmt: skip
    return pd.DataFrame(rows, columns=["control", "foreground_id", "mask", "counts"])


def test_pairs_have_the_same_kind_of_mask_on_both_sides_and_count():
    table = pd.concat([cut_outs(3, mask="grabcut"), cut_outs(2, mask="ellipse")], ignore_index=True)
    assert paired_objects(table, OUTLINES) == ["grabcut-0", "grabcut-1", "grabcut-2"]
    assert paired_objects(table, STAND_INS) == ["ellipse-0", "ellipse-1"]
    table.loc[(table["foreground_id"] == "grabcut-0") & (table["control"] == 1), "mask"] = "ellipse"
    table.loc[(table["foreground_id"] == "grabcut-1") & (table["control"] == 1), "counts"] = False
    assert paired_objects(table, OUTLINES) == ["grabcut-2"]


def test_results_are_about_outlines_where_there_are_enough():
    ellipses = cut_outs(50, mask="ellipse")
    assert headline_kinds(pd.concat([cut_outs(LEAST_PAIRED, mask="file"), ellipses])) == OUTLINES
    few = pd.concat([cut_outs(LEAST_PAIRED - 1, mask="file"), ellipses])
    assert headline_kinds(few) == (*OUTLINES, *STAND_INS)
