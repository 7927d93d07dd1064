"""What a spurious task tells apart: ImageNet-9 superclasses, and classes that have none by their own names."""

from collections import Counter
from functools import cache

import numpy as np
import pandas as pd

from d3s_utils.taxonomy import imagenet_classes

_NAMED = 8  # classes that a sentence names before it counts the rest


def labels_of(images: pd.DataFrame) -> np.ndarray:
    """Return each image's label: its superclass where its class has one, else the class's own name.

    Args:
        images: Has the columns in9 (a name in `taxonomy.IN9`; empty or missing where there is none) and
            imagenet_index (0 to 999, or -1 where it is not known).

    Returns:
        Shape (n,), str. Of two classes without a superclass that have one name, each also bears its synset. An image of
        no superclass and no known class has an empty label.

    Raises:
        ValueError: If a column is missing.
    """
    _require(images, ("in9", "imagenet_index"))
    own, rows = _own_names(), zip(images["in9"].fillna(""), images["imagenet_index"], strict=True)
    return np.array([in9 or own.get(int(index), "") for in9, index in rows], dtype=object)


def choose_labels(images: pd.DataFrame, *, backgrounds: int) -> pd.DataFrame:
    """Choose the labels that can be tied to a background of their own, such that one background is left out.

    A label needs two training objects (one is set aside for the balanced set) and an object to be tested on. Where
    there are too many labels, those that are superclasses come first, then those with more images, then the alphabet.

    Args:
        images: As in `labels_of`, and with the columns split and foreground_id. Images without a label are left aside.
        backgrounds: How many there are, at least 1.

    Returns:
        A row a label, in the order above: label, classes (their names, with commas), class_count, images, kept.

    Raises:
        ValueError: If a column is missing, or `backgrounds` is out of range.
    """
    _require(images, ("in9", "imagenet_index", "split", "foreground_id"))
    if backgrounds < 1:
        raise ValueError(f"backgrounds must be at least 1, got {backgrounds}")
    table = images.assign(label=labels_of(images))
    rows = [_described(label, part) for label, part in table[table["label"] != ""].groupby("label")]
    columns = ["label", "classes", "class_count", "images", "usable", "own_name"]
    found = pd.DataFrame(rows, columns=columns).astype({"usable": bool, "own_name": bool})
    found["fewer"] = -found["images"]
    found["unusable"] = ~found["usable"]
    found = found.sort_values(["unusable", "own_name", "fewer", "label"], ignore_index=True)
    found["kept"] = found["usable"] & (np.arange(len(found)) < backgrounds - 1)
    return found[["label", "classes", "class_count", "images", "kept"]]


def left_out_in_words(labels: pd.DataFrame) -> str:
    """Return which classes `choose_labels` left out, as a sentence; empty where it left out none."""
    gone = labels[~labels["kept"]]
    if gone.empty:
        return ""
    count, names = int(gone["class_count"].sum()), ", ".join(gone["classes"]).split(", ")
    listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return f"Left out: {count} class{'es' * (count > 1)} with {gone['images'].sum()} images ({listed})."


def nothing_in_words(labels: pd.DataFrame, *, backgrounds: int) -> str:
    """Return why the labels that `choose_labels` kept make no task; empty where they make one: where two are kept."""
    kept = labels.loc[labels["kept"], "label"]
    if len(kept) > 1:
        return ""
    there = f"{len(kept)} label{'s' * (len(kept) != 1)}" + (f" ({kept.iloc[0]})" if len(kept) else "")
    return (
        "two labels are needed, each with two training objects, one object to test on and a background of its own, and "
        f"one background more; the run has {there} like that and {backgrounds} background{'s' * (backgrounds != 1)}"
    )


def _described(label: str, part: pd.DataFrame) -> tuple:
    names = sorted({_names()[int(index)] for index in part["imagenet_index"]})
    objects = part.groupby("split")["foreground_id"].nunique()
    usable = objects.get("train", 0) >= 2 and objects.get("val", 0) >= 1
    return label, ", ".join(names), len(names), len(part), usable, not (part["in9"].fillna("") != "").any()


@cache
def _names() -> dict[int, str]:
    return {each.index: each.name for each in imagenet_classes()} | {-1: "unknown"}


@cache
def _own_names() -> dict[int, str]:
    """Return the name of each class without a superclass, by its index."""
    classes = [each for each in imagenet_classes() if not each.in9]
    bearers = Counter(each.name for each in classes)
    return {each.index: f"{each.name} {each.synset}" if bearers[each.name] > 1 else each.name for each in classes}


def _require(images: pd.DataFrame, columns: tuple[str, ...]) -> None:
    missing = [column for column in columns if column not in images]
    if missing:
        raise ValueError(f"images must have the columns {', '.join(columns)}; it lacks {', '.join(missing)}")
