"""A run's folder made out of pictures in the authors' layout, with the foregrounds cut out of the guides again."""

import hashlib
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from d3s_utils.atomic_files import sha256_of, write_bytes, write_table
from d3s_utils.compositing import pasted_size
from d3s_utils.d3s_reading import (
    COLUMNS,
    PROBLEM_COLUMNS,
    SETTINGS,
    D3SLayoutError,
    in_threads,
    read_d3s_layout,
    read_pair,
    typed,
)  # fmt: skip
from d3s_utils.generation_requests import GUIDE_COLUMNS
from d3s_utils.manifest import locked, plain_rows, read_rows, write_rows
from d3s_utils.paste_finding import find_paste
from d3s_utils.png_files import encode_png
from d3s_utils.row_appender import Row
from d3s_utils.taxonomy import SPLITS

NOT_FOUND = "no pasted foreground found in the guide: imported without one"


@dataclass(frozen=True)
class D3SImport:
    """What an import has brought into a run's folder.

    Attributes:
        pictures: As in `D3SLayout`, with `foreground_id` and the box filled in where the foreground was found, and
            `foreground_found`.
        foregrounds: The rows of ``foregrounds.parquet``.
        problems: The entries and files that were left out: `split`, `image`, `problem`.
    """

    pictures: pd.DataFrame
    foregrounds: pd.DataFrame
    problems: pd.DataFrame


def import_d3s(folder: str | Path, run_folder: str | Path, *, scale: float = 0.4) -> D3SImport:
    """Make a run's folder out of pictures in the authors' layout, as notebooks 01 and 02 would leave it.

    Guides go to ``01_compositing/guides``, results to ``02_diffusion_generation/images/<split>``, with
    ``guides.parquet`` and ``metadata.jsonl`` in the columns of a run; what the layout does not record is null. The
    foregrounds are cut out of the guides, where the entry records the box or `find_paste` sees it, into
    ``01_compositing/foregrounds`` and ``foregrounds.parquet``, one of each `foreground_id` and split. An id that is
    not recorded is made of the crop's pixels, so it is the same on all backgrounds; without a crop it is the picture's
    own, and there is no foreground. The rows come last: after a kill, call it again. What was left out, and where no
    foreground was found, stands in ``02_diffusion_generation/import_problems.csv``.

    Args:
        folder: In the authors' layout.
        run_folder: New, or what the same import has left.
        scale: Side of the pasted squares over the guide's, for the boxes that are not recorded.

    Raises:
        D3SLayoutError: See `read_d3s_layout`; also if no picture can be used, or if the run's folder holds pictures or
            rows that this import would not write. Then nothing is changed.
        ValueError: If `scale` is not in (0, 1].
        OtherRunError, FolderInUseError: If the run's rows cannot be read, or another process writes them.
    """
    folder, run_folder = Path(folder), Path(run_folder)
    pasted_size(1000, scale)  # refuses a scale that is none before anything is read
    layout = read_d3s_layout(folder)
    if layout.pictures.empty:
        told = "".join(f"; {p.split}/{p.image}: {p.problem}" for p in layout.problems[:3].itertuples())
        raise D3SLayoutError(f"{folder} holds no picture that can be used{told}")
    rows = list(in_threads(lambda row: _with_foreground(row, folder, scale), plain_rows(layout.pictures)))
    images, guides = run_folder / "02_diffusion_generation" / "images", run_folder / "01_compositing" / "guides"
    first = {}  # of each foreground, the picture that it is cut out of
    for row in rows:
        if row["foreground_found"]:
            first.setdefault((row["foreground_id"], row["split"]), row)
    of_file = {foreground_id: row for (foreground_id, _), row in reversed(first.items())}
    with locked(images):
        _check_run_is_ours(rows, of_file, folder, run_folder)
        for place in (guides, guides.parent / "foregrounds", *(images / split for split in SPLITS)):
            remove_partial(place)
        made = list(in_threads(lambda row: _write_pictures(row, folder, run_folder), rows))
        crops = dict(in_threads(lambda row: _write_foreground(row, folder, run_folder), list(of_file.values())))
        foregrounds = _foregrounds(list(first.values()), crops)
        write_table(guides.parent / "foregrounds.parquet", foregrounds)
        write_table(guides.parent / "guides.parquet", typed(pd.DataFrame(made, dtype=object)[list(GUIDE_COLUMNS)]))
        missing = [(row["split"], Path(row["file"]).name, NOT_FOUND) for row in rows if not row["foreground_found"]]
        listed = pd.concat([layout.problems, pd.DataFrame(missing, columns=list(PROBLEM_COLUMNS), dtype=str)])
        write_table(images.parent / "import_problems.csv", listed)
        write_rows(images, {row["image_id"]: row for row in made})
    found = pd.Series([row["foreground_found"] for row in rows], dtype=bool)
    pictures = typed(pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)).assign(foreground_found=found)
    return D3SImport(pictures, foregrounds, layout.problems)


