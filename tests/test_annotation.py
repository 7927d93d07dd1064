"""Tasks for people: what is asked, that a page is safe and works in a browser, and how answers come back."""

import base64
import csv
import json
import re
import urllib.parse
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from browser import Browser, needs_chromium
from PIL import Image

from d3s_utils.annotation import main, make_tasks
from d3s_utils.annotation_answers import FORMAT, read_answers, read_answers_folder
from d3s_utils.annotation_pages import read_tasks, render_page, write_tasks
from d3s_utils.annotation_tasks import class_examples, plan_tasks, sample_pictures, worked_examples
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
            assert max(item["guide"], item["result"], *item["examples"]) < len(content["pictures"])
        assert all(uri.startswith("data:image/webp;base64,") for uri in content["pictures"])
        assert len(set(content["pictures"])) == len(content["pictures"]), "a picture lies in a page once"
    pd.testing.assert_frame_equal(read_tasks(folder).items, tasks.items)
    pd.testing.assert_frame_equal(read_tasks(folder).gold, tasks.gold)


def test_the_turks_layout_is_the_same_page_with_a_variable(written):
    folder, pages, _ = written
    layout = (folder / "hit_layout.html").read_text()
    assert layout == render_page("${task}", image_origin="https://pictures.example")
    assert re.findall(r"\$\{.*?\}", layout) == ["${task}"], "Mechanical Turk fills in every such thing"
    without_policy = re.compile(r'content="default-src[^"]*"')
    assert without_policy.sub("", layout) == without_policy.sub("", render_page("${task}")), "the same page"
    assert "<crowd-form>" in layout
    rows = list(csv.DictReader((folder / "hits.csv").open()))
    assert [row["task_id"] for row in rows] == ["task-0001", "task-0002", "task-0003"]
    for row, page in zip(rows, pages, strict=True):
        hosted, local = json.loads(base64.b64decode(row["task"])), content_of(page)
        assert [item["item_id"] for item in hosted["items"]] == [item["item_id"] for item in local["items"]]
        assert len(layout.encode()) + len(row["task"]) < 65_535, "Mechanical Turk takes no larger page"
        for url, uri in zip(hosted["pictures"], local["pictures"], strict=True):
            name = re.fullmatch(r"https://pictures\.example/d3s/([0-9a-f]{16}\.webp)", url)[1]
            assert (folder / "pictures" / name).read_bytes() == base64.b64decode(uri.split(",")[1])


@pytest.mark.parametrize("url", ["http://a.example/p", "pictures", "https://a.example/p?x=1"])
def test_a_wrong_address_of_pictures_is_named(pictures, tmp_path, url):
    tasks = plan_tasks(pictures[1], per_task=8, seed=0)
    with pytest.raises(ValueError, match="image_base_url must be an https address"):
        write_tasks(tasks, tmp_path, root=pictures[0], examples={}, image_base_url=url)


def test_a_task_too_large_for_the_turk_is_named(pictures, tmp_path):
    tasks = plan_tasks(pictures[1], per_task=8, seed=0)
    with pytest.raises(ValueError, match=r"task-0001 has .* bytes as a HIT"):
        write_tasks(tasks, tmp_path, root=pictures[0], examples={}, image_base_url="https://a.example/" + "p" * 5000)


def test_a_hit_of_the_usual_size_fits(pictures, tmp_path):
    many = pd.concat([pictures[1].assign(image_id=pictures[1]["image_id"] + f"-{i}") for i in range(2)])
    examples = {s: [(f"{s}-{i:04d}", f"guide-{s}-{i:04d}-snow.png") for i in range(3)] for s in CLASSES}
    tasks = plan_tasks(many, seed=0)
    write_tasks(tasks, tmp_path, root=pictures[0], examples=examples, image_base_url="https://pictures.example/" * 2)
    row = next(csv.DictReader((tmp_path / "hits.csv").open()))
    assert len(json.loads(base64.b64decode(row["task"]))["items"]) == 25


