import base64
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from browser import Browser, needs_chromium
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from d3s_utils.metrics import Estimate, write_metrics
from d3s_utils.report import gather_metrics, headline_rows, headline_table, number_row, read_table, write_report
from d3s_utils.settings import Settings, load_settings

METRICS = {
    "04_classifier_evaluation": {
        "lite0/top1_original": Estimate(0.5, 0.4, 0.6, 90),
        "lite0/top1_drop": Estimate(0.11, 0.05, 0.2, 90),
        "composites_per_second": Estimate(3100.4, 2900, 3300, 7),
    },
    "05_invariant_features": {"wasserstein/foreground_from_background": Estimate(0.125, 0.1, 0.15, 900)},
}


@pytest.fixture
def settings(tmp_path) -> Settings:
    """A run of which two notebooks are there, the first with a figure and its executed copy."""
    settings = load_settings("mini", output_dir=tmp_path)
    for stem, metrics in METRICS.items():
        write_metrics(
            settings.folder(stem), notebook=stem, profile="mini", seed=0, metrics=metrics,
            question="Is <this> a question?", answer="11 points & more (5 to 20).",
            headline=[next(iter(metrics))], weights={"bundled": "ab" * 32},
        )  # fmt: skip
    folder = settings.folder("04_classifier_evaluation")
    title = PngInfo()
    title.add_text("Title", "Accuracy falls in caves")
    Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(folder / "accuracy.png", pnginfo=title)
    (folder / "04_classifier_evaluation.ipynb").write_text("{}")
    table = "model,top1_drop,top1_drop_low,top1_drop_high,worst_background\n"
    (folder / "leaderboard.csv").write_text(table + "b,0.05,-0.01,0.1,cave\na,0.2,0.1,0.3,<night>\nc,,,,\n")
    return settings


def page_of(settings) -> str:
    return write_report(settings, gather_metrics(settings)).read_text()


def test_metrics_are_gathered_as_strict_json(settings):
    records = gather_metrics(settings)
    assert [stem for stem in records if stem != "00_train_mini_diffusion"] == list(METRICS)
    gathered = json.loads((settings.run_folder / "metrics.json").read_text())
    assert gathered["profile"] == "mini"
    number = gathered["notebooks"]["04_classifier_evaluation"]["metrics"]["lite0/top1_drop"]
    assert number == {"value": 0.11, "low": 0.05, "high": 0.2, "n": 90}


def test_nothing_to_gather(tmp_path):
    settings = load_settings("mini", output_dir=tmp_path)
    assert gather_metrics(settings) == {}
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_read_as_people_read_them():
    rows = [number_row(name, estimate) for name, estimate in METRICS["04_classifier_evaluation"].items()]
    assert [row.name for row in rows] == ["lite0: top-1 original", "lite0: top-1 drop", "composites per second"]
    assert [row.value for row in rows] == ["50.0 %", "11.0 points", "3100"]
    assert rows[1].interval == "5.0 to 20.0"


@pytest.mark.parametrize(
    ("name", "numbers", "value", "on_scale"),
    [
        ("hsic/background_from_foreground", (0.118, 0.09, 0.16), "11.8 %", True),
        ("hsic/background_from_foreground_nats", (0.05, 0.01, 0.1), "0.05", False),
        ("hsic/less_leakage_than_inlp", (0.25, 0.2, 0.3), "25.0 points", True),
        ("all/erm/non_matching", (0.91, 0.85, 0.95), "91.0 %", True),
        ("all/erm/worst_group", (0.4, 0.2, 0.6), "40.0 %", True),
        ("all/dfr/gap_closed", (1.02, 0.76, 1.56), "102.0 %", False),
        ("lite0/background_gap", (0.32, 0.2, 0.4), "32.0 points", True),
        ("one_pass_time_ratio", (0.31, 0.3, 0.4), "0.31", False),
        ("lite0/top1_drop", (-0.0004, -0.01, 0.01), "0.0 points", False),
    ],
)
def test_each_kind_of_number_has_its_unit(name, numbers, value, on_scale):
    row = number_row(name, Estimate(*numbers, 10))
    assert (row.value, row.middle is not None) == (value, on_scale)


def test_the_terminal_gets_the_headline(settings):
    table = headline_table({stem: record for stem, record in gather_metrics(settings).items() if stem in METRICS})
    assert re.search(r"04_classifier_evaluation +lite0: top-1 original +50\.0 % +40\.0 to 60\.0 +90", table)
    assert "drop" not in table


def test_the_page_stands_alone(settings):
    page = page_of(settings)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert len(re.findall("<script", page)) == 1, "the one that sorts tables, named by its hash"
    assert not re.search(r"(src|href)\s*=\s*[\"'](https?:)?//", page)
    assert not re.search(r"url\(|@import", page)
    assert all(re.match("data:image/(png|webp);base64,", source) for source in re.findall(r'src="([^"]*)"', page))


