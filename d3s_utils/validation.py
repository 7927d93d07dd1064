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

from d3s_utils.intervals import clustered_wilson, wilson
from d3s_utils.manifest import read_rows
from d3s_utils.metrics import Estimate
from d3s_utils.taxonomy import BACKGROUNDS

QUESTIONS = {"foreground_agreement": "foreground_agrees", "background_agreement": "background_agrees"}
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
        foreground: The foreground agrees if its superclass is named first, or has at least this probability.
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
    rows = read_rows(images).rows
    if not rows:
        raise ValueError(f"{images} holds no generated picture: run notebook 02_diffusion_generation first")
    table = pd.DataFrame(list(rows.values())).sort_values("image_id", ignore_index=True)
    folder = images.relative_to(run_folder).as_posix()
    return table.assign(file=folder + "/" + table["split"] + "/" + table["file_name"])


def passes(judged: pd.DataFrame, thresholds: Thresholds) -> pd.DataFrame:
    """Return whether each picture passes each of `FILTERS` that the table has the column of, as booleans.

    A picture that cannot be read passes none.
    """
    column = {name: judged[source] for name, source in FILTERS.items() if source in judged}
    found = {}
    for name in ("foreground", "background"):
        found[name] = judged[f"{name}_named"] | (column[name] >= getattr(thresholds, name))
    found["unsafe"] = column["unsafe"] < thresholds.unsafe
    for name in ("clip_foreground", "clip_background"):
        if name in column:
            found[name] = column[name] >= getattr(thresholds, name)
    for name in ("sharpness", "exposure"):
        if name in column:
            found[name] = ~column[name].astype(bool)
    if "duplicate" in column:
        found["duplicate"] = column["duplicate"] == ""
    readable = judged["unreadable"] == ""
    return pd.DataFrame({name: passed.astype(bool) & readable for name, passed in found.items()})


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


def agreement_table(validated: pd.DataFrame) -> pd.DataFrame:
    """Return how often the judges agree with the labels, by class and background, with Wilson intervals.

    Returns:
        One row for each class × background × measure (`foreground_agreement`, `background_agreement`,
        `acceptance`): `class_name`, `background`, `measure`, `value`, `low`, `high`, `n`.
    """
    rows = []
    for (class_name, background), cell in validated.groupby(["class_name", "background"], sort=False):
        for measure, column in (QUESTIONS | {"acceptance": "keep"}).items():
            share = wilson(int(cell[column].sum()), len(cell))
            rows.append({"class_name": class_name, "background": background, "measure": measure, **vars(share)})
    return pd.DataFrame(rows, columns=["class_name", "background", "measure", "value", "low", "high", "n"])


def agreement_metrics(validated: pd.DataFrame) -> dict[str, Estimate]:
    """Return the agreement of the whole set and of each background, as notebook 03 reports it.

    Intervals count the pictures of one foreground as resembling each other (`intervals.clustered_wilson`).

    Returns:
        `foreground_agreement`, `background_agreement`, `acceptance`, `safe`; for each background
        ``<background>/foreground_agreement``, ``<background>/background_agreement`` and ``acceptance/<background>``.
    """
    shares = QUESTIONS | {"acceptance": "keep"}
    metrics = {
        name: clustered_wilson(validated[column], validated["foreground_id"])
        for name, column in (shares | {"safe": "safe"}).items()
    }
    for background in sorted(set(validated["background"]), key=list(BACKGROUNDS).index):
        rows = validated[validated["background"] == background]
        for name, column in shares.items():
            place = f"acceptance/{background}" if name == "acceptance" else f"{background}/{name}"
            metrics[place] = clustered_wilson(rows[column], rows["foreground_id"])
    return metrics


def acceptance_by_threshold(judged: pd.DataFrame, *, probability: str, named: str, steps: int = 101) -> pd.DataFrame:
    """Return which share of pictures would agree at each threshold, under two rules.

    Args:
        probability: Column of the true label's probability.
        named: Column that says whether the true label was named first.

    Returns:
        `threshold`, `strict` (probability at least the threshold), `used` (that, or named first).
    """
    thresholds = np.linspace(0, 1, steps)
    over = judged[probability].to_numpy()[None, :] >= thresholds[:, None]
    strict, used = over.mean(1), (over | judged[named].to_numpy(dtype=bool)[None, :]).mean(1)
    return pd.DataFrame({"threshold": thresholds, "strict": strict, "used": used})


def kept_by_cell(judged: pd.DataFrame, *, column: str, thresholds: Sequence[float]) -> pd.DataFrame:
    """Return the share of each class × background that a threshold on `column` alone would keep.

    Returns:
        `threshold`, `class_name`, `background`, `value`, `low`, `high`, `n`. A missing number is not kept.
    """
    rows = []
    for threshold in thresholds:
        over = judged.assign(over=judged[column] >= threshold)
        for (class_name, background), cell in over.groupby(["class_name", "background"], sort=False):
            share = wilson(int(cell["over"].sum()), len(cell))
            rows.append({"threshold": float(threshold), "class_name": class_name, "background": background}
                        | vars(share))  # fmt: skip
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
