"""The zoo: every kind of checkpoint gives the numbers of its own library, and what is wrong is refused by name."""

import hashlib
import json
import pickle
import time
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
import yaml
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from d3s_utils import zoo_loaders
from d3s_utils.atomic_files import sha256_of
from d3s_utils.classifier_zoo import (
    GROUPS,
    ZooEntry,
    ZooError,
    entries_of,
    load_entry,
    load_zoo,
    main,
    read_zoo,
)
from d3s_utils.classifiers import BUNDLED, ClassifierError, bundled_weights_file, load_classifier, sha256_of_tensors
from d3s_utils.preprocessing import Preprocessing
from d3s_utils.small_resnet import BUNDLED_FOLDER as SMALL_RESNET

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
VIT = "vit_tiny_patch16_224"
BUNDLED_ZOO = [*sorted(BUNDLED), "small_resnet"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def batch():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def small_batch(batch):
    """For networks that take pictures of any size: quicker."""
    return batch[..., :96, :96]


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 341, 3), dtype=np.uint8))


def shaken(network, seed=0):
    """Return `network` with no number at its initial value, batch statistics included, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator) - 0.5
                tensor.copy_(noise.abs() + 0.5 if key.endswith("running_var") else tensor + 0.05 * noise)
    return network.eval()


@torch.no_grad()
def assert_same_logits(classifier, expected, batch):
    found = classifier.network(batch)
    assert found.shape == (len(batch), 1000)
    assert found.dtype == torch.float32
    wanted = expected(batch)
    spread = wanted.std().item()
    assert spread > 1e-3, "a constant answer would agree with anything"
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3 * spread)


def assert_same_picture(classifier, transform, photo):
    torch.testing.assert_close(classifier.preprocessing(photo), transform(photo), rtol=0, atol=1e-5)


def torchvision_transform(resize=256, crop=224, interpolation=InterpolationMode.BILINEAR, **colours):
    return Compose([Resize(resize, interpolation), CenterCrop(crop), ToTensor(), Normalize(**(colours or IMAGENET))])


def entry(kind, source, **others):
    return ZooEntry(**({"name": "mine", "group": "supervised conv", "kind": kind, "source": str(source)} | others))


# timm


def test_a_bundled_classifier_is_the_one_of_load_classifier(small_batch, photo):
    name = "tf_efficientnet_lite0"
    found, expected = load_entry(entry("timm", name)), load_classifier(name)
    assert found.sha256 == expected.sha256 == sha256_of(bundled_weights_file(name))
    assert_same_logits(found, expected.model, small_batch)
    assert_same_picture(found, expected.transform, photo)
    assert found.parameters == sum(value.numel() for value in expected.model.parameters()) == 4_652_008
    assert not found.network.training
    assert found.network.conv_stem.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A tiny transformer with a head, its folder in timm's format, and a bare file of its tensors."""
    torch.manual_seed(0)
    network, folder = shaken(timm.create_model(VIT)), tmp_path_factory.mktemp("vit")
    timm.models.save_for_hf(network, folder / "folder", safe_serialization=True)
    save_file(network.state_dict(), folder / "weights.safetensors")
    return network, folder


def test_a_timm_folder_and_a_timm_file_give_plain_timms_numbers(vit, batch, photo):
    network, folder = vit
    from_folder = load_entry(entry("timm", folder / "folder"))
    from_file = load_entry(entry("timm", folder / "weights.safetensors", architecture=VIT))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    for found in (from_folder, from_file):
        assert_same_logits(found, network, batch)
        assert_same_picture(found, transform, photo)
    assert from_folder.sha256 == sha256_of_tensors(network)
    assert from_file.sha256 == sha256_of(folder / "weights.safetensors")


def test_a_timm_file_needs_its_architecture_and_fits_only_that(vit):
    file = vit[1] / "weights.safetensors"
    with pytest.raises(ClassifierError, match="architecture must be timm's name"):
        load_entry(entry("timm", file))
    with pytest.raises(ClassifierError, match=r"other shapes of \d+ tensors, such as cls_token \(1, 1, 192\)"):
        load_entry(entry("timm", file, architecture="vit_small_patch16_224"))