def test_a_sheet_of_pictures_is_embedded_small_and_looks_the_same(settings):
    path = settings.folder("04_classifier_evaluation") / "sheet.png"
    random = np.random.default_rng(0)
    rough = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize((384, 384), Image.BICUBIC)
    rough.save(path)
    sources = re.findall(r'src="data:image/webp;base64,([^"]*)"', page_of(settings))
    embedded = [base64.b64decode(source) for source in sources]
    sheet = next(content for content in embedded if Image.open(io.BytesIO(content)).size == (384, 384))
    assert len(sheet) < path.stat().st_size / 3
    shown = np.asarray(Image.open(io.BytesIO(sheet)).convert("RGB"), int)
    assert np.abs(shown - np.asarray(rough)).mean() < 6


def test_the_page_says_what_was_found(settings):
    page = page_of(settings)
    assert "Is &lt;this&gt; a question?" in page, "text is text, not markup"
    assert "11 points &amp; more" in page
    assert "<figcaption>Accuracy falls in caves</figcaption>" in page
    assert 'href="04_classifier_evaluation/04_classifier_evaluation.ipynb"' in page
    assert 'href="05_invariant_features/05_invariant_features.ipynb"' not in page, "it is not there"
    assert "sha256 " + "ab" * 32 in page


def test_a_table_has_intervals_in_its_cells(settings):
    path = settings.folder("04_classifier_evaluation") / "leaderboard.csv"
    table = read_table(path, root=settings.run_folder)
    assert [(column.name, column.number) for column in table.columns] == [
        ("model", False), ("top-1 drop", True), ("worst background", False),
    ]  # fmt: skip
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["b", "5.0 [-1.0, 10.0]", "cave"], ["a", "20.0 [10.0, 30.0]", "<night>"], ["c", "–", "–"],
    ]  # fmt: skip
    assert table.file == "04_classifier_evaluation/leaderboard.csv"
    assert table.shares
    assert "&lt;night&gt;" in page_of(settings)
    path.write_text("model,top1_drop\na,-0.0004\n")
    assert read_table(path, root=settings.run_folder).rows[0][1].text == "0.0"
    path.write_text("way,seconds,pictures\none,1.23456,1200\n")
    table = read_table(path, root=settings.run_folder)
    assert not table.shares
    assert [cell.text for cell in table.rows[0]] == ["one", "1.235", "1,200"]


def test_without_tables_there_is_no_script(settings):
    (settings.folder("04_classifier_evaluation") / "leaderboard.csv").unlink()
    records = {stem: record for stem, record in gather_metrics(settings).items() if stem in METRICS}
    page = write_report(settings, records).read_text()
    assert "<script" not in page
    assert "script-src" not in page


@needs_chromium
@pytest.mark.slow
def test_a_browser_sorts_a_table(settings, tmp_path):
    page_of(settings)
    first = "[...document.querySelectorAll('#n04 table.sortable tbody tr')].map(r => r.cells[0].innerText).join()"
    press = "document.querySelectorAll('#n04 table.sortable th button')[{}].click()"
    browser = Browser(tmp_path / "profile")
    try:
        browser.open((settings.run_folder / "report.html").as_uri())
        assert browser.run(first) == "b,a,c"
        for column, expected in ((1, "a,b,c"), (1, "b,a,c"), (0, "c,b,a"), (2, "b,a,c"), (2, "a,b,c")):
            browser.run(press.format(column))
            assert browser.run(first) == expected, "what is missing stays below"
        assert browser.run("document.querySelector('#n04 th[aria-sort]').getAttribute('aria-sort')") == "ascending"
    finally:
        browser.close()


@pytest.mark.slow
def test_a_browser_shows_it(settings, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    page_of(settings)
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        f"--user-data-dir={tmp_path / 'browser'}", "--window-size=390,1200", "--dump-dom",
        (settings.run_folder / "report.html").as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "Where the numbers come from" in shown.stdout
    assert "Refused to" not in shown.stderr, "the page's own policy let everything in it pass"


@pytest.mark.parametrize("votes", ["simulated", "people", "none"])
def test_numbers_that_rest_on_simulated_votes_say_so(votes):
    names = ("acceptance", "krippendorff_alpha/object", "filter_precision/foreground")
    record = {"metrics": dict.fromkeys(names, Estimate(0.5, 0.4, 0.6, 9)), "provenance": {"data": {"votes": votes}}}
    said = ["simulated" in row.name for row in headline_rows(record)]
    assert said == [False, votes == "simulated", votes == "simulated"]
