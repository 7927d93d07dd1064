"""What the Backgrounds Challenge is run on and by: objects and backgrounds from its folders, and zoo classifiers."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
from d3s_utils.one_pass import PRECISIONS
from d3s_utils.randomness import numpy_generator
from d3s_utils.taxonomy import IN9, IN9_OF_LABEL

_SUPERCLASS_OF_LABEL = np.array([IN9_OF_LABEL.get(label, "") for label in range(1009)])


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

    The model stays on the device. The best of all 1000 classes counts, as in the challenge's own script;
    of a network that tells nine, the best of the nine.
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
        nine = logits.shape[1] == len(IN9)
        return _SUPERCLASS_OF_LABEL[logits.float().argmax(1).cpu().numpy() + 1000 * nine]

    return classify


def _shuffled_turn(places: pd.Series, *, seed: int) -> np.ndarray:
    """Return each picture's place in a random order of its class."""
    return numpy_generator(seed, "challenge pictures", places.name).permutation(len(places))
