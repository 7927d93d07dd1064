"""What the cards of judges say of held-out photos, as one table."""

from types import SimpleNamespace

import pytest

from d3s_utils.background_classifier import load_background_head
from d3s_utils.judge_cards import COLUMNS, card_accuracies
from d3s_utils.small_resnet import TRANSFORM, SmallResnet

ALL = {"value": 0.6, "low": 0.5, "high": 0.7, "n": 100}
CARD = {
    "test": {
        "superclass/photos": {"accuracy": ALL, "recall": {"dog": ALL | {"n": 20}}},
        "background/scenes": {"accuracy": ALL | {"value": 0.9}, "recall": {"snow": ALL}},
    }
}


def a_panel(**judges):
    small = SmallResnet(None, TRANSFORM, "", "cpu", CARD)
    asked = {"foreground_judges": (small,), "foreground_witnesses": (SimpleNamespace(name="a stranger's"),),
             "background_judges": {"background_head": load_background_head("background_head")},
             "background_witnesses": {"small_resnet": small}}  # fmt: skip
    return SimpleNamespace(**asked | judges)


def test_each_question_has_the_cards_of_its_judges():
    cards = card_accuracies(a_panel())
    assert list(cards.columns) == COLUMNS
    of_all = cards[cards["label"] == ""].set_index(["question", "model", "shown"])
    assert of_all.loc[("foreground", "small_resnet", "photos"), ["value", "low", "high", "n"]].tolist() == [
        *ALL.values()
    ]
    assert of_all.loc[("background", "small_resnet", "scenes"), "value"] == 0.9
    assert of_all["decides"].groupby(["question", "model"]).first().to_dict() == {
        ("foreground", "small_resnet"): True,
        ("background", "background_head"): True,
        ("background", "small_resnet"): False,
    }


def test_the_numbers_are_those_of_the_card():
    head = load_background_head("background_head")
    cards = card_accuracies(a_panel()).query("model == 'background_head' and shown == 'scenes_blurred'")
    assert cards[cards["label"] == ""]["value"].item() == head.card["scenes_blurred"]["accuracy"]["value"]
    recalls = cards[cards["label"] != ""].set_index("label")["value"].to_dict()
    assert recalls == pytest.approx(head.card["scenes_blurred"]["recall"])


def test_a_classifier_without_a_card_is_not_listed():
    nobody = a_panel(foreground_judges=(SimpleNamespace(name="lite2"),), foreground_witnesses=())
    assert set(card_accuracies(nobody)["question"]) == {"background"}
