"""The layout in which the authors of D3S stored their pictures: written from a run, and read into one.

A folder for each split holds ``metadata.json`` and one PNG a sample, the guide and the result side by side. Readers of
their data set find everything where they expect it. What is written is not the same byte for byte: file names are a
run's own ids, an entry has one key more, and pictures keep their side unless another one, such as theirs, is asked for.

python -m d3s_utils.d3s_layout export RUN_FOLDER FOLDER --size 512
python -m d3s_utils.d3s_layout import FOLDER RUN_FOLDER --scale 0.4
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from d3s_utils.atomic_files import write_bytes, write_json
from d3s_utils.d3s_import import import_d3s, refuse_others, remove_partial
from d3s_utils.d3s_reading import EXTRA, EXTRAS, METADATA, PADDING, SAFE_NAME, SETTINGS, background_of, in_threads
from d3s_utils.manifest import plain_rows
from d3s_utils.photos import read_photo
from d3s_utils.png_files import encode_png
from d3s_utils.row_appender import Row
from d3s_utils.taxonomy import SPLITS, check_background, imagenet_class


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
        remove_partial(folder / split)
        refuse_others(folder / split, set(names[split]))

    def write(row: Row) -> None:
        guide, result = (_resized(read_photo(row[name], root=root).pixels, size) for name in ("guide_file", "file"))
        try:
            pixels = join_pair(guide, result)
        except ValueError as error:
            raise ValueError(f"{row['image_id']}: {error}") from error
        write_bytes(folder / row["split"] / f"{row['image_id']}.png", encode_png(pixels))

    list(in_threads(write, rows))
    for split in SPLITS:
        write_json(folder / split / METADATA, [_entry_of(row) for row in rows if row["split"] == split])
    return {split: len(names[split]) for split in SPLITS}


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
    reading.add_argument("--scale", type=float, default=0.4, help="side of the pasted squares over the guide's")
    options = parser.parse_args(arguments)
    try:
        if options.command == "export":
            table = pd.read_parquet(options.run_folder / "03_validation" / "validated.parquet")
            counts = write_d3s_layout(
                table, options.folder, root=options.run_folder, size=options.size, kept_only=not options.all
            )
            print(f"Wrote {', '.join(f'{count} {split}' for split, count in counts.items())} into {options.folder}")
        else:
            made = import_d3s(options.folder, options.run_folder, scale=options.scale)
            lacking = int((~made.pictures["foreground_found"]).sum())
            print(
                f"Read {len(made.pictures)} pictures into {options.run_folder}; left out {len(made.problems)}; "
                f"{len(made.foregrounds)} foregrounds cut out of the guides, none found in {lacking} of them"
            )
            for problem in made.problems[:20].itertuples():
                print(f"  {problem.split}/{problem.image}: {problem.problem}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _check_rows(rows: list[Row]) -> None:
    if not rows:
        raise ValueError("table must have at least one row that is kept, got none")
    for row in rows:
        if not isinstance(row["image_id"], str) or not SAFE_NAME.fullmatch(f"{row['image_id']}.png"):
            raise ValueError(
                f"image_id must be letters, digits, '-', '_' and '.', to name a file; got {row['image_id']!r}"
            )
        if row["split"] not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {row['split']!r}")
        check_background(row["background"])
        imagenet_class(row["imagenet_index"])
        if background_of(str(row["prompt"])) != row["background"]:
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
        "args": {name: row[name] for name in SETTINGS if row.get(name) is not None},
        "hasInit": True if row.get("has_init") is None else row["has_init"],
        "background": row["background"],
        EXTRA: {name: row[name] for name in EXTRAS if row.get(name) is not None},
    }


def _resized(pixels: np.ndarray, size: int | None) -> np.ndarray:
    if size is None or pixels.shape[:2] == (size, size):
        return pixels
    if pixels.shape[0] != pixels.shape[1]:
        return pixels  # `join_pair` refuses it, and names its size
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS))


def _size_text(pixels: np.ndarray) -> str:
    return " x ".join(map(str, (*pixels.shape[1::-1], *pixels.shape[2:])))


if __name__ == "__main__":
    sys.exit(main())
