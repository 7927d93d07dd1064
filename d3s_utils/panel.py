"""The models that look at generated pictures: several see each one, and every vote is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from d3s_utils.background_classifier import BackgroundHead, load_background_head
from d3s_utils.classifiers import Classifier, load_classifier, look, whole_picture_classifier
from d3s_utils.image_safety import SafetyCheck, load_safety_check
from d3s_utils.intervals import clustered_wilson
from d3s_utils.picture_quality import QUALITY_LOOKER, quality_table
from d3s_utils.taxonomy import BACKGROUNDS, IN9, imagenet_class, in9_of_logits, superclass_probabilities
from d3s_utils.zero_shot import Clip, load_clip, opinions, zero_shot

FEATURES, FEATURE_SIDE = "tf_efficientnet_lite0", 128  # whose features distances are measured on, and the side seen


@dataclass(frozen=True)
class Panel:
    """The models that look at pictures; none of them made or saw the generator.

    Attributes:
        foreground_judges: Their mean probability decides; at least one.
        foreground_witnesses: Their votes are kept, and decide nothing.
        background_judges, background_witnesses: Likewise, by name.
        safety: The not-safe-for-work check.
        features: Gives features for distances; has no vote.
        clip: For zero-shot scores; None where there is none.
    """

    foreground_judges: tuple[Classifier, ...]
    foreground_witnesses: tuple[Classifier, ...]
    background_judges: Mapping[str, BackgroundHead]
    background_witnesses: Mapping[str, BackgroundHead]
    safety: SafetyCheck
    features: Classifier
    clip: Clip | None = None

    def __post_init__(self):
        if not self.foreground_judges or not self.background_judges:
            raise ValueError("a panel must have a foreground judge and a background judge, got none")
        names = [c.name for c in (*self.foreground_judges, *self.foreground_witnesses)]
        names += [*self.background_judges, *self.background_witnesses]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"a panel must hold each model once, as judge or as witness; {', '.join(twice)} is twice")

    @property
    def weights(self) -> dict[str, str]:
        """The weights' sha256 by name."""
        found = {c.name: c.sha256 for c in (*self.foreground_judges, *self.foreground_witnesses)}
        for name, head in (*self.background_judges.items(), *self.background_witnesses.items()):
            found |= {name: head.sha256, head.card["backbone"]: head.card["backbone_sha256"]}
        found |= {self.clip.name: self.clip.sha256} if self.clip else {}
        return found | {"open_nsfw": self.safety.sha256, self.features.name: self.features.sha256}


@dataclass(frozen=True)
class Judged:
    """What the panel says about n pictures.

    Attributes:
        table: See `judge`.
        features: float32, shape (n, width); NaN where a picture cannot be read.
    """

    table: pd.DataFrame
    features: np.ndarray


def load_panel(
    *,
    foreground_judges: Sequence[str],
    foreground_witnesses: Sequence[str] = (),
    background_judges: Sequence[str] = ("background_head",),
    background_witnesses: Sequence[str] = (),
    clip: str | None = None,
    device: str = "cpu",
) -> Panel:
    """Load the models by name: see `load_classifier`, `load_background_head` and `load_clip`, also for the errors.

    Raises:
        ValueError: If a model is named twice, or two folders of background heads have one name.
    """
    names = [Path(name).name for name in (*background_judges, *background_witnesses)]
    if len(set(names)) < len(names):
        raise ValueError(f"background judges and witnesses must have different names, got {', '.join(names)}")
    return Panel(
        tuple(load_classifier(name, device=device) for name in foreground_judges),
        tuple(load_classifier(name, device=device) for name in foreground_witnesses),
        {Path(name).name: load_background_head(name, device=device) for name in background_judges},
        {Path(name).name: load_background_head(name, device=device) for name in background_witnesses},
        load_safety_check(),
        whole_picture_classifier(FEATURES, FEATURE_SIDE, device=device),
        load_clip(clip, device=device) if clip else None,
    )


def judge(table: pd.DataFrame, *, root: Path, panel: Panel, batch_size: int = 32) -> Judged:
    """Return `table` with the panel's opinion about each picture, which is read once for all models, and its features.

    Args:
        table: Has `file` (relative to `root`), `in9`, `imagenet_index` and `background`.

    Returns:
        The table with these columns more, for `foreground` (among the nine superclasses; a class without one stands
        for itself among the 1000) and `background` (among the ten) alike:
            `foreground_vote/<model>`: what the model names first, judges and witnesses alike.
            `foreground_score/<model>`: its probability of the true label.
            `foreground_prediction`: what the judges' mean probability names first.
            `foreground_probability`: the judges' mean probability of the true label.
            `foreground_named`: whether the right one is named first.
        And `unsafe_score` in [0, 1]; the columns of `picture_quality.quality_table`; with a CLIP those of
        `zero_shot.opinions`; and `unreadable`: why the picture could not be read, or an empty string; then the others
        are missing.
    """
    files = [root / file for file in table["file"]]
    classifiers = (*panel.foreground_judges, *panel.foreground_witnesses)
    heads = panel.background_judges | panel.background_witnesses
    lookers = [model.looker for model in (*classifiers, *heads.values(), panel.safety, panel.features)]
    chooser = zero_shot(panel.clip, sorted(set(table["imagenet_index"]))) if panel.clip else None
    lookers += [QUALITY_LOOKER, *([chooser.looker] if chooser else [])]
    found, broken = look(files, lookers, batch_size=batch_size, skip_unreadable=True, description="judging")
    logits = {model.name: answer[:, :1000] for model, answer in zip(classifiers, found, strict=False)}
    shares = dict(zip(heads, found[len(classifiers) :], strict=False))
    unsafe, features, quality, *similarities = found[len(classifiers) + len(heads) :]
    columns = [
        _foreground_opinions(table, logits, judges=[model.name for model in panel.foreground_judges]),
        _background_opinions(table, shares, judges=list(panel.background_judges)),
        pd.DataFrame({"unsafe_score": unsafe[:, 0]}),
        quality_table(quality),
        *(opinions(chooser, scores, table.reset_index(drop=True)) for scores in similarities),
        pd.DataFrame({"unreadable": [broken.get(place, "") for place in range(len(table))]}),
    ]
    return Judged(pd.concat([table.reset_index(drop=True), *columns], axis=1), features[:, 1000:])