def test_worked_examples_are_right_by_construction(pictures):
    table = pictures[1].set_index("guide_file")
    found = worked_examples(pictures[1], seed=0)
    assert Counter(example.kind for example in found) == {"same": 8, "moved": 8, "gone": 8}
    for example in found:
        guide, shown = table.loc[example.guide_file], table.loc[example.file]
        there = guide["foreground_id"] == shown["foreground_id"]
        assert there or guide["in9"] != shown["in9"]
        wanted = {"object": "yes" if there else "no", "background": shown["background"], "unsafe": "no"}
        assert example.answers == wanted
        assert (guide["background"] == shown["background"]) == (example.kind == "same")
        assert example.class_name == guide["class_name"]
    assert worked_examples(pictures[1].iloc[::-1], seed=0) == found
    one = pictures[1][pictures[1]["background"] == "snow"]
    assert {example.kind for example in worked_examples(one, seed=0)} == {"same"}


def test_a_page_explains_with_examples_that_it_does_not_ask_about(written, pictures, tmp_path):
    root, table = pictures
    for page in written[1]:
        worked = content_of(page)["worked"]
        assert [set(example["answers"]) for example in worked] == [set(QUESTIONS)] * 3
        assert [example["answers"]["object"] for example in worked] == ["Yes", "Yes", "No"]
    tasks = plan_tasks(table.iloc[:4], per_task=8, gold=2, repeats=1, seed=0)
    worked = [example for example in worked_examples(table, seed=0) if example.kind == "same"]
    page = write_tasks(tasks, tmp_path, root=root, examples={}, worked=worked)[0]
    content = content_of(page)
    asked = {item[name] for item in content["items"] for name in ("guide", "result")}
    assert not asked & {content["worked"][0]["guide"], content["worked"][0]["result"]}


def test_a_sample_is_even_over_class_and_background():
    rows = [(f"{s}-{b}-{i}", s, b) for s in "pqrs" for b in "abcde" for i in range(1 if (s, b) == ("p", "a") else 4)]
    table = pd.DataFrame(rows, columns=["image_id", "synset", "background"])
    for count in (7, 20, 33, 60):
        sample = sample_pictures(table, count, seed=0)
        cells = pd.crosstab(sample["synset"], sample["background"])
        cells = cells.reindex(index=list("pqrs"), columns=list("abcde"), fill_value=0)
        others = cells.to_numpy().ravel()[1:]
        assert len(sample) == sample["image_id"].nunique() == count
        assert others.max() - others.min() <= 1
        assert cells.loc["p", "a"] == min(1, cells.loc["p", "a"])
        if count < 20:
            assert cells.sum(axis=1).max() - cells.sum(axis=1).min() <= 1
            assert cells.sum(axis=0).max() - cells.sum(axis=0).min() <= 1
        pd.testing.assert_frame_equal(sample_pictures(table.sample(frac=1, random_state=1), count, seed=0), sample)
    assert not sample_pictures(table, 7, seed=1).equals(sample_pictures(table, 7, seed=0))
    assert len(sample_pictures(table, 1000, seed=0)) == len(table)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        sample_pictures(table, 0, seed=0)


@pytest.fixture
def run_folder(pictures, tmp_path):
    """A run after notebook 03, with one picture that cannot be read."""
    root, table = pictures
    folder = tmp_path / "run"
    folder.mkdir()
    for file in root.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for place in ("01_compositing", "03_validation"):
        (folder / place).mkdir()
    unreadable = [""] * (len(table) - 1) + ["torn"]
    table.assign(unreadable=unreadable).to_parquet(folder / "03_validation" / "validated.parquet")
    foregrounds = table.drop_duplicates("foreground_id")[["synset", "foreground_id", "guide_file"]]
    foregrounds.rename(columns={"guide_file": "file"}).to_parquet(folder / "01_compositing" / "foregrounds.parquet")
    return folder


