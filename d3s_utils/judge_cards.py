"""How far judges can be trusted: how often they were right on held-out photos, as their cards say."""

from collections.abc import Mapping

import pandas as pd

from d3s_utils.panel import Panel
from d3s_utils.small_resnet import SmallResnet

COLUMNS = ["question", "model", "decides", "shown", "label", "value", "low", "high", "n"]
_HEADS = {"foreground": "superclass", "background": "background"}  # question -> part of a small network's card
_SCENES = ("scenes", "scenes_with_object", "scenes_blurred")  # parts of a background head's card


def card_accuracies(panel: Panel) -> pd.DataFrame:
    """Return the accuracies and recalls on the cards of a panel's judges and auxiliary judges.

    Only what this project trained has such a card; of other classifiers nothing is listed.

    Returns:
        `question` (foreground, background), `model`, `decides` (a judge, not an auxiliary one), `shown` (photos,
        photos_blurred, composites, scenes, scenes_blurred, scenes_with_object), `label` (empty: of all images
        together), `value`, `low`, `high` (NaN where the card has no interval), `n`.
    """
    sides = {
        "foreground": ({m.name: m for m in panel.foreground_judges}, {m.name: m for m in panel.foreground_witnesses}),
        "background": (panel.background_judges, panel.background_witnesses),
    }
    rows = []
    for question, (judges, auxiliary) in sides.items():
        for name, model in {**judges, **auxiliary}.items():
            for shown, measured in _parts(model, question).items():
                about = {"question": question, "model": name, "decides": name in judges, "shown": shown}
                rows.append(about | {"label": ""} | measured["accuracy"])
                rows += [about | {"label": label} | _estimate(recall) for label, recall in measured["recall"].items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def _parts(model: object, question: str) -> dict[str, Mapping]:
    """Return what a card measured, by what was shown."""
    card = getattr(model, "card", {})
    if isinstance(model, SmallResnet):
        parts = {tuple(name.split("/")): measured for name, measured in card["test"].items()}
        return {shown: measured for (head, shown), measured in parts.items() if head == _HEADS[question]}
    return {shown: card[shown] for shown in _SCENES if shown in card}


def _estimate(recall: float | Mapping) -> dict:
    return dict(recall) if isinstance(recall, Mapping) else {"value": recall}
