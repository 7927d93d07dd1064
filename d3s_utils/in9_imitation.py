"""An ImageNet-9 of a run's own: which images stand for each class on its home, and on the homes of other classes.

Original photos tie a class to a background: fish are seen in water. Generated images have no such tie, so the imitation
makes one: each class stands on one background, its home. Cut-outs also bring along a rim of the background that they
were cut from, so an object on another image of its class stands on what its rim shows already. Permuted homes have
these rims too, but no tie; what they leave of a gap is taken off (see `controlled_gap`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from d3s_utils.randomness import numpy_generator
from d3s_utils.taxonomy import BACKGROUNDS, IN9

# Superclass -> a background that it is commonly seen on. Each but those of dog and primate is also clearly more common
# on photos of its superclass than on those of the other eight, says the background classifier about 2,795 ImageNet
# photos that it was not trained on. Of these two it mostly says indoors, of close-ups that show no place as well.
HOMES = {
    "dog": "grass", "bird": "water", "wheeled vehicle": "road", "reptile": "sand", "carnivore": "grass",
    "insect": "forest", "musical instrument": "indoors", "primate": "forest", "fish": "water",
}  # fmt: skip
OUTLINES, STAND_INS = ("grabcut", "file"), ("ellipse",)  # kinds of masks: of the object itself, and what replaces one
CONTROLS = 4  # permutations of the homes
DRAWS = 3  # backgrounds of its class, and of a random class, that an object gets for the gap
LEAST_PAIRED = 20  # objects with an outline, at home and elsewhere, for results to be about them alone
_DRAWN = 2000  # permutations that are looked through for those that move every class


class TooFewImagesError(ValueError):
    """Too few validated images stand at home to imitate the challenge; the message says how many."""


def images_at(validated: pd.DataFrame, homes: Mapping[str, str]) -> pd.DataFrame:
    """Return the validated images that stand on the home of their class, one of each foreground, by image id.

    Both splits are used, since nothing is trained on them here.

    Args:
        validated: Notebook 03's ``validated.parquet``.
        homes: Superclass -> background; other classes are left out.
    """
    rows = validated[validated["keep"].astype(bool) & validated["in9"].isin(list(homes))]
    rows = rows[rows["background"] == rows["in9"].map(dict(homes))]
    return rows.sort_values("image_id").drop_duplicates("foreground_id").reset_index(drop=True)


def choose_objects(at_home: pd.DataFrame, *, limit: int, seed: int) -> pd.DataFrame:
    """Return some of the images at home, evenly over superclasses: cut-outs with an outline first, then the others.

    Args:
        at_home: From `images_at`, with a column `mask`: one of `OUTLINES` or `STAND_INS`.
        limit: Greatest number in all, but two a superclass at least.
        seed: Decides which, where there are more.

    Returns:
        Rows of `at_home`, in order of superclass and image id; superclasses with a single image are left out.

    Raises:
        TooFewImagesError: If fewer than two superclasses have two images: every variant needs another one.
    """
    classes = [name for name in IN9 if name in set(at_home["in9"])]
    each = max(2, limit // max(1, len(classes)))
    parts = [at_home[at_home["in9"] == name].sort_values("image_id") for name in classes]
    parts = [_first(rows, each, seed=seed, name=name) for name, rows in zip(classes, parts, strict=True)]
    parts = [part for part in parts if len(part) >= 2]
    if len(parts) < 2:
        raise TooFewImagesError(
            f"validated must hold two images of two superclasses at home, got {len(at_home)} images of {len(classes)}: "
            "look at the reasons in notebook 03_validation, or choose other `homes`"
        )
    return pd.concat(parts, ignore_index=True)


def permuted_homes(homes: Mapping[str, str], *, number: int = CONTROLS, seed: int) -> list[dict[str, str]]:
    """Return assignments that give each class the home of another one: the homes permuted over classes.

    The backgrounds in all stay the same, so a random class's background is as random as before. Classes that share a
    home may get each other's, which moves neither. Permutations that move every class come first; where there is none,
    as when most classes share a home, those come that leave the fewest where they are.

    Args:
        homes: Superclass -> background.
        number: Greatest number of assignments; fewer come back where there are no more, none where all share a home.
        seed: Decides which.

    Returns:
        Different assignments, superclass -> background, that move two classes at least.
    """
    names, random = list(homes), numpy_generator(seed, "permuted homes")
    moved: dict[tuple[str, ...], int] = {}
    for _ in range(_DRAWN):
        given = tuple(homes[names[place]] for place in random.permutation(len(names)))
        moved.setdefault(given, sum(new != homes[name] for name, new in zip(names, given, strict=True)))
    ranked = sorted(filter(moved.get, moved), key=moved.get, reverse=True)  # stable: of equal ones the first drawn
    return [dict(zip(names, given, strict=True)) for given in ranked[:number]]


def control_images(
    elsewhere: pd.DataFrame, chosen: Sequence[str], *, each: Mapping[str, int], seed: int
) -> pd.DataFrame:
    """Return images on permuted homes: of the chosen foregrounds, and further ones to lend their backgrounds.

    Without the further ones a class of which few foregrounds are valid there would have too few backgrounds.

    Args:
        elsewhere: From `images_at` with an assignment of `permuted_homes`.
        chosen: Foregrounds of `choose_objects`.
        each: Superclass -> number of images wanted.
        seed: Decides which, where there are more.

    Returns:
        Rows of `elsewhere`; superclasses with a single image are left out.
    """
    parts = []
    for name, rows in elsewhere.groupby("in9", sort=False):
        is_chosen = rows["foreground_id"].isin(list(chosen))
        others = _first(rows[~is_chosen], max(0, each.get(name, 0) - is_chosen.sum()), seed=seed, name=name)
        parts.append(pd.concat([rows[is_chosen], others]))
    parts = [part for part in parts if len(part) >= 2]
    return pd.concat(parts, ignore_index=True) if parts else elsewhere.head(0)


def paired_objects(cut_outs: pd.DataFrame, kinds: Sequence[str]) -> list[str]:
    """Return the foregrounds that stand at home and on another class's home, cut out both times by one of `kinds`.

    Args:
        cut_outs: See `imitated_challenge.Imitation`.
        kinds: Of `OUTLINES` and `STAND_INS`.
    """
    rows = cut_outs[cut_outs["mask"].isin(list(kinds)) & cut_outs["counts"]]
    at_home, elsewhere = (set(rows.loc[part, "foreground_id"]) for part in (rows["control"] == 0, rows["control"] > 0))
    return sorted(at_home & elsewhere)


def headline_kinds(cut_outs: pd.DataFrame) -> tuple[str, ...]:
    """Return the kinds of masks that results are about: outlines, or all where outlines are too few to compare.

    Args:
        cut_outs: See `imitated_challenge.Imitation`.
    """
    return OUTLINES if len(paired_objects(cut_outs, OUTLINES)) >= LEAST_PAIRED else (*OUTLINES, *STAND_INS)


def _first(rows: pd.DataFrame, number: int, *, seed: int, name: str) -> pd.DataFrame:
    """Return some rows in the order they came: a random choice, those with an outline first where masks are known."""
    order = numpy_generator(seed, "images at home", name).permutation(len(rows))
    if "mask" in rows:
        order = order[np.argsort(~rows["mask"].isin(OUTLINES).to_numpy()[order], kind="stable")]
    return rows.iloc[np.sort(order[:number])]


def check_homes(homes: Mapping[str, str]) -> dict[str, str]:
    """Return `homes` if it maps superclasses to backgrounds.

    Raises:
        ValueError: If it does not; the message names what is allowed.
    """
    for name, background in homes.items():
        if name not in IN9:
            raise ValueError(f"homes must be of {', '.join(IN9)}, got {name!r}")
        if background not in BACKGROUNDS:
            raise ValueError(f"homes[{name!r}] must be one of {', '.join(BACKGROUNDS)}, got {background!r}")
    return dict(homes)
