"""A fine-tuned split representation: what it was trained for, and foreground and background features of any picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from d3s_utils.devices import choose_device
from d3s_utils.photos import read_photo
from d3s_utils.split_network import SplitNetwork, make_backbone

Picture = str | Path | bytes | np.ndarray


@dataclass(frozen=True)
class FinetunedFeatures:
    """A network trained by `finetuning.finetune`, with the weights that early stopping kept.

    Attributes:
        method: The penalty, such as ``wasserstein``.
        network: In evaluation mode.
        transform: timm's evaluation transform of the backbone: RGB image -> (3, side, side).
        foregrounds, backgrounds: Names of the labels, in the order of the heads' logits.
        best_step: The step whose weights these are.
        history: A row for each logged step: step, and the columns of `split_game.PARTS` on the step's batch
            (cross-entropies in nats; dependences in the method's unit, zero in the warm-up).
        evaluations: A row for each look at held-out pictures: step, foreground_accuracy, foreground_cross_entropy,
            background_accuracy, background_cross_entropy (NaN where no held-out background is known).
        stopped_early: Whether patience ended the training.
    """

    method: str
    network: SplitNetwork
    transform: Callable[[Image.Image], Tensor]
    foregrounds: list[str]
    backgrounds: list[str]
    best_step: int
    history: pd.DataFrame
    evaluations: pd.DataFrame
    stopped_early: bool

    def __call__(
        self, pictures: Sequence[Picture], *, batch_size: int = 64, workers: int = 0, device: str = "auto"
    ) -> dict[str, np.ndarray]:
        """Return ``{"foreground": (n, width), "background": (n, width)}`` of n files, encoded files or arrays.

        Args:
            pictures: Arrays are RGB, uint8 (h, w, 3).
            workers: Processes that read ahead.
            device: See `devices.choose_device`.

        Raises:
            PhotoError: If a file cannot be read.
            ValueError: If an array has another type or shape.
        """
        device = choose_device(device)
        network = self.network.to(device).eval()
        parts = [[np.zeros((0, width), np.float32)] for width in network.widths]
        with torch.inference_mode():
            for batch in DataLoader(_Transformed(pictures, self.transform), batch_size, num_workers=workers):
                for part, half in zip(parts, network(batch.to(device))[:2], strict=True):
                    part.append(half.float().cpu().numpy())
        return dict(zip(("foreground", "background"), map(np.concatenate, parts), strict=True))


def load_finetuned(file: str | Path) -> FinetunedFeatures:
    """Return the features that `finetuning.finetune` left in ``finetuned.pt``.

    Raises:
        ClassifierError: If the backbone was a folder or a hub id, which tells its architecture, and cannot be had now.
    """
    stored = torch.load(file, map_location="cpu", weights_only=False)
    named = timm.is_model(stored["backbone"].split(".")[0])
    network = make_split_network(make_backbone(stored["backbone"], pretrained=not named), stored)
    network.load_state_dict(stored["network"])
    return FinetunedFeatures(
        method=stored["method"],
        network=network.eval(),
        transform=timm.data.create_transform(**stored["preprocessing"], is_training=False),
        foregrounds=stored["foregrounds"],
        backgrounds=stored["backgrounds"],
        best_step=stored["best_step"],
        history=pd.DataFrame(stored["history"]),
        evaluations=pd.DataFrame(stored["evaluations"]),
        stopped_early=stored["stopped_early"],
    )


def make_split_network(backbone: torch.nn.Module, described: dict[str, Any]) -> SplitNetwork:
    """Return an untrained split of `backbone` with the widths, labels and feature scale in `described`."""
    return SplitNetwork(
        backbone,
        foreground_width=described["widths"][0],
        background_width=described["widths"][1],
        foreground_count=len(described["foregrounds"]),
        background_count=len(described["backgrounds"]),
        feature_scale=described["feature_scale"],
    )


class _Transformed(Dataset):
    def __init__(self, pictures: Sequence[Picture], transform: Callable[[Image.Image], Tensor]) -> None:
        self.pictures, self.transform = pictures, transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, place: int) -> Tensor:
        picture = self.pictures[place]
        if not isinstance(picture, np.ndarray):
            picture = read_photo(picture).pixels
        elif picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"a picture must be uint8 of shape (h, w, 3), got {picture.dtype} {picture.shape}")
        return self.transform(Image.fromarray(picture))
