"""The decoder's last lesson: latents that the model dreamt."""

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline
from tiny_models import make_tiny_pipeline

from d3s_utils.autoencoder_training import reconstruct
from d3s_utils.decoder_refining import NEAR, DreamtLatents, dream_latents, refine_decoder
from d3s_utils.pipelines import load_pipeline
from d3s_utils.randomness import numpy_generator

LION = "n02129165"


@pytest.fixture
def pipeline(tmp_path) -> StableDiffusionPipeline:
    return load_pipeline(make_tiny_pipeline(tmp_path / "tiny"), device="cpu").text_to_image


def some_pictures(number=6):
    """Pictures of one colour each, and their table: lions, the last a scene."""
    colours = numpy_generator(3, "colours").integers(40, 215, (number, 1, 1, 3))
    pixels = np.broadcast_to(colours, (number, 64, 64, 3)).astype(np.uint8)
    table = pd.DataFrame({"kind": "object", "synset": LION, "background": ""}, index=range(number))
    table.loc[number - 1] = ["scene", "", "snow"]
    return pixels, table


def dream(pipeline, *, count=8, weights=None, **options):
    pixels, table = some_pictures()
    weights = np.ones(len(table)) / len(table) if weights is None else weights
    return dream_latents(
        pipeline, pixels, table, weights=weights, count=count, seed=5, steps=4, batch_size=4, **options
    )


def test_latents_are_dreamt_at_every_strength_in_turn_and_repeat(pipeline):
    dreams = dream(pipeline, count=9, strengths=(0.0, 0.5, 1.0))
    assert dreams.latents.shape == (12, 8, 8, 8)
    assert dreams.strength.tolist() == [0.0] * 4 + [0.5] * 4 + [1.0] * 4
    again = dream(pipeline, count=9, strengths=(0.0, 0.5, 1.0))
    assert torch.equal(again.latents, dreams.latents)
    assert again.row.tolist() == dreams.row.tolist()


def test_pictures_are_drawn_by_their_weights(pipeline):
    weights = np.array([0, 0, 1, 0, 1, 0.0])
    assert set(dream(pipeline, count=16, weights=weights, strengths=(0.0,)).row) == {2, 4}


def test_strength_zero_is_the_encoded_picture(pipeline):
    vae = pipeline.vae
    dreams = dream(pipeline, count=4, strengths=(0.0,))
    pixels, _ = some_pictures()
    batch = torch.from_numpy(pixels[dreams.row]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        posterior = vae.encode(batch).latent_dist
    apart = (dreams.latents.float() - posterior.mean) / posterior.std
    assert abs(float(apart.mean())) < 0.1
    assert float(apart.std()) == pytest.approx(1, abs=0.1)


def test_a_little_noise_leaves_more_of_the_picture_than_much(pipeline):
    clean, little, much = (dream(pipeline, count=4, strengths=(s,)).latents.float() for s in (0.0, 0.25, 1.0))
    assert (little - clean).square().mean() < (much - clean).square().mean()


def refined(pipeline, tmp_path, *, steps, name="refined", **options):
    pixels, table = some_pictures()
    vae = pipeline.vae
    with torch.inference_mode():
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        means = vae.encode(batch).latent_dist.mean
    dreams = DreamtLatents(means.clone().half(), np.arange(len(pixels)), np.array([0, 0.2, NEAR, 0.2, 0.6, 1.0]))
    records = refine_decoder(
        vae, dreams, pixels, table, steps=steps, checkpoint=tmp_path / f"{name}.pt", seed=1, batch_size=4,
        learning_rate=2e-2, checkpoint_every=3, **options,
    )  # fmt: skip
    return records


def test_the_decoder_learns_to_read_dreams_and_the_encoder_stays(pipeline, tmp_path):
    vae = pipeline.vae
    pixels, _ = some_pictures()
    encoder = {name: value.clone() for name, value in vae.encoder.state_dict().items()}
    before = np.abs(reconstruct(vae, pixels[:4]).astype(float) - pixels[:4]).mean()
    list(refined(pipeline, tmp_path, steps=40, adversarial_weight=0.0))
    after = np.abs(reconstruct(vae, pixels[:4]).astype(float) - pixels[:4]).mean()
    assert after < 0.8 * before
    assert all(torch.equal(value, encoder[name]) for name, value in vae.encoder.state_dict().items())


def test_refining_resumes_to_the_same_weights(tmp_path):
    def fresh(name):
        return load_pipeline(make_tiny_pipeline(tmp_path / name), device="cpu").text_to_image

    whole, broken = fresh("whole"), fresh("broken")
    list(refined(whole, tmp_path, steps=6, name="whole"))
    next(iter(refined(broken, tmp_path, steps=6, name="broken")))
    broken = fresh("again")
    list(refined(broken, tmp_path, steps=6, name="broken"))
    one, two = (p.vae.state_dict() for p in (whole, broken))
    assert all(torch.equal(one[name], two[name]) for name in one)
