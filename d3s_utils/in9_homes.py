"""The home of each class of an imitated ImageNet-9: told by the user, by real photos, or by a built-in list."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import confint_proportions_2indep

from d3s_utils.background_classifier import load_background_head
from d3s_utils.classifiers import look
from d3s_utils.in9_imitation import HOMES, check_homes
from d3s_utils.intervals import wilson
from d3s_utils.randomness import numpy_generator
from d3s_utils.reference_photos import find_reference_photos
from d3s_utils.taxonomy import BACKGROUNDS, IN9

LEAST_PHOTOS = 10  # of a superclass, for its photos to tell a home
BY_SETTING, BY_PHOTOS, BUILT_IN = "setting", "photos", "built-in list"
_OF_PHOTOS = ["in9", "background", "share", "low", "high", "n", "elsewhere", "is_home"]


def photo_backgrounds(
    run_folder: Path, *, real_photos: str | None, limit: int, seed: int, device: str = "cpu"
) -> pd.DataFrame:
    """Return which background the bundled classifier sees on each photo of a run's own classes.

    The photos are those that the run's foregrounds were cut from, and reference photos of the same ImageNet classes
    (see `reference_photos.find_reference_photos`). Nothing is trained on them here.

    Args:
        run_folder: With notebook 01's ``foregrounds.parquet``.
        real_photos: The user's own photos, or None.
        limit: Greatest number of photos of a superclass.
        seed: Decides which, where there are more.
        device: See `devices.choose_device`.

    Returns:
        `in9` and `background`, a row a photo that can be read; none where there are no photos.

    Raises:
        ValueError: If notebook 01 left no table.
        ImageSetError: If `real_photos` is given and cannot be opened.
    """
    path = Path(run_folder) / "01_compositing" / "foregrounds.parquet"
    if not path.is_file():
        raise ValueError(f"{path} is missing: run notebook 01_compositing first")
    foregrounds = pd.read_parquet(path)
    own = foregrounds[foregrounds["source"] == "photo"]
    photos = list(zip(own["in9"], [Path(run_folder) / file for file in own["file"]], strict=True))
    for found in find_reference_photos(real_photos, limit=sys.maxsize, seed=seed):
        found = found.subset(found.table["imagenet_index"].isin(foregrounds["imagenet_index"]).to_numpy())
        photos += zip(found.table["in9"], found.pictures, strict=True)
    superclass = pd.Series([name for name, _ in photos], dtype=object)
    chosen = [
        numpy_generator(seed, "home photos", name).permutation(rows)[:limit]
        for name, rows in superclass[superclass != ""].groupby(superclass).groups.items()
    ]
    if not chosen:
        return pd.DataFrame(columns=["in9", "background"], dtype=object)
    places = np.sort(np.concatenate(chosen))
    head = load_background_head(device=device)
    shown = [photos[place][1] for place in places]
    (answers,), unreadable = look(shown, [head.looker], skip_unreadable=True, description="backgrounds of photos")
    readable = np.setdiff1d(np.arange(len(places)), list(unreadable)).astype(int)
    seen = np.array(list(BACKGROUNDS))[answers[readable].argmax(1)]
    return pd.DataFrame({"in9": superclass[places[readable]].to_numpy(), "background": seen})


def photo_homes(named: pd.DataFrame) -> pd.DataFrame:
    """Return the background that most photos of each superclass show, and whether it can be called a home.

    It can where `LEAST_PHOTOS` photos are there and it is clearly more common on them than on photos of the other
    superclasses: the 95 % interval of the difference is above 0. A background that all classes' photos show alike tells
    nothing about the class, and the classifier may be wrong in the same way about all of them.

    Args:
        named: From `photo_backgrounds`.

    Returns:
        `in9`, `background`, `share` of its photos with a Wilson interval `low`, `high` and `n` (photos), `elsewhere`
        (the share of the other superclasses' photos) and `is_home`.

    Source: Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I (the difference of two
        shares), in statsmodels.
    """
    rows = []
    for name in (name for name in IN9 if name in set(named["in9"])):
        mine = (named["in9"] == name).to_numpy()
        counts = named.loc[mine, "background"].value_counts().reindex(list(BACKGROUNDS), fill_value=0)
        background = counts.idxmax()  # of equal ones the first in the taxonomy's order
        shows = (named["background"] == background).to_numpy()
        total, others = int(mine.sum()), int((~mine).sum())
        is_home, elsewhere = False, np.nan
        if others:
            elsewhere, count = shows[~mine].mean(), int(shows[mine].sum())
            least, _ = confint_proportions_2indep(count, total, int(shows[~mine].sum()), others, method="newcomb")
            is_home = bool(total >= LEAST_PHOTOS and least > 0)
        share = vars(wilson(int(shows[mine].sum()), total))
        rows.append({"in9": name, "background": background, "share": share.pop("value"), **share,
                     "elsewhere": elsewhere, "is_home": is_home})  # fmt: skip
    return pd.DataFrame(rows, columns=_OF_PHOTOS)


def choose_homes(
    superclasses: Iterable[str], *, wished: Mapping[str, str] | None = None, seen: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return the home of each superclass and where it comes from: the user, else clear photos, else `HOMES`.

    Args:
        superclasses: Names in `taxonomy.IN9`.
        wished: The user's: superclass -> background.
        seen: From `photo_homes`.

    Returns:
        `in9`, `home`, `source` (one of `BY_SETTING`, `BY_PHOTOS`, `BUILT_IN`), `share` of the superclass's photos that
        show the home if the photos chose it, else NaN, with `low`, `high`, `n` and `elsewhere` (see `photo_homes`).

    Raises:
        ValueError: If `wished` names an unknown superclass or background.
    """
    superclasses, wished = set(superclasses), check_homes(wished or {})
    told = {} if seen is None else {row["in9"]: row for row in seen[seen["is_home"]].to_dict("records")}
    rows = []
    for name in (name for name in IN9 if name in superclasses):
        row = {"in9": name, "home": HOMES[name], "source": BUILT_IN}
        if name in wished:
            row |= {"home": wished[name], "source": BY_SETTING}
        elif name in told:
            kept = {key: told[name][key] for key in ("share", "low", "high", "n", "elsewhere")}
            row |= {"home": told[name]["background"], "source": BY_PHOTOS, **kept}
        rows.append(row)
    columns = ["in9", "home", "source", "share", "low", "high", "n", "elsewhere"]
    return pd.DataFrame(rows, columns=columns).astype({"n": "Int64"})
