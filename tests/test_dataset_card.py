"""A dataset's card: counts by hand, who voted beside every number, and nothing put in that turns into markup."""

import re
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from huggingface_hub import DatasetCard
from tiny_outputs import tiny_settings, write_tiny_outputs

from d3s_utils.dataset_card import as_text, rejections, write_dataset_card
from d3s_utils.dataset_export import write_parquet
from d3s_utils.metrics import Estimate

METRICS = {
    "foreground_agreement": Estimate(0.75, 0.5, 0.9, 8),
    "acceptance/snow": Estimate(0.5, 0.2, 0.8, 4),
    "krippendorff_alpha/object": Estimate(0.6, 0.4, 0.7, 30),
    "filter_precision/foreground": Estimate(0.9, 0.8, 1.0, 20),
}
EVIL = "<img src=x onerror=alert(1)> a|b *c* [d](https://e.example) `f`\n\n# g\n---\nlicense: mit"


def made_table(**change) -> pd.DataFrame:
    rows = [
        ("train", "lion", "snow", True, ""),
        ("train", "lion", "snow", False, "foreground: looks like fish, carnivore 0.10 < 0.5; unsafe: 0.90 >= 0.5"),
        ("train", "organ", "cave", True, ""),
        ("val", "lion", "cave", False, "unreadable: photo x is truncated"),
        ("val", "organ", "snow", False, "duplicate: of y"),
        ("val", "organ", "snow", True, ""),
    ]
    table = pd.DataFrame(rows, columns=["split", "class_name", "background", "keep", "reason"])
    return table.assign(**{"verdict_source": "models"} | change)


def card_of(folder: Path, **change) -> str:
    options = {
        "table": made_table(), "metrics": {"foreground_agreement": METRICS["foreground_agreement"]},
        "rule": "foreground, background and safety agree", "thresholds": {"foreground": 0.5},
        "generator": {"model": "mini", "strength": 0.9}, "licences": {"pictures": "MIT"},
    }  # fmt: skip
    return write_dataset_card(folder, **options | change).read_text(encoding="utf-8")


def cells_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_counts_are_those_of_the_table(tmp_path):
    cells = cells_of(card_of(tmp_path))
    assert ["train", "3", "2", "1", "0.667", "2"] in cells
    assert ["val", "3", "1", "2", "0.333", "2"] in cells
    assert ["all", "6", "3", "3", "0.500", "2"] in cells
    assert ["class", "snow", "cave"] in cells
    assert ["lion", "1/2", "0/1"] in cells
    assert ["organ", "1/2", "1/1"] in cells
    assert ["foreground", "0.5"] in cells
    assert ["strength", "0.9"] in cells
    assert ["pictures", "MIT"] in cells
    assert [r"foreground\_agreement", r"0.75 \[0.5, 0.9\]", "8", "models"] in cells


def test_rejections_are_counted_by_kind(tmp_path):
    counts = {"foreground": 1, "background": 0, "unsafe": 1, "unreadable": 1, "other": 1}
    assert rejections(made_table()) == counts
    cells = cells_of(card_of(tmp_path))
    assert all([kind, str(count)] in cells for kind, count in counts.items())


def test_a_cell_without_pictures_is_not_a_zero(tmp_path):
    table = made_table()
    cells = cells_of(card_of(tmp_path, table=table[(table["class_name"] == "lion") | (table["background"] == "snow")]))
    assert ["organ", "1/2", "–"] in cells


def test_simulated_votes_are_told_beside_every_number_that_rests_on_them(tmp_path):
    overruled = made_table(verdict_source=["people"] + ["models"] * 5)
    text = card_of(tmp_path, table=overruled, metrics=METRICS, votes="simulated")
    rows = {row[0]: row for row in cells_of(text)}
    for name in METRICS:
        row = rows[name.replace("_", r"\_")]
        assert row[1].endswith("(simulated votes)")
        assert row[3] == "simulated votes"
    for name in ("train", "val", "all"):
        assert all(cell.endswith("(simulated votes)") for cell in rows[name][2:5])
    assert rows["lion"][1:] == ["1/2 (simulated votes)", "0/1 (simulated votes)"]
    assert rows["unsafe"] == ["unsafe", "1 (simulated votes)"]
    assert "no person has judged these pictures" in text


