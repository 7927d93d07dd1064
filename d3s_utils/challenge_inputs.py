"""What the Backgrounds Challenge is run on: its own folders, or an imitation of a run's dreamt pictures in them."""

import hashlib
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from d3s_utils.atomic_files import write_table
from d3s_utils.backgrounds_challenge import Backgrounds, Classify, Foregrounds, challenge_accuracy
from d3s_utils.benchmark_readers import read_in9_masks
from d3s_utils.classifier_zoo import ZooClassifier
from d3s_utils.classifiers import read_picture
from d3s_utils.devices import choose_device
from d3s_utils.image_sets import ImageSet, ImageSetError
from d3s_utils.in9_imitation import home_pictures
from d3s_utils.in9_variants import VariantPlan, make_variants, object_mask_in_box, write_variants
from d3s_utils.one_pass import PRECISIONS
from d3s_utils.randomness import numpy_generator
from d3s_utils.taxonomy import IN9_OF_INDEX

_SUPERCLASS_OF = np.array([IN9_OF_INDEX.get(index, "") for index in range(1000)])


@dataclass(frozen=True)
class Imitation:
    """An ImageNet-9 of a run's own pictures.

    Attributes:
        plan: Its variants (see `in9_variants.write_variants`).
        masks: How each object's mask was made: `picture_id`, `mask` ("grabcut" or "ellipse").
        homes: The background that each superclass stands on.
    """

    plan: VariantPlan
    masks: pd.DataFrame
    homes: dict[str, str]


def imitate(run_folder: Path, *, limit: int, seed: int) -> Imitation:
    """Return variants of dreamt pictures in which objects stand at home (see `in9_imitation.home_pictures`).

    Where an object lies is known: in the box that it was pasted into. GrabCut finds its outline in there, or an ellipse
    stands in for it; what of the box is not the object counts as background that must go, as in the paper.

    Args:
        limit: See `in9_imitation.home_pictures`.
        seed: The run's seed.

    Raises:
        ValueError: If notebook 03 left no table, or too little was validated.
    """
    path = Path(run_folder) / "03_validation" / "validated.parquet"
    if not path.is_file():
        raise ValueError(f"{path} is missing: run notebook 03_validation first")
    validated = pd.read_parquet(path).dropna(subset=["left", "top", "width", "height", "canvas"])
    chosen = home_pictures(validated, limit=limit, seed=seed)
    pictures, masks, boxes, kinds = [], [], [], []
    for row in chosen.itertuples():
        picture = np.asarray(read_picture(Path(run_folder) / row.file))
        scale = len(picture) / row.canvas
        ends = (row.left, row.top, row.left + row.width, row.top + row.height)
        box = tuple(round(end * scale) for end in ends)
        mask, kind = object_mask_in_box(picture, box)
        pictures.append(picture)
        masks.append(mask)
        boxes.append(box)
        kinds.append(kind)
    ids = chosen["image_id"].tolist()
    plan = make_variants(
        pictures, masks, chosen["in9"].tolist(), seed=seed, ids=ids, boxes=boxes, skip_unusable=True
    )  # fmt: skip
    homes = chosen.drop_duplicates("in9").set_index("in9")["background"].to_dict()
    return Imitation(plan, pd.DataFrame({"picture_id": ids, "mask": kinds}), homes)


def write_imitation(folder: Path, imitation: Imitation) -> Path:
    """Write the variants below `folder`, in a folder of their plan's own, and return that; other plans' are removed.

    What is there of the same plan stays.
    """
    key = hashlib.sha256(imitation.plan.table.to_csv(index=False).encode()).hexdigest()[:12]
    for other in Path(folder).glob("*"):
        if other.name != key:
            shutil.rmtree(other)
    write_variants(Path(folder) / key, imitation.plan)
    return Path(folder) / key


