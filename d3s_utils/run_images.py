"""A run's images as people look at them: labels and verdicts from notebook 03, answers from notebook 04."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from d3s_utils.taxonomy import label_name

NEEDED = ("image_id", "file", "class_name", "background", "split", "keep")
ANSWER_COLUMNS = ("model", "id", "said", "right", "in9_right", "confidence")


def read_images(run_folder: Path, *, more: Iterable[str] = (), prefixes: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return the rows of ``03_validation/validated.parquet``; none where the run has no such file.

    Args:
        run_folder: The run's folder.
        more: Columns beside `NEEDED`; one that the file lacks is empty.
        prefixes: All columns that begin with one of these are returned too.

    Returns:
        A row an image. Missing text is an empty string, `keep` is a boolean.

    Raises:
        ValueError: If one of `NEEDED` is not in the file.
    """
    wanted = [*NEEDED, *more]
    path = run_folder / "03_validation" / "validated.parquet"
    if not path.exists():
        return pd.DataFrame(columns=wanted)
    names = pq.read_schema(path).names
    absent = [name for name in NEEDED if name not in names]
    if absent:
        raise ValueError(f"{path} must have the columns {', '.join(NEEDED)}; {', '.join(absent)} are missing")
    read = [name for name in names if name in wanted or name.startswith(prefixes or ("\0",))]
    table = pd.read_parquet(path, columns=read)
    texts = [name for name in read if not pd.api.types.is_numeric_dtype(table[name])]
    table[texts] = table[texts].astype(object).where(table[texts].notna(), "")
    return table.assign(**{name: "" for name in wanted if name not in read}, keep=table["keep"].astype(bool))


def read_answers(run_folder: Path, *, kind: str = "shifted") -> pd.DataFrame:
    """Return what each classifier said of each image in notebook 04; no row where the run has not come so far.

    Args:
        run_folder: The run's folder.
        kind: ``shifted`` for generated images, ``original`` for the objects alone.

    Returns:
        A row for each classifier and image, classifiers in the order of the file: `model`, `id` (`image_id` or
        `foreground_id`), `said` (the name of the first answer), `right` (1.0 or 0.0: top-1, or ImageNet-9 where a set
        or a classifier has no other labels; NaN where neither is known), `in9_right` (likewise), `confidence`.
    """
    path = run_folder / "04_classifier_evaluation" / "predictions.parquet"
    if not path.exists():
        return pd.DataFrame(columns=list(ANSWER_COLUMNS))
    names = set(pq.read_schema(path).names)
    read = ["image_id", "picture_id", "model", "kind", "prediction", "top1", "in9_right", "confidence"]
    table = pd.read_parquet(path, columns=[name for name in read if name in names]).reindex(columns=read)
    rows = table[(table["kind"] == kind) & table["prediction"].notna()]
    said = {index: label_name(int(index)) for index in rows["prediction"].unique()}
    image = rows["image_id"].fillna("").astype(str)  # an object alone has none
    rows = rows.assign(
        id=image.where(image != "", rows["picture_id"]), said=rows["prediction"].map(said),
        right=rows["top1"].fillna(rows["in9_right"]),
    )  # fmt: skip
    return rows[list(ANSWER_COLUMNS)].drop_duplicates(["model", "id"], ignore_index=True)
