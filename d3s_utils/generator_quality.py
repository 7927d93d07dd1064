"""How good a generator is: what judges that never saw it find in its pictures, and which settings serve it best."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from d3s_utils.background_classifier import BackgroundHead, load_background_head
from d3s_utils.classifiers import (
    Classifier,
    Picture,
    classify_batch,
    load_classifier,
    look,
    predict,
    recognisability,
    whole_picture_classifier,
)
from d3s_utils.dreaming import DreamOptions, dream_from_guides, dream_from_text
from d3s_utils.intervals import clustered_mean, clustered_wilson
from d3s_utils.metrics import Estimate
from d3s_utils.picture_statistics import distances_within_classes, kernel_distance
from d3s_utils.pipelines import LoadedPipeline
from d3s_utils.randomness import derive_seed
from d3s_utils.small_resnet import SmallResnet, load_small_resnet
from d3s_utils.taxonomy import BACKGROUNDS, IN9, ImageNetClass, classes_of, in9_of_logits, object_prompt

FEATURE_SIDE = 128  # pixels at which pictures are seen for their features, whole


@dataclass(frozen=True)
class Judges:
    """Four that had no say in training the generator; the first is no relative of the network that had.

    Attributes:
        stranger: The project's own small network, trained from nothing, which names superclass and background.
        sister: EfficientNet-Lite2, which names the superclass too: a better eye, but a sister of the network that
            shaped the generator.
        sister_background: A linear head on another sister's features, trained on real scenes kept from the generator,
            which names the background too.
        features: EfficientNet-Lite0, which gives features for distances (it sees the whole picture).
    """

    stranger: SmallResnet
    sister: Classifier
    sister_background: BackgroundHead
    features: Classifier

    @property
    def sha256(self) -> dict[str, str]:
        """The weights' sha256 by name."""
        named = {judge.name: judge.sha256 for judge in (self.stranger, self.sister, self.features)}
        return named | {"background_head": self.sister_background.sha256}


@dataclass(frozen=True)
class Verdicts:
    """What the judges say about n pictures.

    Attributes:
        in9: ImageNet-9 superclass of each, strings (n,), as the stranger names it.
        background: D3S background of each, strings (n,), as the stranger names it.
        sister_in9, sister_background: The same as the sisters name them.
        features: float32, shape (n, 1280).
    """

    in9: np.ndarray
    background: np.ndarray
    sister_in9: np.ndarray
    sister_background: np.ndarray
    features: np.ndarray


