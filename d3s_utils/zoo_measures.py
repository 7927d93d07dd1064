"""What only a zoo of models shows: who is better on shifted pictures than its accuracy predicts, who errs alike."""

from collections.abc import Collection
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from d3s_utils.evaluation import MEASURES
from d3s_utils.foreground_bootstrap import known_scores, resampled, sums_by_foreground, whole
from d3s_utils.intervals import bootstrap_interval

_SHRINK = 1.959963984540054**2  # z² of a 95 % interval: about two right and two wrong answers more


def effective_robustness(
    accuracy: pd.DataFrame,
    *,
    measure: str = "top1",
    baseline: Collection[str] | None = None,
    scores: pd.DataFrame | None = None,
    seed: int = 0,
    samples: int = 2000,
) -> pd.DataFrame:
    """Return how much better each model is on shifted pictures than models of its accuracy on originals are.

    A line is fitted by least squares to the models' logit-transformed accuracies, in which every foreground counts the
    same. Before, each accuracy of n foregrounds is pulled towards one half by z² = 3.84 more, half of them right
    (Agresti & Coull), so that 0 and 1 have a logit; the prediction is taken back in the same way.

    Args:
        accuracy: From `evaluation.accuracy_table`.
        measure: A key of `evaluation.MEASURES`.
        baseline: The models that the line is fitted to; all where None. A model in it pulls the line to itself.
        scores: The same accuracies by picture; foregrounds are then drawn with replacement, for all models at once,
            and the line fitted anew each time, for intervals.
        seed: The run's seed.
        samples: Bootstrap draws of foregrounds.

    Returns:
        `model`, `original`, `shifted`, `predicted` (shifted accuracy on the line), `effective_robustness` (shifted -
        predicted), `low`, `high` (NaN without scores), `slope`, `intercept` (of the line, the same in each row),
        `n_original`, `n_shifted` (foregrounds). From `predicted` to `intercept` all is NaN where fewer than 3 models,
        or models of one original accuracy only, are there to fit a line to.

    Raises:
        ValueError: If the measure is none, a model lacks one kind, the baseline names a model that is not there, or
            `scores` are of other models.

    Source: Taori et al. 2020, arXiv:2007.00644; Miller et al. 2021, arXiv:2107.04649 (logits).
    """
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    rows = accuracy[(accuracy["measure"] == measure) & accuracy["kind"].isin(["original", "shifted"])]
    wide = rows.pivot(index="model", columns="kind", values=["value", "foregrounds"]).sort_index()
    if wide.empty or wide.isna().any(axis=None) or set(rows["kind"]) != {"original", "shifted"}:
        raise ValueError(f"accuracy must have {measure} on original and shifted pictures of each model, got {len(rows)}"
                         " rows that lack some")  # fmt: skip
    models = list(wide.index)
    strange = sorted(set(baseline or ()) - set(models))
    if strange:
        raise ValueError(f"baseline must name models of the table, got {strange[0]!r}")
    fitted = np.isin(models, list(models if baseline is None else baseline))
    counts = wide["foregrounds"][["original", "shifted"]].to_numpy(float).T
    right = wide["value"][["original", "shifted"]].to_numpy(float).T * counts

    def statistic(sums: np.ndarray) -> np.ndarray:
        return _residuals(sums.reshape(len(sums), 2, 2, -1), fitted)[0]

    predicted, slope, intercept = (part[0] for part in _residuals(np.stack([right, counts])[None], fitted)[1:])
    shifted = wide["value"]["shifted"].to_numpy(float)
    residual = shifted - predicted
    low = high = np.full(len(models), np.nan)
    if scores is not None:
        known = known_scores(scores, measure)
        known = known[known["kind"].isin(["original", "shifted"])]
        if sorted(known["model"].unique()) != models:
            raise ValueError(f"scores must be of the models {', '.join(models)}, got others")
        place = (known["kind"] == "shifted").to_numpy(int) * len(models) + np.searchsorted(models, known["model"])
        share = 1 / known.groupby(["model", "kind", "foreground_id"])["right"].transform("size")
        sums = sums_by_foreground(
            np.tile(known["foreground_id"].to_numpy(), 2), np.concatenate([place, 2 * len(models) + place]),
            np.concatenate([known["right"] * share, share]), width=4 * len(models),
        )  # fmt: skip
        draws = resampled(sums, statistic, seed=seed, name="scores", samples=samples)
        low, high = bootstrap_interval(residual, draws, groups=sums.shape[0])
    return pd.DataFrame(
        {"model": models, "original": wide["value"]["original"].to_numpy(float), "shifted": shifted,
         "predicted": predicted, "effective_robustness": residual, "low": low, "high": high, "slope": slope.item(),
         "intercept": intercept.item(), "n_original": counts[0].astype(int), "n_shifted": counts[1].astype(int)}
    )  # fmt: skip


