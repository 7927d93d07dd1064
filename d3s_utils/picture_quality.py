"""How a picture is exposed and focused, which pictures stand out in that, and which look alike."""

from collections.abc import Sequence

import cv2
import imagehash
import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from PIL import Image

from d3s_utils.classifiers import Looker, Picture, look

MEASURES = ("sharpness", "brightness", "contrast", "clipped")
HASH_BITS = 64
HASH_DIGITS = HASH_BITS // 4
# A spread below these cannot be seen, so it is not what makes an outlier.
LEAST_SPREAD = {"sharpness": 0.05, "brightness": 1 / 255, "clipped": 0.01}
_PAIRS_AT_ONCE = 500_000  # so many 64-bit words stay in a core's cache


def measure_picture(image: Image.Image) -> torch.Tensor:
    """Return the four `MEASURES` of an RGB image and behind them the 64 bits of its hash, float32 (68,)."""
    luminance = np.asarray(image.convert("L"))
    measures = [
        np.log1p(cv2.Laplacian(luminance, cv2.CV_64F).var()),
        luminance.mean() / 255,
        luminance.std() / 255,
        np.isin(luminance, (0, 255)).mean(),
    ]
    bits = imagehash.phash(image).hash.ravel()
    return torch.from_numpy(np.concatenate([measures, bits]).astype(np.float32))


# Shows pictures to `measure_picture`; put it into `classifiers.look` beside models to read each picture once for all.
QUALITY_LOOKER = Looker(measure_picture, torch.Tensor.numpy, len(MEASURES) + HASH_BITS)


def picture_quality(
    pictures: Sequence[Picture], *, batch_size: int = 32, description: str = "measuring quality"
) -> pd.DataFrame:
    """Return sharpness, exposure and a perceptual hash of each picture; progress goes to stdout.

    Args:
        pictures: Files, uint8 (h, w, 3) arrays or images.

    Returns:
        See `quality_table`, a row a picture.
    """
    answers, _ = look(
        pictures, [QUALITY_LOOKER], batch_size=batch_size, skip_unreadable=True, description=description
    )  # fmt: skip
    return quality_table(answers[0])


def quality_table(answers: np.ndarray) -> pd.DataFrame:
    """Return as a table what `QUALITY_LOOKER` answered about n pictures.

    Args:
        answers: float32 (n, 68); rows of NaN where a picture could not be read.

    Returns:
        A row a picture, measured at its own size, so compare pictures of one size:
            `sharpness`: log(1 + variance of the Laplacian of the luminance in 0 … 255); 0 for a flat picture.
            `brightness`: mean luminance in [0, 1].
            `contrast`: standard deviation of the luminance, in [0, 0.5].
            `clipped`: share of pixels whose luminance is 0 or 255.
            `perceptual_hash`: pHash, 16 hexadecimal digits.
        NaN and an empty string where the picture could not be read.

    Raises:
        ValueError: If the shape is another one.

    Source: Pech-Pacheco et al. 2000 (variance of the Laplacian); Zauner 2010 (pHash, by the package imagehash).
    """
    answers = np.asarray(answers)
    if answers.ndim != 2 or answers.shape[1] != QUALITY_LOOKER.width:
        raise ValueError(f"answers must have shape (n, {QUALITY_LOOKER.width}), got {answers.shape}")
    readable = ~np.isnan(answers).any(1)
    packed = np.packbits(answers[:, len(MEASURES) :] == 1, axis=1)
    hashes = [row.tobytes().hex() if known else "" for row, known in zip(packed, readable, strict=True)]
    table = pd.DataFrame(answers[:, : len(MEASURES)].astype(np.float64), columns=list(MEASURES))
    return table.assign(perceptual_hash=pd.Series(hashes, dtype=str))


