"""What people said about pictures: verdicts by a rule, agreement, and how far each worker can be believed.

A table of votes has a row an answer: `image_id`, `question` (one of `QUESTIONS`), `worker`, `answer`, and `kind`
(``real``, ``gold`` for a picture whose answer is known, ``repeat`` for one that the worker was shown before).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import krippendorff
import numpy as np
import pandas as pd
from crowdkit.aggregation import DawidSkene

from d3s_utils.intervals import bootstrap_interval, clustered_wilson
from d3s_utils.metrics import Estimate
from d3s_utils.randomness import numpy_generator
from d3s_utils.taxonomy import BACKGROUNDS

YES, NO, UNSURE, NONE = "yes", "no", "unsure", "none"
QUESTIONS = {  # question -> its answers
    "object": (YES, NO, UNSURE),
    "background": (*BACKGROUNDS, NONE, UNSURE),
    "unsafe": (YES, NO, UNSURE),
}
RULES = ("unanimous", "majority", "dawid_skene")
COLUMNS = ["image_id", "question", "worker", "answer", "kind"]


class VoteError(ValueError):
    """A table of votes that cannot be used; the message says which row or column is wrong."""


@dataclass(frozen=True)
class Rule:
    """How votes become a verdict.

    Attributes:
        name: ``unanimous`` (D3S: all say yes to the object, none finds the picture unsafe), ``majority``, or
            ``dawid_skene`` (each worker weighs as much as the answers of all show that they deserve).
        votes_needed: A question with fewer votes than this is open, neither yes nor no (D3S: 5).

    Raises:
        ValueError: If the name is none of these or `votes_needed` is below 1.

    Source: Kattakinda et al. 2022, arXiv:2211.10370; Dawid & Skene 1979, doi:10.2307/2346806.
    """

    name: str = "unanimous"
    votes_needed: int = 5

    def __post_init__(self):
        if self.name not in RULES:
            raise ValueError(f"vote rule must be one of {', '.join(RULES)}, got {self.name!r}")
        if self.votes_needed < 1:
            raise ValueError(f"votes_needed must be at least 1, got {self.votes_needed}")


def check_votes(votes: pd.DataFrame) -> pd.DataFrame:
    """Return `votes` if each row is an answer to a question that has it, one a picture, question, worker and kind.

    Raises:
        VoteError: If a column is missing, or a row is wrong or twice there.
    """
    missing = [name for name in COLUMNS if name not in votes]
    if missing:
        raise VoteError(f"votes must have the columns {', '.join(COLUMNS)}, which lacks {', '.join(missing)}")
    for row in votes[["question", "answer"]].drop_duplicates().itertuples():
        if row.answer not in QUESTIONS.get(row.question, ()):
            raise VoteError(f"votes: {row.answer!r} is no answer to the question {row.question!r}")
    twice = votes.duplicated(["image_id", "question", "worker", "kind"])
    if twice.any():
        row = votes[twice].iloc[0]
        raise VoteError(f"votes: worker {row.worker!r} answered {row.question!r} of {row.image_id!r} twice")
    return votes


def verdicts(votes: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Return what the votes say about each picture.

    Only answers of kind ``real`` count. Under ``unanimous`` the object is there if all say yes, and a picture is unsafe
    if one says so; under ``majority`` more than half of those asked must agree, so "unsure" counts against; under
    ``dawid_skene`` the likeliest answer given every worker's confusions, which are estimated along with it. The
    background is the answer that all, more than half, or the likeliest name; ``none`` is such an answer.

    Args:
        votes: See the module.
        rule: How votes become a verdict.

    Returns:
        A row a picture, indexed by `image_id`: `object` (True, False, or None while open), `background` (a name,
        ``none``, ``unsure`` where the votes do not agree, or None while open), `unsafe` (True, False or None),
        `votes` (people who were asked about it) and, for each, ``<question>_share``: of the votes, or the
        probability under ``dawid_skene``, for the answer that the verdict names.

    Raises:
        VoteError: See `check_votes`.
    """
    real = check_votes(votes)[votes["kind"] == "real"]
    pictures = pd.Index(sorted(real["image_id"].unique()), name="image_id")
    found = pd.DataFrame({"votes": real.groupby("image_id")["worker"].nunique()}, index=pictures)
    for question, answers in QUESTIONS.items():
        shares = answer_shares(real[real["question"] == question], answers, rule).reindex(pictures, fill_value=0.0)
        asked = real[real["question"] == question].groupby("image_id").size().reindex(pictures, fill_value=0)
        named, share = shares.idxmax(axis=1), shares.max(axis=1)
        agreed = share >= 1 if rule.name == "unanimous" else share > 0.5
        if question == "background":
            verdict = named.where(agreed, UNSURE)
        elif question == "unsafe" and rule.name == "unanimous":
            verdict = shares[YES] > 0  # one is enough
        else:
            verdict = (named == YES) & agreed
        found[question] = verdict.astype(object).where(asked >= rule.votes_needed, None)
        found[f"{question}_share"] = share.where(asked > 0)
    return found


