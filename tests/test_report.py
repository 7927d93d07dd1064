import base64
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from browser import Browser, needs_chromium
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tiny_outputs import tiny_settings, write_tiny_outputs

from d3s_utils.atomic_files import write_table
from d3s_utils.first_look import choose_object, first_look
from d3s_utils.gallery import write_gallery
from d3s_utils.metrics import Estimate, read_metrics, write_metrics
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


def test_what_is_known_of_too_few_has_no_interval_anywhere(settings):
    stem = "05_invariant_features"
    metrics = {"one/top1_shifted": Estimate(1.0, np.nan, np.nan, 1), "seconds": Estimate(12.5, np.nan, np.nan, 1)}
    asked = {"notebook": stem, "profile": "mini", "seed": 0, "question": "Q?", "answer": "A."}
    path = write_metrics(settings.folder(stem), metrics=metrics, **asked)
    number = read_metrics(path)["metrics"]["one/top1_shifted"]
    assert number.record() == {"value": 1.0, "low": None, "high": None, "n": 1}
    row = number_row("one/top1_shifted", metrics["one/top1_shifted"])
    assert (row.value, row.interval, row.low, row.middle, row.high) == ("100.0 %", "too few (n = 1)", None, 100.0, None)
    assert number_row("seconds", metrics["seconds"]).interval == "too few (n = 1)"
    assert number_row("one/top1_drop", Estimate(-0.5, np.nan, np.nan, 2)).middle is None
    (settings.folder(stem) / "few.csv").write_text(
        "model,top1_drop,top1_drop_low,top1_drop_high,n\na,0.2,,,1\nb,0.3,0.1,0.4,9\n"
    )
    cells = [row[1].text for row in read_table(settings.folder(stem) / "few.csv", root=settings.run_folder).rows]
    assert cells == ["20.0 [too few (n = 1)]", "30.0 [10.0, 40.0]"]
    records = gather_metrics(settings)
    assert re.search(r"one: top-1 shifted +100\.0 % +too few \(n = 1\) +1", headline_table(records))
    gathered = json.loads((settings.run_folder / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert gathered["notebooks"][stem]["metrics"]["seconds"] == {"value": 12.5, "low": None, "high": None, "n": 1}
    page = write_report(settings, records).read_text()
    assert "too few (n = 1)" in page
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", page))


def test_a_table_without_counts_says_too_few_only(tmp_path):
    (tmp_path / "a.csv").write_text("model,gap,gap_low,gap_high,cost\na,0.25,,,3\n")
    assert [cell.text for cell in read_table(tmp_path / "a.csv", root=tmp_path).rows[0]] == ["a", "25.0 [too few]", "3"]


@pytest.mark.parametrize(
    "name",
    ["background_effect", "background_effect_plain", "repaint_effect", "size_effect", "interaction",
     "background_spread", "detectable_drop"],
)  # fmt: skip
def test_effects_are_differences(name):
    assert number_row(f"lite0/{name}", Estimate(0.05, -0.01, 0.1, 9)).value == "5.0 points"


@pytest.mark.parametrize("name", ["top1_placed", "top1_placed_repainted", "top1_guide"])
def test_accuracies_of_placed_objects_are_shares(name):
    assert number_row(f"lite0/{name}", Estimate(0.05, 0.01, 0.1, 9)).value == "5.0 %"


@pytest.mark.parametrize(
    ("images", "said"), [("imitation of the run's images", True), ("the published pictures", False), (None, False)]
)
def test_numbers_of_an_imitation_say_so(settings, images, said):
    record = {"metrics": {"lite0/background_gap": Estimate(0.2, 0.1, 0.3, 9)}, "provenance": {"data": {}}}
    if images:
        record["provenance"]["data"]["images"] = images
    assert [row.name.endswith(" (imitation)") for row in headline_rows(record)] == [said]
    (settings.folder("07_backgrounds_challenge")).mkdir()
    (settings.folder("07_backgrounds_challenge") / "gaps.csv").write_text("model,gap\na,0.2\n")
    page = write_report(settings, {"07_backgrounds_challenge": record}).read_text()
    assert page.count("(imitation)") == 3 * said, "in the overview, in the table of numbers and over the csv file's"


def test_the_training_of_the_generator_comes_last(settings):
    assert list(gather_metrics(settings)) == [*METRICS, "00_train_mini_diffusion"]
    page = page_of(settings)
    assert re.findall(r'<section id="n(\d\d)"', page) == ["04", "05", "00"]
    assert re.findall(r'<li><h3><a class="number sans" href="#n(\d\d)"', page) == ["04", "05", "00"]


def test_the_overview_has_a_sentence_and_a_chart_of_each_notebook(settings):
    folder = settings.folder("05_invariant_features")
    for name, width in (("a_first", 30), ("b_chosen", 1200)):
        Image.fromarray(np.full((40, width, 3), 90, np.uint8)).save(folder / f"{name}.png")
    write_metrics(
        folder, notebook=folder.name, profile="mini", seed=0, metrics=METRICS[folder.name], question="Q?",
        answer="Long.", plain="It <forgets> the background.", chart="b_chosen.png",
    )  # fmt: skip
    page = page_of(settings)
    overview = page[page.index('id="overview"') : page.index('id="method"')]
    fourth, fifth, made = overview.split("<li>")[1:4]
    assert 'alt="Classes"' in made, "the shipped generator's sheet is a JPEG"
    assert "Is &lt;this&gt; a question? lite0: top-1 original: 50.0 %, 95 % interval 40.0 to 60.0." in fourth
    assert 'alt="Accuracy falls in caves"' in fourth, "the first figure stands in for the chart that was not named"
    assert "<p>It &lt;forgets&gt; the background.</p>" in fifth
    assert 'width="960" height="32" alt="B chosen"' in fifth
    assert page.index('id="overview"') < page.index('id="n04"')
    (folder / "b_chosen.png").unlink()
    assert 'alt="A first"' in page_of(settings)[page.index('id="overview"') : page.index('id="method"')]


def add_images(settings, **changes) -> pd.DataFrame:
    """Write twelve images of two classes, and what a classifier said of those of split val; return the answers."""
    tiny = tiny_settings(settings.output_dir, **changes)
    for stem in ("01_compositing", "02_diffusion_generation", "03_validation"):
        shutil.rmtree(settings.folder(stem), ignore_errors=True)
    write_tiny_outputs(tiny)
    for stem in ("01_compositing", "02_diffusion_generation", "03_validation"):
        (settings.folder(stem) / "metrics.json").unlink()
    validated = pd.read_parquet(settings.folder("03_validation") / "validated.parquet")
    val = validated[validated["split"] == "val"]
    shifted = pd.DataFrame({"picture_id": val["image_id"], "kind": "shifted", "prediction": 291})
    shifted["top1"] = (val["class_name"] == "lion") & (val["background"] == "snow")
    shifted["top1"] = shifted["top1"].astype(float)
    ids = val["foreground_id"].unique()
    alone = pd.DataFrame({"picture_id": ids, "kind": "original", "prediction": 1, "top1": 1.0})
    answers = pd.concat([shifted, alone]).assign(model="lite0", in9_right=1.0, confidence=0.5)
    write_table(settings.folder("04_classifier_evaluation") / "predictions.parquet", answers)
    return answers


def test_the_page_opens_with_one_object_and_what_was_said_of_it(settings):
    add_images(settings)
    page = page_of(settings)
    look = page[page.index("<h1>") : page.index("</header>")]
    assert page.index("<h1>") < page.index("<h2>")
    assert "The classifier lite0 is right on 1 of the 2 images that were kept." in re.sub(r"\s+", " ", look)
    tiles = [
        (verdict, re.findall(r'alt="([^"]*)"', tile)[0], re.findall(r"<b>(.*?)</b>", tile)[0])
        for verdict, tile in re.findall(r'<li class="(.*?)">(.*?)</li>', look, flags=re.S)
    ]
    assert tiles == [
        ("right", "Lion. The classifier says goldfish, which is right.", "right: goldfish"),
        ("right", "Lion in snow. The classifier says lion, which is right.", "right: lion"),
        ("wrong", "Lion at night. The classifier says lion, which is wrong.", "wrong: lion"),
    ]
    assert len(re.findall('src="data:image/webp;base64,', look)) == 3
    assert page_of(settings) == page, "the same run gives the same page"


def test_an_image_that_was_not_kept_is_marked_and_does_not_count(settings):
    add_images(settings)
    path = settings.folder("03_validation") / "validated.parquet"
    table = pd.read_parquet(path)
    table.loc[(table["class_name"] == "lion") & (table["background"] == "night"), "keep"] = False
    write_table(path, table)
    look = first_look(settings.run_folder)
    assert (look.class_name, look.right, look.answered, look.kept, look.mixed) == ("goldfish", 0, 2, 2, False)
    table.loc[table["class_name"] == "goldfish", "keep"] = False
    write_table(path, table)
    look = first_look(settings.run_folder)
    assert (look.class_name, look.right, look.answered, look.kept) == ("lion", 1, 1, 1)
    assert [tile.note for tile in look.tiles] == ["", "", "not kept"]
    assert look.tiles[2].alt == "Lion at night (not kept). The classifier says lion, which is wrong."


def test_the_object_is_chosen_by_a_rule():
    def chosen(*rows) -> str:
        images = pd.DataFrame(rows, columns=["foreground_id", "background", "keep", "right"])
        images["image_id"] = [str(row) for row in range(len(images))]
        answers = images.set_index("image_id")["right"].dropna()
        return choose_object(images.sample(frac=1, random_state=0), answers)

    always = [("a", place, True, 1.0) for place in "xyz"]
    mixed = [("c", "x", True, 1.0), ("c", "y", True, 0.0)]
    assert chosen(*always, *mixed) == "c", "mixed before more backgrounds"
    assert chosen(*always, *mixed, ("b", "x", True, 1.0), ("b", "y", True, 0.0)) == "b", "of equals the first id"
    assert chosen(*always, ("c", "x", True, 1.0), ("c", "y", False, 0.0)) == "a", "what was not kept does not count"
    assert chosen(*always, *mixed, *[("b", place, True, np.nan) for place in "vwxyz"]) == "c"
    assert chosen(("b", "x", True, np.nan), ("b", "y", True, np.nan), ("a", "x", True, np.nan)) == "b"
    assert chosen(("b", "x", True, np.nan), ("b", "x", True, np.nan), ("a", "x", True, np.nan)) == "a", "one background"
    assert chosen(("b", "x", False, np.nan), ("a", "x", False, np.nan)) == "a"


def test_the_first_look_leaves_out_what_is_not_there_and_says_so(settings):
    page = page_of(settings)
    assert "No images yet: notebook 03 has not checked any." in page
    assert '<ul class="look' not in page
    add_images(settings)
    (settings.folder("04_classifier_evaluation") / "predictions.parquet").unlink()
    look = first_look(settings.run_folder)
    assert (look.class_name, look.classifier, {tile.verdict for tile in look.tiles}) == ("goldfish", "", {""})
    assert "No answers yet: notebook 04 has not asked any classifier." in page_of(settings)
    shutil.rmtree(settings.folder("01_compositing") / "foregrounds")
    assert [tile.source == "" for tile in first_look(settings.run_folder).tiles] == [True, False, False]
    assert "no image: cannot be read" in page_of(settings)


def test_the_report_links_to_the_gallery_that_is_there(settings):
    assert "gallery.html" not in page_of(settings)
    add_images(settings)
    write_gallery(settings.run_folder)
    assert '<a href="gallery.html">See all 12 images</a>' in page_of(settings)


@needs_chromium
@pytest.mark.slow
def test_a_browser_as_narrow_as_a_phone_shows_the_first_look(settings, tmp_path):
    add_images(settings)
    page_of(settings)
    browser = Browser(tmp_path / "profile")
    try:
        browser.send("Emulation.setDeviceMetricsOverride", width=360, height=800, deviceScaleFactor=1, mobile=True)
        browser.open((settings.run_folder / "report.html").as_uri())
        assert browser.run("document.documentElement.scrollWidth") == 360
        images = "[...document.querySelectorAll('.look img')]"
        browser.wait(f"{images}.every(image => image.naturalWidth === 64)")
        assert browser.run(f"{images}.filter(image => image.getBoundingClientRect().top < innerHeight).length") > 0
        assert browser.run("document.querySelector('img:not([alt]), img[alt=\"\"]')") is None
        colours = f"{images}.map(image => getComputedStyle(image).borderTopColor)"
        assert browser.run(colours) == ["rgb(0, 114, 178)", "rgb(0, 114, 178)", "rgb(213, 94, 0)"]
        assert not [e for e in browser.happened("Log.entryAdded") if "Content Security" in e["entry"]["text"]]
        asked = [event["request"]["url"] for event in browser.happened("Network.requestWillBeSent")]
        assert all(url.startswith(("file://", "data:")) for url in asked)
    finally:
        browser.close()
