"""People's votes beside the models' verdicts: gathered or simulated, put in their place, held against the filters."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from d3s_utils.annotation_answers import read_answers_folder
from d3s_utils.annotation_tasks import Tasks
from d3s_utils.calibration import filter_quality, recommend_threshold
from d3s_utils.metrics import Estimate
from d3s_utils.validation import FILTERS, Thresholds, passes
from d3s_utils.votes import COLUMNS, NO, YES, simulate_answers, simulated_crowd


@dataclass(frozen=True)
class Votes:
    """What people, or their stand-ins, said.

    Attributes:
        table: See `votes`; empty where nobody said anything.
        problems: What was left out of the answers, and why: `file`, `row`, `problem`.
        source: ``people``, ``simulated``, or an empty string.
    """

    table: pd.DataFrame
    problems: pd.DataFrame
    source: str

    @property
    def words(self) -> str:
        """Who spoke, for titles."""
        return {"people": "people", "simulated": "simulated people", "": "nobody"}[self.source]


def collect_votes(
    tasks: Tasks, *, answers: str | Path | None, simulated_workers: int, truth: pd.DataFrame, seed: int
) -> Votes:
    """Return people's votes from a folder of answers, or those of simulated workers, or none.

    Args:
        tasks: What was asked.
        answers: Folder of files that pages saved, or Mechanical Turk's results; None for none.
        simulated_workers: How many stand in where there is no such folder.
        truth: From `simulated_truth`.
        seed: Of the simulated workers.
    """
    none = pd.DataFrame(columns=["file", "row", "problem"])
    if answers is not None:
        return Votes(*read_answers_folder(Path(answers), tasks), "people")
    if not simulated_workers:
        return Votes(pd.DataFrame(columns=COLUMNS), none, "")
    crowd = simulated_crowd(simulated_workers)
    return Votes(simulate_answers(tasks.items, tasks.gold, truth, crowd, seed=seed), none, "simulated")


def simulated_truth(table: pd.DataFrame, *, witness: str, background_witness: str, threshold: float) -> pd.DataFrame:
    """Return answers that simulated workers err around: what two models that decide nothing see.

    It stands for no person. It only has to differ from what the filters see, so that they have something to be
    measured against: name witnesses, since a judge held against itself says nothing.

    Args:
        table: From `judge`.
        witness, background_witness: Names of models of the panel.
        threshold: Unsafe from this score on.

    Returns:
        `image_id`, `question`, `answer`, as `votes.simulate_votes` wants it.
    """
    named = table[f"foreground_vote/{witness}"] == np.where(table["in9"] != "", table["in9"], table["class_name"])
    answers = {
        "object": np.where(named, YES, NO),
        "background": table[f"background_vote/{background_witness}"].to_numpy(),
        "unsafe": np.where(table["unsafe_score"] >= threshold, YES, NO),
    }
    parts = [table[["image_id"]].assign(question=question, answer=answer) for question, answer in answers.items()]
    return pd.concat(parts, ignore_index=True)


def human_labels(people: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return what people say about each filter's question, to hold the filters against.

    Args:
        people: From `votes.verdicts`.
        table: Has `image_id` and `background`.

    Returns:
        A row a picture of `table`, a column a filter of `FILTERS`: True, False, or None where people left it open. A
        filter on the foreground, and those on the picture itself, are held against "is the object there?".
    """
    people = people.reindex(table["image_id"]).reset_index(drop=True)
    seen = people["background"].eq(table["background"].to_numpy()).where(people["background"].notna(), None)
    safe = people["unsafe"].map({True: False, False: True}).where(people["unsafe"].notna(), None)
    answers = {"background": seen, "clip_background": seen, "unsafe": safe}
    return pd.DataFrame({name: answers.get(name, people["object"]) for name in FILTERS})


