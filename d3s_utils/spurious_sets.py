"""Training sets that tie classes to backgrounds, by a correlation that can be chosen."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from d3s_utils.randomness import numpy_generator
from d3s_utils.spurious_task import Tie, require_columns


def reserve_foregrounds(table: pd.DataFrame, *, share: float, seed: int) -> np.ndarray:
    """Choose training foregrounds that no training set may show, for methods that need a small balanced set.

    Deep feature reweighting (DFR) needs pictures that are neither trained on nor tested: draw them `among` these rows
    with `draw_training_set` at the correlation of chance, and the training set among the others.

    Args:
        table: As in `draw_training_set`.
        share: Share of each class's training foregrounds, in (0, 1), rounded; at least one, and one is always kept.
        seed: Of the choice.

    Returns:
        Whether each row's foreground is reserved, shape (n,), bool; False outside the training split.

    Raises:
        ValueError: If a column is missing, or `share` is out of range.
    """
    require_columns(table)
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    training = table[table["split"] == "train"]
    chosen = []
    for name, foregrounds in training.groupby("superclass")["foreground_id"]:
        found = np.unique(foregrounds.to_numpy())
        count = min(max(1, round(share * len(found))), len(found) - 1)
        chosen += numpy_generator(seed, "reserved foregrounds", name).permutation(found)[:count].tolist()
    return ((table["split"] == "train") & table["foreground_id"].isin(chosen)).to_numpy(bool)


def draw_training_set(
    table: pd.DataFrame,
    tie: Tie,
    *,
    correlation: float,
    size: int | None,
    seed: int,
    among: ArrayLike | None = None,
) -> np.ndarray:
    """Draw pictures of which a share `correlation` of each class shows the background tied to it.

    The rest of each class is spread evenly over the other classes' backgrounds, never over a left-out one. Classes are
    balanced: sizes that do not divide by their number give some of them one picture more. A class with m pictures has
    floor(correlation * m + 1/2) that match. Every background is shown as often as every other, up to one a class.

    Sets of one seed and correlation are nested: a larger one contains the smaller. Sets of one seed and different
    correlations share pictures as far as they can. A foreground may be drawn before several backgrounds.

    Args:
        table: Has the columns superclass (one of `tie.classes`; other rows are left aside), background,
            foreground_id and split; the rows of split ``train`` are drawn from.
        tie: From `tie`.
        correlation: From `tie.chance` (the background tells nothing) to 1 (it tells all; other cells may be empty).
            Below chance the background would tell what the class is not, which is another task, and is refused.
        size: Number of pictures, at least one a class; None takes `largest_training_set`.
        seed: Of the draw.
        among: Whether each row may be drawn, shape (n,), bool; None allows all.

    Returns:
        Positions of the rows drawn, ascending, shape (size,), int64.

    Raises:
        ValueError: If a column is missing, an option is out of range, or a cell has too few pictures: the message says
            which one and how many pictures can be had in all.
    """
    cells = _cells(table, tie, among)
    available = np.array([[len(cells[i, j]) for j in range(len(tie.classes))] for i in range(len(tie.classes))])
    order = numpy_generator(seed, "spurious training", "classes").permutation(len(tie.classes))
    largest = _largest(available[np.ix_(order, order)], tie, correlation)
    size = largest if size is None else size
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < len(tie.classes):
        lack = "" if largest >= len(tie.classes) else f" (no more than {largest} can be had: {_empty(available, tie)})"
        raise ValueError(f"size must be an integer of at least {len(tie.classes)}, one a class, got {size!r}{lack}")
    needed = np.zeros_like(available)
    needed[np.ix_(order, order)] = _counts(len(tie.classes), correlation, size)
    if size > largest:
        i, j = np.unravel_index((needed - available).argmax(), needed.shape)
        raise ValueError(
            f"size must be at most {largest} at correlation {correlation:g}, got {size}: class {tie.classes[i]!r} has "
            f"{available[i, j]} pictures on background {tie.backgrounds[j]!r}, which is {needed[i, j]} wanted"
        )
    drawn = []
    for (i, j), rows in cells.items():
        generator = numpy_generator(seed, "spurious training", str(tie.classes[i]), str(tie.backgrounds[j]))
        drawn.append(generator.permutation(rows)[: needed[i, j]])
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def largest_training_set(
    table: pd.DataFrame, tie: Tie, *, correlation: float, seed: int, among: ArrayLike | None = None
) -> int:
    """Return how many pictures `draw_training_set` can draw with these arguments; 0 where a needed cell is empty.

    To compare correlations at one size, take the smallest of these numbers.

    Raises:
        ValueError: See `draw_training_set`.
    """
    cells = _cells(table, tie, among)
    order = numpy_generator(seed, "spurious training", "classes").permutation(len(tie.classes))
    available = np.array([[len(cells[i, j]) for j in order] for i in order])
    found = _largest(available, tie, correlation)
    return found if found >= len(tie.classes) else 0


def _counts(number: int, correlation: float, size: int) -> np.ndarray:
    """Return how many pictures each class (row) has on each class's background (column) in a set of `size`.

    Classes stand in a ring. A class's k-th picture that does not match goes to the k-th class after it, so what falls
    on a background is the same for all, and more pictures only ever add to a cell.
    """
    each = size // number + (np.arange(number) < size % number)
    matching = np.minimum(np.floor(correlation * each + 0.5 + 1e-9).astype(int), each)
    counts = np.diag(matching)
    for step in range(1, number):
        share = -((-(each - matching - (step - 1))) // (number - 1))  # rounded up
        counts[np.arange(number), (np.arange(number) + step) % number] = np.maximum(share, 0)
    return counts


def _largest(available: np.ndarray, tie: Tie, correlation: float) -> int:
    """Return the largest size whose counts are available, both in the ring's order."""
    if not tie.chance - 1e-9 <= correlation <= 1:
        raise ValueError(f"correlation must be between chance ({tie.chance:g}) and 1, got {correlation}")
    low, high = 0, int(available.sum())
    while low < high:
        middle = (low + high + 1) // 2
        if (_counts(len(tie.classes), correlation, middle) <= available).all():
            low = middle
        else:
            high = middle - 1
    return low


def _cells(table: pd.DataFrame, tie: Tie, among: ArrayLike | None) -> dict[tuple[int, int], np.ndarray]:
    """Return the training rows of each class on each tied background, in the order of their foregrounds."""
    require_columns(table)
    allowed = (table["split"] == "train").to_numpy(bool)
    if among is not None:
        among = np.asarray(among)
        if among.shape != (len(table),) or among.dtype != bool:
            raise ValueError(f"among must be {len(table)} booleans, got {among.dtype} of shape {among.shape}")
        allowed = allowed & among
    rows = np.flatnonzero(allowed)
    rows = rows[np.argsort(table["foreground_id"].to_numpy()[rows], kind="stable")]
    classes, backgrounds = table["superclass"].to_numpy()[rows], table["background"].to_numpy()[rows]
    return {
        (i, j): rows[(classes == name) & (backgrounds == background)]
        for i, name in enumerate(tie.classes)
        for j, background in enumerate(tie.backgrounds)
    }


def _empty(available: np.ndarray, tie: Tie) -> str:
    i, j = np.argwhere(available == available.min())[0]
    return f"class {tie.classes[i]!r} has {available[i, j]} pictures on background {tie.backgrounds[j]!r}"
