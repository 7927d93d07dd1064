"""An ImageNet-9 of a run's own images: objects on their homes in all variants, and on permuted homes as a control."""

import hashlib
import shutil
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from d3s_utils.classifiers import read_picture
from d3s_utils.compositing import resized
from d3s_utils.image_sets import ImageSet, read_image_set
from d3s_utils.in9_imitation import (
    CONTROLS,
    DRAWS,
    OUTLINES,
    STAND_INS,
    check_homes,
    choose_objects,
    control_images,
    images_at,
    paired_objects,
    permuted_homes,
)
from d3s_utils.in9_variants import (
    VARIANTS,
    VariantError,
    VariantPlan,
    make_variants,
    object_mask_in_box,
    usable_box,
    write_variants,
)
from d3s_utils.masks import file_mask
from d3s_utils.photos import PhotoError, read_photo
from d3s_utils.randomness import derive_seed

PASTED = ["left", "top", "width", "height", "canvas"]
CONTROL_VARIANTS = ("mixed_same", "mixed_rand")


@dataclass(frozen=True)
class Imitation:
    """An ImageNet-9 of a run's own images.

    Attributes:
        plan: The variants of the images at home; an image is called by its foreground's id.
        mixed: Further mixed images for the gap: (control, plan). Control 0 are objects at home on further backgrounds,
            1 and so on are the permutations of the homes, each as often as objects at home are drawn in all.
        cut_outs: A row an image: `control` (0 at home, else the permutation), `foreground_id`, `image_id`, `in9`,
            `background`, `mask` ("grabcut", "file" or "ellipse") and `counts`: whether what is said of it is compared.
            Images that only lend a background do not count, nor do those of a class that a permutation leaves at home.
        skipped: Images that cannot be used: `image_id`, `reason`.
    """

    plan: VariantPlan
    mixed: tuple[tuple[int, VariantPlan], ...]
    cut_outs: pd.DataFrame
    skipped: pd.DataFrame


def read_validated(run_folder: Path) -> pd.DataFrame:
    """Return notebook 03's table.

    Raises:
        ValueError: If it is not there.
    """
    path = Path(run_folder) / "03_validation" / "validated.parquet"
    if not path.is_file():
        raise ValueError(f"{path} is missing: run notebook 03_validation first")
    return pd.read_parquet(path)


