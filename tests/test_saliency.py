"""Grad-CAM: closed forms on hand-made networks of each layout, and on timm's own."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from d3s_utils.saliency import grad_cam


class Pooled(nn.Module):
    """The map is the picture itself; the logits are linear in its spatial mean, so Grad-CAM is known."""

    def __init__(self, weights, *, layout="nchw", prefix=0):
        super().__init__()
        self.weights, self.layout, self.num_prefix_tokens = nn.Parameter(weights), layout, prefix
        if layout == "nhwc":
            self.output_fmt = "NHWC"

    def forward_features(self, batch):
        if self.layout == "nhwc":
            return batch.permute(0, 2, 3, 1)
        if self.layout == "tokens":
            tokens = batch.flatten(2).transpose(1, 2)
            return torch.cat([tokens[:, :1].repeat(1, self.num_prefix_tokens, 1) * 100, tokens], 1)
        return batch

    def forward_head(self, features):
        if self.layout == "nhwc":
            mean = features.mean((1, 2))
        elif self.layout == "tokens":
            mean = features[:, self.num_prefix_tokens :].mean(1) + features[:, : self.num_prefix_tokens].sum(1)
        else:
            mean = features.mean((2, 3))
        return mean @ self.weights.T


WEIGHTS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])


@pytest.mark.parametrize(("layout", "prefix"), [("nchw", 0), ("nhwc", 0), ("tokens", 0), ("tokens", 1), ("tokens", 5)])
@pytest.mark.parametrize("size", [(4, 4), (2, 8), (3, 3)])
def test_a_linear_head_on_a_mean_has_a_closed_form(layout, prefix, size):
    batch = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 1])
    network = Pooled(WEIGHTS, layout=layout, prefix=prefix).eval()
    found = grad_cam(network, batch, targets)
    weights = WEIGHTS[targets] / (size[0] * size[1])  # the gradient of a mean
    expected = (weights[:, :, None, None] * batch).sum(1).relu()
    assert found.shape == (3, *size)
    torch.testing.assert_close(found, expected)
    assert (expected > 0).any()
    assert (expected == 0).any()


class Halved(Pooled):
    """Its map is half as high and wide as the picture."""

    def forward_features(self, batch):
        return F.avg_pool2d(batch, 2)


def test_maps_are_upsampled_to_the_picture():
    batch = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    found = grad_cam(Halved(WEIGHTS).eval(), batch, torch.tensor([0, 1]))
    small = (WEIGHTS[[0, 1]][:, :, None, None] / 24 * F.avg_pool2d(batch, 2)).sum(1, keepdim=True).relu()
    torch.testing.assert_close(found, F.interpolate(small, size=(8, 12), mode="bilinear")[:, 0])
    assert found.dtype == torch.float32


def test_a_map_that_speaks_against_the_class_everywhere_stays_zero():
    found = grad_cam(Pooled(-torch.ones(2, 3)).eval(), torch.ones(1, 3, 4, 4), torch.tensor([0]))
    assert not found.any()
    assert not grad_cam(Pooled(torch.zeros(2, 3)).eval(), torch.ones(1, 3, 4, 4), torch.tensor([0])).any()


def test_nothing_is_left_behind_and_frozen_networks_and_no_grad_will_do():
    batch, targets = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    network = Pooled(WEIGHTS).eval()
    found = grad_cam(network, batch, targets)
    assert network.weights.grad is None
    assert batch.grad is None
    assert not batch.requires_grad
    assert not found.requires_grad
    network.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(grad_cam(network, batch, targets), found)
    assert found.any()


def test_pictures_do_not_touch_each_other():
    network = timm.create_model("resnet18", num_classes=5).eval()
    batch = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 3, 4])
    alone = torch.cat([grad_cam(network, batch[i : i + 1], targets[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(grad_cam(network, batch, targets), alone, atol=1e-6, rtol=1e-4)


OPTIONS = {
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "depths": (1, 1), "num_heads": (1, 1), "embed_dim": 16,
                                     "window_size": 4},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)},
}  # fmt: skip


@pytest.mark.parametrize(("name", "pool"), [*((name, "avg") for name in OPTIONS), ("vit_tiny_patch16_224", "token")])
def test_timms_networks_have_maps_that_differ_by_class(name, pool):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=5, **OPTIONS[name], global_pool=pool).eval()
        nn.init.normal_(network.get_classifier().weight)
        batch = torch.randn(2, 3, 64, 64)
    first, second = (grad_cam(network, batch, torch.full((2,), target)) for target in (0, 1))
    assert first.shape == (2, 64, 64)
    assert torch.isfinite(first).all()
    assert (first >= 0).all()
    assert first.any()
    assert not torch.equal(first, second)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_layer_may_be_named():
    network = timm.create_model("resnet18", num_classes=5).eval()
    batch, targets = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([2])
    last = grad_cam(network, batch, targets)
    torch.testing.assert_close(grad_cam(network, batch, targets, layer=network.layer4), last)
    before_relu = grad_cam(network, batch, targets, layer=network.bn1)  # a ReLU that works in place follows
    assert before_relu.shape == last.shape
    assert not torch.equal(before_relu, last)
    with pytest.raises(ValueError, match="layer must be a module that the network runs"):
        grad_cam(network, batch, targets, layer=nn.Identity())


def test_a_class_token_read_from_the_last_features_says_what_to_do():
    network = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=64, depth=1).eval()
    with pytest.raises(ValueError, match="name an earlier layer"):
        grad_cam(network, torch.randn(1, 3, 64, 64), torch.tensor([0]), layer=network.norm)


def test_bad_input_is_named():
    network, batch = Pooled(WEIGHTS).eval(), torch.rand(2, 3, 4, 4)
    good = torch.tensor([0, 1])
    for arguments, message in [
        ((nn.Identity().eval(), batch, good), "lacks forward_features"),
        ((Pooled(WEIGHTS).train(), batch, good), "evaluation mode"),
        ((network, batch[0], good), "batch must have shape"),
        ((network, batch, torch.tensor([0])), "targets must be 2 integers"),
        ((network, batch, torch.tensor([0.0, 1.0])), "targets must be 2 integers"),
        ((network, batch, torch.tensor([0, 2])), "classes 0 to 1"),
        ((network, batch, torch.tensor([0, -1])), "classes 0 to 1"),
        ((Pooled(WEIGHTS, layout="tokens").eval(), F.pad(batch, (0, 0, 0, 1))[:, :, :, :3], good), None),
    ]:
        if message is None:
            assert grad_cam(*arguments).shape == (2, 5, 3)
            continue
        with pytest.raises(ValueError, match=message):
            grad_cam(*arguments)
