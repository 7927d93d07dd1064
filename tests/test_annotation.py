"""Tasks for people: what is asked, that a page is safe and works in a browser, and how answers come back."""

import base64
import csv
import json
import re

import numpy as np
import pandas as pd
import pytest
from browser import Browser, needs_chromium
from PIL import Image

from d3s_utils.annotation import FORMAT, plan_tasks, read_answers, read_tasks, render_page, write_tasks
from d3s_utils.randomness import numpy_generator
from d3s_utils.votes import QUESTIONS, Rule, verdicts, worker_table

CLASSES = {"n02129165": ("lion", "carnivore"), "n03854065": ("organ", "musical instrument")}
EVIL = "</script><img src=x onerror=alert(1)>\"'&"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root, rows = tmp_path_factory.mktemp("pictures"), []
    random = numpy_generator(0, "pictures")
    for synset, (name, in9) in CLASSES.items():
        for repeat in range(3):
            for background in ("snow", "grass"):
                image_id = f"{synset}-{repeat:04d}-{background}"
                for kind in ("guide", "result"):
                    pixels = random.integers(0, 255, (16, 16, 3)).astype(np.uint8)
                    Image.fromarray(pixels).save(root / f"{kind}-{image_id}.png")
                rows.append((image_id, f"guide-{image_id}.png", f"result-{image_id}.png", name, synset, in9, background,
                             f"{synset}-{repeat:04d}"))  # fmt: skip
    columns = ["image_id", "guide_file", "file", "class_name", "synset", "in9", "background", "foreground_id"]
    return root, pd.DataFrame(rows, columns=columns)


@pytest.fixture(scope="module")
def written(pictures, tmp_path_factory):
    root, table = pictures
    table = table.assign(class_name=table["class_name"].replace("organ", EVIL))
    folder = tmp_path_factory.mktemp("tasks")
    examples = {s: [(f"{s}-{i:04d}", f"guide-{s}-{i:04d}-snow.png") for i in range(3)] for s in CLASSES}
    tasks = plan_tasks(table, per_task=8, gold=2, repeats=2, seed=0)
    pages = write_tasks(
        tasks, folder, root=root, examples=examples, examples_shown=2, image_base_url="https://pictures.example/d3s/"
    )
    return folder, pages, tasks


def content_of(page_or_text) -> dict:
    text = page_or_text if isinstance(page_or_text, str) else page_or_text.read_text()
    return json.loads(base64.b64decode(re.search(r'id="task">([^<]+)<', text)[1]))


def record_of(task_id: str, worker: str, answers, **more) -> dict:
    given = [{"item_id": i, "question": q, "answer": a, "time": "2026-01-01T00:00:00Z"} | more for i, q, a in answers]
    return {"format": FORMAT, "task_id": task_id, "worker": worker, "order": [], "answers": given}


def test_every_picture_is_asked_about_once_with_gold_and_repeats_among_them(pictures):
    table = pictures[1]
    tasks = plan_tasks(table, per_task=8, gold=2, repeats=2, seed=0)
    kinds = tasks.items.groupby("task_id")["kind"].value_counts().unstack()
    assert kinds.to_dict("records") == [{"gold": 2, "real": 4, "repeat": 2}] * 3
    real = tasks.items[tasks.items["kind"] == "real"]
    assert sorted(real["image_id"]) == sorted(table["image_id"])
    repeats = tasks.items[tasks.items["kind"] == "repeat"].merge(real, on=["task_id", "image_id"])
    assert len(repeats) == 6
    assert tasks.items["item_id"].is_unique
    pd.testing.assert_frame_equal(plan_tasks(table, per_task=8, seed=0).items, tasks.items)
    assert not plan_tasks(table, per_task=8, seed=1).items.equals(tasks.items)


def test_gold_items_show_a_guide_whose_answers_are_known(pictures):
    table = pictures[1].set_index("guide_file")
    tasks = plan_tasks(pictures[1], per_task=8, gold=4, repeats=0, seed=0)
    known = tasks.gold.pivot(index="image_id", columns="question", values="answer")
    gold = tasks.items[tasks.items["kind"] == "gold"].set_index("item_id")
    assert len(gold) == 12
    for item_id, item in gold.iterrows():
        shown = table.loc[item["file"]]
        assert known.loc[item_id, "background"] == shown["background"]
        assert known.loc[item_id, "unsafe"] == "no"
        assert (known.loc[item_id, "object"] == "yes") == (item["file"] == item["guide_file"])
        assert (known.loc[item_id, "object"] == "yes") == (shown["class_name"] == item["class_name"])
    assert known["object"].value_counts().to_dict() == {"yes": 6, "no": 6}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"columns": "in9"}, {}, "lacking .*in9"),
        ({}, {"per_task": 4, "gold": 2, "repeats": 2}, "per_task must leave room for real items, got 4 with 2 gold"),
        ({}, {"gold": -1}, "per_task must leave room"),
    ],
)
def test_wrong_plans_are_named(pictures, change, options, message):
    table = pictures[1].drop(**change) if change else pictures[1]
    with pytest.raises(ValueError, match=message):
        plan_tasks(table, **{"per_task": 8} | options, seed=0)


