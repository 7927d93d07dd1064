"""Foregrounds and templates for those who have no photos: dreamt from text, one file each, never twice."""

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from d3s_utils.atomic_files import sha256_of
from d3s_utils.batching import batches_within_memory
from d3s_utils.classifiers import recognisability
from d3s_utils.compositing import FOLDER
from d3s_utils.dreaming import DreamOptions, PromptEmbeddings, dream_batch, fault_of, to_bytes
from d3s_utils.gathering import Gathered, class_columns
from d3s_utils.photo_sources import skipped_table
from d3s_utils.pipelines import LoadedPipeline
from d3s_utils.png_files import has_recipe, write_png
from d3s_utils.randomness import derive_seed
from d3s_utils.taxonomy import ImageNetClass, object_prompt, scene_prompt

ATTEMPTS = 3  # a picture that is black or not finite is dreamt again with another seed


@dataclass(frozen=True)
class Dreamer:
    """How pictures are dreamt from text in one run.

    Attributes:
        pipeline: The diffusion model.
        options: Steps and guidance; its strength is not used.
        size: Side of the pictures in pixels.
        batch_size: Pictures at once; no picture depends on it.
        seed: The run's seed.
    """

    pipeline: LoadedPipeline
    options: DreamOptions
    size: int
    batch_size: int
    seed: int

    def recipe(self, picture_id: str, prompt: str, attempt: int) -> dict:
        """Return what a picture hangs on; two pictures with the same recipe are the same."""
        return {
            "prompt": prompt,
            "seed": derive_seed(self.seed, "dream", picture_id, *([attempt] if attempt else [])),
            "steps": int(self.options.steps),
            "guidance_scale": float(self.options.guidance_scale),
            "eta": float(self.options.eta),
            "size": int(self.size),
            "model_sha256": self.pipeline.sha256,
        }


def dream_foregrounds(
    dreamer: Dreamer,
    classes: Sequence[ImageNetClass],
    *,
    train: int,
    val: int,
    run_folder: Path,
    mask_mode: str,
    candidates: int = 1,
) -> Gathered:
    """Dream `train` + `val` objects of each class, from its prompt without a background.

    Args:
        candidates: How many objects are dreamt for each that is kept. Those are kept which `recognisability` finds
            best: a photo shows what its label says, a small model's dream may not.

    Returns:
        The columns of `gathering.gather_foregrounds`, with `source` "dreamt", and `recognised`, the critic's
        probability (NaN where there was nothing to choose from).

    Raises:
        ValueError: If `mask_mode` asks for alpha or mask files, which dreamt pictures have not, or `candidates` is
            below 1.
    """
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, got {candidates}")
    if mask_mode in ("alpha", "file"):
        raise ValueError(f"mask_mode {mask_mode!r} needs photos that have one: set `photos`, or take none or ellipse")
    mode = "none" if mask_mode == "auto" else mask_mode
    rows = []
    for imagenet in classes:
        for repeat in range((train + val) * candidates):
            foreground_id = f"{imagenet.synset}-{repeat:04d}"
            rows.append(
                {
                    "foreground_id": foreground_id,
                    **class_columns(imagenet),
                    "file": f"{FOLDER}/foregrounds/{foreground_id}.png",
                    "mask_file": None if mode == "none" else f"{FOLDER}/masks/{foreground_id}.png",
                    "mask_mode": mode,
                    "prompt": object_prompt(imagenet),
                }
            )
    gathered = dream_pictures(dreamer, pd.DataFrame(rows), run_folder=run_folder, description="dreamt foregrounds")
    table = gathered.table.assign(recognised=np.nan)
    if candidates > 1:
        table["recognised"] = recognisability(
            [run_folder / file for file in table.file], table.synset, device=str(dreamer.pipeline.device)
        )
        best = table.groupby("synset").recognised.rank(ascending=False, method="first") <= train + val
        table = table[best].reset_index(drop=True)
    split = np.where(table.groupby("synset").cumcount() < train, "train", "val")
    size = {"source_width": dreamer.size, "source_height": dreamer.size}
    return Gathered(table.assign(split=split, **size, box=None), gathered.skipped)