def answer_shares(votes: pd.DataFrame, answers: Sequence[str], rule: Rule) -> pd.DataFrame:
    """Return the share of votes, or the probability under ``dawid_skene``, of each answer: a row a picture."""
    if rule.name == "dawid_skene" and len(votes):
        named = votes.rename(columns={"image_id": "task", "answer": "label"})[["task", "worker", "label"]]
        shares = DawidSkene(n_iter=100).fit_predict_proba(named)
        shares.index.name = "image_id"
    else:
        shares = pd.crosstab(votes["image_id"], votes["answer"], normalize="index")
    return shares.reindex(columns=list(answers), fill_value=0.0)


@dataclass(frozen=True)
class Alpha:
    """Krippendorff's alpha, which does not exist where all answers are the same.

    Attributes:
        value: 1 is perfect agreement, 0 that of chance, below 0 systematic disagreement; NaN where it is undefined.
        low, high: Ends of its bootstrap interval; NaN likewise, and where all images are of one foreground.
        n: Images with two votes or more.
        undefined: Share of bootstrap draws in which all gave the same answer; they are left out of the interval.
    """

    value: float
    low: float
    high: float
    n: int
    undefined: float

    @property
    def estimate(self) -> Estimate | None:
        """The number as a metric; None where it is undefined."""
        return None if np.isnan(self.value) else Estimate(self.value, self.low, self.high, self.n)

    @property
    def words(self) -> str:
        """The number with its interval, or why there is none."""
        if self.estimate is None:
            return "undefined: all gave the same answer"
        left_out = f" ({self.undefined:.0%} of the draws left out: all gave the same answer)" if self.undefined else ""
        return self.estimate.words(digits=2) + left_out


def krippendorff_alpha(
    votes: pd.DataFrame,
    question: str,
    *,
    seed: int,
    foregrounds: pd.Series | None = None,
    samples: int = 1000,
) -> Alpha:
    """Return Krippendorff's alpha of a question (nominal) with a bootstrap interval over foregrounds.

    "Unsure" is an answer like the others.

    Args:
        votes: See the module; only kind ``real`` counts.
        question: One of `QUESTIONS`.
        seed: Of the bootstrap.
        foregrounds: The foreground of each image, indexed by `image_id`: images of one are drawn together. Where None,
            each image is drawn alone.
        samples: Bootstrap draws.

    Raises:
        VoteError: If no image has two votes.
        ValueError: If an image has no foreground.

    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability".
    """
    real = check_votes(votes)[(votes["kind"] == "real") & (votes["question"] == question)]
    table = pd.crosstab(real["image_id"], real["answer"])
    table = table[table.sum(axis=1) >= 2]
    if table.empty:
        raise VoteError(f"votes: no picture has two answers to {question!r}, so nobody can agree")
    counts, codes = table.to_numpy(), np.unique(_relatives(table.index, foregrounds), return_inverse=True)[1]
    random, size = numpy_generator(seed, "krippendorff_alpha", question), codes.max() + 1
    value = _alpha(counts)
    drawn = np.empty(samples)
    for number in range(samples):
        times = np.bincount(random.integers(0, size, size), minlength=size)
        drawn[number] = _alpha(np.repeat(counts, times[codes], axis=0))
    low, high = (float(ends[0]) for ends in bootstrap_interval([value], drawn[:, None], groups=size))
    return Alpha(value, low, high, len(counts), float(1 - np.isfinite(drawn).mean()))


