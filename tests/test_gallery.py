"""The gallery: its data, its pages, its thumbnails, and how it behaves in a browser."""

import html
import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import Browser, needs_chromium
from PIL import Image
from tiny_outputs import tiny_settings, write_tiny_outputs

from d3s_utils import job
from d3s_utils.gallery import page_bounds, write_gallery
from d3s_utils.run_images import read_answers, read_images
from d3s_utils.thumbnails import write_thumbnails

BACKGROUNDS = ("grass", "cave", "snow")
HOSTILE = "a\"b<c>#d%41'é 猫&amp;"  # of a file, an id and a class
COPIES = 40  # images of a class on a background


def write_run(folder: Path, *, answers: bool = True, changes: dict | None = None) -> pd.DataFrame:
    """Write what the gallery reads: three classes on three backgrounds; return the table of notebook 03.

    Two classifiers were asked about split val: `first` is right on grass, `second` nowhere.

    Args:
        folder: The run's.
        answers: Whether notebook 04 has run.
        changes: Column -> values that replace those of the first rows.
    """
    rows = []
    for number, (name, synset) in enumerate((("tench", "n01440764"), ("goldfish", "n01443537"), (HOSTILE, "n9"))):
        for background in BACKGROUNDS:
            for copy in range(COPIES):
                keep = copy % 4 > 0
                rows.append({
                    "image_id": f"{synset}-{copy:04d}-{background}", "class_name": name, "synset": synset,
                    "in9": "fish", "background": background, "split": "val" if copy < 10 else "train", "keep": keep,
                    "reason": "" if keep else f"background: looks like </script>, {background} 0.01 < 0.5",
                    "file": f"02_diffusion_generation/images/{number}.png",
                    "guide_file": f"01_compositing/{number}.png",
                    "prompt": f"a photo of a {name}", "seed": 2**62 + copy, "strength": 0.5, "model": "bundled",
                    "foreground_id": f"{synset}-{copy:04d}", "foreground_vote/lite2": "fish",
                    "foreground_score/lite2": 0.75, "background_vote/head": background, "background_score/head": np.nan,
                    "foreground_prediction": "fish", "background_prediction": background, "unreadable": "",
                })  # fmt: skip
    table = pd.DataFrame(rows)
    for column, values in (changes or {}).items():
        table[column] = [*values, *table[column][len(values) :]]
    for file in {*table["file"], *table["guide_file"]} - {""}:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (200, 90, 40)).save(folder / file, "PNG")
    (folder / "03_validation").mkdir()
    table.to_parquet(folder / "03_validation" / "validated.parquet")
    if answers:
        (folder / "04_classifier_evaluation").mkdir()
        val = table[table["split"] == "val"]
        right = (val["background"] == "grass").astype(float)
        said = [
            pd.DataFrame({
                "picture_id": val["image_id"], "kind": "shifted", "model": model, "top1": share, "in9_right": 1.0,
                "prediction": np.where(share == 1, 1, 134), "confidence": 0.5,
            })
            for model, share in (("first", right), ("second", right * 0))
        ]  # fmt: skip
        pd.concat(said).to_parquet(folder / "04_classifier_evaluation" / "predictions.parquet")
    return table


def data_of(page: Path) -> dict:
    return json.loads(re.search(r'type="application/json" id="data">(.*?)</script>', page.read_text())[1])


def texts(column: dict | list) -> list[str]:
    return [column["values"][code] for code in column["codes"]] if isinstance(column, dict) else column


