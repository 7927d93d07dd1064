"""Do generated pictures show what their labels say? Models look, thresholds decide, and each reason is recorded.

Looking and deciding are apart: `judge` asks three models once, `decide` turns what they said into keep or reject and
can be called again with other thresholds. People's votes will join here: `decide` writes who spoke into
`verdict_source`, so that a table of votes (image_id, question, worker, answer) can later replace the verdicts of the
pictures it covers, row by row, while the models' columns stay for calibration.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from d3s_utils.background_classifier import BackgroundHead
from d3s_utils.classifiers import Classifier, classify_batch, prepared_batches
from d3s_utils.image_safety import SafetyCheck
from d3s_utils.intervals import clustered_wilson, wilson
from d3s_utils.manifest import read_rows
from d3s_utils.metrics import Estimate
from d3s_utils.taxonomy import BACKGROUNDS, IN9, imagenet_class, in9_of_logits, superclass_probabilities

QUESTIONS = {"foreground_agreement": "foreground_agrees", "background_agreement": "background_agrees"}


@dataclass(frozen=True)
class Thresholds:
    """When a judge's opinion is good enough, all in [0, 1].

    Attributes:
        foreground: The foreground agrees if its superclass is named first, or has at least this probability.
        background: Likewise for the background.
        unsafe: A picture is unsafe from this score on.
    """

    foreground: float
    background: float
    unsafe: float

    def __post_init__(self):
        for name in ("foreground", "background", "unsafe"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} threshold must lie in [0, 1], got {getattr(self, name)!r}")


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


def judge(
    table: pd.DataFrame,
    *,
    root: Path,
    foreground_judge: Classifier,
    background_judge: BackgroundHead,
    safety_check: SafetyCheck,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Return `table` with the opinion of three models about each picture, which is read once for all of them.

    Args:
        table: Has `file` (relative to `root`), `in9`, `imagenet_index` and `background`.

    Returns:
        The table with these columns more:
            `foreground_prediction`: superclass that is named first (a class's name where the true class has none).
            `foreground_probability`: of the true superclass among the nine (of the class among the 1000 likewise).
            `foreground_named`: whether the right one is named first.
            `background_prediction`, `background_probability`, `background_named`: likewise among the ten.
            `unsafe_score`: in [0, 1].
            `unreadable`: why the picture could not be read, or an empty string; then the others are missing.
    """
    count = len(table)
    logits = np.full((count, 1000), np.nan, np.float32)
    backgrounds = np.full((count, len(BACKGROUNDS)), np.nan, np.float32)
    unsafe = np.full(count, np.nan, np.float32)
    unreadable = np.full(count, "", dtype=object)
    batches = prepared_batches(
        [root / file for file in table["file"]],
        [foreground_judge.transform, background_judge.transform, safety_check.transform],
        batch_size=batch_size,
        description="judging",
    )
    for places, tensors, broken in batches:
        for place, error in broken.items():
            unreadable[place] = str(error)
        if places:
            logits[places] = classify_batch(foreground_judge, tensors[0])[0]
            backgrounds[places] = background_judge.probabilities_of_batch(tensors[1])
            unsafe[places] = safety_check.score(tensors[2])
    return pd.concat(
        [
            table.reset_index(drop=True),
            _foreground_opinion(table, logits),
            _background_opinion(table, backgrounds),
            pd.DataFrame({"unsafe_score": unsafe, "unreadable": unreadable.astype(str)}),
        ],
        axis=1,
    )


