"""How good a generator is: what judges that never saw it find in its pictures, by strength and by guidance."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from d3s_utils.background_classifier import BackgroundHead, load_background_head
from d3s_utils.classifiers import (
    Classifier,
    Picture,
    classify_batch,
    load_classifier,
    look,
    predict,
    whole_picture_classifier,
)
from d3s_utils.dreaming import DreamOptions, dream_from_guides, dream_from_text
from d3s_utils.intervals import bootstrap_mean, clustered_wilson
from d3s_utils.picture_statistics import kernel_distance
from d3s_utils.pipelines import LoadedPipeline
from d3s_utils.taxonomy import BACKGROUNDS, IN9, in9_of_logits

FEATURE_SIDE = 128  # pixels at which pictures are seen for their features, whole


@dataclass(frozen=True)
class Judges:
    """Three that had no say in training the generator.

    Attributes:
        foreground: EfficientNet-Lite2, which names the superclass.
        background: A linear head, trained on real scenes kept from the generator, which names the background.
        features: EfficientNet-Lite0, which gives features for distances (it sees the whole picture).
    """

    foreground: Classifier
    background: BackgroundHead
    features: Classifier

    @property
    def sha256(self) -> dict[str, str]:
        """The weights' sha256 by name."""
        named = {judge.name: judge.sha256 for judge in (self.foreground, self.features)}
        return named | {"background_head": self.background.sha256}


@dataclass(frozen=True)
class Verdicts:
    """What the judges say about n pictures.

    Attributes:
        in9: ImageNet-9 superclass of each, strings (n,).
        background: D3S background of each, strings (n,).
        features: float32, shape (n, 1280).
    """

    in9: np.ndarray
    background: np.ndarray
    features: np.ndarray


def load_judges(*, device: str = "cpu") -> Judges:
    """Return the judges, on `device`, without a network."""
    return Judges(
        load_classifier("tf_efficientnet_lite2", device=device),
        load_background_head(device=device),
        whole_picture_classifier("tf_efficientnet_lite0", FEATURE_SIDE, device=device),
    )


def judge_pictures(
    judges: Judges, pictures: Sequence[Picture], *, batch_size: int = 32, description: str = "judging"
) -> Verdicts:
    """Return what the judges say about pictures (files or uint8 arrays), each of which is read once.

    Raises:
        PictureError: If a picture cannot be read.
    """
    three = [judge.looker for judge in (judges.foreground, judges.background, judges.features)]
    (foreground, background, features), _ = look(pictures, three, batch_size=batch_size, description=description)
    return Verdicts(
        np.array(IN9)[in9_of_logits(foreground[:, :1000])],
        np.array(list(BACKGROUNDS))[background.argmax(1)],
        features[:, 1000:],
    )


def picture_features(
    judges: Judges, pictures: Sequence[Picture], *, batch_size: int = 64, description: str = "features"
) -> np.ndarray:
    """Return the features alone of `judge_pictures`, float32 (n, 1280), in a fraction of its time."""
    predictions = predict([judges.features], pictures, batch_size=batch_size, description=description)
    return predictions[judges.features.name].features


def recommended_value(curve: pd.DataFrame, wanted: Mapping[str, float]) -> float:
    """Return the greatest value of a setting at which all that is wanted is reached; else the one that comes nearest.

    A greater strength leaves less of the paste and its seams, so the greatest that still keeps the labels is taken.

    Args:
        curve: From `setting_curve`.
        wanted: Measure -> the least that is wanted of it, positive.

    Raises:
        ValueError: If the curve is empty, nothing is wanted, or a measure is missing from the curve.
    """
    if curve.empty:
        raise ValueError("curve must have at least one value of the setting, got none")
    values = curve.pivot_table(index="at", columns="measure", values="value").sort_index()
    missing = sorted(set(wanted) - set(values))
    if missing or not wanted:
        raise ValueError(f"wanted must name measures of the curve ({', '.join(values)}), got {missing or 'none'}")
    reached = (values[list(wanted)] / pd.Series(wanted)).min(axis=1)
    enough = reached[reached >= 1]
    return float(enough.index[-1] if len(enough) else reached.idxmax())


