"""The small variational autoencoder of the bundled diffusion model: 64 x 64 pixels to 16 x 16 latents of 8 channels."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from d3s_utils.checkpoints import train_with_checkpoints
from d3s_utils.classifiers import CRITIC, load_bundled_classifier
from d3s_utils.intervals import clustered_mean
from d3s_utils.metrics import Estimate
from d3s_utils.randomness import derive_seed, numpy_generator, torch_generator


def make_autoencoder(*, latent_channels: int = 8, channels: tuple[int, ...] = (32, 64, 128)) -> AutoencoderKL:
    """Return an untrained diffusers autoencoder that halves the side once a level after the first."""
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=16,
        mid_block_add_attention=False,
        sample_size=64,
    ).to(memory_format=torch.channels_last)


class PerceptualDistance(torch.nn.Module):
    """Distance between feature maps of a classifier, scaled to unit length at each place.

    In the manner of LPIPS (Zhang et al. 2018, arXiv:1801.03924) with unit weights, on EfficientNet-Lite1,
    which is the one bundled classifier that the generator sees; Lite0 and Lite2 stay judges.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = load_bundled_classifier(CRITIC, features_only=True, out_indices=(0, 1, 2, 3))
        self.network.requires_grad_(False)

    @property
    def widths(self) -> list[int]:
        """Channels of each feature map."""
        return self.network.feature_info.channels()

    def features(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Return unit-length feature maps of pictures in [-1, 1], shape (n, 3, h, w), seen at twice their side."""
        maps = self.network(torch.nn.functional.interpolate(pictures, scale_factor=2, mode="bilinear"))
        return [unit_length(m) for m in maps]

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return the mean distance between two batches of pictures in [-1, 1], shape (n, 3, h, w)."""
        return feature_distance(*zip(*(m.chunk(2) for m in self.features(torch.cat([first, second]))), strict=True))


def unit_length(maps: torch.Tensor) -> torch.Tensor:
    """Return feature maps (n, channels, h, w) scaled to length 1 at each place."""
    return maps / (maps.square().sum(1, keepdim=True) + 1e-6).sqrt()


def feature_distance(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the squared distance of two lists of feature maps at each place: mean over places, sum over maps."""
    return sum((one - two).square().sum(1).mean() for one, two in zip(first, second, strict=True))


class FeatureDiscriminator(torch.nn.Module):
    """Tells photos from decoded pictures, place by place, by a small head on each frozen feature map.

    On frozen features a discriminator needs little training and hardly any time (Sauer et al. 2021, "Projected GANs",
    arXiv:2111.01007).

    Args:
        widths: Channels of each feature map.
        labels: Number of classes that pictures may be told to be; 0 tells it nothing. What is no good *dog* may be a
            good picture (Miyato & Koyama 2018, "cGANs with Projection Discriminator", arXiv:1802.05637).
    """

    def __init__(self, widths: Sequence[int], *, hidden: int = 64, labels: int = 0) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.Conv2d(width, hidden, 1), torch.nn.LeakyReLU(0.2), torch.nn.Conv2d(hidden, 1, 1)
            )
            for width in widths
        )
        self.projections = torch.nn.ModuleList(torch.nn.Embedding(labels, hidden) for _ in widths if labels)
        for projection in self.projections:
            torch.nn.init.zeros_(projection.weight)

    def scores(self, maps: Sequence[torch.Tensor], labels: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Return a score for each place, shape (n, 1, h, w) for each feature map; above 0 says photo."""
        found = []
        for level, (head, features) in enumerate(zip(self.heads, maps, strict=True)):
            hidden = head[:-1](features)
            score = head[-1](hidden)
            if labels is not None:
                score = score + torch.einsum("nchw,nc->nhw", hidden, self.projections[level](labels))[:, None]
            found.append(score)
        return found

    def adversarial_loss(
        self,
        photos: Sequence[torch.Tensor],
        decoded: Sequence[torch.Tensor],
        *,
        weight: float,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the hinge loss of the heads, whose gradient reaches `decoded` reversed and times `weight`.

        So one step of one optimizer makes the heads better at telling the two apart and the decoder better at fooling
        them (Ganin & Lempitsky 2015, arXiv:1409.7495). At chance it is 1 (or a little more) a head.

        Args:
            photos, decoded: Lists of feature maps, one a head.
            labels: What row i of both shows, shape (n,), where the discriminator is told.
        """
        real = self.scores([features.detach() for features in photos], labels)
        fake = self.scores([(1 + weight) * features.detach() - weight * features for features in decoded], labels)
        told = [torch.relu(1 - r).mean() + torch.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)]
        return sum(told) / 2


def photo_batch(photos: torch.Tensor, *, size: int, crop: int, seed: int, step: int) -> torch.Tensor:
    """Return `size` random crops of uint8 `photos` (n, 3, h, w), half of them mirrored, in [-1, 1]."""
    random = numpy_generator(seed, "photo_batch", step)
    rows = torch.from_numpy(random.integers(0, len(photos), size))
    top, left = random.integers(0, photos.shape[-1] - crop + 1, 2)
    batch = photos[rows, :, top : top + crop, left : left + crop].float() / 127.5 - 1
    mirrored = torch.from_numpy(random.random(size) < 0.5)[:, None, None, None]
    return torch.where(mirrored, batch.flip(-1), batch)


def train_autoencoder(
    autoencoder: AutoencoderKL,
    photos: torch.Tensor,
    *,
    steps: int,
    checkpoint: Path,
    seed: int,
    batch_size: int = 32,
    crop: int = 32,
    whole_share: float = 0.25,
    perceptual_weight: float = 0.1,
    adversarial_weight: float = 0.0,
    kl_weight: float = 1e-3,
    learning_rate: float = 1e-3,
    freeze_encoder: bool = False,
    checkpoint_every: int = 100,
) -> Iterator[dict]:
    """Train on crops, and on whole photos for the last `whole_share` of the steps (a quarter as many a batch).

    The loss is L1 + `perceptual_weight` x `PerceptualDistance` + `kl_weight` x the KL divergence per latent value, and
    the decoder is pushed, `adversarial_weight` times, to fool a `FeatureDiscriminator` that learns beside it.

    Args:
        photos: uint8, shape (n, 3, 64, 64).
        adversarial_weight: Needs a `perceptual_weight` above 0, whose features it uses.
        freeze_encoder: Train the decoder alone. Latents stay as they are, so this may go on while a diffusion model
            learns them, or after.

    Yields:
        Records of `train_with_checkpoints`.

    Raises:
        ValueError: If `adversarial_weight` is above 0 without a `perceptual_weight`.
    """
    if adversarial_weight > 0 and not perceptual_weight > 0:
        raise ValueError(f"adversarial_weight {adversarial_weight} needs a perceptual_weight above 0, got none")
    device = autoencoder.device
    perceptual = PerceptualDistance().to(device) if perceptual_weight > 0 else None
    modules = {"autoencoder": autoencoder}
    if adversarial_weight > 0:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "discriminator"))
            modules["discriminator"] = FeatureDiscriminator(perceptual.widths).to(device)
    for part in (autoencoder.encoder, autoencoder.quant_conv):
        part.requires_grad_(not freeze_encoder)
    whole_from = int(steps * (1 - whole_share))

    def loss_at_step(step: int) -> torch.Tensor:
        whole = step >= whole_from
        pixels = photo_batch(
            photos,
            size=max(1, batch_size // 4) if whole else batch_size,
            crop=photos.shape[-1] if whole else crop,
            seed=seed,
            step=step,
        ).to(device, memory_format=torch.channels_last)
        with torch.set_grad_enabled(not freeze_encoder):
            posterior = autoencoder.encode(pixels).latent_dist
        latents = posterior.sample(generator=torch_generator(seed, "posterior", step))
        decoded = autoencoder.decode(latents).sample
        loss = (decoded - pixels).abs().mean() + kl_weight * posterior.kl().mean() / latents[0].numel()
        if perceptual is not None:
            both = [m.chunk(2) for m in perceptual.features(torch.cat([decoded, pixels]))]
            fake, real = zip(*both, strict=True)
            loss = loss + perceptual_weight * feature_distance(fake, real)
        if adversarial_weight > 0:
            loss = loss + modules["discriminator"].adversarial_loss(real, fake, weight=adversarial_weight)
        return loss

    yield from train_with_checkpoints(
        modules,
        loss_at_step,
        steps=steps,
        learning_rate=learning_rate,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        description="decoder" if freeze_encoder else "autoencoder",
    )


@torch.inference_mode()
def decode_latents(autoencoder: AutoencoderKL, latents: torch.Tensor, *, batch_size: int = 64) -> np.ndarray:
    """Return latents (n, channels, side, side), in the autoencoder's own scale, as uint8 pictures (n, h, w, 3)."""
    decoded = []
    for start in range(0, len(latents), batch_size):
        batch = latents[start : start + batch_size].float()
        result = autoencoder.decode(batch.to(autoencoder.device, memory_format=torch.channels_last)).sample
        decoded.append(((result.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(decoded)


@torch.inference_mode()
def reconstruct(autoencoder: AutoencoderKL, pictures: np.ndarray, *, batch_size: int = 64) -> np.ndarray:
    """Return uint8 pictures (n, h, w, 3) after encoding (to the mean of each latent) and decoding."""
    means = []
    for start in range(0, len(pictures), batch_size):
        batch = torch.from_numpy(pictures[start : start + batch_size]).permute(0, 3, 1, 2).float() / 127.5 - 1
        batch = batch.to(autoencoder.device, memory_format=torch.channels_last)
        means.append(autoencoder.encode(batch).latent_dist.mean)
    return decode_latents(autoencoder, torch.cat(means), batch_size=batch_size)


def reconstruction_error(autoencoder: AutoencoderKL, pictures: np.ndarray) -> Estimate:
    """Return the mean absolute error of `reconstruct` in grey levels (0 to 255), over pictures (n, h, w, 3)."""
    error = np.abs(reconstruct(autoencoder, pictures).astype(np.int16) - pictures).mean((1, 2, 3))
    return clustered_mean(error)