def agreement_of_people(votes: pd.DataFrame, *, seed: int, foregrounds: pd.Series | None = None) -> pd.DataFrame:
    """Return `krippendorff_alpha` of each question that two people answered of one image.

    Args:
        votes, seed, foregrounds: As in `krippendorff_alpha`.

    Returns:
        A row a question: `question`, `value`, `low`, `high` (NaN where undefined), `n`, `undefined` and `words`; see
        `Alpha`.
    """
    real = check_votes(votes)[votes["kind"] == "real"]
    asked = real.groupby(["question", "image_id"]).size()
    shared = set(asked[asked >= 2].index.get_level_values("question"))
    found = {
        question: krippendorff_alpha(votes, question, seed=seed, foregrounds=foregrounds)
        for question in QUESTIONS
        if question in shared
    }
    rows = [{"question": question} | vars(alpha) | {"words": alpha.words} for question, alpha in found.items()]
    return pd.DataFrame(rows, columns=["question", "value", "low", "high", "n", "undefined", "words"])


def agreement_by_question(
    votes: pd.DataFrame, *, seed: int, foregrounds: pd.Series | None = None
) -> dict[str, Estimate]:
    """Return the metrics ``krippendorff_alpha/<question>`` of `agreement_of_people`; what is undefined has none."""
    table = agreement_of_people(votes, seed=seed, foregrounds=foregrounds)
    return {
        f"krippendorff_alpha/{row.question}": Estimate(row.value, row.low, row.high, row.n)
        for row in table.dropna(subset="value").itertuples()
    }


def _alpha(counts: np.ndarray) -> float:
    """Return alpha of answers counted by image (row) and answer (column); NaN where all gave the same answer."""
    if (counts.sum(0) > 0).sum() < 2:
        return float("nan")  # chance expects no disagreement, and alpha divides by it
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))


def _relatives(images: Sequence[str], foregrounds: pd.Series | None, *, all_named: bool = True) -> np.ndarray:
    """Return the foreground of each image; the image itself where none are given, or not `all_named`."""
    images = pd.Index(images, dtype=object)
    if foregrounds is None:
        return images.to_numpy(str)
    found = foregrounds.reindex(images)
    if not all_named:
        found = found.where(found.notna(), images)
    if found.isna().any():
        raise ValueError(f"foregrounds must name one for each image, got none for {found.index[found.isna()][0]!r}")
    return found.to_numpy(str)


def worker_table(votes: pd.DataFrame, gold: pd.DataFrame, *, foregrounds: pd.Series | None = None) -> pd.DataFrame:
    """Return how far each worker can be believed, by question.

    Intervals are Wilson's, clustered by foreground (see `intervals.clustered_wilson`): who errs on an odd object errs
    on all images of it.

    Args:
        votes: See the module.
        gold: The known answers: `image_id`, `question`, `answer`.
        foregrounds: The foreground of each image, indexed by `image_id`. An image that it does not name stands for
            itself, and so do gold items, unless it is made from `annotation_tasks.Tasks.items`, which names all.

    Returns:
        A row a worker and question: `worker`, `question`, `answers` (of all kinds), `unsure` (share of them), and the
        estimates `gold` (right on gold items) and `consistency` (same answer on a repeat as before), each as
        ``<name>``, ``<name>_low``, ``<name>_high``, ``<name>_n``, missing where nothing of the kind was asked.
    """
    votes = check_votes(votes)
    known = gold.set_index(["image_id", "question"])["answer"]
    rows = []
    for (worker, question), mine in votes.groupby(["worker", "question"], sort=True):
        row = {
            "worker": worker,
            "question": question,
            "answers": len(mine),
            "unsure": (mine["answer"] == UNSURE).mean(),
        }
        golden = mine[mine["kind"] == "gold"]
        truth = known.reindex(pd.MultiIndex.from_frame(golden[["image_id", "question"]]))
        again = mine[mine["kind"] == "repeat"].set_index("image_id")["answer"]
        first = mine[mine["kind"] == "real"].set_index("image_id")["answer"].reindex(again.index)
        both = first.notna()
        sure = truth.notna().to_numpy()
        pairs = {
            "gold": (golden["image_id"][sure], golden["answer"].to_numpy()[sure] == truth[sure].to_numpy()),
            "consistency": (again.index[both], (again[both] == first[both]).to_numpy()),
        }
        for name, (images, right) in pairs.items():
            if len(right):
                estimate = clustered_wilson(right, _relatives(images, foregrounds, all_named=False))
                row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            row[f"{name}_n"] = len(right)
        rows.append(row)
    columns = [f"{name}{part}" for name in ("gold", "consistency") for part in ("", "_low", "_high", "_n")]
    return pd.DataFrame(rows, columns=["worker", "question", "answers", "unsure", *columns])


