"""Votes of people: rules by hand, agreement against a written-out formula, and workers whose quality is known."""

import numpy as np
import pandas as pd
import pytest

from d3s_utils.intervals import clustered_wilson
from d3s_utils.randomness import numpy_generator
from d3s_utils.taxonomy import BACKGROUNDS
from d3s_utils.votes import (
    COLUMNS,
    NONE,
    QUESTIONS,
    UNSURE,
    Rule,
    SimulatedWorker,
    VoteError,
    agreement_by_question,
    agreement_of_people,
    check_votes,
    compare_rules,
    krippendorff_alpha,
    simulate_answers,
    simulate_votes,
    simulated_crowd,
    verdicts,
    worker_table,
)


def votes_of(answers: dict[str, dict[str, str]], kind: str = "real") -> pd.DataFrame:
    """`{question: {picture: "answer answer …"}}`, the i-th answer by worker i."""
    rows = [
        (picture, question, f"w{i}", answer, kind)
        for question, pictures in answers.items()
        for picture, given in pictures.items()
        for i, answer in enumerate(given.split())
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def random_truth(n: int, seed: int = 0) -> pd.DataFrame:
    random = numpy_generator(seed, "truth")
    rows = []
    for i in range(n):
        rows.append((f"p{i:03d}", "object", str(random.choice(["yes", "no"], p=[0.6, 0.4]))))
        rows.append((f"p{i:03d}", "background", str(random.choice([*BACKGROUNDS, NONE]))))
        rows.append((f"p{i:03d}", "unsafe", str(random.choice(["yes", "no"], p=[0.1, 0.9]))))
    return pd.DataFrame(rows, columns=["image_id", "question", "answer"])


def worker(name: str, error: float, **options) -> SimulatedWorker:
    return SimulatedWorker(name, dict.fromkeys(QUESTIONS, error), **options)


FIVE = {
    "object": {"a": "yes yes yes yes yes", "b": "yes yes yes yes no", "c": "yes yes unsure unsure no", "d": "yes yes"},
    "background": {"a": "snow snow snow snow snow", "b": "snow snow snow sand sand", "c": "snow snow sand sand none",
                   "d": "cave cave"},
    "unsafe": {"a": "no no no no no", "b": "no no no no yes", "c": "no no yes yes yes", "d": "no no"},
}  # fmt: skip


def test_unanimous_is_the_papers_rule():
    found = verdicts(votes_of(FIVE), Rule("unanimous", votes_needed=5))
    assert found["object"].to_dict() == {"a": True, "b": False, "c": False, "d": None}
    assert found["background"].to_dict() == {"a": "snow", "b": UNSURE, "c": UNSURE, "d": None}
    assert found["unsafe"].to_dict() == {"a": False, "b": True, "c": True, "d": None}, "one voice is enough"
    assert found["votes"].to_dict() == {"a": 5, "b": 5, "c": 5, "d": 2}
    assert found.loc["b", "object_share"] == 0.8


def test_a_majority_is_more_than_half_of_all_who_were_asked():
    found = verdicts(votes_of(FIVE), Rule("majority", votes_needed=2))
    assert found["object"].to_dict() == {"a": True, "b": True, "c": False, "d": True}
    assert found["background"].to_dict() == {"a": "snow", "b": "snow", "c": UNSURE, "d": "cave"}
    assert found["unsafe"].to_dict() == {"a": False, "b": False, "c": True, "d": False}
    tied = verdicts(votes_of({"object": {"a": "yes yes no no"}}), Rule("majority", votes_needed=1))
    assert not tied.loc["a", "object"], "half is no majority"
    assert tied.loc["a", "background"] is None, "nobody was asked"


def test_gold_and_repeats_do_not_vote():
    both = pd.concat([votes_of({"object": {"a": "yes yes yes"}}), votes_of({"object": {"a": "no no no"}}, "repeat")])
    assert verdicts(both, Rule("unanimous", votes_needed=3)).loc["a", "object"]


def test_dawid_skene_beats_the_majority_when_most_workers_are_poor():
    truth = random_truth(150)
    crowd = [worker("good-1", 0.02), worker("good-2", 0.05), *(worker(f"poor-{i}", 0.45) for i in range(3))]
    votes = simulate_votes(truth, crowd, seed=0)
    wanted = truth[truth["question"] == "object"].set_index("image_id")["answer"] == "yes"
    right = {
        name: (verdicts(votes, Rule(name, votes_needed=5))["object"].astype(bool) == wanted).mean()
        for name in ("majority", "dawid_skene")
    }
    assert right["dawid_skene"] > 0.93
    assert right["dawid_skene"] > right["majority"] + 0.05


def slow_alpha(votes: pd.DataFrame) -> float:
    """Krippendorff's alpha from its definition, pair by pair."""
    units = [group["answer"].to_list() for _, group in votes.groupby("image_id") if len(group) > 1]
    observed = sum(
        sum(a != b for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j) / (len(unit) - 1)
        for unit in units
    )
    every = [answer for unit in units for answer in unit]
    expected = sum(a != b for i, a in enumerate(every) for j, b in enumerate(every) if i != j)
    return 1 - (len(every) - 1) * observed / expected


def test_alpha_is_that_of_its_definition_and_its_interval_holds_it():
    votes = votes_of({"background": FIVE["background"] | {"e": "road"}})
    estimate = krippendorff_alpha(votes, "background", seed=0)
    assert estimate.value == pytest.approx(slow_alpha(votes))
    assert estimate.n == 4, "one answer alone agrees with nobody"
    assert estimate.low <= estimate.value <= estimate.high


def test_alpha_is_one_for_agreement_and_nothing_for_chance():
    same = votes_of({"object": {"a": "yes yes yes", "b": "no no no"}})
    assert krippendorff_alpha(same, "object", seed=0).value == 1
    guessing = simulate_votes(random_truth(200), [worker(f"w{i}", 0.5) for i in range(4)], seed=1)
    estimate = krippendorff_alpha(guessing, "object", seed=0)
    assert estimate.undefined == 0
    assert estimate.low < 0.03
    assert abs(estimate.value) < 0.08
    with pytest.raises(VoteError, match="no picture has two answers to 'object'"):
        krippendorff_alpha(votes_of({"object": {"a": "yes"}}), "object", seed=0)


def test_alpha_is_undefined_where_all_gave_the_same_answer():
    silent = votes_of({"object": {"a": "yes yes yes", "b": "yes yes yes"}, "unsafe": {"a": "no no", "b": "yes no"}})
    alpha = krippendorff_alpha(silent, "object", seed=0)
    assert np.isnan([alpha.value, alpha.low, alpha.high]).all()
    assert (alpha.n, alpha.undefined) == (2, 1.0)
    assert alpha.words == "undefined: all gave the same answer"
    assert alpha.estimate is None
    table = agreement_of_people(silent, seed=0).set_index("question")
    assert np.isnan(table.loc["object", "value"])
    assert table.loc["object", "words"] == alpha.words
    assert np.isfinite(table.loc["unsafe", "value"])
    assert list(agreement_by_question(silent, seed=0)) == ["krippendorff_alpha/unsafe"], "no metric of the undefined"


def test_draws_in_which_all_say_the_same_are_left_out_and_counted():
    votes = votes_of({"object": {"a": "yes yes", "b": "yes yes", "c": "yes no"}})
    alpha = krippendorff_alpha(votes, "object", seed=0, samples=2000)
    assert alpha.undefined == pytest.approx((2 / 3) ** 3, abs=0.04), "c is in no draw of three"
    assert alpha.high < 1, "a draw without c would have said 1"
    assert f"{alpha.undefined:.0%} of the draws" in alpha.words


def test_alphas_interval_draws_whole_foregrounds():
    answers = {f"{i:02d}{j}": ("yes yes" if i % 2 else "yes no") for i in range(20) for j in range(10)}
    votes = votes_of({"object": answers})
    foregrounds = pd.Series({name: name[:2] for name in answers})
    alone, together = (krippendorff_alpha(votes, "object", seed=0, foregrounds=f) for f in (None, foregrounds))
    assert together.value == alone.value
    assert together.high - together.low > 2 * (alone.high - alone.low), "ten images of one object are one trial"


def test_alphas_interval_covers_what_many_pictures_show():
    crowd = [worker(f"w{i}", 0.15) for i in range(4)]
    limit = krippendorff_alpha(simulate_votes(random_truth(3000), crowd, seed=5), "object", seed=0, samples=10).value
    covered = 0
    for seed in range(40):
        votes = simulate_votes(random_truth(60, seed=seed), crowd, seed=seed)
        estimate = krippendorff_alpha(votes, "object", seed=seed, samples=200)
        covered += estimate.low <= limit <= estimate.high
    assert covered >= 33, "0.95 of 40 is 38; fewer than 33 would happen once in 500 times"


def test_the_quality_that_was_put_in_is_found_back():
    truth = random_truth(120)
    crowd = [worker("careful", 0.02), worker("middling", 0.2), worker("hasty", 0.4, unsure=0.2)]
    gold = truth.iloc[:240]
    votes = pd.concat([
        simulate_votes(truth, crowd, seed=0),
        simulate_votes(gold, crowd, seed=0, kind="gold"),
        simulate_votes(gold, crowd, seed=0, kind="repeat"),
    ])  # fmt: skip
    table = worker_table(votes, gold)
    assert len(table) == 9
    for row in table.itertuples():
        simulated = next(one for one in crowd if one.name == row.worker)
        wanted = (1 - simulated.unsure) * (1 - simulated.errors[row.question])
        assert row.gold_low - 0.04 <= wanted <= row.gold_high + 0.04, f"{row.worker}, {row.question}"
        assert row.gold_n == 80
    by_worker = table.groupby("worker")[["gold", "consistency", "unsure"]].mean()
    assert by_worker.loc["careful", "gold"] > by_worker.loc["middling", "gold"] > by_worker.loc["hasty", "gold"]
    assert by_worker.loc["careful", "consistency"] > by_worker.loc["hasty", "consistency"]
    assert by_worker.loc["hasty", "unsure"] == pytest.approx(0.2, abs=0.06)
    assert by_worker.loc["careful", "unsure"] == 0


def test_what_a_worker_says_of_one_foreground_is_one_trial():
    names = [f"{i}{j}" for i in range(6) for j in range(10)]
    foregrounds = pd.Series({name: name[0] for name in names})
    gold = pd.DataFrame({"image_id": names, "question": "object", "answer": "yes"})
    said = {name: "no" if name[0] == "0" else "yes" for name in names}
    votes = pd.concat([votes_of({"object": said}, kind) for kind in ("gold", "real")])
    again = votes_of({"object": said | {name: "yes" for name in names if name[0] == "0"}}, "repeat")
    alone, together = (
        worker_table(pd.concat([votes, again]), gold, foregrounds=given).iloc[0] for given in (None, foregrounds)
    )
    for name in ("gold", "consistency"):
        assert together[name] == alone[name] == pytest.approx(5 / 6)
        wanted = clustered_wilson([value == "yes" for value in said.values()], foregrounds)
        assert (together[f"{name}_low"], together[f"{name}_high"]) == pytest.approx((wanted.low, wanted.high))
        assert together[f"{name}_low"] < alone[f"{name}_low"] - 0.1
        assert together[f"{name}_n"] == 60


def test_a_worker_without_gold_has_no_quality():
    table = worker_table(votes_of({"object": {"a": "yes"}}), pd.DataFrame(columns=["image_id", "question", "answer"]))
    assert np.isnan(table["gold"].item())
    assert table["gold_n"].item() == 0


def test_simulated_answers_hang_on_their_own_row_alone():
    truth, crowd = random_truth(20), [worker("a", 0.3), worker("b", 0.3)]
    every, some = simulate_votes(truth, crowd, seed=0), simulate_votes(truth.iloc[::-2], crowd[1:], seed=0)
    merged = some.merge(every, on=["image_id", "question", "worker", "kind"], suffixes=("", "_again"))
    assert len(merged) == len(some) == 30
    assert (merged["answer"] == merged["answer_again"]).all()
    assert not every.equals(simulate_votes(truth, crowd, seed=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda votes: votes.drop(columns="worker"), "lacks worker"),
        (lambda votes: votes.assign(answer="perhaps"), "'perhaps' is no answer to the question 'object'"),
        (lambda votes: votes.assign(question="colour"), "no answer to the question 'colour'"),
        (lambda votes: pd.concat([votes, votes]), "worker 'w0' answered 'object' of 'a' twice"),
    ],
)
def test_wrong_votes_are_named(change, message):
    with pytest.raises(VoteError, match=message):
        check_votes(change(votes_of({"object": {"a": "yes"}})))