def dream_templates(
    dreamer: Dreamer, wanted: Sequence[tuple[str, str]], *, number: int, train_share: float, run_folder: Path
) -> Gathered:
    """Dream scenes for each wanted (background, split): of `number` a background, `train_share` are for training.

    Returns:
        The columns of `gathering.gather_templates`, with `source` "dreamt".
    """
    train_number = min(max(round(number * train_share), 1), number - 1)
    rows = []
    for background, split in wanted:
        for place in range(train_number) if split == "train" else range(train_number, number):
            template_id = f"{background}-dreamt-{place:04d}"
            rows.append(
                {
                    "template_id": template_id,
                    "split": split,
                    "background": background,
                    "file": f"{FOLDER}/templates/{template_id}.png",
                    "prompt": scene_prompt(background),
                }
            )
    return dream_pictures(dreamer, pd.DataFrame(rows), run_folder=run_folder, description="dreamt templates")


def dream_pictures(dreamer: Dreamer, requests: pd.DataFrame, *, run_folder: Path, description: str) -> Gathered:
    """Dream what is not there yet and write it, one PNG a picture with its recipe inside.

    Killed and run again it goes on where it stopped: a file is taken as it is when its recipe is the one asked for.

    Args:
        dreamer: The model and its options.
        requests: `file` (relative to the run's folder; its stem names the picture) and `prompt`.
        run_folder: The run's folder.
        description: What the progress bar says.

    Returns:
        The requests with `seed` (of the attempt that worked), `source` ("dreamt"), `source_name` (the model) and
        `source_sha256` (of the file); without the pictures that stayed black or not finite, which are in `skipped`.
    """
    run_folder = Path(run_folder)
    for parent in {(run_folder / file).parent for file in requests.file}:
        parent.mkdir(parents=True, exist_ok=True)
    seeds, skipped, pending = {}, [], deque()
    for file, prompt in zip(requests.file, requests.prompt, strict=True):
        recipes = [dreamer.recipe(Path(file).stem, prompt, attempt) for attempt in range(ATTEMPTS)]
        made = [recipe for recipe in recipes if has_recipe(run_folder / file, recipe)]
        if made:
            seeds[file] = made[0]["seed"]
        else:
            pending.append((file, recipes))
    embeddings = PromptEmbeddings(dreamer.pipeline)
    bar = tqdm(total=len(requests), initial=len(seeds), desc=description, mininterval=2, file=sys.stdout)

    def dream(batch):
        first = [recipes[0] for _, recipes in batch]
        return dream_batch(
            dreamer.pipeline,
            [recipe["prompt"] for recipe in first],
            [recipe["seed"] for recipe in first],
            options=dreamer.options,
            embeddings=embeddings,
            size=dreamer.size,
        )

    with bar:
        for batch, pictures in batches_within_memory(pending, dream, batch_size=dreamer.batch_size):
            for (file, recipes), picture in zip(batch, pictures, strict=True):
                fault = fault_of(picture)
                if fault and len(recipes) > 1:
                    pending.append((file, recipes[1:]))
                    continue
                if fault:
                    skipped.append((file, f"dreamt {fault} {ATTEMPTS} times"))
                else:
                    write_png(run_folder / file, to_bytes(picture), recipe=recipes[0])
                    seeds[file] = recipes[0]["seed"]
                bar.update()
    table = requests[requests.file.isin(seeds)].reset_index(drop=True)
    table = table.assign(
        seed=table.file.map(seeds).astype("Int64"),
        source="dreamt",
        source_name=dreamer.pipeline.identifier,
        source_sha256=[sha256_of(run_folder / file) for file in table.file],
    )
    return Gathered(table, skipped_table(skipped))
