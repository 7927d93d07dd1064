"""The first look at a run: one object on all backgrounds, and what a classifier called it on each."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from d3s_utils.photos import PhotoError
from d3s_utils.run_images import read_answers, read_images
from d3s_utils.taxonomy import BACKGROUNDS
from d3s_utils.thumbnails import webp_uri

SIDE = 256  # pixels of an embedded image at most


@dataclass(frozen=True)
class Tile:
    """One image of the first look.

    Attributes:
        place: Where the object is, such as ``in a cave``, or ``the object alone``.
        verdict: ``right``, ``wrong``, or empty where nobody was asked.
        said: What the classifier called it.
        note: Why the image does not count, or why none is shown.
        alt: All that in a sentence, for those who do not see the image.
        source: The image as a data URI; empty where it cannot be shown.
    """

    place: str
    verdict: str
    said: str
    note: str
    alt: str
    source: str


@dataclass(frozen=True)
class FirstLook:
    """One object on all backgrounds.

    Attributes:
        class_name: Its class.
        classifier: Whose answers these are; empty where there are none.
        tiles: The object alone, then its images in the paper's order of backgrounds.
        right: On how many of the images that notebook 03 kept the classifier is right.
        answered: Of so many.
        kept: Images of the object that notebook 03 kept.
        images: Images of the whole run.
        mixed: Whether the classifier is right on some of the kept ones and wrong on others.
        missing: What the run lacks for more, as sentences.
    """

    class_name: str = ""
    classifier: str = ""
    tiles: tuple[Tile, ...] = field(default=(), repr=False)
    right: int = 0
    answered: int = 0
    kept: int = 0
    images: int = 0
    mixed: bool = False
    missing: tuple[str, ...] = ()


def first_look(run_folder: Path) -> FirstLook:
    """Return the first look at a run, from what its notebooks have left so far.

    Args:
        run_folder: The run's folder.

    Raises:
        ValueError: If a file of notebook 03 or 04 is not what they write.
    """
    images = read_images(run_folder, more=("foreground_id", "foreground_file", "reason"))
    if images.empty:
        return FirstLook(missing=("No images yet: notebook 03 has not checked any.",))
    ids = images["foreground_id"]
    images["foreground_id"] = ids.where(ids != "", images["image_id"])  # imported without: each for itself
    answers = read_answers(run_folder)
    classifier = str(answers["model"].iloc[0]) if len(answers) else ""
    shifted = answers[answers["model"] == classifier].set_index("id")
    alone = read_answers(run_folder, kind="original")
    alone = alone[alone["model"] == classifier].set_index("id")
    chosen = choose_object(images, shifted["right"])
    rows = images[images["foreground_id"] == chosen]
    rows = rows.assign(order=rows["background"].map({name: place for place, name in enumerate(BACKGROUNDS)}))
    rows = rows.sort_values(["order", "background", "keep", "image_id"], ascending=[True, True, False, True])
    rows = rows.drop_duplicates("background")
    plain = rows.iloc[0]
    told = str(plain["class_name"])
    tiles = [_tile("the object alone", told, plain["foreground_file"], _answer(alone, chosen), "", run_folder)]
    for row in rows.to_dict("records"):
        place = BACKGROUNDS.get(row["background"], row["background"])
        note = "" if row["keep"] else "not kept"
        tiles.append(_tile(place, f"{told} {place}", row["file"], _answer(shifted, row["image_id"]), note, run_folder))
    kept = rows[rows["keep"]]
    right = shifted["right"].reindex(kept["image_id"]).dropna()
    return FirstLook(
        class_name=told, classifier=classifier, tiles=tuple(tiles), right=int(right.sum()),
        answered=len(right), kept=len(kept), images=len(images), mixed=bool(0 < right.sum() < len(right)),
        missing=() if classifier else ("No answers yet: notebook 04 has not asked any classifier.",),
    )  # fmt: skip


def choose_object(images: pd.DataFrame, right: pd.Series) -> str:
    """Return the `foreground_id` to show first; nobody picks it by hand.

    It is the one whose images were kept on most backgrounds, among those that the classifier names rightly on some of
    the kept images and wrongly on others; where there is none, among those it answered; where there is none either,
    among all. Of equals, the first id.

    Args:
        images: `image_id`, `foreground_id`, `background`, `keep`; at least one row.
        right: 1.0 or 0.0 by image id; NaN and absent mean that nothing is known.
    """
    known = images.assign(right=images["image_id"].map(right))
    kept = known[known["keep"]]
    table = pd.DataFrame({"backgrounds": kept.groupby("foreground_id")["background"].nunique()})
    table = table.reindex(known["foreground_id"].unique(), fill_value=0)
    share = kept.groupby("foreground_id")["right"].mean().reindex(table.index)
    table = table.assign(mixed=share.between(0, 1, inclusive="neither"), answered=share.notna(), id=table.index)
    order = ["mixed", "answered", "backgrounds", "id"]
    return str(table.sort_values(order, ascending=[False, False, False, True])["id"].iloc[0])


def _answer(answers: pd.DataFrame, image_id: str) -> tuple[str, str]:
    """Return the verdict and what was said; both empty where nobody was asked."""
    if image_id not in answers.index:
        return "", ""
    row = answers.loc[image_id]
    return {1.0: "right", 0.0: "wrong"}.get(row["right"], ""), str(row["said"])


def _tile(place: str, told: str, file: str, answer: tuple[str, str], note: str, root: Path) -> Tile:
    verdict, said = answer
    try:
        source = webp_uri(file, root=root, side=SIDE)
    except PhotoError:
        source, note = "", "cannot be read" if file else "there is no such file"
    judged = f", which is {verdict}" if verdict else ""
    heard = f"The classifier says {said}{judged}." if said else "No classifier was asked."
    alt = f"{told[0].upper()}{told[1:]}{f' ({note})' if note else ''}. {heard}"
    return Tile(place, verdict, said, note, alt, source)
