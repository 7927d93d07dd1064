"""What the background alone does: a 2 × 2 of ground and repainting at one size and place, and its contrasts.

The paper compares a photo with the images made from it. Between the two lie four changes: the object became smaller, it
moved, its background changed, and a generator repainted all of it. Here each image has a twin: the same object at the
same size and place, on its own ground, pasted and repainted with the same strength, seed and prompt (without the
background's words). So one change at a time can be had:

====================  ==================  ======================
\\                     own ground          background
====================  ==================  ======================
pasted                ``placed``          ``guide``
repainted             ``placed_repainted``  ``shifted``
====================  ==================  ======================
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from d3s_utils.evaluation import MEASURES, scenes_of
from d3s_utils.foreground_bootstrap import known_scores
from d3s_utils.intervals import detectable_difference, paired_test, t_interval
from d3s_utils.metrics import Estimate
from d3s_utils.randomness import numpy_generator

EFFECTS = {  # effect -> the kinds whose accuracies are subtracted; first minus second
    "background_effect": ("placed_repainted", "shifted"),
    "background_effect_plain": ("placed", "guide"),
    "repaint_effect": ("guide", "shifted"),
    "repaint_effect_own": ("placed", "placed_repainted"),
    "size_effect": ("original", "placed"),
}
EXPLANATIONS = {
    "background_effect": "what the other background costs, repainted images on both sides",
    "background_effect_plain": "what the other background costs, pastes on both sides",
    "repaint_effect": "what repainting costs on the other background",
    "repaint_effect_own": "what repainting costs on the own ground",
    "size_effect": "what becoming small and moving costs",
    "interaction": "how much more the background costs as a paste than repainted",
}
INTERACTION = "interaction"
DETECTABLE = "detectable_drop"
COLUMNS = ["model", "measure", "effect", "value", "low", "high", "n", "images", "p_value"]


def background_contrasts(scores: pd.DataFrame, *, measures: Sequence[str] = ("top1", "in9"), seed: int) -> pd.DataFrame:
    """Return what each change costs each model, in accuracy, each with a paired interval over foregrounds.

    Every foreground counts the same, and the kinds that are compared are of the same images. The interval also knows
    which images share a scene (see `intervals.paired_test`); an image and its twins on the own ground count as one.

    Args:
        scores: From `evaluation.paired_scores`, over pictures of `evaluation.read_pictures`.
        measures: Keys of `evaluation.MEASURES`; one that a model has no answer to is left out.
        seed: The run's seed.

    Returns:
        A row for each model, measure and effect of `EFFECTS` whose kinds are there; ``interaction``,
        (placed - guide) - (placed_repainted - shifted); and ``detectable_drop``, the background effect that this
        many foregrounds would have shown with 80 % power. `COLUMNS`: `model`, `measure`, `effect`, `value` (positive:
        the second kind is worse), `low`, `high`, `n` (foregrounds), `images`, `p_value` (NaN for ``detectable_drop``).

    Raises:
        ValueError: If a measure is none, or scores are unusable (see `foreground_bootstrap.known_scores`).
    """
    rows = []
    for measure in measures:
        if measure not in MEASURES:
            raise ValueError(f"measures must be of {', '.join(MEASURES)}, got {measure!r}")
        if not scores[_column(measure)].notna().any():
            continue
        for model, known in known_scores(scores, measure).groupby("model", sort=False):
            row = {"model": model, "measure": measure}
            by_kind = {kind: part for kind, part in known.groupby("kind")}
            rows += [row | found for found in _contrasts(by_kind, seed)]
    return pd.DataFrame(rows, columns=COLUMNS)


def background_spread(scores: pd.DataFrame, *, measure: str = "top1", seed: int, shuffles: int = 999) -> pd.DataFrame:
    """Return how much accuracy differs between backgrounds *within* a foreground, beyond what chance would give.

    Needs no ground of the object's own. Of each shifted picture the mean of its foreground is taken away; what is left
    is averaged by background. The mean square of these averages (weighted by pictures) would be, if backgrounds
    meant nothing, what shuffling each foreground's pictures among its backgrounds gives: that is taken off, and the
    root is the spread. Accuracy on a background lies about so many points from the mean of all.

    Args:
        scores: From `evaluation.paired_scores`; shifted pictures count.
        measure: A key of `evaluation.MEASURES`.
        seed: Of the shuffles.
        shuffles: How many, for the p-value.

    Returns:
        `model`, `value` (root of the mean square beyond chance, 0 where it is below), `low`, `high` (the ends of a
        jackknife interval of the mean square, foregrounds left out in turn, and their roots), `chance` (root of the
        mean square that chance gives), `p_value` (share of shuffles that spread at least as much), `n` (foregrounds).

    Source: Phipson & Smyth 2010, doi:10.2202/1544-6115.1585 (p of random permutations).
    """
    known = known_scores(scores, measure)
    known = known[known["kind"] == "shifted"]
    rows = []
    for model, group in known.groupby("model", sort=False):
        right = group["right"].to_numpy()
        foreground, background = (pd.factorize(group[name], sort=True)[0] for name in ("foreground_id", "background"))
        mean = np.bincount(foreground, right) / np.bincount(foreground)
        deviation = right - mean[foreground]
        # Whichever background it is shuffled to, a picture's deviation has the variance p (1 - p) of its foreground.
        cells = _cells(foreground, background, deviation, (mean * (1 - mean))[foreground])
        square, chance = _mean_squares(*cells.sum(1))
        left_out = np.subtract(*_mean_squares(*(cells.sum(1, keepdims=True) - cells)))
        count = len(mean)
        error = np.sqrt((count - 1) * np.square(left_out - left_out.mean()).mean())  # of the jackknife
        low, high = t_interval(square - chance, error, groups=count)
        random, wide = numpy_generator(seed, "background spread", str(model)), 0
        order = np.lexsort((background, foreground))
        for _ in range(shuffles):
            mixed = np.empty_like(deviation)
            mixed[order] = deviation[np.lexsort((random.random(len(right)), foreground))]
            wide += (
                _mean_squares(*_cells(np.zeros_like(foreground), background, mixed, mixed).sum(1))[0] >= square - 1e-12
            )
        value, low, high = np.sqrt(np.maximum(0.0, [square - chance, low, high])).tolist()
        rows.append(
            {"model": model, "value": value, "low": low, "high": high, "chance": float(np.sqrt(chance)),
             "p_value": (wide + 1) / (shuffles + 1), "n": count}
        )  # fmt: skip
    return pd.DataFrame(rows)


def waterfall_steps(accuracy: pd.DataFrame, contrasts: pd.DataFrame, model: str, *, measure: str) -> pd.DataFrame:
    """Return a model's accuracies in the order in which a photo becomes a shifted image, as a waterfall shows them.

    Args:
        accuracy: From `evaluation.accuracy_table`.
        contrasts: From `background_contrasts`, over the same scores.

    Returns:
        `kind`, `step` (what was changed; empty for the first), `effect` (its name in `EFFECTS`), `before` and `after`
        (accuracies), `low`, `high` (of `after`, by the interval of the change; the first's own).
    """
    path = {"original": "", "placed": "size_effect", "placed_repainted": "repaint_effect_own",
            "shifted": "background_effect"}  # fmt: skip
    words = {"": "", "size_effect": "smaller, moved", "repaint_effect_own": "repainted",
             "background_effect": "background"}  # fmt: skip
    shares = accuracy[(accuracy["model"] == model) & (accuracy["measure"] == measure)].set_index("kind")
    changes = contrasts[(contrasts["model"] == model) & (contrasts["measure"] == measure)].set_index("effect")
    rows, before = [], np.nan
    for kind, effect in path.items():
        if kind not in shares.index or (effect and effect not in changes.index):
            continue
        after = shares.loc[kind, "value"]
        ends = (shares.loc[kind, "low"], shares.loc[kind, "high"])
        if effect:
            ends = (before - changes.loc[effect, "high"], before - changes.loc[effect, "low"])
        rows.append({"kind": kind, "step": words[effect], "effect": effect, "before": before, "after": after,
                     "low": ends[0], "high": ends[1]})  # fmt: skip
        before = after
    return pd.DataFrame(rows, columns=["kind", "step", "effect", "before", "after", "low", "high"])


def _column(measure: str) -> str:
    return "in9_right" if measure == "in9" else measure


def _contrasts(by_kind: dict[str, pd.DataFrame], seed: int):
    """Yield the rows of one model and measure."""
    for effect, (first, second) in EFFECTS.items():
        if first in by_kind and second in by_kind:
            pair = _pair([by_kind[first]], [by_kind[second]])
            if pair:
                estimate, p_value = paired_test(**pair, seed=seed)
                yield _row(effect, estimate, p_value, len(pair["second"]))
    if {"placed", "guide", "placed_repainted", "shifted"} <= set(by_kind):
        # (placed + shifted) - (guide + placed_repainted), twice the difference of two means of two kinds each
        pair = _pair([by_kind["placed"], by_kind["shifted"]], [by_kind["guide"], by_kind["placed_repainted"]])
        if pair:
            half, p_value = paired_test(**pair, seed=seed)
            whole = Estimate(2 * half.value, 2 * half.low, 2 * half.high, half.n)
            yield _row(INTERACTION, whole, p_value, len(pair["second"]) // 2)
    if {"placed_repainted", "shifted"} <= set(by_kind):
        pair = _pair([by_kind["placed_repainted"]], [by_kind["shifted"]])
        if pair:
            yield _row(DETECTABLE, detectable_difference(**pair), np.nan, len(pair["second"]))


def _pair(first: list[pd.DataFrame], second: list[pd.DataFrame]) -> dict:
    """Return the arguments of `paired_test`, over images that all kinds have (foregrounds, where one is originals)."""
    tables = [*first, *second]
    shared = ["foreground_id"] if any((table["kind"] == "original").any() for table in tables) else ["image_id"]
    common = set.intersection(*(set(table[shared[0]]) for table in tables))
    sides = [pd.concat([t[t[shared[0]].isin(common)] for t in side], ignore_index=True) for side in (first, second)]
    if not len(sides[0]):
        return {}
    scenes = [_scenes(side) for side in sides]
    if shared == ["image_id"]:
        scenes = _scenes_of_images(sides, scenes)
    return {
        "first": sides[0]["right"].to_numpy(), "second": sides[1]["right"].to_numpy(),
        "groups": sides[0]["foreground_id"].to_numpy(), "second_groups": sides[1]["foreground_id"].to_numpy(),
        "crossed": scenes[0], "second_crossed": scenes[1],
    }  # fmt: skip


def _scenes(side: pd.DataFrame) -> np.ndarray | None:
    """Return each picture's scene, None for one without; or None where none shows one."""
    if scenes_of(side) is None:
        return None
    known = side["template_id"].fillna("").astype(str)
    return known.astype(object).where(known != "", None).to_numpy()


def _scenes_of_images(sides: list[pd.DataFrame], scenes: list[np.ndarray | None]) -> list[np.ndarray | None]:
    """Give an image's twin on its own ground the image's scene too: what a scene touches is their *difference*.

    Otherwise the twin would count among scenes as if it had nothing to do with the image that it is subtracted from.
    """
    shown = [pd.Series(s, side["image_id"]) for s, side in zip(scenes, sides, strict=True) if s is not None]
    if not shown:
        return scenes
    scene_of = pd.concat(shown).dropna().groupby(level=0).first()
    known = [side["image_id"].map(scene_of) for side in sides]
    return [each.astype(object).where(each.notna(), None).to_numpy() for each in known]


def _row(effect: str, estimate: Estimate, p_value: float, images: int) -> dict:
    return {"effect": effect, **vars(estimate), "images": images, "p_value": p_value}


def _cells(foreground: np.ndarray, background: np.ndarray, *values: np.ndarray) -> np.ndarray:
    """Return each of two values and the number of pictures, summed by foreground and background, shape (3, f, b)."""
    shape = (foreground.max() + 1, background.max() + 1)
    place = foreground * shape[1] + background
    sums = [np.bincount(place, each, minlength=shape[0] * shape[1]) for each in (*values, np.ones(len(place)))]
    return np.reshape(sums, (3, *shape))


def _mean_squares(deviation: np.ndarray, variance: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean square of backgrounds' mean deviations and what chance makes of it, of sums of shape (…, b)."""
    shares = count / count.sum(-1, keepdims=True)
    size = np.maximum(1, count)
    return (shares * np.square(deviation / size)).sum(-1), (shares * variance / size**2).sum(-1)