def load_judges(*, device: str = "cpu") -> Judges:
    """Return the judges, on `device`, without a network."""
    return Judges(
        load_small_resnet(device=device),
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
    seen_by = (judges.stranger, judges.sister, judges.sister_background, judges.features)
    found, _ = look(pictures, [judge.looker for judge in seen_by], batch_size=batch_size, description=description)
    stranger, sister, sister_background, features = found
    in9, background, _ = np.split(stranger, np.cumsum([len(IN9), len(BACKGROUNDS)]), axis=1)
    return Verdicts(
        np.array(IN9)[in9.argmax(1)],
        np.array(list(BACKGROUNDS))[background.argmax(1)],
        np.array(IN9)[in9_of_logits(sister[:, :1000])],
        np.array(list(BACKGROUNDS))[sister_background.argmax(1)],
        features[:, 1000:],
    )


def named_superclasses(judges: Judges, pictures: Sequence[Picture], *, description: str = "judging") -> np.ndarray:
    """Return what the stranger alone names in pictures, strings (n,), in a fraction of the panel's time."""
    looker = judges.stranger.superclass_looker
    (found,), _ = look(pictures, [looker], batch_size=64, description=description)
    return np.array(IN9)[found.argmax(1)]


def family_gap(
    generated: Mapping[str, np.ndarray], photos: Mapping[str, np.ndarray], classes: ArrayLike, photo_classes: ArrayLike
) -> Estimate:
    """Return how much more a relative of the generator's teacher likes generated images than an outsider does.

    Both find the object in photos at rates of their own. The gap is how far the sister's rate rises from
    photos to generated images, less how far the stranger's does, by class, averaged over classes. Above 0 the
    generator pleases the family rather than eyes.

    Args:
        generated: ``stranger`` and ``sister``: whether either judge finds the object, booleans (n,).
        photos: The same of photos, (m,).
        classes, photo_classes: The class of each image and photo, (n,) and (m,).

    Returns:
        A difference of shares; its `n` is the number of classes that both have.

    Raises:
        ValueError: If no class is in both.
    """
    rates = {
        (judge, kind): pd.Series(np.asarray(found[judge], float)).groupby(np.asarray(labels)).mean()
        for kind, found, labels in (("generated", generated, classes), ("photos", photos, photo_classes))
        for judge in ("stranger", "sister")
    }
    rises = [rates[judge, "generated"] - rates[judge, "photos"] for judge in ("sister", "stranger")]
    gaps = (rises[0] - rises[1]).dropna()
    if gaps.empty:
        raise ValueError("classes must have one that photo_classes has too, got none")
    return clustered_mean(gaps.to_numpy())


def picture_features(
    judges: Judges, pictures: Sequence[Picture], *, batch_size: int = 64, description: str = "features"
) -> np.ndarray:
    """Return the features alone of `judge_pictures`, float32 (n, 1280), in a fraction of its time."""
    predictions = predict([judges.features], pictures, batch_size=batch_size, description=description)
    return predictions[judges.features.name].features


def recommended_value(curve: pd.DataFrame, wanted: Mapping[str, float], *, least: bool = False) -> float:
    """Return the greatest value of a setting at which all that is wanted is reached; else the one that comes nearest.

    A greater strength leaves less of the paste and its seams, so the greatest that still keeps the labels is taken. Of
    guidance, which buys recognition with variety, take the least.

    Args:
        curve: From `setting_curve`.
        wanted: Measure -> the least that is wanted of it, positive.
        least: Whether the least value is wanted in place of the greatest.

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
    return float(enough.index[0 if least else -1] if len(enough) else reached.idxmax())


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
) -> pd.DataFrame:
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

    Returns:
        A tidy table with `setting`, `at` (its value), `measure`, `value`, `low`, `high`, `n`. Measures:
        ``foreground_agreement`` and ``background_agreement`` (the stranger's), ``auxiliary_agreement`` and
        ``auxiliary_background_agreement`` (the sisters'), ``kernel_distance`` (to the photos, no two pictures of one
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
        in9, background = table["in9"].to_numpy(), table["background"].to_numpy()
        measures = {
            "foreground_agreement": clustered_wilson(verdicts.in9 == in9, groups),
            "auxiliary_agreement": clustered_wilson(verdicts.sister_in9 == in9, groups),
            "background_agreement": clustered_wilson(verdicts.background == background, groups),
            "auxiliary_background_agreement": clustered_wilson(verdicts.sister_background == background, groups),
            "kernel_distance": kernel_distance(verdicts.features, photo_features, clusters=groups).estimate,
            "guide_distance": clustered_mean(apart, groups=groups),
        }
        rows += [{"setting": setting, "at": float(value), "measure": m} | vars(e) for m, e in measures.items()]
    return pd.DataFrame(rows)


def text_settings(
    pipeline: LoadedPipeline,
    classes: Sequence[ImageNetClass],
    *,
    guidance_scales: Sequence[float],
    etas: Sequence[float],
    steps: int,
    per_class: int,
    judges: Judges,
    seed: int,
) -> pd.DataFrame:
    """Generate objects from text with the same seeds at several settings, and measure each time.

    Args:
        classes: What is drawn, `per_class` times each.
        guidance_scales, etas: Each is tried with each.
        steps: Denoising steps.
        judges: See `load_judges`.
        seed: The run's seed.

    Returns:
        `guidance_scale`, `eta`, `foreground_agreement`, `auxiliary_agreement` (shares of images in which either judge
        finds the object) and `distance` (mean distance between two images of one class).
    """
    wanted = [c for c in classes for _ in range(per_class)]
    prompts = [object_prompt(c) for c in wanted]
    seeds = [derive_seed(seed, "text settings", i) for i in range(len(wanted))]
    truth, rows = np.array([c.in9 for c in wanted]), []
    for guidance_scale in guidance_scales:
        for eta in etas:
            name = f"guidance {guidance_scale:g}, eta {eta:g}"
            images = dream_from_text(
                pipeline, prompts, seeds, steps=steps, guidance_scale=guidance_scale, eta=eta, description=name
            )
            said = judge_pictures(judges, list(images), description=f"judging {name}")
            apart = distances_within_classes(said.features, [c.synset for c in wanted]).mean()
            rows.append({"guidance_scale": float(guidance_scale), "eta": float(eta),
                         "foreground_agreement": (said.in9 == truth).mean(),
                         "auxiliary_agreement": (said.sister_in9 == truth).mean(), "distance": apart})  # fmt: skip
    return pd.DataFrame(rows)


def recommended_text_settings(table: pd.DataFrame, *, wanted: float) -> tuple[float, float]:
    """Return (guidance scale, eta) of the most varied images in which the object is found often enough.

    Where it is found often enough at none, those at which it is found most often.

    Args:
        table: From `text_settings`.
        wanted: The least share of images in which the stranger finds the object.
    """
    enough = table[table["foreground_agreement"] >= wanted]
    best = table.loc[enough["distance"].idxmax() if len(enough) else table["foreground_agreement"].idxmax()]
    return float(best["guidance_scale"]), float(best["eta"])


def candidates_curve(
    images: np.ndarray, synsets: Sequence[str], *, candidates: Sequence[int], judges: Judges, device: str = "cpu"
) -> pd.DataFrame:
    """Return how often the stranger finds objects that EfficientNet-Lite1 chose among so many candidates.

    Args:
        images: uint8, shape (n, h, w, 3), generated from text, in any order.
        synsets: The class of each, n of them.
        candidates: Numbers to choose among, at least 1: of each class's images every so many-th part is one choice.
        judges: See `load_judges`.
        device: See `devices.choose_device`.

    Returns:
        `candidates`, `value`, `low`, `high` (share of chosen objects that the judge finds), `n` (chosen objects).
    """
    table = pd.DataFrame({"synset": list(synsets)})
    table["recognised"] = recognisability(list(images), list(synsets), device=device)
    table["found"] = named_superclasses(judges, list(images)) == [c.in9 for c in classes_of(synsets)]
    rows = []
    for number in candidates:
        turn = table.groupby("synset").cumcount() // number
        whole = table.groupby(["synset", turn])["recognised"].transform("size") == number
        chosen = table[whole].loc[table[whole].groupby(["synset", turn[whole]])["recognised"].idxmax()]
        rows.append({"candidates": number} | vars(clustered_wilson(chosen["found"], chosen["synset"])))
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
