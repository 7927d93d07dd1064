"""A timm backbone whose pooled features are parted into foreground features and background features."""

import timm
import torch
from torch import Tensor

from d3s_utils.classifiers import BUNDLED, ClassifierError, load_bundled_classifier, load_timm_network
from d3s_utils.randomness import derive_seed

PUBLISHED_BACKGROUND_SHARE = 250 / 2048  # of ResNet-50's features in D3S (arXiv:2211.10370)
FEATURE_SCALES = ("standardised", "raw")


def make_backbone(name: str, *, pretrained: bool = True, seed: int = 0) -> torch.nn.Module:
    """Return a timm network without its classifier: pictures (n, 3, side, side) -> pooled features (n, width).

    Args:
        name: As in `classifiers.load_classifier`: bundled, a timm name, ``hf-hub:owner/model`` or a local folder.
        pretrained: Whether to load its weights; otherwise they are random.
        seed: Of random weights.

    Raises:
        ClassifierError: If there is no such network or its weights cannot be had.
    """
    if not pretrained:
        if not timm.is_model(name.split(".")[0]):
            raise ClassifierError(f"backbone must be a timm model's name where pretrained is False, got {name!r}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "backbone"))
            return timm.create_model(name, pretrained=False, num_classes=0)
    if name in BUNDLED:
        return load_bundled_classifier(name, num_classes=0)
    network = load_timm_network(name)
    network.reset_classifier(0)
    return network


def feature_width(backbone: torch.nn.Module, side: int) -> int:
    """Return the number of pooled features of a picture of `side` pixels.

    Raises:
        ValueError: If the backbone does not take pictures of that size.
    """
    training = backbone.training
    try:
        with torch.no_grad():
            shape = backbone.eval()(torch.zeros(1, 3, side, side)).shape
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"image_size must be one that the backbone takes, got {side}: {error}") from error
    finally:
        backbone.train(training)
    return shape[1]


def split_widths(width: int, foreground_width: int | None, background_width: int | None) -> tuple[int, int]:
    """Return how many of a backbone's `width` features are foreground's and background's.

    Where one is None it takes the rest; where both are, the background has the share that it has in D3S (250 of 2048).

    Raises:
        ValueError: If they do not add up to `width`, or one is empty.
    """
    if background_width is None:
        background_width = (
            max(1, round(width * PUBLISHED_BACKGROUND_SHARE)) if foreground_width is None else width - foreground_width
        )
    if foreground_width is None:
        foreground_width = width - background_width
    if min(foreground_width, background_width) < 1 or foreground_width + background_width != width:
        raise ValueError(
            "foreground_width and background_width must be at least 1 and add up to the backbone's "
            f"{width} features, got {foreground_width} and {background_width}"
        )
    return foreground_width, background_width


class SplitNetwork(torch.nn.Module):
    """A backbone, its features in two parts (foreground first, as in D3S), and a linear head for each part's label.

    With the scale ``standardised``, each feature passes batch normalisation without an affine part first: zero mean and
    unit variance over the batch in training, by running statistics in evaluation (Ioffe & Szegedy 2015,
    arXiv:1502.03167; Barlow Twins, arXiv:2103.03230, gives its loss the output of the same layer). A loss on features
    must not be lowered by their scale, and `WassersteinDependence`, a distance, has the unit of the
    features. A *direction* may still shrink, unlike white features' of
    `invariant_features`; to whiten 1798 features takes more pictures than a batch has. ``raw`` is the paper's way.
    """

    def __init__(
        self,
        backbone: torch.nn.Module,
        *,
        foreground_width: int,
        background_width: int,
        foreground_count: int,
        background_count: int,
        feature_scale: str = "standardised",
    ) -> None:
        """Add heads of zeros to a backbone with `foreground_width` + `background_width` pooled features.

        Raises:
            ValueError: If there is no such scale.
        """
        super().__init__()
        if feature_scale not in FEATURE_SCALES:
            raise ValueError(f"feature_scale must be one of {', '.join(FEATURE_SCALES)}, got {feature_scale!r}")
        width = foreground_width + background_width
        self.backbone = backbone
        self.widths = [foreground_width, background_width]
        self.scale = torch.nn.BatchNorm1d(width, affine=False) if feature_scale == "standardised" else None
        self.foreground_head = _zero_linear(foreground_width, foreground_count)
        self.background_head = _zero_linear(background_width, background_count)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return foreground features, background features, class logits and background logits of n pictures."""
        features = self.backbone(pictures).float()
        if self.scale is not None:
            features = self.scale(features)
        foreground, background = features.split(self.widths, dim=1)
        return foreground, background, self.foreground_head(foreground), self.background_head(background)


def _zero_linear(width: int, count: int) -> torch.nn.Linear:
    linear = torch.nn.utils.skip_init(torch.nn.Linear, width, count)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    return linear
