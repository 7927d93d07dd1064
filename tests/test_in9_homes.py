"""Homes told by the user, by photos that are clear about it, or by the built-in list, in that order."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_outputs import tiny_settings, write_tiny_outputs

from d3s_utils.background_classifier import load_background_head
from d3s_utils.in9_homes import BUILT_IN, BY_PHOTOS, BY_SETTING, choose_homes, photo_backgrounds, photo_homes
from d3s_utils.in9_imitation import HOMES
from d3s_utils.intervals import wilson
from d3s_utils.taxonomy import IN9


def named(**counts: dict[str, int]) -> pd.DataFrame:
    rows = [(name, background) for name, of in counts.items() for background, n in of.items() for _ in range(n)]
    return pd.DataFrame(rows, columns=["in9", "background"])


def test_a_home_is_the_commonest_background_if_it_is_commoner_than_elsewhere():
    table = named(fish={"water": 12, "indoors": 8}, dog={"indoors": 15, "grass": 5}, bird={"indoors": 14, "sand": 6})
    found = photo_homes(table).set_index("in9")
    assert found["background"].to_dict() == {"dog": "indoors", "bird": "indoors", "fish": "water"}
    assert found["is_home"].to_dict() == {"dog": False, "bird": False, "fish": True}, "all are often indoors"
    assert found["elsewhere"].to_dict() == pytest.approx({"dog": 22 / 40, "bird": 23 / 40, "fish": 0})
    expected = wilson(12, 20)
    assert found.loc["fish", ["share", "low", "high", "n"]].tolist() == list(vars(expected).values())


def test_few_photos_or_one_class_tell_no_home():
    few = photo_homes(named(fish={"water": 9}, dog={"grass": 100}))
    assert few.set_index("in9")["is_home"].to_dict() == {"dog": True, "fish": False}
    assert not photo_homes(named(fish={"water": 100}))["is_home"].any()
    assert photo_homes(named()).empty


def test_the_user_comes_first_then_photos_then_the_list():
    seen = photo_homes(named(fish={"sand": 40}, dog={"snow": 40}, bird={"sand": 9}))
    found = choose_homes(["fish", "dog", "bird"], wished={"dog": "road"}, seen=seen).set_index("in9")
    assert found["home"].to_dict() == {"dog": "road", "bird": HOMES["bird"], "fish": "sand"}
    assert found["source"].to_dict() == {"dog": BY_SETTING, "bird": BUILT_IN, "fish": BY_PHOTOS}
    assert found.loc["fish", ["share", "n"]].tolist() == [1.0, 40]
    assert found.loc[["dog", "bird"], ["share", "low", "high", "n", "elsewhere"]].isna().all(axis=None)
    alone = choose_homes(pd.Series(["fish", "dog"]))
    assert alone["home"].tolist() == [HOMES["dog"], HOMES["fish"]]
    assert choose_homes([]).empty
    with pytest.raises(ValueError, match="homes must be of"):
        choose_homes(["dog"], wished={"cat": "grass"})


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("D3S_SHARED_DATA", str(tmp_path / "nothing"))  # photos of this machine must not tell
    settings = tiny_settings(tmp_path / "out", classes=["goldfish", "lion", "banana"])
    write_tiny_outputs(settings)
    return settings


def ask(run, **changes) -> pd.DataFrame:
    return photo_backgrounds(run.run_folder, **{"real_photos": None, "limit": 50, "seed": 0} | changes)


def test_without_photos_nobody_is_asked(run):
    assert ask(run).empty
    assert photo_homes(ask(run)).empty


def test_photos_of_the_runs_classes_are_looked_at(run, tmp_path):
    photos = tmp_path / "photos"
    for name, colour in (("goldfish", (20, 70, 160)), ("lion", (40, 140, 30)), ("tench", 0), ("banana", 0)):
        (photos / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).normal(0, 8, (64, 64, 3)) + colour
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(photos / name / f"{number}.png")
    (photos / "lion" / "broken.png").write_bytes(b"no picture")
    found = ask(run, real_photos=str(photos))
    counts = found["in9"].value_counts().to_dict()
    assert counts == {"fish": 3, "carnivore": 3}, "no tench, which the run has not, and no banana without superclass"
    lions = [photos / "lion" / f"{number}.png" for number in range(3)]
    seen = load_background_head().predict(lions).tolist()
    assert found.loc[found["in9"] == "carnivore", "background"].tolist() == seen
    (photos / "lion" / "broken.png").unlink()
    assert ask(run, real_photos=str(photos), limit=2)["in9"].value_counts().to_dict() == {"fish": 2, "carnivore": 2}


def test_foregrounds_that_were_photos_are_looked_at_too(run):
    path = run.folder("01_compositing") / "foregrounds.parquet"
    table = pd.read_parquet(path)
    table.loc[table["class_name"] == "goldfish", "source"] = "photo"
    table.to_parquet(path)
    assert ask(run)["in9"].tolist() == ["fish"] * 3
    path.unlink()
    with pytest.raises(ValueError, match="run notebook 01_compositing first"):
        ask(run)


def test_real_photos_of_vehicles_show_roads(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("D3S_SHARED_DATA", str(shared_data))
    settings = tiny_settings(tmp_path, classes=["moving_van", "goldfish", "oboe"], backgrounds=["road"])
    write_tiny_outputs(settings, until="01_compositing")
    found = photo_homes(ask(settings)).set_index("in9")
    assert found.loc["wheeled vehicle", "background"] == "road"
    assert found.loc["wheeled vehicle", "is_home"]
    assert set(found.index) <= set(IN9)