def test_wrong_rules_are_named():
    with pytest.raises(ValueError, match="vote rule must be one of unanimous, majority, dawid_skene, got 'loudest'"):
        Rule("loudest")
    with pytest.raises(ValueError, match="votes_needed must be at least 1, got 0"):
        Rule("majority", votes_needed=0)


def test_a_simulated_crowd_walks_the_whole_way_and_its_quality_is_found_again():
    truth = random_truth(120)
    items = pd.DataFrame({"image_id": [f"p{i:03d}" for i in range(120)], "kind": "real"})
    again = items.iloc[:60].assign(kind="repeat")
    gold = truth[truth["image_id"].isin(items["image_id"][60:])].replace({"image_id": r"^p"}, "g", regex=True)
    known = pd.DataFrame({"image_id": gold["image_id"].unique(), "kind": "gold"})
    crowd = simulated_crowd(5)
    votes = simulate_answers(pd.concat([items, again, known]), gold, truth, crowd, seed=0)
    assert votes["kind"].value_counts().to_dict() == {"real": 1800, "repeat": 900, "gold": 900}
    table = worker_table(votes, gold)
    for one in crowd:
        row = table[(table["worker"] == one.name) & (table["question"] == "object")].iloc[0]
        right = (1 - one.unsure) * (1 - one.errors["object"])
        assert row["gold_low"] <= right + 0.02, one
        assert right - 0.02 <= row["gold_high"], one
    assert table.groupby("worker")["gold"].mean().idxmin() == "simulated-05"