def published_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Return scores whose `in9_right` follows the challenge's rule: the best of all 1000 classes must be of the nine.

    One that has no superclass is wrong. `in9_right_of_nine` keeps the milder rule of `taxonomy.in9_of_logits`.

    Args:
        scores: From `one_pass.evaluate`.
    """
    named = _SUPERCLASS_OF[scores["prediction"].to_numpy()]
    return scores.assign(
        in9_right_of_nine=scores["in9_right"], in9_right=(named == scores["in9"].to_numpy(str)).astype(float)
    )


def challenge_of_folder(
    images: ImageSet, *, limit: int | None = None, seed: int = 0
) -> tuple[Foregrounds, Backgrounds]:
    """Return the challenge's objects and backgrounds, all in memory, from the published folders.

    Args:
        images: From `image_sets.read_in9`, with the variants original and only_bg_t.
        limit: Greatest number of objects, even over classes, but one a class at least; all where None.
        seed: Decides which.

    Raises:
        ImageSetError: If a variant or all masks are missing.
        ValueError: If a mask does not fit its picture.
    """
    table = images.table.assign(place=range(len(images)))
    originals, behind = (table[table["variant"] == name] for name in ("original", "only_bg_t"))
    for name, rows in (("original", originals), ("only_bg_t", behind)):
        if rows.empty:
            raise ImageSetError(f"the challenge needs the variant {name}, and {images.root} has none: unpack it there")
    masks = read_in9_masks(images.root)
    keys = list(zip(originals["in9"], originals["foreground_id"], strict=True))
    usable = originals[[key in masks.paths for key in keys]]
    if limit is not None:
        turn = usable.groupby("in9")["place"].transform(_shuffled_turn, seed=seed)
        usable = usable[turn < max(1, limit // usable["in9"].nunique())]
    if usable.empty:
        raise ImageSetError(f"the challenge needs masks, fg_mask/val/CLASS/ID.npy, of pictures in {images.root}")
    fronts = [np.asarray(read_picture(images.pictures[place])) for place in usable["place"]]
    outlines = [
        masks[key].astype(np.uint8) * 255 for key in zip(usable["in9"], usable["foreground_id"], strict=True)
    ]  # fmt: skip
    foregrounds = Foregrounds(tuple(usable["foreground_id"]), tuple(usable["in9"]), fronts, outlines)
    scenes = [np.asarray(read_picture(images.pictures[place])) for place in behind["place"]]
    return foregrounds, Backgrounds(tuple(behind["foreground_id"]), tuple(behind["in9"]), scenes)


def whole_pictures(models: Sequence[ZooClassifier]) -> list[ZooClassifier]:
    """Return the models with a preprocessing that cuts nothing off, as the challenge's own script shows pictures."""
    return [
        replace(model, preprocessing=replace(model.preprocessing, crop_mode="squash", crop_fraction=1.0))
        for model in models
    ]


def remembered_challenge(
    folder: Path,
    model: ZooClassifier,
    foregrounds: Foregrounds,
    backgrounds: Backgrounds,
    *,
    seed: int,
    limit: int | None,
    own_class: bool,
    batch_size: int,
    device: str = "cpu",
    precision: str = "float32",
) -> pd.DataFrame:
    """Return `challenge_accuracy` of one model, read from `folder` where the same was asked before.

    Args:
        folder: Holds a table for each model and question.
        device, precision: See `superclass_classifier`.
    """
    digest = hashlib.sha256(repr((model.sha256, repr(model.network), model.preprocessing.sha256, precision, seed,
                                  limit, own_class)).encode())  # fmt: skip
    for part in (foregrounds, backgrounds):
        digest.update(repr((part.ids, part.superclasses)).encode())
        for picture in part.pictures:
            digest.update(picture.tobytes())
    for mask in foregrounds.masks:
        digest.update(mask.tobytes())
    path = Path(folder) / f"{digest.hexdigest()[:24]}.parquet"
    if path.is_file():
        return pd.read_parquet(path).assign(model=model.name)
    try:
        outcomes = challenge_accuracy(
            foregrounds, backgrounds, {model.name: superclass_classifier(model, device=device, precision=precision)},
            seed=seed, limit=limit, own_class=own_class, batch_size=batch_size,
        )  # fmt: skip
    finally:
        model.network.to("cpu")
    write_table(path, outcomes)
    return outcomes


def superclass_classifier(model: ZooClassifier, *, device: str = "cpu", precision: str = "float32") -> Classify:
    """Return a function from pictures, uint8 (n, h, w, 3), to names in `taxonomy.IN9`, or "" for none of the nine.

    The model stays on the device. The best of all 1000 classes counts, as in the challenge's own script.
    """
    chosen, dtype = choose_device(device), PRECISIONS[precision]
    network = model.network.to(chosen, memory_format=torch.channels_last)

    def pixels_of(picture: np.ndarray) -> np.ndarray:
        return model.preprocessing.pixels(Image.fromarray(picture))

    @torch.inference_mode()
    def classify(pictures: np.ndarray) -> np.ndarray:
        with ThreadPoolExecutor() as threads:
            pixels = np.stack(list(threads.map(pixels_of, pictures)))
        batch = model.preprocessing.normalised(torch.from_numpy(pixels).to(chosen))
        with torch.autocast(chosen.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = network(batch.contiguous(memory_format=torch.channels_last))
        if not torch.isfinite(logits).all():
            raise FloatingPointError(f"{model.name} answers logits that are not finite in {precision}")
        return _SUPERCLASS_OF[logits.float().argmax(1).cpu().numpy()]

    return classify


def _shuffled_turn(places: pd.Series, *, seed: int) -> np.ndarray:
    """Return each picture's place in a random order of its class."""
    return numpy_generator(seed, "challenge pictures", places.name).permutation(len(places))
