"""The split of a backbone's features, its scale and its errors."""

import pytest
import torch

from d3s_utils.classifiers import ClassifierError
from d3s_utils.randomness import torch_generator
from d3s_utils.split_network import SplitNetwork, feature_width, make_backbone, split_widths


def _network(scale: str) -> SplitNetwork:
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
    counts = {"foreground_count": 3, "background_count": 2}
    return SplitNetwork(backbone, foreground_width=4, background_width=1, feature_scale=scale, **counts)


@pytest.mark.parametrize(
    ("width", "given", "widths"),
    [
        (2048, (None, None), (1798, 250)),
        (2048, (1798, 250), (1798, 250)),
        (9, (7, None), (7, 2)),
        (9, (None, 1), (8, 1)),
    ],
)
def test_widths_add_up_and_are_the_papers_by_default(width, given, widths):
    assert split_widths(width, *given) == widths


@pytest.mark.parametrize("given", [(5, 6), (10, None), (None, 0), (4, 4)])
def test_widths_that_do_not_add_up_are_named(given):
    with pytest.raises(ValueError, match="add up to the backbone's 10 features"):
        split_widths(10, *given)


def test_foreground_features_come_first_and_raw_ones_are_the_backbones():
    network = _network("raw")
    pictures = torch.randn(6, 3, 2, 2, generator=torch_generator(0, "pictures"))
    foreground, background, classes, backgrounds = network(pictures)
    assert torch.equal(torch.cat([foreground, background], 1), network.backbone(pictures))
    assert (classes.shape, backgrounds.shape) == ((6, 3), (6, 2))


def test_standardised_features_do_not_notice_the_scale_of_the_backbone():
    network = _network("standardised").train()
    pictures = torch.randn(64, 3, 2, 2, generator=torch_generator(0, "pictures"))
    before = torch.cat(network(pictures)[:2], 1)
    torch.testing.assert_close(before.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(before.var(0, unbiased=False), torch.ones(5), atol=1e-3, rtol=0)
    with torch.no_grad():
        network.backbone[1].weight *= 0.1
        network.backbone[1].bias *= 0.1
    torch.testing.assert_close(torch.cat(network(pictures)[:2], 1), before, atol=1e-2, rtol=0)


def test_random_backbones_hang_on_their_seed_alone():
    before = torch.random.get_rng_state()
    first, again, other = (make_backbone("test_vit", pretrained=False, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.pos_embed, again.pos_embed)
    assert not torch.equal(first.pos_embed, other.pos_embed)
    assert feature_width(first, 160) == 64
    with pytest.raises(ValueError, match="image_size must be one that the backbone takes, got 8"):
        feature_width(first, 8)


def test_bundled_weights_lose_only_their_classifier():
    assert feature_width(make_backbone("tf_efficientnet_lite0"), 32) == 1280


def test_an_unknown_backbone_is_named():
    with pytest.raises(ClassifierError, match="got 'test_nothing'"):
        make_backbone("test_nothing", pretrained=False)
