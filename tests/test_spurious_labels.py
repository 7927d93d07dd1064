"""Which labels a spurious task tells apart, by tables whose classes have a superclass or none."""

import numpy as np
import pandas as pd
import pytest

from d3s_utils.spurious_labels import choose_labels, labels_of, left_out_in_words, nothing_in_words
from d3s_utils.spurious_sets import draw_training_set, reserve_foregrounds
from d3s_utils.spurious_task import tie
from d3s_utils.taxonomy import BACKGROUNDS, IN9, imagenet_class, imagenet_classes


def images_of(train=2, val=1, backgrounds=("grass", "road", "sand"), **repeats):
    """A table of images: `train` and `val` objects of each class, before each background, as often as told."""
    rows = []
    for name, times in repeats.items():
        label = imagenet_class(name)
        for number in range((train + val) * times):
            split = "train" if number < train * times else "val"
            rows += [
                {"in9": label.in9, "imagenet_index": label.index, "class_name": label.name, "split": split,
                 "foreground_id": f"{name}-{number}", "background": background} for background in backgrounds
            ]  # fmt: skip
    return pd.DataFrame(rows)


def kept(found):
    return found.loc[found["kept"], "label"].tolist()


def test_a_class_without_a_superclass_is_called_by_its_own_name():
    table = images_of(tabby=1, school_bus=1, goldfish=1, fig=1)
    names = dict(zip(table["class_name"], labels_of(table), strict=True))
    assert names == {"tabby": "tabby", "school bus": "school bus", "goldfish": "fish", "fig": "fig"}
    missing = table.assign(in9=table["in9"].replace("", None))
    assert labels_of(missing).tolist() == labels_of(table).tolist()


def test_no_label_is_empty_and_no_two_classes_without_a_superclass_share_one():
    every = pd.DataFrame([vars(each) for each in imagenet_classes()]).rename(columns={"index": "imagenet_index"})
    labels = labels_of(every)
    assert "" not in labels
    own = (every["in9"] == "").to_numpy()
    assert len(set(labels[own])) == own.sum() == 630, "two are called maillot, and a bird is called crane as well"
    assert set(labels[~own]) == set(IN9)


def test_a_photo_of_no_known_class_has_no_label():
    photos = pd.DataFrame({"in9": ["dog", "", ""], "imagenet_index": [-1, -1, 779]})
    assert labels_of(photos).tolist() == ["dog", "", "school bus"]


def test_two_classes_without_a_superclass_make_a_task():
    table = images_of(tabby=2, school_bus=2)
    found = choose_labels(table, backgrounds=3)
    assert kept(found) == ["school bus", "tabby"]
    table = table.assign(superclass=labels_of(table))
    tied = tie(kept(found), table["background"].unique(), seed=0)
    reserved = reserve_foregrounds(table, share=0.5, seed=0)
    assert len(draw_training_set(table, tied, correlation=1, size=None, seed=0, among=~reserved)) == 4


def test_superclasses_come_first_and_then_the_most_frequent():
    table = images_of(fig=5, tabby=2, school_bus=3, goldfish=1, great_white_shark=1, lion=1)
    found = choose_labels(table, backgrounds=5)
    assert kept(found) == ["fish", "carnivore", "fig", "school bus"]
    assert found.set_index("label")["images"].to_dict() == {
        "fish": 18, "carnivore": 9, "fig": 45, "school bus": 27, "tabby": 18,
    }  # fmt: skip
    assert found.set_index("label")["classes"].to_dict()["fish"] == "goldfish, great white shark"
    assert kept(choose_labels(table, backgrounds=3)) == ["fish", "carnivore"]
    assert kept(choose_labels(table.sample(frac=1, random_state=0), backgrounds=5)) == kept(found)


def test_all_classes_leave_the_nine_superclasses():
    every = [{"in9": c.in9, "imagenet_index": c.index, "split": split, "foreground_id": f"{c.index}{number}"}
             for c in imagenet_classes() for number, split in enumerate(("train", "train", "val"))]  # fmt: skip
    found = choose_labels(pd.DataFrame(every), backgrounds=len(BACKGROUNDS))
    assert sorted(kept(found)) == sorted(IN9)
    words = left_out_in_words(found)
    assert words.startswith("Left out: 630 classes with 1890 images (")
    assert words.endswith("and 622 more).")


def test_what_is_left_out_is_said():
    found = choose_labels(images_of(fig=2, tabby=1, goldfish=1, lion=1), backgrounds=3)
    assert left_out_in_words(found) == "Left out: 2 classes with 27 images (fig, tabby)."
    assert left_out_in_words(choose_labels(images_of(fig=1, tabby=1), backgrounds=3)) == ""


@pytest.mark.parametrize("few", [{"train": 1}, {"val": 0}])
def test_a_label_needs_two_training_objects_and_one_to_test(few):
    """One training object is set aside for the balanced set, another is trained on."""
    table = pd.concat([images_of(fig=1), images_of(tabby=1), images_of(goldfish=1, **{"train": 2, "val": 1} | few)])
    found = choose_labels(table, backgrounds=4)
    assert kept(found) == ["fig", "tabby"]
    assert left_out_in_words(found).startswith("Left out: 1 class with")


def test_one_label_or_two_backgrounds_leave_nothing_to_tie():
    assert kept(choose_labels(images_of(fig=1), backgrounds=10)) == ["fig"]
    assert len(kept(choose_labels(images_of(fig=1, tabby=1), backgrounds=2))) == 1
    assert kept(choose_labels(images_of(fig=1, tabby=1), backgrounds=1)) == []


def test_a_task_needs_two_labels_and_says_so_where_it_has_one():
    one = nothing_in_words(choose_labels(images_of(goldfish=1), backgrounds=3), backgrounds=3)
    assert one.endswith("the run has 1 label (fish) like that and 3 backgrounds")
    none = nothing_in_words(choose_labels(images_of(fig=1, tabby=1), backgrounds=1), backgrounds=1)
    assert none.endswith("the run has 0 labels like that and 1 background")
    assert nothing_in_words(choose_labels(images_of(fig=1, tabby=1), backgrounds=3), backgrounds=3) == ""


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="images must have the columns in9, imagenet_index; it lacks in9"):
        labels_of(pd.DataFrame({"imagenet_index": [1]}))
    with pytest.raises(ValueError, match="it lacks foreground_id"):
        choose_labels(images_of(fig=1).drop(columns="foreground_id"), backgrounds=3)
    with pytest.raises(ValueError, match="backgrounds must be at least 1, got 0"):
        choose_labels(images_of(fig=1), backgrounds=0)
    assert np.array_equal(labels_of(images_of(fig=1).head(0)), [])