def refuse_others(folder: Path, names: set[str]) -> None:
    """Raise `D3SLayoutError` if a folder holds other PNGs than these."""
    others = sorted(path.name for path in folder.glob("*.png") if path.name not in names)
    if others:
        raise D3SLayoutError(
            f"{folder} holds {len(others)} other pictures, such as {others[0]}: choose another folder, or move it"
        )


def remove_partial(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for partial in folder.glob(".*.partial"):
        partial.unlink()


def _with_foreground(row: Row, folder: Path, scale: float) -> Row:
    """Return the row with the box and the id of its foreground, and whether it was found."""
    guide, _ = read_pair(row["file"], root=folder)
    if row["left"] is None:
        side = max(int(scale * len(guide) + 1e-9), 1)
        paste = find_paste(guide, side=side)
        if paste is not None:
            place = {"left": paste.left, "top": paste.top, "width": side, "height": side, "scale": scale}
            row = row | place
    crop = _crop(guide, row)
    if crop is None:
        own = {"foreground_id": row["foreground_id"] or row["image_id"]}
        return row | own | {"foreground_found": False}
    digest = hashlib.sha256(repr(crop.shape).encode() + crop.tobytes()).hexdigest()
    return row | {"foreground_id": row["foreground_id"] or f"{row['synset']}-{digest[:12]}", "foreground_found": True}


def _crop(guide: np.ndarray, row: Row) -> np.ndarray | None:
    """Return the pasted pixels; None without a box inside the guide, or where a masked photo fills the guide."""
    if row["left"] is None:
        return None
    left, top, width, height = (row[name] for name in ("left", "top", "width", "height"))
    inside = min(left, top) >= 0 and min(width, height) >= 1 and max(left + width, top + height) <= len(guide)
    return guide[top : top + height, left : left + width] if inside and max(width, height) < len(guide) else None


def _foreground_png(row: Row, folder: Path) -> bytes:
    return encode_png(np.ascontiguousarray(_crop(read_pair(row["file"], root=folder)[0], row)))


def _foreground_file(row: Row) -> str | None:
    return f"01_compositing/foregrounds/{row['foreground_id']}.png" if row["foreground_found"] else None


def _write_foreground(row: Row, folder: Path, run_folder: Path) -> tuple[str, str]:
    """Write the crop; return the foreground's id and the file's sha256."""
    place = run_folder / _foreground_file(row)
    digest = sha256_of(place) if place.exists() else write_bytes(place, _foreground_png(row, folder))
    return row["foreground_id"], digest


def _foregrounds(rows: list[Row], crops: dict[str, str]) -> pd.DataFrame:
    """Return the table of the foregrounds, in the columns of `gathering.gather_foregrounds`."""
    labels = ("foreground_id", "split", "synset", "class_name", "imagenet_index", "in9")
    kinds = dict.fromkeys([*labels, "file", "mask_mode", "source", "source_name", "source_sha256"], "str") | {
        "imagenet_index": "int64", "mask_file": "object", "prompt": "object", "seed": "Int64", "box": "object",
        "source_width": "int64", "source_height": "int64",
    }  # fmt: skip
    made = [
        {name: row[name] for name in labels} | {
            "file": _foreground_file(row), "mask_file": None, "mask_mode": "none", "prompt": None, "seed": None,
            "source": "guide", "source_name": row["image_id"], "source_sha256": crops[row["foreground_id"]],
            "source_width": row["width"], "source_height": row["height"], "box": None,
        } for row in rows
    ]  # fmt: skip
    return pd.DataFrame(made, columns=list(kinds), dtype=object).astype(kinds)


def _manifest_row(row: Row, guide_sha256: str, sha256: str) -> Row:
    """Return the row that `generation.generate` would have recorded, null where the layout does not tell."""
    files = {
        "foreground_file": _foreground_file(row),
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
        **{name: row[name] for name in SETTINGS},
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


def _check_run_is_ours(rows: list[Row], of_file: dict[str, Row], folder: Path, run_folder: Path) -> None:
    """Raise if the run's folder holds a picture or a row that importing `rows` would not write."""
    images, guides = run_folder / "02_diffusion_generation" / "images", run_folder / "01_compositing" / "guides"
    advice = "choose another run folder, or move what is there away"
    refuse_others(guides, {f"{row['image_id']}.png" for row in rows})
    refuse_others(guides.parent / "foregrounds", {f"{foreground_id}.png" for foreground_id in of_file})
    for split in SPLITS:
        names = {f"{row['image_id']}.png" for row in rows if row["split"] == split}
        refuse_others(images / split, names)
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

    def foreground_fault(row: Row) -> str:
        place = run_folder / _foreground_file(row)
        same = not place.exists() or place.read_bytes() == _foreground_png(row, folder)
        return "" if same else f"{place} is another picture"

    for found in chain(in_threads(fault, rows), in_threads(foreground_fault, list(of_file.values()))):
        if found:
            raise D3SLayoutError(f"{found} than this import would write: {advice}")
