"""The card of a dataset that a run made, in Hugging Face's format: counts, numbers with intervals, licences, limits."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import DatasetCard, DatasetCardData

from d3s_utils.atomic_files import write_text
from d3s_utils.metrics import Estimate
from d3s_utils.taxonomy import BACKGROUNDS

TEMPLATE = Path(__file__).with_suffix(".md")
VOTES = {"none": "", "simulated": "simulated votes", "people": "people's votes"}
REASONS = ("foreground", "background", "unsafe", "unreadable", "other")
_NEEDED = ("split", "class_name", "background", "keep", "reason")
_VERDICTS = {"foreground_agreement", "background_agreement", "acceptance", "safe"}  # of models until people overrule
_OF_VOTES = ("krippendorff", "filter_", "vote", "worker")  # what the name of a number begins with that needs votes
_LICENCES = (
    "apache-2.0", "bigscience-openrail-m", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-sa-4.0", "cc0-1.0",
    "creativeml-openrail-m", "mit", "openrail", "openrail++",
)  # fmt: skip


def as_text(value: object) -> str:
    """Return a value so that Markdown shows it letter by letter on one line: no markup, no link, no table's column."""
    text = " ".join(str(value).split())
    for letter, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("://", "&#58;//"), ("www.", "www&#46;")):
        text = text.replace(letter, name)
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)


def rejections(table: pd.DataFrame) -> dict[str, int]:
    """Return how many rejected pictures name each of `REASONS`; one that names several counts for each."""
    counts = Counter()
    for reason in table.loc[~table["keep"].astype(bool), "reason"]:
        said = {part.split(":")[0].strip() for part in str(reason).split("; ")}
        counts.update({kind if kind in REASONS else "other" for kind in said})
    return {kind: counts[kind] for kind in REASONS}


def write_dataset_card(
    folder: str | Path,
    *,
    table: pd.DataFrame,
    metrics: Mapping[str, Estimate],
    rule: str,
    thresholds: object,
    generator: Mapping[str, object],
    licences: Mapping[str, str],
    votes: str = "none",
) -> Path:
    """Write ``README.md`` beside the ``data`` of `dataset_export.write_parquet` and return its path.

    Args:
        folder: Gets the card.
        table: Has `split`, `class_name`, `background`, `keep`, `reason`, and if it tells `verdict_source`.
        metrics: What was measured, by name: ``krippendorff_alpha/object``, ``acceptance/snow`` …
        rule: In words, when a picture is kept.
        thresholds: `validation.Thresholds`, or a mapping of names to numbers.
        generator: What made the pictures: model, strength and so on.
        licences: Part (pictures, code, photos …) -> its licence.
        votes: ``none``, ``simulated`` or ``people``: whose votes the numbers rest on. Beside every number that rests
            on simulated votes the card says so. Verdicts do where `verdict_source` names others than models, or is
            absent; agreement between voters and the quality of filters always do.

    Raises:
        ValueError: If a column is missing, the table is empty, `licences` is, `votes` is none of the three, or it is
            "none" although the table or the metrics rest on some.
    """
    missing = [name for name in _NEEDED if name not in table]
    if missing or table.empty:
        raise ValueError(
            f"table must have rows and the columns {', '.join(_NEEDED)}; missing: {', '.join(missing) or 'rows'}"
        )
    if votes not in VOTES:
        raise ValueError(f"votes must be one of {', '.join(VOTES)}, got {votes!r}")
    if not licences:
        raise ValueError("licences must say under which licence at least the pictures are, got none")
    by_votes = _verdicts_by_votes(table, votes)
    _check_no_votes(metrics, by_votes, votes)
    odd = [split for split in table["split"].unique() if not re.fullmatch(r"[A-Za-z0-9_]+", str(split))]
    if odd:
        raise ValueError(f"split must be letters, digits and '_', got {odd[0]!r}")
    splits = [str(split) for split in sorted(table["split"].unique())]
    said = f" ({VOTES[votes]})" if by_votes and votes == "simulated" else ""
    context = {
        "splits": [_counts(split, table[table["split"] == split], said) for split in splits],
        "total": _counts("all", table, said),
        "backgrounds": _backgrounds(table),
        "classes": _classes(table, said),
        "reasons": [(kind, f"{count}{said}") for kind, count in rejections(table).items()],
        "metrics": [_metric(name, estimate, votes, by_votes) for name, estimate in metrics.items()],
        "votes": votes,
        "rule": rule,
        "thresholds": _pairs(thresholds),
        "generator": _pairs(generator),
        "licences": _pairs(licences),
    }
    card = DatasetCard.from_template(_header(splits, licences), template_path=str(TEMPLATE), **_escaped(context))
    path = Path(folder) / "README.md"
    write_text(path, str(card).rstrip("\n") + "\n")
    return path


