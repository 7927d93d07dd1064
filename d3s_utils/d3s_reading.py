"""What a folder in the layout of the authors of D3S holds: pairs of pictures, and the entries of ``metadata.json``."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d3s_utils.photos import read_photo
from d3s_utils.row_appender import Row
from d3s_utils.taxonomy import BACKGROUNDS, SPLITS, imagenet_class

METADATA = "metadata.json"
EXTRA = "d3s_utils"  # the key of an entry that holds what the authors did not record
PADDING = 2  # pixels around each of the two pictures
PROBLEM_COLUMNS = ("split", "image", "problem")
SETTINGS = {  # columns of a run that go into an entry's `args`
    "seed": int, "run_seed": int, "strength": float, "steps": int, "guidance_scale": float, "eta": float, "model": str,
    "model_sha256": str, "precision": str, "attempts": int,
}  # fmt: skip
_ALIASES = {"ddim_steps": "steps", "num_inference_steps": "steps", "ddim_eta": "eta", "scale": "guidance_scale"}
_BOX = {"left": int, "top": int, "width": int, "height": int, "scale": float, "canvas": int}
EXTRAS = {
    "image_id": str, "foreground_id": str, "template_id": str, "synset": str, "background": str, "seed": int,
    "repeat": int, **_BOX, "keep": bool, "reason": str, "verdict_source": str,
}  # fmt: skip
COLUMNS = {
    "image_id": str, "split": str, "file": str, "imagenet_index": int, "synset": str, "class_name": str, "in9": str,
    "background": str, "prompt": str, "has_init": bool, "args": str, "foreground_id": str, "template_id": str,
    "repeat": int, **_BOX, **SETTINGS, "keep": bool, "reason": str, "verdict_source": str,
}  # fmt: skip
SAFE_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\.png")
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_AT_ONCE = 256  # pictures handed to the threads at a time, so that an interrupt does not wait for all


class D3SLayoutError(ValueError):
    """A folder that is not in the authors' layout, or a run's folder that must not be written to."""


@dataclass(frozen=True)
class D3SLayout:
    """What a folder in the authors' layout holds.

    Attributes:
        pictures: A row a picture: `image_id` (the file's name; behind ``<split>-`` where both splits use it), `split`,
            `file` (relative to the folder), `imagenet_index`, `synset`, `class_name`, `in9`, `background`, `prompt`,
            `has_init`, `args` (JSON text, as found). The others are missing where the folder does not tell:
            `foreground_id`, `template_id`, `repeat`, the pasted box `left`, `top`, `width`, `height`, `canvas` (pixels
            of the stored picture), `scale`, the settings `seed`, `run_seed`, `strength`, `steps`, `guidance_scale`,
            `eta`, `model`, `model_sha256`, `precision`, `attempts`, and `keep`, `reason`, `verdict_source`.
        problems: A row for each entry or file that was left out: `split`, `image`, `problem`.
    """

    pictures: pd.DataFrame
    problems: pd.DataFrame


def crop_boxes(width: int, height: int, *, name: str = "picture") -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return where guide and result lie on a canvas, each as (left, top, right, bottom) in pixels.

    Two canvases are known for pictures of side s: each picture padded by itself, 2(s + 4) x (s + 4), of which the
    published crop (518, 2, 1030, 514) is the case s = 512; and torchvision's `make_grid`, where neighbours share
    their padding, (2s + 6) x (s + 4).

    Raises:
        D3SLayoutError: If the size is neither; the message has `name`.
    """
    side = height - 2 * PADDING
    starts = {2 * (side + 4): side + 3 * PADDING, 2 * side + 6: side + 2 * PADDING}  # width -> left of the result
    if side < 1 or width not in starts:
        raise D3SLayoutError(
            f"{name} must be 2(s + 4) x (s + 4) or (2s + 6) x (s + 4) pixels for two pictures of side s (1032 x 516 or "
            f"1030 x 516 at s = 512), got {width} x {height}"
        )
    left, low = starts[width], PADDING
    return (low, low, low + side, low + side), (left, low, left + side, low + side)


def read_pair(file: str | Path, *, root: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return guide and result of one stored PNG, uint8 (s, s, 3) each.

    Args:
        file: Relative to `root`, which it must not leave.

    Raises:
        PhotoError: If the file is missing, outside `root`, or cannot be decoded to its end.
        D3SLayoutError: If it has another size, or no padding.
    """
    pixels = read_photo(file, root=root).pixels
    boxes = crop_boxes(pixels.shape[1], pixels.shape[0], name=f"picture {file}")
    padding = np.ones(pixels.shape[:2], bool)
    for left, top, right, bottom in boxes:
        padding[top:bottom, left:right] = False
    if (pixels[padding] != pixels[0, 0]).any():  # two pictures without padding have a width that fits, too
        raise D3SLayoutError(f"picture {file} must have {PADDING} pixels of one colour around guide and result")
    guide, result = (pixels[top:bottom, left:right] for left, top, right, bottom in boxes)
    return guide, result


def read_d3s_layout(folder: str | Path) -> D3SLayout:
    """Return what a folder in the authors' layout holds; every picture is decoded to its end.

    Entries that cannot be used are in `D3SLayout.problems`: a background that is none of the ten (the shifts of
    geography and time), an unknown class, a picture that is missing, torn or of another size, a name that is used
    twice in a split (nobody knows which label is right) or that cannot name a file.

    Raises:
        D3SLayoutError: If the folder, or a split's ``metadata.json``, is missing or not a list. One split is enough.
    """
    rows, problems = _read(Path(folder))
    return D3SLayout(
        typed(pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)),
        pd.DataFrame(problems, columns=list(PROBLEM_COLUMNS), dtype=str),
    )


def background_of(prompt: str) -> str:
    """Return a prompt's last word, which names the background."""
    words = prompt.strip(" \t\r\n.,;:!").split()
    return words[-1].lower() if words else ""


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with whole numbers kept whole where some are missing (a seed has more digits than a float)."""
    dtypes = {int: ("int64", "Int64"), float: ("float64", "Float64"), bool: ("bool", "boolean"), str: ("str", "str")}
    kinds = {name: COLUMNS.get(name, str) for name in frame}
    return frame.astype({name: dtypes[kind][int(frame[name].isna().any())] for name, kind in kinds.items()})


def in_threads(function: Callable[[Row], Any], rows: Sequence[Row]) -> Iterator[Any]:
    """Yield `function` of each row, in order; decoding and encoding let other threads run."""
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(rows), _AT_ONCE):
            yield from pool.map(function, rows[start : start + _AT_ONCE])


def _read(folder: Path) -> tuple[list[Row], list[tuple[str, str, str]]]:
    """Return the usable rows, with `COLUMNS`, and the problems."""
    if not folder.is_dir():
        raise D3SLayoutError(f"folder must hold {' or '.join(SPLITS)}, got {folder}, which is no folder")
    splits = [split for split in SPLITS if (folder / split).is_dir()]
    if not splits:
        raise D3SLayoutError(f"{folder} must hold a folder {' or '.join(SPLITS)} with {METADATA}; it has neither")
    entries = {split: _entries(folder / split / METADATA) for split in splits}
    uses = Counter((split, entry.get("image")) for split in splits for entry in entries[split] if _is_named(entry))
    rows, problems = [], []
    for split in splits:
        for place, entry in enumerate(entries[split]):
            shown = str(entry["image"]) if isinstance(entry, dict) and "image" in entry else f"entry {place}"
            try:
                rows.append(_row_of(entry, split, uses))
            except D3SLayoutError as error:
                problems.append((split, _plain(shown), str(error)))
        on_disk = sorted(path.name for path in (folder / split).glob("*.png"))
        problems += [(split, _plain(name), f"not in {METADATA}") for name in on_disk if (split, name) not in uses]

    def finished(row: Row) -> Row | str:
        try:
            guide, _ = read_pair(row["file"], root=folder)
            return _scaled_box(row, len(guide))
        except ValueError as error:
            return str(error)

    used, kept = set(), []
    for row, found in zip(rows, in_threads(finished, rows), strict=True):
        if not isinstance(found, str) and row["image_id"] in used:
            found = f"image_id {row['image_id']!r} is that of another picture"
        if isinstance(found, str):
            problems.append((row["split"], Path(row["file"]).name, found))
        else:
            used.add(row["image_id"])
            kept.append(found)
    return kept, problems


def _entries(path: Path) -> list[Any]:
    try:
        entries = json.loads(path.read_bytes(), parse_constant=lambda text: None)
    except FileNotFoundError as error:
        raise D3SLayoutError(f"{path} is missing: it lists the split's pictures") from error
    except (ValueError, RecursionError, OSError) as error:
        raise D3SLayoutError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(entries, list):
        raise D3SLayoutError(f"{path} must be a list of entries, got {type(entries).__name__}")
    return entries


def _is_named(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("image"), str)


def _row_of(entry: Any, split: str, uses: Mapping[tuple[str, str], int]) -> Row:
    """Return an entry as a row with `COLUMNS`, or raise what is wrong with it."""
    if not _is_named(entry):
        raise D3SLayoutError("an entry must have a text under 'image'")
    name = SAFE_NAME.fullmatch(entry["image"])
    if not name:
        raise D3SLayoutError("image must be letters, digits, '-', '_' and '.', and end in .png")
    if uses[split, name[0]] > 1:
        raise D3SLayoutError(f"image is used by {uses[split, name[0]]} entries: which label is right?")
    index, prompt, has_init = entry.get("classIdx"), entry.get("prompt"), entry.get("hasInit")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 1000:
        raise D3SLayoutError(f"classIdx must be a whole number from 0 to 999, got {index!r}")
    if not _fits(prompt, str) or not prompt.strip():
        raise D3SLayoutError(f"prompt must be a text, got {prompt!r}")
    if has_init is not None and not isinstance(has_init, bool):
        raise D3SLayoutError(f"hasInit must be true or false, got {has_init!r}")
    label, background = imagenet_class(index), background_of(prompt)
    stated = entry.get("background", background)
    if background not in BACKGROUNDS or not isinstance(stated, str) or stated.lower() != background:
        raise D3SLayoutError(
            f"background must be one of {', '.join(BACKGROUNDS)}, and the prompt's last word; got {stated!r}, and a "
            f"prompt that ends in {background!r}"
        )
    extra = _extra_of(entry.get(EXTRA))
    for key, truth in (("image_id", name[1]), ("synset", label.synset), ("background", background)):
        if extra.get(key, truth) != truth:
            raise D3SLayoutError(f"{EXTRA}.{key} must be {truth!r}, as the rest of the entry says, got {extra[key]!r}")
    ambiguous = all((other, name[0]) in uses for other in SPLITS)
    return dict.fromkeys(COLUMNS) | extra | _settings_of(entry.get("args")) | {
        "image_id": f"{split}-{name[1]}" if ambiguous else name[1],
        "split": split,
        "file": f"{split}/{name[0]}",
        "imagenet_index": index,
        "synset": label.synset,
        "class_name": label.name,
        "in9": label.in9,
        "background": background,
        "prompt": prompt,
        "has_init": has_init,
        "args": None if "args" not in entry else json.dumps(entry["args"], sort_keys=True),
    }  # fmt: skip


def _extra_of(extra: Any) -> dict[str, Any]:
    """Return what an entry holds beside the authors' keys, checked."""
    if extra is None:
        return {}
    if not isinstance(extra, dict):
        raise D3SLayoutError(f"{EXTRA} must be an object, got {type(extra).__name__}")
    known = {name: extra[name] for name in EXTRAS if extra.get(name) is not None}
    for name, value in known.items():
        if not _fits(value, EXTRAS[name]):
            raise D3SLayoutError(f"{EXTRA}.{name} must be {EXTRAS[name].__name__}, got {value!r}")
    if not _SAFE_ID.fullmatch(known.get("foreground_id", "x")):
        raise D3SLayoutError(
            f"{EXTRA}.foreground_id must be at most 200 letters, digits, '-', '_' and '.', to name a file; "
            f"got {known['foreground_id']!r}"
        )
    if known.get("canvas", 1) < 1:
        raise D3SLayoutError(f"{EXTRA}.canvas must be at least 1, got {known['canvas']}")
    return known


def _settings_of(args: Any) -> dict[str, Any]:
    """Return the settings that `args` tells, under this project's names; what does not fit is not taken over."""
    if not isinstance(args, dict):
        return {}
    named = {_ALIASES[name]: value for name, value in args.items() if name in _ALIASES}
    named |= {name: args[name] for name in SETTINGS if name in args}
    return {name: value for name, value in named.items() if _fits(value, SETTINGS[name])}


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return isinstance(value, kind) and (kind is not str or _plain(value) == value)


def _plain(text: str) -> str:
    """Return a text with what cannot be written as UTF-8, lone surrogates, spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _scaled_box(row: Row, side: int) -> Row:
    """Return the row with its box in pixels of a picture of this side; without a canvas nobody knows its unit."""
    box = {name: row[name] for name in ("left", "top", "width", "height")}
    if row["canvas"] is None or None in box.values():
        return row | dict.fromkeys(box) | {"canvas": side}
    factor = side / row["canvas"]
    ends = {
        length: round((box[start] + box[length]) * factor) for start, length in (("left", "width"), ("top", "height"))
    }
    left, top = round(box["left"] * factor), round(box["top"] * factor)
    return row | {
        "left": left, "top": top, "width": ends["width"] - left, "height": ends["height"] - top, "canvas": side,
    }  # fmt: skip