def test_a_page_holds_everything_and_tells_nothing(written):
    folder, pages, tasks = written
    assert [page.name for page in pages] == ["task-0001.html", "task-0002.html", "task-0003.html"]
    for page in pages:
        text, content = page.read_text(), content_of(page)
        assert not re.search(r'(src|href)="http', text)
        assert EVIL not in text
        assert "gold" not in json.dumps(content)
        assert "repeat" not in json.dumps(content)
        assert len(content["items"]) == 8
        for item in content["items"]:
            row = tasks.items.set_index("item_id").loc[item["item_id"]]
            assert item["class_name"] == row["class_name"]
            assert len(item["examples"]) == 2
            assert all(uri.startswith("data:image/webp;base64,") for uri in (item["guide"], item["result"]))
    pd.testing.assert_frame_equal(read_tasks(folder).items, tasks.items)
    pd.testing.assert_frame_equal(read_tasks(folder).gold, tasks.gold)


def test_the_turks_layout_is_the_same_page_with_a_variable(written):
    folder, pages, _ = written
    layout = (folder / "hit_layout.html").read_text()
    assert len(layout.encode()) < 65_535, "Mechanical Turk takes no larger layout"
    assert layout == render_page("${task}", hosted=True)
    assert "<crowd-form>" in layout
    rows = list(csv.DictReader((folder / "hits.csv").open()))
    assert [row["task_id"] for row in rows] == ["task-0001", "task-0002", "task-0003"]
    for row, page in zip(rows, pages, strict=True):
        hosted, local = json.loads(base64.b64decode(row["task"])), content_of(page)
        assert [item["item_id"] for item in hosted["items"]] == [item["item_id"] for item in local["items"]]
        assert hosted["items"][0]["guide"].startswith("https://pictures.example/d3s/guide-")


def test_answers_come_back_as_votes_and_nothing_is_lost(written, tmp_path):
    tasks = written[2]
    mine = tasks.items[tasks.items["task_id"] == "task-0001"]
    good = [(item, q, answers[0]) for item in mine["item_id"] for q, answers in QUESTIONS.items()]
    (tmp_path / "ann.json").write_text(json.dumps(record_of("task-0001", "ann", good)))
    bad = [(good[0][0], "object", "perhaps"), ("nobody", "object", "yes"), good[1]]
    record = record_of("task-0001", "ben", bad)
    record["answers"].append("not an answer")
    (tmp_path / "ben.json").write_text(json.dumps(record))
    (tmp_path / "wrong_task.json").write_text(json.dumps(record_of("task-0002", "cy", good[:1])))
    (tmp_path / "torn.json").write_text('{"format": "d3s-votes-1", "ans')
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    turk = [
        ("A1", "Approved", json.dumps(record_of("task-0001", "x", good[:2]))),
        ("A2", "Rejected", json.dumps(record_of("task-0001", "x", good))),
        ("A3", "Submitted", ""),
    ]
    columns = ["WorkerId", "AssignmentStatus", "Answer.answers"]
    pd.DataFrame(turk, columns=columns).to_csv(tmp_path / "batch.csv", index=False)
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "other.csv", index=False)
    votes, problems = read_answers([*sorted(tmp_path.iterdir()), tmp_path / "absent.json"], tasks)
    assert votes.groupby("worker").size().to_dict() == {"ann": 24, "ben": 1, "A1": 2}
    wanted = {
        "ben.json": ["'perhaps' is no answer", "unknown item 'nobody'", "no answer: it lacks"],
        "wrong_task.json": ["is not of task 'task-0002'"],
        "torn.json": ["no record of answers"],
        "binary.json": ["cannot be read"],
        "absent.json": ["cannot be read"],
        "batch.csv": ["the assignment was rejected", "no record of answers"],
        "other.csv": ["lacks the columns WorkerId, Answer.answers"],
    }
    assert problems.groupby("file").size().to_dict() == {file: len(messages) for file, messages in wanted.items()}
    for file, messages in wanted.items():
        said = problems[problems["file"] == file]["problem"].tolist()
        assert all(any(message in one for one in said) for message in messages), (file, said)
    real = votes[(votes["worker"] == "ann") & (votes["kind"] == "real")]
    assert set(real["image_id"]) == set(mine[mine["kind"] == "real"]["image_id"])
    assert verdicts(votes, Rule("majority", votes_needed=1)).loc[real["image_id"].iloc[0], "object"]
    table = worker_table(votes, tasks.gold)
    assert table[table["worker"] == "ann"].set_index("question")["consistency"].eq(1).all()