def _verdicts_by_votes(table: pd.DataFrame, votes: str) -> bool:
    """Return whether any verdict of the table rests on votes; if it does not tell, all do that there are."""
    if "verdict_source" not in table:
        return votes != "none"
    return bool((table["verdict_source"].fillna("models") != "models").any())


def _check_no_votes(metrics: Mapping[str, Estimate], by_votes: bool, votes: str) -> None:
    if votes != "none":
        return
    named = [name for name in metrics if any(part.startswith(_OF_VOTES) for part in name.split("/"))]
    if by_votes or named:
        what = f"the metric {named[0]} rests on some" if named else "verdict_source names others than models"
        raise ValueError(f"votes must be simulated or people, got 'none' although {what}")


def _header(splits: list[str], licences: Mapping[str, str]) -> DatasetCardData:
    stated = {licence.strip().lower() for licence in licences.values()}
    one = len(stated) == 1 and stated <= set(_LICENCES)
    return DatasetCardData(
        **({"license": stated.pop()} if one else {"license": "other", "license_name": "see-this-card"}),
        task_categories=["image-classification"],
        tags=["d3s", "synthetic", "distribution-shift", "background-robustness", "research"],
        pretty_name="Diffusion dreamed distribution shifts",
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    )


def _counts(name: str, table: pd.DataFrame, said: str) -> dict[str, Any]:
    kept = int(table["keep"].sum())
    return {
        "name": name, "all": len(table), "kept": f"{kept}{said}", "rejected": f"{len(table) - kept}{said}",
        "share": f"{kept / len(table):.3f}{said}", "classes": table["class_name"].nunique(),
    }  # fmt: skip


def _backgrounds(table: pd.DataFrame) -> list[str]:
    there = set(table["background"])
    return [name for name in BACKGROUNDS if name in there] + sorted(there - set(BACKGROUNDS))


def _classes(table: pd.DataFrame, said: str) -> list[dict[str, Any]]:
    kept = table["keep"].astype(bool).groupby([table["class_name"], table["background"]]).agg(["sum", "size"])
    cells = {key: f"{int(row['sum'])}/{int(row['size'])}{said}" for key, row in kept.iterrows()}
    return [
        {"name": name, "cells": [cells.get((name, background), "–") for background in _backgrounds(table)]}
        for name in sorted(table["class_name"].unique())
    ]


def _metric(name: str, estimate: Estimate, votes: str, by_votes: bool) -> dict[str, Any]:
    parts = name.split("/")
    voted = any(part.startswith(_OF_VOTES) for part in parts) or (by_votes and not _VERDICTS.isdisjoint(parts))
    source = VOTES[votes] if voted and VOTES[votes] else "models"
    value = f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"
    simulated = f" ({source})" if votes == "simulated" and source == VOTES[votes] else ""
    return {"name": name, "value": value + simulated, "n": estimate.n, "source": source}


def _pairs(values: object) -> list[tuple[str, object]]:
    items = values if isinstance(values, Mapping) else vars(values)
    return [(str(name).replace("_", " "), value) for name, value in items.items()]


def _escaped(value: Any) -> Any:
    """Return everything that the template gets as text that is only text, so that none can be forgotten."""
    if isinstance(value, Mapping):
        return {name: _escaped(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(item) for item in value]
    return as_text(value)
