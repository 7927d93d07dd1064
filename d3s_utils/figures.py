"""What all figures share: one colour a background, sheets of captioned pictures, and how a figure is saved."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from d3s_utils.atomic_files import write_bytes
from d3s_utils.taxonomy import BACKGROUNDS

BACKGROUND_COLORS = {  # Paul Tol's "muted" scheme (personal.sron.nl/~pault), told apart by colour-blind readers
    "grass": "#999933",
    "road": "#bbbbbb",
    "forest": "#117733",
    "water": "#332288",
    "sand": "#ddcc77",
    "indoors": "#cc6677",
    "snow": "#88ccee",
    "rain": "#44aa99",
    "night": "#aa4499",
    "cave": "#882255",
}
_PAPER = 255  # grey level between pictures
_NOTHING = 225  # grey level of a cell that has no picture


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 120) -> Path:
    """Save `figure`, whole or not at all, and return its path; the figure stays open for the notebook.

    Its title (or that of its first axes) goes into a png as ``Title``, where the report finds its caption. A jpg, for
    sheets of pictures that go into a repository, has none.
    """
    path = Path(path)
    formats = {
        ".png": {"format": "png", "metadata": {"Software": None, "Title": _title(figure)}},
        ".jpg": {"format": "jpg", "pil_kwargs": {"quality": 88, "optimize": True}},
    }
    if path.suffix not in formats:
        raise ValueError(f"path must end in .png or .jpg, got {path.name!r}")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, bbox_inches="tight", **formats[path.suffix])
    write_bytes(path, buffer.getvalue())
    return path


def contact_sheet(
    table: pd.DataFrame,
    *,
    root: str | Path,
    title: str,
    row: str = "class_name",
    column: str = "background",
    layers: Mapping[str, str] | None = None,
    cell_pixels: int = 96,
) -> Figure:
    """Draw pictures as a sheet: a captioned row for each value of `row`, a captioned column for each of `column`.

    Each cell stacks the pictures of one line of the table (the first that fits), by default the guide above the
    result; a cell without one is grey. Backgrounds stand in the paper's order, other values as they come.

    Args:
        table: Has the columns `row`, `column` and those that `layers` names.
        root: Folder below which the files lie.
        title: What the sheet shows.
        layers: Caption -> column of file paths, from top to bottom; ``{"guide": "guide_file", "result": "file"}``
            where None.
        cell_pixels: Side of a picture in the sheet, in pixels.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: If the table is empty or lacks a column.
    """
    layers = {"guide": "guide_file", "result": "file"} if layers is None else dict(layers)
    missing = [name for name in (row, column, *layers.values()) if name not in table]
    if missing or table.empty:
        raise ValueError(f"table must have lines and the columns {', '.join(missing) or 'named'}; it has {len(table)} "
                         f"lines and {', '.join(map(str, table.columns))}")  # fmt: skip
    row_names, column_names = _in_order(table[row]), _in_order(table[column])
    first = table.drop_duplicates([row, column]).set_index([row, column])
    cells = [
        [_stack(first.loc[(r, c), list(layers.values())], Path(root), cell_pixels) if (r, c) in first.index else None
         for c in column_names]
        for r in row_names
    ]  # fmt: skip
    return picture_grid(cells, row_names=row_names, column_names=column_names, layers=tuple(layers), title=title)


def captioned_sheet(
    table: pd.DataFrame, *, root: str | Path, title: str, columns: int = 5, cell_pixels: int = 128
) -> Figure:
    """Draw pictures in rows of `columns`, each with its own caption below.

    Args:
        table: A row a picture: `file` (relative to `root`), `caption` (may have several lines).

    Raises:
        ValueError: If the table is empty.
    """
    if table.empty:
        raise ValueError("table must have a picture, got none")
    rows = -(-len(table) // columns)
    size = (2.3 * columns, 2.75 * rows + 0.6)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for ax, row in zip(axes.flat, table.to_dict("records"), strict=False):
        with Image.open(Path(root) / row["file"]) as image:
            shown = image.convert("RGB").resize((cell_pixels, cell_pixels), Image.Resampling.LANCZOS)
        ax.imshow(shown)
        words = "\n".join("\n".join(textwrap.wrap(line, 30)) for line in row["caption"].splitlines())
        ax.set_xlabel(words, fontsize=8, linespacing=1.3)
    figure.suptitle(title, fontsize=13)
    return figure


def picture_grid(
    cells: Sequence[Sequence[np.ndarray | None]],
    *,
    row_names: Sequence[str],
    column_names: Sequence[str],
    title: str,
    layers: Sequence[str] = (),
) -> Figure:
    """Draw pictures that are in memory as a sheet with captioned rows and columns (see `contact_sheet`).

    Args:
        cells: uint8 pictures (h, w, 3), all of one size, or None; one list a row.
        layers: Names of what is stacked within a picture, from top to bottom.
    """
    height, width = next(cell.shape[:2] for line in cells for cell in line if cell is not None)
    gap = max(2, width // 24)
    step_down, step_right = height + 2 * gap, width + gap
    sheet = np.full((len(cells) * step_down, len(cells[0]) * step_right, 3), _PAPER, np.uint8)
    for i, line in enumerate(cells):
        for j, cell in enumerate(line):
            place = np.s_[i * step_down : i * step_down + height, j * step_right : j * step_right + width]
            sheet[place] = _NOTHING if cell is None else cell
    inches = 1.1 / 96 * max(96, width) / width
    figure, ax = plt.subplots(figsize=(sheet.shape[1] * inches + 1.6, sheet.shape[0] * inches + 0.8))
    ax.imshow(sheet, interpolation="nearest", aspect="equal")
    ax.set_xticks(np.arange(len(column_names)) * step_right + width / 2, column_names, fontsize=11)
    ax.xaxis.tick_top()
    for label in ax.get_xticklabels():
        color = BACKGROUND_COLORS.get(label.get_text())
        if color:  # a bar in the background's colour, since words in a pale one are hard to read
            label.set_bbox({"boxstyle": "square,pad=0.25", "facecolor": color, "alpha": 0.35, "edgecolor": "none"})
    ax.set_yticks(np.arange(len(row_names)) * step_down + height / 2, row_names, fontsize=11)
    if len(layers) > 1:
        depth = height / len(layers)
        places = [(i * step_down + (k + 0.5) * depth, name) for i in range(len(cells)) for k, name in enumerate(layers)]
        right = ax.secondary_yaxis("right")
        right.set_yticks([place for place, _ in places], [name for _, name in places], fontsize=8, color="0.35")
        right.tick_params(length=0)
        right.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=13, pad=12)
    figure.tight_layout()
    return figure


def _title(figure: Figure) -> str | None:
    titles = [figure.get_suptitle(), *(ax.get_title() for ax in figure.axes)]
    return next((title for title in titles if title), None)


def _in_order(values: pd.Series) -> list:
    found = list(dict.fromkeys(values))
    known = [name for name in BACKGROUNDS if name in found]
    return known if len(known) == len(found) else found


def _stack(files: pd.Series, root: Path, side: int) -> np.ndarray:
    pictures = []
    for name in files:
        with Image.open(root / name) as image:
            pictures.append(np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)))
    return np.concatenate(pictures)