def decide(judged: pd.DataFrame, thresholds: Thresholds) -> pd.DataFrame:
    """Return a judged table with the verdict on each picture.

    Returns:
        The table with these columns more:
            `foreground_agrees`, `background_agrees`, `safe`: one answer each (false where unreadable).
            `keep`: whether all three are true.
            `reason`: why not, with the probability, the threshold and what was seen instead; empty where kept.
            `verdict_source`: ``models``.
    """
    foreground = judged["foreground_named"] | (judged["foreground_probability"] >= thresholds.foreground)
    background = judged["background_named"] | (judged["background_probability"] >= thresholds.background)
    safe = judged["unsafe_score"] < thresholds.unsafe
    verdict = judged.assign(foreground_agrees=foreground, background_agrees=background, safe=safe)
    verdict["keep"] = foreground & background & safe
    verdict["reason"] = [_reason(row, thresholds) for row in verdict.to_dict("records")]
    return verdict.assign(verdict_source="models")


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
    return pd.DataFrame(rows)


def agreement_metrics(validated: pd.DataFrame) -> dict[str, Estimate]:
    """Return the agreement of the whole set and of each background, as notebook 03 reports it.

    Intervals count the pictures of one foreground as resembling each other (`intervals.clustered_wilson`).

    Returns:
        `foreground_agreement`, `background_agreement`, `acceptance`, `safe`, and the first three again as
        ``<background>/<name>``.
    """
    shares = QUESTIONS | {"acceptance": "keep"}
    metrics = {
        name: clustered_wilson(validated[column], validated["foreground_id"])
        for name, column in (shares | {"safe": "safe"}).items()
    }
    for background in sorted(set(validated["background"]), key=list(BACKGROUNDS).index):
        rows = validated[validated["background"] == background]
        for name, column in shares.items():
            metrics[f"{background}/{name}"] = clustered_wilson(rows[column], rows["foreground_id"])
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


def _foreground_opinion(table: pd.DataFrame, logits: np.ndarray) -> pd.DataFrame:
    seen = ~np.isnan(logits).any(1)
    safe_logits = np.where(seen[:, None], logits, 0)
    first = np.array(IN9, dtype=object)[in9_of_logits(safe_logits)]
    masses = superclass_probabilities(safe_logits)
    probability, named = np.full(len(table), np.nan), np.zeros(len(table), bool)
    exponentials = np.exp(safe_logits - safe_logits.max(1, keepdims=True))
    for i, (superclass, index) in enumerate(zip(table["in9"], table["imagenet_index"], strict=True)):
        if not seen[i]:
            first[i] = ""
        elif superclass:
            probability[i], named[i] = masses[i, IN9.index(superclass)], first[i] == superclass
        else:  # a class outside ImageNet-9 is its own superclass
            probability[i] = exponentials[i, index] / exponentials[i].sum()
            named[i] = safe_logits[i].argmax() == index
            first[i] = imagenet_class(int(safe_logits[i].argmax())).name
    return pd.DataFrame(
        {"foreground_prediction": first.astype(str), "foreground_probability": probability, "foreground_named": named}
    )


def _background_opinion(table: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    names = list(BACKGROUNDS)
    seen = ~np.isnan(probabilities).any(1)
    first = np.where(seen, np.array(names, dtype=object)[np.nan_to_num(probabilities).argmax(1)], "")
    truth = table["background"].map(names.index).to_numpy()
    return pd.DataFrame(
        {
            "background_prediction": first.astype(str),
            "background_probability": probabilities[np.arange(len(table)), truth].astype(float),
            "background_named": first == table["background"].to_numpy(dtype=object),
        }
    )


def _reason(row: dict, thresholds: Thresholds) -> str:
    if row["unreadable"]:
        return f"unreadable: {row['unreadable']}"
    reasons = []
    for name, label, threshold in (
        ("foreground", row["in9"] or row["class_name"], thresholds.foreground),
        ("background", row["background"], thresholds.background),
    ):
        if not row[f"{name}_agrees"]:
            probability = row[f"{name}_probability"]
            reasons.append(f"{name}: looks like {row[f'{name}_prediction']}, {label} {probability:.2f} < {threshold:g}")
    if not row["safe"]:
        reasons.append(f"unsafe: {row['unsafe_score']:.2f} >= {thresholds.unsafe:g}")
    return "; ".join(reasons)
