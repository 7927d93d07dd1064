"""An ImageNet-9 of a run's own: dreamt pictures in which each class stands where the world mostly shows it."""

import numpy as np
import pandas as pd

from d3s_utils.randomness import numpy_generator
from d3s_utils.taxonomy import BACKGROUNDS, IN9

HOMES = {  # superclass -> the background that goes with it here, a different one each
    "dog": "grass", "bird": "sand", "wheeled vehicle": "road", "reptile": "cave", "carnivore": "snow",
    "insect": "forest", "musical instrument": "indoors", "primate": "rain", "fish": "water",
}  # fmt: skip


def home_of_each(validated: pd.DataFrame) -> dict[str, str]:
    """Return the background of each superclass: `HOMES`, or where fewer than two objects are valid there the fullest.

    Args:
        validated: See `home_pictures`.
    """
    kept = validated[validated["keep"].astype(bool) & (validated["in9"] != "")]
    counts = kept.groupby(["in9", "background"])["foreground_id"].nunique()
    homes = {}
    for name in (name for name in IN9 if name in counts.index):
        found = counts[name].reindex(list(BACKGROUNDS)).fillna(0)
        homes[name] = HOMES[name] if found[HOMES[name]] >= 2 else str(found.idxmax())
    return homes


def home_pictures(validated: pd.DataFrame, *, limit: int, seed: int) -> pd.DataFrame:
    """Return validated pictures of objects at home, evenly over superclasses, one picture a foreground.

    Original photos tie a class to a background; without that tie a gap between mixed-same and mixed-rand could not
    show. Both splits are used, since nothing is trained on them here.

    Args:
        validated: Notebook 03's ``validated.parquet``.
        limit: Greatest number of pictures in all, but two a superclass at least.
        seed: Decides which, where there are more.

    Returns:
        Rows of `validated`, in order of superclass and picture id.

    Raises:
        ValueError: If fewer than two superclasses have two such pictures: every variant needs another one.
    """
    homes = home_of_each(validated)
    at_home = validated[validated["keep"].astype(bool) & (validated["background"] == validated["in9"].map(homes))]
    at_home = at_home.sort_values("image_id").drop_duplicates("foreground_id")
    each = max(2, limit // max(1, len(homes)))
    parts = []
    for name in homes:
        rows = at_home[at_home["in9"] == name]
        order = numpy_generator(seed, "pictures at home", name).permutation(len(rows))[:each]
        parts.append(rows.iloc[np.sort(order)])
    parts = [part for part in parts if len(part) >= 2]
    if len(parts) < 2:
        raise ValueError(
            f"validated must hold two pictures of two superclasses at home, got {len(at_home)} pictures of "
            f"{at_home['in9'].nunique()}: look at the reasons in notebook 03_validation"
        )
    return pd.concat(parts, ignore_index=True)