def test_the_command_line_makes_tasks_and_reads_answers(run_folder, tmp_path, capsys):
    shared = ["--pictures", "9", "--per-task", "8", "--image-base-url", "https://a.example/p"]
    assert main(["make", str(run_folder), *shared]) == 0, capsys.readouterr().err
    assert "3 tasks about 9 of 12 pictures (1 unreadable)" in capsys.readouterr().out
    folder = run_folder / "03_validation" / "annotation"
    made = {path.name for path in folder.iterdir()}
    pages = {f"task-000{i}.html" for i in (1, 2, 3)}
    assert made == pages | {"items.parquet", "gold.parquet", "hits.csv", "hit_layout.html", "pictures"}
    assert all(len(item["examples"]) == 2 for item in content_of(folder / "task-0001.html")["items"])
    assert main(["make", str(run_folder), *shared]) == 0, "the same tasks may be made again"
    assert main(["make", str(run_folder), "--per-task", "8", "--seed", "1"]) == 2
    assert "holds other tasks, whose answers would be lost" in capsys.readouterr().err

    tasks = read_tasks(folder)
    answers = tmp_path / "answers"
    answers.mkdir()
    items = tasks.items.loc[(tasks.items["task_id"] == "task-0001") & (tasks.items["kind"] == "real"), "item_id"]
    for worker in ("ann", "ben"):
        record = record_of("task-0001", worker, [(item, "object", "yes") for item in items])
        (answers / f"{worker}.json").write_text(json.dumps(record))
    torn = tmp_path / "torn.json"
    torn.write_text("{")
    assert main(["read", str(run_folder), str(answers), str(torn)]) == 0
    said = capsys.readouterr().out
    assert "8 votes of 2 workers on 4 of 9 pictures" in said
    assert "1 problems, see" in said
    assert len(pd.read_parquet(folder / "votes.parquet")) == 8
    assert pd.read_csv(folder / "problems.csv")["file"].tolist() == ["torn.json"]


def test_class_examples_are_the_runs_foregrounds(run_folder, tmp_path):
    found = class_examples(run_folder)
    assert set(found) == set(CLASSES)
    assert found["n02129165"][0] == ("n02129165-0000", "guide-n02129165-0000-snow.png")
    assert class_examples(tmp_path / "absent") == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["make", "absent"], "validated.parquet is missing: run notebook 03_validation first"),
        (["make", "RUN", "--pictures", "0"], "count must be at least 1, got 0"),
        (["make", "RUN", "--per-task", "4"], "per_task must leave room"),
        (["make", "RUN", "--examples", "0"], "--examples must lie in"),
        (["make", "RUN", "--image-base-url", "http://a.example"], "image_base_url must be an https address"),
        (["read", "RUN", "answers"], "holds no tasks: make them first"),
    ],
)
def test_bad_input_on_the_command_line_is_named(run_folder, capsys, words, message):
    assert main([str(run_folder) if word == "RUN" else word for word in words]) == 2
    assert message in capsys.readouterr().err
    assert not (run_folder / "03_validation" / "annotation").exists()


def test_answers_that_are_not_there_are_named(run_folder, capsys):
    assert main(["make", str(run_folder), "--per-task", "8"]) == 0
    assert main(["read", str(run_folder), "absent.json"]) == 2
    assert "absent.json is missing" in capsys.readouterr().err


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


def test_the_workers_order_comes_back_as_positions(written, tmp_path):
    tasks = written[2]
    order = list(tasks.items.loc[tasks.items["task_id"] == "task-0001", "item_id"][::-1])
    record = record_of("task-0001", "ann", [(item, "object", "yes") for item in order[:3]])
    (tmp_path / "a.json").write_text(json.dumps(record | {"order": order}))
    votes, problems = read_answers([tmp_path / "a.json"], tasks)
    assert problems.empty
    assert votes["position"].tolist() == [1, 2, 3]
    (tmp_path / "a.json").write_text(json.dumps(record | {"order": [*order[:-1], order[0]]}))
    votes, problems = read_answers([tmp_path / "a.json"], tasks)
    assert votes["position"].isna().all()
    assert "does not name each item" in problems["problem"].item()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"item_id": []}, "no answer"),
        ({"question": {}}, "no answer"),
        ({"answer": None}, "no answer"),
        ({"answer": "snow"}, "'snow' is no answer to the question 'object'"),
        ({"time": "yesterday"}, "'yesterday' is no time"),
        ({"time": 3}, "3 is no time"),
    ],
)
def test_a_damaged_answer_is_reported_and_the_others_count(written, tmp_path, answer, message):
    tasks = written[2]
    first, second = tasks.items["item_id"][:2]
    record = record_of("task-0001", "ann", [(first, "object", "yes"), (second, "object", "no")])
    record["answers"][0] |= answer
    (tmp_path / "a.json").write_text(json.dumps(record))
    votes, problems = read_answers([tmp_path / "a.json"], tasks)
    assert votes["item_id"].tolist() == [second]
    assert message in problems["problem"].item()
    assert json.loads(problems["row"].item()) == record["answers"][0]