def setting_curve(
    pipeline: LoadedPipeline,
    guides: np.ndarray,
    table: pd.DataFrame,
    *,
    setting: str,
    values: Sequence[float],
    options: DreamOptions,
    judges: Judges,
    photo_features: np.ndarray,
    seed: int,
) -> tuple[pd.DataFrame, dict[float, np.ndarray]]:
    """Dream the same guides with the same seeds at several values of one setting, and measure each time.

    Args:
        pipeline: The generator.
        guides: uint8, shape (n, h, w, 3).
        table: A row a guide: `prompt`, `seed`, `in9`, `background`, and `foreground_id` (guides of one foreground
            are one cluster).
        setting: ``strength`` or ``guidance_scale``, of `options`.
        values: The setting's values.
        options: The other settings.
        judges: See `load_judges`.
        photo_features: Of real photos, what pictures should be near to.
        seed: Of the bootstrap.

    Returns:
        A tidy table with `setting`, `at` (its value), `measure`, `value`, `low`, `high`, `n`. Measures:
        ``foreground_agreement``, ``background_agreement``, ``kernel_distance`` (to the photos, no two pictures of one
        foreground compared) and ``guide_distance`` (mean absolute difference in grey levels).

    Raises:
        ValueError: If `setting` is another, or a value is out of its range.
    """
    if setting not in ("strength", "guidance_scale"):
        raise ValueError(f"setting must be strength or guidance_scale, got {setting!r}")
    rows, groups = [], table["foreground_id"].to_numpy()
    for value in values:
        chosen = replace(options, **{setting: float(value)})
        dreamt = dream_from_guides(
            pipeline, guides, table["prompt"].to_list(), table["seed"].to_list(), strength=chosen.strength,
            steps=chosen.steps, guidance_scale=chosen.guidance_scale, eta=chosen.eta,
            description=f"{setting} {value:g}",
        )  # fmt: skip
        verdicts = judge_pictures(judges, list(dreamt), description=f"judging {setting} {value:g}")
        apart = np.abs(dreamt.astype(np.int16) - guides).mean((1, 2, 3))
        measures = {
            "foreground_agreement": clustered_wilson(verdicts.in9 == table["in9"].to_numpy(), groups),
            "background_agreement": clustered_wilson(verdicts.background == table["background"].to_numpy(), groups),
            "kernel_distance": kernel_distance(verdicts.features, photo_features, clusters=groups).estimate,
            "guide_distance": bootstrap_mean(apart, groups=groups, seed=seed),
        }
        rows += [{"setting": setting, "at": float(value), "measure": m} | vars(e) for m, e in measures.items()]
    return pd.DataFrame(rows)


def dreaming_cost(
    pipeline: LoadedPipeline, classifier: Classifier, *, options: DreamOptions, pictures: int = 16, rounds: int = 3
) -> pd.DataFrame:
    """Time dreaming from text beside one forward pass of a classifier, in turns.

    A ratio of the two says more than seconds, which hang on the machine.

    Args:
        options: Steps and guidance; without strength, since there is no guide.
        pictures: How many are dreamt, and classified, in each round.

    Returns:
        A line a round: `round`, `dreamt_per_second`, `classified_per_second`, `passes` (forward passes of the
        classifier in the time of one dreamt picture).
    """
    prompts, seeds = [""] * pictures, list(range(pictures))
    batch = torch.rand((pictures, 3, 224, 224), generator=torch.Generator().manual_seed(0))
    lines = []
    for number in range(-1, rounds):  # the first round warms up
        start = time.perf_counter()
        dream_from_text(
            pipeline, prompts, seeds, steps=options.steps, guidance_scale=options.guidance_scale, eta=options.eta,
            batch_size=pictures, description="timing",
        )  # fmt: skip
        between = time.perf_counter()
        classify_batch(classifier, batch)
        end = time.perf_counter()
        if number >= 0:
            rates = pictures / (between - start), pictures / (end - between)
            lines.append((number, *rates, rates[1] / rates[0]))
    return pd.DataFrame(lines, columns=["round", "dreamt_per_second", "classified_per_second", "passes"])