def robust_outliers(
    values: ArrayLike, *, threshold: float, groups: ArrayLike | None = None, least_spread: float = 0.0
) -> pd.DataFrame:
    """Return how far each value lies from the median of its group, in robust standard deviations.

    The modified z-score is 0.6745 (x - median) / MAD with MAD the median absolute deviation from the median. Where
    more than half of a group are equal its MAD is 0, and 1.2533 times the mean absolute deviation stands in for
    MAD / 0.6745 (both are the standard deviation where values are normal); where all are equal every z is 0.

    Args:
        values: Shape (n,); NaN is left out and is no outlier.
        threshold: An outlier has abs(z) above it; the source advises 3.5.
        groups: What each value is compared within, shape (n,); all together where None.
        least_spread: The standard deviation is taken to be at least this, in the values' unit. It keeps values that
            are nearly all equal from making an outlier of each that is not quite.

    Returns:
        A row a value: `z` (NaN for NaN) and `outlier`.

    Raises:
        ValueError: If lengths differ, a value is infinite, `threshold` is not above 0 or `least_spread` is below 0.

    Source: Iglewicz, Hoaglin 1993, "How to detect and handle outliers".
    """
    values = pd.Series(np.asarray(values, np.float64))
    groups = pd.Series(np.zeros(len(values)) if groups is None else np.asarray(groups))
    if len(groups) != len(values):
        raise ValueError(f"groups must be one a value, got {len(groups)} for {len(values)}")
    if np.isinf(values).any():
        raise ValueError(f"values must be finite or NaN, got {values[np.isinf(values)].iloc[0]}")
    if not threshold > 0:
        raise ValueError(f"threshold must be above 0, got {threshold!r}")
    if not least_spread >= 0:
        raise ValueError(f"least_spread must be at least 0, got {least_spread!r}")
    apart = values - values.groupby(groups, dropna=False).transform("median")
    within = apart.abs().groupby(groups, dropna=False)
    spread = within.transform("median") / 0.6745
    spread = spread.where(spread != 0, np.sqrt(np.pi / 2) * within.transform("mean")).clip(lower=least_spread)
    z = (apart / spread).where(spread != 0, apart)  # a spread of 0 means that all are equal, and so z is 0
    return pd.DataFrame({"z": z, "outlier": z.abs() > threshold})


def quality_outliers(quality: pd.DataFrame, *, backgrounds: ArrayLike, threshold: float = 3.5) -> pd.DataFrame:
    """Return which pictures are focused or exposed unlike the others on their background.

    A night is dark and a forest full of edges by design, so pictures are compared within their background (see
    `robust_outliers`). Spreads below `LEAST_SPREAD` are taken as that.

    Args:
        quality: From `picture_quality`.
        backgrounds: Of each picture, shape (n,).
        threshold: In robust standard deviations.

    Returns:
        A row a picture, in the order and with the index of `quality`:
            `sharpness_z`, `brightness_z`, `clipped_z`: below 0 is blurred, dark, little clipped; NaN where unreadable.
            `sharpness_outlier`: blurred, or noisy.
            `exposure_outlier`: dark or bright, or with many pixels clipped (few are no fault).
    """
    found = {
        name: robust_outliers(quality[name], threshold=threshold, groups=backgrounds, least_spread=least)
        for name, least in LEAST_SPREAD.items()
    }
    table = pd.DataFrame({f"{name}_z": outliers["z"] for name, outliers in found.items()})
    table["sharpness_outlier"] = found["sharpness"]["outlier"]
    table["exposure_outlier"] = found["brightness"]["outlier"] | (table["clipped_z"] > threshold)
    return table.set_axis(quality.index)


def hash_distance(hashes: Sequence[str], other_hashes: Sequence[str]) -> np.ndarray:
    """Return in how many of 64 bits each hash differs from the other in its place, float64 (n,).

    Such as a result's from its own guide's. NaN where one of the two is empty.

    Raises:
        ValueError: If lengths differ, or a hash is not 16 hexadecimal digits or empty.
    """
    (numbers, known), (others, others_known) = _numbers(hashes, "hashes"), _numbers(other_hashes, "other_hashes")
    if len(numbers) != len(others):
        raise ValueError(f"other_hashes must be as many as hashes, got {len(others)} for {len(numbers)}")
    return np.where(known & others_known, np.bitwise_count(numbers ^ others), np.nan)


def nearest_hashes(hashes: Sequence[str], reference: Sequence[str], *, reference_ids: Sequence[str]) -> pd.DataFrame:
    """Return which hash of another set, such as the guides', is nearest to each.

    Args:
        hashes: n of them.
        reference: m of them; empty ones are never nearest.
        reference_ids: Of each of `reference`.

    Returns:
        A row a hash: `nearest_distance` in bits and `nearest_id`, the first in order of those equally near; NaN and
        an empty string where the hash is empty or there is nothing to be near to.

    Raises:
        ValueError: As `hash_distance`, or if `reference_ids` are not one each.
    """
    (numbers, known), (others, others_known) = _numbers(hashes, "hashes"), _numbers(reference, "reference")
    ids = _ids(reference_ids, "reference_ids", len(others))
    distances, nearest, _ = _search(numbers[known], others[others_known])
    return _nearest_table(known, distances, nearest, ids[others_known])


