import os

import pytest
import yaml

from d3s_utils import job
from d3s_utils.expected_cost import expected_cost
from d3s_utils.processes import exclusive
from d3s_utils.settings import NOTEBOOK_SETTINGS, SettingsError, load_settings


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("strength=0.5 seed=3", {"strength": 0.5, "seed": 3}),
        ("learning_rate=1e-3", {"learning_rate": 0.001}),
        ("classes=[king penguin, lion] photos=null", {"classes": ["king penguin", "lion"], "photos": None}),
        ("generator=my/model", {"generator": "my/model"}),
        ("classes=all", {"classes": "all"}),
    ],
)
def test_assignments(text, values):
    assert job.parse_assignments(text) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strength", "name=value pairs"),
        ("strength 0.5 seed=3", "name=value pairs"),
        ("seed=1 seed=2", "seed is given twice"),
        ("classes=[lion", "classes must be a YAML value"),
    ],
)
def test_bad_assignments(text, message):
    with pytest.raises(SettingsError, match=message):
        job.parse_assignments(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--set=strenght=0.5"], "'strenght' is no setting; did you mean 'strength'"),
        (["run", "--set=strength=half"], "strength must be a valid number"),
        (["run", "--profile=minni"], "did you mean 'mini'"),
        (["run", "--set=profile=gpu"], "profile is given as --profile"),
        (["run", "--photos=nowhere/at/all"], "photos must be a folder or file that is there"),
        (["run", "--photos=photos.parquet"], "photos must be a folder or file that is there"),
        (["run", "--templates=.", "--set=templates=x"], "templates is given twice"),
        (["dry-run", "--set=classes=[lino]"], "'lino', which is no ImageNet class"),
    ],
)
def test_a_mistake_stops_the_job_before_anything_starts(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "run_notebooks", lambda *_, **__: pytest.fail("it started"))
    assert job.main(arguments) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("error: ")
    assert os.listdir(tmp_path) == []


def test_cores_are_a_positive_number(capsys):
    with pytest.raises(SystemExit) as caught:
        job.main(["run", "--cores=many"])
    assert caught.value.code == 2
    assert "must be a whole number of at least 1, got 'many'" in capsys.readouterr().err


def test_own_photos_go_to_a_place_of_their_own(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = job.settings_of(photos="photos")
    assert (settings.photos, settings.output_dir) == (str(tmp_path / "photos"), job.OWN_OUTPUT)
    assert job.settings_of(photos="photos", output_dir=str(tmp_path / "out")).run_folder == tmp_path / "out" / "mini"
    assert job.settings_of().output_dir == "outputs"


def test_parameters_are_those_of_the_settings(root):
    jobs = job.notebook_jobs(load_settings("gpu", seed=7))
    assert {j.stem for j in jobs} <= set(NOTEBOOK_SETTINGS)
    for each in jobs:
        assert each.parameters["seed"] == 7
        assert yaml.safe_load(yaml.safe_dump(dict(each.parameters))) == each.parameters
        assert each.notebook.is_relative_to(root / "notebooks")


def test_needs_stand_before_those_that_need_them():
    seen = set()
    for stem, needs in job.NEEDS.items():
        assert set(needs) <= seen
        seen.add(stem)


def test_dry_run_tells_images_disk_and_time_and_writes_nothing(tmp_path, capsys):
    assert job.main(["dry-run", f"--output-dir={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert "01_compositing               would run" in said
    assert "4,680 images" in said  # each with its twin
    assert "GB of disk" in said
    assert "minutes" in said
    assert os.listdir(tmp_path) == []


def test_the_paper_is_expected_to_take_days_and_mini_minutes():
    paper, mini = expected_cost(load_settings("paper")), expected_cost(load_settings("mini"))
    assert paper.dreamt_images == 120_000 + 20_000, "the twins of the validation split"
    assert expected_cost(load_settings("paper", own_ground_splits=[])).dreamt_images == 120_000
    assert paper.gigabytes > 50
    assert paper.hours > 24
    assert 0.4 < mini.hours < 1  # most of an hour on two cores
    assert mini.duration.endswith("minutes")
    assert "9.5 minutes of training in notebooks 05 and 06" in mini.assumptions
    assert "0 minutes of training in notebooks 05 and 06 (not measured)" in paper.assumptions
    choosy = expected_cost(load_settings("mini", foreground_candidates=8))
    assert choosy.hours > mini.hours, "candidates are dreamt and looked at"
    own = expected_cost(load_settings("mini", photos="notebooks", templates="notebooks"))
    assert own.hours < mini.hours


def test_two_jobs_at_once(tmp_path, capsys):
    with exclusive(tmp_path / "mini" / ".lock"):
        assert job.main(["run", f"--output-dir={tmp_path}"]) == 1
    assert f"another run (process {os.getpid()}) is at work in" in capsys.readouterr().err
