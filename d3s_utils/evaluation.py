"""How much accuracy classifiers lose when only the background changes: tidy tables, each number with its interval."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from d3s_utils.image_sets import ImageSet
from d3s_utils.intervals import clustered_wilson, paired_difference, wilson
from d3s_utils.metrics import Estimate
from d3s_utils.taxonomy import imagenet_class

MEASURES = {"top1": "top-1", "top5": "top-5", "in9": "ImageNet-9"}  # column -> how it reads
_OF_BOARD = {  # metric -> column of the leaderboard
    "relative_accuracy": "relative", "effective_robustness": "effective_robustness",
    "worst_background_accuracy": "worst_background_accuracy", "worst_cell_accuracy": "worst_cell_accuracy",
    "macro_std": "macro_std",
}  # fmt: skip
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


def picture_set(pictures: pd.DataFrame, *, root: Path) -> ImageSet:
    """Return the pictures of `read_pictures` as classifiers are shown them (see `one_pass.evaluate`).

    Args:
        root: The run's folder.
    """
    files = tuple(root / file for file in pictures["file"])
    return ImageSet("dreamt originals and shifted pictures", pictures, files, root=root)


def paired_scores(scores: pd.DataFrame, *, validated_only: bool = True) -> pd.DataFrame:
    """Return the rows of foregrounds that have both an original and a shifted picture.

    Args:
        scores: From `one_pass.evaluate` over a `picture_set`.
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
        scores: From `one_pass.evaluate` over `picture_set`, or `paired_scores`.
        by: Columns that make the cells, such as ``["model", "background"]``.
        measure: A key of `MEASURES`.

    Returns:
        The columns `by`, `measure`, `value`, `low`, `high`, `n`.
    """
    known = scores[scores["kind"] == "shifted"].dropna(subset=_column(measure))
    rows = []
    for key, cell in known.groupby(list(by), sort=False):
        share = clustered_wilson(cell[_column(measure)], cell["foreground_id"])
        rows.append({**dict(zip(by, key, strict=True)), "measure": measure, **vars(share)})
    return pd.DataFrame(rows, columns=[*by, "measure", "value", "low", "high", "n"])


def missed_by_all(scores: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the shifted pictures that no model names rightly (top-1), with what they said, and how many there were.

    Args:
        scores: From `paired_scores`.

    Returns:
        A row a picture: `picture_id`, `class_name`, `background`, `file`, `caption` (the class and background, and
        below it what was said: the commonest first).
    """
    shifted = scores[scores["kind"] == "shifted"]
    missed = shifted[shifted.groupby("picture_id")["top1"].transform("max") == 0]
    rows = []
    for _, group in missed.groupby("picture_id", sort=True):
        said = group["prediction"].map(lambda index: imagenet_class(int(index)).name).value_counts()
        row = group.iloc[0]
        words = ", ".join(f"{name} ({count})" if len(group) > 3 else name for name, count in said.head(3).items())
        names = ("picture_id", "class_name", "background", "file")
        rows.append({name: row[name] for name in names} | {
            "caption": f"{row['class_name']}, {row['background']}\n→ {words}"
        })  # fmt: skip
    table = pd.DataFrame(rows, columns=["picture_id", "class_name", "background", "file", "caption"])
    return table, shifted["picture_id"].nunique()


