"""Where a classifier looks: Grad-CAM maps of timm's networks, convolutional or not."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def grad_cam(network: nn.Module, batch: Tensor, targets: Tensor, *, layer: nn.Module | None = None) -> Tensor:
    """Return how much each place speaks for the target class, by Grad-CAM.

    The channels of the last feature map are added up, each weighted by the spatial mean of the target logit's gradient;
    what is negative speaks for other classes and becomes 0.

    A vision transformer whose head reads the class token alone takes nothing from the last patch tokens, so their
    gradient is 0. For those the map is taken before, at the first normalisation of the last block.

    Args:
        network: Has `forward_features` and `forward_head`, as timm's have, in evaluation mode. Its parameters keep the
            gradients they had.
        batch: Pictures as the network takes them, shape (n, channels, height, width).
        targets: A class index each, shape (n,).
        layer: The module whose output is the feature map; chosen as above where None.

    Returns:
        float32, at least 0, shape (n, height, width) of the batch, on its device, upsampled bilinearly. Not scaled: a
        map of zeros stays one.

    Raises:
        ValueError: If the network lacks those methods, is in training mode, shapes do not fit, a target is no class, or
            the feature map is none of (n, c, h, w), (n, h, w, c), (n, prefix + h·w, c), or says nothing about any
            logit.

    Source: Selvaraju et al. 2017, arXiv:1610.02391.
    """
    targets = torch.as_tensor(targets, device=batch.device)
    _check(network, batch, targets)
    layer = _last_layer(network) if layer is None else layer
    kept = []
    hook = None if layer is None else layer.register_forward_hook(lambda *call: _keep(kept, call[2]))
    try:
        with torch.enable_grad():
            with torch.set_grad_enabled(layer is not None):
                features = network.forward_features(batch)
            logits = network.forward_head(_keep(kept, features) if layer is None else features)
    finally:
        if hook is not None:
            hook.remove()
    if not kept:
        raise ValueError("layer must be a module that the network runs, got one that it does not")
    if targets.min() < 0 or targets.max() >= logits.shape[1]:
        raise ValueError(f"targets must be classes 0 to {logits.shape[1] - 1}, got {targets.tolist()}")
    with torch.enable_grad():
        chosen = logits.gather(1, targets[:, None]).sum()  # pictures do not mix in evaluation mode: one pass does
    gradient = torch.autograd.grad(chosen, kept[-1], allow_unused=True)[0] if chosen.requires_grad else None
    if gradient is None:
        raise ValueError("layer must be one that the logits depend on, got one that they do not")
    prefix = int(getattr(network, "num_prefix_tokens", 0))
    shape = tuple(batch.shape[-2:])
    channels_last = kept[-1].dim() == 4 and _is_channels_last(network, kept[-1])
    maps, slopes = (_as_maps(t.detach().float(), prefix, channels_last, shape) for t in (kept[-1], gradient))
    if prefix and gradient.any() and not slopes.any():
        raise ValueError("the head reads only prefix tokens of the feature map: name an earlier layer")
    seen = (slopes.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu()
    return F.interpolate(seen, size=shape, mode="bilinear", align_corners=False)[:, 0]


def _keep(kept: list[Tensor], output: Tensor) -> Tensor:
    """Put a leaf where the gradient stops into `kept`; return a copy to go on with, which may change in place."""
    kept.append(output.detach().requires_grad_())
    return kept[-1].clone()


def _last_layer(network: nn.Module) -> nn.Module | None:
    """Return the layer before the class token has read the patches a last time, or None where the head reads those."""
    blocks = getattr(network, "blocks", None)
    by_token = getattr(network, "global_pool", "") == "token" and getattr(network, "attn_pool", None) is None
    return blocks[-1].norm1 if by_token and blocks is not None and hasattr(blocks[-1], "norm1") else None


def _is_channels_last(network: nn.Module, features: Tensor) -> bool:
    """Return whether a four-dimensional map is (n, h, w, c), going by the network's own word, else by its sizes."""
    said = getattr(network, "output_fmt", None)
    if said is not None:
        return str(getattr(said, "value", said)).upper() == "NHWC"
    channels = getattr(network, "num_features", None)
    return features.shape[-1] == channels and features.shape[1] != channels


def _as_maps(features: Tensor, prefix: int, channels_last: bool, shape: tuple[int, int]) -> Tensor:
    """Return features of any layout as (n, c, h, w)."""
    if features.dim() == 4:
        return features.permute(0, 3, 1, 2) if channels_last else features
    if features.dim() != 3 or features.shape[1] <= prefix:
        raise ValueError(f"the feature map must be (n, c, h, w), (n, h, w, c) or tokens, got {tuple(features.shape)}")
    tokens = features[:, prefix:]
    count = tokens.shape[1]
    height = round((count * shape[0] / shape[1]) ** 0.5)  # patches are square, so the grid has the picture's shape
    if not height or count % height or count * shape[0] != height**2 * shape[1]:
        raise ValueError(f"{count} tokens after {prefix} prefix tokens do not fill a grid shaped like {shape}")
    return tokens.transpose(1, 2).unflatten(2, (height, count // height))


def _check(network: nn.Module, batch: Tensor, targets: Tensor) -> None:
    missing = [name for name in ("forward_features", "forward_head") if not hasattr(network, name)]
    if missing:
        raise ValueError(f"network must have forward_features and forward_head, as timm's do; it lacks {missing[0]}")
    if network.training:
        raise ValueError("network must be in evaluation mode (network.eval()), got training mode")
    if batch.dim() != 4 or not len(batch):
        raise ValueError(f"batch must have shape (n, channels, height, width), not empty, got {tuple(batch.shape)}")
    if targets.shape != batch.shape[:1] or targets.is_floating_point():
        raise ValueError(f"targets must be {len(batch)} integers, got {targets.dtype} of shape {tuple(targets.shape)}")