def test_numbers_of_models_are_not_marked_where_models_decided(tmp_path):
    rows = {row[0]: row for row in cells_of(card_of(tmp_path, metrics=METRICS, votes="simulated"))}
    assert rows[r"foreground\_agreement"][1::2] == [r"0.75 \[0.5, 0.9\]", "models"]
    assert rows["acceptance/snow"][3] == "models"
    assert rows["lion"][1:] == ["1/2", "0/1"]
    assert rows[r"krippendorff\_alpha/object"][1::2] == [r"0.6 \[0.4, 0.7\] (simulated votes)", "simulated votes"]
    unknown = made_table().drop(columns="verdict_source")
    rows = {row[0]: row for row in cells_of(card_of(tmp_path, table=unknown, metrics=METRICS, votes="simulated"))}
    assert rows["lion"][1:] == ["1/2 (simulated votes)", "0/1 (simulated votes)"]


def test_people_are_named_and_not_called_simulated(tmp_path):
    text = card_of(tmp_path, metrics=METRICS, votes="people")
    assert "simulated" not in text
    rows = {row[0]: row for row in cells_of(text)}
    assert rows[r"krippendorff\_alpha/object"][3] == "people's votes"
    assert "nobody has voted" not in text
    assert "nobody has voted" in card_of(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"votes": "some"}, "votes must be one of none, simulated, people, got 'some'"),
        ({"metrics": METRICS}, "got 'none' although the metric krippendorff_alpha/object"),
        ({"table": made_table(verdict_source="people")}, "although verdict_source names others"),
        ({"table": made_table().drop(columns="reason")}, "missing: reason"),
        ({"table": made_table().iloc[:0]}, "missing: rows"),
        ({"table": made_table(split="a: b")}, "split must be letters"),
        ({"licences": {}}, "licences must say"),
    ],
)
def test_what_a_card_cannot_say_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        card_of(tmp_path, **change)
    assert not list(tmp_path.iterdir())


def test_nothing_that_is_put_in_turns_into_markup(tmp_path):
    table = made_table(class_name=EVIL, background=EVIL)
    text = card_of(
        tmp_path, table=table, rule=EVIL, thresholds={EVIL: EVIL}, generator={EVIL: EVIL}, licences={EVIL: EVIL}
    )
    plain = card_of(tmp_path)
    marks = (r"<img", r"https://", r"\n# g", r"\n---\n", r"(?<!\\)\]\(", r"(?<!\\)\|b", r" \*c\*", r"(?<!\\)`f")
    for mark in marks:
        assert len(re.findall(mark, text)) == len(re.findall(mark, plain)), mark
        assert re.search(mark, f"\n{EVIL}"), "a mark that could not be found would prove nothing"
    assert [as_text(EVIL)] * 2 in cells_of(text)
    assert DatasetCard(text).data.license == "other"
    assert as_text("a|b_c <d> & www.e.example {{ f }}") == (r"a\|b\_c &lt;d&gt; &amp; www&#46;e.example {{ f }}")


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        ({"pictures": "MIT"}, "mit"),
        ({"pictures": "mit", "code": "MIT"}, "mit"),
        ({"pictures": "mit", "code": "apache-2.0"}, "other"),
        ({"pictures": "my own"}, "other"),
    ],
)
def test_the_header_names_a_licence_only_if_there_is_one(tmp_path, licences, expected):
    data = DatasetCard(card_of(tmp_path, licences=licences)).data
    assert data.license == expected
    assert data.task_categories == ["image-classification"]


def test_datasets_loads_the_folder_by_its_card(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    settings = tiny_settings(tmp_path / "run")
    write_tiny_outputs(settings)
    table = pd.read_parquet(settings.folder("03_validation") / "validated.parquet")
    table = table.assign(keep=np.arange(len(table)) % 2 == 0, reason="other: every second one")
    write_parquet(table, tmp_path / "out", root=settings.run_folder, rows_per_file=3)
    text = card_of(tmp_path / "out", table=table)
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 8, "val": 4}
    rows = {row[0]: row for row in cells_of(text)}
    assert rows["val"][2] == str(sum(loaded["val"]["keep"]))
    assert 'data_files={"train": "data/train-*.parquet", "val": "data/val-*.parquet"}' in text
