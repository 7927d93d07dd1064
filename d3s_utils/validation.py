"""Do generated pictures show what their labels say? Models looked, thresholds decide.

Looking and deciding are apart: `panel.judge` asks the models once, `decide` turns what they said into keep or reject
and can be called again with other thresholds, and `people.overrule` puts people's verdicts in the place of the models'
for the pictures that they saw. Every rejection has its reason, every verdict its source.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from d3s_utils.intervals import clustered_wilson
from d3s_utils.manifest import load_manifest, with_twins
from d3s_utils.metrics import Estimate
from d3s_utils.taxonomy import BACKGROUNDS, IN9

MEASURES = {  # measure -> the column that it is the share of
    "foreground_agreement": "foreground_named", "background_agreement": "background_named", "acceptance": "keep",
}  # fmt: skip
FILTERS = {  # filter -> the column it looks at
    "foreground": "foreground_probability",
    "background": "background_probability",
    "unsafe": "unsafe_score",
    "clip_foreground": "clip_foreground_probability",
    "clip_background": "clip_background_probability",
    "sharpness": "sharpness_outlier",
    "exposure": "exposure_outlier",
    "duplicate": "duplicate_of",
}


@dataclass(frozen=True)
class Thresholds:
    """When a model's opinion is good enough, all in [0, 1].

    Attributes:
        foreground: The foreground agrees if the judges give its superclass at least this probability.
        background: Likewise for the background.
        unsafe: A picture is unsafe from this score on.
        clip_foreground: CLIP agrees from this probability of the class on, among the classes of the set.
        clip_background: Likewise for the background, among the ten.
    """

    foreground: float
    background: float
    unsafe: float
    clip_foreground: float = 0.5
    clip_background: float = 0.5

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} threshold must lie in [0, 1], got {value!r}")


def read_generated(run_folder: Path) -> pd.DataFrame:
    """Return the rows of notebook 02's manifest, both splits, ordered by image_id.

    The column `file` is added: the picture's path, relative to `run_folder`.

    Raises:
        ValueError: If there is no row.
    """
    images = run_folder / "02_diffusion_generation" / "images"
    table = load_manifest(images)
    if table.empty:
        raise ValueError(f"{images} holds no generated picture: run notebook 02_diffusion_generation first")
    table = table.sort_values("image_id", ignore_index=True)
    folder = images.relative_to(run_folder).as_posix()
    return with_twins(table.assign(file=folder + "/" + table["split"] + "/" + table["file_name"]), run_folder)


def passes(judged: pd.DataFrame, thresholds: Thresholds) -> pd.DataFrame:
    """Return whether each picture passes each of `FILTERS` that the table has the column of, as booleans.

    A score passes from its threshold on, and nothing else counts: so what `calibration` finds out about a threshold is
    true of the verdicts made with it. A picture that cannot be read passes none.
    """
    column = {name: judged[source] for name, source in FILTERS.items() if source in judged}
    found = {"unsafe": column["unsafe"] < thresholds.unsafe}
    for name in ("foreground", "background", "clip_foreground", "clip_background"):
        if name in column:
            found[name] = column[name] >= getattr(thresholds, name)
    for name in ("sharpness", "exposure"):
        if name in column:
            found[name] = ~column[name].astype(bool)
    if "duplicate" in column:
        found["duplicate"] = column["duplicate"] == ""
    readable = judged["unreadable"] == ""
    return pd.DataFrame({name: found[name].astype(bool) & readable for name in FILTERS if name in found})


def decide(
    judged: pd.DataFrame, thresholds: Thresholds, *, filters: Sequence[str] = ("foreground", "background", "unsafe")
) -> pd.DataFrame:
    """Return a judged table with the models' verdict on each picture.

    Args:
        judged: From `judge`, with the columns of the other `FILTERS` where they are wanted.
        thresholds: See `Thresholds`.
        filters: Those that reject; the others only say what they would do (`passes`).

    Returns:
        The table with these columns more:
            `foreground_agrees`, `background_agrees`, `safe`: one answer each (false where unreadable).
            `keep`: whether all `filters` pass it.
            `reason`: why not, with the numbers and what was seen instead; empty where kept.
            `verdict_source`: ``models``.
            `rule`: what decided.

    Raises:
        ValueError: If a filter is unknown, or its column is missing.
    """
    passed = passes(judged, thresholds)
    for name in filters:
        if name not in passed:
            has = "was not measured here" if name in FILTERS else f"is none of {', '.join(FILTERS)}"
            raise ValueError(f"filters must be among those measured ({', '.join(passed)}); {name!r} {has}")
    verdict = judged.assign(
        foreground_agrees=passed["foreground"], background_agrees=passed["background"], safe=passed["unsafe"],
        keep=passed[list(filters)].all(axis=1) & (judged["unreadable"] == ""),
    )  # fmt: skip
    rows, answers = verdict.to_dict("records"), passed.to_dict("records")
    verdict["reason"] = [_reason(row, answer, thresholds, filters) for row, answer in zip(rows, answers, strict=True)]
    return verdict.assign(verdict_source="models", rule=f"models: {', '.join(filters)}")


def with_twin_verdicts(validated: pd.DataFrame, opinions: pd.DataFrame, thresholds: Thresholds) -> pd.DataFrame:
    """Return the table with whether the object is found in each image's twin, by the very rule that images meet.

    Args:
        validated: From `decide`, with `placed_repainted_file` (missing where there is no twin).
        opinions: From `panel.foreground_opinions`, a row for each twin, in the order of `validated`.
        thresholds: Those of the images.

    Returns:
        The table with `placed_foreground_probability` and `placed_foreground_agrees`, both missing without a twin.
    """
    twins = validated.index[validated["placed_repainted_file"].notna()]
    probability = pd.Series(opinions["foreground_probability"].to_numpy(float), index=twins).reindex(validated.index)
    agrees = (probability >= thresholds.foreground).astype(object)
    agrees = agrees.where(validated["placed_repainted_file"].notna(), None).astype("boolean")
    return validated.assign(placed_foreground_probability=probability, placed_foreground_agrees=agrees)


def agreement_table(validated: pd.DataFrame) -> pd.DataFrame:
    """Return how often the judges name the labels, and how much is kept, by class and background, with intervals.

    Returns:
        One row for each class × background × measure (of `MEASURES`): `class_name`, `background`, `measure`, `value`,
        `low`, `high`, `n`.
    """
    rows = []
    for (class_name, background), cell in validated.groupby(["class_name", "background"], sort=False):
        for measure, column in MEASURES.items():
            rows.append({"class_name": class_name, "background": background, "measure": measure}
                        | vars(share_of(cell, column)))  # fmt: skip
    return pd.DataFrame(rows, columns=["class_name", "background", "measure", "value", "low", "high", "n"])


def agreement_metrics(validated: pd.DataFrame) -> dict[str, Estimate]:
    """Return the agreement of the whole set and of each background, as notebook 03 reports it.

    *Agreement* is how often the judges name the label first, whatever the threshold and whatever people say; that can
    be compared with `chance_levels` and with the judges' rate on photos. *Acceptance* is what was kept.

    Returns:
        `foreground_agreement`, `background_agreement`, `acceptance`, `safe`; for each background
        ``<background>/foreground_agreement``, ``<background>/background_agreement`` and ``acceptance/<background>``.
    """
    metrics = {name: share_of(validated, column) for name, column in (MEASURES | {"safe": "safe"}).items()}
    for background in sorted(set(validated["background"]), key=list(BACKGROUNDS).index):
        rows = validated[validated["background"] == background]
        for name, column in MEASURES.items():
            place = f"acceptance/{background}" if name == "acceptance" else f"{background}/{name}"
            metrics[place] = share_of(rows, column)
    return metrics


def share_of(table: pd.DataFrame, column: str) -> Estimate:
    """Return the share of images for which a column is true; images of one foreground, or one scene, are relatives.

    Args:
        table: Has `foreground_id`, and `template_id` where scenes are known.
    """
    scenes = table["template_id"].astype(str) if "template_id" in table else None
    return clustered_wilson(table[column].astype(bool), table["foreground_id"], crossed=scenes)


def chance_levels(table: pd.DataFrame) -> dict[str, float]:
    """Return what a judge that guesses evenly would name rightly, on average over the images of a table.

    A class with a superclass is guessed among the nine, one without among ImageNet's 1000.

    Returns:
        `foreground` and `background`, shares.
    """
    foreground = np.where(table["in9"] != "", 1 / len(IN9), 1 / 1000).mean()
    return {"foreground": float(foreground), "background": 1 / len(BACKGROUNDS)}


def acceptance_by_threshold(judged: pd.DataFrame, *, probability: str, steps: int = 101) -> pd.DataFrame:
    """Return which share of images would agree at each threshold.

    Args:
        probability: Column of the true label's probability.

    Returns:
        `threshold`, `value`. A missing probability agrees with none.
    """
    thresholds = np.linspace(0, 1, steps)
    over = judged[probability].to_numpy()[None, :] >= thresholds[:, None]
    return pd.DataFrame({"threshold": thresholds, "value": over.mean(1)})


def kept_by_cell(judged: pd.DataFrame, *, column: str, thresholds: Sequence[float]) -> pd.DataFrame:
    """Return the share of each class × background that a threshold on `column` alone would keep.

    Returns:
        `threshold`, `class_name`, `background`, `value`, `low`, `high`, `n`. A missing number is not kept.
    """
    rows = []
    for threshold in thresholds:
        over = judged.assign(over=judged[column] >= threshold)
        for (class_name, background), cell in over.groupby(["class_name", "background"], sort=False):
            rows.append({"threshold": float(threshold), "class_name": class_name, "background": background}
                        | vars(share_of(cell, "over")))  # fmt: skip
    return pd.DataFrame(rows)


def _reason(row: dict, passed: dict, thresholds: Thresholds, filters: Sequence[str]) -> str:
    if row["unreadable"]:
        return f"unreadable: {row['unreadable']}"
    reasons = []
    for name in filters:
        if passed[name]:
            continue
        if name in ("foreground", "background"):
            label = (row["in9"] or row["class_name"]) if name == "foreground" else row["background"]
            shown, threshold = row[f"{name}_probability"], getattr(thresholds, name)
            if np.isnan(shown):
                reasons.append(f"{name}: no judge knows {label}")
                continue
            reasons.append(f"{name}: looks like {row[f'{name}_prediction']}, {label} {shown:.2f} < {threshold:g}")
        elif name == "unsafe":
            reasons.append(f"unsafe: {row['unsafe_score']:.2f} >= {thresholds.unsafe:g}")
        elif name.startswith("clip_"):
            reasons.append(f"{name}: {row[FILTERS[name]]:.2f} < {getattr(thresholds, name):g}")
        elif name == "duplicate":
            reasons.append(f"duplicate: of {row['duplicate_of']}")
        else:
            reasons.append(f"{name}: an outlier")
    return "; ".join(reasons)
