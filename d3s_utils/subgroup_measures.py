"""How uneven a classifier is over backgrounds, cells and groups: worst accuracies, MacroStd, the counter gap."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from d3s_utils.evaluation import scenes_of
from d3s_utils.foreground_bootstrap import known_scores, resampled, sums_by_foreground, whole
from d3s_utils.intervals import bootstrap_interval, clustered_wilson
from d3s_utils.randomness import numpy_generator

COMMON, COUNTER = "common", "counter"


def worst_cells(
    scores: pd.DataFrame,
    by: str | Sequence[str],
    *,
    measure: str = "top1",
    minimum: int = 10,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return each model's worst cell of shifted pictures, such as its worst background.

    The lowest of many shares is low by luck too. So each of the m cells gets a Wilson interval (at its effective
    sample size, see `intervals.clustered_wilson`) with error (1 - confidence) / m. By Bonferroni all hold at once,
    however the cells depend on each other; then the lowest true accuracy lies between the lowest lower and the lowest
    upper end, whichever cell has it.

    Args:
        scores: From `one_pass.evaluate`.
        by: The columns that make the cells, such as ``"background"`` or ``["class_name", "background"]``.
        measure: A key of `evaluation.MEASURES`.
        minimum: Cells with fewer pictures than this are left out, and counted. Where no cell has as many, those as
            large as the largest are compared.

    Returns:
        A row a model: `model`, `cell` (the cell's names, joined by " × "; of equal ones the first by name; empty where
        no cell is large enough), the columns `by`, `value` (its accuracy), `low`, `high` (of the lowest true accuracy),
        `n` (its pictures), `cells` (compared), `left_out` (cells with fewer than `minimum` pictures).

    Raises:
        ValueError: If a column is missing, no shifted picture is known, or an option is out of range.
    """
    return _worst(_shifted(known_scores(scores, measure)), by, minimum=minimum, confidence=confidence)


def worst_group(
    scores: pd.DataFrame, groups: str | Sequence[str], *, measure: str = "top1", minimum: int = 1
) -> pd.DataFrame:
    """Return each model's worst group of pictures and both of its averages.

    All rows that are given count, whatever their kind.

    Args:
        scores: From `one_pass.evaluate`.
        groups: The columns that make a group, such as ``["class_name", "background"]``.
        measure: A key of `evaluation.MEASURES`.
        minimum: Groups with fewer pictures can neither be the worst nor enter `group_average`.

    Returns:
        The columns of `worst_cells`, `picture_average` (accuracy over pictures: large groups count more) and
        `group_average` (mean of the groups' accuracies: each counts the same).

    Raises:
        ValueError: See `worst_cells`.

    Source: Sagawa et al. 2020, arXiv:1911.08731 (worst-group accuracy).
    """
    known = known_scores(scores, measure)
    found = _worst(known, groups, minimum=minimum, confidence=0.95)
    cells = known.groupby(["model", *_names(groups)], observed=True)["right"].agg(["mean", "size"]).reset_index()
    equal = cells[cells["size"] >= minimum].groupby("model")["mean"].mean()
    plain = known.groupby("model")["right"].mean()
    return found.assign(picture_average=found["model"].map(plain), group_average=found["model"].map(equal))


