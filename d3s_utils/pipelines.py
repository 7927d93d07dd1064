"""Diffusion pipelines: the bundled one, one from a local folder, or one from the Hugging Face hub."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

from d3s_utils.atomic_files import sha256_of, write_text
from d3s_utils.devices import choose_device

BUNDLED_FOLDER = Path(__file__).parent / "models" / "mini_diffusion"
SUMS_FILE = "SHA256SUMS"
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_HASHED_SUFFIXES = {".safetensors", ".bin", ".json", ".txt"}
_LOADED_CLASSES = {"StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"}


class PipelineError(ValueError):
    """A generator that cannot be loaded; the message says what came and what to do."""


@dataclass(frozen=True)
class LoadedPipeline:
    """A diffusion model ready to dream.

    Attributes:
        text_to_image: Pipeline that dreams from a prompt alone.
        image_to_image: Pipeline that dreams from a prompt and a guide; it shares its weights with the other.
        identifier: ``bundled``, the hub id (with its revision), or the folder's name.
        sha256: `folder_sha256` of what was loaded.
        device: Where it runs.
        precision: ``float32``, ``float16`` or ``bfloat16``.
        image_size: Side of the pictures it was made for, in pixels.
    """

    text_to_image: StableDiffusionPipeline
    image_to_image: StableDiffusionImg2ImgPipeline
    identifier: str
    sha256: str
    device: torch.device
    precision: str
    image_size: int


def load_pipeline(
    generator: str | Path = "bundled",
    *,
    device: str = "auto",
    precision: str = "auto",
    revision: str | None = None,
) -> LoadedPipeline:
    """Load a Stable Diffusion pipeline for D3S: with a DDIM scheduler and without a safety checker.

    The safety checker paints pictures black; this project looks for unsafe pictures in its validation instead. A
    pipeline that comes with another scheduler gets DDIM with the same noise schedule (as in D3S).

    Args:
        generator: ``bundled``, a local folder in the layout of diffusers, or a hub id such as
            ``CompVis/stable-diffusion-v1-4``.
        device: ``auto``, ``cpu``, ``cuda``, …: see `choose_device`.
        precision: ``float32``, ``float16``, ``bfloat16``; ``auto`` is float16 on a GPU, float32 on a CPU.
        revision: Branch, tag or commit on the hub.

    Raises:
        PipelineError: If the folder is not such a pipeline, the bundled model is missing or changed, or the hub
            cannot be reached.
        ValueError: If the device or the precision is unknown.
    """
    chosen_device = choose_device(device)
    if precision == "auto":
        precision = "float16" if chosen_device.type == "cuda" else "float32"
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be auto or one of {', '.join(PRECISIONS)}, got {precision!r}")
    folder, identifier = _find_folder(str(generator), revision)
    bundled_sha256 = check_bundled_model(folder) if folder == BUNDLED_FOLDER else None
    text_to_image = _load_folder(folder)
    if not isinstance(text_to_image.scheduler, DDIMScheduler):
        text_to_image.scheduler = DDIMScheduler.from_config(text_to_image.scheduler.config)
    with quiet_libraries():  # diffusers warns of layers to be kept in float32, of which these models have none
        text_to_image.to(chosen_device, PRECISIONS[precision])
    text_to_image.unet.to(memory_format=torch.channels_last)
    text_to_image.vae.to(memory_format=torch.channels_last)
    image_to_image = StableDiffusionImg2ImgPipeline(**text_to_image.components, requires_safety_checker=False)
    for pipeline in (text_to_image, image_to_image):
        pipeline.set_progress_bar_config(disable=True)
    return LoadedPipeline(
        text_to_image=text_to_image,
        image_to_image=image_to_image,
        identifier=identifier,
        sha256=bundled_sha256 or folder_sha256(folder),
        device=chosen_device,
        precision=precision,
        image_size=int(text_to_image.unet.config.sample_size) * text_to_image.vae_scale_factor,
    )


def folder_sha256(folder: Path) -> str:
    """Return one sha256 for a pipeline folder: of the sorted names and sha256 of its weights and settings.

    Counted is what diffusers reads: ``model_index.json``, and in the parts' folders files ending in ``.safetensors``,
    ``.bin``, ``.json`` or ``.txt``. A model card and what else lies beside it may change.
    """
    lines = [f"{digest}  {name}\n" for name, digest in _file_sums(folder).items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_sha256_sums(folder: Path) -> str:
    """Write ``SHA256SUMS`` into a pipeline folder (as ``sha256sum`` does) and return its `folder_sha256`."""
    write_text(folder / SUMS_FILE, "".join(f"{digest}  {name}\n" for name, digest in _file_sums(folder).items()))
    return folder_sha256(folder)


def check_bundled_model(folder: Path) -> str:
    """Return `folder_sha256` of the bundled model if its files are those of its ``SHA256SUMS``.

    Raises:
        PipelineError: If the list or a file is missing, there is one more, or one has changed.
    """
    advice = "restore it with `git checkout -- d3s_utils/models` or train it with notebooks/00_train_mini_diffusion"
    if not (folder / SUMS_FILE).is_file():
        raise PipelineError(f"the bundled model is not there (no {SUMS_FILE} in {folder.name}): {advice}")
    pinned = dict(reversed(line.split("  ", 1)) for line in (folder / SUMS_FILE).read_text().splitlines() if line)
    found = _file_sums(folder)
    wrong = sorted(name for name in pinned.keys() | found.keys() if pinned.get(name) != found.get(name))
    if wrong:
        raise PipelineError(f"the bundled model differs from its {SUMS_FILE} in {', '.join(wrong)}: {advice}")
    return folder_sha256(folder)


def truncated_prompts(pipeline: LoadedPipeline, prompts: list[str]) -> list[str]:
    """Return those of `prompts` that are longer than the text encoder reads: it never sees their end."""
    tokenizer = pipeline.text_to_image.tokenizer
    lengths = [len(tokenizer(prompt, truncation=False, verbose=False).input_ids) for prompt in prompts]
    return [prompt for prompt, n in zip(prompts, lengths, strict=True) if n > tokenizer.model_max_length]


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep diffusers and transformers from drawing bars and repeating advice within the block."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()


def _find_folder(generator: str, revision: str | None) -> tuple[Path, str]:
    if generator == "bundled":
        return BUNDLED_FOLDER, "bundled"
    folder = Path(generator).expanduser()
    if folder.exists():
        return folder.resolve(), folder.resolve().name
    if folder.is_absolute() or generator.startswith((".", "~")) or generator.count("/") != 1:
        raise PipelineError(
            f"generator must be 'bundled', a folder or a hub id like CompVis/stable-diffusion-v1-4, got {generator!r}, "
            "and there is no such folder"
        )
    try:
        with quiet_libraries():
            downloaded = StableDiffusionPipeline.download(generator, revision=revision, safety_checker=None)
    except Exception as error:  # the hub's client raises a dozen unrelated classes; every one means the same here
        raise PipelineError(
            f"generator {generator!r} is neither a local folder nor could it be fetched from the Hugging Face hub. "
            "Without a network give a local folder, one that `StableDiffusionPipeline.save_pretrained` wrote or "
            f"`hf download` fetched, or 'bundled'. The hub's client said: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    return Path(downloaded), f"{generator}@{revision}" if revision else generator


def _load_folder(folder: Path) -> StableDiffusionPipeline:
    index = folder / "model_index.json"
    if not index.is_file():
        inside = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) if folder.is_dir() else "it is a file"
        raise PipelineError(
            f"generator must be a folder that diffusers saved, with a model_index.json; {folder} has none "
            f"({inside or 'it is empty'})"
        )
    try:
        kind = json.loads(index.read_text())["_class_name"]
        if kind not in _LOADED_CLASSES:
            raise PipelineError(f"generator must be a {' or '.join(sorted(_LOADED_CLASSES))}; {folder} is a {kind}")
        with quiet_libraries():
            return StableDiffusionPipeline.from_pretrained(
                folder, safety_checker=None, requires_safety_checker=False, local_files_only=True
            )
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, PipelineError):
            raise
        raise PipelineError(
            f"generator: the pipeline in {folder} does not load ({type(error).__name__}: {error})"
        ) from error


def _file_sums(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*/*") if path.suffix in _HASHED_SUFFIXES and path.is_file()]
    files += [path for path in [folder / "model_index.json"] if path.is_file()]
    return {name: sha256_of(folder / name) for name in sorted(path.relative_to(folder).as_posix() for path in files)}