def test_a_file_that_comes_twice_counts_once_and_a_changed_mind_counts_last(written, tmp_path):
    tasks = written[2]
    item = tasks.items.iloc[0]
    first = record_of(item["task_id"], "ann", [(item["item_id"], "object", "yes")])
    (tmp_path / "a.json").write_text(json.dumps(first))
    (tmp_path / "b.json").write_text(json.dumps(first))
    votes, problems = read_answers([tmp_path / "a.json", tmp_path / "b.json"], tasks)
    assert len(votes) == 1
    assert problems.empty
    later = record_of(item["task_id"], "ann", [(item["item_id"], "object", "no")], time="2026-01-02T00:00:00Z")
    (tmp_path / "c.json").write_text(json.dumps(later))
    votes, problems = read_answers([tmp_path / "c.json", tmp_path / "a.json"], tasks)
    assert votes["answer"].tolist() == ["no"]
    assert problems["problem"].tolist() == ["worker ann answered again later, and that answer counts"]
    assert '"answer": "yes"' in problems["row"].item()


def begin_as(browser: Browser, worker: str) -> None:
    browser.run(f"document.getElementById('worker').value = '{worker}'; document.getElementById('begin').click()")


@needs_chromium
def test_a_person_answers_all_reloads_goes_back_and_undoes(written, tmp_path):
    _, pages, tasks = written
    downloads = tmp_path / "downloads"
    browser = Browser(tmp_path / "profile", width=360, height=740)
    try:
        browser.send("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
        browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        browser.open(pages[0].as_uri())
        begin_as(browser, "ann")
        browser.wait("!document.getElementById('item').hidden")
        assert browser.run("document.documentElement.scrollWidth") <= 360, "nothing may stick out at 360 pixels"
        answer = "document.querySelector('#questions fieldset:nth-child({}) input[value=\"{}\"]').click()"
        browser.run(answer.format(2, "snow"))
        browser.press("2")  # the object: no
        browser.press("2")  # unsafe: no
        assert browser.run("document.getElementById('progress').textContent") == "1 of 8 pictures answered"
        browser.run("document.getElementById('undo').click()")
        assert browser.run("document.getElementById('next').disabled"), "an answer taken back is open again"
        browser.press("2")
        title = "document.getElementById('item-title').textContent"
        first = browser.run(title)
        browser.press("n")
        second = browser.run(title)
        assert second.startswith("Picture 2 of 8")
        assert browser.run("document.activeElement.id") == "item-title", "a screen reader is told of the new picture"

        browser.open(pages[0].as_uri())  # reload and go on
        begin_as(browser, "ann")
        browser.wait("!document.getElementById('item').hidden")
        assert browser.run(title) == second
        browser.press("p")
        assert browser.run(title) == first
        checked = "[...document.querySelectorAll('input:checked')].map(i => i.value)"
        assert browser.run(checked) == ["no", "snow", "no"]
        browser.press("n")
        for _ in range(7):
            browser.press("1")
            browser.press("2")
            browser.run(answer.format(2, "grass"))
            browser.press("n")
        browser.wait("!document.getElementById('end').hidden")
        browser.run("document.getElementById('download').click()")
        file = downloads / "votes-task-0001-ann.json"
        browser.wait("true")
        for _ in range(200):
            if file.exists() and file.stat().st_size:
                break
            browser.run("new Promise(done => setTimeout(done, 50))")
        votes, problems = read_answers([file], tasks)
        assert problems.empty
        assert len(votes) == 24
        assert votes["worker"].unique().tolist() == ["ann"]
        order = json.loads(file.read_text())["order"]
        assert sorted(order) == sorted(item["item_id"] for item in content_of(pages[0])["items"])
        assert votes[votes["question"] == "object"]["answer"].value_counts().to_dict() == {"yes": 7, "no": 1}
        fetched = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
        assert all(url.startswith(("file:", "data:", "blob:")) for url in fetched), "nothing may come from a network"
        errors = [e for e in browser.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
        assert not errors, errors
    finally:
        browser.close()


@needs_chromium
def test_markup_in_a_name_is_text_and_orders_differ_by_worker(written, tmp_path):
    _, pages, _ = written
    browser = Browser(tmp_path / "profile")
    try:
        orders, evil = {}, 0
        for worker in ("ann", "ben"):
            browser.open(pages[0].as_uri())
            browser.run(
                f"document.getElementById('worker').value = '{worker}'; document.getElementById('begin').click()"
            )
            seen = []
            for _ in range(8):
                seen.append(browser.run("document.getElementById('result').src"))
                evil += EVIL in browser.run("document.getElementById('item-title').textContent")
                assert browser.run("document.querySelectorAll('#item-title *').length") == 0
                browser.press("1")
                browser.press("2")
                browser.run("document.querySelector('#questions fieldset:nth-child(2) input').click()")
                browser.press("n")
            orders[worker] = seen
        assert evil > 0
        assert orders["ann"] != orders["ben"]
        assert sorted(orders["ann"]) == sorted(orders["ben"])
        assert browser.run("fetch('https://example.com').then(() => 'fetched', () => 'refused')") == "refused"
        labelled = "[...document.querySelectorAll('input:not([type=hidden])')].every(i => i.labels.length)"
        assert browser.run(labelled)
    finally:
        browser.close()