def test_a_revision_becomes_part_of_the_hubs_name():
    assert zoo_loaders.timm_source("resnet18.a1_in1k", None) == "resnet18.a1_in1k"
    assert zoo_loaders.timm_source("resnet18.a1_in1k", "abc123") == "hf-hub:timm/resnet18.a1_in1k@abc123"
    assert zoo_loaders.timm_source("hf-hub:me/mine", "abc123") == "hf-hub:me/mine@abc123"


# torchvision


@pytest.fixture(scope="module")
def squeezenet():
    torch.manual_seed(1)
    return shaken(torchvision.models.squeezenet1_1(weights=None))


@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_ema"])
def test_a_torchvision_checkpoint_gives_torchvisions_numbers(key, squeezenet, small_batch, photo, tmp_path):
    state = squeezenet.state_dict()
    if key:
        renamed = {f"module.{name}": value for name, value in state.items()}
        state = {key: renamed | ({"n_averaged": torch.tensor(3)} if key == "model_ema" else {}), "epoch": 3}
    torch.save(state, tmp_path / "it.pth")
    found = load_entry(entry("torchvision", tmp_path / "it.pth", architecture="squeezenet1_1"))
    assert_same_logits(found, squeezenet, small_batch)
    assert_same_picture(found, torchvision_transform(), photo)
    assert found.sha256 == hashlib.sha256((tmp_path / "it.pth").read_bytes()).hexdigest()


def test_torchvisions_named_weights_bring_their_own_preprocessing(small_batch, photo, tmp_path, monkeypatch):
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    torch.manual_seed(2)
    network = shaken(torchvision.models.resnet18(weights=None))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(network.state_dict(), tmp_path / "checkpoints" / weights.url.rsplit("/", 1)[1])  # as if fetched before
    for source in ("default", "IMAGENET1K_V1"):
        found = load_entry(entry("torchvision", source, architecture="resnet18"))
        assert_same_logits(found, network, small_batch)
        assert_same_picture(found, weights.transforms(), photo)
        assert found.sha256 == sha256_of_tensors(network)
    with pytest.raises(ClassifierError, match="a file or one of IMAGENET1K_V1, default, got 'IMAGENET1K_V9'"):
        load_entry(entry("torchvision", "IMAGENET1K_V9", architecture="resnet18"))


def test_weights_that_must_be_fetched_are_refused_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))

    def no_network(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(ClassifierError, match=r"'mine' \(torchvision\) cannot be had: no route to host; give a local"):
        load_entry(entry("torchvision", "default", architecture="resnet18"))


def test_old_densenet_names_are_todays():
    network = torchvision.models.densenet121(weights=None)
    key = "features.denseblock1.denselayer2.norm1.weight"
    assert key in network.state_dict()
    assert zoo_loaders.densenet_key("features.denseblock1.denselayer2.norm.1.weight") == key
    assert [zoo_loaders.densenet_key(name) for name in network.state_dict()] == list(network.state_dict())


# robustness


@pytest.fixture(scope="module")
def robust_state():
    torch.manual_seed(3)
    network = shaken(torchvision.models.resnet18(weights=None))
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    state = {"module.normalizer.new_mean": mean, "module.normalizer.new_std": std}
    state |= {"module.attacker.normalize.new_mean": mean * 0, "module.attacker.normalize.new_std": std * 0}
    for key, value in network.state_dict().items():
        state |= {f"module.model.{key}": value, f"module.attacker.model.{key}": torch.zeros_like(value)}
    return network, state


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_robustness_checkpoint_gives_its_own_model_and_colours(key, robust_state, small_batch, photo, tmp_path):
    network, state = robust_state
    torch.save({key: state, "epoch": 89}, tmp_path / "robust.ckpt")
    found = load_entry(entry("robustness", tmp_path / "robust.ckpt", architecture="resnet18"))
    assert_same_logits(found, network, small_batch)
    assert_same_picture(found, torchvision_transform(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)), photo)
    assert found.sha256 == sha256_of(tmp_path / "robust.ckpt")