def overrule(validated: pd.DataFrame, people: pd.DataFrame, *, rule: str) -> pd.DataFrame:
    """Return the table with people's verdict in the place of the models' where people have one.

    A picture is kept if people find the object, name the background that was asked for, and nothing unsafe. Where one
    of the three is open (too few votes), or nobody looked, the models' verdict stands.

    Args:
        validated: From `decide`.
        people: From `votes.verdicts`.
        rule: The vote rule in words, recorded with each verdict.
    """
    people = people.reindex(validated["image_id"]).reset_index(drop=True)
    found, seen, unsafe = (people[name] for name in ("object", "background", "unsafe"))
    decided = found.notna() & seen.notna() & unsafe.notna()
    agrees = {"foreground_agrees": found.eq(True), "background_agrees": seen.eq(validated["background"].to_numpy()),
              "safe": unsafe.eq(False)}  # fmt: skip
    result = validated.reset_index(drop=True)
    for name, answer in agrees.items():
        result[name] = answer.where(decided, result[name]).astype(bool)
    result["keep"] = (agrees["foreground_agrees"] & agrees["background_agrees"] & agrees["safe"]).where(
        decided, result["keep"]
    ).astype(bool)  # fmt: skip
    for row in np.flatnonzero(decided):
        said = []
        if not agrees["foreground_agrees"][row]:
            said.append("foreground: people do not find it")
        if not agrees["background_agrees"][row]:
            said.append(f"background: people see {seen[row]}, not {result.at[row, 'background']}")
        if not agrees["safe"][row]:
            said.append("unsafe: people find it so")
        result.at[row, "reason"] = "; ".join(said)
    result["verdict_source"] = result["verdict_source"].mask(decided, "people")
    result["rule"] = result["rule"].mask(decided, f"people: {rule}")
    return result


def filter_scores(judged: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of the filters that have one, in [0, 1], higher for keep: a column a filter."""
    scores = {name: judged[column] for name, column in FILTERS.items() if column in judged and "_" in column}
    scores = {name: score for name, score in scores.items() if score.dtype.kind == "f"}
    return pd.DataFrame(scores).assign(unsafe=1 - judged["unsafe_score"])


def measure_filters(
    judged: pd.DataFrame, thresholds: Thresholds, labels: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, Estimate]]:
    """Return precision and recall of every filter against people, as a table and as metrics.

    Args:
        labels: From `human_labels`.

    Returns:
        `filter`, `measure` (precision, recall), `value`, `low`, `high`, `n`; and ``filter_precision/<filter>`` and
        ``filter_recall/<filter>``. What is undefined has no row.
    """
    metrics = {}
    for name, passed in passes(judged, thresholds).items():
        if labels[name].notna().any():
            metrics |= filter_quality(passed, labels[name], judged["foreground_id"]).metrics(name)
    rows = []
    for name, estimate in metrics.items():
        measure, of_filter = name.split("/")
        rows.append({"filter": of_filter, "measure": measure.removeprefix("filter_")} | vars(estimate))
    return pd.DataFrame(rows, columns=["filter", "measure", "value", "low", "high", "n"]), metrics


def recommended_thresholds(judged: pd.DataFrame, labels: pd.DataFrame, *, precision: float) -> pd.DataFrame:
    """Return for each filter with a score the lowest threshold that reaches a precision, see `recommend_threshold`.

    Returns:
        A row a filter: `filter`, `threshold` on the score of `filter_scores` (missing where none reaches it),
        `setting` (the value of the `Thresholds` field of that name which makes the very same verdicts: for `unsafe` a
        score to stay below), `precision`, `recall` (on the images that chose it), `held_out_precision` with ``_low``
        and ``_high`` (on images that did not).
    """
    rows = []
    for name, score in filter_scores(judged).items():
        if labels[name].notna().any():
            found = recommend_threshold(score, labels[name], judged["foreground_id"], precision=precision)
            setting = found.threshold
            if name == "unsafe" and setting is not None:  # 1 - (1 - score) may differ from the score in its last digit
                kept = judged.loc[score >= setting, "unsafe_score"].max()
                setting = min(1.0, float(np.nextafter(kept, 2)))
            row = {"filter": name, "threshold": found.threshold, "setting": setting}
            for key in ("precision", "recall"):
                row[key] = getattr(found, key).value if getattr(found, key) else None
            for end, key in (("value", ""), ("low", "_low"), ("high", "_high")):
                honest = found.honest_precision
                row[f"held_out_precision{key}"] = getattr(honest, end) if honest else None
            rows.append(row)
    return pd.DataFrame(rows)
