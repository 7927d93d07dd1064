"""A judge from outside the EfficientNet family: a small residual network that this project trained from nothing.

The other judges, and the network that shaped the bundled diffusion model, are EfficientNet-Lites, so they may share
mistakes. This one shares neither their weights nor their photos. It answers with one of the nine ImageNet-9
superclasses and one of the ten backgrounds; `small_resnet_training` made it, and its card tells how good it is.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from scipy.special import softmax
from timm.models.resnet import BasicBlock, ResNet
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from d3s_utils.atomic_files import sha256_of, write_bytes, write_json, write_text
from d3s_utils.classifiers import Looker
from d3s_utils.devices import choose_device
from d3s_utils.taxonomy import BACKGROUNDS, IN9

BUNDLED_FOLDER = Path(__file__).parent / "models" / "small_resnet"
NAME, SIDE = "small_resnet", 64
WEIGHTS, CARD, README, SUMS = "model.safetensors", "card.json", "README.md", "SHA256SUMS"

# Images are nearly always square; of one that is not the middle is seen, as `training_photos.read_photos` does it.
TRANSFORM = Compose(
    [
        Resize(SIDE, InterpolationMode.BICUBIC, antialias=True),
        CenterCrop(SIDE),
        ToTensor(),
        Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ]
)


class SmallResnetError(ValueError):
    """A folder of the small residual network that is incomplete or changed; the message says which file."""


class TwoHeads(torch.nn.Module):
    """One residual trunk with a linear head for the superclass and one for the background."""

    def __init__(self, *, layers: tuple[int, ...], channels: tuple[int, ...]) -> None:
        """Make it with random weights, which torch's global generator decides.

        Args:
            layers: Number of basic blocks in each of the four stages.
            channels: Channels of each stage, the first an even number; the last is the width of the features.
        """
        super().__init__()
        self.trunk = ResNet(
            BasicBlock, layers, num_classes=0, channels=channels, stem_type="deep", stem_width=channels[0] // 2
        )
        self.trunk.maxpool = torch.nn.Identity()  # it is for 224 pixels: of 64 it would leave a map of 16 x 16
        self.superclass = torch.nn.Linear(channels[-1], len(IN9))
        self.background = torch.nn.Linear(channels[-1], len(BACKGROUNDS))

    @property
    def num_features(self) -> int:
        """Width of the pooled features."""
        return self.superclass.in_features

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return logits of the superclasses (n, 9), of the backgrounds (n, 10), and the features (n, width).

        Args:
            batch: Transformed images, shape (n, 3, 64, 64).
        """
        features = self.trunk(batch.contiguous(memory_format=torch.channels_last))
        return self.superclass(features), self.background(features), features


@dataclass(frozen=True)
class SmallResnet:
    """The network, ready to use.

    Its logits are calibrated: the softmax of either head is meant as a probability (see the card).

    Attributes:
        model: In evaluation mode.
        transform: RGB image -> float tensor (3, 64, 64): the shorter side is resized to 64 (bicubic, antialiased), then
            the middle is cropped. Of a square image everything is seen.
        sha256: Of the weights' file, or an empty string before it is saved.
        device: Where the model lies.
        card: What it was made from and how good it is; see `card.json`.
        name: What it is called among other judges.
    """

    model: TwoHeads = field(repr=False)
    transform: Callable[[Image.Image], torch.Tensor] = field(repr=False)
    sha256: str
    device: str
    card: dict = field(repr=False)
    name: str = NAME

    @property
    def looker(self) -> Looker:
        """Answers with the 9 superclass logits, the 10 background logits and, behind them, the pooled features."""
        width = len(IN9) + len(BACKGROUNDS) + self.model.num_features
        return Looker(self.transform, lambda batch: np.hstack(self.answers(batch)), width)

    @property
    def superclass_looker(self) -> Looker:
        """Answers with the probability of each of the nine superclasses, in the order of `taxonomy.IN9`."""
        return Looker(self.transform, lambda batch: softmax(self.answers(batch)[0], axis=1), len(IN9))

    @property
    def background_looker(self) -> Looker:
        """Answers with the probability of each of the ten backgrounds, in the order of `taxonomy.BACKGROUNDS`."""
        return Looker(self.transform, lambda batch: softmax(self.answers(batch)[1], axis=1), len(BACKGROUNDS))

    @torch.inference_mode()
    def answers(self, batch: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return superclass logits (n, 9), background logits (n, 10) and features (n, width), float32.

        Args:
            batch: Transformed images, shape (n, 3, 64, 64).
        """
        return tuple(part.float().cpu().numpy() for part in self.model(batch.to(self.device)))


def save_small_resnet(model: TwoHeads, card: dict, readme: str, folder: Path) -> str:
    """Write the weights in half precision, the card (JSON and text) and all checksums; return the weights' sha256."""
    halves = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    sums = {
        WEIGHTS: write_bytes(folder / WEIGHTS, safetensors.torch.save(halves)),
        CARD: write_json(folder / CARD, card),
        README: write_text(folder / README, readme),
    }
    write_text(folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    return sums[WEIGHTS]


def load_small_resnet(folder: Path | str = BUNDLED_FOLDER, *, device: str = "cpu") -> SmallResnet:
    """Return the network in `folder`, without a network connection; half precision is widened to single.

    Args:
        folder: Holds what `save_small_resnet` wrote; the shipped one by default.
        device: See `devices.choose_device`.

    Raises:
        SmallResnetError: If a file is missing or its sha256 is not the pinned one.
        ValueError: If this machine does not have the device.
    """
    folder = Path(folder)
    missing = [name for name in (WEIGHTS, CARD, README, SUMS) if not (folder / name).is_file()]
    if missing:
        raise SmallResnetError(f"folder must hold the small residual network, {folder} lacks {', '.join(missing)}")
    pinned = {name: digest for digest, name in map(str.split, (folder / SUMS).read_text().splitlines())}
    for name in (WEIGHTS, CARD, README):
        if (found := sha256_of(folder / name)) != pinned.get(name):
            raise SmallResnetError(
                f"{folder / name} has sha256 {found}, {SUMS} pins {pinned.get(name)}; "
                "check the file out again or train the network anew"
            )
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    model = TwoHeads(layers=tuple(card["layers"]), channels=tuple(card["channels"]))
    model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    device = str(choose_device(device))
    model = model.to(device=device, memory_format=torch.channels_last).eval()
    return SmallResnet(model, TRANSFORM, pinned[WEIGHTS], device, card)