def test_a_robustness_checkpoint_without_normaliser_has_imagenets_colours(robust_state, tmp_path):
    state = {key: value for key, value in robust_state[1].items() if "normalize" not in key}
    torch.save({"model": state}, tmp_path / "robust.ckpt")
    found = load_entry(entry("robustness", tmp_path / "robust.ckpt", architecture="resnet18"))
    assert found.preprocessing == Preprocessing.resized_and_cropped(256, 224, **IMAGENET)


def test_a_plain_state_dict_is_no_robustness_checkpoint(squeezenet, tmp_path):
    torch.save({"model": squeezenet.state_dict()}, tmp_path / "plain.pth")
    with pytest.raises(ClassifierError, match=r"must lie under module\.model\., got \['features"):
        load_entry(entry("robustness", tmp_path / "plain.pth", architecture="squeezenet1_1"))


# open_clip


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """A random CLIP that sees 32 pixels, its file, and its folder in open_clip's format."""
    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (folder / "tiny-zoo-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "tiny-zoo-clip.json")
    torch.manual_seed(4)
    model = shaken(open_clip.create_model("tiny-zoo-clip"))
    torch.save(model.state_dict(), folder / "tiny.pth")
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "resize_mode": "squash"}
    (folder / "local").mkdir()
    save_file(model.state_dict(), folder / "local" / "open_clip_model.safetensors")
    (folder / "local" / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    return model, folder, preprocess


@torch.no_grad()
def zero_shot_by_hand(model, pictures, templates, places):
    """Score pictures against some classes, prompt by prompt, with the cosine in float64."""
    tokenizer, columns = open_clip.get_tokenizer("tiny-zoo-clip"), []
    seen = model.encode_image(pictures).double().numpy()
    for place in places:
        total = np.zeros(16)
        for template in templates:
            said = model.encode_text(tokenizer([template(open_clip.IMAGENET_CLASSNAMES[place])]))[0].double().numpy()
            total += said / np.linalg.norm(said)
        cosine = seen @ total / np.linalg.norm(seen, axis=1) / np.linalg.norm(total)
        columns.append(float(model.logit_scale.exp()) * cosine)
    return np.stack(columns, axis=1)


def small_pictures():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def test_a_clip_file_scores_as_by_hand_and_loses_its_text_tower(tiny_clip, photo):
    model, folder, _ = tiny_clip
    found = load_entry(entry("open_clip", folder / "tiny.pth", architecture="tiny-zoo-clip", group="zero-shot"))
    with torch.no_grad():
        logits = found.network(small_pictures()).numpy()
    assert logits.shape == (3, 1000)
    places = [0, 134, 517, 638, 639, 999]
    expected = zero_shot_by_hand(model, small_pictures(), [lambda name: f"a photo of a {name}"], places)
    np.testing.assert_allclose(logits[:, places], expected, atol=2e-4)
    assert np.abs(logits[:, 134] - logits[:, 517]).min() > 1e-4, "the two cranes are told apart"
    assert found.parameters == sum(value.numel() for value in model.visual.parameters())
    assert set(found.network.state_dict()) == {f"visual.{key}" for key in model.visual.state_dict()} | {
        "class_embeddings"
    }
    assert_same_picture(found, open_clip.image_transform(32, is_train=False), photo)


def test_an_ensemble_is_the_mean_over_openais_templates(tiny_clip, monkeypatch):
    model, folder, _ = tiny_clip
    templates = open_clip.OPENAI_IMAGENET_TEMPLATES[::27]
    assert len(open_clip.OPENAI_IMAGENET_TEMPLATES) == 80
    monkeypatch.setattr(open_clip, "OPENAI_IMAGENET_TEMPLATES", templates)  # 3 of the 80: the test is 27 times quicker
    asked = entry("open_clip", folder / "tiny.pth", architecture="tiny-zoo-clip")
    single, ensemble = load_entry(asked), load_entry(replace(asked, prompts="ensemble"))
    with torch.no_grad():
        logits = ensemble.network(small_pictures())[:, [3, 700]].numpy()
    np.testing.assert_allclose(logits, zero_shot_by_hand(model, small_pictures(), templates, [3, 700]), atol=2e-4)
    assert single.sha256 != ensemble.sha256, "other prompts are another classifier"


def test_a_clip_folder_brings_its_preprocessing_and_is_pinned_by_its_tensors(tiny_clip, photo):
    _, folder, preprocess = tiny_clip
    from_folder = load_entry(entry("open_clip", folder / "local"))
    from_file = load_entry(entry("open_clip", folder / "tiny.pth", architecture="tiny-zoo-clip"))
    assert from_folder.sha256 == from_file.sha256
    assert_same_picture(from_folder, open_clip.image_transform((32, 32), is_train=False, **preprocess), photo)
    assert load_entry(entry("open_clip", folder / "local", sha256=from_folder.sha256)).sha256 == from_folder.sha256
    with pytest.raises(ClassifierError, match=f"must have the sha256 {'0' * 64}, got {from_folder.sha256}"):
        load_entry(entry("open_clip", folder / "local", sha256="0" * 64))


def test_openais_weights_get_the_activation_they_were_trained_with(monkeypatch):
    asked = []
    monkeypatch.setattr(open_clip, "create_model", lambda name, **options: asked.append((name, options)))
    zoo_loaders._open_clip_model("ViT-B-32/openai", "", None)
    zoo_loaders._open_clip_model("ViT-B-32/laion2b_s34b_b79k", "", None)
    assert [options["force_quick_gelu"] for _, options in asked] == [True, False]
    assert all(options["require_pretrained"] for _, options in asked)
    with pytest.raises(ClassifierError, match="model/tag"):
        zoo_loaders._open_clip_model("ViT-B-32/nonsense", "", None)


def test_a_clip_that_lacks_a_tensor_or_pads_its_pictures_is_refused(tiny_clip, tmp_path):
    model, folder, preprocess = tiny_clip
    state = {key: value for key, value in model.state_dict().items() if key != "visual.proj"}
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(ClassifierError, match=r"visual\.proj"):
        load_entry(entry("open_clip", tmp_path / "cut.pth", architecture="tiny-zoo-clip"))
    config = json.loads((folder / "local" / "open_clip_config.json").read_text())
    config["preprocess_cfg"] = preprocess | {"resize_mode": "longest"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ClassifierError, match="resize_mode must be squash, or shortest"):
        load_entry(entry("open_clip", tmp_path))


# DINO


@torch.no_grad()
def tokens_of_blocks(network, pictures):
    """Return what each block of a timm transformer gives, after the final norm, one (n, 197, 192) a block."""
    given = []
    hooks = [block.register_forward_hook(lambda *found: given.append(found[2])) for block in network.blocks]
    network.forward_features(pictures)
    for hook in hooks:
        hook.remove()
    return [network.norm(tokens) for tokens in given]


def dino_features(layout, network, pictures):
    blocks = tokens_of_blocks(network, pictures)
    class_token, patches = blocks[-1][:, 0], blocks[-1][:, 1:].mean(1)
    if layout == "four blocks":
        return torch.cat([tokens[:, 0] for tokens in blocks[-4:]], dim=1)
    if layout == "interleaved":  # as DINO's eval_linear.py reshapes the pair
        pair = torch.empty(len(pictures), 2 * 192)
        pair[:, 0::2], pair[:, 1::2] = class_token, patches
        return pair
    return torch.cat([class_token, patches], dim=1) if layout == "side by side" else class_token


def save_head(path, width, prefix="module.linear.", classes=1000):
    generator = torch.Generator().manual_seed(width)
    weight = torch.randn(classes, width, generator=generator) * 0.1
    bias = torch.randn(classes, generator=generator)
    state = {f"{prefix}weight": weight, f"{prefix}bias": bias}
    torch.save({"state_dict": state, "epoch": 100} if prefix else state, path)
    return weight, bias


@pytest.mark.parametrize(
    ("layout", "width", "prefix"),
    [
        ("four blocks", 768, "module.linear."),
        ("interleaved", 384, "module.linear."),
        ("side by side", 384, ""),
        ("class token", 192, "module.linear."),
    ],
)
def test_a_dino_head_reads_the_features_it_was_trained_on(layout, width, prefix, vit, batch, photo, tmp_path):
    network, folder = vit
    weight, bias = save_head(tmp_path / "head.pth", width, prefix)
    source = folder / ("folder" if layout == "four blocks" else "weights.safetensors")
    found = load_entry(entry("dino", source, architecture=VIT, head=str(tmp_path / "head.pth")))
    assert_same_logits(found, lambda pictures: dino_features(layout, network, pictures) @ weight.T + bias, batch)
    colours = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # timm's for this network
    assert_same_picture(found, torchvision_transform(interpolation=InterpolationMode.BICUBIC, **colours), photo)
    head_less = sum(value.numel() for key, value in network.named_parameters() if not key.startswith("head."))
    assert found.parameters == head_less + 1000 * width + 1000
    assert found.sha256 == sha256_of_tensors(found.network)


def test_a_dino_resnet_is_read_from_torchvisions_names(small_batch, tmp_path):
    torch.manual_seed(6)
    network = shaken(torchvision.models.resnet18(weights=None))
    torch.save(network.state_dict(), tmp_path / "backbone.pth")
    weight, bias = save_head(tmp_path / "head.pth", 512)
    asked = entry("dino", tmp_path / "backbone.pth", architecture="resnet18", head=str(tmp_path / "head.pth"))
    found = load_entry(asked)
    network.fc = torch.nn.Identity()
    assert_same_logits(found, lambda pictures: network(pictures) @ weight.T + bias, small_batch)
    save_head(tmp_path / "head.pth", 1024)
    with pytest.raises(ClassifierError, match="tokens are a transformer's"):
        load_entry(asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 576}, "768: class tokens of the last four blocks; 384: .* got 576"),
        ({"width": 768, "classes": 10}, r"shape \(1000, width\), got \(10, 768\)"),
        ({"width": 768, "prefix": "module.mlp."}, r"must hold module\.linear\.weight"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(options, message, vit, tmp_path):
    save_head(tmp_path / "head.pth", **options)
    with pytest.raises(ClassifierError, match=message):
        load_entry(entry("dino", vit[1] / "folder", architecture=VIT, head=str(tmp_path / "head.pth")))


def test_a_dino_backbone_must_see_224_pixels(tmp_path):
    larger = "vit_tiny_patch16_384"
    save_file(timm.create_model(larger).state_dict(), tmp_path / "larger.safetensors")
    save_head(tmp_path / "head.pth", 192)
    with pytest.raises(ClassifierError, match=r"must see 224 pixels, as its head does, got .*384"):
        load_entry(entry("dino", tmp_path / "larger.safetensors", architecture=larger, head=str(tmp_path / "head.pth")))


# strictness


def spoil(state, how):
    state = {key: value.clone() for key, value in state.items()}
    if how == "missing":
        del state["features.0.weight"]
    elif how == "unexpected":
        state["surplus"] = torch.zeros(1)
    elif how == "ten":
        state["classifier.1.weight"], state["classifier.1.bias"] = torch.zeros(10, 512, 1, 1), torch.zeros(10)
    else:
        state["features.0.bias"][3] = {"nan": torch.nan, "infinite": torch.inf}[how]
    return state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"lacks 1 tensors, such as features\.0\.weight"),
        ("unexpected", "has unknown 1 tensors, such as surplus"),
        ("ten", r"other shapes of 2 tensors, such as classifier\.1\.weight \(10, 512, 1, 1\) instead of \(1000,"),
        ("nan", r"must be finite, got NaN or infinity in features\.0\.bias"),
        ("infinite", r"must be finite, got NaN or infinity in features\.0\.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(how, message, squeezenet, tmp_path):
    torch.save(spoil(squeezenet.state_dict(), how), tmp_path / "bad.pth")
    with pytest.raises(ClassifierError, match=message) as caught:
        load_entry(entry("torchvision", tmp_path / "bad.pth", architecture="squeezenet1_1"))
    assert "local file" in str(caught.value)


def test_counters_may_be_missing_but_not_statistics(small_batch, tmp_path):
    network = shaken(torchvision.models.resnet18(weights=None))
    state = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pth")
    assert_same_logits(
        load_entry(entry("torchvision", tmp_path / "old.pth", architecture="resnet18")), network, small_batch
    )
    del state["bn1.running_mean"]
    torch.save(state, tmp_path / "old.pth")
    with pytest.raises(ClassifierError, match=r"lacks 1 tensors, such as bn1\.running_mean"):
        load_entry(entry("torchvision", tmp_path / "old.pth", architecture="resnet18"))


@pytest.mark.parametrize("classes", [1001, 21843])
def test_other_numbers_of_classes_are_refused(classes, tmp_path):
    timm.models.save_for_hf(timm.create_model(VIT, num_classes=classes), tmp_path / "x", safe_serialization=True)
    with pytest.raises(ClassifierError, match=f"1000 ImageNet classes, got .* with {classes}"):
        load_entry(entry("timm", tmp_path / "x"))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_is_refused_and_not_executed(robust_state, tmp_path):
    fuse = tmp_path / "fuse"
    torch.save({"model": robust_state[1], "args": Bomb(fuse)}, tmp_path / "robust.ckpt")
    with pytest.raises(ClassifierError, match=r"arbitrary pickle.*pickle_module=dill.*torch\.save"):
        load_entry(entry("robustness", tmp_path / "robust.ckpt", architecture="resnet18"))
    assert not fuse.exists()
    with open(tmp_path / "robust.ckpt", "rb") as file:
        torch.load(file, weights_only=False)
    assert fuse.exists(), "read the dangerous way it does run, so the check above can fail"


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps([1, 2])])
def test_what_is_no_checkpoint_is_named(content, tmp_path):
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(ClassifierError, match=r"bad\.pth"):
        load_entry(entry("torchvision", tmp_path / "bad.pth", architecture="squeezenet1_1"))


