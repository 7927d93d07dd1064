"""Heads on several sets of features by several methods, trained on one spurious training set and tested alike."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from d3s_utils.group_evaluation import evaluate_outcomes, head_outcomes
from d3s_utils.group_robustness import METHODS, train_head
from d3s_utils.spurious_task import Tie, group_ids, test_groups

TOLD_GROUPS = ("group_balanced", "group_dro", "dfr")  # these also learn from the balanced pictures


def compare_heads(
    table: pd.DataFrame,
    features: Mapping[str, np.ndarray],
    tie: Tie,
    *,
    training: np.ndarray,
    balanced: np.ndarray,
    seed: int,
    methods: Sequence[str] = METHODS,
    **options,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train a head for each set of features and method, and test all on the same pictures.

    ``erm`` and ``jtt`` know the training pictures' classes, nothing else. The others know groups, and what the split
    of the features knew: ``group_balanced`` and ``group_dro`` learn from training and balanced pictures together,
    ``dfr`` from the balanced ones.

    Args:
        table: As in `spurious_task.test_groups`, which says what is tested.
        features: By name, shape (rows of the table, width).
        tie: Which background belongs to which class.
        training, balanced: Positions of rows in `table`.
        seed: See `group_robustness.train_head`.
        methods: Some of `group_robustness.METHODS`.
        options: Others of `group_robustness.train_head`.

    Returns:
        A row for each head and measure (see `group_evaluation.evaluate_outcomes`), and one for each head and tested
        picture (see `group_evaluation.head_outcomes`), both after the columns features, method and head
        (``features/method``); the first also has the penalty, upweight, errors, dro_gap and dro_steps of the head (of
        GroupDRO the duality gap as a share of its objective, and the steps; NaN for the others).

    Raises:
        ValueError: See `group_robustness.train_head` and `spurious_task.test_groups`.
    """
    tested = test_groups(table, tie)
    classes, foregrounds = (table[name].to_numpy() for name in ("superclass", "foreground_id"))
    measures, outcomes = [], []
    for method in methods:
        rows = np.concatenate([training, balanced]) if method in ("group_balanced", "group_dro") else training
        groups = group_ids(classes[rows], table["background"].to_numpy()[rows], tie)
        balanced_groups = group_ids(classes[balanced], table["background"].to_numpy()[balanced], tie)
        for name, values in features.items():
            head = train_head(
                method, values[rows], classes[rows], groups if method in TOLD_GROUPS else None, seed=seed,
                foregrounds=foregrounds[rows],
                balanced=(values[balanced], classes[balanced], balanced_groups, foregrounds[balanced]), **options,
            )  # fmt: skip
            found = head_outcomes(
                head, values[tested["row"]], tested["superclass"], tested["group"], tested["kind"],
                foregrounds=tested["foreground_id"],
            )  # fmt: skip
            names = {"features": name, "method": method, "head": f"{name}/{method}"}
            steps = len(head.weight_path) - 1 if method == "group_dro" else np.nan
            chosen = {"penalty": head.penalty, "upweight": head.upweight, "errors": head.errors}
            chosen |= {"dro_gap": head.gap, "dro_steps": steps}
            measured = evaluate_outcomes(found, training_groups=groups[: len(training)])
            measures.append(measured.assign(**names, **chosen))
            outcomes.append(found.assign(**names))
    return pd.concat(measures, ignore_index=True), pd.concat(outcomes, ignore_index=True)
