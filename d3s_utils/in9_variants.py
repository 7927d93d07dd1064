"""The eight variants of the Backgrounds Challenge, made from pictures and masks of their objects.

A picture is uint8, shape (h, w, 3). A mask is that of `masks`: uint8, shape (h, w), 255 where the object is, 0 where
it is not, between them at soft edges. The object's box holds every pixel whose mask is above 0, so that nothing of a
soft edge is left outside it, and the annotated box where there is one: the paper blacks out annotated boxes, and cuts
objects out by GrabCut, which may miss a head or a tail. A mask is empty when no pixel is above 127.

Source: Xiao et al. 2020, "Noise or Signal: The Role of Image Backgrounds in Object Recognition", arXiv:2006.09994,
table 1 and appendix A.
"""

import hashlib
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from d3s_utils.atomic_files import replacing, write_table
from d3s_utils.masks import Box, clip_box, mask_of
from d3s_utils.photos import Photo, PhotoError
from d3s_utils.png_files import has_recipe, write_png
from d3s_utils.randomness import derive_seed
from d3s_utils.taxonomy import IN9

EXPLANATIONS = {
    "original": "the picture as it is",
    "only_bg_b": "the background, with the object's bounding box black",
    "only_bg_t": "the background, with the object's bounding box filled from the largest strip of background, repeated",
    "no_fg": "the background, with the object's silhouette black",
    "only_fg": "the object on black",
    "mixed_same": "the object on the background of another picture of its class",
    "mixed_rand": "the object on the background of a picture of a random class",
    "mixed_next": "the object on the background of a picture of the next class",
}
VARIANTS = tuple(EXPLANATIONS)
MIXED = ("mixed_same", "mixed_rand", "mixed_next")
CLASS_FOLDERS = {name: f"{place:02d}_{name}" for place, name in enumerate(IN9)}  # "02_wheeled vehicle" has its space
EXTENSIONS = (".png", ".JPEG")
_READ_AS_PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_FILE_ID = re.compile(r"[^\W_][\w.+-]*", re.ASCII)
LARGEST_BOX = 0.9  # share of a picture that its object's box may take, in the paper
_RECIPE_VERSION = 1  # to be raised when the same input gives other pixels


class VariantError(ValueError):
    """A picture of which a variant cannot be made; the message names it."""


def object_box(mask: np.ndarray, *, box: Sequence[int] | None = None, name: str = "the picture") -> Box:
    """Return the bounding box of an object: (left, top, right, bottom) in pixels, right and bottom outside.

    Args:
        mask: uint8, shape (h, w).
        box: The annotated box; the result holds it and the mask.
        name: What messages call the picture.

    Raises:
        VariantError: If the mask is empty, or the annotated box lies outside the picture.
        ValueError: If it is not uint8 of shape (h, w).
    """
    mask = np.asarray(mask)
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f"mask of {name} must be uint8 of shape (h, w), got {mask.dtype} {mask.shape}")
    if not (mask > 127).any():
        raise VariantError(f"mask of {name} must mark an object; it is empty: no value is above 127")
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    found = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    if box is None:
        return found
    try:
        given = clip_box(box, shape=mask.shape)
    except PhotoError as error:
        raise VariantError(f"box of {name}: {error}") from error
    return (*map(min, found[:2], given[:2]), *map(max, found[2:], given[2:]))


def background_strip(box: Sequence[int], shape: tuple[int, int], *, name: str = "the picture") -> Box:
    """Return the largest strip of a picture above, below, left or right of a box, over its whole width or height.

    Of strips of one area it takes the first of below, above, right, left, as the authors' script does.

    Args:
        box: (left, top, right, bottom) in pixels.
        shape: Height and width of the picture.
        name: What messages call the picture.

    Returns:
        The strip, a box too.

    Raises:
        VariantError: If the box fills the picture, so that there is no strip.
    """
    (left, top, right, bottom), (height, width) = box, shape
    strips = [(0, bottom, width, height), (0, 0, width, top), (right, 0, width, height), (0, 0, left, height)]
    areas = [(strip[2] - strip[0]) * (strip[3] - strip[1]) for strip in strips]
    if max(areas) == 0:
        raise VariantError(f"the object's box must leave some background to repeat; that of {name} fills its picture")
    return strips[int(np.argmax(areas))]


