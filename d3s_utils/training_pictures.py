"""The captioned pictures that the bundled model learns from: objects, scenes, and objects pasted into scenes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from d3s_utils.classifiers import recognisability
from d3s_utils.masks import ellipse_mask, grabcut_mask
from d3s_utils.randomness import numpy_generator
from d3s_utils.scene_mining import make_cave, make_night, make_rain, name_backgrounds
from d3s_utils.taxonomy import BACKGROUNDS, imagenet_class, object_prompt, scene_prompt
from d3s_utils.training_photos import make_scenes, random_crop

KINDS = ("object", "scene", "composite")
# Where a rule on the colours outside an object's box may name its background: elsewhere it errs too often.
TRUSTED = {
    "grass": {"dog", "bird", "carnivore", "wheeled vehicle", "primate", "reptile"},
    "forest": {"primate", "carnivore", "reptile", "insect"},
    "water": {"fish", "reptile"},
    "road": {"wheeled vehicle"},
}


@dataclass(frozen=True)
class TrainingPictures:
    """Captioned pictures.

    Attributes:
        pixels: uint8, shape (n, side, side, 3).
        table: A row a picture: `kind` (one of `KINDS`), `synset` ("" for a scene), `background` ("" where unknown).
    """

    pixels: np.ndarray
    table: pd.DataFrame


def caption(synset: str, background: str, *, gloss: str | None = None) -> str:
    """Return the D3S prompt of a training picture.

    Args:
        synset: The class, "" for a scene.
        background: One of the ten, "" where unknown.
        gloss: Stands for the class's WordNet gloss; with "" the class name stands alone.
    """
    if not synset:
        return scene_prompt(background)
    imagenet = imagenet_class(synset)
    if gloss is not None:
        imagenet = replace(imagenet, definition=gloss)
    return object_prompt(imagenet, background=background or None)


def varied_caption(
    synset: str, background: str, random: np.random.Generator, *, whole: float = 0.4, partial: float = 0.3
) -> str:
    """Return `caption` with the whole gloss, or a random part of its words, or none.

    Words left out teach the model not to hang on any one of them, so that a paraphrase works too.

    Args:
        whole, partial: How often each is drawn; none for the rest.
    """
    drawn, part = random.random(), random.random()
    if not synset or drawn < whole:
        return caption(synset, background)
    words = imagenet_class(synset).definition.split() if drawn < whole + partial else []
    kept = random.random(len(words)) < part
    return caption(synset, background, gloss=" ".join(word for word, stays in zip(words, kept, strict=True) if stays))


def frame_object(
    photo: np.ndarray,
    box: tuple[int, int, int, int] | None,
    random: np.random.Generator,
    *,
    margins: tuple[float, float] = (1.0, 1.5),
    smallest: float = 0.6,
) -> np.ndarray:
    """Return a square crop of `photo` (side, side, 3) around the object, resized to the photo's size.

    Args:
        box: Left, top, right, bottom of the object, all included; without one, the crop lies anywhere.
        margins: The crop's side over the box's longer side is drawn between these.
        smallest: Least side of the crop over the photo's: a small object is not magnified beyond that.
    """
    side = photo.shape[0]
    if box is None:
        return random_crop(photo, random, smallest=0.8, side=side)
    left, top, right, bottom = box
    wanted = max(right - left + 1, bottom - top + 1) * random.uniform(*margins)
    edge = int(np.clip(round(wanted), smallest * side, side))
    corner = [
        (low + high + 1 - edge) / 2 + random.uniform(-0.05, 0.05) * edge for low, high in ((left, right), (top, bottom))
    ]
    x, y = (int(np.clip(round(value), 0, side - edge)) for value in corner)
    return np.asarray(Image.fromarray(photo[y : y + edge, x : x + edge]).resize((side, side), Image.BICUBIC))


def object_pictures(table: pd.DataFrame, pixels: np.ndarray, *, copies: int, seed: int) -> TrainingPictures:
    """Return photos of objects, each `copies` times: as it is, then framed by its box, mirrored every other time.

    Args:
        table: `training_photos.read_photos`'s, with `synset`, `in9` and `bbox_xyxy`.
        pixels: uint8, shape (n, side, side, 3).
    """
    outside = np.ones(pixels.shape[:3], bool)
    for row, box in enumerate(table["bbox_xyxy"]):
        left, top, right, bottom = box if box is not None else (0, 0, pixels.shape[2], pixels.shape[1])
        outside[row, top : bottom + 1, left : right + 1] = False
    named = np.full(len(table), "", object)
    roomy = outside.mean((1, 2)) > 0.25
    for background, shown in name_backgrounds(pixels, outside).items():
        trusted = np.isin(table["in9"].to_numpy(), list(TRUSTED.get(background, ())))
        named[shown & trusted & roomy] = background
    made, rows = [], []
    random = numpy_generator(seed, "objects")
    for row, box in enumerate(table["bbox_xyxy"]):
        for copy in range(copies):
            picture = frame_object(pixels[row], box, random) if copy else pixels[row]
            made.append(picture[:, ::-1] if copy % 2 else picture)
            rows.append(("object", table["synset"].iat[row], named[row]))
    return TrainingPictures(np.stack(made), pd.DataFrame(rows, columns=["kind", "synset", "background"]))


def cut_out_objects(table: pd.DataFrame, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the masks of the objects that GrabCut can part from their photo, and the rows they are of.

    A mask that fills less than a quarter of its box, or more than 0.97 of it, becomes the box's ellipse; boxes that
    cover less than a tenth of the photo are left out. Without a box, the object is looked for in the middle.

    Returns:
        float32 masks in [0, 1], shape (m, side, side), and rows of `table`, shape (m,).
    """
    masks, rows = [], []
    side = pixels.shape[1]
    for row, found in enumerate(tqdm(table["bbox_xyxy"], desc="cutting out", mininterval=10)):
        left, top, right, bottom = found if found is not None else (side // 10, side // 10, 9 * side // 10, side - 1)
        box = (int(left), int(top), int(right) + 1, int(bottom) + 1)
        area = (box[2] - box[0]) * (box[3] - box[1])
        if area < 0.1 * side * side:
            continue
        mask = None
        if area < 0.9 * side * side:
            try:
                mask = grabcut_mask(pixels[row], box, iterations=2, side=side) / 255.0
            except ValueError:  # nothing stands out from its surroundings
                mask = None
        if mask is None or not 0.25 * area < mask.sum() < 0.97 * area:
            mask = ellipse_mask(pixels.shape[1:3], box) / 255.0
        masks.append(mask.astype(np.float32))
        rows.append(row)
    return np.stack(masks), np.array(rows)


def composite_pictures(
    objects: np.ndarray,
    masks: np.ndarray,
    synsets: np.ndarray,
    scenes: np.ndarray,
    backgrounds: np.ndarray,
    *,
    weights: np.ndarray,
    count: int,
    seed: int,
) -> TrainingPictures:
    """Return `count` composites of a cut-out object on a scene, the ten backgrounds equally often.

    The object is mirrored half the time, scaled so that its longer side is 0.55 to 0.95 of the picture's, placed at
    random in the lower part, and lit as the scene: night, rain and cave are laid over both.

    Args:
        objects: uint8 photos, shape (m, side, side, 3), with `masks` (m, side, side) and `synsets` (m,).
        scenes: uint8, shape (n, side, side, 3), as they are before weather, with `backgrounds` (n,).
        weights: How often each object is drawn, relative, shape (m,).
    """
    names = list(BACKGROUNDS)
    random = numpy_generator(seed, "composites")
    pool = {name: np.flatnonzero(backgrounds == name) for name in names}
    drawn = random.choice(len(objects), count, p=weights / weights.sum())
    made = np.empty((count, *scenes.shape[1:]), np.uint8)
    for index in tqdm(range(count), desc="compositing", mininterval=10):
        background = names[index % len(names)]
        scene = scenes[random.choice(pool[background])]
        made[index] = _compose(objects[drawn[index]], masks[drawn[index]], scene, background, random)
    table = pd.DataFrame({"kind": "composite", "synset": synsets[drawn]})
    table["background"] = [names[index % len(names)] for index in range(count)]
    return TrainingPictures(made, table)


def _compose(photo: np.ndarray, mask: np.ndarray, scene: np.ndarray, background: str, random) -> np.ndarray:
    side = scene.shape[0]
    rows, columns = np.flatnonzero(mask.max(1) > 0.3), np.flatnonzero(mask.max(0) > 0.3)
    rgba = np.dstack([photo, (mask * 255).astype(np.uint8)])[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if random.random() < 0.5:
        rgba = rgba[:, ::-1]
    scale = side * random.uniform(0.55, 0.95) / max(rgba.shape[:2])
    height, width = (max(4, round(length * scale)) for length in rgba.shape[:2])
    cut = np.asarray(Image.fromarray(np.ascontiguousarray(rgba)).resize((width, height), Image.BICUBIC)) / 255.0
    left = random.integers(0, side - width + 1)
    top = random.integers((side - height) // 3, side - height + 1)
    alpha = cut[..., 3:]
    canvas = scene / 255.0
    light = {"night": 0.9, "cave": 0.9}.get(background, 1.0)
    part = canvas[top : top + height, left : left + width]
    part[:] = part * (1 - alpha) + light * cut[..., :3] * alpha
    picture = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    weather = {"night": make_night, "rain": make_rain}.get(background)
    if weather is not None:
        return weather(picture, random)
    if background == "cave":
        lit = make_cave(picture, random) / 255.0
        kept = np.zeros((side, side, 1))
        kept[top : top + height, left : left + width] = alpha
        canvas = lit * (1 - kept) + kept * (0.35 * lit + 0.65 * picture / 255.0 * np.array([0.8, 0.7, 0.58]))
        return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    return picture


def gather_training_pictures(
    objects: tuple[pd.DataFrame, np.ndarray],
    scenes: tuple[pd.DataFrame, np.ndarray],
    *,
    synsets: list[str],
    per_background: int = 900,
    composites: int = 20000,
    copies: int = 6,
    kept_share: float = 1.0,
    kept_share_of_composites: float = 1.0,
    main_synsets: Sequence[str] = (),
    device: str = "cpu",
    seed: int,
) -> TrainingPictures:
    """Return everything the model learns from, from the photos of split "generator" alone.

    Args:
        objects: `read_photos` of objects, scenes likewise.
        synsets: The classes to learn.
        per_background: Scenes of each background.
        composites: Objects pasted into scenes, over all classes and backgrounds.
        copies: Times that each object photo is used: once as it is, then framed by its box.
        kept_share: Share of each class's photos that is learnt from: those of the highest `recognisability`. A small
            model has no room for photos that show next to nothing of their class at 64 pixels.
        kept_share_of_composites: The same for composites, within each pair of class and background. More are made, so
            that about `composites` stay.
        main_synsets: Classes that are pasted twice as often as the others.
        device: Where the critic looks at photos and composites.

    Raises:
        ValueError: If a class has no photo in the split, or a share is not above 0 and at most 1.
    """
    for name, share in (("kept_share", kept_share), ("kept_share_of_composites", kept_share_of_composites)):
        if not 0 < share <= 1:
            raise ValueError(f"{name} must be above 0 and at most 1, got {share!r}")
    table, pixels = (
        part[_of_generator(objects[0], synsets)] for part in (objects[0].reset_index(drop=True), objects[1])
    )
    table = table.reset_index(drop=True)
    missing = sorted(set(synsets) - set(table["synset"]))
    if missing:
        raise ValueError(f"synsets must have photos to learn from, got none of {', '.join(missing)}")
    mine = _of_generator(scenes[0])
    photos, names = scenes[1][mine], scenes[0]["class_name"].to_numpy()[mine]
    if kept_share < 1:
        random = numpy_generator(seed, "framed")
        framed = [frame_object(*pair, random) for pair in zip(pixels, table["bbox_xyxy"], strict=True)]
        kept = _most_recognisable(framed, table, share=kept_share, within=["synset"], device=device)
        table, pixels = table[kept].reset_index(drop=True), pixels[kept]
    plain = object_pictures(table, pixels, copies=copies, seed=seed)
    scenery, shown = make_scenes(photos, names, per_background=per_background, seed=seed)
    dry, below = make_scenes(photos, names, per_background=per_background, seed=seed + 1, weather=False)
    masks, rows = cut_out_objects(table, pixels)
    often = np.where(table["synset"].isin(main_synsets), 2.0, 1.0) / table["synset"].map(table["synset"].value_counts())
    pasted = composite_pictures(
        pixels[rows], masks, table["synset"].to_numpy()[rows], dry, below,
        weights=often.to_numpy()[rows], count=round(composites / kept_share_of_composites), seed=seed,
    )  # fmt: skip
    if kept_share_of_composites < 1:
        kept = _most_recognisable(
            pasted.pixels, pasted.table, share=kept_share_of_composites, within=["synset", "background"], device=device
        )
        pasted = TrainingPictures(pasted.pixels[kept], pasted.table[kept].reset_index(drop=True))
    alone = pd.DataFrame({"kind": "scene", "synset": "", "background": shown})
    return TrainingPictures(
        np.concatenate([plain.pixels, scenery, pasted.pixels]),
        pd.concat([plain.table, alone, pasted.table], ignore_index=True),
    )


def _of_generator(table: pd.DataFrame, synsets: list[str] | None = None) -> np.ndarray:
    rows = (table["split"] == "generator").to_numpy()
    return rows if synsets is None else rows & table["synset"].isin(synsets).to_numpy()


def _most_recognisable(pictures, table: pd.DataFrame, *, share: float, within: list[str], device: str) -> np.ndarray:
    """Return which pictures are among the `share` of their group (rounded up) that the critic recognises best, bool."""
    recognised = pd.Series(recognisability(pictures, table["synset"].to_list(), device=device), index=table.index)
    groups = recognised.groupby([table[column] for column in within])
    wanted = np.ceil(share * groups.transform("size"))
    return (groups.rank(ascending=False, method="first") <= wanted).to_numpy()