def witness_table(judged: pd.DataFrame) -> pd.DataFrame:
    """Return how often each model of the panel names the label, and how often any two of one question agree.

    Returns:
        `question` (foreground, background), `model`, `other` (the model itself for its agreement with the label),
        `value`, `low`, `high`, `n`; unreadable pictures are left out.
    """
    seen = judged[judged["unreadable"] == ""]
    rows = []
    for question in ("foreground", "background"):
        label = np.where(seen["in9"] != "", seen["in9"], seen["class_name"])
        label = label if question == "foreground" else seen["background"].to_numpy()
        votes = {name.split("/", 1)[1]: seen[name] for name in seen if name.startswith(f"{question}_vote/")}
        for model, vote in votes.items():
            for other in votes:
                same = vote == (label if other == model else votes[other])
                share = clustered_wilson(same, seen["foreground_id"])
                rows.append({"question": question, "model": model, "other": other, **vars(share)})
    return pd.DataFrame(rows)


def _foreground_opinions(table: pd.DataFrame, logits: Mapping[str, np.ndarray], *, judges: Sequence[str]):
    """Return votes, scores and the judges' mean, see `judge`."""
    columns, means = {}, []
    alone = (table["in9"] == "").to_numpy()
    for name, scores in logits.items():
        seen = ~np.isnan(scores).any(1)
        safe = np.where(seen[:, None], scores, 0)
        nine = superclass_probabilities(safe)
        exponentials = np.exp(safe - safe.max(1, keepdims=True))
        thousand = exponentials / exponentials.sum(1, keepdims=True)
        first = np.where(alone, _class_names(thousand.argmax(1)), np.array(IN9, object)[in9_of_logits(safe)])
        columns[f"foreground_vote/{name}"] = np.where(seen, first, "")
        columns[f"foreground_score/{name}"] = np.where(seen, _of_label(table, nine, thousand), np.nan)
        if name in judges:
            means.append((nine, thousand, seen))
    nine, thousand = (np.mean([mean[i] for mean in means], axis=0) for i in range(2))
    seen = np.all([mean[2] for mean in means], axis=0)
    several = len(means) > 1  # one judge's first name is that of its logits, as `in9_of_logits` ranks them
    first = np.where(alone, _class_names(thousand.argmax(1)), np.array(IN9, object)[nine.argmax(1)])
    first = np.where(seen, first, "") if several else columns[f"foreground_vote/{judges[0]}"]
    truth = np.where(alone, table["class_name"], table["in9"])
    columns["foreground_prediction"] = first
    columns["foreground_probability"] = np.where(seen, _of_label(table, nine, thousand), np.nan)
    columns["foreground_named"] = (first == truth) & seen
    return pd.DataFrame(columns)


def _of_label(table: pd.DataFrame, nine: np.ndarray, thousand: np.ndarray) -> np.ndarray:
    labels = zip(table["in9"], table["imagenet_index"], strict=True)
    return np.array([nine[i, IN9.index(s)] if s else thousand[i, index] for i, (s, index) in enumerate(labels)])


def _class_names(indices: np.ndarray) -> np.ndarray:
    return np.array([imagenet_class(int(index)).name for index in indices], object)


def _background_opinions(table: pd.DataFrame, shares: Mapping[str, np.ndarray], *, judges: Sequence[str]):
    """Return votes, scores and the judges' mean, see `judge`."""
    names = np.array(list(BACKGROUNDS), object)
    truth = table["background"].map(list(BACKGROUNDS).index).to_numpy()
    rows = np.arange(len(table))

    def first_of(probabilities: np.ndarray) -> np.ndarray:
        seen = ~np.isnan(probabilities).any(1)
        return np.where(seen, names[np.nan_to_num(probabilities).argmax(1)], "")

    columns = {}
    for name, probabilities in shares.items():
        columns[f"background_vote/{name}"] = first_of(probabilities)
        columns[f"background_score/{name}"] = probabilities[rows, truth].astype(float)
    mean = np.mean([shares[name] for name in judges], axis=0)
    columns["background_prediction"] = first_of(mean)
    columns["background_probability"] = mean[rows, truth].astype(float)
    columns["background_named"] = columns["background_prediction"] == table["background"].to_numpy(dtype=object)
    return pd.DataFrame(columns)
