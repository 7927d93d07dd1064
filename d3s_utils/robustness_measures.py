"""Which models lose how much when the background changes, and whether that is more than chance: one row a model."""

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from d3s_utils.evaluation import MEASURES, accuracy_table, drop_table, scenes_of
from d3s_utils.foreground_bootstrap import known_scores
from d3s_utils.intervals import paired_test, ratio_of_means, sign_flip_p
from d3s_utils.randomness import numpy_generator
from d3s_utils.subgroup_measures import macro_std, worst_cells
from d3s_utils.zoo_measures import effective_robustness

_ENDS = ("", "_low", "_high")
FEW = 3  # pictures that make a cell of class and background
LEADERBOARD_COLUMNS = [
    "model", "group", "parameters", "foregrounds", "pictures",
    *(f"{measure}_{kind}{end}" for measure in MEASURES for kind in ("original", "shifted", "drop") for end in _ENDS),
    *(f"{name}{end}" for name in ("background_effect", "relative", "effective_robustness") for end in _ENDS),
    "worst_background", *(f"worst_background_accuracy{end}" for end in _ENDS), "worst_background_n",
    "worst_cell", *(f"worst_cell_accuracy{end}" for end in _ENDS), "worst_cell_n",
    *(f"macro_std{end}" for end in _ENDS), "macro_std_chance", "p_value", "p_sign_flip", "p_holm",
]  # fmt: skip


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return p-values adjusted by Holm's method, which bounds the chance of even one false claim.

    Args:
        p_values: In [0, 1], shape (n,).

    Raises:
        ValueError: If the input is empty, not one-dimensional or outside [0, 1].

    Source: Holm 1979; statsmodels' `multipletests`.
    """
    p_values = np.asarray(p_values, dtype=float)
    if p_values.ndim != 1 or not p_values.size or not ((p_values >= 0) & (p_values <= 1)).all():
        raise ValueError(f"p_values must be a row of numbers in [0, 1], got {p_values}")
    return multipletests(p_values, method="holm")[1]


def drop_tests(scores: pd.DataFrame, *, measure: str = "top1", seed: int, flips: int = 9999) -> pd.DataFrame:
    """Return each model's drop from original to shifted pictures, and how likely chance alone makes one as large.

    A foreground is what counts, and all count alike. `p_value` belongs to `drop` and its interval (see
    `intervals.paired_test`). `p_sign_flip` asks whether a foreground's difference is as likely to be d as -d: it needs
    no formula for an error, but with several shifted pictures a foreground "no drop" makes the differences average 0
    without being exactly symmetric. `p_mcnemar` compares the original with *one* shifted picture a foreground, which is
    exact but looks at less.

    Args:
        scores: From `evaluation.paired_scores`: each foreground has originals and shifted pictures.
        measure: A key of `evaluation.MEASURES`.
        seed: The run's seed.
        flips: See `intervals.sign_flip_p`.

    Returns:
        A row a model: `model`, `original`, `shifted` (accuracies, averaged within a foreground first), `drop`,
        `drop_low`, `drop_high`, `relative` (shifted over original; NaN where that is 0), `relative_low`,
        `relative_high`, `foregrounds`, `pictures` (shifted), `p_value`, `p_mcnemar`, `p_sign_flip`, `p_holm`
        (`p_value` adjusted for the number of models).

    Raises:
        ValueError: If a foreground lacks one kind, or scores are unusable (see `foreground_bootstrap.known_scores`).
    """
    known = known_scores(scores, measure)
    known = known[known["kind"].isin(["original", "shifted"])]
    one_each = _one_picture(known, seed=seed)
    rows, differences = [], []
    for model, group in known.groupby("model", sort=True):
        original, shifted = (group[group["kind"] == kind] for kind in ("original", "shifted"))
        groups = {"groups": original["foreground_id"], "second_groups": shifted["foreground_id"]}
        drop, p_value = paired_test(
            original["right"], shifted["right"], **groups, second_crossed=scenes_of(shifted), seed=seed
        )
        means = [side.groupby("foreground_id")["right"].mean() for side in (original, shifted)]
        row = {"model": model, "original": means[0].mean(), "shifted": means[1].mean()}
        row |= {"drop": drop.value, "drop_low": drop.low, "drop_high": drop.high}
        row |= dict.fromkeys(["relative", "relative_low", "relative_high"], np.nan)
        if row["original"] > 0:
            ratio = ratio_of_means(
                shifted["right"], original["right"], groups=groups["second_groups"], second_groups=groups["groups"],
                crossed=scenes_of(shifted),
            )  # fmt: skip
            row |= {"relative": ratio.value, "relative_low": ratio.low, "relative_high": ratio.high}
        differences.append(means[0] - means[1])
        pairs = group[group["picture_id"].isin(one_each)].pivot(index="foreground_id", columns="kind", values="right")
        pairs = pairs.reindex(columns=["original", "shifted"])
        table = pd.crosstab(pairs["original"], pairs["shifted"]).reindex(index=[0, 1], columns=[0, 1], fill_value=0)
        row |= {"foregrounds": drop.n, "pictures": len(shifted)}
        rows.append(row | {"p_value": p_value, "p_mcnemar": mcnemar(table, exact=True).pvalue})
    found = pd.DataFrame(rows)
    flipped = pd.concat(differences, axis=1).fillna(0).to_numpy()
    p_values = sign_flip_p(flipped, seed=seed, flips=flips)
    return found.assign(p_sign_flip=p_values, p_holm=holm(found["p_value"].to_numpy()))


def leaderboard(
    scores: pd.DataFrame,
    *,
    groups: Mapping[str, str],
    parameters: Mapping[str, float] | None = None,
    baseline: Collection[str] | None = None,
    contrasts: pd.DataFrame | None = None,
    minimum: int = 10,
    seed: int,
    samples: int = 2000,
) -> pd.DataFrame:
    """Return all measures of all models, one row a model, the best on shifted pictures (top-1) first.

    Args:
        scores: From `evaluation.paired_scores`.
        groups: Model -> its group, such as ``transformer``; each model needs one.
        parameters: Model -> its number of parameters; NaN where unknown.
        baseline: See `effective_robustness`.
        contrasts: From `background_contrasts.background_contrasts`; without it no background effect is known.
        minimum: See `worst_cells`; cells of class and background need `FEW` pictures only.
        seed: The run's seed.
        samples: Bootstrap draws of foregrounds.

    Returns:
        The columns `LEADERBOARD_COLUMNS`, where ``_low`` and ``_high`` end an interval: `model`, `group`, `parameters`,
        `foregrounds`, `pictures` (shifted); ``<measure>_original``, ``_shifted``, ``_drop`` for top1, top5 and in9 (NaN
        where not known); `background_effect`, `relative` and `effective_robustness` (top-1); `worst_background`,
        `worst_cell` (class × background) with their ``_accuracy`` and ``_n`` (pictures); `macro_std`,
        `macro_std_chance`; `p_value`, `p_sign_flip`, `p_holm` (top-1 drop). Networks that tell nine classes only, whose
        top-1 is another thing, come last.

    Raises:
        ValueError: If a model has no group, or scores are unusable.
    """
    columns = ["model", "value", "low", "high"]
    board = drop_tests(scores, seed=seed)
    lost = sorted(set(board["model"]) - set(groups))
    if lost:
        raise ValueError(f"groups must name the group of each model, got none for {lost[0]!r}")
    board["group"], board["parameters"] = board["model"].map(groups), board["model"].map(parameters or {})
    accuracy = accuracy_table(scores)
    accuracy = accuracy[accuracy["kind"].isin(["original", "shifted"])]
    drops = drop_table(scores, seed=seed).assign(kind="drop")
    for (measure, kind), part in pd.concat([accuracy, drops]).groupby(["measure", "kind"]):
        board = _joined(board, part[columns], f"{measure}_{kind}")
    if contrasts is not None:
        mine = contrasts[(contrasts["effect"] == "background_effect") & (contrasts["measure"] == "top1")]
        board = _joined(board, mine[columns], "background_effect")
    line = effective_robustness(accuracy, baseline=baseline, scores=scores, seed=seed, samples=samples)
    line = line[["model", "effective_robustness", "low", "high"]].set_axis(columns, axis=1)
    spread = macro_std(scores, seed=seed, samples=samples)
    board = _joined(_joined(board, line, "effective_robustness"), spread[columns], "macro_std")
    board["macro_std_chance"] = board["model"].map(spread.set_index("model")["chance"])
    for name, by in (("worst_background", ["background"]), ("worst_cell", ["class_name", "background"])):
        worst = worst_cells(scores, by, minimum=minimum if name == "worst_background" else min(minimum, FEW))
        board = _joined(board, worst[columns], f"{name}_accuracy")
        by_model = worst.set_index("model")
        board[name], board[f"{name}_n"] = board["model"].map(by_model["cell"]), board["model"].map(by_model["n"])
    board = board.reindex(columns=LEADERBOARD_COLUMNS).assign(nine=lambda rows: rows["top5_shifted"].isna())
    board = board.sort_values(["nine", "top1_shifted", "model"], ascending=[True, False, True])
    return board.drop(columns="nine").reset_index(drop=True)


def _joined(board: pd.DataFrame, table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the board with `value`, `low` and `high` of the table under `name`."""
    return board.merge(table.set_axis(["model", *(name + end for end in _ENDS)], axis=1), on="model", how="left")


def _one_picture(known: pd.DataFrame, *, seed: int) -> set[str]:
    """Return the ids of one picture of each kind of each foreground, the same for all models."""
    pictures = known[["foreground_id", "kind", "picture_id"]].drop_duplicates().sort_values("picture_id")
    random = numpy_generator(seed, "one shifted picture a foreground").random(len(pictures))
    pictures = pictures.assign(order=random).sort_values("order")
    return set(pictures.drop_duplicates(["foreground_id", "kind"])["picture_id"])