def predicted_accuracy(
    original: np.ndarray, *, slope: float, intercept: float, n_original: float, n_shifted: float
) -> np.ndarray:
    """Return the shifted accuracy that the line of `effective_robustness` predicts from original accuracies.

    Args:
        original: In [0, 1], any shape.
        slope, intercept: Of the line, in logits.
        n_original, n_shifted: Foregrounds that the two accuracies come from.

    Returns:
        In [0, 1], the shape of `original`.
    """
    line = intercept + slope * _shrunk_logit(np.asarray(original) * n_original, n_original)
    return np.clip((expit(line) * (n_shifted + _SHRINK) - _SHRINK / 2) / n_shifted, 0, 1)


def error_consistency(
    scores: pd.DataFrame, *, measure: str = "top1", kind: str = "shifted", seed: int, samples: int = 2000
) -> pd.DataFrame:
    """Return whether models are right on the same pictures, beyond what their accuracies make likely: Cohen's kappa.

    1 means that both are right and wrong together, 0 that one says nothing about the other. Pictures that a model has
    no answer to are left out for all.

    Args:
        scores: From `one_pass.evaluate`.
        measure: A key of `evaluation.MEASURES`.
        kind: Pictures to compare on, ``original`` or ``shifted``.
        seed: The run's seed.
        samples: Bootstrap draws of foregrounds.

    Returns:
        A row a pair of models: `model_1`, `model_2`, `kappa`, `low`, `high`, `observed` (share of pictures on which
        both are right or both wrong), `expected` (that share if they were independent), `n` (pictures). Kappa is NaN
        where `expected` is 1: both always right, or both always wrong. With one model there are no rows.

    Raises:
        ValueError: If `kind` is neither, or no picture was shown to all models.

    Source: Geirhos, Meding, Wichmann 2020, arXiv:2006.16736; Cohen 1960, doi:10.1177/001316446002000104.
    """
    if kind not in ("original", "shifted"):
        raise ValueError(f"kind must be original or shifted, got {kind!r}")
    known = known_scores(scores, measure)
    known = known[known["kind"] == kind]
    right = known.pivot(index=["foreground_id", "picture_id"], columns="model", values="right").dropna()
    if right.empty:
        raise ValueError(f"scores must hold a {kind} picture that all models were shown, got none")
    pairs = list(combinations(range(right.shape[1]), 2))
    columns = ["model_1", "model_2", "kappa", "low", "high", "observed", "expected", "n"]
    if not pairs:
        return pd.DataFrame(columns=columns)
    first, second = np.array(pairs).T
    values = right.to_numpy()
    values = np.column_stack([values, values[:, first] * values[:, second], np.ones(len(values))])
    foregrounds = np.repeat(right.index.get_level_values("foreground_id").to_numpy(), values.shape[1])
    place = np.tile(np.arange(values.shape[1]), len(values))
    sums = sums_by_foreground(foregrounds, place, values.ravel(), width=values.shape[1])

    def statistic(totals: np.ndarray) -> np.ndarray:
        shares = totals[:, :-1] / totals[:, -1:]
        one, two, both = shares[:, first], shares[:, second], shares[:, right.shape[1] :]
        observed, expected = 1 - one - two + 2 * both, one * two + (1 - one) * (1 - two)
        kappa = np.where(expected < 1 - 1e-12, (observed - expected) / (1 - expected), np.nan)
        return np.concatenate([kappa, observed, expected], axis=1)

    kappa, observed, expected = whole(sums, statistic).reshape(3, -1)
    draws = resampled(sums, statistic, seed=seed, name="scores", samples=samples)[:, : len(pairs)]
    low, high = bootstrap_interval(kappa, draws, groups=sums.shape[0])
    names = np.asarray(right.columns)
    found = (names[first], names[second], kappa, low, high, observed, expected, len(right))
    return pd.DataFrame(dict(zip(columns, found, strict=True)))


def _shrunk_logit(right: np.ndarray, count: np.ndarray) -> np.ndarray:
    return logit((right + _SHRINK / 2) / (count + _SHRINK))


def _residuals(sums: np.ndarray, fitted: np.ndarray):
    """Return residuals and predictions (samples, models), slopes and intercepts (samples, 1).

    Args:
        sums: Right answers and foregrounds, on originals and on shifted ones, shape (samples, 2, 2, models).
        fitted: Whether a model is fitted to, shape (models,).
    """
    x, y = np.moveaxis(_shrunk_logit(sums[:, 0], sums[:, 1]), 1, 0)
    mean_x, mean_y = x[:, fitted].mean(1, keepdims=True), y[:, fitted].mean(1, keepdims=True)
    spread = np.square(x[:, fitted] - mean_x).sum(1, keepdims=True)
    slope = np.full_like(spread, np.nan)
    if fitted.sum() >= 3:
        together = ((x[:, fitted] - mean_x) * (y[:, fitted] - mean_y)).sum(1, keepdims=True)
        np.divide(together, spread, out=slope, where=spread > 1e-12)
    intercept, original = mean_y - slope * mean_x, sums[:, 0, 0] / sums[:, 1, 0]
    counts = {"n_original": sums[:, 1, 0], "n_shifted": sums[:, 1, 1]}
    predicted = predicted_accuracy(original, slope=slope, intercept=intercept, **counts)
    return sums[:, 0, 1] / sums[:, 1, 1] - predicted, predicted, slope, intercept
