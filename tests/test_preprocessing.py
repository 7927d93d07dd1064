"""A classifier's preprocessing as data: the same pixels as timm's and torchvision's own transforms."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from d3s_utils.preprocessing import Preprocessing


@pytest.fixture(params=[(300, 411), (64, 64), (97, 30)])
def image(request) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*request.param, 3), np.uint8))


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "tf_efficientnet_lite2", "beit_base_patch16_224", "vit_base_patch16_clip_224"]
)
def test_it_is_timms(name, image):
    config = timm.data.resolve_model_data_config(timm.create_model(name, pretrained=False))
    theirs = timm.data.create_transform(**config, is_training=False)(image)
    torch.testing.assert_close(Preprocessing.of_timm(config)(image), theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_every_crop_mode_is_timms(mode, image):
    config = {
        "input_size": (3, 48, 40), "crop_pct": 0.9, "crop_mode": mode, "interpolation": "bilinear",
        "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4),
    }  # fmt: skip
    theirs = timm.data.create_transform(**config, is_training=False)(image)
    torch.testing.assert_close(Preprocessing.of_timm(config)(image), theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (235, 224), (48, 48)])
def test_it_is_torchvisions(resize, crop, image):
    theirs = transforms.Compose(
        [
            transforms.Resize(resize, InterpolationMode.BILINEAR), transforms.CenterCrop(crop), transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )(image)  # fmt: skip
    torch.testing.assert_close(Preprocessing.resized_and_cropped(resize, crop)(image), theirs, atol=1e-5, rtol=0)


def test_every_resize_is_kept_to_the_pixel():
    wide = Image.new("RGB", (1400, 700))
    for resize in range(224, 700, 7):
        shaper = Preprocessing.resized_and_cropped(resize, 224)
        assert shaper._transform.transforms[0](wide).size[1] == resize


def test_hash_and_geometry_tell_what_is_shared():
    first = Preprocessing()
    other_mean = Preprocessing(mean=(0.5, 0.5, 0.5))
    other_size = Preprocessing(size=(240, 240))
    assert first.geometry == other_mean.geometry != other_size.geometry
    assert len({first.sha256, other_mean.sha256, other_size.sha256}) == 3
    assert Preprocessing(size=[224, 224], std=[0.229, 0.224, 0.225]).sha256 == first.sha256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 224)}, "size must be 2 positive numbers, got .0, 224."),
        ({"std": (1, 1, 0)}, "std must be 3 positive"),
        ({"mean": (1, 1)}, "mean must be 3"),
        ({"crop_fraction": 1.5}, r"crop_fraction must be in \(0, 1\], got 1.5"),
        ({"crop_mode": "middle"}, "crop_mode must be one of center, squash, border, got 'middle'"),
        ({"interpolation": "random"}, "interpolation must be one of nearest, .* got 'random'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**options)


def test_a_crop_larger_than_the_picture_is_refused():
    with pytest.raises(ValueError, match=r"crop must be in \(0, resize=200\], got 224"):
        Preprocessing.resized_and_cropped(200, 224)