def test_a_damaged_row_of_the_turks_results_does_not_take_the_others_with_it(written, tmp_path):
    tasks = written[2]
    text = json.dumps(record_of("task-0001", "x", [(tasks.items["item_id"][0], "object", "yes")]))
    quoted = '"' + text.replace('"', '""') + '"'
    rows = ["WorkerId,AssignmentStatus,Answer.answers", f"A1,Submitted,{quoted}", "A2,Submitted"]
    rows += [f"A3,Submitted,{quoted},more", f",Submitted,{quoted}", "A5,Submitted," + "[" * 100_000, f"A6,,{quoted}"]
    (tmp_path / "batch.csv").write_text("\ufeff" + "\r\n".join(rows), encoding="utf-8")
    votes, problems = read_answers([tmp_path / "batch.csv"], tasks)
    assert votes["worker"].tolist() == ["A1", "A6"]
    said = problems["problem"].tolist()
    wanted = ["more or fewer fields", "more or fewer fields", "lacks a worker", "no record of answers"]
    assert len(said) == 4
    assert all(part in one for part, one in zip(wanted, said, strict=True)), said


def test_a_folder_of_answers_is_read_whole(written, tmp_path):
    tasks = written[2]
    item = tasks.items["item_id"][0]
    for worker in ("ben", "ann"):
        (tmp_path / f"{worker}.JSON").write_text(json.dumps(record_of("task-0001", worker, [(item, "object", "yes")])))
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "more").mkdir()
    votes, problems = read_answers_folder(tmp_path, tasks)
    assert votes["worker"].tolist() == ["ann", "ben"]
    assert problems.to_dict("records") == [
        {"file": name, "row": "", "problem": "neither a .json nor a .csv file"} for name in ("more", "notes.txt")
    ]
    with pytest.raises(ValueError, match=r"folder must be a folder of answers, got .*absent"):
        read_answers_folder(tmp_path / "absent", tasks)


def test_a_file_that_comes_twice_counts_once_and_a_changed_mind_counts_last(written, tmp_path):
    tasks = written[2]
    item = tasks.items.iloc[0]
    first = record_of(item["task_id"], "ann", [(item["item_id"], "object", "yes")])
    (tmp_path / "a.json").write_text(json.dumps(first))
    (tmp_path / "b.json").write_text(json.dumps(first))
    votes, problems = read_answers([tmp_path / "a.json", tmp_path / "b.json"], tasks)
    assert len(votes) == 1
    assert problems["problem"].tolist() == ["1 answers of worker ann to task-0001 are there twice, and count once"]
    later = record_of(item["task_id"], "ann", [(item["item_id"], "object", "no")], time="2026-01-02T00:00:00Z")
    (tmp_path / "c.json").write_text(json.dumps(later))
    votes, problems = read_answers([tmp_path / "c.json", tmp_path / "a.json"], tasks)
    assert votes["answer"].tolist() == ["no"]
    assert problems["problem"].tolist() == ["worker ann answered again later, and that answer counts"]
    assert '"answer": "yes"' in problems["row"].item()