def usable_box(
    mask: np.ndarray,
    *,
    box: Sequence[int] | None = None,
    largest_box: float = LARGEST_BOX,
    name: str = "the picture",
) -> Box:
    """Return the `object_box` of a picture of which all variants can be made.

    Args:
        mask, box, name: As in `object_box`.
        largest_box: Greatest share of the picture that the box may take, in (0, 1].

    Raises:
        VariantError: If the mask is empty, the annotated box lies outside, or the object's box is too large.
        ValueError: If an argument is none of the above.
    """
    if not 0 < largest_box <= 1:
        raise ValueError(f"largest_box must be in (0, 1], got {largest_box!r}")
    left, top, right, bottom = found = object_box(mask, box=box, name=name)
    background_strip(found, mask.shape, name=name)
    share = (right - left) * (bottom - top) / mask.size
    if share > largest_box:
        raise VariantError(f"the object's box must take at most {largest_box:.0%} of {name}, got {share:.1%}")
    return found


def only_bg_b(
    picture: np.ndarray, mask: np.ndarray, *, box: Sequence[int] | None = None, name: str = "the picture"
) -> np.ndarray:
    """Return the picture with its object's bounding box (see `object_box`) black, uint8 (h, w, 3).

    Raises:
        VariantError: If the mask is empty.
        ValueError: If types or shapes do not fit.
    """
    left, top, right, bottom = _box_of(picture, mask, name, box)
    changed = picture.copy()
    changed[top:bottom, left:right] = 0
    return changed


def only_bg_t(
    picture: np.ndarray, mask: np.ndarray, *, box: Sequence[int] | None = None, name: str = "the picture"
) -> np.ndarray:
    """Return the picture with its object's bounding box (see `object_box`) filled with background, uint8 (h, w, 3).

    The largest strip beside the box (see `background_strip`) is repeated over all of the picture from its top left
    corner on; the box shows what falls into it.

    Raises:
        VariantError: If the mask is empty, or the box fills the picture.
        ValueError: If types or shapes do not fit.

    Source: Xiao et al. 2020, appendix A and figure 9.
    """
    left, top, right, bottom = box = _box_of(picture, mask, name, box)
    strip = background_strip(box, mask.shape, name=name)
    rows = strip[1] + np.arange(top, bottom) % (strip[3] - strip[1])
    columns = strip[0] + np.arange(left, right) % (strip[2] - strip[0])
    changed = picture.copy()
    changed[top:bottom, left:right] = picture[rows[:, None], columns]
    return changed


def no_fg(picture: np.ndarray, mask: np.ndarray, *, name: str = "the picture") -> np.ndarray:
    """Return the picture with its object's silhouette black, soft where the mask is; uint8 (h, w, 3).

    `no_fg` and `only_fg` add up to the picture exactly.

    Raises:
        VariantError: If the mask is empty.
        ValueError: If types or shapes do not fit.
    """
    _box_of(picture, mask, name)
    return _weighted(picture, 255 - mask.astype(np.uint16))


def only_fg(picture: np.ndarray, mask: np.ndarray, *, name: str = "the picture") -> np.ndarray:
    """Return the object on black, soft where the mask is; uint8 (h, w, 3).

    Raises:
        VariantError: If the mask is empty.
        ValueError: If types or shapes do not fit.
    """
    _box_of(picture, mask, name)
    return _weighted(picture, mask.astype(np.uint16))


