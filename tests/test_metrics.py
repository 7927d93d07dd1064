import json

import numpy as np
import pytest

from d3s_utils.metrics import Estimate, read_metrics, write_metrics

GOOD = {
    "tf_efficientnet_lite0/top1_drop": Estimate(0.1, 0.05, 0.15, 90),
    "foreground_agreement": Estimate(1, 0.9, 1, 30),
}


def write(folder, **changes):
    arguments = {
        "notebook": "03_validation", "profile": "mini", "seed": 0, "metrics": GOOD, "question": "Is it so?",
        "answer": "It is, 100 % (90 to 100).", "weights": {"judge": "ab" * 32},
    }  # fmt: skip
    return write_metrics(folder, **(arguments | changes))


def test_what_is_written_is_read(tmp_path):
    record = read_metrics(write(tmp_path, headline=["foreground_agreement"], settings={"seed": 0}, device="cuda"))
    assert record["metrics"] == GOOD
    assert record["headline"] == ["foreground_agreement"]
    assert {"code_revision", "packages", "weights", "data", "settings", "device", "python"} <= set(record["provenance"])
    assert record["provenance"]["packages"]["torch"]
    assert record["provenance"]["weights"] == {"judge": "ab" * 32}


def test_numpy_numbers_become_plain():
    estimate = Estimate(np.float32(0.5), np.float64(0.25), 1, np.int64(8))
    assert [type(part) for part in (estimate.value, estimate.low, estimate.high, estimate.n)] == [float] * 3 + [int]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((float("nan"), 0, 1, 5), "value must be a finite number, got nan"),
        ((0.5, 0, float("inf"), 5), "high must be a finite number, got inf"),
        ((0.5, 0.6, 1, 5), "value must lie in"),
        ((0.5, 0, 1, 0), "n must be a positive integer, got 0"),
        ((0.5, 0, 1, 2.5), "n must be a positive integer, got 2.5"),
        (("0.5", 0, 1, 5), "value must be a finite number, got '0.5'"),
        ((True, 0, 1, 5), "value must be a finite number, got True"),
        ((0.5, 0, None, 5), "low and high must both be numbers or both be missing, got 0.0 and nan"),
    ],
)
def test_an_estimate_is_a_number_in_its_interval(parts, message):
    with pytest.raises(ValueError, match=message):
        Estimate(*parts)


def test_too_few_observations_give_no_interval(tmp_path):
    lonely = Estimate(0.25, float("nan"), None, 1)
    assert not lonely.has_interval
    assert lonely.words("points") == "25.0 points (too few for an interval: n = 1)"
    path = write(tmp_path, metrics={"share": lonely})
    assert '"low": null' in path.read_text()
    assert read_metrics(path)["metrics"]["share"].record() == {"value": 0.25, "low": None, "high": None, "n": 1}


def test_an_estimate_reads_as_a_sentence_needs_it():
    assert Estimate(0.055, -0.061, 0.1832, 50).words("points") == "5.5 points [-6.1, 18.3]"
    assert Estimate(0.12345, 0.1, 0.2, 5).words(digits=2) == "0.12 [0.10, 0.20]"
    assert Estimate(-0.0001, -0.01, 0.01, 5).words("%") == "0.0 % [-1.0, 1.0]", "no minus before zero"


def test_the_plain_answer_and_its_chart_are_kept(tmp_path):
    (tmp_path / "drops.png").write_bytes(b"")
    record = read_metrics(write(tmp_path, plain=" It falls by 6 points. ", chart="drops.png"))
    assert (record["plain"], record["chart"]) == ("It falls by 6 points.", "drops.png")
    with pytest.raises(ValueError, match=r"which has no 'other\.png'"):
        write(tmp_path, chart="other.png")


@pytest.mark.parametrize("name", ["Top1", "top-1", "a/b/c/d", "top1_", "lite0/", "/top1", "two words", ""])
def test_bad_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="snake_case"):
        write(tmp_path, metrics={name: GOOD["foreground_agreement"]})
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": {}}, "at least one estimate"),
        ({"metrics": {"share": 0.5}}, "must be an Estimate, got 0.5"),
        ({"headline": ["other"]}, "headline must name metrics"),
        ({"answer": " "}, "answer must be a sentence"),
        ({"data": {"mean": float("nan")}}, "JSON compliant"),
    ],
)
def test_nothing_is_written_on_a_mistake(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change", [{"metrics": {"a": {"value": float("nan"), "low": 0, "high": 1, "n": 1}}}, {"seed": None}]
)
def test_a_bad_file_is_named(tmp_path, change):
    path = write(tmp_path)
    record = json.loads(path.read_text()) | change
    record = {name: value for name, value in record.items() if value is not None}
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=str(path)):
        read_metrics(path)