def test_a_wrong_pin_is_refused_before_the_file_is_read(squeezenet, tmp_path, monkeypatch):
    torch.save(squeezenet.state_dict(), tmp_path / "it.pth")
    right = sha256_of(tmp_path / "it.pth")
    asked = entry("torchvision", tmp_path / "it.pth", architecture="squeezenet1_1", sha256=right)
    assert load_entry(asked).sha256 == right
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file was read"))
    with pytest.raises(ClassifierError, match=f"must have the sha256 {'0' * 64}, got {right}"):
        load_entry(replace(asked, sha256="0" * 64))


def test_a_wrong_pin_of_a_bundled_classifier_is_refused():
    with pytest.raises(ClassifierError, match=f"must have the sha256 {'1' * 64}"):
        load_entry(replace(read_zoo("bundled")[0], sha256="1" * 64))


def test_an_unknown_architecture_and_a_missing_file_are_named(squeezenet, tmp_path):
    torch.save(squeezenet.state_dict(), tmp_path / "it.pth")
    with pytest.raises(ClassifierError, match=r"architecture must be one of torchvision's.*'resnet5000'"):
        load_entry(entry("torchvision", tmp_path / "it.pth", architecture="resnet5000"))
    with pytest.raises(ClassifierError, match=r"no file or folder '~/no/such\.pth'"):
        load_entry(entry("robustness", "~/no/such.pth", architecture="resnet18"))


