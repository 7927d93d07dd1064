"""How much accuracy classifiers lose when only the background changes: tidy tables, each number with its interval."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from d3s_utils.classifiers import Predictions
from d3s_utils.intervals import clustered_wilson, paired_difference, wilson
from d3s_utils.metrics import Estimate
from d3s_utils.taxonomy import IN9, in9_of_logits

MEASURES = {"top1": "top-1", "top5": "top-5", "in9": "ImageNet-9"}  # column -> how it reads
_SHARED = ["picture_id", "foreground_id", "class_name", "imagenet_index", "in9", "file"]


def read_pictures(run_folder: Path, *, split: str = "val") -> pd.DataFrame:
    """Return the plain foregrounds of notebook 01 and the pictures dreamt from them, of one split.

    Returns:
        One row a picture: `picture_id`, `kind` (original, shifted), `foreground_id`, `class_name`,
        `imagenet_index`, `in9`, `file` (relative to `run_folder`), `background` (empty for originals),
        `keep` (validated; true for originals).

    Raises:
        ValueError: If a table is missing, or no picture was validated.
    """
    plain = _read_table(run_folder / "01_compositing" / "foregrounds.parquet", split)
    dreamt = _read_table(run_folder / "03_validation" / "validated.parquet", split)
    originals = plain.assign(picture_id=plain["foreground_id"], kind="original", background="", keep=True)
    shifted = dreamt.assign(picture_id=dreamt["image_id"], kind="shifted")
    if not shifted["keep"].any():
        raise ValueError(
            f"none of the {len(shifted)} pictures of split {split!r} was validated: look at the reasons in notebook "
            "03_validation, then change its thresholds, or the strength or generator of 02_diffusion_generation"
        )
    columns = [*_SHARED, "kind", "background", "keep"]
    return pd.concat([originals[columns], shifted[columns]], ignore_index=True)


def score_pictures(pictures: pd.DataFrame, predictions: Mapping[str, Predictions]) -> pd.DataFrame:
    """Return whether each model is right on each picture.

    Args:
        pictures: From `read_pictures`, n rows.
        predictions: By model, for the same n pictures in the same order.

    Returns:
        n rows for each model: the columns of `pictures`, `model`, `prediction` (ImageNet index),
        `probability` (of the true class), and `top1`, `top5`, `in9_right` as 1.0 or 0.0; `in9_right` is missing
        where the class has no ImageNet-9 superclass.

    Raises:
        ValueError: If the numbers of rows differ.
    """
    tables = []
    for model, found in predictions.items():
        if len(found.logits) != len(pictures):
            raise ValueError(f"predictions of {model} must have {len(pictures)} rows, got {len(found.logits)}")
        scores = score_logits(found.logits, pictures["imagenet_index"].to_numpy(), pictures["in9"].tolist())
        tables.append(pd.concat([pictures.reset_index(drop=True), scores], axis=1).assign(model=model))
    return pd.concat(tables, ignore_index=True)


def score_logits(logits: np.ndarray, imagenet_index: np.ndarray, in9: Sequence[str]) -> pd.DataFrame:
    """Return `prediction`, `probability`, `top1`, `top5` and `in9_right` of each row of logits.

    Args:
        logits: Shape (n, 1000).
        imagenet_index: True classes, 0 to 999, shape (n,).
        in9: True superclasses, names in `taxonomy.IN9`, or empty; n of them.
    """
    logits, rows = np.asarray(logits, dtype=np.float64), np.arange(len(logits))
    truth = np.asarray(imagenet_index)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    rank = (logits > logits[rows, truth][:, None]).sum(1)  # how many classes stand before the true one
    superclass = np.array([IN9.index(name) if name else -1 for name in in9])
    in9_right = np.where(superclass < 0, np.nan, in9_of_logits(logits) == superclass)
    return pd.DataFrame(
        {
            "prediction": logits.argmax(1),
            "probability": exponentials[rows, truth] / exponentials.sum(1),
            "top1": (rank < 1).astype(float),
            "top5": (rank < 5).astype(float),
            "in9_right": in9_right,
        }
    )


def paired_scores(scores: pd.DataFrame, *, validated_only: bool = True) -> pd.DataFrame:
    """Return the rows of foregrounds that have both an original and a shifted picture.

    Args:
        scores: From `score_pictures`.
        validated_only: Take only shifted pictures that notebook 03 kept.
    """
    rows = scores[scores["keep"].astype(bool)] if validated_only else scores
    kinds = rows.groupby("foreground_id")["kind"].nunique()
    return rows[rows["foreground_id"].isin(kinds.index[kinds == 2])].reset_index(drop=True)


def accuracy_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy by model, measure and kind of picture; pictures of one foreground count as resembling each other.

    Returns:
        `model`, `measure` (top1, top5, in9), `kind` (original, shifted), `value`, `low`, `high`, `n`.
    """
    rows = []
    for (model, kind), group in scores.groupby(["model", "kind"], sort=False):
        for measure in MEASURES:
            known = group.dropna(subset=_column(measure))
            if len(known):
                share = clustered_wilson(known[_column(measure)], known["foreground_id"])
                rows.append({"model": model, "measure": measure, "kind": kind, **vars(share)})
    return pd.DataFrame(rows)


