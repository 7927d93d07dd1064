"""Which of the ten backgrounds a picture shows: a linear head on frozen EfficientNet-Lite features.

The features are those of the middle stages, averaged over the upper and the lower half of the picture. The last stage
knows objects; a background is colour, texture and where they lie.

The shipped head was trained by `background_training` on real scenes that the generator never saw.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch.nn.functional import adaptive_avg_pool2d

from d3s_utils.atomic_files import sha256_of, write_bytes, write_json, write_text
from d3s_utils.classifiers import (
    Looker,
    Picture,
    bundled_weights_file,
    load_bundled_classifier,
    look,
    whole_picture_transform,
)
from d3s_utils.devices import choose_device
from d3s_utils.taxonomy import BACKGROUNDS

MODELS = Path(__file__).parent / "models"
BUNDLED_FOLDER = MODELS / "background_head"  # on EfficientNet-Lite0
BUNDLED_HEADS = ("background_head", "background_head_lite2")  # folders in `MODELS`
STAGES = (1, 2, 3)  # maps at a quarter, an eighth and a sixteenth of the picture's side
WEIGHTS, CARD, SUMS = "head.safetensors", "card.json", "SHA256SUMS"


class BackgroundHeadError(ValueError):
    """A head's folder that is incomplete, changed, or made for other weights; the message says which."""


@dataclass(frozen=True)
class BackgroundHead:
    """A classifier of the ten backgrounds.

    The whole picture is looked at, not timm's central crop: the background lies at the edge.

    Attributes:
        backbone: Frozen first stages of an EfficientNet-Lite; see `load_backbone`.
        weight: float32, shape (10, width); rows in the order of `taxonomy.BACKGROUNDS`.
        bias: float32, shape (10,).
        card: What it was made from and how good it is; see `card.json`.
        sha256: Of the head's weights file, or an empty string before it is saved.
        device: Where the backbone lies.
    """

    backbone: torch.nn.Module = field(repr=False)
    weight: torch.Tensor = field(repr=False)
    bias: torch.Tensor = field(repr=False)
    card: dict = field(repr=False)
    sha256: str = ""
    device: str = "cpu"

    @property
    def transform(self):
        """The preprocessing: RGB image -> float tensor (3, side, side), no border cut off a square picture."""
        return whole_picture_transform(self.backbone, self.card["side"])

    @property
    def looker(self) -> Looker:
        """Answers with the probability of each of the ten backgrounds."""
        return Looker(self.transform, self.probabilities_of_batch, len(BACKGROUNDS))

    def probabilities_of_batch(self, batch: torch.Tensor) -> np.ndarray:
        """Return the probability of each background for transformed pictures, float32 (n, 10)."""
        features = background_features(self.backbone, batch.to(self.device))
        logits = features @ self.weight.T.to(self.device) + self.bias.to(self.device)
        return logits.softmax(1).cpu().numpy()

    def probabilities(self, pictures: Sequence[Picture], *, batch_size: int = 64) -> np.ndarray:
        """Return the probability of each background for each picture (files, uint8 arrays), float32 (n, 10)."""
        return look(pictures, [self.looker], batch_size=batch_size, description="naming backgrounds")[0][0]

    def predict(self, pictures: Sequence[Picture], *, batch_size: int = 64) -> np.ndarray:
        """Return the name of the most probable background of each picture, strings (n,)."""
        return np.array(list(BACKGROUNDS))[self.probabilities(pictures, batch_size=batch_size).argmax(1)]


def load_backbone(name: str, *, device: str = "cpu") -> torch.nn.Module:
    """Return the first stages of the classifier `name` (a key of `classifiers.BUNDLED`), in evaluation mode."""
    model = load_bundled_classifier(name, features_only=True, out_indices=STAGES)
    return model.to(device=device, memory_format=torch.channels_last)


@torch.inference_mode()
def background_features(backbone: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Return the mean over the upper and the lower half of each stage's maps, float32 (n, width).

    Args:
        backbone: From `load_backbone`.
        batch: Transformed pictures, shape (n, 3, side, side).
    """
    stages = backbone(batch.to(memory_format=torch.channels_last))
    return torch.cat([adaptive_avg_pool2d(maps, (2, 1)).flatten(1) for maps in stages], dim=1).float()


def save_background_head(head: BackgroundHead, folder: Path) -> str:
    """Write the head's weights, card and checksums into `folder`; return the weights' sha256."""
    content = safetensors.torch.save({"weight": head.weight.contiguous(), "bias": head.bias.contiguous()})
    weights_sha256 = write_bytes(folder / WEIGHTS, content)
    card_sha256 = write_json(folder / CARD, head.card)
    write_text(folder / SUMS, f"{weights_sha256}  {WEIGHTS}\n{card_sha256}  {CARD}\n")
    return weights_sha256


def load_background_head(folder: Path | str = BUNDLED_FOLDER, *, device: str = "cpu") -> BackgroundHead:
    """Return the head in `folder` (or the bundled one of that name), without a network.

    Raises:
        BackgroundHeadError: If a file is missing or its sha256 is not the pinned one, or the installed backbone
            has other weights than the head was trained on.
    """
    folder = MODELS / folder if folder in BUNDLED_HEADS else Path(folder)
    missing = [name for name in (WEIGHTS, CARD, SUMS) if not (folder / name).is_file()]
    if missing:
        raise BackgroundHeadError(f"folder must hold a background head, {folder} lacks {', '.join(missing)}")
    pinned = {name: digest for digest, name in map(str.split, (folder / SUMS).read_text().splitlines())}
    for name in (WEIGHTS, CARD):
        if sha256_of(folder / name) != pinned.get(name):
            raise BackgroundHeadError(
                f"{folder / name} has sha256 {sha256_of(folder / name)}, {SUMS} pins {pinned.get(name)}; "
                "check the file out again or train the head anew"
            )
    card = json.loads((folder / CARD).read_text())
    if sha256_of(bundled_weights_file(card["backbone"])) != card["backbone_sha256"]:
        raise BackgroundHeadError(
            f"the installed weights of {card['backbone']} are not those that {folder} was trained on; "
            "install the pinned packages (`make`) or train the head anew"
        )
    device = str(choose_device(device))
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    model = load_backbone(card["backbone"], device=device)
    return BackgroundHead(model, tensors["weight"], tensors["bias"], card, pinned[WEIGHTS], device)