def test_a_page_holds_every_image_with_its_labels_in_order(tmp_path):
    table = write_run(tmp_path)
    data = data_of(write_gallery(tmp_path))
    columns = {name: texts(column) for name, column in data["columns"].items()}
    assert data["total"] == len(table) == len(columns["id"])
    assert sorted(columns["id"]) == sorted(table["image_id"])
    assert columns["label"] == sorted(columns["label"], key=str.casefold)
    assert columns["background"][:COPIES] == ["grass"] * COPIES, "the paper's order within a class"
    by_id = table.set_index("image_id").loc[columns["id"]]
    assert columns["kept"] == by_id["keep"].astype(int).tolist()
    assert columns["reason"] == by_id["reason"].tolist()
    assert columns["seed"] == [str(seed) for seed in by_id["seed"]], "text: JavaScript has no such large numbers"
    assert set(columns["made"]) == {"strength 0.5, generator bundled"}
    lite2, head = data["judges"]
    assert (lite2["name"], lite2["question"], set(texts(lite2["says"])), set(lite2["score"])) == (
        "lite2", "object", {"fish"}, {75},
    )  # fmt: skip
    assert (head["name"], head["question"], set(head["score"])) == ("head", "background", {-1})


def test_answers_stand_beside_the_images_that_were_asked_about(tmp_path):
    table = write_run(tmp_path).set_index("image_id")
    data = data_of(write_gallery(tmp_path))
    asked = [data["columns"]["id"][row] for row in data["asked"]]
    assert set(asked) == set(table.index[table["split"] == "val"])
    first, second = data["models"]
    assert first["right"] == "".join("1" if image.endswith("grass") else "0" for image in asked)
    assert set(second["right"]) == {"0"}
    assert set(texts(first["says"])) == {"goldfish", "crane"}
    assert set(second["in9"]) == {"1"}


def test_what_the_run_says_is_text_and_never_markup(tmp_path):
    write_run(tmp_path)
    page = write_gallery(tmp_path).read_text()
    assert page.count("<script") == page.count("</script>") == 2, "the data and the page's own"
    assert HOSTILE not in re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.S)
    assert HOSTILE in texts(data_of(tmp_path / "gallery.html")["columns"]["label"])
    assert "innerHTML" not in page
    assert "default-src 'none'; img-src 'self' file:; style-src 'sha256-" in html.unescape(page)
    assert not re.search(r"https?://|@import|url\(", page)


def test_the_same_run_gives_the_same_bytes(tmp_path):
    write_run(tmp_path)
    before = write_gallery(tmp_path, rows_per_page=200).read_bytes()
    second = (tmp_path / "gallery" / "page-0002.html").read_bytes()
    assert write_gallery(tmp_path, rows_per_page=200).read_bytes() == before
    assert (tmp_path / "gallery" / "page-0002.html").read_bytes() == second


@pytest.mark.parametrize(
    ("sizes", "rows", "bounds"),
    [
        ("", 3, []),
        ("aabbc", 9, [(0, 5)]),
        ("aabbc", 3, [(0, 2), (2, 5)]),
        ("aabbb", 3, [(0, 2), (2, 5)]),
        ("aaaaabb", 2, [(0, 2), (2, 4), (4, 5), (5, 7)]),
        ("abbbbb", 3, [(0, 1), (1, 4), (4, 6)]),
    ],
)
def test_pages_hold_whole_classes_where_they_fit(sizes, rows, bounds):
    assert page_bounds(list(sizes), rows_per_page=rows) == bounds


def test_many_images_make_pages_with_an_index_that_leads_to_each_class(tmp_path):
    table = write_run(tmp_path)
    first = write_gallery(tmp_path, rows_per_page=130)
    pages = [first, *sorted((tmp_path / "gallery").glob("*.html"))]
    assert [page.name for page in pages] == ["gallery.html", "page-0002.html", "page-0003.html"]
    ids = [image for page in pages for image in data_of(page)["columns"]["id"]]
    assert sorted(ids) == sorted(table["image_id"])
    assert all(len(set(texts(data_of(page)["columns"]["label"]))) == 1 for page in pages)
    assert [data_of(page)["base"] for page in pages] == ["", "../", "../"]
    links = re.findall(r'<li><a href="([^"]+)">[^<]*</a> (\d+)</li>', pages[1].read_text())
    where = ["../gallery.html#class=a%22b%3Cc%3E%23d%2541%27%C3%A9+%E7%8C%AB%26amp%3B",
             "../gallery/page-0002.html#class=goldfish", "../gallery/page-0003.html#class=tench"]  # fmt: skip
    assert links == [(link, "120") for link in where]
    assert html.escape(HOSTILE).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in pages[1].read_text()
    assert '<a class="page" rel="prev" href="../gallery.html">' in pages[1].read_text()
    assert '<a class="page" rel="next" href="../gallery/page-0003.html">' in pages[1].read_text()
    write_gallery(tmp_path)
    assert not list((tmp_path / "gallery").glob("*.html")), "pages of an earlier gallery are gone"


