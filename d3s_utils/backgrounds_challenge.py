"""The Backgrounds Challenge on any pictures: accuracy by variant, the background gap, adversarial backgrounds.

Source: Xiao et al. 2020, arXiv:2006.09994, section 3; github.com/MadryLab/backgrounds_challenge.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from tqdm import tqdm

from d3s_utils.in9_variants import (
    VARIANTS,
    VariantPlan,
    background_keys,
    draw_weights,
    object_box,
    paste,
    tiled_background,
)
from d3s_utils.intervals import clustered_wilson, paired_difference, wilson
from d3s_utils.taxonomy import IN9, IN9_OF_LABEL

RULES = {  # measure -> the rule by which 1000 classes become nine
    "in9": "ImageNet-9, best of the 370",
    "in9_of_1000": "ImageNet-9, best of 1000 (published rule)",
}
TURNED_WHEN = {
    "wrong": "the model names another class than the foreground's, or none of the nine (the authors' script)",
    "background": "the model names the background's class (the paper's text)",
}
Classify = Callable[[np.ndarray], np.ndarray]  # uint8 (n, h, w, 3) -> superclasses (n,): names, or places in IN9


@dataclass(frozen=True)
class Foregrounds:
    """Objects to be put before other backgrounds.

    Attributes:
        ids: Their names, all different, n of them.
        superclasses: Names in `taxonomy.IN9`.
        pictures: uint8 (h, w, 3), all of one size.
        masks: uint8 (h, w), 255 where the object is.

    Raises:
        ValueError: If lengths or sizes differ, an id occurs twice, a class is unknown, or a mask is empty.
    """

    ids: Sequence[str]
    superclasses: Sequence[str]
    pictures: Sequence[np.ndarray] = field(repr=False)
    masks: Sequence[np.ndarray] = field(repr=False)

    def __post_init__(self):
        _check_set("foregrounds", self.ids, self.superclasses, pictures=self.pictures, masks=self.masks)
        shapes = {np.shape(picture) for picture in self.pictures}
        if len(shapes) > 1:
            raise ValueError(f"foregrounds must be of one size, to stand in one batch, got {sorted(shapes)[:5]}")
        for name, mask, picture in zip(self.ids, self.masks, self.pictures, strict=True):
            object_box(mask, name=name)
            if np.shape(mask) != np.shape(picture)[:2]:
                raise ValueError(f"masks must fit their pictures, got {np.shape(mask)} for {name}: {np.shape(picture)}")


@dataclass(frozen=True)
class Backgrounds:
    """Backgrounds that may turn a foreground, usually pictures of the variant only_bg_t.

    Attributes:
        ids: Their names, all different, m of them.
        superclasses: Of the pictures that they come from, names in `taxonomy.IN9`.
        pictures: uint8 (h, w, 3); best in memory, for each is read for many foregrounds.

    Raises:
        ValueError: If lengths differ, an id occurs twice, or a class is unknown.
    """

    ids: Sequence[str]
    superclasses: Sequence[str]
    pictures: Sequence[np.ndarray] = field(repr=False)

    def __post_init__(self):
        _check_set("backgrounds", self.ids, self.superclasses, pictures=self.pictures)


def challenge_sets(plan: VariantPlan) -> tuple[Foregrounds, Backgrounds]:
    """Return the foregrounds of a plan's pictures and their only_bg_t backgrounds, all in memory.

    A picture of 224 x 224 takes 350 KB in all: 1.4 GB for the 4050 of the published challenge.

    Args:
        plan: From `in9_variants.make_variants`.

    Raises:
        ValueError: If the pictures are of several sizes.
    """
    ids = list(dict.fromkeys(plan.table.picture_id))
    places = [plan.places[name] for name in ids]
    superclasses = [plan.superclasses[place] for place in places]
    pictures, masks = [plan.pictures[place] for place in places], [plan.masks[place] for place in places]
    behind = [tiled_background(plan, name) for name in ids]
    return Foregrounds(ids, superclasses, pictures, masks), Backgrounds(ids, superclasses, behind)


def with_published_rule(scores: pd.DataFrame) -> pd.DataFrame:
    """Return scores with a column `in9_of_1000`: right by the rule of the published numbers.

    There the best of all 1000 classes must be of the right superclass, and one that has no superclass is wrong.
    `in9_right` stays what it is, the milder rule of `taxonomy.in9_of_logits`: the best of the 370 classes that have a
    superclass must be. What is right by the published rule is right by the milder one too. For a network that tells
    the nine superclasses only, they are one rule.

    Args:
        scores: From `one_pass.evaluate`: `prediction` (see `taxonomy.label_name`) and `in9` (the truth, or empty).

    Returns:
        A copy; `in9_of_1000` is 1.0, 0.0, or NaN where the truth is not known.

    Raises:
        ValueError: If a column is missing.

    Source: Xiao et al. 2020, arXiv:2006.09994; github.com/MadryLab/backgrounds_challenge.
    """
    missing = [name for name in ("prediction", "in9") if name not in scores]
    if missing:
        raise ValueError(f"scores must have the columns prediction and in9, got none called {missing[0]}")
    truth = scores["in9"].fillna("").astype(str)
    named = scores["prediction"].map(lambda index: IN9_OF_LABEL.get(int(index), ""))
    return scores.assign(in9_of_1000=(named == truth).astype(float).where(truth != ""))


def variant_accuracy(table: pd.DataFrame, *, measure: str = "in9") -> pd.DataFrame:
    """Return the accuracy of each model on each variant, with its Wilson interval.

    Args:
        table: A row for each model and picture: `model`, `variant` (of `in9_variants.VARIANTS`), `foreground_id` or
            `picture_id` (the picture the object comes from) and the measure's column (1.0 or 0.0).
        measure: A key of `RULES`; "in9" is the column `in9_right`, "in9_of_1000" that of `with_published_rule`.

    Returns:
        `model`, `variant`, `measure`, `value`, `low`, `high`, `n` (pictures) and `foregrounds`, models as they come,
        variants in the paper's order. Where a foreground stands in several pictures of a variant, the interval is
        clustered by it (see `intervals.clustered_wilson`).

    Raises:
        ValueError: If the measure is none, or the table is empty, lacks a column, or holds an unknown variant or an
            answer that is missing.
    """
    foreground, column = checked_answers(table, measure=measure)
    rows = []
    for (model, variant), part in table.groupby(["model", "variant"], sort=False):
        right, groups = part[column].to_numpy(float), part[foreground].to_numpy()
        count = len(np.unique(groups))
        found = wilson(int(right.sum()), len(right)) if count == len(right) else clustered_wilson(right, groups)
        rows.append({"model": model, "variant": variant, "measure": measure, **vars(found), "foregrounds": count})
    models = list(dict.fromkeys(table["model"]))
    return _sorted(pd.DataFrame(rows), models)


def background_gap(table: pd.DataFrame, *, measure: str = "in9") -> pd.DataFrame:
    """Return each model's BG-Gap, accuracy on mixed_same minus accuracy on mixed_rand, paired by foreground.

    Both variants show the same objects, cut and pasted alike; what differs is whether the background comes from a
    picture of the class. That is more than whether it goes with the class: see `controlled_gap`.

    Args:
        table: As in `variant_accuracy`; other variants are passed over.
        measure: As in `variant_accuracy`.

    Returns:
        `model`, `value`, `low`, `high` (shares, not percentage points; see `intervals.paired_difference`), `n`
        (foregrounds), `mixed_same` and `mixed_rand` (the two accuracies).

    Raises:
        ValueError: If the table is not as in `variant_accuracy`, or a model has a foreground in one of the two
            variants only.
    """
    foreground, column = checked_answers(table, measure=measure)
    rows = []
    for model, part in table.groupby("model", sort=False):
        same, rand = (part[part["variant"] == name] for name in ("mixed_same", "mixed_rand"))
        if same.empty or rand.empty:
            raise ValueError(f"table must hold mixed_same and mixed_rand for {model!r}, got {len(same)}, {len(rand)}")
        found = paired_difference(
            same[column].to_numpy(float),
            rand[column].to_numpy(float),
            groups=same[foreground].to_numpy(),
            second_groups=rand[foreground].to_numpy(),
        )
        means = {"mixed_same": same[column].mean(), "mixed_rand": rand[column].mean()}
        rows.append({"model": model, **vars(found), **means})
    return pd.DataFrame(rows)


def challenge_accuracy(
    foregrounds: Foregrounds,
    backgrounds: Backgrounds,
    classifiers: Mapping[str, Classify],
    *,
    seed: int,
    limit: int | None = None,
    own_class: bool = False,
    turned_when: str = "wrong",
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """Look for a background that turns each foreground, and stop at the first one.

    Every foreground has its own random order of backgrounds, which hangs on the seed and on ids alone. It is put
    before them in that order until one turns it, so the result is that of trying all of them, whatever the batch
    size or the order in which foregrounds and backgrounds come. (A classifier whose answer hangs on what else is in
    its batch, as floating point on a GPU does in the last digit, can undo that.) Batches hold several foregrounds.

    With `limit`, a foreground meets only the first so many backgrounds of its order. It may then stand although a
    background that was not tried would turn it: the share that stands is an *upper bound* of the full challenge's,
    and it can only fall as `limit` grows.

    Args:
        foregrounds: n objects.
        backgrounds: m backgrounds; one of another size is fitted (see `in9_variants.fitted`).
        classifiers: Model -> a function from pictures, uint8 (k, h, w, 3), to superclasses (k,): names in
            `taxonomy.IN9` ("" for none of the nine), or places in it (-1 for none).
        seed: The run's seed.
        limit: Backgrounds tried a foreground; all where None.
        own_class: Whether backgrounds of the foreground's own class take part, its own picture's included, as they
            do in the authors' script. Its published numbers (22.3 % for a ResNet-50) are for True and "wrong".
        turned_when: One of `TURNED_WHEN`. A foreground that the model never gets right is turned by "wrong".
        batch_size: Pictures that a classifier sees at a time, at most.
        progress: Whether a bar on stdout shows how many foregrounds are decided.

    Returns:
        A row for each model and foreground, in the order given: `model`, `foreground_id`, `superclass`, `robust`
        (bool), `turned_by` (a background's id, "" if robust), `background_superclass` ("" likewise),
        `predicted_superclass` (what the model named then, "" for none of the nine, and "" if robust),
        `backgrounds_tested` (up to the one that turned it) and `backgrounds_available` (that the rules allow).

    Raises:
        ValueError: If an option is out of its range, a foreground has no background to meet, or a classifier answers
            with another shape or an unknown class.
    """
    if turned_when not in TURNED_WHEN:
        raise ValueError(f"turned_when must be one of {', '.join(TURNED_WHEN)}, got {turned_when!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, or None for all backgrounds, got {limit}")
    orders, available = _orders(foregrounds, backgrounds, seed, limit, own_class)
    tables = []
    for model, classify in classifiers.items():
        about = f"challenge {model}"
        with tqdm(total=len(orders), desc=about, mininterval=2, file=sys.stdout, disable=not progress) as bar:
            turned = _turn(foregrounds, backgrounds, orders, classify, turned_when, batch_size, model, bar)
        rows = []
        for place, order in enumerate(orders):
            tried, said = turned.get(place, (len(order) - 1, ""))
            by = order[tried] if place in turned else None
            rows.append(
                {
                    "model": model,
                    "foreground_id": foregrounds.ids[place],
                    "superclass": foregrounds.superclasses[place],
                    "robust": by is None,
                    "turned_by": "" if by is None else backgrounds.ids[by],
                    "background_superclass": "" if by is None else backgrounds.superclasses[by],
                    "predicted_superclass": said,
                    "backgrounds_tested": tried + 1,
                    "backgrounds_available": available[place],
                }
            )
        tables.append(pd.DataFrame(rows))
    if not tables:
        raise ValueError("classifiers must hold at least one model, got none")
    return pd.concat(tables, ignore_index=True)


def challenge_table(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Return each model's challenge accuracy: the share of foregrounds that no background turned.

    Args:
        outcomes: From `challenge_accuracy`.

    Returns:
        `model`, `value`, `low`, `high` (Wilson; foregrounds are the trials), `n` (foregrounds), `turned` (how many),
        `mean_backgrounds_tested` and `upper_bound`: whether a foreground stood that has not met every background, so
        that the full challenge's share may be lower. The interval does not cover that.

    Raises:
        ValueError: If the table is empty or lacks a column.
    """
    needed = ["model", "robust", "backgrounds_tested", "backgrounds_available"]
    missing = [name for name in needed if name not in outcomes]
    if missing or outcomes.empty:
        raise ValueError(f"outcomes must have rows and {', '.join(needed)}, got {len(outcomes)} without {missing}")
    rows = []
    for model, part in outcomes.groupby("model", sort=False):
        robust = part["robust"].astype(bool)
        rows.append(
            {
                "model": model,
                **vars(wilson(int(robust.sum()), len(part))),
                "turned": int((~robust).sum()),
                "mean_backgrounds_tested": float(part["backgrounds_tested"].mean()),
                "upper_bound": bool((robust & (part["backgrounds_tested"] < part["backgrounds_available"])).any()),
            }
        )
    return pd.DataFrame(rows)


def checked_answers(table: pd.DataFrame, *, measure: str) -> tuple[str, str]:
    """Return the columns of a table of answers that name foregrounds and tell what is right.

    Raises:
        ValueError: As `variant_accuracy`.
    """
    if measure not in RULES:
        raise ValueError(f"measure must be one of {', '.join(RULES)}, got {measure!r}")
    right = "in9_right" if measure == "in9" else measure  # `in9` itself is the superclass's name
    foreground = "foreground_id" if "foreground_id" in table else "picture_id"
    missing = [name for name in ("model", "variant", foreground, right) if name not in table]
    if missing or table.empty:
        raise ValueError(f"table must have rows and the columns {missing}, got {len(table)} rows of {list(table)}")
    unknown = sorted(set(table["variant"]) - set(VARIANTS))
    if unknown:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {unknown[0]!r}")
    if not table[right].isin([0, 1]).all():
        wrong = table.loc[~table[right].isin([0, 1]), right].iloc[0]
        raise ValueError(f"{right} must be 1.0 or 0.0 in every row, got {wrong!r}")
    return foreground, right


def _orders(foregrounds: Foregrounds, backgrounds: Backgrounds, seed: int, limit: int | None, own_class: bool):
    """Return each foreground's backgrounds in the order they are tried, and how many there are without the limit."""
    keys, ids = background_keys(backgrounds.ids, seed=seed), np.asarray(backgrounds.ids)
    classes = np.asarray(backgrounds.superclasses)
    by_id = np.argsort(ids)  # so that equal weights, if ever, fall the same way in every order of the backgrounds
    orders, available = [], []
    for name, superclass in zip(foregrounds.ids, foregrounds.superclasses, strict=True):
        candidates = by_id if own_class else by_id[classes[by_id] != superclass]
        if not len(candidates):
            raise ValueError(f"backgrounds must hold one of another class than {superclass!r} for {name!r}, got none")
        weights = draw_weights(keys[candidates], seed=seed, names=("challenge", name))
        available.append(len(candidates))
        orders.append(candidates[np.argsort(~weights, kind="stable")[:limit]].astype(np.int32))
    return orders, available


def _turn(foregrounds, backgrounds, orders, classify, turned_when, batch_size, model, bar) -> dict[int, tuple]:
    """Return (place in its order, what the model said) of the first background that turns each foreground."""
    turned: dict[int, tuple[int, str]] = {}
    start, standing = 0, list(range(len(orders)))  # every foreground that stands has met `start` backgrounds
    while standing:
        end = start + math.ceil(batch_size / len(standing))  # as few as fill a batch: the first often turn
        pairs = [(f, k) for f in standing for k in range(start, min(end, len(orders[f])))]
        for first in range(0, len(pairs), batch_size):
            part = [(f, k) for f, k in pairs[first : first + batch_size] if f not in turned]
            if not part:
                continue
            batch = np.stack(
                [
                    paste(foregrounds.pictures[f], foregrounds.masks[f], backgrounds.pictures[orders[f][k]])
                    for f, k in part
                ]
            )
            for (f, k), said in zip(part, _named(classify(batch), len(part), model), strict=True):
                truth, behind = foregrounds.superclasses[f], backgrounds.superclasses[orders[f][k]]
                if f not in turned and said != truth and (turned_when == "wrong" or said == behind):
                    turned[f] = k, said
        remaining = [f for f in standing if f not in turned and end < len(orders[f])]
        bar.update(len(standing) - len(remaining))
        start, standing = end, remaining
    return turned


def _named(answers: np.ndarray, count: int, model: str) -> list[str]:
    answers = np.asarray(answers)
    if answers.shape != (count,):
        raise ValueError(f"classifier {model!r} must answer with shape ({count},), got {answers.shape}")
    if np.issubdtype(answers.dtype, np.integer):
        if ((answers < -1) | (answers >= len(IN9))).any():
            raise ValueError(f"classifier {model!r} must answer with -1 to {len(IN9) - 1}, got {answers.tolist()[:5]}")
        return [(*IN9, "")[place] for place in answers]
    unknown = set(answers.tolist()) - {*IN9, ""}
    if unknown:
        raise ValueError(f"classifier {model!r} must answer with {', '.join(IN9)} or '', got {unknown.pop()!r}")
    return answers.tolist()


def _check_set(name: str, ids: Sequence[str], superclasses: Sequence[str], **pictures: Sequence[np.ndarray]) -> None:
    for part, values in {"superclasses": superclasses, **pictures}.items():
        if len(values) != len(ids):
            raise ValueError(f"{name}.{part} must be one for each of {len(ids)} ids, got {len(values)}")
    if not len(ids) or len(set(ids)) < len(ids):
        raise ValueError(f"{name}.ids must be some and all different, got {len(ids)}, {len(set(ids))} different")
    unknown = sorted(set(superclasses) - set(IN9))
    if unknown:
        raise ValueError(f"{name}.superclasses must be of {', '.join(IN9)}, got {unknown[0]!r}")


def _sorted(rows: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    order = {"model": models.index, "variant": VARIANTS.index}
    return rows.sort_values(["model", "variant"], key=lambda c: c.map(order[c.name]), ignore_index=True)
