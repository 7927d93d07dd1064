"""A picture depends on its own prompt, guide and seed; one that is not finite or black is told before rounding."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from d3s_utils import dreaming
from d3s_utils.dreaming import (
    DreamError,
    DreamOptions,
    PromptEmbeddings,
    dream_batch,
    dream_from_guides,
    dream_from_text,
    fault_of,
    to_bytes,
)
from d3s_utils.pipelines import load_pipeline
from d3s_utils.randomness import derive_seed, numpy_generator

SETTINGS = {"strength": 0.7, "steps": 6, "guidance_scale": 4.0}
PROMPTS = [f"a photo of a lion, number {i % 3}" for i in range(7)]
SEEDS = [derive_seed(0, "image", i) for i in range(7)]


@pytest.fixture(scope="module")
def guides():
    return numpy_generator(0, "guides").integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)


def largest_difference(first, second):
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def test_noise_that_is_added_back_does_not_depend_on_the_batch(pipeline, guides):
    options = {**SETTINGS, "eta": 1.0}
    together = dream_from_guides(pipeline, guides, PROMPTS, SEEDS, **options, batch_size=7)
    apart = dream_from_guides(pipeline, guides, PROMPTS, SEEDS, **options, batch_size=2)
    assert largest_difference(together, apart) <= 1
    assert largest_difference(together, dream_from_guides(pipeline, guides, PROMPTS, SEEDS, **SETTINGS)) > 10


@pytest.mark.parametrize("steps", [3, 7, 16])  # at these, rounding once made the first step from pure noise NaN
def test_noise_can_be_added_back_at_any_number_of_steps(pipeline, steps):
    dreamt = dream_from_text(pipeline, PROMPTS[:2], SEEDS[:2], steps=steps, guidance_scale=2.0, eta=1.0)
    assert dreamt.std() > 10


def test_pictures_do_not_depend_on_batch_size_or_order(pipeline, guides):
    together = dream_from_guides(pipeline, guides, PROMPTS, SEEDS, **SETTINGS, batch_size=7)
    assert together.shape == guides.shape
    assert together.std() > 10
    for batch_size in (1, 3):
        apart = dream_from_guides(pipeline, guides, PROMPTS, SEEDS, **SETTINGS, batch_size=batch_size)
        assert largest_difference(together, apart) <= 1
    order = [4, 2, 6, 0, 1, 5, 3]
    shuffled = dream_from_guides(
        pipeline, guides[order], [PROMPTS[i] for i in order], [SEEDS[i] for i in order], **SETTINGS, batch_size=4
    )
    assert largest_difference(together[order], shuffled) <= 1
    other = dream_from_guides(pipeline, guides[:1], PROMPTS[:1], [SEEDS[0] + 1], **SETTINGS)
    assert largest_difference(together[:1], other) > 10


def test_text_alone_does_not_depend_on_the_batch_either(pipeline):
    options = {"steps": 4, "guidance_scale": 3.0}
    together = dream_from_text(pipeline, PROMPTS, SEEDS, **options, batch_size=7)
    apart = dream_from_text(pipeline, PROMPTS, SEEDS, **options, batch_size=2)
    assert together.shape == (7, 64, 64, 3)
    assert largest_difference(together, apart) <= 1
    assert dream_from_text(pipeline, PROMPTS[:1], SEEDS[:1], **options, size=96).shape == (1, 96, 96, 3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_noise_is_equal_to_the_bit_in_every_batch(folder, guides, monkeypatch, precision):
    pipeline = load_pipeline(folder, device="cpu", precision=precision)
    noises = []
    add_noise = pipeline.image_to_image.scheduler.add_noise

    def remember(latents, noise, timestep):
        noises.append(noise.clone())
        return add_noise(latents, noise, timestep)

    monkeypatch.setattr(pipeline.image_to_image.scheduler, "add_noise", remember)
    options, embeddings = DreamOptions(**SETTINGS), PromptEmbeddings(pipeline)
    for rows in (slice(0, 7), slice(0, 2), slice(2, 7)):
        dream_batch(
            pipeline, PROMPTS[rows], SEEDS[rows], options=options, embeddings=embeddings, guides=guides[rows]
        )  # fmt: skip
    assert torch.equal(noises[0], torch.cat(noises[1:]))


def test_the_same_picture_as_diffusers_own_call_for_one_image(folder, pipeline, guides):
    plain = StableDiffusionImg2ImgPipeline.from_pretrained(folder)
    plain.set_progress_bar_config(disable=True)
    expected = plain(
        PROMPTS[3],
        image=Image.fromarray(guides[3]),
        strength=0.7,
        num_inference_steps=6,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(SEEDS[3]),
    ).images[0]
    dreamt = dream_from_guides(pipeline, guides, PROMPTS, SEEDS, **SETTINGS, batch_size=7)[3]
    assert largest_difference(np.asarray(expected), dreamt) <= 1


def test_each_distinct_prompt_is_encoded_once(pipeline, guides):
    prompts_read = []
    hook = pipeline.text_to_image.text_encoder.register_forward_hook(lambda *_: prompts_read.append(1))
    dream_from_guides(pipeline, guides, PROMPTS, SEEDS, **SETTINGS, batch_size=2)
    hook.remove()
    assert len(prompts_read) == 3 + 1  # three prompts, and the empty one of classifier-free guidance


def test_embeddings_forget_what_was_not_used_for_longest(pipeline):
    embeddings = PromptEmbeddings(pipeline, capacity=2)
    first = embeddings(["a", "", "b", "", "a"])
    assert torch.equal(first[0], first[4])
    assert set(embeddings._kept) == {"", "a"}


def test_higher_strength_leaves_less_of_the_guide(pipeline, guides):
    distances = []
    for strength in (0.2, 0.5, 1.0):
        pictures = dream_from_guides(
            pipeline, guides, PROMPTS, SEEDS, strength=strength, steps=10, guidance_scale=1.0
        )  # fmt: skip
        reconstruction = dream_from_guides(
            pipeline, guides, PROMPTS, SEEDS, strength=0.1, steps=10, guidance_scale=1.0
        )  # fmt: skip
        distances.append(np.abs(pictures.astype(float) - reconstruction).mean())
    assert distances == sorted(distances)


def test_a_picture_that_is_not_finite_is_told_though_bytes_would_be_black():
    picture = torch.full((8, 8, 3), 0.5)
    assert fault_of(picture) == ""
    picture[3, 3, 1] = float("nan")
    assert fault_of(picture) == "not finite"
    assert fault_of(torch.zeros(8, 8, 3)) == "black"
    dark = torch.zeros(8, 8, 3)
    dark[0, 0] = 0.2  # a night with one star is no fault
    assert fault_of(dark) == ""


def test_nan_is_never_returned_as_a_picture(pipeline, guides, monkeypatch):
    def diverge(self, latents, **options):
        return (torch.full((len(latents), 3, 64, 64), float("nan")),)

    monkeypatch.setattr(type(pipeline.text_to_image.vae), "decode", diverge)
    with pytest.raises(DreamError, match="not finite"):
        dream_from_guides(pipeline, guides, PROMPTS, SEEDS, **SETTINGS)


def test_memory_that_runs_out_halves_the_batch(pipeline, guides, monkeypatch):
    whole = dream_from_guides(pipeline, guides, PROMPTS, SEEDS, **SETTINGS, batch_size=7)
    sizes = []

    def limited(pipeline, prompts, *args, **options):
        sizes.append(len(prompts))
        if len(prompts) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return dream_batch(pipeline, prompts, *args, **options)

    monkeypatch.setattr(dreaming, "dream_batch", limited)
    halved = dream_from_guides(pipeline, guides, PROMPTS, SEEDS, **SETTINGS, batch_size=7)
    assert sizes == [7, 3, 3, 1]
    assert largest_difference(whole, halved) <= 1


def test_bytes_are_rounded_as_diffusers_does():
    values = torch.linspace(0, 1, 511).reshape(1, 1, 511, 1)
    assert np.array_equal(to_bytes(values), (values.numpy() * 255).round().astype("uint8"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strength": 0.0}, "strength must be above 0 and at most 1, got 0.0"),
        ({"strength": 1.5}, "strength must be above 0"),
        ({"strength": float("nan")}, "strength must be above 0"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"steps": 1}, "at least one step, got 0.7 x 1"),
        ({"guidance_scale": -1}, "guidance_scale must be between"),
        ({"eta": 2}, "eta must be between 0 and 1, got 2"),
    ],
)
def test_options_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        DreamOptions(**{**SETTINGS, **change})


def test_arguments_that_do_not_fit_together(pipeline, guides):
    with pytest.raises(ValueError, match="guides must be one a prompt, got 7 guides for 2 prompts"):
        dream_from_guides(pipeline, guides, PROMPTS[:2], SEEDS[:2], **SETTINGS)
    with pytest.raises(ValueError, match="seeds must be one a prompt"):
        dream_from_guides(pipeline, guides, PROMPTS, SEEDS[:2], **SETTINGS)
    with pytest.raises(ValueError, match="guides must be uint8"):  # RGBA would be taken for latents
        dream_from_guides(pipeline, np.zeros((7, 64, 64, 4), np.uint8), PROMPTS, SEEDS, **SETTINGS)
    with pytest.raises(ValueError, match="multiple of 8 pixels, got 60"):
        dream_from_guides(pipeline, guides[:, :60, :60], PROMPTS, SEEDS, **SETTINGS)
    with pytest.raises(ValueError, match="at least one prompt"):
        dream_from_text(pipeline, [], [], steps=2, guidance_scale=1)