PROGRESS = "document.getElementById('progress').textContent"
TITLE = "document.getElementById('item-title').textContent"
CHECKED = "[...document.querySelectorAll('#questions input:checked')].map(i => i.value)"
BACKGROUND = "document.querySelector('#questions fieldset:nth-child(2) input[value=\"{}\"]').click()"
FOCUS = "document.activeElement.id || document.activeElement.name"
# Text on what lies behind it, as WCAG 2 measures contrast: "TEXT: RATIO" where that is below 4.5.
FAINT = """(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => channels(colour).slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if ((channels(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const element of document.querySelectorAll("main, main *")) {
    const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    if (!text || !element.getClientRects().length) continue;
    const pair = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) found.push(text + ": " + ratio);
  }
  return found;
})()"""
# What a finger would have to hit and is smaller than 44 pixels; a radio button's target is its label.
SMALL = """[...document.querySelectorAll("button, summary, label:has(input), #worker")]
  .filter((e) => e.getClientRects().length && !e.disabled)
  .filter((e) => Math.min(e.getBoundingClientRect().height, e.getBoundingClientRect().width) < 44)
  .map((e) => e.outerHTML)"""
NAMELESS = """[...document.querySelectorAll("input:not([type=hidden]), fieldset, img, section, nav, button")]
  .filter((e) => e.getClientRects().length).filter((e) =>
  e.matches("input") ? !e.labels.length : e.matches("fieldset") ? !e.querySelector("legend").textContent :
  e.matches("img") ? !e.alt : e.matches("button") ? !e.textContent : !(e.getAttribute("aria-label") ||
  document.getElementById(e.getAttribute("aria-labelledby"))?.textContent)).map((e) => e.outerHTML)"""
NO_STORAGE = """for (const name of ["localStorage", "sessionStorage"]) {
  Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });
}"""


def begin_as(browser: Browser, worker: str) -> None:
    browser.run(f"document.getElementById('worker').value = '{worker}'; document.getElementById('begin').click()")


def answer_all(browser: Browser, items: int = 8) -> None:
    for _ in range(items):
        browser.press("1")
        browser.press("2")
        browser.run(BACKGROUND.format("grass"))
        browser.press("n")


def saved_record(browser: Browser, file) -> dict:
    """Return what the page saves as a file."""
    browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(file.parent))
    browser.run("document.getElementById('download').click()")
    for _ in range(200):
        if file.exists() and file.stat().st_size:
            break
        browser.run("new Promise(done => setTimeout(done, 50))")
    return json.loads(file.read_text())


def faults(browser: Browser) -> list:
    return browser.happened("Runtime.exceptionThrown") + browser.happened("Log.entryAdded")


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


