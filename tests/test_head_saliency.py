"""A linear head on a backbone as one network, and the share of heat in a region."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from d3s_utils.classifier_zoo import ZooClassifier
from d3s_utils.group_robustness import train_head
from d3s_utils.head_saliency import head_on_backbone, heat_inside
from d3s_utils.saliency import grad_cam

RANDOM = np.random.default_rng(0)


class Pooling(torch.nn.Module):
    """Three channels, pooled: the smallest network with timm's two halves."""

    num_features = 3

    def forward_features(self, batch):
        return batch * 2

    def forward_head(self, features, pre_logits=False):
        pooled = features.mean((2, 3))
        return pooled if pre_logits else pooled @ torch.ones(3, 1000)


BACKBONE = ZooClassifier("pooling", "tiny", Pooling().eval(), SimpleNamespace(), "0" * 64, "test")
SLOPES, SHIFT = RANDOM.normal(size=(3, 2)), RANDOM.normal(size=2)
POOLED = RANDOM.normal(size=(30, 3))


def view(features):
    return features @ SLOPES + SHIFT


HEAD = train_head("erm", view(POOLED), np.arange(30) % 3, None, seed=0, penalties=[0.1])


def test_the_networks_scores_are_the_heads():
    batch = torch.from_numpy(RANDOM.normal(size=(4, 3, 5, 5)).astype(np.float32))
    model = head_on_backbone(BACKBONE, HEAD, view, name="after")
    expected = HEAD.scores(view(2 * batch.mean((2, 3)).numpy()))
    assert np.allclose(model.network(batch).detach().numpy(), expected, atol=1e-4)
    assert (model.name, BACKBONE.name) == ("after", "pooling")


def test_the_heat_is_where_the_channel_that_speaks_for_the_class_is():
    batch = torch.zeros(1, 3, 4, 4)
    weight = (HEAD.weight @ SLOPES.T)[1]
    batch[0, int(weight.argmax()), 1, 2] = 5.0
    model = head_on_backbone(BACKBONE, HEAD, view, name="after")
    found = grad_cam(model.network, batch, torch.tensor([1])).numpy()
    region = np.zeros((1, 4, 4))
    region[0, 1, 2] = 1
    assert heat_inside(found, region) == pytest.approx([1.0])


def test_a_map_that_is_not_affine_is_refused():
    with pytest.raises(ValueError, match="features must be an affine map"):
        head_on_backbone(BACKBONE, HEAD, lambda x: np.square(x) @ SLOPES, name="no")


def test_heat_is_counted_by_hand():
    maps, regions = np.ones((3, 2, 2)), np.zeros((3, 2, 2))
    maps[1] = [[3, 1], [0, 0]]
    maps[2] = 0
    regions[:, 0, 0] = 1
    regions[0, 0, 1] = 0.5
    assert heat_inside(maps, regions) == pytest.approx([0.375, 0.75, np.nan], nan_ok=True)


@pytest.mark.parametrize(("maps", "message"), [(-np.ones((1, 2, 2)), "at least 0"), (np.ones((1, 2)), "one shape")])
def test_bad_maps_are_refused(maps, message):
    with pytest.raises(ValueError, match=message):
        heat_inside(maps, np.ones((1, 2, 2)))