# zoo files


GOOD = {"name": "a", "group": "transformer", "kind": "timm", "source": "resnet18.a1_in1k"}


def write_zoo(path, *rows):
    path.write_text(yaml.safe_dump(list(rows)))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": 1}, r"entry 2 \('b'\): fields must be among architecture, group, .*, got weight"),
        ({"group": "convnets"}, "entry 'b': group must be one of supervised conv, .* got 'convnets'"),
        ({"kind": "keras"}, "entry 'b': kind must be one of timm, torchvision, .* got 'keras'"),
        ({"name": "a"}, "names must occur once, got a more than once"),
        ({"sha256": "abc"}, "entry 'b': sha256 must be 64 hexadecimal digits .* got 'abc'"),
        ({"sha256": "G" * 64}, "entry 'b': sha256 must be 64 hexadecimal digits"),
        ({"sha256": 12}, r"entry 'b': sha256 must be text or null \(put digits in quotes\), got 12"),
        ({"revision": 12}, "entry 'b': revision must be text or null"),
        ({"source": ""}, "entry 'b': source must be text that is not empty"),
        ({"kind": "torchvision"}, "entry 'b': architecture must be the network's name"),
        ({"kind": "dino", "architecture": "resnet50"}, "entry 'b': head must be the linear head's file"),
        ({"head": "x.pth"}, "entry 'b': head must be .* empty elsewhere, got 'x.pth'"),
        ({"prompts": "ensemble"}, "entry 'b': prompts must be single where the kind is not open_clip"),
        ({"kind": "open_clip", "prompts": "many"}, "entry 'b': prompts must be one of single, ensemble, got 'many'"),
        ({"kind": "open_clip", "revision": "abc"}, "entry 'b': revision must be null"),
    ],
)
def test_a_wrong_zoo_file_is_refused_by_file_entry_and_field(change, message, tmp_path):
    path = write_zoo(tmp_path / "zoo.yaml", GOOD, GOOD | {"name": "b"} | change)
    with pytest.raises(ZooError, match=message) as caught:
        read_zoo(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_zoo_is_refused(tmp_path):
    for text, message in (("", "list of entries"), ("a: 1", "got dict"), ("- 3", "entry 1 must be"), ("[", "YAML")):
        (tmp_path / "zoo.yaml").write_text(text)
        with pytest.raises(ZooError, match=message):
            read_zoo(tmp_path / "zoo.yaml")
    with pytest.raises(ZooError, match=r"fields must include source, got group, kind, name"):
        read_zoo(write_zoo(tmp_path / "zoo.yaml", {key: GOOD[key] for key in ("name", "group", "kind")}))
    with pytest.raises(ZooError, match="one of bundled, paper or a YAML file, got 'papers'"):
        read_zoo("papers")


def test_the_papers_zoo_holds_weights_that_the_installed_libraries_know():
    entries = read_zoo("paper")
    assert len(entries) >= 34
    assert {entry.group for entry in (*entries, *read_zoo("bundled"))} == set(GROUPS)
    known = set(timm.list_pretrained())
    for found in entries:
        here = found.source.startswith("~/.cache/d3s/")
        if found.kind in ("timm", "dino") and not here:
            assert found.source in known
        if found.kind == "open_clip":
            assert tuple(found.source.rsplit("/", 1)) in open_clip.list_pretrained()
        if found.kind in ("robustness", "torchvision"):
            assert here
            assert found.architecture in torchvision.models.list_models()
        if found.kind == "dino":
            assert timm.is_model(found.architecture.split(".")[0])
            assert found.head.startswith("~/.cache/d3s/")
    kinds = {found.kind for found in entries}
    assert {"timm", "robustness", "open_clip", "dino"} <= kinds


def test_the_bundled_zoo_loads_with_its_pins():
    found, errors = load_zoo(read_zoo("bundled"))
    assert [classifier.name for classifier in found] == BUNDLED_ZOO
    assert errors.empty
    files = [*(bundled_weights_file(name) for name in sorted(BUNDLED)), SMALL_RESNET / "model.safetensors"]
    assert [entry.sha256 for entry in read_zoo("bundled")] == [sha256_of(file) for file in files]
    assert [classifier.classes for classifier in found] == [1000, 1000, 1000, 9]


# names


def test_names_mean_zoos_entries_and_timm_models(tmp_path):
    path = write_zoo(tmp_path / "mine.yml", GOOD | {"name": "my own"})
    timm.models.save_for_hf(timm.create_model(VIT), tmp_path / "folder", safe_serialization=True)
    names = ["bundled", str(path), "clip_vit_l14", "resnet34.a1_in1k", "hf-hub:me/vit_x", str(tmp_path / "folder")]
    found = entries_of(names)
    assert [entry.name for entry in found] == [*BUNDLED_ZOO, "my own", *names[2:]]
    assert found[5] == next(entry for entry in read_zoo("paper") if entry.name == "clip_vit_l14")
    assert [entry.group for entry in found[6:]] == ["supervised conv", "transformer", "transformer"]
    assert {entry.kind for entry in found[6:]} == {"timm"}
    assert entries_of(["tf_efficientnet_lite1"]) == (read_zoo("bundled")[1],)
    assert entries_of([]) == ()


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("resnext50_32x4d.fb_swsl_ig1b_ft_in1k", "weakly supervised"),
        ("inception_v3.tf_adv_in1k", "adversarially trained"),
        ("swin_tiny_patch4_window7_224.ms_in1k", "transformer"),
        ("convnext_tiny.fb_in1k", "supervised conv"),
    ],
)
def test_the_group_of_a_timm_name_is_guessed(name, group):
    assert entries_of([name])[0].group == group