@needs_chromium
def test_a_person_answers_all_reloads_goes_back_and_undoes(written, tmp_path):
    _, pages, tasks = written
    downloads = tmp_path / "downloads"
    browser = Browser(tmp_path / "profile", width=360, height=740)
    try:
        browser.send("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
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
        browser.wait("!document.getElementById('item').hidden")
        assert browser.run(title) == second
        browser.press("p")
        assert browser.run(title) == first
        assert browser.run(CHECKED) == ["no", "snow", "no"]
        browser.press("n")
        for _ in range(7):
            browser.press("1")
            browser.press("2")
            browser.run(answer.format(2, "grass"))
            browser.press("n")
        browser.wait("!document.getElementById('end').hidden")
        file = downloads / "votes-task-0001-ann.json"
        order = saved_record(browser, file)["order"]
        votes, problems = read_answers([file], tasks)
        assert problems.empty
        assert len(votes) == 24
        assert votes["worker"].unique().tolist() == ["ann"]
        assert votes.groupby("item_id")["position"].first().to_dict() == {o: i for i, o in enumerate(order, start=1)}
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


@needs_chromium
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_can_be_read_hit_and_named(written, browser, width):
    browser.send("Emulation.setDeviceMetricsOverride", width=width, height=740, deviceScaleFactor=1, mobile=width < 500)
    browser.open(written[1][0].as_uri())
    for step in ("start", "item", "answered", "end"):
        assert browser.run("document.documentElement.scrollWidth") <= width, step
        assert browser.run(FAINT) == [], step
        assert browser.run(SMALL) == [], step
        assert browser.run(NAMELESS) == [], step
        if step == "start":
            worked = browser.run("document.getElementById('worked-list').innerText")
            assert worked.count("guide: ") == 3
            assert browser.run("[...document.querySelectorAll('#worked img')].every(i => i.naturalWidth)")
            browser.run("document.getElementById('begin').click()")
            assert "1 to 64" in browser.run("document.querySelector('#worker-problem[role=alert]').textContent")
            assert browser.run("document.getElementById('worker').getAttribute('aria-invalid')") == "true"
            begin_as(browser, "ann")
        elif step == "item":
            assert browser.run("document.querySelectorAll('#guide, #result').length") == 2
            boxes = "['guide', 'result'].map(i => document.getElementById(i).getBoundingClientRect())"
            left, right = browser.run(f"{boxes}.map(b => [b.top, b.left, b.right])")
            assert left[0] == right[0], "the guide lies beside the result"
            assert left[2] < right[1]
            browser.press("1")
        elif step == "answered":
            answer_all(browser)
    assert faults(browser) == []


@needs_chromium
def test_the_keyboard_alone_is_enough(written, browser):
    browser.open(written[1][0].as_uri())
    browser.run("document.getElementById('worker').focus()")
    for key in ("a", "n", "n", "Enter"):
        browser.press(key)
    assert browser.run(FOCUS) == "item-title"
    assert browser.run("document.getElementById('name').textContent") == "ann"
    stops = []
    for _ in range(4):
        browser.press("Tab")
        stops.append(browser.run(FOCUS))
    assert stops == ["object", "background", "unsafe", "download"], "Back, Undo and Next can do nothing yet"
    browser.run("document.getElementById('item-title').focus()")
    for key in ("Tab", " ", "Tab", " ", "ArrowRight", "Tab", " "):
        browser.press(key)
    assert browser.run(CHECKED) == ["yes", "road", "yes"]
    ring = "getComputedStyle(document.activeElement.closest('label')).outlineStyle"
    assert browser.run(ring) == "solid", "the focus can be seen"
    assert browser.run(f"{PROGRESS} + document.getElementById('progress').getAttribute('role')").endswith("status")
    for key in ("Tab", "Tab"):
        browser.press(key)
    assert browser.run(FOCUS) == "next"
    browser.press("Enter")
    assert browser.run(TITLE).startswith("Picture 2 of 8")
    browser.press("p")
    for _ in range(2):
        browser.press("u")
    assert browser.run(CHECKED) == ["yes", "grass"]
    assert browser.run("document.getElementById('note').textContent") == "Taken back: Which background is it?"
    browser.press("3")
    assert browser.run(CHECKED) == ["yes", "grass", "unsure"]
    browser.run("document.getElementById('keys').click()")
    browser.press("n")
    assert browser.run(TITLE).startswith("Picture 1 of 8"), "single keys can be turned off"
    browser.run("document.getElementById('keys').click()")
    browser.press("n")
    browser.press("u")
    assert browser.run(TITLE).startswith("Picture 1 of 8"), "undo goes back to what it takes back"
    assert browser.run(FOCUS) == "item-title"
    assert faults(browser) == []


@needs_chromium
def test_a_finger_is_enough(written, browser):
    browser.send("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    browser.send("Emulation.setTouchEmulationEnabled", enabled=True)
    browser.open(written[1][0].as_uri())
    begin_as(browser, "ann")
    labels = "document.querySelectorAll('#questions label')"
    for target in (f"{labels}[0]", f"{labels}[9]", f"{labels}[16]", "document.getElementById('next')"):
        browser.run(f"{target}.scrollIntoView({{block: 'center'}})")
        x, y = browser.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({target}.getBoundingClientRect())")
        browser.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        browser.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        browser.run("new Promise(done => setTimeout(done, 100))")
    browser.wait(f"{TITLE}.startsWith('Picture 2')")
    browser.press("p")
    assert browser.run(CHECKED) == ["yes", "snow", "no"]


@needs_chromium
def test_two_workers_in_one_browser_do_not_mix(written, browser, tmp_path):
    url = written[1][0].as_uri()
    browser.open(url)
    begin_as(browser, "ann")
    browser.press("1")
    browser.run("document.getElementById('other').click()")
    assert browser.run("document.getElementById('item').hidden")
    begin_as(browser, "ben")
    assert browser.run(CHECKED) == []
    browser.press("2")
    assert browser.run(CHECKED) == ["no"]
    browser.open(url)
    browser.wait("document.getElementById('name').textContent === 'ben'")
    browser.run("document.getElementById('other').click()")
    begin_as(browser, "ann")
    assert browser.run(CHECKED) == ["yes"]
    saved = saved_record(browser, tmp_path / "downloads" / "votes-task-0001-ann.json")
    assert [answer["answer"] for answer in saved["answers"]] == ["yes"]


@needs_chromium
def test_answers_kept_here_that_are_damaged_are_put_aside(written, browser):
    url = written[1][0].as_uri()
    browser.open(url)
    begin_as(browser, "ann")
    browser.press("1")
    name = "Object.keys(localStorage).find(k => k.endsWith('/ann'))"
    for text in ('{"worker": "ann", "order": [0', '{"worker": "ann", "order": [0], "log": [], "answers": {}, "at": 0}'):
        browser.run(f"localStorage.setItem({name}, '{text}')")
        browser.open(url)
        browser.wait("!document.getElementById('item').hidden")
        assert browser.run(PROGRESS) == "0 of 8 pictures answered"
        assert "damaged" in browser.run("document.getElementById('warning').innerText")
        assert browser.run(f"localStorage.getItem({name} + '/damaged')") == text
    assert faults(browser) == []


@needs_chromium
def test_a_browser_that_keeps_nothing_says_so_and_loses_nothing(written, browser, tmp_path):
    url = written[1][0].as_uri()
    browser.send("Page.addScriptToEvaluateOnNewDocument", source=NO_STORAGE)
    browser.open(url)
    begin_as(browser, "ann")
    assert "keeps nothing" in browser.run("document.querySelector('#warning[role=alert]').innerText")
    browser.press("1")
    assert "keeps nothing" in browser.run("document.querySelector('#warning[role=alert]').innerText")
    browser.run("document.getElementById('other').click()")
    begin_as(browser, "ben")
    browser.run("document.getElementById('other').click()")
    begin_as(browser, "ann")
    assert browser.run(CHECKED) == ["yes"], "as long as the page is open, another worker costs nothing"
    answer_all(browser)
    saved = saved_record(browser, tmp_path / "downloads" / "votes-task-0001-ann.json")
    assert len(saved["answers"]) == 24
    browser.run("document.getElementById('review').click()")
    browser.run(BACKGROUND.format("snow"))
    browser.open(url)
    assert [dialog["type"] for dialog in browser.happened("Page.javascriptDialogOpening")] == ["beforeunload"]
    assert faults(browser) == []


@needs_chromium
def test_leaving_without_the_file_warns(written, browser, tmp_path):
    url = written[1][0].as_uri()
    browser.open(url)
    begin_as(browser, "ann")
    answer_all(browser, items=7)
    browser.open(url)
    assert not browser.happened("Page.javascriptDialogOpening"), "what is unfinished goes on later"
    browser.wait("!document.getElementById('item').hidden")
    answer_all(browser, items=1)
    assert browser.run("document.getElementById('end-title').textContent") == "All answered. Thank you."
    assert "Save the answers" in browser.run("document.getElementById('end-note').textContent")
    browser.open(url)
    assert [dialog["type"] for dialog in browser.happened("Page.javascriptDialogOpening")] == ["beforeunload"]
    browser.wait("!document.getElementById('end').hidden")
    browser.press("x")
    saved_record(browser, tmp_path / "downloads" / "votes-task-0001-ann.json")
    assert browser.run("document.getElementById('saved').textContent") == "Saved as votes-task-0001-ann.json"
    browser.open(url)
    assert len(browser.happened("Page.javascriptDialogOpening")) == 1


CROWD = b"""customElements.define("crowd-form", class extends HTMLElement {});
customElements.define("crowd-button", class extends HTMLElement {
  connectedCallback() { this.addEventListener("click", () => {
    const form = document.createElement("form");
    form.method = "post"; form.action = "https://www.mturk.com/mturk/externalSubmit";
    for (const input of document.querySelectorAll("crowd-form input[name]:not([type=radio])")) {
      form.append(input.cloneNode());
    }
    document.body.append(form); form.requestSubmit();
  }); }
});"""


@needs_chromium
@pytest.mark.parametrize("crowd", [CROWD, b"broken("], ids=["crowd elements", "without them"])
def test_a_hit_is_handed_in_once_all_is_answered(written, browser, crowd, tmp_path):
    folder, _, tasks = written
    row = next(csv.DictReader((folder / "hits.csv").open()))
    page = (folder / "hit_layout.html").read_text().replace("${task}", row["task"])
    browser.serve("https://hits.example/", page.encode())
    browser.serve("https://assets.crowd.aws/", crowd, kind="text/javascript")
    browser.serve("https://www.mturk.com/", b"<title>thanks</title>")
    for name in {url.rsplit("/", 1)[1] for url in json.loads(base64.b64decode(row["task"]))["pictures"]}:
        browser.serve(
            f"https://pictures.example/d3s/{name}", (folder / "pictures" / name).read_bytes(), kind="image/webp"
        )
    browser.open("https://hits.example/?assignmentId=ASSIGNMENT_ID_NOT_AVAILABLE")
    assert "This is a preview" in browser.run("document.getElementById('note').textContent")
    browser.press("1")
    browser.run(BACKGROUND.format("grass"))
    assert browser.run(CHECKED) == [], "nobody answers a preview, which nobody could hand in"
    browser.open("https://hits.example/?assignmentId=A1&workerId=W1&turkSubmitTo=https://www.mturk.com")
    assert not browser.run("document.getElementById('who').checkVisibility()"), "Mechanical Turk knows the worker"
    browser.run("document.getElementById('begin').click()")
    browser.wait("document.getElementById('result').complete && document.getElementById('result').naturalWidth")
    answer_all(browser, items=7)
    assert browser.run("document.getElementById('submit').hidden")
    answer_all(browser, items=1)
    browser.wait("document.querySelector('#submit form') || Boolean(customElements.get('crowd-form'))")
    assert not browser.run("document.getElementById('submit').hidden")
    browser.run("document.querySelector('#submit button, #submit crowd-button').click()")
    browser.wait("document.title === 'thanks'")
    requests = [event["request"] for event in browser.happened("Network.requestWillBeSent")]
    (sent,) = [urllib.parse.parse_qs(one["postData"]) for one in requests if one["method"] == "POST"]
    table = pd.DataFrame({"WorkerId": ["W1"], "AssignmentStatus": ["Submitted"], "Answer.answers": sent["answers"]})
    table.to_csv(tmp_path / "batch.csv", index=False)
    votes, problems = read_answers([tmp_path / "batch.csv"], tasks)
    assert problems.empty
    assert len(votes) == 24
    assert votes["worker"].unique().tolist() == ["W1"]
    assert not browser.happened("Page.javascriptDialogOpening")


def test_tasks_of_other_settings_are_set_aside_and_the_same_ones_written_again(pictures, tmp_path):
    root, table = pictures
    folder = tmp_path / "annotation"
    tasks, _ = make_tasks(table, folder, root=root, per_task=8, seed=0)
    make_tasks(table, folder, root=root, per_task=8, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["annotation"]
    make_tasks(table, folder, root=root, per_task=8, seed=1)
    assert read_tasks(tmp_path / "annotation.superseded-1").items.equals(tasks.items)
    assert not read_tasks(folder).items.equals(tasks.items)
