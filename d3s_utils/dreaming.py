"""Dreaming pictures in batches, from text alone or from a guide, so that no picture depends on its batch."""

import sys
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from d3s_utils.batching import batches_within_memory
from d3s_utils.pipelines import LoadedPipeline, quiet_libraries

DARKEST_ACCEPTED = 8  # a picture whose brightest value is below this, of 255, is black
MOST_ETA = 1 - 1e-5  # at 1 exactly, DDIM's step from pure noise takes the root of nothing, or of a rounding error


class DreamError(ValueError):
    """A picture that is not finite or is black."""


@dataclass(frozen=True)
class DreamOptions:
    """How a guide is dreamt into a picture.

    Attributes:
        strength: Share of the noise schedule that is run, above 0 and at most 1 (D3S: 0.9). At 1 nothing of the guide
            is left where the schedule ends in pure noise, as the bundled model's does; Stable Diffusion 1.x ends with
            0.076 of the latent still there (the root of its cumulative alpha at step 981). And diffusers adds the
            noise of the very step at which it begins (0.131 of the latent left at strength 0.9, step 881), while D3S's
            own code, CompVis's, adds that of the step before (0.118, step 901).
        steps: Denoising steps of the whole schedule; `strength` x `steps` of them are run (D3S: 50).
        guidance_scale: Classifier-free guidance; at most 1 turns it off (D3S: 5).
        eta: Noise added back at each DDIM step, 0 for none (D3S) to 1.

    Raises:
        ValueError: If a value is out of its range, or `strength` x `steps` is less than one step.
    """

    strength: float
    steps: int
    guidance_scale: float
    eta: float = 0.0

    def __post_init__(self):
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength must be above 0 and at most 1, got {self.strength!r}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, (int, np.integer)) or self.steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, got {self.steps!r}")
        if int(self.steps * self.strength) < 1:
            raise ValueError(f"strength x steps must be at least one step, got {self.strength} x {self.steps}")
        if not 0 <= self.guidance_scale <= 100:
            raise ValueError(f"guidance_scale must be between 0 and 100, got {self.guidance_scale!r}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be between 0 and 1, got {self.eta!r}")


class PromptEmbeddings:
    """The text encoder's answers, computed once for each distinct prompt, and once for the empty one.

    Prompts are encoded one at a time, so that an answer does not depend on its neighbours. The `capacity` prompts
    used last are kept: with requests in order, a prompt's pictures follow each other.
    """

    def __init__(self, pipeline: LoadedPipeline, *, capacity: int = 1000):
        self._pipeline = pipeline
        self._capacity = capacity
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return the embeddings of `prompts` on the pipeline's device, shape (n, tokens, width)."""
        return torch.cat([self._one(prompt) for prompt in prompts])

    def _one(self, prompt: str) -> torch.Tensor:
        if prompt not in self._kept:
            while len(self._kept) >= self._capacity:
                self._kept.popitem(last=False)
            with quiet_libraries():  # a warning for each prompt that is too long; `truncated_prompts` finds them
                encoded = self._pipeline.text_to_image.encode_prompt(prompt, self._pipeline.device, 1, False)[0]
            self._kept[prompt] = encoded
        self._kept.move_to_end(prompt)
        return self._kept[prompt]


def dream_batch(
    pipeline: LoadedPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    options: DreamOptions,
    embeddings: PromptEmbeddings,
    guides: np.ndarray | None = None,
    size: int | None = None,
) -> torch.Tensor:
    """Dream one batch and return it before rounding, so that a picture that is not finite can be told.

    Each picture has its own CPU generator, seeded with its own seed: the guide's latent and the noise are the same
    to the bit in every batch, order, worker and device.

    Args:
        prompts: One a picture.
        seeds: One a picture, in [0, 2**63).
        options: As in D3S; without guides, `strength` is not used.
        embeddings: Of this pipeline.
        guides: uint8, shape (n, h, w, 3), or None to dream from text alone.
        size: Side of pictures dreamt from text, in pixels; None takes the pipeline's.

    Returns:
        float32 on the CPU, shape (n, h, w, 3), in [0, 1], or NaN where the model diverged.
    """
    common = {
        "num_inference_steps": int(options.steps),
        "guidance_scale": float(options.guidance_scale),
        "eta": min(float(options.eta), MOST_ETA),
        "generator": [torch.Generator().manual_seed(int(seed)) for seed in seeds],
        "output_type": "pt",
    }
    with torch.inference_mode():
        common["prompt_embeds"] = embeddings(prompts)
        common["negative_prompt_embeds"] = embeddings([""] * len(prompts))
        if guides is None:
            side = size or pipeline.image_size
            pictures = pipeline.text_to_image(height=side, width=side, **common).images
        else:
            pixels = torch.from_numpy(guides).permute(0, 3, 1, 2).float() / 255
            pictures = pipeline.image_to_image(image=pixels, strength=float(options.strength), **common).images
    return pictures.permute(0, 2, 3, 1).float().cpu().clone()