def near_duplicates(hashes: Sequence[str], *, bits: int, ids: Sequence[str]) -> pd.DataFrame:
    """Return for each picture the one that looks most like it, and whether an earlier one looks the same.

    Exact: each hash is compared with every other, a few at a time.

    Args:
        hashes: n of them, 16 hexadecimal digits each, or empty: an empty one has no look-alike and is none.
        bits: Two pictures look the same if their hashes differ in at most so many of 64.
        ids: Of each picture, in the same order.

    Returns:
        A row a picture:
            `nearest_distance`, `nearest_id`: as in `nearest_hashes`, among the other pictures.
            `duplicate_of`: id of the earlier picture that it is nearest to if that is within `bits`, else an empty
                string. Pictures without it are further than `bits` apart, and the first of look-alikes is among
                them. The one named may itself be a duplicate, of one still earlier.

    Raises:
        ValueError: As `hash_distance`, or if `bits` is not in [0, 64] or `ids` are not one each, distinct and not
            empty.
    """
    if not 0 <= bits <= HASH_BITS:
        raise ValueError(f"bits must be between 0 and {HASH_BITS}, got {bits!r}")
    numbers, known = _numbers(hashes, "hashes")
    ids = _ids(ids, "ids", len(numbers))
    if len(set(ids)) < len(ids) or "" in ids:
        raise ValueError("ids must be distinct and not empty")
    distances, nearest, earlier = _search(numbers[known], None, bits=bits)
    table = _nearest_table(known, distances, nearest, ids[known])
    duplicate_of = np.full(len(ids), "", dtype=object)
    duplicate_of[known] = np.where(earlier >= 0, ids[known][earlier], "") if len(earlier) else ""
    return table.assign(duplicate_of=pd.Series(duplicate_of, dtype=str))


def _search(numbers: np.ndarray, others: np.ndarray | None, *, bits: int = 0):
    """Return the distance to the nearest of `others`, its place, and the place of the nearest earlier within `bits`.

    Where `others` is None they are `numbers` without oneself. A place is -1 where there is none.
    """
    among_themselves = others is None
    others = numbers if among_themselves else others
    distances = np.full(len(numbers), HASH_BITS + 1, np.uint8)
    nearest, earlier = np.full(len(numbers), -1), np.full(len(numbers), -1)
    if len(others) < (2 if among_themselves else 1):
        return distances, nearest, earlier
    rows = max(1, _PAIRS_AT_ONCE // len(others))
    for start in range(0, len(numbers), rows):
        block = slice(start, min(start + rows, len(numbers)))
        apart = np.bitwise_count(numbers[block, None] ^ others)
        places = np.arange(len(apart))
        if among_themselves:
            apart[places, places + start] = HASH_BITS + 1
        nearest[block] = apart.argmin(1)
        distances[block] = apart[places, nearest[block]]
        if among_themselves:
            for place in np.flatnonzero(distances[block] <= bits):
                before = apart[place, : start + place]
                if len(before) and before.min() <= bits:
                    earlier[start + place] = before.argmin()
    return distances, nearest, earlier


def _nearest_table(known: np.ndarray, distances: np.ndarray, nearest: np.ndarray, ids: np.ndarray) -> pd.DataFrame:
    """Return `nearest_distance` and `nearest_id` of all hashes from what was found for the known ones."""
    found = nearest >= 0
    places = np.flatnonzero(known)[found]
    all_distances, all_ids = np.full(len(known), np.nan), np.full(len(known), "", dtype=object)
    all_distances[places], all_ids[places] = distances[found], ids[nearest[found]]
    return pd.DataFrame({"nearest_distance": all_distances, "nearest_id": pd.Series(all_ids, dtype=str)})


def _numbers(hashes: Sequence[str], argument: str) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes as uint64 (n,), 0 for an empty one, and which are not empty."""
    hashes = [str(text) for text in hashes]
    known = np.array([text != "" for text in hashes], dtype=bool)
    for text in hashes:
        if text and (len(text) != HASH_DIGITS or set(text) - set("0123456789abcdefABCDEF")):
            raise ValueError(f"{argument} must each be {HASH_DIGITS} hexadecimal digits or empty, got {text!r}")
    return np.array([int(text, 16) if text else 0 for text in hashes], dtype=np.uint64), known


def _ids(ids: Sequence[str], argument: str, count: int) -> np.ndarray:
    ids = np.array([str(name) for name in ids], dtype=object)
    if len(ids) != count:
        raise ValueError(f"{argument} must be one a hash, got {len(ids)} for {count}")
    return ids