def macro_std(
    scores: pd.DataFrame, *, measure: str = "top1", seed: int, samples: int = 2000, shuffles: int = 100
) -> pd.DataFrame:
    """Return MacroStd: how much accuracy differs between backgrounds within a class, averaged over classes.

    A class's accuracies on its backgrounds, weighted by their pictures, have a standard deviation (that of a
    population: divided by the sum of weights); MacroStd is its mean over classes, each counting the same. Few pictures
    a cell make it large by luck alone: with n pictures at accuracy p, chance adds about p (1 - p) / n to the variance.
    `chance` tells how large it would be if backgrounds meant nothing: each foreground's outcomes are shuffled among its
    own backgrounds, so that a foreground stays as hard as it is. The bootstrap adds that noise a second time, so its
    draws are mirrored at the value; where cells are small the interval lies mostly below it.

    Args:
        scores: From `one_pass.evaluate`; shifted pictures count.
        measure: A key of `evaluation.MEASURES`.
        seed: The run's seed.
        samples: Bootstrap draws of foregrounds.
        shuffles: How often backgrounds are shuffled among a foreground's pictures for `chance`.

    Returns:
        `model`, `value` (in [0, 0.5]), `low`, `high`, `chance` (mean of the shuffles), `n` (pictures), `classes`,
        `smallest` (pictures in the smallest cell).

    Raises:
        ValueError: If a column is missing or no shifted picture is known.

    Source: Chiu, Chen, Ma 2023, arXiv:2212.08649.
    """
    known = _shifted(known_scores(scores, measure))
    _require(known, ["class_name", "background"])
    rows = []
    for model, group in known.groupby("model", sort=True):
        classes, class_codes = np.unique(group["class_name"].to_numpy(str), return_inverse=True)
        backgrounds, background_codes = np.unique(group["background"].to_numpy(str), return_inverse=True)
        statistic = _MacroStd(len(classes), len(backgrounds))
        right, foregrounds = group["right"].to_numpy(), group["foreground_id"].to_numpy()
        sums = statistic.sums(foregrounds, class_codes, background_codes, right)
        value = whole(sums, statistic)
        draws = resampled(sums, statistic, seed=seed, name="scores", samples=samples)
        low, high = bootstrap_interval(value, draws, groups=sums.shape[0], reflected=True)
        random = numpy_generator(seed, "macro_std shuffles", str(model))
        objects = pd.factorize(foregrounds, sort=True)[0]
        order = np.argsort(objects, kind="stable")
        shuffled = []
        for _ in range(shuffles):
            mixed = np.empty(len(right))
            mixed[order] = right[np.lexsort((random.random(len(right)), objects))]
            shuffled.append(whole(statistic.sums(foregrounds, class_codes, background_codes, mixed), statistic)[0])
        sizes = np.bincount(class_codes * len(backgrounds) + background_codes)
        rows.append(
            {"model": model, "value": value[0], "low": max(0.0, low[0]), "high": high[0],
             "chance": float(np.mean(shuffled)) if shuffled else np.nan, "n": len(group), "classes": len(classes),
             "smallest": int(sizes[sizes > 0].min())}
        )  # fmt: skip
    return pd.DataFrame(rows)


