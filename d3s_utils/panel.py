"""The models that look at generated pictures: several see each one, and every vote is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax

from d3s_utils.background_classifier import BackgroundHead, load_background_head
from d3s_utils.classifiers import Classifier, load_classifier, look, whole_picture_classifier
from d3s_utils.image_safety import SafetyCheck, load_safety_check
from d3s_utils.intervals import clustered_wilson
from d3s_utils.picture_quality import QUALITY_LOOKER, quality_table
from d3s_utils.small_resnet import NAME as SMALL_RESNET
from d3s_utils.small_resnet import SmallResnet, load_small_resnet
from d3s_utils.taxonomy import BACKGROUNDS, IN9, imagenet_class, in9_of_logits, superclass_probabilities
from d3s_utils.zero_shot import Clip, load_clip, opinions, zero_shot

FEATURES, FEATURE_SIDE = "tf_efficientnet_lite0", 128  # whose features distances are measured on, and the side seen


@dataclass(frozen=True)
class Panel:
    """The models that look at pictures; none of them made or saw the generator.

    Attributes:
        foreground_judges: Their mean probability decides; at least one. A judge that tells the nine superclasses alone
            abstains on a class that has none.
        foreground_witnesses: Auxiliary judges: their votes are kept, and decide nothing, but on classes on which all
            judges abstain.
        background_judges, background_witnesses: Likewise, by name.
        safety: The not-safe-for-work check.
        features: Gives features for distances; has no vote.
        clip: For zero-shot scores; None where there is none.
    """

    foreground_judges: tuple[Classifier | SmallResnet, ...]
    foreground_witnesses: tuple[Classifier | SmallResnet, ...]
    background_judges: Mapping[str, BackgroundHead | SmallResnet]
    background_witnesses: Mapping[str, BackgroundHead | SmallResnet]
    safety: SafetyCheck
    features: Classifier
    clip: Clip | None = None

    def __post_init__(self):
        if not self.foreground_judges or not self.background_judges:
            raise ValueError("a panel must have a foreground judge and a background judge, got none")
        of_question = (
            [c.name for c in (*self.foreground_judges, *self.foreground_witnesses)],
            [*self.background_judges, *self.background_witnesses],
        )
        twice = sorted({name for names in of_question for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"a panel must ask each model once a question, got {', '.join(twice)} twice")

    @property
    def weights(self) -> dict[str, str]:
        """The weights' sha256 by name."""
        found = {c.name: c.sha256 for c in (*self.foreground_judges, *self.foreground_witnesses)}
        for name, head in (*self.background_judges.items(), *self.background_witnesses.items()):
            found |= {name: head.sha256}
            if isinstance(head, BackgroundHead):
                found |= {head.card["backbone"]: head.card["backbone_sha256"]}
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

    ``small_resnet`` may be any of the four kinds of judge (see `small_resnet`).

    Raises:
        ValueError: If a model is named twice, or two folders of background heads have one name.
    """
    names = [Path(name).name for name in (*background_judges, *background_witnesses)]
    if len(set(names)) < len(names):
        raise ValueError(f"background judges and witnesses must have different names, got {', '.join(names)}")
    return Panel(
        tuple(load_foreground_judge(name, device=device) for name in foreground_judges),
        tuple(load_foreground_judge(name, device=device) for name in foreground_witnesses),
        {Path(name).name: load_background_judge(name, device=device) for name in background_judges},
        {Path(name).name: load_background_judge(name, device=device) for name in background_witnesses},
        load_safety_check(),
        whole_picture_classifier(FEATURES, FEATURE_SIDE, device=device),
        load_clip(clip, device=device) if clip else None,
    )


def load_foreground_judge(name: str, *, device: str = "cpu") -> Classifier | SmallResnet:
    """Return the project's own small network, or a classifier (see `load_classifier`)."""
    return load_small_resnet(device=device) if name == SMALL_RESNET else load_classifier(name, device=device)