def fault_of(picture: torch.Tensor) -> str:
    """Return why a picture of `dream_batch`, shape (h, w, 3), is not to be accepted: ``not finite``, ``black``, or "".

    Rounding to bytes would turn NaN into black, so this looks before it.
    """
    if not bool(torch.isfinite(picture).all()):
        return "not finite"
    return "black" if float(picture.max()) * 255 < DARKEST_ACCEPTED else ""


def to_bytes(pictures: torch.Tensor) -> np.ndarray:
    """Return pictures in [0, 1] as uint8, rounded as diffusers rounds them."""
    return (pictures * 255).round().to(torch.uint8).numpy()


def dream_from_text(
    pipeline: LoadedPipeline,
    prompts: list[str],
    seeds: list[int],
    *,
    steps: int,
    guidance_scale: float,
    size: int | None = None,
    eta: float = 0.0,
    batch_size: int = 32,
    description: str = "dreaming",
) -> np.ndarray:
    """Dream pictures from prompts alone; picture i depends on prompt i and seed i only.

    Args:
        size: Side in pixels, a multiple of the autoencoder's 8; None takes what the pipeline was made for.
        description: Written before the progress bar.

    Returns:
        uint8, shape (n, size, size, 3).

    Raises:
        ValueError: If the lengths differ or an option is out of its range.
        DreamError: If a picture is not finite or is black.
    """
    options = DreamOptions(strength=1.0, steps=steps, guidance_scale=guidance_scale, eta=eta)
    _check_side(pipeline, size or pipeline.image_size)
    return _dream_all(pipeline, prompts, seeds, None, options, batch_size, description, size or pipeline.image_size)


def dream_from_guides(
    pipeline: LoadedPipeline,
    guides: np.ndarray,
    prompts: list[str],
    seeds: list[int],
    *,
    strength: float,
    steps: int,
    guidance_scale: float,
    eta: float = 0.0,
    batch_size: int = 32,
    description: str = "dreaming",
) -> np.ndarray:
    """Dream each guide into a picture; picture i depends on guide, prompt and seed i only.

    Args:
        guides: uint8, shape (n, h, w, 3), sides a multiple of the autoencoder's 8.
        strength, steps, guidance_scale, eta: See `DreamOptions`.
        description: Written before the progress bar.

    Returns:
        uint8, the shape of `guides`.

    Raises:
        ValueError: If the lengths differ, the guides are not such an array, or an option is out of its range.
        DreamError: If a picture is not finite or is black.
    """
    options = DreamOptions(strength=strength, steps=steps, guidance_scale=guidance_scale, eta=eta)
    guides = np.asarray(guides)
    if guides.ndim != 4 or guides.shape[-1] != 3 or guides.dtype != np.uint8:
        raise ValueError(f"guides must be uint8 of shape (n, h, w, 3), got {guides.dtype} of shape {guides.shape}")
    if len(guides) != len(prompts):
        raise ValueError(f"guides must be one a prompt, got {len(guides)} guides for {len(prompts)} prompts")
    for side in guides.shape[1:3]:
        _check_side(pipeline, side)
    return _dream_all(pipeline, prompts, seeds, guides, options, batch_size, description, guides.shape[1])


def _dream_all(pipeline, prompts, seeds, guides, options, batch_size, description, size) -> np.ndarray:
    if len(prompts) != len(seeds):
        raise ValueError(f"seeds must be one a prompt, got {len(seeds)} seeds for {len(prompts)} prompts")
    if not prompts:
        raise ValueError("prompts must hold at least one prompt, got none")
    embeddings = PromptEmbeddings(pipeline)
    pictures = [None] * len(prompts)

    def dream(rows: list[int]) -> torch.Tensor:
        return dream_batch(
            pipeline,
            [prompts[row] for row in rows],
            [seeds[row] for row in rows],
            options=options,
            embeddings=embeddings,
            guides=None if guides is None else guides[rows],
            size=size,
        )

    with progress_bar(total=len(prompts), description=description) as bar:
        for rows, batch in batches_within_memory(deque(range(len(prompts))), dream, batch_size=batch_size):
            for row, picture in zip(rows, batch, strict=True):
                if fault := fault_of(picture):
                    raise DreamError(f"the picture of prompt {prompts[row]!r} with seed {seeds[row]} is {fault}")
                pictures[row] = to_bytes(picture)
            bar.update(len(rows))
    return np.stack(pictures)


def progress_bar(*, total: int, description: str, initial: int = 0, disable: bool = False) -> tqdm:
    """Return a bar for pictures on standard output, with pictures a second and the time left."""
    options = {"unit": "image", "file": sys.stdout, "mininterval": 1.0, "disable": disable}
    return tqdm(total=total, initial=initial, desc=description, **options)


def _check_side(pipeline: LoadedPipeline, side: int) -> None:
    factor = pipeline.text_to_image.vae_scale_factor
    if side < factor or side % factor:
        raise ValueError(f"the side of a picture must be a multiple of {factor} pixels, got {side}")
