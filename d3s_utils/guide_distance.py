"""How far a dreamt picture is from its guide, over all, where the object was pasted, and around it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from d3s_utils.photos import read_photo


def guide_distances(table: pd.DataFrame, *, root: str | Path, threads: int = 2) -> pd.DataFrame:
    """Measure the mean absolute difference between each picture and its guide, in grey levels of 255.

    Args:
        table: Has ``image_id``, ``guide_file`` and ``file`` (paths below `root`), the pasted box ``left``, ``top``,
            ``width``, ``height`` in pixels, and the labels ``class_name``, ``background``, ``foreground_id``.
        root: Folder that the paths are relative to.
        threads: Pairs read at once.

    Returns:
        One line a picture: its ``image_id`` and labels, ``whole`` (all pixels), ``object`` (inside the pasted box)
        and ``scene`` (outside it; NaN where the box is the whole picture).

    Raises:
        PhotoError: If a picture or a guide is missing or cannot be read.
        ValueError: If the two differ in size.
    """
    rows = table.to_dict("records")
    with ThreadPoolExecutor(threads) as pool:
        measured = list(pool.map(lambda row: _distances(row, root), rows))
    labels = table[["image_id", "class_name", "background", "foreground_id"]].reset_index(drop=True)
    return pd.concat([labels, pd.DataFrame(measured, columns=["whole", "object", "scene"])], axis=1)


def _distances(row: dict, root: str | Path) -> tuple[float, float, float]:
    guide, picture = (read_photo(row[name], root=root).pixels for name in ("guide_file", "file"))
    if guide.shape != picture.shape:
        raise ValueError(f"{row['file']} has shape {picture.shape}, its guide {guide.shape}")
    difference = np.abs(guide.astype(np.int16) - picture).mean(2)
    pasted = np.zeros(difference.shape, bool)
    pasted[row["top"] : row["top"] + row["height"], row["left"] : row["left"] + row["width"]] = True
    scene = float(difference[~pasted].mean()) if not pasted.all() else float("nan")
    return float(difference.mean()), float(difference[pasted].mean()), scene