def paste(picture: np.ndarray, mask: np.ndarray, background: np.ndarray, *, name: str = "the picture") -> np.ndarray:
    """Return the object blended on a background, usually another picture's `only_bg_t`.

    Args:
        picture: uint8, shape (h, w, 3).
        mask: uint8, shape (h, w).
        background: uint8, shape (h', w', 3); one of another size goes through `fitted` first.
        name: What messages call the picture.

    Returns:
        round((mask * picture + (255 - mask) * background) / 255), uint8, shape (h, w, 3).

    Raises:
        VariantError: If the mask is empty.
        ValueError: If types or shapes do not fit.
    """
    _box_of(picture, mask, name)
    behind = fitted(background, mask.shape)
    share = mask.astype(np.uint16)[..., None]
    return ((picture * share + behind * (255 - share) + 127) // 255).astype(np.uint8)  # at most 65152: fits 16 bits


def fitted(background: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the largest part in the middle of a background that has the proportions of `shape` (h, w), at that size.

    It is resized by Pillow's bicubic filter; a background of that size comes back as it is.

    Raises:
        ValueError: If the background is not uint8 (h, w, 3).
    """
    background = np.asarray(background)
    if background.dtype != np.uint8 or background.ndim != 3 or background.shape[2] != 3:
        raise ValueError(f"background must be uint8 of shape (h, w, 3), got {background.dtype} {background.shape}")
    (height, width), (wanted_height, wanted_width) = background.shape[:2], shape
    if (height, width) == (wanted_height, wanted_width):
        return background
    scale = min(height / wanted_height, width / wanted_width)
    x, y = (width - scale * wanted_width) / 2, (height - scale * wanted_height) / 2
    size, part = (wanted_width, wanted_height), (x, y, width - x, height - y)
    return np.asarray(Image.fromarray(background).resize(size, Image.Resampling.BICUBIC, box=part))


def object_mask_in_box(picture: np.ndarray, box: Sequence[int]) -> tuple[np.ndarray, str]:
    """Return the mask of an object that is known to lie in a box, such as the place where it was pasted.

    Args:
        picture: uint8, shape (h, w, 3).
        box: (left, top, right, bottom) in pixels.

    Returns:
        The mask, uint8 (h, w), and how it was made: "grabcut", or "ellipse" where GrabCut finds next to nothing or
        all of the box (see `masks.mask_of`).

    Raises:
        photos.PhotoError: If the box lies outside the picture.
    """
    return mask_of(Photo(picture), mode="grabcut", box=box)


_OF_ONE_PICTURE: dict[str, Callable[..., np.ndarray]] = {
    "original": lambda picture, mask, *, name: picture,
    "no_fg": no_fg,
    "only_fg": only_fg,
}


@dataclass(frozen=True)
class VariantPlan:
    """Which variants are to be made, and of what; the pictures themselves are made one at a time by `render_variant`.

    Attributes:
        table: A row for each picture and variant: `picture_id`, `variant`, `superclass` (of the object),
            `background_id` (the picture whose background it shows; its own id where that is unmixed, "" for only_fg)
            and `background_superclass` ("" for only_fg).
        ids: All pictures that were given, in their order.
        superclasses: Of each.
        pictures: uint8 (h, w, 3) each.
        masks: uint8 (h, w) each.
        boxes: Of each usable picture's object, by id.
        shapes: (h, w) of the pictures in the table.
        skipped: Pictures left out: `picture_id`, `reason`.
    """

    table: pd.DataFrame
    ids: tuple[str, ...]
    superclasses: tuple[str, ...]
    pictures: Sequence[np.ndarray] = field(repr=False)
    masks: Sequence[np.ndarray] = field(repr=False)
    boxes: dict[str, Box] = field(repr=False)
    shapes: frozenset[tuple[int, int]]
    skipped: pd.DataFrame
    places: dict[str, int] = field(repr=False)


def make_variants(
    pictures: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    superclasses: Sequence[str],
    *,
    seed: int,
    ids: Sequence[str] | None = None,
    boxes: Sequence[Sequence[int] | None] | None = None,
    variants: Sequence[str] = VARIANTS,
    largest_box: float = LARGEST_BOX,
    skip_unusable: bool = False,
) -> VariantPlan:
    """Plan the variants of pictures: for each picture and variant, whose background it shows.

    mixed_same takes another picture of the same class. mixed_rand takes a class first, each of those that are there
    with the same chance, the picture's own included, then a picture of it. mixed_next takes a picture of the class
    that follows in `taxonomy.IN9`'s order, y + 1, the first class after the last; classes without a picture are
    passed over. No picture gets its own background.

    Each choice is the largest of one random number a candidate, and that number hangs on the seed and the two ids
    alone. So the order of the pictures does not matter, and one picture more changes a choice only where it is the
    new picture that is chosen: one choice in as many as there are candidates.

    Args:
        pictures: n pictures, uint8 (h, w, 3). Anything with a length and `[]` will do, such as a reader of files:
            they are not read here.
        masks: Their objects' masks, uint8 (h, w); each is read once.
        superclasses: Their classes, names in `taxonomy.IN9`.
        seed: The run's seed.
        ids: Their names, all different; "000000", "000001", … where None.
        boxes: Their annotated boxes, (left, top, right, bottom) in pixels, such as the place of a paste; None where
            there is none. only_bg_b and only_bg_t cover box and mask.
        variants: Those of `VARIANTS` that are wanted.
        largest_box: Pictures whose object's box takes more than this share cannot be used; 0.9 in the paper.
        skip_unusable: Leave such pictures, and those with an empty mask, out, instead of raising.

    Raises:
        VariantError: If a picture cannot be used (unless `skip_unusable`); the message names it.
        ValueError: If lengths differ, an id occurs twice, a name is unknown, no picture is left, or a class has too
            few pictures for a mixed variant.

    Source: Xiao et al. 2020, table 1 ("random background of a random class", "of the next class"), section 3
        ("class y mixed with backgrounds from class y + 1") and appendix A (90 %). No code of theirs that makes
        mixed_rand is public, so whether the own class takes part is read from the words "a random class".
    """
    ids = tuple(f"{place:06d}" for place in range(len(pictures))) if ids is None else tuple(map(str, ids))
    superclasses, boxes = tuple(superclasses), [None] * len(pictures) if boxes is None else boxes
    lengths = {"masks": len(masks), "superclasses": len(superclasses), "ids": len(ids), "boxes": len(boxes)}
    for name, length in lengths.items():
        if length != len(pictures):
            raise ValueError(f"{name} must be one for each of {len(pictures)} pictures, got {length}")
    repeated = [name for name, times in Counter(ids).items() if times > 1]
    if repeated:
        raise ValueError(f"ids must all be different, got {repeated[0]!r} {Counter(ids)[repeated[0]]} times")
    unknown = sorted(set(superclasses) - set(IN9))
    if unknown:
        raise ValueError(f"superclasses must be of {', '.join(IN9)}, got {unknown[0]!r}")
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown or not variants:
        raise ValueError(f"variants must be of {', '.join(VARIANTS)}, got {unknown or 'none'}")
    usable, found_boxes, shapes, skipped = _usable(masks, ids, boxes, largest_box, skip_unusable)
    backgrounds = {
        name: _chosen_backgrounds(name, usable, ids, superclasses, seed) for name in variants if name in MIXED
    }
    rows = []
    for row, place in enumerate(usable):
        for name in variants:
            behind = backgrounds[name][row] if name in MIXED else place
            shown = name != "only_fg"
            rows.append(
                (
                    ids[place],
                    name,
                    superclasses[place],
                    ids[behind] if shown else "",
                    superclasses[behind] if shown else "",
                )
            )
    columns = ["picture_id", "variant", "superclass", "background_id", "background_superclass"]
    table = pd.DataFrame(rows, columns=columns)
    places = {name: place for place, name in enumerate(ids)}
    return VariantPlan(table, ids, superclasses, pictures, masks, found_boxes, frozenset(shapes), skipped, places)


def render_variant(plan: VariantPlan, row: int) -> np.ndarray:
    """Return the picture of one row of a plan's table, uint8 (h, w, 3).

    Args:
        plan: From `make_variants`.
        row: Place in `plan.table`, 0 for the first.

    Raises:
        ValueError: If a picture and its mask do not fit each other.
    """
    line = plan.table.iloc[row]
    picture, mask = _read(plan, line.picture_id)
    if line.variant == "only_bg_b":
        return only_bg_b(picture, mask, box=plan.boxes[line.picture_id], name=line.picture_id)
    if line.variant == "only_bg_t":
        return tiled_background(plan, line.picture_id)
    if line.variant in MIXED:
        return paste(picture, mask, tiled_background(plan, line.background_id), name=line.picture_id)
    return _OF_ONE_PICTURE[line.variant](picture, mask, name=line.picture_id)


def tiled_background(plan: VariantPlan, picture_id: str) -> np.ndarray:
    """Return the only_bg_t of a plan's picture, uint8 (h, w, 3)."""
    return only_bg_t(*_read(plan, picture_id), box=plan.boxes[picture_id], name=picture_id)


def variant_files(plan: VariantPlan, *, extension: str = ".png") -> list[str]:
    """Return the path of each row of a plan's table in the published layout, ``VARIANT/val/CLASS/NAME``.

    NAME is the picture's id, or ``fg_ID_bg_ID`` for a mixed variant.

    Raises:
        ValueError: If `extension` is not one of `EXTENSIONS`, or an id would make an unsafe or ambiguous file name.
    """
    if extension not in EXTENSIONS:
        raise ValueError(f"extension must be one of {', '.join(EXTENSIONS)}, got {extension!r}")
    for name in dict.fromkeys(plan.table.picture_id):
        if not _FILE_ID.fullmatch(name) or "_bg_" in name:
            raise ValueError(
                "ids must be letters, digits, _, ., + and -, start with a letter or digit and not hold _bg_, to "
                f"become file names, got {name!r}"
            )
    files = []
    for line in plan.table.itertuples():
        name = f"fg_{line.picture_id}_bg_{line.background_id}" if line.variant in MIXED else line.picture_id
        files.append(f"{line.variant}/val/{CLASS_FOLDERS[line.superclass]}/{name}{extension}")
    return files


def write_variants(
    folder: str | os.PathLike,
    plan: VariantPlan,
    *,
    extension: str = ".png",
    workers: int = 2,
    progress: bool = True,
) -> pd.DataFrame:
    """Write a plan's pictures and masks in the published layout; what is already there from the same input stays.

    Pictures go to ``VARIANT/val/CLASS/NAME.png``, masks to ``fg_mask/val/CLASS/ID.npy`` (boolean (h, w), mask above
    127) and the table to ``variants.csv``. Every class has its folder, with or without pictures, since the
    challenge's reader numbers classes by the folders it finds. Each file is there whole or not at all.

    Args:
        folder: Where it goes. It may hold an interrupted run of the same plan, and nothing else of the kind.
        plan: From `make_variants`.
        extension: ".png", or ".JPEG" for the authors' ``challenge_eval.py``, which asks for originals by that name;
            the content is PNG either way, and Pillow goes by the content.
        workers: Threads. Encoding and writing leave the interpreter's lock.
        progress: Whether a bar on stdout shows how far it is.

    Returns:
        `plan.table` with `file` and `mask_file` (both relative to `folder`) and `written` (whether this call wrote
        the picture, rather than found it).

    Raises:
        ValueError: If the pictures are of several sizes (the challenge's reader stacks them), an id cannot be a file
            name, or the folder holds pictures or masks of another plan, which that reader would take in.
        OSError: If the disk is full or may not be written; no partial file is left.
    """
    folder = Path(folder)
    if len(plan.shapes) > 1:
        raise ValueError(f"pictures must be of one size to be written, got (h, w) {sorted(plan.shapes)[:5]}")
    table = plan.table.assign(file=variant_files(plan, extension=extension))
    table["mask_file"] = [
        f"fg_mask/val/{CLASS_FOLDERS[superclass]}/{picture_id}.npy"
        for picture_id, superclass in zip(table.picture_id, table.superclass, strict=True)
    ]
    _refuse_strangers(folder, {*table.file, *table.mask_file}, table.variant.unique())
    for variant in (*table.variant.unique(), "fg_mask"):
        for class_folder in CLASS_FOLDERS.values():
            (folder / variant / "val" / class_folder).mkdir(parents=True, exist_ok=True)
    digests: dict[str, str] = {}

    def digest(picture_id: str) -> str:
        if picture_id not in digests:
            digests[picture_id] = _digest(*_read(plan, picture_id), plan.boxes[picture_id])
        return digests[picture_id]

    def write(rows: pd.DataFrame) -> list[bool]:
        first = rows.iloc[0]
        _write_mask(folder, first.mask_file, plan.masks[plan.places[first.picture_id]] > 127)
        written = []
        for row, line in rows.iterrows():
            recipe = {"maker": "in9_variants", "version": _RECIPE_VERSION, "variant": line.variant}
            recipe |= {"picture": digest(line.picture_id), "background": digest(line.background_id or line.picture_id)}
            there = has_recipe(folder / line.file, recipe)
            if not there:
                write_png(folder / line.file, render_variant(plan, row), recipe=recipe)
            written.append(not there)
        return written

    jobs = [rows for _, rows in table.groupby("picture_id", sort=False)]
    bar = tqdm(total=len(table), desc="variants", mininterval=2, file=sys.stdout, disable=not progress)
    written = []
    with bar, ThreadPoolExecutor(workers) as pool:
        for found in pool.map(write, jobs):
            written += found
            bar.update(len(found))
    write_table(folder / "variants.csv", table)
    return table.assign(written=written)


def background_keys(ids: Sequence[str], *, seed: int) -> np.ndarray:
    """Return a random number for each id that hangs on the seed and the id alone, uint64 (n,)."""
    return np.array([derive_seed(seed, "in9 background", name) for name in ids], np.uint64)


def draw_weights(keys: np.ndarray, *, seed: int, names: Sequence[str]) -> np.ndarray:
    """Return a random number for each candidate in the choice called `names`; the largest is the one drawn.

    In descending order they are a random order of the candidates; that of some of them is the same with and without
    the others.

    Args:
        keys: From `background_keys`, shape (n,).

    Returns:
        uint64, shape (n,).

    Source: Thaler, Ravishankar 1998, "Using name-based mappings to increase hit rates" (highest random weight);
        Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators" (the mixing).
    """
    mixed = np.asarray(keys, np.uint64) ^ np.uint64(derive_seed(seed, *names))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)  # modulo 2**64, as it is meant
    return mixed ^ (mixed >> np.uint64(31))


def _usable(masks: Sequence[np.ndarray], ids: tuple[str, ...], boxes: Sequence, largest_box: float, skip: bool):
    """Return the places of pictures that can be used, their boxes and shapes, and a table of the others."""
    usable, found, shapes, skipped = [], {}, set(), []
    for place, name in enumerate(ids):
        mask = masks[place]
        try:
            box = usable_box(mask, box=boxes[place], largest_box=largest_box, name=name)
        except VariantError as error:
            if not skip:
                raise
            skipped.append((name, str(error)))
        else:
            usable.append(place)
            found[name] = box
            shapes.add(mask.shape)
    if not usable:
        raise ValueError(f"pictures must hold at least one that can be used, got {len(ids)} of which none can")
    return usable, found, shapes, pd.DataFrame(skipped, columns=["picture_id", "reason"])


def _chosen_backgrounds(variant: str, usable: list[int], ids, superclasses, seed: int) -> list[int]:
    """Return, for each usable picture, the place of the picture whose background it gets."""
    members = {name: np.array([place for place in usable if superclasses[place] == name]) for name in IN9}
    members = {name: places for name, places in members.items() if len(places)}
    present = list(members)
    keys = {name: background_keys([ids[place] for place in places], seed=seed) for name, places in members.items()}
    class_keys = np.array([derive_seed(seed, "in9 class", name) for name in present], np.uint64)
    chosen = []
    for place in usable:
        own, picture_id = superclasses[place], ids[place]
        if variant == "mixed_same":
            source = own
        elif variant == "mixed_next":
            source = present[(present.index(own) + 1) % len(present)]
            if source == own:
                raise ValueError(f"mixed_next must have pictures of two classes or more, got only {own!r}")
        else:
            weights = draw_weights(class_keys, seed=seed, names=(variant, "class", picture_id))
            alone = [name == own and len(members[name]) == 1 for name in present]  # it would get its own background
            source = present[int(np.argmax(np.where(alone, np.uint64(0), weights)))]
        others = members[source] != place
        if not others.any():
            raise ValueError(f"{variant} must have another picture of {source!r} than {picture_id!r}, got none")
        weights = draw_weights(keys[source][others], seed=seed, names=(variant, picture_id))
        chosen.append(int(members[source][others][np.argmax(weights)]))
    return chosen


def _box_of(picture: np.ndarray, mask: np.ndarray, name: str, box: Sequence[int] | None = None) -> Box:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"picture must be uint8 of shape (h, w, 3); {name} is {picture.dtype} {picture.shape}")
    if mask.shape != picture.shape[:2]:
        raise ValueError(f"mask of {name} must have its picture's shape {picture.shape[:2]}, got {mask.shape}")
    return object_box(mask, box=box, name=name)