def counter_gap(
    scores: pd.DataFrame,
    *,
    common: Mapping[str, Collection[str]] | str,
    standardised: bool = True,
    measure: str = "top1",
    seed: int,
    samples: int = 2000,
) -> pd.DataFrame:
    """Return accuracy on backgrounds that are common for a class minus accuracy on those that are not.

    Standardised, the gap is that within a class, averaged over the classes that have both sides, each counting the
    same; within a class every foreground counts the same on a side, however many of its images were kept there.
    Pooled, both accuracies are over images: where an easy class was kept more often on its common backgrounds than a
    hard one, they differ although no class loses anything (Simpson's paradox).

    Foregrounds are drawn with replacement, together with all their images: one that stands before both kinds of
    background is a pair, one that stands before one kind counts on that side alone. Scenes are not drawn.

    Args:
        scores: From `one_pass.evaluate`; standardising needs the column class_name.
        common: Class -> its common backgrounds: shifted pictures of those classes count, other classes are left out.
            Or the name of a column that holds ``common`` or ``counter``; rows where it is missing or empty are left
            out.
        standardised: Whether the gap is that within classes; False pools all images.
        measure: A key of `evaluation.MEASURES`.
        seed: The run's seed.
        samples: Bootstrap draws of foregrounds.

    Returns:
        `model`, `common`, `counter` (accuracies), `gap`, `low`, `high`, `n_common`, `n_counter` (images),
        `foregrounds`, `classes` (with both sides). Standardised, all are of the classes that have both sides. What
        cannot be had is NaN: without a class with both sides; pooled, of a side without images.

    Raises:
        ValueError: If a column is missing, holds something else, or no picture is left.

    Source: Wang et al. 2024, "A Sober Look at the Robustness of CLIPs to Spurious Features", arXiv:2403.11497.
    """
    known = _with_sides(known_scores(scores, measure), common, needed=["class_name"] if standardised else [])
    rows = []
    for model, group in known.groupby("model", sort=True):
        counter = (group["side"] == COUNTER).to_numpy(int)
        classes = group["class_name"] if "class_name" in group else pd.Series("", index=group.index)
        both = group.groupby(classes.to_numpy(str))["side"].nunique() == 2
        row = {"model": model, "common": np.nan, "counter": np.nan, "gap": np.nan, "low": np.nan, "high": np.nan}
        used = classes.astype(str).map(both).to_numpy(bool) if standardised else np.ones(len(group), bool)
        if used.any():
            statistic = _Gap(int(both.sum()) if standardised else 1)
            codes = np.unique(classes[used].to_numpy(str), return_inverse=True)[1] if standardised else 0
            parts = (group["foreground_id"][used].to_numpy(), counter[used], group["right"][used].to_numpy())
            sums = statistic.sums(*parts, classes=codes, by_foreground=standardised)
            value = whole(sums, statistic)
            draws = resampled(sums, statistic, seed=seed, name="scores", samples=samples)
            low, high = bootstrap_interval(value, draws, groups=sums.shape[0])
            row |= dict(zip(("common", "counter", "gap"), value, strict=True))
            row |= {"low": np.maximum(low[2], -1.0), "high": np.minimum(high[2], 1.0)}
        rows.append(
            row | {"n_common": int((1 - counter[used]).sum()), "n_counter": int(counter[used].sum()),
                   "foregrounds": group["foreground_id"][used].nunique(), "classes": int(both.sum())}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _with_sides(
    known: pd.DataFrame, common: Mapping[str, Collection[str]] | str, *, needed: Sequence[str]
) -> pd.DataFrame:
    """Return the rows that have a side, with a column side: `COMMON` or `COUNTER`."""
    if isinstance(common, str):
        _require(known, [common, *needed])
        side = known[common].fillna("").astype(str)
        if not side.isin([COMMON, COUNTER, ""]).all():
            raise ValueError(f"scores[{common!r}] must be {COMMON} or {COUNTER}, got {sorted(set(side))[:5]}")
    else:
        known = _shifted(known)
        _require(known, ["class_name", "background"])
        pairs = zip(known["class_name"], known["background"], strict=True)
        side = [(COMMON if b in common[c] else COUNTER) if c in common else "" for c, b in pairs]
    known = known.assign(side=np.asarray(side, dtype=object))
    known = known[known["side"] != ""]
    if known.empty:
        raise ValueError("common must name a class (or a column with rows) of scores, got none that is there")
    return known


class _Gap:
    """Accuracies on both sides, averaged over classes, and their difference; (samples, 3) of sums over foregrounds.

    Sums have shape (samples, 2 * 2 * classes): right answers, then what they are out of, by side and class.
    """

    def __init__(self, classes: int):
        self.shape = (2, 2, classes)

    def sums(
        self, foregrounds: np.ndarray, side: np.ndarray, right: np.ndarray, *, classes: np.ndarray | int,
        by_foreground: bool,
    ):  # fmt: skip
        """Sum up images, or foregrounds: then the images of one on one side count as one together."""
        cells, size = side * self.shape[2] + classes, 2 * self.shape[2]
        weights = np.ones(len(right))
        if by_foreground:
            own = np.unique(foregrounds, return_inverse=True)[1] * size + cells
            weights = 1 / np.bincount(own)[own]
        columns, values = np.concatenate([cells, size + cells]), np.concatenate([right * weights, weights])
        return sums_by_foreground(np.tile(foregrounds, 2), columns, values, width=2 * size)

    def __call__(self, sums: np.ndarray) -> np.ndarray:
        right, counted = sums.reshape(-1, *self.shape).transpose(1, 0, 2, 3)
        shares = right / counted  # NaN where nothing of a side was drawn
        if self.shape[2] > 1:  # a class that lacks a side in a draw is no part of it
            shares = np.where(np.isfinite(shares).all(1, keepdims=True), shares, np.nan)
        present = np.isfinite(shares)
        means = np.where(present, shares, 0).sum(2) / present.sum(2)
        return np.column_stack([means, means[:, 0] - means[:, 1]])


class _MacroStd:
    """MacroStd of sums (samples, 2 * classes * backgrounds): right answers, then pictures; returns (samples, 1)."""

    def __init__(self, classes: int, backgrounds: int):
        self.shape = (2, classes, backgrounds)

    def sums(self, foregrounds: np.ndarray, classes: np.ndarray, backgrounds: np.ndarray, right: np.ndarray):
        cells, size = classes * self.shape[2] + backgrounds, self.shape[1] * self.shape[2]
        columns, values = np.concatenate([cells, size + cells]), np.concatenate([right, np.ones(len(right))])
        return sums_by_foreground(np.tile(foregrounds, 2), columns, values, width=2 * size)

    def __call__(self, sums: np.ndarray) -> np.ndarray:
        right, pictures = sums.reshape(-1, *self.shape).transpose(1, 0, 2, 3)
        share = np.divide(right, pictures, out=np.zeros_like(right), where=pictures > 0)
        total = pictures.sum(-1)
        mean = right.sum(-1) / total  # NaN for a class of which nothing was drawn
        variance = (pictures * np.square(share - mean[..., None])).sum(-1) / total
        return np.nanmean(np.sqrt(variance), axis=-1, keepdims=True)


def _worst(known: pd.DataFrame, by: str | Sequence[str], *, minimum: int, confidence: float) -> pd.DataFrame:
    names = _names(by)
    _require(known, names)
    if minimum < 1:
        raise ValueError(f"minimum must be at least 1, got {minimum}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    rows = []
    for model, group in known.groupby("model", sort=True):
        cells = dict(list(group.groupby(names, sort=True, observed=True)))
        enough = min(minimum, max(len(cell) for cell in cells.values()))
        large = {name: cell for name, cell in cells.items() if len(cell) >= enough}
        row = {"model": model, "cell": "", **dict.fromkeys(names, ""), "value": np.nan, "low": np.nan, "high": np.nan,
               "n": 0}  # fmt: skip
        if large:
            each = 1 - (1 - confidence) / len(large)
            shares = {
                name: clustered_wilson(cell["right"], cell["foreground_id"], crossed=scenes_of(cell), confidence=each)
                for name, cell in large.items()
            }
            worst = min(shares, key=lambda name: shares[name].value)
            row |= {"cell": " × ".join(map(str, worst)), **dict(zip(names, worst, strict=True))}
            row |= {"value": shares[worst].value, "n": shares[worst].n}
            row |= {end: min(getattr(share, end) for share in shares.values()) for end in ("low", "high")}
        rows.append(row | {"cells": len(large), "left_out": len(cells) - len(large)})
    return pd.DataFrame(rows)


def _names(by: str | Sequence[str]) -> list[str]:
    return [by] if isinstance(by, str) else list(by)


def _require(known: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in known]
    if missing or not len(names):
        raise ValueError(f"scores must have the columns that make cells, got none or no {', '.join(missing)}")


def _shifted(known: pd.DataFrame) -> pd.DataFrame:
    shifted = known[known["kind"] == "shifted"]
    if shifted.empty:
        raise ValueError("scores must hold a shifted picture whose measure is known, got none")
    return shifted