def test_a_name_twice_or_unknown_is_refused(tmp_path):
    for names in (["bundled", "tf_efficientnet_lite0"], ["resnet34", "resnet34"]):
        with pytest.raises(ValueError, match="names must occur once"):
            entries_of(names)
    with pytest.raises(ZooError, match="got 'clip_vit_b31'; the closest are clip_vit_b32"):
        entries_of(["clip_vit_b31"])


# loading all


def test_what_cannot_be_had_is_a_row_and_the_others_go_on(squeezenet, tmp_path, capsys):
    torch.save(squeezenet.state_dict(), tmp_path / "it.pth")
    good = entry("torchvision", tmp_path / "it.pth", architecture="squeezenet1_1")
    gone = entry("robustness", tmp_path / "gone.ckpt", architecture="resnet18", name="gone")
    hub = entry("timm", "resnet18.a1_in1k", name="hub", group="transformer")
    found, errors = load_zoo([gone, hub, good])
    assert [classifier.name for classifier in found] == ["mine"]
    assert list(errors.columns) == ["name", "group", "kind", "source", "error"]
    assert errors["name"].tolist() == ["gone", "hub"]
    assert errors.iloc[1][["group", "kind", "source"]].tolist() == ["transformer", "timm", "resnet18.a1_in1k"]
    assert "gone.ckpt" in errors["error"][0]
    assert "local folder" in errors["error"][1]
    assert not errors["error"].str.contains("\n").any()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["gone", "hub", "mine"]
    assert lines[2] == "mine: 1.2 million parameters, sees 224 × 224 pixels"
    with pytest.raises(ZooError, match="names must occur once"):
        load_zoo([good, good])


