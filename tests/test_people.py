"""People beside models: they overrule where they decided, filters are measured against them, stand-ins are labelled."""

import numpy as np
import pandas as pd
import pytest
from judged_tables import LENIENT, judged_table, with_quality

from d3s_utils.annotation_tasks import Tasks
from d3s_utils.people import (
    collect_votes,
    filter_scores,
    human_labels,
    measure_filters,
    overrule,
    recommended_thresholds,
    simulated_truth,
)
from d3s_utils.validation import FILTERS, Thresholds, decide, passes


def people_table(rows):
    table = pd.DataFrame(rows, columns=["image_id", "object", "background", "unsafe"], dtype=object)
    return table.set_index("image_id")


def test_people_overrule_the_models_where_they_decided():
    validated = decide(judged_table(), LENIENT)
    people = people_table([
        ("a", True, "cave", False), ("c", True, "snow", False), ("d", True, "cave", None), ("e", False, "none", True)
    ])  # fmt: skip
    found = overrule(validated, people, rule="unanimous of 5")
    assert found["keep"].tolist() == [False, True, True, False, False]
    assert found["verdict_source"].tolist() == ["people", "models", "people", "models", "people"]
    assert found["reason"][0] == "background: people see cave, not snow"
    assert found["reason"][2] == ""
    assert found["reason"][3] == validated["reason"][3]  # people left it open
    assert found["reason"][4].startswith("foreground: people do not find it; background: people see none")
    assert found["rule"][0] == "people: unanimous of 5"
    assert (found["keep"] == (found["reason"] == "")).all()


def test_filters_are_held_against_the_question_that_they_answer():
    people = people_table([("a", True, "cave", False), ("b", False, "cave", True), ("c", None, None, None)])
    labels = human_labels(people, judged_table())
    assert list(labels) == list(FILTERS)
    assert labels["foreground"].tolist()[:3] == [True, False, None]
    assert labels["background"].tolist()[:2] == [False, True]
    assert labels["unsafe"].tolist()[:2] == [True, False]  # accepted: nothing unsafe
    assert labels["background"].isna().tolist() == [False, False, True, True, True]


def test_simulated_people_err_around_what_the_witnesses_see():
    judged = judged_table().assign(**{
        "foreground_vote/w": ["carnivore", "dog", "carnivore", "bird", ""],
        "background_vote/h": ["snow", "snow", "snow", "cave", "night"],
    })  # fmt: skip
    truth = simulated_truth(judged, witness="w", background_witness="h", threshold=0.8)
    answers = truth.set_index(["image_id", "question"])["answer"]
    assert [answers[i, "object"] for i in "abcde"] == ["yes", "no", "yes", "no", "no"]
    assert [answers[i, "unsafe"] for i in "abcde"] == ["no", "no", "no", "yes", "no"]
    assert answers["b", "background"] == "snow"


def test_votes_come_from_a_folder_or_from_stand_ins_or_from_nobody(tmp_path):
    items = pd.DataFrame({"task_id": "task-0001", "item_id": list("xyz"), "image_id": list("abc"), "kind": "real"})
    tasks = Tasks(items, pd.DataFrame(columns=["image_id", "question", "answer"]))
    truth = pd.DataFrame({"image_id": list("abc"), "question": "object", "answer": "yes"})
    options = {"truth": truth, "seed": 0}
    nobody = collect_votes(tasks, answers=None, simulated_workers=0, **options)
    assert (len(nobody.table), nobody.source, nobody.words) == (0, "", "nobody")
    stand_ins = collect_votes(tasks, answers=None, simulated_workers=2, **options)
    assert (len(stand_ins.table), stand_ins.source, stand_ins.words) == (6, "simulated", "simulated people")
    (tmp_path / "torn.json").write_text("{")
    real = collect_votes(tasks, answers=tmp_path, simulated_workers=2, **options)
    assert (len(real.table), real.source) == (0, "people"), "a folder of answers silences the stand-ins"
    assert real.problems["file"].tolist() == ["torn.json"]


def test_every_filter_is_measured_against_its_own_question():
    judged = with_quality(judged_table())
    people = people_table([
        ("a", True, "snow", False), ("b", False, "cave", False), ("c", True, "sand", False), ("d", True, "cave", True)
    ])  # fmt: skip
    table, metrics = measure_filters(judged, LENIENT, human_labels(people, judged))
    assert metrics["filter_precision/foreground"].value == pytest.approx(3 / 4)
    assert metrics["filter_recall/foreground"].value == 1.0
    assert metrics["filter_precision/background"].value == 1.0
    assert metrics["filter_precision/unsafe"].value == 1.0
    assert metrics["filter_recall/duplicate"].value == pytest.approx(2 / 3)
    assert len(table) == len(metrics)
    assert set(table["filter"]) == set(FILTERS)


def test_scores_all_point_the_same_way():
    scores = filter_scores(with_quality(judged_table()))
    assert list(scores) == ["foreground", "background", "unsafe", "clip_foreground", "clip_background"]
    assert scores["unsafe"][1] == pytest.approx(0.9)


def test_a_threshold_is_recommended_for_each_score():
    judged = judged_table().iloc[np.tile(range(4), 10)].reset_index(drop=True)
    judged = judged.assign(image_id=[f"p{i}" for i in range(40)], foreground_id=[f"f{i}" for i in range(40)])
    people = people_table([
        (row.image_id, row.foreground_probability > 0.5, row.background, False) for row in judged.itertuples()
    ])  # fmt: skip
    table = recommended_thresholds(judged, human_labels(people, judged), precision=0.95).set_index("filter")
    assert table.loc["foreground", "threshold"] == 0.7
    assert table.loc["foreground", ["precision", "recall", "held_out_precision"]].tolist() == [1, 1, 1]


def test_verdicts_made_with_a_recommended_threshold_keep_its_word():
    """The judge is too sure of itself, and what it names first is often wrong: only its probability may count."""
    random = np.random.default_rng(0)
    count = 3000
    judged = judged_table().iloc[np.zeros(count, int)].reset_index(drop=True)
    sure = random.beta(1.2, 0.6, (3, count))
    judged = judged.assign(
        image_id=[f"p{i}" for i in range(count)], foreground_id=[f"f{i}" for i in range(count)],
        foreground_probability=sure[0], foreground_named=True, background_probability=sure[1], background_named=True,
        unsafe_score=1 - sure[2],
    )  # fmt: skip
    truth = pd.DataFrame(random.random((count, 3)) < sure.T**1.7, columns=["foreground", "background", "unsafe"])
    table = recommended_thresholds(judged, truth.astype(object), precision=0.9).set_index("filter")
    chosen = table["setting"].astype(float)
    passed = passes(judged, Thresholds(**chosen))
    for name in truth:
        precision = truth.loc[passed[name], name].mean()
        assert precision == pytest.approx(table.loc[name, "precision"]), "the very images that the table speaks of"
        assert precision >= 0.9
        assert 0.05 < passed[name].mean() < 0.9
        assert table.loc[name, "held_out_precision_low"] <= 0.9 <= table.loc[name, "held_out_precision_high"]
