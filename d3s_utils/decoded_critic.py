"""What a diffusion model's predictions look like once decoded: is the class in them, and could they be photos?

The loss on latents weighs every latent value alike. A small model then spends itself on what nobody sees, and predicts
a blur wherever it is unsure. This term looks at the decoded prediction as a classifier does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn.functional import cross_entropy, interpolate, pad

from d3s_utils.autoencoder_training import FeatureDiscriminator, unit_length
from d3s_utils.classifiers import CRITIC, load_bundled_classifier
from d3s_utils.randomness import derive_seed, numpy_generator

SHIFT = 6  # pixels that the critic's view is moved by, at most
SCALES = (1.5, 1.75, 2.0, 2.25, 2.5)  # its view's side over the picture's
TEMPERATURE = 4.0  # EfficientNet-Lite is four times surer of small pictures than it should be
LEVELS = (1, 2, 3, 4)  # feature maps, at a quarter to a thirty-second of the view's side


class DecodedCritic(torch.nn.Module):
    """Decodes predicted latents and looks at them with a frozen EfficientNet-Lite1, the one that judges nothing.

    Its loss is `recognition_weight` x the cross-entropy of the class among 1000, plus a discriminator's hinge loss,
    which is told the class, and whose gradient reaches the prediction reversed and times `adversarial_weight`. Only the
    discriminator's heads are trained. Both views, of the prediction and of the training picture through the same
    autoencoder, are moved, scaled and mirrored alike, so that no single pixel can please.

    Source: Sauer et al. 2023, "Adversarial Diffusion Distillation", arXiv:2311.17042 (a discriminator on frozen
    features of decoded predictions); Clark et al. 2023, "DRaFT", arXiv:2309.17400 (a differentiable reward).

    Args:
        autoencoder: Decodes; it is frozen.
        seed: Of the heads' first weights and of the views.
        pictures: How many pictures of a step are looked at.
        earliest: They are noised to this time step at least: what has little noise needs no critic.
    """

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        *,
        seed: int,
        pictures: int = 8,
        earliest: int = 250,
        recognition_weight: float = 0.02,
        adversarial_weight: float = 0.06,
    ) -> None:
        super().__init__()
        if pictures < 1:
            raise ValueError(f"pictures must be at least 1, got {pictures}")
        self.pictures, self.earliest, self.seed = pictures, earliest, seed
        self.recognition_weight, self.adversarial_weight = recognition_weight, adversarial_weight
        device = autoencoder.device
        network = load_bundled_classifier(CRITIC).to(device).requires_grad_(False)
        autoencoder.requires_grad_(False)
        self._frozen = (autoencoder, network)  # in a tuple they are no part of this module's state
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "decoded critic"))
            widths = [network.feature_info[level]["num_chs"] for level in LEVELS]
            self.discriminator = FeatureDiscriminator(widths, labels=1001).to(device)  # the last: no class is named

    def forward(
        self, predicted: torch.Tensor, clean: torch.Tensor, classes: Sequence[int | None], *, step: int
    ) -> torch.Tensor:
        """Return the loss.

        Args:
            predicted, clean: Latents in the U-Net's scale, shape (n, channels, side, side).
            classes: ImageNet index that each prompt names, or None where it names none, n of them.
            step: Decides the views.
        """
        network = self._frozen[1]
        view = random_view(numpy_generator(self.seed, "decoded critic's view", step))
        logits, told = critic_features(network, self._decode(predicted), view)
        with torch.no_grad():
            _, real = critic_features(network, self._decode(clean), view)
        labels = torch.tensor([1000 if index is None else index for index in classes], device=logits.device)
        loss = self.discriminator.adversarial_loss(real, told, weight=self.adversarial_weight, labels=labels)
        named = labels < 1000
        if named.any():
            loss = loss + self.recognition_weight * cross_entropy(logits[named] / TEMPERATURE, labels[named])
        return loss

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        autoencoder = self._frozen[0]
        scaled = latents.to(memory_format=torch.channels_last) / autoencoder.config.scaling_factor
        return autoencoder.decode(scaled).sample


@dataclass(frozen=True)
class View:
    """Where a picture is seen from: its view's side over its own, its shift in pixels, and whether it is mirrored."""

    scale: float
    top: int
    left: int
    mirrored: bool


def random_view(random: np.random.Generator) -> View:
    """Return a view drawn from `SCALES` and `SHIFT`, mirrored every other time."""
    scale, mirrored = float(random.choice(SCALES)), bool(random.random() < 0.5)
    top, left = (int(shift) for shift in random.integers(0, 2 * SHIFT + 1, 2))
    return View(scale, top, left, mirrored)


def critic_features(
    network: torch.nn.Module, pictures: torch.Tensor, view: View
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return logits (n, 1000) and the unit-length feature maps of `LEVELS` of pictures in [-1, 1], (n, 3, side, side).

    Args:
        network: A timm EfficientNet.
        view: Where all of them are seen from.
    """
    side = pictures.shape[-1]
    seen = pad(pictures, (SHIFT,) * 4, mode="reflect")
    seen = seen[:, :, view.top : view.top + side, view.left : view.left + side]
    seen = interpolate(seen.flip(-1) if view.mirrored else seen, scale_factor=view.scale, mode="bilinear")
    last, maps = network.forward_intermediates(seen, indices=LEVELS)
    return network.forward_head(last), [unit_length(m) for m in maps]