def benchmark_accuracy(scores: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy on another data set, for each group that its layout tells (corruption, background, …), and all
    together.

    Returns:
        `model`, `group` (what it is a group of, such as ``corruption=fog severity=3``; empty: all pictures), and the
        other columns of `photo_accuracy`.
    """
    parts = [photo_accuracy(scores).assign(group="")]
    names = [name for name in ("kind", "variant", "background", "corruption", "severity") if name in scores]
    names = [name for name in names if scores[name].nunique() > 1]
    for by in [[name] for name in names] + ([names] if len(names) > 1 else []):
        found = photo_accuracy(scores, by=by)
        words = [" ".join(f"{name}={row[name]}" for name in by) for row in found.to_dict("records")]
        parts.append(found.drop(columns=by).assign(group=words))
    return pd.concat(parts, ignore_index=True)[["model", "group", "measure", "value", "low", "high", "n"]]


def overview_table(board: pd.DataFrame, photos: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return top-1 on real photos, originals and shifted pictures side by side, a row a model in the board's order.

    Args:
        board: From `robustness_measures.leaderboard`.
        photos: From `photo_accuracy`, with `photos` (the set's name), or None.

    Returns:
        `model`, `group`; ``top1_on_<set>`` for each set of photos; `top1_original`, `top1_shifted`, `top1_drop`, each
        with ``_low`` and ``_high``; `p_holm`.
    """
    table = board[["model", "group"]]
    if photos is not None:
        for name, rows in photos[photos["measure"] == "top1"].groupby("photos", sort=False):
            column = "top1_on_" + "_".join("".join(c if c.isalnum() else " " for c in name).split())
            ends = {"value": column, "low": f"{column}_low", "high": f"{column}_high"}
            table = table.merge(rows[["model", *ends]].rename(columns=ends), on="model", how="left")
    names = [f"top1_{kind}{end}" for kind in ("original", "shifted", "drop") for end in ("", "_low", "_high")]
    return table.merge(board[["model", *names, "p_holm"]], on="model", how="left")


def evaluation_metrics(
    accuracy: pd.DataFrame,
    drops: pd.DataFrame,
    photos: pd.DataFrame | None = None,
    *,
    board: pd.DataFrame | None = None,
    focus: pd.DataFrame | None = None,
) -> dict[str, Estimate]:
    """Return notebook 04's metrics by name.

    Args:
        accuracy, drops: From `accuracy_table` and `drop_table`: ``<model>/top1_original``, ``…_shifted``, ``…_drop``,
            the same for top5 and in9.
        photos: See `overview_table`: ``<model>/top1_on_photos_1``, ``…_2`` and so on, in the order of the sets.
        board: From `robustness_measures.leaderboard`: ``<model>/relative_accuracy``, ``…/effective_robustness``,
            ``…/worst_background_accuracy``, ``…/worst_cell_accuracy``, ``…/macro_std``.
        focus: From `focus.measure_focus`: ``<model>/foreground_focus``.
    """
    named = [(f"{row['measure']}_{row['kind']}", row) for row in accuracy.to_dict("records")]
    named += [(f"{row['measure']}_drop", row) for row in drops.to_dict("records")]
    if photos is not None:
        for number, (_, rows) in enumerate(photos.groupby("photos", sort=False)):
            named += [(f"{row['measure']}_on_photos_{number + 1}", row) for row in rows.to_dict("records")]
    if focus is not None:
        named += [("foreground_focus", row) for row in focus.to_dict("records")]
    found = {(row["model"], name): [row[end] for end in ("value", "low", "high", "n")] for name, row in named}
    for row in board.to_dict("records") if board is not None else ():
        for name, column in _OF_BOARD.items():
            ends = [row[f"{column}{end}"] for end in ("", "_low", "_high")]
            found[(row["model"], name)] = [*ends, row.get(f"{column.removesuffix('_accuracy')}_n", row["pictures"])]
    prefixes = metric_prefixes(list(dict.fromkeys(model for model, _ in found)))
    return {
        f"{prefixes[model]}/{name}": Estimate(*values)
        for (model, name), values in found.items()
        if np.isfinite(values[:3]).all()
    }


def metric_prefix(model: str) -> str:
    """Return a model's name as metrics write it: the last part of a path or hub id, odd characters replaced."""
    last = model.rstrip("/").rsplit("/", 1)[-1]
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in last).lstrip("_.-") or "model"


def metric_prefixes(models: Sequence[str]) -> dict[str, str]:
    """Return the prefix of each model: `metric_prefix`, or the whole name where two models would share one.

    Raises:
        ValueError: If even whole names become the same.
    """
    short = {model: metric_prefix(model) for model in models}
    shared = {prefix for prefix in short.values() if list(short.values()).count(prefix) > 1}
    found = {m: metric_prefix(m.strip("/").replace("/", "_")) if p in shared else p for m, p in short.items()}
    if len(set(found.values())) < len(found):
        raise ValueError(f"models must have names that differ in letters or digits, got {', '.join(models)}")
    return found


def photo_accuracy(scores: pd.DataFrame, *, by: Sequence[str] = ()) -> pd.DataFrame:
    """Return the accuracy of each model on labelled photos, with Wilson intervals.

    Photos count as independent, or, where there is a column `foreground_id` (one photo in many corruptions), as
    relatives (see `intervals.clustered_wilson`).

    Args:
        scores: From `one_pass.evaluate`.
        by: Further columns that make groups, such as ``["corruption", "severity"]``.

    Returns:
        `model`, the columns `by`, `measure`, `value`, `low`, `high`, `n`.
    """
    names = ["model", *by]
    rows = []
    for key, group in scores.groupby(names, sort=False):
        for measure in MEASURES:
            known = group[_column(measure)].dropna()
            if len(known):
                share = wilson(int(known.sum()), len(known))
                if "foreground_id" in group:
                    share = clustered_wilson(known, group.loc[known.index, "foreground_id"].astype(str))
                rows.append({**dict(zip(names, key, strict=True)), "measure": measure, **vars(share)})
    return pd.DataFrame(rows, columns=[*names, "measure", "value", "low", "high", "n"])


def _column(measure: str) -> str:
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    return "in9_right" if measure == "in9" else measure  # `in9` itself is the superclass's name


def _read_table(path: Path, split: str) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(f"{path} is missing: run notebook {path.parent.name} first")
    table = pd.read_parquet(path)
    return table[table["split"] == split].reset_index(drop=True)
