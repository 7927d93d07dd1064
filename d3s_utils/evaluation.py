"""How accurate classifiers are on originals, guides and generated images: tidy tables, each number with its interval.

Every foreground counts the same, on every side: of a hard one fewer images are kept, and if images counted alike, its
share among generated images would be smaller than among originals. Images of one foreground are relatives, and so are
images on one scene; intervals know both (see `intervals`).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from d3s_utils.image_sets import ImageSet
from d3s_utils.intervals import clustered_wilson, paired_test, wilson
from d3s_utils.metrics import Estimate
from d3s_utils.taxonomy import label_name

MEASURES = {"top1": "top-1", "top5": "top-5", "in9": "ImageNet-9"}  # column -> how it reads
PUBLISHED_RULE = {"in9_of_1000": "ImageNet-9, best of 1000"}  # where scores have it: see `with_published_rule`
_OF_BOARD = {  # metric -> column of the leaderboard
    "relative_accuracy": "relative", "effective_robustness": "effective_robustness",
    "worst_background_accuracy": "worst_background_accuracy", "worst_cell_accuracy": "worst_cell_accuracy",
    "macro_std": "macro_std",
}  # fmt: skip
KINDS = {  # kind of image -> what it shows
    "original": "the foreground's own photo, full size",
    "placed": "the object on its own ground, at the size and place of its guide",
    "placed_repainted": "the same, repainted by the generator",
    "guide": "the object on the background, pasted",
    "shifted": "the same, repainted by the generator",
}
_SHARED = ["picture_id", "image_id", "foreground_id", "template_id", "split", "class_name", "imagenet_index", "in9"]
_FILES = {
    "placed": "placed_file",
    "placed_repainted": "placed_repainted_file",
    "guide": "guide_file",
    "shifted": "file",
}


def read_pictures(run_folder: Path, *, split: str | None = None) -> pd.DataFrame:
    """Return the foregrounds of notebook 01 and all that was made of them, as classifiers are to be shown it.

    Of an image there are up to four kinds (see `KINDS`), and all four are of the same foreground, size and place. An
    image and its twin on its own ground are *kept* where notebook 03 kept the image and found the object in the twin
    too, so that neither side was chosen by how well it came out. Where a run has twins, images without one are not
    kept. Of images that were not kept, guides and pasted twins are left out.

    Args:
        split: ``train`` or ``val``; None takes both. Pretrained classifiers learn nothing from a run.

    Returns:
        One row a picture: `picture_id`, `image_id` (what the four kinds share; empty for originals), `kind`,
        `foreground_id`, `template_id` (of the scene; empty where the ground is the object's own), `split`,
        `class_name`, `imagenet_index`, `in9`, `background` (empty for originals), `file` (relative to `run_folder`),
        `keep` (true for originals).

    Raises:
        ValueError: If a table is missing, or no picture was validated.
    """
    plain = _read_table(run_folder / "01_compositing" / "foregrounds.parquet", split)
    images = _read_table(run_folder / "03_validation" / "validated.parquet", split)
    if not images["keep"].any():
        where = "" if split is None else f" of split {split!r}"
        raise ValueError(
            f"none of the {len(images)} pictures{where} was validated: look at the reasons in notebook "
            "03_validation, then change its thresholds, or the strength or generator of 02_diffusion_generation"
        )
    if "template_id" not in images:
        images["template_id"] = ""
    keep = images["keep"].astype(bool)
    if "placed_foreground_agrees" in images:
        keep &= images["placed_foreground_agrees"].fillna(False).astype(bool)
    ids = plain["foreground_id"]
    tables = [plain.assign(picture_id=ids, image_id="", template_id="", kind="original", background="", keep=True)]
    for kind, column in _FILES.items():
        if column in images:
            rows = images.assign(kind=kind, file=images[column], keep=keep, picture_id=images["image_id"])
            rows = rows[rows["file"].notna() & (keep | (kind in ("placed_repainted", "shifted")))]
            if kind != "shifted":
                rows = rows.assign(picture_id=rows["picture_id"] + f"/{kind}")
            tables.append(rows.assign(template_id="") if kind.startswith("placed") else rows)
    columns = [*_SHARED, "kind", "background", "file", "keep"]
    return pd.concat([table[columns] for table in tables], ignore_index=True)


def foreground_judges(run_folder: Path) -> frozenset[str]:
    """Return the models whose word on the object decided which images notebook 03 kept; none where nobody said.

    On what it kept itself a judge is nearly always right, so its accuracy there tells nothing.
    """
    path = run_folder / "03_validation" / "validated.parquet"
    if "foreground_judged_by" not in pq.read_schema(path).names:
        return frozenset()
    said = pd.read_parquet(path, columns=["foreground_judged_by"])["foreground_judged_by"]
    return frozenset(name for names in said.dropna().unique() for name in names.split(", ") if name)


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
        validated_only: Take only pictures that were kept (see `read_pictures`).
    """
    rows = scores[scores["keep"].astype(bool)] if validated_only else scores
    shown = rows[rows["kind"].isin(["original", "shifted"])]
    kinds = shown.groupby("foreground_id")["kind"].nunique()
    return rows[rows["foreground_id"].isin(kinds.index[kinds == 2])].reset_index(drop=True)


def scenes_of(rows: pd.DataFrame) -> np.ndarray | None:
    """Return the scene that each row's picture shows, or None where none shows one; a picture without is on its own."""
    scenes = rows["template_id"].fillna("").astype(str) if "template_id" in rows else pd.Series("", rows.index)
    if (scenes == "").all():
        return None
    return scenes.where(scenes != "", rows["picture_id"].astype(str)).to_numpy()


def foreground_accuracy(rows: pd.DataFrame, column: str) -> Estimate:
    """Return the mean of a column of zeros and ones, averaged within a foreground first, with its Wilson interval.

    Args:
        rows: Pictures of one kind, seen by one model.

    Returns:
        An estimate whose `n` is the number of pictures.
    """
    sizes = rows.groupby("foreground_id")[column].transform("size")
    return clustered_wilson(rows[column], rows["foreground_id"], crossed=scenes_of(rows), weights=1 / sizes)


def accuracy_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy by model, measure and kind of picture; see `foreground_accuracy`.

    Returns:
        `model`, `measure` (top1, top5, in9), `kind` (of `KINDS`), `value`, `low`, `high`, `n` (pictures),
        `foregrounds`.
    """
    rows = []
    for (model, kind), group in scores.groupby(["model", "kind"], sort=False):
        for measure in MEASURES:
            known = group.dropna(subset=_column(measure))
            if len(known):
                share = foreground_accuracy(known, _column(measure))
                count = known["foreground_id"].nunique()
                rows.append({"model": model, "measure": measure, "kind": kind, **vars(share), "foregrounds": count})
    columns = ["model", "measure", "kind", "value", "low", "high", "n", "foregrounds"]
    return pd.DataFrame(rows, columns=columns)


def drop_table(scores: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Return original minus shifted accuracy, the paper's number.

    It holds all that was done to a photo: the object became smaller, moved, got another background and was repainted.
    `background_contrasts` takes these apart. Every foreground counts the same; how hard it is cancels.

    Args:
        scores: From `paired_scores`.
        seed: The run's seed.

    Returns:
        `model`, `measure`, `value`, `low`, `high`, `n` (foregrounds), `p_value` (see `intervals.paired_test`).
    """
    rows = []
    for model, group in scores.groupby("model", sort=False):
        for measure in MEASURES:
            column = _column(measure)
            known = group.dropna(subset=column)
            original, shifted = (known[known["kind"] == kind] for kind in ("original", "shifted"))
            if len(original) and len(shifted):
                drop, p_value = paired_test(
                    original[column], shifted[column], groups=original["foreground_id"],
                    second_groups=shifted["foreground_id"], second_crossed=scenes_of(shifted), seed=seed,
                )  # fmt: skip
                rows.append({"model": model, "measure": measure, **vars(drop), "p_value": p_value})
    return pd.DataFrame(rows, columns=["model", "measure", "value", "low", "high", "n", "p_value"])


def cell_table(scores: pd.DataFrame, by: Sequence[str], *, measure: str = "top1") -> pd.DataFrame:
    """Return the accuracy on shifted pictures in each cell of a cross table; see `foreground_accuracy`.

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
        share = foreground_accuracy(cell, _column(measure))
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
        said = group["prediction"].map(lambda index: label_name(int(index))).value_counts()
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
    contrasts: pd.DataFrame | None = None,
) -> dict[str, Estimate]:
    """Return notebook 04's metrics by name.

    Args:
        accuracy, drops: From `accuracy_table` and `drop_table`: ``<model>/top1_original``, ``…_shifted`` and the other
            `KINDS`, ``…_drop``; the same for top5 and in9.
        photos: See `overview_table`: ``<model>/top1_on_photos_1``, ``…_2`` and so on, in the order of the sets.
        board: From `robustness_measures.leaderboard`: ``<model>/relative_accuracy``, ``…/effective_robustness``,
            ``…/worst_background_accuracy``, ``…/worst_cell_accuracy``, ``…/macro_std``.
        focus: From `focus.measure_focus`: ``<model>/foreground_focus``.
        contrasts: From `background_contrasts`, top-1 under the effect's own name, such as
            ``<model>/background_effect``, other measures with theirs before it.
    """
    named = [(f"{row['measure']}_{row['kind']}", row) for row in accuracy.to_dict("records")]
    named += [(f"{row['measure']}_drop", row) for row in drops.to_dict("records")]
    if photos is not None:
        for number, (_, rows) in enumerate(photos.groupby("photos", sort=False)):
            named += [(f"{row['measure']}_on_photos_{number + 1}", row) for row in rows.to_dict("records")]
    if focus is not None:
        named += [("foreground_focus", row) for row in focus.to_dict("records")]
    for row in contrasts.to_dict("records") if contrasts is not None else ():
        named.append((row["effect"] if row["measure"] == "top1" else f"{row['measure']}_{row['effect']}", row))
    found = {(row["model"], name): [row[end] for end in ("value", "low", "high", "n")] for name, row in named}
    for row in board.to_dict("records") if board is not None else ():
        for name, column in _OF_BOARD.items():
            ends = [row[f"{column}{end}"] for end in ("", "_low", "_high")]
            found[(row["model"], name)] = [*ends, row.get(f"{column.removesuffix('_accuracy')}_n", row["pictures"])]
    prefixes = metric_prefixes(list(dict.fromkeys(model for model, _ in found)))
    return {
        f"{prefixes[model]}/{name}": Estimate(*values)
        for (model, name), values in found.items()
        if np.isfinite(values[0])
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
        scores: From `one_pass.evaluate`, or from `backgrounds_challenge.with_published_rule` for ImageNet-9 by both
            rules.
        by: Further columns that make groups, such as ``["corruption", "severity"]``.

    Returns:
        `model`, the columns `by`, `measure`, `value`, `low`, `high`, `n`.
    """
    names = ["model", *by]
    rows = []
    for key, group in scores.groupby(names, sort=False):
        for measure in (*MEASURES, *(set(PUBLISHED_RULE) & set(group))):
            known = group[_column(measure)].dropna()
            if len(known):
                share = wilson(int(known.sum()), len(known))
                if "foreground_id" in group:
                    share = clustered_wilson(known, group.loc[known.index, "foreground_id"].astype(str))
                rows.append({**dict(zip(names, key, strict=True)), "measure": measure, **vars(share)})
    return pd.DataFrame(rows, columns=[*names, "measure", "value", "low", "high", "n"])


def _column(measure: str) -> str:
    if measure not in MEASURES | PUBLISHED_RULE:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    return "in9_right" if measure == "in9" else measure  # `in9` itself is the superclass's name


def _read_table(path: Path, split: str | None) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(f"{path} is missing: run notebook {path.parent.name} first")
    table = pd.read_parquet(path)
    return table if split is None else table[table["split"] == split].reset_index(drop=True)
