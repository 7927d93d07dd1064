"""A task where the background gives the class away: classes tied to backgrounds, and what to test them on.

Kattakinda, Levine, Feizi 2022 (arXiv:2211.10370) train linear heads only on pictures whose background is the one tied
to their class; `spurious_sets` draws such training sets, also less than fully correlated ones.
"""

from collections.abc import Collection, Hashable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from d3s_utils.randomness import numpy_generator

COLUMNS = ("superclass", "background", "foreground_id", "split")
KINDS = ("matching", "non_matching", "left_out", "photo")


@dataclass(frozen=True)
class Tie:
    """Which background belongs to which class.

    Attributes:
        classes: The classes, in their sorted order.
        backgrounds: The background of each class, each another one.
        left_out: Backgrounds that no class is tied to (one of ten, for nine classes), sorted; never trained on.
    """

    classes: tuple[Hashable, ...]
    backgrounds: tuple[Hashable, ...]
    left_out: tuple[Hashable, ...]

    @property
    def chance(self) -> float:
        """The correlation at which the tied backgrounds tell nothing about the class: one over their number."""
        return 1 / len(self.classes)

    @property
    def all_backgrounds(self) -> tuple[Hashable, ...]:
        """All backgrounds, the left-out ones too, sorted."""
        return tuple(sorted([*self.backgrounds, *self.left_out]))

    @property
    def training_groups(self) -> tuple[int, ...]:
        """The groups (see `group_ids`) that a training set may hold: every class on every tied background."""
        width, places = len(self.all_backgrounds), [self.all_backgrounds.index(name) for name in self.backgrounds]
        return tuple(sorted(number * width + place for number in range(len(self.classes)) for place in places))

    def group_name(self, group: int) -> str:
        """Return what a group is called, such as ``dog × grass``."""
        number, place = divmod(int(group), len(self.all_backgrounds))
        return f"{self.classes[number]} × {self.all_backgrounds[place]}"


def tie(classes: Collection[Hashable], backgrounds: Collection[Hashable], *, seed: int) -> Tie:
    """Tie each class to a background of its own, drawn without replacement.

    Args:
        classes: At least two, such as the nine ImageNet-9 superclasses. Their order does not matter.
        backgrounds: More of them than classes, such as the ten of D3S. Their order does not matter.
        seed: Of the permutation.

    Raises:
        ValueError: If a name comes twice, there are fewer than two classes, or no background would be left out.
    """
    for name, given in (("classes", classes), ("backgrounds", backgrounds)):
        if len(set(given)) != len(given):
            raise ValueError(f"{name} must differ from each other, got {list(given)}")
    if len(classes) < 2:
        raise ValueError(f"classes must be at least 2, got {len(classes)}")
    if len(backgrounds) <= len(classes):
        raise ValueError(
            f"backgrounds must be more than the {len(classes)} classes, so that one is left out, got {len(backgrounds)}"
        )
    names = sorted(backgrounds)
    order = numpy_generator(seed, "spurious tie").permutation(len(names))
    drawn = [names[place] for place in order]
    return Tie(tuple(sorted(classes)), tuple(drawn[: len(classes)]), tuple(sorted(drawn[len(classes) :])))


def group_ids(classes: ArrayLike, backgrounds: ArrayLike, tie: Tie) -> np.ndarray:
    """Number each picture's group, class × background: the class's place times all backgrounds plus the background's.

    Args:
        classes, backgrounds: Shape (n,).

    Returns:
        Shape (n,), int64; `Tie.group_name` tells what they mean.

    Raises:
        ValueError: If lengths differ, or a class or background is not in the tie.
    """
    classes, backgrounds = np.asarray(classes), np.asarray(backgrounds)
    if classes.shape != backgrounds.shape or classes.ndim != 1:
        raise ValueError(f"classes and backgrounds must have one shape (n,), got {classes.shape}, {backgrounds.shape}")
    names = tie.all_backgrounds
    first, second = (
        _places(*each) for each in (("classes", classes, tie.classes), ("backgrounds", backgrounds, names))
    )
    return first * len(names) + second


def test_groups(table: pd.DataFrame, tie: Tie) -> pd.DataFrame:
    """Sort the tested pictures into pairs that match the tie, pairs that break it, left-out backgrounds, and photos.

    Args:
        table: As in `spurious_sets.draw_training_set`; the rows of split ``val`` whose class is in the tie are taken,
            and those of split ``photo``: real photos, whose background nobody named.

    Returns:
        A row a picture: row (its position in `table`), superclass, background, foreground_id, kind (of `KINDS`),
        group (see `group_ids`; -1 for photos). A cell without a picture has no row, nor has a class that is not there.

    Raises:
        ValueError: If a column is missing, no picture is left, or a background is not in the tie.
    """
    require_columns(table)
    photos = (table["split"] == "photo").to_numpy(bool)
    chosen = (((table["split"] == "val") | photos) & table["superclass"].isin(tie.classes)).to_numpy(bool)
    if not (chosen & ~photos).any():
        raise ValueError("table must have a row of split val whose superclass is in the tie, got none")
    found = table.loc[chosen, ["superclass", "background", "foreground_id"]].reset_index(drop=True)
    found.insert(0, "row", np.flatnonzero(chosen))
    pairs = ~photos[chosen]
    groups = np.full(len(found), -1)
    groups[pairs] = group_ids(found.loc[pairs, "superclass"], found.loc[pairs, "background"], tie)
    own = found["superclass"].map(dict(zip(tie.classes, tie.backgrounds, strict=True))) == found["background"]
    kind = np.where(found["background"].isin(tie.left_out), "left_out", np.where(own, "matching", "non_matching"))
    return found.assign(kind=np.where(pairs, kind, "photo"), group=groups)


test_groups.__test__ = False  # pytest would take it for a test where it is imported


def _places(name: str, values: np.ndarray, known: tuple) -> np.ndarray:
    place = {each: number for number, each in enumerate(known)}
    unknown = [value for value in pd.unique(values) if value not in place]
    if unknown:
        raise ValueError(f"{name} must be among those of the tie ({', '.join(map(str, known))}), got {unknown[0]!r}")
    return np.array([place[value] for value in values.tolist()], dtype=np.int64)


def require_columns(table: pd.DataFrame) -> None:
    """Refuse a table that lacks one of `COLUMNS`."""
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise ValueError(f"table must have the columns {', '.join(COLUMNS)}; it lacks {', '.join(missing)}")
