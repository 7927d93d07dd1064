"""Evaluation: hand-computed tables, scikit-learn's accuracies, and pairs that really are pairs."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import top_k_accuracy_score
from statsmodels.stats.proportion import proportion_confint

from d3s_utils.evaluation import (
    accuracy_table,
    benchmark_accuracy,
    cell_table,
    drop_table,
    evaluation_metrics,
    foreground_judges,
    metric_prefix,
    metric_prefixes,
    missed_by_all,
    overview_table,
    paired_scores,
    photo_accuracy,
    picture_set,
    read_pictures,
)
from d3s_utils.one_pass import score_logits
from d3s_utils.robustness_measures import drop_tests, leaderboard
from d3s_utils.taxonomy import IN9, IN9_OF_INDEX, imagenet_class, label_name

LION, TIGER, TENCH = (imagenet_class(name).index for name in ("lion", "tiger", "tench"))


def test_the_mapping_has_370_classes_in_nine():
    assert len(IN9_OF_INDEX) == 370
    assert set(IN9_OF_INDEX.values()) == set(IN9)
    assert len(IN9) == 9


def test_accuracies_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    truth = random.integers(0, 1000, 300)
    logits = random.normal(0, 1, (300, 1000))
    logits[np.arange(300), truth] += random.normal(2, 1.5, 300)
    table = pd.DataFrame({"imagenet_index": truth, "in9": [IN9_OF_INDEX.get(i, "") for i in truth]})
    scores = score_logits(table, logits)
    for column, k in (("top1", 1), ("top5", 5)):
        expected = top_k_accuracy_score(truth, logits, k=k, labels=np.arange(1000))
        assert scores[column].mean() == pytest.approx(expected)
    assert (scores["top5"] >= scores["top1"]).all()
    assert scores["in9_right"].isna().sum() == sum(i not in IN9_OF_INDEX for i in truth)


def test_a_lion_called_a_tiger_is_a_carnivore():
    logits = np.zeros((1, 1000))
    logits[0, TIGER], logits[0, LION] = 5, 3
    row = score_logits(pd.DataFrame({"imagenet_index": [LION], "in9": ["carnivore"]}), logits).iloc[0]
    assert (row["top1"], row["top5"], row["in9_right"], row["prediction"]) == (0, 1, 1, TIGER)
    assert row["probability"] == pytest.approx(np.exp(3) / (np.exp(5) + np.exp(3) + 998))


def test_a_network_of_nine_classes_is_right_where_it_names_the_superclass():
    carnivore, fish = IN9.index("carnivore"), IN9.index("fish")
    table = pd.DataFrame({
        "imagenet_index": [LION, TENCH, imagenet_class("banana").index, -1], "in9": ["carnivore", "fish", "", "fish"]
    })  # fmt: skip
    logits = np.zeros((4, 9))
    logits[:, carnivore] = 2
    scores = score_logits(table, logits)
    assert scores["prediction"].tolist() == [1000 + carnivore] * 4
    assert scores["top1"].tolist()[:2] == scores["in9_right"].tolist()[:2] == [1, 0]
    assert np.isnan(scores["top1"][2]), "a banana has no superclass"
    assert scores["top1"][3] == 0, "the superclass is known though the class is not"
    assert scores["top5"].isna().all()
    assert scores["probability"][:2].tolist() == pytest.approx([np.exp(2) / (np.exp(2) + 8), 1 / (np.exp(2) + 8)])
    assert np.isnan(scores["probability"][2])
    assert label_name(scores["prediction"][0]) == "carnivore"
    assert scores["prediction_2"][0] == 1000 + min(set(range(9)) - {carnivore})
    assert fish != carnivore


def pictures_table():
    """Three foregrounds, two shifted pictures each; of `c` none was kept."""
    rows = [{"foreground_id": f, "kind": "original", "background": "", "keep": True} for f in "abc"]
    rows += [
        {"foreground_id": f, "kind": "shifted", "background": background, "keep": f != "c"}
        for f in "abc"
        for background in ("snow", "cave")
    ]
    table = pd.DataFrame(rows)
    table["picture_id"] = table["foreground_id"] + table["background"]
    table["image_id"] = table["picture_id"].where(table["kind"] == "shifted", "")
    return table.assign(class_name="lion", imagenet_index=LION, in9="carnivore", file="")


def logits_for(right):
    """Return logits that name lion where `right`, else tench."""
    logits = np.zeros((len(right), 1000), np.float32)
    logits[np.arange(len(right)), np.where(right, LION, TENCH)] = 9
    return logits


def scores_of(pictures, **right):
    tables = [score_logits(pictures, logits_for(each)).assign(model=model) for model, each in right.items()]
    return pd.concat(tables, ignore_index=True)


@pytest.fixture
def scores():
    # originals a, b, c; then a snow, a cave, b snow, b cave, c snow, c cave
    always, sometimes = [1] * 9, [1, 1, 0, 1, 0, 0, 0, 0, 0]
    return scores_of(pictures_table(), always=always, sometimes=sometimes)


def test_a_foreground_without_a_kept_picture_is_left_out_on_both_sides(scores):
    assert set(paired_scores(scores)["foreground_id"]) == {"a", "b"}
    assert set(paired_scores(scores, validated_only=False)["foreground_id"]) == {"a", "b", "c"}


def test_accuracies_and_drops_by_hand(scores):
    paired = paired_scores(scores)
    accuracy = accuracy_table(paired).set_index(["model", "measure", "kind"])
    assert accuracy.loc[("sometimes", "top1", "original"), "value"] == 1.0
    assert accuracy.loc[("sometimes", "top1", "shifted"), "value"] == pytest.approx(1 / 4)
    assert accuracy.loc[("sometimes", "top1", "shifted"), "n"] == 4
    drops = drop_table(paired, seed=0).set_index(["model", "measure"])
    drop = drops.loc[("sometimes", "top1")]
    assert (drop["value"], drop["n"], drop["p_value"]) == pytest.approx((0.75, 2, 0.5)), "two pairs prove nothing"
    assert drop["low"] < 0
    assert drop["high"] == 1
    never = drops.loc[("always", "in9")]
    assert (never["value"], never["p_value"]) == (0, 1)
    assert never["low"] < 0 < never["high"]


def test_every_foreground_counts_the_same_however_many_of_its_pictures_were_kept():
    """Twenty easy objects of which nine were kept, twenty hard ones of which one was; nothing changed."""
    rows = []
    for number in range(40):
        right, kept = (1.0, 9) if number < 20 else (0.0, 1)
        row = {"model": "m", "foreground_id": f"f{number}", "class_name": "c", "in9": "dog", "keep": True}
        row |= dict.fromkeys(["top1", "top5", "in9_right"], right)
        rows.append(row | {"picture_id": f"f{number}", "kind": "original", "background": ""})
        rows += [row | {"picture_id": f"f{number}-{i}", "kind": "shifted", "background": f"b{i}"} for i in range(kept)]
    paired = paired_scores(pd.DataFrame(rows))
    drop = drop_table(paired, seed=0).set_index("measure").loc["top1"]
    assert (drop["value"], drop["p_value"]) == (0, 1)
    assert drop["low"] < 0 < drop["high"]
    accuracy = accuracy_table(paired).query("measure == 'top1'").set_index("kind")["value"]
    assert accuracy.tolist() == pytest.approx([0.5, 0.5])
    tests = drop_tests(paired, seed=0).iloc[0]
    assert tests[["drop", "p_value", "p_sign_flip", "p_mcnemar", "p_holm", "relative"]].tolist() == [0, 1, 1, 1, 1, 1]
    board = leaderboard(paired, groups={"m": "cnn"}, seed=0, samples=50).iloc[0]
    assert (board["top1_original"], board["top1_shifted"]) == pytest.approx((0.5, 0.5))


def test_the_drop_is_the_difference_of_the_two_accuracies(scores):
    paired = paired_scores(scores, validated_only=False)
    metrics = evaluation_metrics(accuracy_table(paired), drop_table(paired, seed=0))
    for measure in ("top1", "top5", "in9"):
        original, shifted, drop = (
            metrics[f"sometimes/{measure}_{kind}"].value for kind in ("original", "shifted", "drop")
        )
        assert drop == pytest.approx(original - shifted)


def test_cells_hold_wilson_intervals(scores):
    cells = cell_table(paired_scores(scores), ["model", "class_name", "background"])
    cell = cells.query("model == 'sometimes' and background == 'snow'").iloc[0]
    low, high = proportion_confint(1, 2, method="wilson")
    assert (cell["value"], cell["low"], cell["high"], cell["n"]) == pytest.approx((0.5, low, high, 2))
    assert len(cells) == 4


def test_classes_without_a_superclass_count_for_top1_only():
    pictures = pictures_table().assign(in9="", imagenet_index=imagenet_class("banana").index)
    scores = scores_of(pictures, model=[1] * 9)
    assert set(accuracy_table(scores)["measure"]) == {"top1", "top5"}
    assert set(drop_table(paired_scores(scores), seed=0)["measure"]) == {"top1", "top5"}


def test_photo_accuracy_by_hand():
    photos = pd.DataFrame({"imagenet_index": [LION] * 4, "in9": ["carnivore"] * 4, "severity": [1, 1, 1, 2]})
    scores = scores_of(photos, model=[1, 1, 0, 0])
    table = photo_accuracy(scores).set_index("measure")
    low, high = proportion_confint(2, 4, method="wilson")
    assert table.loc["top1", ["value", "low", "high", "n"]].tolist() == pytest.approx([0.5, low, high, 4])
    by_severity = photo_accuracy(scores, by=["severity"]).set_index(["severity", "measure"])
    assert by_severity.loc[(1, "in9"), "value"] == pytest.approx(2 / 3)
    assert by_severity.loc[(2, "top1"), "value"] == 0


def test_what_everybody_misses_is_said_with_what_they_say(scores):
    missed, shown = missed_by_all(paired_scores(scores))
    assert (len(missed), shown) == (0, 4), "one model is always right"
    sometimes = scores[scores["model"] == "sometimes"]
    missed, shown = missed_by_all(paired_scores(sometimes))
    assert missed["picture_id"].tolist() == ["acave", "bcave", "bsnow"]
    assert missed["caption"][0] == "lion, cave\n→ tench"
    assert shown == 4


def test_a_benchmark_is_measured_in_the_groups_that_it_has():
    photos = pd.DataFrame({"imagenet_index": [LION] * 4, "in9": ["carnivore"] * 4, "severity": [1, 1, 2, 2]})
    photos["corruption"] = "fog"
    table = benchmark_accuracy(scores_of(photos, model=[1, 1, 0, 1])).query("measure == 'top1'")
    found = dict(zip(table["group"], table["value"], strict=True))
    assert found == {"": 0.75, "severity=1": 1.0, "severity=2": 0.5}, "one corruption makes no groups"


def test_the_overview_sets_photos_beside_dreamt_pictures(scores):
    paired = paired_scores(scores)
    board = leaderboard(paired, groups={"always": "a", "sometimes": "b"}, minimum=1, seed=0, samples=100)
    photos = photo_accuracy(scores_of(pictures_table(), always=[1] * 9, sometimes=[1] * 3 + [0] * 6))
    table = overview_table(board, photos.assign(photos="Some photos, 64 px")).set_index("model")
    assert table.loc["sometimes", "top1_on_Some_photos_64_px"] == pytest.approx(1 / 3)
    assert table.loc["sometimes", ["top1_original", "top1_shifted", "top1_drop"]].tolist() == [1.0, 0.25, 0.75]
    assert "p_holm" in table
    assert not any("photos" in name for name in overview_table(board))
    drops = drop_table(paired, seed=0)
    metrics = evaluation_metrics(accuracy_table(paired), drops, photos.assign(photos="x"), board=board)
    assert metrics["sometimes/top1_on_photos_1"].value == pytest.approx(1 / 3)
    assert metrics["sometimes/relative_accuracy"].value == pytest.approx(0.25)
    assert metrics["always/worst_background_accuracy"].value == 1.0
    assert "always/effective_robustness" not in metrics, "two models make no line"


def test_the_pictures_are_a_set_of_files(tmp_path):
    pictures = pictures_table().assign(file=[f"{k}.png" for k in range(9)])
    images = picture_set(pictures, root=tmp_path)
    assert images.pictures[8] == tmp_path / "8.png"
    assert set(images.table.columns) >= {"kind", "background", "keep", "foreground_id"}


def test_corruptions_of_one_photo_are_relatives():
    photos = pd.DataFrame({"imagenet_index": [LION] * 40, "in9": "carnivore", "foreground_id": list("abcd") * 10})
    scores = scores_of(photos, model=[1, 1, 0, 0] * 10)
    clustered = photo_accuracy(scores).set_index("measure").loc["top1"]
    alone = photo_accuracy(scores.drop(columns="foreground_id")).set_index("measure").loc["top1"]
    assert clustered["high"] - clustered["low"] > 2 * (alone["high"] - alone["low"])


def test_models_of_one_last_name_keep_their_numbers_apart(scores):
    paired = paired_scores(scores).replace({"model": {"always": "ViT-B-32/openai", "sometimes": "ViT-L-14/openai"}})
    metrics = evaluation_metrics(accuracy_table(paired), drop_table(paired, seed=0))
    assert metrics["ViT-B-32_openai/top1_shifted"].value == 1.0
    assert metrics["ViT-L-14_openai/top1_shifted"].value == 0.25
    assert metric_prefixes(["a/x", "b/y"]) == {"a/x": "x", "b/y": "y"}
    with pytest.raises(ValueError, match="names that differ in letters or digits, got a b"):
        metric_prefixes(["a b", "a/b", "c b/a b", "a?b"])


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0"),
        ("hf-hub:timm/vit_base.augreg_in1k", "vit_base.augreg_in1k"),
        ("/models/my model/", "my_model"),
    ],
)
def test_metric_prefixes_are_names(model, prefix):
    assert metric_prefix(model) == prefix


def test_rows_must_fit():
    with pytest.raises(ValueError, match=r"logits must have shape \(9, 1000\), or 9 columns, got \(2, 1000\)"):
        score_logits(pictures_table(), logits_for([1, 1]))
    with pytest.raises(ValueError, match="measure must be one of"):
        cell_table(pictures_table(), ["model"], measure="top3")


def test_the_pictures_of_a_run_are_four_kinds_of_each_image(tmp_path):
    shared = {"class_name": "lion", "imagenet_index": LION, "in9": "carnivore"}
    plain = pd.DataFrame(
        [
            shared | {"foreground_id": f, "split": s, "file": f"{f}.png"}
            for f, s in zip("ab", ("train", "val"), strict=True)
        ]
    )
    images = pd.DataFrame([
        shared | {"image_id": f"{f}-{b}", "foreground_id": f, "split": s, "background": b, "template_id": f"{b}0",
                  "file": f"{f}{b}.png", "guide_file": f"{f}{b}g.png", "keep": keep}
        for f, s, b, keep in [("a", "train", "snow", True), ("b", "val", "snow", True), ("b", "val", "cave", False)]
    ])  # fmt: skip
    for stem, name, table in (("01_compositing", "foregrounds", plain), ("03_validation", "validated", images)):
        (tmp_path / stem).mkdir()
        table.to_parquet(tmp_path / stem / f"{name}.parquet")
    pictures = read_pictures(tmp_path)
    assert pictures["kind"].value_counts().to_dict() == {"original": 2, "shifted": 3, "guide": 2}, "without twins"
    assert pictures["picture_id"].is_unique
    assert read_pictures(tmp_path, split="val")["foreground_id"].unique().tolist() == ["b"]
    twins = images.assign(
        placed_file=["p", "q", "r"], placed_repainted_file=["s", "t", "u"],
        placed_foreground_agrees=pd.array([True, False, True], "boolean"),
    )  # fmt: skip
    twins.to_parquet(tmp_path / "03_validation" / "validated.parquet")
    pictures = read_pictures(tmp_path)
    assert pictures.groupby("kind").size().to_dict() == {
        "original": 2, "placed": 1, "guide": 1, "placed_repainted": 3, "shifted": 3
    }  # fmt: skip
    kept = pictures[pictures["keep"]]
    assert set(kept["image_id"]) == {"", "a-snow"}, "both sides of a pair meet the judge"
    assert kept.loc[kept["kind"] != "original", "file"].tolist() == ["p", "s", "asnowg.png", "asnow.png"]
    assert set(pictures.loc[pictures["kind"].isin(["guide", "shifted"]), "template_id"]) == {"snow0", "cave0"}
    assert set(pictures.loc[pictures["kind"].str.startswith("placed"), "template_id"]) == {""}
    without = twins.assign(placed_foreground_agrees=pd.array([True, None, None], "boolean"))
    without.to_parquet(tmp_path / "03_validation" / "validated.parquet")
    assert read_pictures(tmp_path).query("kind == 'shifted'")["keep"].tolist() == [True, False, False]


def test_missing_or_empty_inputs_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="run notebook 01_compositing first"):
        read_pictures(tmp_path)
    labels = {"split": ["val"], "class_name": ["lion"], "imagenet_index": [LION], "in9": ["carnivore"], "file": ["x"]}
    shared = pd.DataFrame(labels | {"foreground_id": ["a"]})
    for stem, name in (("01_compositing", "foregrounds"), ("03_validation", "validated")):
        (tmp_path / stem).mkdir()
        shared.assign(image_id="a-snow", background="snow", keep=False).to_parquet(tmp_path / stem / f"{name}.parquet")
    with pytest.raises(ValueError, match="none of the 1 pictures"):
        read_pictures(tmp_path)


def test_whoever_decided_what_was_kept_is_named(tmp_path):
    path = tmp_path / "03_validation" / "validated.parquet"
    path.parent.mkdir()
    pd.DataFrame({"keep": [True]}).to_parquet(path)
    assert foreground_judges(tmp_path) == frozenset()
    said = pd.DataFrame({"foreground_judged_by": ["small_resnet", "one, other", "", None]})
    said.to_parquet(path)
    assert foreground_judges(tmp_path) == {"small_resnet", "one", "other"}