@dataclass(frozen=True)
class SimulatedWorker:
    """A worker who errs at stated rates.

    Attributes:
        name: Of the worker.
        errors: Share of wrong answers by question, each in [0, 1]; a wrong answer is drawn evenly from the others.
        unsure: Share of answers that are "unsure".
    """

    name: str
    errors: Mapping[str, float]
    unsure: float = 0.0


def simulate_votes(
    truth: pd.DataFrame, workers: Sequence[SimulatedWorker], *, seed: int, kind: str = "real"
) -> pd.DataFrame:
    """Return the votes of workers whose quality is known, to try estimators on.

    Args:
        truth: `image_id`, `question`, `answer`.
        workers: Each answers every row.
        seed: Every answer hangs on it, the worker's name, the picture, the question and the kind alone.
    """
    rows = []
    for worker in workers:
        for row in truth.itertuples():
            random = numpy_generator(seed, "simulated worker", worker.name, row.image_id, row.question, kind)
            answer, drawn = row.answer, random.random(2)
            if drawn[0] < worker.unsure:
                answer = UNSURE
            elif drawn[1] < worker.errors[row.question]:
                others = [other for other in QUESTIONS[row.question] if other not in (row.answer, UNSURE)]
                answer = str(random.choice(others))
            rows.append((row.image_id, row.question, worker.name, answer, kind))
    return pd.DataFrame(rows, columns=COLUMNS)


def simulated_crowd(count: int) -> list[SimulatedWorker]:
    """Return `count` simulated workers of stated error rates: careful ones, average ones, and every fifth careless."""
    rates = (0.03, 0.05, 0.08, 0.12, 0.30)
    return [
        SimulatedWorker(
            f"simulated-{number + 1:02d}",
            errors={"object": rate, "background": 1.5 * rate, "unsafe": 0.2 * rate},
            unsure=rate / 3,
        )
        for number in range(count)
        for rate in [rates[number % len(rates)]]
    ]


def simulate_answers(
    items: pd.DataFrame,
    gold: pd.DataFrame,
    truth: pd.DataFrame,
    workers: Sequence[SimulatedWorker],
    *,
    seed: int,
) -> pd.DataFrame:
    """Return what simulated workers answer to planned tasks, gold items and repeats included.

    Args:
        items, gold: `annotation.Tasks`.
        truth: What each picture shows: `image_id`, `question`, `answer`.
        workers: Each answers every task.
        seed: See `simulate_votes`.
    """
    parts = []
    for kind, known in (("real", truth), ("repeat", truth), ("gold", gold)):
        asked = items.loc[items["kind"] == kind, "image_id"]
        parts.append(simulate_votes(known[known["image_id"].isin(asked)], workers, seed=seed, kind=kind))
    return pd.concat(parts, ignore_index=True)


def compare_rules(
    votes: pd.DataFrame, backgrounds: pd.Series, foregrounds: pd.Series, *, votes_needed: int
) -> pd.DataFrame:
    """Return what each rule would keep: object there, background as asked for, nothing unsafe.

    Args:
        votes: See the module.
        backgrounds: The background that was asked for, indexed by `image_id`.
        foregrounds: The foreground that each image was made from, indexed likewise.
        votes_needed: See `Rule`.

    Returns:
        `rule`, `measure` (object, background, safe, kept), `value`, `low`, `high`, `n` (images that were decided).
        Intervals are Wilson's, clustered by foreground.

    Raises:
        ValueError: If an image that was decided has no foreground.
    """
    rows = []
    for name in RULES:
        found = verdicts(votes, Rule(name, votes_needed))
        found = found[found[list(QUESTIONS)].notna().all(axis=1)]
        asked = backgrounds.reindex(found.index)
        shares = {
            "object": found["object"].eq(True),
            "background": found["background"].eq(asked),
            "safe": found["unsafe"].eq(False),
        }
        shares["kept"] = shares["object"] & shares["background"] & shares["safe"]
        groups = _relatives(found.index, foregrounds)
        rows += [
            {"rule": name, "measure": measure} | vars(clustered_wilson(share.to_numpy(bool), groups))
            for measure, share in shares.items()
            if len(share)
        ]
    return pd.DataFrame(rows, columns=["rule", "measure", "value", "low", "high", "n"])