def test_all_that_loads_leaves_an_empty_table(squeezenet, tmp_path):
    torch.save(squeezenet.state_dict(), tmp_path / "it.pth")
    _, errors = load_zoo([entry("torchvision", tmp_path / "it.pth", architecture="squeezenet1_1")])
    assert errors.shape == (0, 5)


def test_a_hub_out_of_reach_is_asked_once_and_settings_come_back(monkeypatch):
    constants, asked = zoo_loaders.huggingface_hub.constants, []

    class Session:
        def head(self, address, timeout):
            asked.append((address, timeout))
            raise ConnectionError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(zoo_loaders, "get_session", Session)
    start = time.monotonic()
    _, errors = load_zoo([entry("timm", f"hf-hub:nobody/model-{place}", name=str(place)) for place in range(4)])
    assert len(errors) == 4
    assert asked == [(constants.ENDPOINT, zoo_loaders.NETWORK_WAIT)]
    assert constants.HF_HUB_OFFLINE is False
    assert time.monotonic() - start < 10, "each would retry for most of a minute if the hub were asked"


# the command line


def test_list_and_pin(squeezenet, tmp_path, capsys):
    torch.save(squeezenet.state_dict(), tmp_path / "it.pth")
    rows = [
        {"name": "here", "group": "supervised conv", "kind": "torchvision", "architecture": "squeezenet1_1"},
        {"name": "gone", "group": "supervised conv", "kind": "torchvision", "architecture": "squeezenet1_1"},
    ]
    rows[0]["source"], rows[1]["source"] = str(tmp_path / "it.pth"), str(tmp_path / "gone.pth")
    rows[1]["sha256"] = "a" * 64
    path = write_zoo(tmp_path / "zoo.yaml", *rows)
    path.write_text("# Mine.\n\n" + path.read_text())
    before = read_zoo(path)
    assert main(["pin", str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("# Mine.\n")
    assert "gone: not loaded" in printed.err
    path.write_text(printed.out)
    after = read_zoo(path)
    assert after == (replace(before[0], sha256=sha256_of(tmp_path / "it.pth")), before[1])
    assert main(["list", "bundled"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == BUNDLED_ZOO
    with pytest.raises(SystemExit):
        main(["list", "papers"])
