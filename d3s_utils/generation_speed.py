"""How much faster the dataset is made than by the plain loop, measured on a handful of its own pictures."""

import shutil
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from PIL import Image

from d3s_utils.generation import generate
from d3s_utils.pipelines import LoadedPipeline, quiet_libraries


def compare_speed(
    requests: pd.DataFrame, pipeline: LoadedPipeline, *, root: str | Path, batch_size: int, rounds: int = 3
) -> pd.DataFrame:
    """Make the pictures of `requests` by `generate` and by a plain loop in turns, and time both.

    The plain loop is what diffusers' documentation shows: one call and one ``save`` a picture. Both write to a
    folder that is removed afterwards. One picture each is made first and not timed.

    Args:
        requests: A few lines of `make_requests`.
        pipeline: What dreams, in both ways.
        root: Folder that the requests' paths are relative to.
        batch_size: For `generate`.
        rounds: How often both are timed; the order alternates.

    Returns:
        One line for each round and way: ``round``, ``way`` (``plain loop`` or ``generate``), ``seconds``, ``images``.
    """
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(-1, rounds):
            ways = ["plain loop", "generate"] if number % 2 else ["generate", "plain loop"]
            some = requests if number >= 0 else requests.iloc[:1]
            for way in ways:
                shutil.rmtree(folder / "images", ignore_errors=True)
                start = time.perf_counter()
                if way == "generate":
                    generate(some, folder / "images", pipeline, root=root, batch_size=batch_size, progress=False)
                else:
                    plain_loop(some, folder / "images", pipeline, root=root)
                seconds = time.perf_counter() - start
                if number >= 0:
                    lines.append({"round": number, "way": way, "seconds": seconds, "images": len(some)})
    return pd.DataFrame(lines)


def plain_loop(requests: pd.DataFrame, images: Path, pipeline: LoadedPipeline, *, root: str | Path) -> None:
    """Make pictures one by one, with no check, no record and no resume: the yardstick for `generate`."""
    images.mkdir(parents=True)
    for row in requests.itertuples():
        with quiet_libraries():
            picture = pipeline.image_to_image(
                prompt=row.prompt,
                image=Image.open(Path(root) / row.guide_file).convert("RGB"),
                strength=row.strength,
                num_inference_steps=row.steps,
                guidance_scale=row.guidance_scale,
                eta=row.eta,
                generator=torch.Generator().manual_seed(row.seed),
            ).images[0]
        picture.save(images / f"{row.image_id}.png")