def load_background_judge(name: str, *, device: str = "cpu") -> BackgroundHead | SmallResnet:
    """Return the project's own small network, or a background head (see `load_background_head`)."""
    return load_small_resnet(device=device) if name == SMALL_RESNET else load_background_head(name, device=device)


def judge(table: pd.DataFrame, *, root: Path, panel: Panel, batch_size: int = 32) -> Judged:
    """Return `table` with the panel's opinion about each picture, which is read once for all models, and its features.

    Args:
        table: Has `file` (relative to `root`), `in9`, `imagenet_index` and `background`.

    Returns:
        The table with these columns more, for `foreground` (among the nine superclasses; a class without one stands
        for itself among the 1000) and `background` (among the ten) alike:
            `foreground_vote/<model>`: what the model names first, judges and witnesses alike; empty where it abstains.
            `foreground_score/<model>`: its probability of the true label; missing likewise.
            `foreground_prediction`: what the judges' mean probability names first.
            `foreground_probability`: the judges' mean probability of the true label.
            `foreground_named`: whether the right one is named first.
        And `foreground_judged_by` (the names of those whose mean that is), `unsafe_score` in [0, 1]; the columns of
        `picture_quality.quality_table`; with a CLIP those of `zero_shot.opinions`; and `unreadable`: why the picture
        could not be read, or an empty string; then the others are missing.
    """
    files = [root / file for file in table["file"]]
    classifiers = (*panel.foreground_judges, *panel.foreground_witnesses)
    heads = panel.background_judges | panel.background_witnesses
    lookers = [m.superclass_looker if isinstance(m, SmallResnet) else m.looker for m in classifiers]
    lookers += [m.background_looker if isinstance(m, SmallResnet) else m.looker for m in heads.values()]
    lookers += [panel.safety.looker, panel.features.looker]
    chooser = zero_shot(panel.clip, sorted(set(table["imagenet_index"]))) if panel.clip else None
    lookers += [QUALITY_LOOKER, *([chooser.looker] if chooser else [])]
    found, broken = look(files, lookers, batch_size=batch_size, skip_unreadable=True, description="judging")
    answers = {model.name: answer[:, :1000] for model, answer in zip(classifiers, found, strict=False)}
    shares = dict(zip(heads, found[len(classifiers) :], strict=False))
    unsafe, features, quality, *similarities = found[len(classifiers) + len(heads) :]
    columns = [
        _foreground_opinions(table, answers, judges=[model.name for model in panel.foreground_judges]),
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
        `value`, `low`, `high`, `n`; unreadable pictures, and those that one of the two abstains on, are left out.
    """
    seen = judged[judged["unreadable"] == ""]
    rows = []
    for question in ("foreground", "background"):
        label = np.where(seen["in9"] != "", seen["in9"], seen["class_name"])
        label = label if question == "foreground" else seen["background"].to_numpy()
        votes = {name.split("/", 1)[1]: seen[name] for name in seen if name.startswith(f"{question}_vote/")}
        for model, vote in votes.items():
            for other in votes:
                theirs = pd.Series(label, index=seen.index) if other == model else votes[other]
                said = (vote != "") & (theirs != "")
                if said.any():
                    share = clustered_wilson((vote == theirs)[said], seen["foreground_id"][said])
                    rows.append({"question": question, "model": model, "other": other, **vars(share)})
    return pd.DataFrame(rows)


def foreground_opinions(table: pd.DataFrame, files: Sequence[Path], judges: Sequence[Classifier | SmallResnet]):
    """Return what judges say about the foreground of images, as `judge` does, and no more.

    Args:
        table: Has `in9`, `imagenet_index` and `class_name`, n rows.
        files: The images, n of them; one that cannot be read agrees with nothing.
        judges: At least one; those that know nothing of a class abstain.

    Returns:
        The columns of `judge` that begin with ``foreground_``.
    """
    lookers = [m.superclass_looker if isinstance(m, SmallResnet) else m.looker for m in judges]
    found, _ = look(list(files), lookers, skip_unreadable=True, description="judging foregrounds")
    answers = {model.name: answer[:, :1000] for model, answer in zip(judges, found, strict=True)}
    return _foreground_opinions(table.reset_index(drop=True), answers, judges=list(answers))


def _foreground_opinions(table: pd.DataFrame, answers: Mapping[str, np.ndarray], *, judges: Sequence[str]):
    """Return votes, scores and the judges' mean, see `judge`.

    Args:
        answers: By model: logits of ImageNet's classes (n, 1000), or probabilities of the nine superclasses (n, 9).
        judges: Those that decide; on classes that none of them knows, the others do.
    """
    alone = (table["in9"] == "").to_numpy()
    truth = np.where(alone, table["class_name"], table["in9"])
    columns, tells = {}, {}
    for name, given in answers.items():
        seen = ~np.isnan(given).any(1)
        given = np.where(seen[:, None], given, 0)
        nine, thousand = _shares(given)
        tells[name] = (nine, thousand, seen & (~alone | (thousand is not None)))
        ranked = nine if thousand is None else np.eye(len(IN9))[in9_of_logits(given)]
        columns[f"foreground_vote/{name}"] = np.where(tells[name][2], _first(ranked, thousand, alone), "")
        of_label = _of_label(table, nine, thousand)
        columns[f"foreground_score/{name}"] = np.where(tells[name][2], of_label, np.nan)
    others = [name for name in answers if name not in judges]
    deciding = np.full(len(table), "", object)
    prediction, probability = np.full(len(table), "", object), np.full(len(table), np.nan)
    for rows in (~alone, alone):
        names = [name for name in judges if tells[name][1] is not None or not alone[rows].any()]
        names = names or [name for name in others if tells[name][1] is not None]
        if not rows.any() or not names:
            continue
        seen = rows & np.all([tells[name][2] for name in names], axis=0)
        nine = np.mean([tells[name][0] for name in names], axis=0)
        thousands = [tells[name][1] for name in names if tells[name][1] is not None]
        thousand = np.mean(thousands, axis=0) if thousands else None
        prediction[seen] = _first(nine, thousand, alone)[seen]
        if len(names) == 1:  # one judge's first name is that of its logits, as `in9_of_logits` ranks them
            prediction[seen] = columns[f"foreground_vote/{names[0]}"][seen]
        probability[seen] = _of_label(table, nine, thousand)[seen]
        deciding[rows] = ", ".join(names)
    columns["foreground_prediction"] = prediction
    columns["foreground_probability"] = probability
    columns["foreground_named"] = prediction == truth
    columns["foreground_judged_by"] = deciding
    return pd.DataFrame(columns)


def _shares(given: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return probabilities of the nine superclasses, and of the 1000 classes where the model tells them."""
    if given.shape[1] == len(IN9):
        return given.astype(float), None
    return superclass_probabilities(given), softmax(given.astype(float), axis=1)


def _first(nine: np.ndarray, thousand: np.ndarray | None, alone: np.ndarray) -> np.ndarray:
    """Return what is named first: a superclass, or among the 1000 for a class that stands for itself."""
    named = np.array(IN9, object)[nine.argmax(1)]
    return named if thousand is None else np.where(alone, _class_names(thousand.argmax(1)), named)


def _of_label(table: pd.DataFrame, nine: np.ndarray, thousand: np.ndarray | None) -> np.ndarray:
    """Return the probability of each label; NaN where the class has no superclass and `thousand` is not known."""
    found = np.full(len(table), np.nan)
    for row, (superclass, index) in enumerate(zip(table["in9"], table["imagenet_index"], strict=True)):
        if superclass or thousand is not None:
            found[row] = nine[row, IN9.index(superclass)] if superclass else thousand[row, index]
    return found


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
