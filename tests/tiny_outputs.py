"""Outputs of notebooks 01, 02 and 03 in miniature: the right files and columns, random pictures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from d3s_utils.atomic_files import sha256_of, write_table, write_text
from d3s_utils.manifest import with_twins
from d3s_utils.metrics import Estimate, write_metrics
from d3s_utils.randomness import derive_seed, numpy_generator
from d3s_utils.settings import Settings, load_settings
from d3s_utils.taxonomy import imagenet_class, object_prompt


def tiny_settings(output_dir: Path, **changes: object) -> Settings:
    """Return the settings of a run of `mini` with twelve pictures."""
    small = {
        "classes": ["goldfish", "lion"], "backgrounds": ["snow", "night"], "guides_per_class_train": 2,
        "guides_per_class_val": 1, "templates_per_background": 2,
    }  # fmt: skip
    return load_settings("mini", output_dir=str(output_dir), **small | changes)


def write_tiny_outputs(settings: Settings, *, until: str = "03_validation") -> None:
    """Write what the notebooks up to `until` would, for the classes, backgrounds and counts in `settings`.

    Args:
        settings: Small ones, with an `output_dir` of the test's own.
        until: ``01_compositing``, ``02_diffusion_generation`` or ``03_validation``.
    """
    steps = {
        "01_compositing": _write_compositing,
        "02_diffusion_generation": _write_generation,
        "03_validation": _write_validation,
    }
    for stem, write in steps.items():
        metrics = write(settings)
        write_metrics(
            settings.folder(stem), notebook=stem, profile=settings.profile, seed=settings.seed, metrics=metrics,
            question="What would a tiny run give?", answer="Random pictures.",
        )  # fmt: skip
        if stem == until:
            return
    raise ValueError(f"until must be one of {', '.join(steps)}, got {until!r}")


def _write_compositing(settings: Settings) -> dict[str, Estimate]:
    folder, size = "01_compositing", settings.image_size
    foregrounds, templates, guides = [], [], []
    counts = {"train": settings.guides_per_class_train, "val": settings.guides_per_class_val}
    for synset in settings.classes:
        label = imagenet_class(synset)
        for number in range(sum(counts.values())):
            split = "train" if number < counts["train"] else "val"
            foreground_id = f"{synset}-{number:04d}"
            file = f"{folder}/foregrounds/{foreground_id}.png"
            _write_picture(settings, file, label.index, number)
            foregrounds.append(
                {
                    "foreground_id": foreground_id, "split": split, "synset": synset, "class_name": label.name,
                    "imagenet_index": label.index, "in9": label.in9, "file": file, "mask_file": None,
                    "prompt": object_prompt(label), "seed": number, "source": "dreamt", "source_name": "tiny",
                    "box": None,
                }
            )  # fmt: skip
    for background in settings.backgrounds:
        for number in range(settings.templates_per_background):
            file = f"{folder}/templates/{background}-{number:03d}.png"
            _write_picture(settings, file, settings.backgrounds.index(background) * 100, number)
            split = "train" if number < settings.templates_per_background - 1 else "val"
            templates.append(
                {
                    "template_id": f"{background}-{number:03d}", "split": split, "background": background,
                    "file": file, "source": "dreamt",
                }
            )  # fmt: skip
    side = round(size * settings.foreground_scale)
    for row in foregrounds:
        for background in settings.backgrounds:
            template = next(t for t in templates if t["background"] == background and t["split"] == row["split"])
            repeat = int(row["foreground_id"].split("-")[1])
            image_id = f"{row['synset']}-{repeat:04d}-{background}"
            file = f"{folder}/guides/{image_id}.png"
            _write_picture(settings, file, row["imagenet_index"], settings.backgrounds.index(background), repeat)
            placed = f"{folder}/placed/{image_id}.png"
            _write_picture(settings, placed, row["imagenet_index"], 0, repeat)
            labels = {name: row[name] for name in ("split", "synset", "class_name", "imagenet_index", "in9")}
            guides.append(
                {
                    "image_id": image_id, **labels, "background": background, "repeat": repeat,
                    "foreground_id": row["foreground_id"], "foreground_file": row["file"],
                    "template_id": template["template_id"], "template_file": template["file"],
                    "mask_file": None, "guide_file": file, "left": 0, "top": 0, "width": side, "height": side,
                    "scale": settings.foreground_scale, "canvas": size,
                    "placed_file": placed if row["split"] in settings.own_ground_splits else None,
                    "own_ground": "continued", "own_ground_share": 0.0,
                }
            )  # fmt: skip
    for name, rows in (("foregrounds", foregrounds), ("templates", templates), ("guides", guides)):
        write_table(settings.folder(folder) / f"{name}.parquet", pd.DataFrame(rows))
    return {"guides": Estimate(len(guides), len(guides), len(guides), len(guides))}


def _write_generation(settings: Settings) -> dict[str, Estimate]:
    folder = "02_diffusion_generation"
    guides = pd.read_parquet(settings.folder("01_compositing") / "guides.parquet")
    twins = guides.dropna(subset="placed_file")
    twins = twins.assign(guide_file=twins["placed_file"])
    for (images, split), rows in {
        (images, split): rows for images, table in (("images", guides), ("placed", twins))
        for split, rows in table.groupby("split")
    }.items():  # fmt: skip
        lines = []
        for row in rows.drop(columns=["placed_file", "own_ground", "own_ground_share"]).to_dict("records"):
            name = f"{row['image_id']}.png"
            file = f"{folder}/{images}/{split}/{name}"
            # The class sets the red channel's mean and the background the blue one's, so there is something to learn.
            _write_picture(settings, file, row["imagenet_index"], list(settings.backgrounds).index(row["background"]),
                           row["repeat"], 7)  # fmt: skip
            label = imagenet_class(row["synset"])
            words = {"background": row["background"]} if images == "images" else {}
            row |= {
                "file_name": name, "prompt": object_prompt(label, **words),
                "seed": derive_seed(settings.seed, "image", row["image_id"]), "strength": settings.strength,
                "steps": settings.steps, "guidance_scale": settings.guidance_scale, "model": "tiny",
                "model_sha256": "0" * 64, "sha256": sha256_of(settings.run_folder / file), "attempts": 1,
            }  # fmt: skip
            lines.append(json.dumps(row))
        write_text(settings.folder(folder) / images / split / "metadata.jsonl", "\n".join(lines) + "\n")
    return {"images": Estimate(len(guides), len(guides), len(guides), len(guides))}


def _write_validation(settings: Settings) -> dict[str, Estimate]:
    rows = []
    for split in ("train", "val"):
        images = settings.folder("02_diffusion_generation") / "images" / split
        for line in (images / "metadata.jsonl").read_text().splitlines():
            row = json.loads(line)
            rows.append(row | {"file": f"02_diffusion_generation/images/{split}/{row['file_name']}"})
    table = with_twins(pd.DataFrame(rows), settings.run_folder).assign(
        foreground_probability=0.9, background_probability=0.9, unsafe_score=0.0, keep=True, reason=""
    )
    if "placed_repainted_file" in table:
        table["placed_foreground_agrees"] = table["placed_repainted_file"].notna()
    write_table(settings.folder("03_validation") / "validated.parquet", table)
    return {
        "foreground_agreement": Estimate(1.0, 0.9, 1.0, len(table)),
        "background_agreement": Estimate(1.0, 0.9, 1.0, len(table)),
    }


def _write_picture(settings: Settings, file: str, red: int, blue: int, *names: int) -> None:
    """Write a picture of coloured noise at `file` below the run's folder."""
    path = settings.run_folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = numpy_generator(settings.seed, file, *names).normal(0, 30, (settings.image_size, settings.image_size, 3))
    colour = np.array([red * 37 % 256, 128, blue * 53 % 256])
    Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(path)
