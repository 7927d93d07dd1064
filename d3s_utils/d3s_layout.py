"""The layout in which the authors of D3S stored their pictures: written from a run, and read into one.

A folder for each split holds ``metadata.json`` and one PNG a sample, the guide and the result side by side.

python -m d3s_utils.d3s_layout export RUN_FOLDER FOLDER --size 512
python -m d3s_utils.d3s_layout import FOLDER RUN_FOLDER
"""

import argparse
import hashlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from d3s_utils.atomic_files import sha256_of, write_bytes, write_json, write_table
from d3s_utils.generation_requests import GUIDE_COLUMNS, SPLITS
from d3s_utils.manifest import locked, plain_rows, read_rows, write_rows
from d3s_utils.photos import read_photo
from d3s_utils.png_files import encode_png
from d3s_utils.row_appender import Row
from d3s_utils.taxonomy import BACKGROUNDS, check_background, imagenet_class

METADATA = "metadata.json"
EXTRA = "d3s_utils"  # the key of an entry that holds what the authors did not record
PADDING = 2  # pixels around each of the two pictures
PROBLEM_COLUMNS = ("split", "image", "problem")
_SETTINGS = {  # columns of a run that go into an entry's `args`
    "seed": int, "run_seed": int, "strength": float, "steps": int, "guidance_scale": float, "eta": float, "model": str,
    "model_sha256": str, "precision": str, "attempts": int,
}  # fmt: skip
_ALIASES = {"ddim_steps": "steps", "num_inference_steps": "steps", "ddim_eta": "eta", "scale": "guidance_scale"}
_BOX = {"left": int, "top": int, "width": int, "height": int, "scale": float, "canvas": int}
_EXTRAS = {
    "image_id": str, "foreground_id": str, "template_id": str, "synset": str, "background": str, "seed": int,
    "repeat": int, **_BOX, "keep": bool, "reason": str, "verdict_source": str,
}  # fmt: skip
_COLUMNS = {
    "image_id": str, "split": str, "file": str, "imagenet_index": int, "synset": str, "class_name": str, "in9": str,
    "background": str, "prompt": str, "has_init": bool, "args": str, "foreground_id": str, "template_id": str,
    "repeat": int, **_BOX, **_SETTINGS, "keep": bool, "reason": str, "verdict_source": str,
}  # fmt: skip
_SAFE_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\.png")
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