def test_rules_side_by_side():
    backgrounds = pd.Series({"a": "snow", "b": "snow", "c": "snow", "d": "snow"})
    foregrounds = pd.Series({name: name for name in "abcd"})
    table = compare_rules(votes_of(FIVE), backgrounds, foregrounds, votes_needed=5).set_index(["rule", "measure"])
    assert table.loc[("unanimous", "kept"), "value"] == pytest.approx(1 / 3)
    assert table.loc[("majority", "kept"), "value"] == pytest.approx(2 / 3)
    assert (table["n"] == 3).all(), "d is open"


def test_a_rule_is_judged_on_foregrounds_and_not_on_images():
    answers = {f"{i}{j}": "yes yes" if i < 4 else "no no" for i in range(6) for j in range(10)}
    votes = votes_of({"object": answers, "background": dict.fromkeys(answers, "snow snow"),
                      "unsafe": dict.fromkeys(answers, "no no")})  # fmt: skip
    backgrounds, foregrounds = pd.Series(dict.fromkeys(answers, "snow")), pd.Series({name: name[0] for name in answers})
    table = compare_rules(votes, backgrounds, foregrounds, votes_needed=2).set_index(["rule", "measure"])
    row, wanted = table.loc[("majority", "kept")], clustered_wilson(np.arange(60) < 40, [name[0] for name in answers])
    assert (row["value"], row["low"], row["high"]) == pytest.approx((wanted.value, wanted.low, wanted.high))
    assert row["high"] - row["low"] > 0.4, "six objects, not sixty images"
    with pytest.raises(ValueError, match="foregrounds must name one for each image, got none for '59'"):
        compare_rules(votes, backgrounds, foregrounds[:-1], votes_needed=2)


def test_agreement_is_told_only_where_two_people_answered():
    votes = votes_of({"object": {"a": "yes yes", "b": "no no"}, "background": {"a": "snow", "b": "sand"}})
    found = agreement_by_question(votes, seed=0)
    assert list(found) == ["krippendorff_alpha/object"]
    assert found["krippendorff_alpha/object"].value == 1.0
    assert agreement_by_question(votes.head(0), seed=0) == {}