def drop_table(scores: pd.DataFrame, *, seed: int, samples: int = 2000) -> pd.DataFrame:
    """Return original minus shifted accuracy, with an interval from drawing foregrounds with replacement.

    A foreground's original and its shifted pictures are drawn together, so how hard it is cancels.

    Args:
        scores: From `paired_scores`.
        samples: Number of bootstrap samples.

    Returns:
        `model`, `measure`, `value`, `low`, `high`, `n` (foregrounds).
    """
    rows = []
    for model, group in scores.groupby("model", sort=False):
        for measure in MEASURES:
            column = _column(measure)
            known = group.dropna(subset=column)
            original, shifted = (known[known["kind"] == kind] for kind in ("original", "shifted"))
            if len(known):
                drop = paired_difference(
                    original[column], shifted[column], groups=original["foreground_id"],
                    second_groups=shifted["foreground_id"], seed=seed, samples=samples,
                )  # fmt: skip
                rows.append({"model": model, "measure": measure, **vars(drop)})
    return pd.DataFrame(rows)


def cell_table(scores: pd.DataFrame, by: Sequence[str], *, measure: str = "top1") -> pd.DataFrame:
    """Return the accuracy on shifted pictures in each cell of a cross table, with Wilson intervals.

    Args:
        scores: From `score_pictures` or `paired_scores`.
        by: Columns that make the cells, such as ``["model", "background"]``.
        measure: A key of `MEASURES`.

    Returns:
        The columns `by`, `measure`, `value`, `low`, `high`, `n`.
    """
    known = scores[scores["kind"] == "shifted"].dropna(subset=_column(measure))
    clustered = "class_name" not in by or "background" not in by or "model" not in by
    rows = []
    for key, cell in known.groupby(list(by), sort=False):
        outcomes = cell[_column(measure)]
        share = (
            clustered_wilson(outcomes, cell["foreground_id"]) if clustered else wilson(int(outcomes.sum()), len(cell))
        )
        rows.append({**dict(zip(by, key, strict=True)), "measure": measure, **vars(share)})
    return pd.DataFrame(rows)


def evaluation_metrics(accuracy: pd.DataFrame, drops: pd.DataFrame) -> dict[str, Estimate]:
    """Return notebook 04's metrics: ``<model>/top1_original``, ``…_shifted``, ``…_drop``, the same for top5 and in9."""
    named = [*zip(accuracy["kind"], accuracy.to_dict("records"), strict=True)]
    named += [("drop", row) for row in drops.to_dict("records")]
    return {
        f"{metric_prefix(row['model'])}/{row['measure']}_{kind}": Estimate(
            row["value"], row["low"], row["high"], row["n"]
        )
        for kind, row in named
    }


def metric_prefix(model: str) -> str:
    """Return a model's name as metrics write it: the last part of a path or hub id, odd characters replaced."""
    last = model.rstrip("/").rsplit("/", 1)[-1]
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in last).lstrip("_.-") or "model"


def reference_accuracy(logits: np.ndarray, imagenet_index: np.ndarray, in9: Sequence[str]) -> pd.DataFrame:
    """Return the accuracy on labelled photos: `measure`, `value`, `low`, `high`, `n`."""
    scores = score_logits(logits, imagenet_index, in9)
    rows = []
    for measure in MEASURES:
        known = scores[_column(measure)].dropna()
        if len(known):
            rows.append({"measure": measure, **vars(wilson(int(known.sum()), len(known)))})
    return pd.DataFrame(rows)


def _column(measure: str) -> str:
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    return "in9_right" if measure == "in9" else measure  # `in9` itself is the superclass's name


def _read_table(path: Path, split: str) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(f"{path} is missing: run notebook {path.parent.name} first")
    table = pd.read_parquet(path)
    return table[table["split"] == split].reset_index(drop=True)