def _weighted(picture: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return ((picture * weight[..., None] + 127) // 255).astype(np.uint8)


def _read(plan: VariantPlan, picture_id: str) -> tuple[np.ndarray, np.ndarray]:
    place = plan.places[picture_id]
    return plan.pictures[place], plan.masks[place]


def _digest(picture: np.ndarray, mask: np.ndarray, box: Box) -> str:
    content = hashlib.sha256(repr((picture.shape, box)).encode())
    content.update(np.ascontiguousarray(picture))
    content.update(np.ascontiguousarray(mask))
    return content.hexdigest()


def _write_mask(folder: Path, file: str, inside: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, inside, allow_pickle=False)
    path, content = folder / file, buffer.getvalue()
    if path.is_file() and path.read_bytes() == content:
        return
    # The challenge's script takes every name in a mask folder for a mask, so what a kill may leave lies elsewhere.
    temporary = folder / f".{path.name}.{os.getpid()}.partial"
    with replacing(path, temporary):
        temporary.write_bytes(content)


def _refuse_strangers(folder: Path, expected: set[str], variants: Sequence[str]) -> None:
    found = []
    for variant in (*variants, "fg_mask"):
        for path in sorted((folder / variant / "val").glob("*/*")):
            seen = variant == "fg_mask" or path.suffix.lower() in _READ_AS_PICTURES
            if seen and path.relative_to(folder).as_posix() not in expected:
                found.append(path.relative_to(folder).as_posix())
    if found:
        raise ValueError(
            f"folder must be new or hold this plan only, got {len(found)} files of another in {folder}, such as "
            f"{found[0]}: the challenge's reader would take them in"
        )
