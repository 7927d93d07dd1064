"""The decoder, taught on what it will have to read: latents that the diffusion model dreamt.

An autoencoder learns to decode latents of photos. A small diffusion model's latents are smoother than those, even where
it was given nearly all of a photo, and a decoder that never met such latents makes a painting of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from torch.nn.functional import avg_pool2d, cross_entropy
from tqdm import tqdm

from d3s_utils.autoencoder_training import FeatureDiscriminator, feature_distance
from d3s_utils.checkpoints import train_with_checkpoints
from d3s_utils.classifiers import CRITIC, load_bundled_classifier
from d3s_utils.decoded_critic import LEVELS, TEMPERATURE, critic_features, random_view
from d3s_utils.dreaming import MOST_ETA
from d3s_utils.pipelines import quiet_libraries
from d3s_utils.randomness import derive_seed, numpy_generator, torch_generator
from d3s_utils.taxonomy import imagenet_classes
from d3s_utils.training_pictures import caption

NEAR = 0.4  # up to this strength a dream still shows the picture that it began from
COARSE = 4  # pixels, the side of the squares whose mean colour a dream must keep


@dataclass(frozen=True)
class DreamtLatents:
    """Latents as the decoder meets them.

    Attributes:
        latents: float16, shape (n, channels, side, side), in the autoencoder's own scale.
        row: Training picture that each began from, or whose caption it was dreamt from, shape (n,).
        strength: How much of the schedule was run, shape (n,): 0 is the encoded picture, 1 is dreamt from text.
    """

    latents: torch.Tensor
    row: np.ndarray
    strength: np.ndarray


@torch.inference_mode()
def dream_latents(
    pipeline: StableDiffusionPipeline,
    pixels: np.ndarray,
    table: pd.DataFrame,
    *,
    weights: np.ndarray,
    count: int,
    seed: int,
    steps: int = 20,
    strengths: tuple[float, ...] = (1.0, 0.4, 0.0, 1.0, 0.2, 0.6, 1.0, 0.4),
    guidance_scales: tuple[float, ...] = (1.5, 2.5, 4.0),
    batch_size: int = 32,
) -> DreamtLatents:
    """Dream training pictures at several strengths, and from their captions alone, without decoding them.

    Args:
        pipeline: Dreams; nothing of it is trained.
        pixels, table: `TrainingPictures`'s.
        weights: `sampling_weights`.
        count: How many, at least; rounded up to whole batches. Each batch has one of `strengths` (in turn), one of
            `guidance_scales` and DDIM's eta 0 or 1.
        steps: Denoising steps of the whole schedule.
    """
    with quiet_libraries():
        from_picture = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    from_picture.set_progress_bar_config(disable=True)
    scale = pipeline.vae.config.scaling_factor
    found, all_rows, ran = [], [], []
    for number in tqdm(range(-(-count // batch_size)), desc="dreaming latents", mininterval=10):
        random = numpy_generator(seed, "dreamt latents", number)
        strength = strengths[number % len(strengths)]
        rows = random.choice(len(table), batch_size, p=weights / weights.sum())
        generators = [torch_generator(seed, "dreamt latents", number, i) for i in range(batch_size)]
        pictures = torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2).float() / 255
        if strength == 0:
            batch = (2 * pictures - 1).to(pipeline.device, memory_format=torch.channels_last)
            latents = pipeline.vae.encode(batch).latent_dist.sample(generator=generators[0])
        else:
            common = {
                "prompt": [caption(table["synset"].iat[row], table["background"].iat[row]) for row in rows],
                "num_inference_steps": steps,
                "guidance_scale": float(random.choice(guidance_scales)),
                "eta": MOST_ETA * float(random.integers(2)),
                "generator": generators,
                "output_type": "latent",
            }
            with quiet_libraries():
                if strength < 1:
                    latents = from_picture(image=pictures, strength=strength, **common).images
                else:
                    latents = pipeline(height=pixels.shape[1], width=pixels.shape[2], **common).images
            latents = latents / scale
        found.append(latents.half().cpu())
        all_rows.append(rows)
        ran += [strength] * batch_size
    return DreamtLatents(torch.cat(found).clone(), np.concatenate(all_rows), np.array(ran))


def refine_decoder(
    autoencoder: AutoencoderKL,
    dreams: DreamtLatents,
    pixels: np.ndarray,
    table: pd.DataFrame,
    *,
    steps: int,
    checkpoint: Path,
    seed: int,
    batch_size: int = 16,
    learning_rate: float = 4e-4,
    perceptual_weight: float = 0.15,
    adversarial_weight: float = 0.1,
    coarse_weight: float = 0.3,
    recognition_weight: float = 0.02,
    checkpoint_every: int = 100,
) -> Iterator[dict]:
    """Train the decoder alone, so that what it makes of dreamt latents looks like the pictures of their captions.

    All latents meet a discriminator on frozen features, which is told the class and sees training pictures of the same
    captions, and the class should be found in them (`recognition_weight` x the cross-entropy): realism alone would be
    paid for with what is shown. Those of a strength up to `NEAR` must also come out as the picture that they began from
    (L1 + `perceptual_weight` x the distance of the features); the others must keep the mean colours, over squares of
    `COARSE` pixels, that the decoder gave them before (`coarse_weight` x L1). The encoder stays: so do all latents.

    Source: Sauer et al. 2021, "Projected GANs", arXiv:2111.01007.

    Args:
        dreams: Of `dream_latents`.
        pixels, table: The `TrainingPictures` that `dreams` were made from.

    Yields:
        Records of `train_with_checkpoints`.
    """
    device = autoencoder.device
    network = load_bundled_classifier(CRITIC).to(device).requires_grad_(False)
    autoencoder.requires_grad_(False)
    for part in (autoencoder.decoder, autoencoder.post_quant_conv):
        part.requires_grad_(True)
    class_of = {label.synset: label.index for label in imagenet_classes()}
    before = _coarse_colours(autoencoder, dreams.latents)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "refined decoder's critic"))
        widths = [network.feature_info[level]["num_chs"] for level in LEVELS]
        discriminator = FeatureDiscriminator(widths, labels=1001).to(device)

    def loss_at_step(step: int) -> torch.Tensor:
        random = numpy_generator(seed, "refining", step)
        chosen = random.integers(0, len(dreams.row), batch_size)
        mirrored = torch.from_numpy(random.random(batch_size) < 0.5)[:, None, None, None]
        rows = dreams.row[chosen]
        latents = _mirror(dreams.latents[chosen].float(), mirrored)
        photos = _mirror(torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1, mirrored).to(device)
        kept = _mirror(before[chosen].float(), mirrored).to(device)
        decoded = autoencoder.decode(latents.to(device, memory_format=torch.channels_last)).sample
        view = random_view(random)
        with torch.no_grad():
            real = critic_features(network, photos, view)[1]
        logits, told = critic_features(network, decoded, view)
        labels = torch.tensor([class_of.get(table["synset"].iat[row], 1000) for row in rows], device=device)
        loss = discriminator.adversarial_loss(real, told, weight=adversarial_weight, labels=labels)
        named = labels < 1000
        if recognition_weight and named.any():
            loss = loss + recognition_weight * cross_entropy(logits[named] / TEMPERATURE, labels[named])
        near = torch.from_numpy(dreams.strength[chosen] <= NEAR).to(device)
        if near.any():
            like = (decoded[near] - photos[near]).abs().mean()
            like = like + perceptual_weight * feature_distance([m[near] for m in told], [m[near] for m in real])
            loss = loss + like * near.float().mean()
        if not near.all():
            colours = avg_pool2d(decoded[~near], COARSE)
            loss = loss + coarse_weight * (colours - kept[~near]).abs().mean() * (~near).float().mean()
        return loss

    yield from train_with_checkpoints(
        {"autoencoder": autoencoder, "discriminator": discriminator},
        loss_at_step,
        steps=steps,
        learning_rate=learning_rate,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        description="decoder on dreams",
    )


@torch.inference_mode()
def _coarse_colours(autoencoder: AutoencoderKL, latents: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    found = []
    for start in range(0, len(latents), batch_size):
        batch = latents[start : start + batch_size].float().to(autoencoder.device, memory_format=torch.channels_last)
        found.append(avg_pool2d(autoencoder.decode(batch).sample, COARSE).half().cpu())
    return torch.cat(found).clone()


def _mirror(pictures: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    return torch.where(mirrored, pictures.flip(-1), pictures)
