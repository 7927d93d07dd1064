"""Whether classifiers look at the object: saliency on the pasted foreground, measured and drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from d3s_utils.classifier_zoo import ZooClassifier
from d3s_utils.classifiers import read_picture
from d3s_utils.devices import choose_device
from d3s_utils.figures import picture_grid
from d3s_utils.paste_biases import foreground_focus
from d3s_utils.saliency import grad_cam
from d3s_utils.taxonomy import IN9


def saliency_maps(
    model: ZooClassifier, table: pd.DataFrame, *, root: Path, device: str = "cpu", batch_size: int = 16
) -> np.ndarray:
    """Return Grad-CAM maps of the true classes over whole pictures: what the model's usual crop cuts off is seen too.

    Args:
        table: A row a picture: `file` (relative to `root`), `imagenet_index`, and `in9` for a model of nine classes.

    Returns:
        At least 0, float32, shape (n, height, width) of the model's input.

    Raises:
        ValueError: If the network is none that `saliency.grad_cam` knows, or tells nine classes, and a picture shows
            none of them.
    """
    labels = table["imagenet_index"].to_numpy() if model.classes == 1000 else _superclasses(table, model.name)
    chosen = choose_device(device)
    whole = replace(model.preprocessing, crop_mode="squash", crop_fraction=1.0)
    network = model.network.to(chosen)
    found = []
    try:
        for start in range(0, len(table), batch_size):
            rows = table.iloc[start : start + batch_size]
            pixels = np.stack([whole.pixels(read_picture(Path(root) / file)) for file in rows["file"]])
            batch = whole.normalised(torch.from_numpy(pixels).to(chosen))
            targets = torch.tensor(labels[start : start + batch_size], device=chosen)
            found.append(grad_cam(network, batch, targets).cpu().numpy())
    finally:
        network.to("cpu")
    return np.concatenate(found) if found else np.zeros((0, *whole.size), np.float32)


def pasted_masks(table: pd.DataFrame, height: int, width: int) -> np.ndarray:
    """Return where foregrounds were pasted, as shares of pixels in [0, 1], shape (n, height, width).

    Args:
        table: `left`, `top`, `width`, `height`, `canvas`, all in pixels of the canvas.
    """
    scale = 1 / table["canvas"].to_numpy(float)

    def covered(start: np.ndarray, length: np.ndarray, size: int) -> np.ndarray:
        """Return how much of each of `size` pixels lies between the ends of each box, (n, size)."""
        low, high = (start * scale * size)[:, None], ((start + length) * scale * size)[:, None]
        edges = np.arange(size)
        return (np.minimum(high, edges + 1) - np.maximum(low, edges)).clip(0, 1)

    across = covered(table["left"].to_numpy(float), table["width"].to_numpy(float), width)
    down = covered(table["top"].to_numpy(float), table["height"].to_numpy(float), height)
    return down[:, :, None] * across[:, None, :]


def measure_focus(
    models: Sequence[ZooClassifier], table: pd.DataFrame, *, root: Path, device: str = "cpu"
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return each model's foreground focus (see `paste_biases.foreground_focus`), and its maps.

    Args:
        table: `file`, `imagenet_index`, `in9`, `foreground_id`, and the box (see `pasted_masks`); n rows, perhaps none.
        root: Folder that files are relative to.

    Returns:
        A row a model: `model`, `value`, `low`, `high`, `n` (pictures with attribution), `reason` (why there is no
        number; else empty); and the maps by model, (n, height, width) each. Neither has anything where `table` is
        empty.
    """
    rows, maps = [], {}
    for model in models if len(table) else ():
        try:
            maps[model.name] = saliency_maps(model, table, root=root, device=device)
            masks = pasted_masks(table, *maps[model.name].shape[1:])
            ids = table["foreground_id"].to_numpy()
            found = foreground_focus(maps[model.name], masks, foreground_ids=ids)
            rows.append({"model": model.name, **vars(found), "reason": ""})
        except (ValueError, RuntimeError, AssertionError) as error:  # a network of another build, or no memory
            nothing = dict.fromkeys(("value", "low", "high"), np.nan)
            rows.append({"model": model.name, **nothing, "n": 0, "reason": str(error)})
    return pd.DataFrame(rows, columns=["model", "value", "low", "high", "n", "reason"]), maps


def _superclasses(table: pd.DataFrame, model: str) -> np.ndarray:
    """Return each picture's place in `taxonomy.IN9`."""
    if (table["in9"] == "").any():
        nameless = ", ".join(sorted(set(table.loc[table["in9"] == "", "class_name"])))
        raise ValueError(f"{model} tells the nine superclasses, of which {nameless} has none")
    return table["in9"].map(IN9.index).to_numpy(int)


def saliency_sheet(
    table: pd.DataFrame, maps: Mapping[str, np.ndarray], *, root: Path, title: str, pictures: int = 8, side: int = 128
) -> Figure:
    """Draw pictures with the pasted box in white, and each model's map over them, a row a model.

    Args:
        table: That of `measure_focus`.
        maps: From it.
        pictures: How many are drawn: one of each class, then a second of each.
        side: Of a picture in the sheet, in pixels.
    """
    order = table.groupby("class_name").cumcount().sort_values(kind="stable").index[:pictures]
    places = [table.index.get_loc(label) for label in order]
    plain, boxed = [], []
    for place in places:
        row = table.iloc[place]
        image = read_picture(Path(root) / row["file"]).resize((side, side), Image.Resampling.LANCZOS)
        plain.append(np.asarray(image, float))
        boxed.append(_with_box(plain[-1], row, side))
    cells = [boxed]
    for found in maps.values():
        cells.append([_with_heat(picture, found[place], side) for picture, place in zip(plain, places, strict=True)])
    names = [f"{table['class_name'].iloc[place]}\n{table['background'].iloc[place]}" for place in places]
    return picture_grid(cells, row_names=["picture", *maps], column_names=names, title=title)


def _with_box(picture: np.ndarray, row: pd.Series, side: int) -> np.ndarray:
    scale = side / row["canvas"]
    left, top = (round(row[name] * scale) for name in ("left", "top"))
    right, bottom = (
        min(side, round((row[a] + row[b]) * scale)) - 1 for a, b in (("left", "width"), ("top", "height"))
    )  # fmt: skip
    drawn = picture.astype(np.uint8).copy()
    drawn[[top, bottom], left : right + 1] = 255
    drawn[top : bottom + 1, [left, right]] = 255
    return drawn


def _with_heat(picture: np.ndarray, found: np.ndarray, side: int) -> np.ndarray:
    share = Image.fromarray((found / max(found.max(), 1e-12)).astype(np.float32)).resize((side, side))
    heat = colormaps["inferno"](np.asarray(share))[..., :3] * 255
    return (0.45 * picture + 0.55 * heat).round().astype(np.uint8)