def test_a_page_is_light(tmp_path):
    """A page of 3,000 images that 34 classifiers were asked about stays below two million bytes."""
    write_run(tmp_path)
    table = read_images(tmp_path, more=["guide_file", "synset"])
    many = pd.concat([table] * 9).reset_index(drop=True).head(3000)
    many["image_id"] = [f"n01440764-{row:04d}-{name}" for row, name in enumerate(many["background"])]
    many.to_parquet(tmp_path / "03_validation" / "validated.parquet")
    random = np.random.default_rng(0)
    answers = [
        pd.DataFrame({
            "picture_id": many["image_id"], "kind": "shifted", "model": f"a_model_with_a_long_name_{number}",
            "prediction": random.integers(0, 1000, 3000), "top1": 1.0, "in9_right": 1.0, "confidence": 0.77,
        })
        for number in range(34)
    ]  # fmt: skip
    pd.concat(answers).to_parquet(tmp_path / "04_classifier_evaluation" / "predictions.parquet")
    assert write_gallery(tmp_path).stat().st_size < 2_000_000


def test_without_notebook_03_there_is_no_gallery_and_without_04_it_says_so(tmp_path):
    assert write_gallery(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    write_run(tmp_path, answers=False)
    page = write_gallery(tmp_path).read_text()
    assert "No classifier has answered yet: notebook 04 has not run." in page
    assert data_of(tmp_path / "gallery.html")["models"] == []
    (tmp_path / "03_validation" / "validated.parquet").unlink()
    assert write_gallery(tmp_path) is None
    assert not (tmp_path / "gallery.html").exists(), "it would show what is no longer there"


def test_a_table_that_is_none_is_refused(tmp_path):
    write_run(tmp_path)
    with pytest.raises(ValueError, match="rows_per_page must be at least 1, got 0"):
        write_gallery(tmp_path, rows_per_page=0)
    path = tmp_path / "03_validation" / "validated.parquet"
    pd.read_parquet(path).drop(columns=["keep", "split"]).to_parquet(path)
    with pytest.raises(ValueError, match="split, keep are missing"):
        write_gallery(tmp_path)


def test_two_classes_of_one_name_are_told_apart(tmp_path):
    write_run(tmp_path, changes={"class_name": ["crane"] * 5 * COPIES})
    labels = texts(data_of(write_gallery(tmp_path))["columns"]["label"])
    assert {"crane (n01440764)", "crane (n01443537)", "goldfish"} <= set(labels)


def test_what_an_imported_set_does_not_record_is_left_out(tmp_path):
    table = write_run(tmp_path)
    table["seed"] = pd.array([pd.NA, *table["seed"][1:]], dtype="Int64")
    table["strength"] = np.nan
    table["steps"] = pd.array([pd.NA] * len(table), dtype="Int64")
    table["guide_file"] = None
    table.drop(columns=["foreground_vote/lite2", "synset", "prompt"]).to_parquet(
        tmp_path / "03_validation" / "validated.parquet"
    )
    data = data_of(write_gallery(tmp_path))
    columns = {name: texts(column) for name, column in data["columns"].items()}
    seeds = dict(zip(columns["id"], columns["seed"], strict=True))
    assert [seeds[image] for image in table["image_id"][:2]] == ["", str(2**62 + 1)]
    assert set(columns["made"]) == {"generator bundled"}
    assert set(columns["guideFolder"]) == set(columns["prompt"]) == {""}
    assert [judge["name"] for judge in data["judges"]] == ["head"]


def test_people_and_roles_are_told_as_they_are(tmp_path):
    table = write_run(tmp_path)
    asked = table.index < 2
    table = table.assign(
        people_votes=np.where(asked, 5.0, np.nan), people_object=[True, False, *[None] * (len(table) - 2)],
        people_background=np.where(asked, "cave", None), people_unsafe=np.where(asked, False, None),
        people_source=["simulated", "people", *[""] * (len(table) - 2)],
    )  # fmt: skip
    table["foreground_vote/aux"] = "dog"
    table.to_parquet(tmp_path / "03_validation" / "validated.parquet")
    record = {"notebook": "03_validation", "profile": "mini", "seed": 0, "metrics": {}}
    record["provenance"] = {"settings": {"foreground_judges": ["lite2"], "background_judges": ["heads/head"]}}
    (tmp_path / "03_validation" / "metrics.json").write_text(json.dumps(record))
    data = data_of(write_gallery(tmp_path))
    people = dict(zip(data["columns"]["id"], texts(data["columns"]["people"]), strict=True))
    first, second, third = table["image_id"].iloc[:3]
    assert people[first] == "5 votes of simulated people: object there: yes, background: cave, unsafe: no"
    assert people[second] == "5 votes of people: object there: no, background: cave, unsafe: no"
    assert people[third] == ""
    assert [(judge["name"], judge["role"]) for judge in data["judges"]] == [
        ("lite2", "judge"), ("aux", "auxiliary judge"), ("head", "judge"),
    ]  # fmt: skip


def test_an_answer_is_read_with_its_name_and_verdict(tmp_path):
    folder = tmp_path / "04_classifier_evaluation"
    folder.mkdir()
    table = pd.DataFrame({
        "image_id": ["a", "b", "c", "d"], "picture_id": ["x"] * 4, "kind": ["shifted"] * 3 + ["placed"],
        "prediction": [291, 1000, 1008, 5], "top1": [0.0, np.nan, np.nan, 1.0], "in9_right": [1.0, 1.0, np.nan, 1.0],
        "confidence": 0.5, "model": "one",
    })  # fmt: skip
    table.to_parquet(folder / "predictions.parquet")
    answers = read_answers(tmp_path)
    assert answers["id"].tolist() == ["a", "b", "c"]
    assert answers["said"].tolist() == ["lion", "dog", "fish"]
    np.testing.assert_equal(answers["right"].to_numpy(), [0.0, 1.0, np.nan])
    table.assign(image_id="", kind="original").to_parquet(folder / "predictions.parquet")
    assert read_answers(tmp_path, kind="original")["id"].tolist() == ["x"], "an object alone has no image's id"
    table.drop(columns="image_id").assign(picture_id=list("abcd")).to_parquet(folder / "predictions.parquet")
    assert read_answers(tmp_path)["id"].tolist() == ["a", "b", "c"]
    table.assign(prediction=1009).to_parquet(folder / "predictions.parquet")
    with pytest.raises(ValueError, match="got 1009"):
        read_answers(tmp_path)


def test_thumbnails_are_made_of_large_images_only_and_once(tmp_path):
    for name, side in (("small", 128), ("large", 200)):
        Image.new("RGB", (side, side // 2), "red").save(tmp_path / f"{name} é#.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    folder = tmp_path / "thumbnails"
    files = ["small é#.png", "large é#.png", "broken.png", "gone.png", "../large é#.png", ""]
    made = folder / "large é#.png.webp"
    assert write_thumbnails(files, root=tmp_path, folder=folder) == {"large é#.png"}
    assert [path.name for path in folder.iterdir()] == [made.name]
    assert Image.open(made).size == (96, 48)
    marked = b"as it was"
    made.write_bytes(marked)
    write_thumbnails(files, root=tmp_path, folder=folder)
    assert made.read_bytes() == marked, "it is as new as its image"
    os.utime(tmp_path / "large é#.png", (2**32, 2**32))
    write_thumbnails(files, root=tmp_path, folder=folder)
    assert made.read_bytes() != marked
    assert write_thumbnails([], root=tmp_path, folder=folder) == set()
    assert not made.exists(), "no image asks for it"


def test_a_gallery_of_large_images_shows_thumbnails(tmp_path):
    write_run(tmp_path)
    Image.new("RGB", (512, 512), "blue").save(tmp_path / "02_diffusion_generation" / "images" / "0.png")
    columns = data_of(write_gallery(tmp_path))["columns"]
    assert {label: small for label, small in zip(texts(columns["label"]), columns["small"], strict=True)} == {
        "tench": 1, "goldfish": 0, HOSTILE: 0,
    }  # fmt: skip
    assert (tmp_path / "gallery/thumbnails/02_diffusion_generation/images/0.png.webp").exists()


def test_the_job_writes_the_gallery_and_says_where(tmp_path, capsys):
    settings = tiny_settings(tmp_path)
    write_tiny_outputs(settings)
    assert job.main(["report", f"--output-dir={tmp_path}"]) == 0
    assert f"\nGallery: {settings.run_folder / 'gallery.html'}\n" in capsys.readouterr().out
    assert "See all 12 images" in (settings.run_folder / "report.html").read_text()


# In a browser

CARDS = "document.querySelectorAll('#cards li').length"
COUNT = "document.getElementById('count').textContent"
TITLE = "document.getElementById('title').textContent"
OPEN = "document.getElementById('details').open"


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path / "profile")
    browser.send("Emulation.setDeviceMetricsOverride", width=1000, height=900, deviceScaleFactor=1, mobile=False)
    yield browser
    browser.close()


def choose(browser: Browser, name: str, value: str) -> None:
    browser.run(f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
                f"(document.getElementById('{name}'))")  # fmt: skip


def press_escape(browser: Browser) -> None:
    for kind in ("rawKeyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, key="Escape", code="Escape", windowsVirtualKeyCode=27)


def shown_number(browser: Browser) -> int:
    return int(re.match(r"([\d,]+) of 360 images", browser.run(COUNT))[1].replace(",", ""))


@needs_chromium
@pytest.mark.slow
def test_a_browser_filters_counts_and_remembers_the_view(tmp_path, browser):
    table = write_run(tmp_path / "run").assign(asked=lambda rows: rows["split"] == "val")
    address = write_gallery(tmp_path / "run").as_uri()
    browser.open(address)
    assert shown_number(browser) == len(table)
    choose(browser, "class", HOSTILE)
    assert shown_number(browser) == (table["class_name"] == HOSTILE).sum()
    choose(browser, "background", "cave")
    choose(browser, "verdict", "rejected")
    wanted = table[(table["class_name"] == HOSTILE) & (table["background"] == "cave") & ~table["keep"]]
    assert shown_number(browser) == len(wanted) > 0
    choose(browser, "split", "val")
    assert shown_number(browser) == wanted["asked"].sum()
    link = browser.run("location.href")
    browser.run("document.getElementById('reset').click()")
    browser.wait(f"{COUNT}.startsWith('360 of')")
    assert "#" not in browser.run("location.href")
    choose(browser, "answer", "right")
    assert shown_number(browser) == (table["asked"] & (table["background"] == "grass")).sum()
    choose(browser, "classifier", "second")
    assert shown_number(browser) == 0
    assert browser.run("document.getElementById('nothing').checkVisibility()")
    choose(browser, "answer", "unasked")
    assert shown_number(browser) == (~table["asked"]).sum()
    choose(browser, "find", "LIKE </SCRIPT>")
    assert shown_number(browser) == (~table["asked"] & ~table["keep"]).sum()
    browser.open(f"{address}?another")  # so that the link is opened anew
    browser.open(link)
    assert shown_number(browser) == wanted["asked"].sum(), "the address holds the view"
    browser.run("location.hash = 'class=nobody&background=cave&image=none'")
    browser.wait(f"{COUNT}.startsWith('{(table['background'] == 'cave').sum()} of')")


@needs_chromium
@pytest.mark.slow
def test_a_browser_holds_only_the_cards_near_the_window(tmp_path, browser):
    write_run(tmp_path / "run")
    browser.open(write_gallery(tmp_path / "run").as_uri())
    first = "document.querySelector('#cards li').getAttribute('aria-posinset')"
    assert 6 < browser.run(CARDS) < 60
    assert browser.run(first) == "1"
    assert browser.run("document.querySelector('#cards li').getAttribute('aria-setsize')") == "360"
    browser.run("scrollTo(0, document.documentElement.scrollHeight)")
    browser.wait("document.querySelector('#cards li:last-child').getAttribute('aria-posinset') === '360'")
    assert 6 < browser.run(CARDS) < 60
    assert int(browser.run(first)) > 250
    boxes = "[...document.querySelectorAll('#cards li')].map(li => li.getBoundingClientRect())"
    assert browser.run(f"{boxes}.filter(box => box.top < innerHeight && box.bottom > 0).length") > 0
    order = browser.run("[...document.querySelectorAll('#cards li')].map(li => Number(li.dataset.place))")
    assert order == sorted(order), "as it is read aloud"


@needs_chromium
@pytest.mark.slow
def test_a_browser_needs_no_mouse(tmp_path, browser):
    write_run(tmp_path / "run")
    browser.open(write_gallery(tmp_path / "run").as_uri())
    choose(browser, "class", "tench")
    focus = "document.activeElement.closest('li')?.getAttribute('aria-posinset')"
    browser.run("document.getElementById('reset').focus()")
    browser.press("Tab")
    assert browser.run(focus) == "1"
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    browser.press("ArrowLeft")
    assert browser.run(focus) == "2"
    browser.press("Enter")
    browser.wait(OPEN)
    assert browser.run(TITLE) == "tench on grass"
    assert browser.run("document.activeElement.closest('dialog') !== null")
    assert browser.run("document.getElementById('position').textContent") == "2 of 120"
    assert "image=n01440764-0001-grass" in browser.run("location.hash")
    for _ in range(COPIES):
        browser.press("ArrowRight")
    assert browser.run("document.getElementById('position').textContent") == f"{2 + COPIES} of 120"
    assert browser.run(TITLE) == "tench in snow", "the second background in the paper's order"
    browser.press("ArrowLeft")
    press_escape(browser)
    browser.wait(f"!{OPEN}")
    browser.wait(f"{focus} === '{1 + COPIES}'")
    assert "image=" not in browser.run("location.hash")
    card = "(r => r.top >= 0 && r.bottom <= innerHeight)(document.activeElement.getBoundingClientRect())"
    assert browser.run(card), "what was looked at last is in view"


@needs_chromium
@pytest.mark.slow
def test_a_browser_shows_all_details_of_an_image(tmp_path, browser):
    write_run(tmp_path / "run")
    browser.open(write_gallery(tmp_path / "run").as_uri() + "#image=n9-0000-snow")
    browser.wait(OPEN)
    text = browser.run("document.getElementById('content').innerText")
    for part in ("rejected: background: looks like </script>, snow 0.01 < 0.5", f"a photo of a {HOSTILE}", str(2**62),
                 "n9-0000-snow", "strength 0.5, generator bundled"):  # fmt: skip
        assert part in text
    tables = browser.run("[...document.querySelectorAll('.heard tr')].map(tr => [...tr.cells].map(c => c.innerText))")
    assert ["first", "wrong: crane", "right", "0.50"] in tables
    assert ["lite2", "object", "fish", "0.75"] in tables
    assert ["head", "background", "snow", "–"] in tables
    assert browser.run("document.querySelector('.said.wrong').textContent") == "wrong: crane", "a word as well"
    assert browser.run("document.getElementById('on').disabled") is False
    assert browser.run("document.querySelector('#content img:not([alt])')") is None


@needs_chromium
@pytest.mark.slow
def test_a_browser_loads_files_of_any_name_and_says_what_it_cannot_show(tmp_path, browser):
    names = [f"02_diffusion_generation/{HOSTILE}.png", "gone.png", "02_diffusion_generation/plain.png"]
    changes = {"file": names, "guide_file": [f"01_compositing/{HOSTILE}.png", "", "01_compositing/0.png"],
               "unreadable": ["", "", "it is <b>torn</b>"]}  # fmt: skip
    write_run(tmp_path / "run", changes=changes)
    (tmp_path / "run" / "gone.png").unlink()
    browser.open(write_gallery(tmp_path / "run").as_uri() + "#class=tench&background=grass")
    images = "[...document.querySelectorAll('#cards li:first-child img')]"
    browser.wait(f"{images}.length === 2 && {images}.every(image => image.naturalWidth === 64)")
    frames = "[...document.querySelectorAll('#cards li:nth-child({}) .frame')].map(f => f.innerText).join('|')"
    browser.wait(f"{frames.format(2)}.includes('cannot be shown')")
    assert browser.run(frames.format(2)) == "no guide\nguide|the file of this image cannot be shown\nimage"
    assert browser.run(frames.format(3)) == "guide|unreadable: it is <b>torn</b>\nimage"
    asked = [event["request"]["url"] for event in browser.happened("Network.requestWillBeSent")]
    assert asked
    assert all(url.startswith("file://") for url in asked), "nothing comes from elsewhere"
    refused = [entry["entry"]["text"] for entry in browser.happened("Log.entryAdded")]
    assert not [text for text in refused if "Content Security Policy" in text]
    assert not browser.happened("Runtime.exceptionThrown")


@needs_chromium
@pytest.mark.slow
def test_a_browser_loads_large_images_only_for_the_large_view(tmp_path, browser):
    write_run(tmp_path / "run")
    Image.new("RGB", (512, 512), "blue").save(tmp_path / "run" / "02_diffusion_generation" / "images" / "0.png")
    browser.open(write_gallery(tmp_path / "run").as_uri() + "#class=tench")
    widths = "[...document.querySelectorAll('{} img')].map(image => image.naturalWidth).join()"
    browser.wait(widths.format("#cards li:first-child") + " === '64,96'")
    browser.run("document.querySelector('#cards button').click()")
    browser.wait(widths.format("#content") + " === '64,512'")


@needs_chromium
@pytest.mark.slow
def test_a_browser_as_narrow_as_a_phone_needs_no_sideways_scroll(tmp_path, browser):
    write_run(tmp_path / "run", changes={"class_name": ["0" * 90]})  # sorts first
    browser.send("Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=1, mobile=True)
    browser.open(write_gallery(tmp_path / "run", rows_per_page=100).as_uri())
    browser.run("document.getElementById('index').open = true")
    wide = "document.documentElement.scrollWidth"
    assert browser.run(wide) == 360
    browser.run("document.querySelector('#cards button').click()")
    browser.wait(OPEN)
    assert browser.run(wide) == 360
    assert browser.run("(d => d.scrollWidth <= d.clientWidth)(document.getElementById('details'))")
    unnamed = "[...document.querySelectorAll('select, input')].filter(e => !e.labels.length).length"
    assert browser.run(unnamed) == 0


@needs_chromium
@pytest.mark.slow
def test_a_browser_finds_a_class_on_its_page(tmp_path, browser):
    write_run(tmp_path / "run")
    browser.open(write_gallery(tmp_path / "run", rows_per_page=130).as_uri())
    assert browser.run(COUNT) == "120 of 120 images on this page (360 in all)"
    choose(browser, "verdict", "kept")
    choose(browser, "class", HOSTILE)
    assert browser.run("document.querySelector('a[rel=next]').hash") == "#verdict=kept", "it has other classes"
    browser.open(browser.run("document.querySelector('#index a[href*=tench]').href"))
    assert browser.run("location.pathname").endswith("gallery/page-0003.html")
    browser.wait(f"{COUNT} === '120 of 120 images on this page (360 in all)'")
    assert browser.run("document.getElementById('class').value") == "tench"
    image = "document.querySelector('#cards img')"
    browser.wait(f"{image} && {image}.naturalWidth === 64")
