"""What a linear head on features of a frozen backbone looks at: the two as one network, and the heat on the object."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from d3s_utils.classifier_zoo import ZooClassifier
from d3s_utils.group_robustness import LinearHead


class HeadNetwork(nn.Module):
    """A timm backbone whose classes are those of a linear head on an affine map of its pooled features."""

    def __init__(self, backbone: nn.Module, weight: Tensor, bias: Tensor) -> None:
        """Take the backbone, and the head on its pooled features: weight (k, width), bias (k,)."""
        super().__init__()
        self.backbone = backbone
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        for name in ("num_features", "num_prefix_tokens", "output_fmt", "blocks", "global_pool"):
            if hasattr(backbone, name) and not isinstance(getattr(backbone, name), nn.Module):
                setattr(self, name, getattr(backbone, name))  # what `saliency.grad_cam` asks a network about

    def forward_features(self, batch: Tensor) -> Tensor:
        """Return the backbone's last feature map."""
        return self.backbone.forward_features(batch)

    def forward_head(self, features: Tensor) -> Tensor:
        """Return the head's scores (n, k) of a feature map."""
        return nn.functional.linear(self.backbone.forward_head(features, pre_logits=True), self.weight, self.bias)

    def forward(self, batch: Tensor) -> Tensor:
        """Return the head's scores (n, k) of normalised pictures."""
        return self.forward_head(self.forward_features(batch))


def head_on_backbone(
    backbone: ZooClassifier, head: LinearHead, features: Callable[[np.ndarray], np.ndarray], *, name: str
) -> ZooClassifier:
    """Return the backbone with `head` in place of its own, so that `focus.measure_focus` can look at what it sees.

    Args:
        backbone: A timm network whose `forward_head` knows `pre_logits`.
        head: Trained on `features` of the backbone's pooled features.
        features: An affine map, (n, backbone width) -> (n, width of the head); it is read off at zero and the axes.
        name: Of the new classifier.

    Raises:
        ValueError: If the map is not affine.
    """
    width = backbone.network.num_features
    base = features(np.zeros((1, width)))
    slopes = features(np.eye(width)) - base
    probe = np.linspace(-1, 1, width)[None]
    if not np.allclose(features(probe), probe @ slopes + base, atol=1e-3 * max(1.0, np.abs(slopes).max())):
        raise ValueError("features must be an affine map of the pooled features, got one that is not")
    weight, bias = head.weight @ slopes.T, head.bias + head.weight @ base[0]
    weight, bias = (torch.from_numpy(np.asarray(each, dtype=np.float32)) for each in (weight, bias))
    return replace(backbone, name=name, network=HeadNetwork(backbone.network, weight, bias).eval())


def heat_inside(maps: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Return the share of each map's heat that lies in its region; NaN where a map is all zeros.

    Args:
        maps: At least 0, shape (n, h, w).
        regions: Share of each pixel that belongs to the region, in [0, 1], shape (n, h, w).

    Raises:
        ValueError: If shapes differ, or a map is negative or not finite.
    """
    maps, regions = np.asarray(maps, dtype=np.float64), np.asarray(regions, dtype=np.float64)
    if maps.shape != regions.shape or maps.ndim != 3:
        raise ValueError(f"maps and regions must have one shape (n, h, w), got {maps.shape} and {regions.shape}")
    if not (np.isfinite(maps) & (maps >= 0)).all():
        raise ValueError("maps must be finite and at least 0, got others")
    total = maps.sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, (maps * regions).sum((1, 2)) / total, np.nan)