def imitate(
    run_folder: Path, homes: Mapping[str, str], *, limit: int, seed: int, controls: int = CONTROLS, draws: int = DRAWS
) -> Imitation:
    """Return variants of generated images in which objects stand at home, and the control of their BG-Gap.

    Where an object lies is known. Where it was blended by a mask, that mask is taken. Else it lies in the box that it
    was pasted into: GrabCut finds its outline in there, or an ellipse stands in for it; what of the box is not the
    object counts as background that must go, as in the paper. Images with an outline are chosen first.

    The control shows the same foregrounds where they are valid on the home of another class. Whose background an object
    gets hangs on the same ids as at home, so it is the same where both have that foreground. One background an object
    is a coin tossed once; for the gap it gets several.

    Args:
        run_folder: With notebook 03's table and the images that it names.
        homes: Superclass -> background, such as from `in9_homes.choose_homes`.
        limit: See `in9_imitation.choose_objects`.
        seed: The run's seed.
        controls: Greatest number of permutations.
        draws: How often each object gets a background of its class, and of a random class, for the gap; at least 1.

    Raises:
        TooFewImagesError: If fewer than two superclasses have two images at home.
        ValueError: If `homes` or `draws` does not fit, or notebook 03 left no table.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    validated = read_validated(run_folder)
    cutter = _Cutter(Path(run_folder))
    chosen = choose_objects(cutter.cut(images_at(validated, check_homes(homes))), limit=limit, seed=seed)
    homes = chosen.drop_duplicates("in9").set_index("in9")["background"].to_dict()
    each = chosen["in9"].value_counts().to_dict()
    parts = [chosen.assign(control=0, counts=True)]
    for assignment in permuted_homes(homes, number=controls, seed=seed):
        elsewhere = cutter.cut(images_at(validated, assignment))
        rows = control_images(elsewhere, chosen["foreground_id"].tolist(), each=each, seed=seed)
        counts = rows["foreground_id"].isin(chosen["foreground_id"]) & (rows["background"] != rows["in9"].map(homes))
        if counts.any() and rows["in9"].nunique() >= 2:
            parts.append(rows.assign(control=len(parts), counts=counts))
    cut_outs = pd.concat(parts, ignore_index=True)
    paired = paired_objects(cut_outs, (*OUTLINES, *STAND_INS))
    mixed = []
    for control, rows in enumerate(parts):
        wanted = rows.loc[rows["counts"] & rows["foreground_id"].isin(paired), "foreground_id"]
        for draw in range(0 if control else 1, draws if len(wanted) else 0):
            plan = cutter.plan(rows, CONTROL_VARIANTS, seed=derive_seed(seed, "draw", draw) if draw else seed)
            compared = plan.table[plan.table["picture_id"].isin(wanted)].reset_index(drop=True)
            mixed.append((control, replace(plan, table=compared)))
    columns = ["control", "foreground_id", "image_id", "in9", "background", "mask", "counts"]
    return Imitation(cutter.plan(chosen, VARIANTS, seed=seed), tuple(mixed), cut_outs[columns], cutter.skipped)


def write_imitation(folder: Path, imitation: Imitation) -> tuple[Path, list[tuple[int, Path]]]:
    """Write all images below `folder`, and return the folder of the variants at home, and those of `Imitation.mixed`.

    They lie in a folder of this imitation's own, those of others are removed. What is there already stays.
    """
    plans = {"home": imitation.plan}
    plans |= {f"mixed_{place:02d}_control_{n}": plan for place, (n, plan) in enumerate(imitation.mixed)}
    digest = hashlib.sha256("".join(f"{n}\n{plan.table.to_csv(index=False)}" for n, plan in plans.items()).encode())
    place = Path(folder) / digest.hexdigest()[:12]
    for other in Path(folder).glob("*"):
        if other.name != place.name:
            shutil.rmtree(other)
    for name, plan in plans.items():
        write_variants(place / name, plan, progress=name == "home")
    names = list(plans)[1:]
    return place / "home", [(n, place / name) for name, (n, _) in zip(names, imitation.mixed, strict=True)]


def read_mixed(folders: Sequence[tuple[int, Path]]) -> ImageSet | None:
    """Return the images of all `Imitation.mixed` as one set with the column `control`; None where there are none."""
    tables, pictures = [], []
    for number, (control, folder) in enumerate(folders):
        images = read_image_set("in9", folder)
        names = f"mixed {number}: " + images.table["picture_id"]
        tables.append(images.table.assign(control=control, picture_id=names))
        pictures += images.pictures
    return ImageSet("mixed images", pd.concat(tables, ignore_index=True), tuple(pictures)) if tables else None


class _Cutter:
    """Cuts objects out of a run's images, each once, and plans variants of them."""

    def __init__(self, run_folder: Path):
        self.root = run_folder
        self._kept: dict[str, tuple[bytes, tuple[int, int], tuple | None, str]] = {}  # masks compress a hundredfold
        self._reasons: dict[str, str] = {}

    @property
    def skipped(self) -> pd.DataFrame:
        return pd.DataFrame(sorted(self._reasons.items()), columns=["image_id", "reason"])

    def cut(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows that can be used, with a column `mask`: how each object was cut out."""
        new = [row for row in rows.to_dict("records") if row["image_id"] not in {*self._kept, *self._reasons}]
        with ThreadPoolExecutor() as threads:
            list(threads.map(self._cut_one, new))
        usable = rows[rows["image_id"].isin(list(self._kept))]
        return usable.assign(mask=[self._kept[name][3] for name in usable["image_id"]]).reset_index(drop=True)

    def plan(self, rows: pd.DataFrame, variants: Sequence[str], *, seed: int) -> VariantPlan:
        ids = rows["image_id"].tolist()
        pictures = _Made([self.root / file for file in rows["file"]], lambda file: np.asarray(read_picture(file)))
        return make_variants(
            pictures, _Made(ids, self._mask), rows["in9"].tolist(), seed=seed, variants=variants,
            ids=rows["foreground_id"].tolist(), boxes=[self._kept[name][2] for name in ids],
        )  # fmt: skip

    def _mask(self, image_id: str) -> np.ndarray:
        content, shape, _, _ = self._kept[image_id]
        return np.frombuffer(zlib.decompress(content), np.uint8).reshape(shape)

    def _cut_one(self, row: dict) -> None:
        name, box = row["image_id"], None
        try:
            picture = np.asarray(read_picture(self.root / row["file"]))
            if isinstance(row.get("mask_file"), str):  # it lies on the canvas pixel by pixel
                drawn = read_photo(row["mask_file"], root=self.root)
                mask, kind = resized(file_mask(drawn, shape=drawn.pixels.shape[:2]), len(picture)), "file"
            elif pd.isna([row[key] for key in PASTED]).any():
                raise VariantError(f"it is not known where the object of {name} was pasted")
            else:
                ends = (row["left"], row["top"], row["left"] + row["width"], row["top"] + row["height"])
                box = tuple(round(end * len(picture) / row["canvas"]) for end in ends)
                mask, kind = object_mask_in_box(picture, box)
            usable_box(mask, box=box, name=name)
        except (VariantError, PhotoError) as error:  # an empty mask, a box that leaves no background
            self._reasons[name] = str(error)
        else:
            self._kept[name] = zlib.compress(np.ascontiguousarray(mask)), mask.shape, box, kind


class _Made(Sequence):
    """Arrays that are made anew each time one is asked for, so that thousands need no memory."""

    def __init__(self, sources: Sequence, make):
        self._sources, self._make = sources, make

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, place: int) -> np.ndarray:
        return self._make(self._sources[place])