def join_pair(guide: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Return guide and result side by side, each with 2 black pixels on every side: uint8 (s + 4, 2(s + 4), 3).

    Raises:
        ValueError: If they are not squares of one size.
    """
    side = len(guide)
    if guide.shape != (side, side, 3) or result.shape != guide.shape:
        raise ValueError(
            f"guide and result must be RGB squares of one size, got {_size_text(guide)} and {_size_text(result)}"
        )
    return np.hstack([np.pad(p, ((PADDING,) * 2, (PADDING,) * 2, (0, 0))) for p in (guide, result)])


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


def write_d3s_layout(
    table: pd.DataFrame,
    folder: str | Path,
    *,
    root: str | Path,
    size: int | None = None,
    kept_only: bool = True,
) -> dict[str, int]:
    """Write pictures in the authors' layout and return how many each split has.

    Every file is there whole or not at all, and ``metadata.json`` comes last. Beside the authors' keys an entry has
    `EXTRA`: ids, the seed and the pasted box (pixels of a picture of side `canvas`, whatever `size` is).

    Args:
        table: Notebook 03's ``validated.parquet``, or any table with `image_id`, `split`, `imagenet_index`,
            `background`, `prompt`, `file` and `guide_file`; its other columns are written where they are known.
        folder: Gets a folder for each split. Pictures of the same names are replaced.
        root: Folder that `file` and `guide_file` are relative to.
        size: Side that both pictures are resized to (Lanczos); None keeps them as they are.
        kept_only: Leave out rows whose `keep` is false.

    Raises:
        ValueError: If a column is missing, no row is left, an id is used twice or cannot name a file, a label is
            unknown, a picture cannot be read, is no square or differs from its guide, or other pictures are there.
    """
    folder, root = Path(folder), Path(root)
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"size must be a whole number of pixels of at least 1, or None, got {size!r}")
    needed = ("image_id", "split", "imagenet_index", "background", "prompt", "file", "guide_file")
    missing = [name for name in needed if name not in table]
    if missing:
        raise ValueError(f"table must have the columns {', '.join(needed)}; missing: {', '.join(missing)}")
    if kept_only and "keep" in table:
        table = table[table["keep"].astype(bool)]
    rows = plain_rows(table)
    _check_rows(rows)
    names = {split: [f"{row['image_id']}.png" for row in rows if row["split"] == split] for split in SPLITS}
    for split in SPLITS:
        _remove_partial(folder / split)
        _refuse_others(folder / split, set(names[split]))

    def write(row: Row) -> None:
        guide, result = (_resized(read_photo(row[name], root=root).pixels, size) for name in ("guide_file", "file"))
        try:
            pixels = join_pair(guide, result)
        except ValueError as error:
            raise ValueError(f"{row['image_id']}: {error}") from error
        write_bytes(folder / row["split"] / f"{row['image_id']}.png", encode_png(pixels))

    list(_in_threads(write, rows))
    for split in SPLITS:
        write_json(folder / split / METADATA, [_entry_of(row) for row in rows if row["split"] == split])
    return {split: len(names[split]) for split in SPLITS}


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
        _typed(pd.DataFrame(rows, columns=list(_COLUMNS), dtype=object)),
        pd.DataFrame(problems, columns=list(PROBLEM_COLUMNS), dtype=str),
    )


def import_d3s(folder: str | Path, run_folder: str | Path) -> D3SLayout:
    """Make a run's folder out of pictures in the authors' layout, as notebooks 01 and 02 would leave it.

    Guides go to ``01_compositing/guides``, results to ``02_diffusion_generation/images/<split>``, with
    ``guides.parquet`` and ``metadata.jsonl`` in the columns of a run; what the layout does not record is null, and a
    missing `foreground_id` is the picture's own id. The rows come last: after a kill, call it again. What was left
    out stands in ``02_diffusion_generation/import_problems.csv``.

    Returns:
        What was read.

    Raises:
        D3SLayoutError: See `read_d3s_layout`; also if no picture can be used, or if the run's folder holds pictures or
            rows that this import would not write. Then nothing is changed.
        OtherRunError, FolderInUseError: If the run's rows cannot be read, or another process writes them.
    """
    folder, run_folder = Path(folder), Path(run_folder)
    layout = read_d3s_layout(folder)
    if layout.pictures.empty:
        told = "".join(f"; {p.split}/{p.image}: {p.problem}" for p in layout.problems[:3].itertuples())
        raise D3SLayoutError(f"{folder} holds no picture that can be used{told}")
    rows = plain_rows(layout.pictures)
    images, guides = run_folder / "02_diffusion_generation" / "images", run_folder / "01_compositing" / "guides"
    with locked(images):
        _check_run_is_ours(rows, folder, run_folder)
        for place in (guides, *(images / split for split in SPLITS)):
            _remove_partial(place)
        made = list(_in_threads(lambda row: _write_pictures(row, folder, run_folder), rows))
        table = _typed(pd.DataFrame(made, dtype=object)[list(GUIDE_COLUMNS)])
        write_table(guides.parent / "guides.parquet", table)
        write_table(images.parent / "import_problems.csv", layout.problems)
        write_rows(images, {row["image_id"]: row for row in made})
    return layout


def main(arguments: Sequence[str] | None = None) -> int:
    """Export or import, as the command line asks, and return the exit status: 0, or 1 after a clear message."""
    parser = argparse.ArgumentParser(prog="python -m d3s_utils.d3s_layout", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write a run's validated pictures in the authors' layout")
    export.add_argument("run_folder", type=Path)
    export.add_argument("folder", type=Path)
    export.add_argument("--size", type=int, help="side in pixels to resize to, such as 512; unchanged by default")
    export.add_argument("--all", action="store_true", help="rejected pictures too")
    reading = commands.add_parser("import", help="make a run's folder out of the authors' layout")
    reading.add_argument("folder", type=Path)
    reading.add_argument("run_folder", type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.command == "export":
            table = pd.read_parquet(options.run_folder / "03_validation" / "validated.parquet")
            counts = write_d3s_layout(
                table, options.folder, root=options.run_folder, size=options.size, kept_only=not options.all
            )
            print(f"Wrote {', '.join(f'{count} {split}' for split, count in counts.items())} into {options.folder}")
        else:
            layout = import_d3s(options.folder, options.run_folder)
            print(f"Read {len(layout.pictures)} pictures into {options.run_folder}; left out {len(layout.problems)}")
            for problem in layout.problems[:20].itertuples():
                print(f"  {problem.split}/{problem.image}: {problem.problem}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _check_rows(rows: list[Row]) -> None:
    if not rows:
        raise ValueError("table must have at least one row that is kept, got none")
    for row in rows:
        if not isinstance(row["image_id"], str) or not _SAFE_NAME.fullmatch(f"{row['image_id']}.png"):
            raise ValueError(
                f"image_id must be letters, digits, '-', '_' and '.', to name a file; got {row['image_id']!r}"
            )
        if row["split"] not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {row['split']!r}")
        check_background(row["background"])
        imagenet_class(row["imagenet_index"])
        if _background_of(str(row["prompt"])) != row["background"]:
            raise ValueError(
                f"prompt of {row['image_id']} must end in its background, {row['background']!r}, as the authors' "
                f"prompts do; got {row['prompt']!r}"
            )
    twice = [image_id for image_id, count in Counter(row["image_id"] for row in rows).items() if count > 1]
    if twice:
        raise ValueError(f"image_id must be used once; {len(twice)} are used again, such as {twice[0]!r}")


def _entry_of(row: Row) -> dict[str, Any]:
    """Return an entry of ``metadata.json``: the authors' keys, and ours under `EXTRA`."""
    return {
        "image": f"{row['image_id']}.png",
        "classIdx": row["imagenet_index"],
        "prompt": row["prompt"],
        "args": {name: row[name] for name in _SETTINGS if row.get(name) is not None},
        "hasInit": True if row.get("has_init") is None else row["has_init"],
        "background": row["background"],
        EXTRA: {name: row[name] for name in _EXTRAS if row.get(name) is not None},
    }


def _read(folder: Path) -> tuple[list[Row], list[tuple[str, str, str]]]:
    """Return the usable rows, with `_COLUMNS`, and the problems."""
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
    for row, found in zip(rows, _in_threads(finished, rows), strict=True):
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
    """Return an entry as a row with `_COLUMNS`, or raise what is wrong with it."""
    if not _is_named(entry):
        raise D3SLayoutError("an entry must have a text under 'image'")
    name = _SAFE_NAME.fullmatch(entry["image"])
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
    label, background = imagenet_class(index), _background_of(prompt)
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
    return dict.fromkeys(_COLUMNS) | extra | _settings_of(entry.get("args")) | {
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


def _background_of(prompt: str) -> str:
    """Return a prompt's last word, which names the background."""
    words = prompt.strip(" \t\r\n.,;:!").split()
    return words[-1].lower() if words else ""


def _extra_of(extra: Any) -> dict[str, Any]:
    """Return what an entry holds beside the authors' keys, checked."""
    if extra is None:
        return {}
    if not isinstance(extra, dict):
        raise D3SLayoutError(f"{EXTRA} must be an object, got {type(extra).__name__}")
    known = {name: extra[name] for name in _EXTRAS if extra.get(name) is not None}
    for name, value in known.items():
        if not _fits(value, _EXTRAS[name]):
            raise D3SLayoutError(f"{EXTRA}.{name} must be {_EXTRAS[name].__name__}, got {value!r}")
    if known.get("canvas", 1) < 1:
        raise D3SLayoutError(f"{EXTRA}.canvas must be at least 1, got {known['canvas']}")
    return known


def _settings_of(args: Any) -> dict[str, Any]:
    """Return the settings that `args` tells, under this project's names; what does not fit is not taken over."""
    if not isinstance(args, dict):
        return {}
    named = {_ALIASES[name]: value for name, value in args.items() if name in _ALIASES}
    named |= {name: args[name] for name in _SETTINGS if name in args}
    return {name: value for name, value in named.items() if _fits(value, _SETTINGS[name])}


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


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with whole numbers kept whole where some are missing (a seed has more digits than a float)."""
    dtypes = {int: ("int64", "Int64"), float: ("float64", "Float64"), bool: ("bool", "boolean"), str: ("str", "str")}
    kinds = {name: _COLUMNS.get(name, str) for name in frame}
    return frame.astype({name: dtypes[kind][int(frame[name].isna().any())] for name, kind in kinds.items()})


def _manifest_row(row: Row, guide_sha256: str, sha256: str) -> Row:
    """Return the row that `generation.generate` would have recorded, null where the layout does not tell."""
    files = {
        "foreground_id": row["foreground_id"] or row["image_id"],
        "foreground_file": None,
        "template_file": None,
        "mask_file": None,
        "guide_file": f"01_compositing/guides/{row['image_id']}.png",
    }
    known = row | files
    return {
        "file_name": f"{row['image_id']}.png",
        **{name: known[name] for name in GUIDE_COLUMNS},
        "prompt": row["prompt"],
        "guide_sha256": guide_sha256,
        "has_init": row["has_init"],
        **{name: row[name] for name in _SETTINGS},
        "sha256": sha256,
    }


def _encoded(row: Row, folder: Path) -> tuple[bytes, bytes]:
    guide, result = read_pair(row["file"], root=folder)
    return encode_png(guide), encode_png(result)


def _places(row: Row, run_folder: Path) -> tuple[Path, Path]:
    name = f"{row['image_id']}.png"
    images = run_folder / "02_diffusion_generation" / "images"
    return run_folder / "01_compositing" / "guides" / name, images / row["split"] / name


def _write_pictures(row: Row, folder: Path, run_folder: Path) -> Row:
    digests = [
        sha256_of(place) if place.exists() else write_bytes(place, content)
        for place, content in zip(_places(row, run_folder), _encoded(row, folder), strict=True)
    ]
    return _manifest_row(row, *digests)


def _check_run_is_ours(rows: list[Row], folder: Path, run_folder: Path) -> None:
    """Raise if the run's folder holds a picture or a row that importing `rows` would not write."""
    images, guides = run_folder / "02_diffusion_generation" / "images", run_folder / "01_compositing" / "guides"
    advice = "choose another run folder, or move what is there away"
    _refuse_others(guides, {f"{row['image_id']}.png" for row in rows})
    for split in SPLITS:
        names = {f"{row['image_id']}.png" for row in rows if row["split"] == split}
        _refuse_others(images / split, names)
    recorded = read_rows(images).rows
    path = guides.parent / "guides.parquet"
    listed = {row["image_id"]: row for row in plain_rows(pd.read_parquet(path))} if path.is_file() else {}
    others = (recorded.keys() | listed.keys()) - {row["image_id"] for row in rows}
    if others:
        raise D3SLayoutError(f"{run_folder} records {len(others)} other pictures, such as {min(others)}: {advice}")

    def fault(row: Row) -> str:
        image_id, places = row["image_id"], _places(row, run_folder)
        if image_id not in recorded and image_id not in listed and not any(place.exists() for place in places):
            return ""
        digests = [hashlib.sha256(content).hexdigest() for content in _encoded(row, folder)]
        for place, digest in zip(places, digests, strict=True):
            if place.exists() and sha256_of(place) != digest:
                return f"{place} is another picture"
        expected = _manifest_row(row, *digests)
        if recorded.get(image_id, expected) != expected:
            return f"{images / row['split']} records {image_id} otherwise"
        guide = {name: expected[name] for name in GUIDE_COLUMNS}
        return f"{path} records {image_id} otherwise" if listed.get(image_id, guide) != guide else ""

    for found in _in_threads(fault, rows):
        if found:
            raise D3SLayoutError(f"{found} than this import would write: {advice}")


def _refuse_others(folder: Path, names: set[str]) -> None:
    others = sorted(path.name for path in folder.glob("*.png") if path.name not in names)
    if others:
        raise D3SLayoutError(
            f"{folder} holds {len(others)} other pictures, such as {others[0]}: choose another folder, or move it"
        )


def _remove_partial(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for partial in folder.glob(".*.partial"):
        partial.unlink()


def _resized(pixels: np.ndarray, size: int | None) -> np.ndarray:
    if size is None or pixels.shape[:2] == (size, size):
        return pixels
    if pixels.shape[0] != pixels.shape[1]:
        return pixels  # `join_pair` refuses it, and names its size
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS))


def _size_text(pixels: np.ndarray) -> str:
    return " x ".join(map(str, (*pixels.shape[1::-1], *pixels.shape[2:])))


def _in_threads(function: Callable[[Row], Any], rows: Sequence[Row]) -> Iterator[Any]:
    """Yield `function` of each row, in order; decoding and encoding let other threads run."""
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(rows), _AT_ONCE):
            yield from pool.map(function, rows[start : start + _AT_ONCE])


if __name__ == "__main__":
    sys.exit(main())
