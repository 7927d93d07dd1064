"""The list of pictures to dream: complete, in order and with every seed before the first one is made."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from d3s_utils.dreaming import DreamOptions
from d3s_utils.photos import path_inside
from d3s_utils.randomness import derive_seed
from d3s_utils.taxonomy import BACKGROUNDS, SPLITS, check_background, imagenet_class, object_prompt

GUIDE_COLUMNS = (  # what notebook 01 records about a guide, and a request hands on
    "image_id", "split", "synset", "class_name", "imagenet_index", "in9", "background", "repeat", "foreground_id",
    "foreground_file", "template_id", "template_file", "mask_file", "guide_file", "left", "top", "width", "height",
    "scale", "canvas",
)  # fmt: skip
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def make_requests(
    guides: pd.DataFrame,
    *,
    root: str | Path,
    seed: int,
    options: DreamOptions,
) -> pd.DataFrame:
    """Return one line for each picture to dream, ordered by split, class, background and repeat.

    Args:
        guides: Notebook 01's ``guides.parquet``, with `GUIDE_COLUMNS`.
        root: Folder that the table's paths are relative to.
        seed: The run's seed.
        options: How every guide is dreamt.

    Returns:
        `GUIDE_COLUMNS` and: ``prompt`` (D3S's, with the class's gloss), ``guide_sha256``, ``run_seed``, ``seed``
        (of the first attempt: see `image_seed`), ``strength``, ``steps``, ``guidance_scale``, ``eta``.

    Raises:
        ValueError: If a column is missing, the table is empty, an id is used twice or cannot name a file, a split,
            class or background is unknown, guides differ in size, or one is missing or outside `root`.
    """
    missing = [name for name in GUIDE_COLUMNS if name not in guides]
    if missing:
        raise ValueError(f"guides must have the columns {', '.join(GUIDE_COLUMNS)}; missing: {', '.join(missing)}")
    if guides.empty:
        raise ValueError("guides must have at least one line, got none")
    table = guides[list(GUIDE_COLUMNS)].copy()
    _check_names(table)
    order = {background: place for place, background in enumerate(BACKGROUNDS)}
    table["_place"] = [order[check_background(background)] for background in table["background"]]
    table = table.sort_values(["split", "imagenet_index", "_place", "repeat", "image_id"], ignore_index=True)
    table = table.drop(columns="_place")
    pairs = zip(table["synset"], table["background"], strict=True)
    table["prompt"] = [object_prompt(imagenet_class(synset), background=background) for synset, background in pairs]
    with ThreadPoolExecutor(8) as pool:
        table["guide_sha256"] = list(pool.map(lambda file: _guide_sha256(file, Path(root)), table["guide_file"]))
    table["run_seed"] = seed
    table["seed"] = [image_seed(seed, image_id) for image_id in table["image_id"]]
    return table.assign(
        strength=float(options.strength),
        steps=int(options.steps),
        guidance_scale=float(options.guidance_scale),
        eta=float(options.eta),
    )


def make_twin_requests(guides: pd.DataFrame, *, root: str | Path, seed: int, options: DreamOptions) -> pd.DataFrame:
    """Return one line for each guide that has a twin on its own ground (`own_ground.write_placed`).

    A twin is repainted with its image's seed and options, and with its prompt but for the background's words.

    Args:
        guides: As in `make_requests`, with ``placed_file`` too; guides without one (missing) are left out.
        root, seed, options: See `make_requests`.

    Returns:
        The columns of `make_requests`; `guide_file` and its hash are the twin's paste.

    Raises:
        ValueError: See `make_requests`; also if no guide has a twin.
    """
    placed = guides[guides["placed_file"].notna()] if "placed_file" in guides else guides[:0]
    twins = make_requests(placed.assign(guide_file=placed.get("placed_file")), root=root, seed=seed, options=options)
    return twins.assign(prompt=[object_prompt(imagenet_class(synset)) for synset in twins["synset"]])


def image_seed(run_seed: int, image_id: str, *, attempt: int = 1) -> int:
    """Return the seed of a picture's `attempt`: it depends on the run's seed and the picture's id, and on no order."""
    if attempt < 1:
        raise ValueError(f"attempt must be at least 1, got {attempt}")
    return derive_seed(run_seed, "image", image_id, *([] if attempt == 1 else [attempt]))


def options_of(requests: pd.DataFrame) -> DreamOptions:
    """Return the options that all `requests` share.

    Raises:
        ValueError: If they do not share them.
    """
    names = ["strength", "steps", "guidance_scale", "eta"]
    found = requests[names].drop_duplicates()
    if len(found) != 1:
        raise ValueError(f"requests must share {', '.join(names)}; they have {len(found)} different settings")
    return DreamOptions(**found.to_dict("records")[0])


def shard_of(requests: pd.DataFrame, *, index: int, count: int) -> pd.DataFrame:
    """Return the part of `requests` that worker `index` of `count` makes: a run of neighbours, sizes within one.

    Neighbours share prompts, so a worker encodes few of them. All shards together are `requests`, each line once.

    Raises:
        ValueError: If `count` is below 1 or `index` is not in [0, count).
    """
    if count < 1 or not 0 <= index < count:
        raise ValueError(f"shard index must be in [0, count) and count at least 1, got index {index}, count {count}")
    return requests.iloc[len(requests) * index // count : len(requests) * (index + 1) // count].reset_index(drop=True)


def _check_names(table: pd.DataFrame) -> None:
    twice = table["image_id"][table["image_id"].duplicated()]
    if len(twice):
        raise ValueError(f"image_id must be used once; {len(twice)} are used again, such as {twice.iloc[0]!r}")
    for image_id in table["image_id"]:
        if not isinstance(image_id, str) or not _SAFE_NAME.fullmatch(image_id):
            raise ValueError(f"image_id must be letters, digits, '-', '_' and '.', to name a file; got {image_id!r}")
    if table["canvas"].nunique() != 1:
        raise ValueError(f"canvas must be one size for all guides, got {sorted(set(table['canvas'].tolist()))}")
    unknown = [split for split in table["split"].unique() if split not in SPLITS]
    if unknown:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {unknown[0]!r}")


def _guide_sha256(file: str, root: Path) -> str:
    path = path_inside(file, root=root)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(
            f"guide_file {file!r} cannot be read below {root} ({error.strerror}): run notebook 01"
        ) from error
