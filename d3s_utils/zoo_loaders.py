"""How classifiers of each kind are loaded: timm, torchvision, robustness, open_clip, DINO; strictly, without pickle."""

import hashlib
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import safetensors.torch
import timm
import torch
import torchvision
from huggingface_hub.utils import get_session
from torch.nn.functional import normalize

from d3s_utils.atomic_files import sha256_of
from d3s_utils.classifiers import (
    BUNDLED,
    ClassifierError,
    bundled_weights_file,
    load_bundled_classifier,
    load_timm_network,
    sha256_of_tensors,
)
from d3s_utils.preprocessing import Preprocessing
from d3s_utils.small_resnet import BUNDLED_FOLDER, NAME, SIDE, load_small_resnet

CLASS_COUNT = 1000
LAYOUTS = {  # width of DINO's head over the network's width -> what it reads, of the published heads
    4: "class tokens of the last four blocks",
    2: "class token and mean patch token of the last block",
    1: "pooled features",
}
HEAD_KEYS = {"module.linear.": True, "linear.": True, "": False}  # prefix in a head's file -> DINO (True) or DINOv2
NETWORK_WAIT = 5.0  # seconds until a hub that does not answer counts as out of reach
PROMPTS_AT_ONCE = 250


@dataclass(frozen=True)
class LoadedNetwork:
    """What a loader gives back: the network, its preprocessing, and the hash of its weights."""

    network: torch.nn.Module
    preprocessing: Preprocessing
    sha256: str


class ZeroShotNetwork(torch.nn.Module):
    """CLIP's image tower with one embedding a class: normalised float32 (n, 3, h, w) -> logits (n, 1000).

    Args:
        visual: The image tower, (n, 3, h, w) -> (n, width).
        class_embeddings: Of length 1, times the scale of the logits, shape (1000, width).
    """

    def __init__(self, visual: torch.nn.Module, class_embeddings: torch.Tensor):
        super().__init__()
        self.visual = visual
        self.register_buffer("class_embeddings", class_embeddings)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        embeddings = normalize(self.visual(pictures).float(), dim=1)
        with torch.autocast(pictures.device.type, enabled=False):  # half a precision's digits would make ties of 1000
            return embeddings @ self.class_embeddings.T


class LinearProbeNetwork(torch.nn.Module):
    """A frozen backbone with a linear head on features as DINO lays them out.

    Args:
        backbone: A timm network without a head.
        head: Linear layer to the 1000 classes.
        blocks: 4, 2 or 1, a key of `LAYOUTS`.
        interleaved: With 2: the class token and the mean patch token alternate, number by number, as DINO has them;
            DINOv2 has one behind the other.

    Source: Caron et al. 2021, arXiv:2104.14294, ``eval_linear.py``; Oquab et al. 2023, arXiv:2304.07193.
    """

    def __init__(self, backbone: torch.nn.Module, head: torch.nn.Linear, *, blocks: int, interleaved: bool):
        super().__init__()
        self.backbone, self.head, self.blocks, self.interleaved = backbone, head, blocks, interleaved

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return what the head reads, shape (n, width of the head)."""
        if self.blocks == 1:
            return self.backbone.forward_head(self.backbone.forward_features(pictures), pre_logits=True)
        tokens = self.backbone.forward_intermediates(
            pictures, indices=4 if self.blocks == 4 else 1, norm=True, output_fmt="NLC",
            return_prefix_tokens=True, intermediates_only=True,
        )  # fmt: skip
        if self.blocks == 4:
            return torch.cat([prefix[:, 0] for _, prefix in tokens], dim=1)
        patches, prefix = tokens[-1]
        pair = torch.stack([prefix[:, 0], patches.mean(1)], dim=-1 if self.interleaved else 1)
        return pair.flatten(1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(pictures))


class SuperclassNetwork(torch.nn.Module):
    """The project's own small network, of which only the superclasses are asked: (n, 3, 64, 64) -> logits (n, 9)."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the trunk's last feature map, (n, channels, height, width), as timm's networks do."""
        return self.model.trunk.forward_features(images.contiguous(memory_format=torch.channels_last))

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.model.superclass(self.model.trunk.forward_head(features))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))


def load_superclass_network(source: str) -> LoadedNetwork:
    """Return the project's own small network: the shipped one (``small_resnet``), or that of a folder.

    Raises:
        SmallResnetError: If the folder is not complete, or a file was changed.
    """
    folder = BUNDLED_FOLDER if source == NAME else Path(source).expanduser()
    found = load_small_resnet(folder)
    shaper = Preprocessing(size=(SIDE, SIDE), crop_fraction=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return LoadedNetwork(SuperclassNetwork(found.model), shaper, found.sha256)


def load_timm(source: str, *, architecture: str = "", revision: str | None = None) -> LoadedNetwork:
    """Return a timm network: a bundled one, a timm name, ``hf-hub:owner/model``, a local folder, or a weights file.

    Args:
        architecture: timm's name of the network, for a weights file only.
        revision: Commit on the hub.

    Raises:
        ClassifierError: If the weights cannot be had, do not fit, or do not tell 1000 classes.
    """
    if source in BUNDLED:
        network, sha256 = load_bundled_classifier(source), sha256_of(bundled_weights_file(source))
    elif file := local_file(source):
        if not architecture:
            raise ClassifierError(f"architecture must be timm's name of the network in {source!r}, got none")
        network = timm.create_model(architecture, pretrained=False, num_classes=CLASS_COUNT)
        fill(network, read_tensors(file), source)
        sha256 = sha256_of(file)
    else:
        network = load_timm_network(timm_source(source, revision))
        sha256 = sha256_of_tensors(network)
    outputs = getattr(network, "num_classes", None)
    if outputs != CLASS_COUNT:
        raise ClassifierError(f"classifier must tell the {CLASS_COUNT} ImageNet classes, got {source!r} with {outputs}")
    return LoadedNetwork(network, Preprocessing.of_timm(timm.data.resolve_model_data_config(network)), sha256)


def load_torchvision(source: str, *, architecture: str) -> LoadedNetwork:
    """Return a torchvision network from a checkpoint file, or with the weights that torchvision names.

    Args:
        source: A file; ``default``, torchvision's best weights; or their name, such as ``IMAGENET1K_V1``.
        architecture: torchvision's name of the network.

    Raises:
        ClassifierError: If there is no such network or file, or the tensors do not fit.
    """
    network = torchvision_network(architecture)
    if file := local_file(source):
        fill(network, without_prefix(read_tensors(file), "module."), source)
        first = next(iter(torchvision.models.get_model_weights(architecture)))
        return LoadedNetwork(network, torchvision_preprocessing(first), sha256_of(file))
    choices = torchvision.models.get_model_weights(architecture)
    names = {choice.name: choice for choice in choices} | {"default": choices.DEFAULT}
    if source not in names:
        raise ClassifierError(f"source must be a file or one of {', '.join(names)}, got {source!r}, which is none")
    weights = names[source]
    state = weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    fill(network, {densenet_key(key): value for key, value in state.items()}, f"{architecture} {weights.name}")
    return LoadedNetwork(network, torchvision_preprocessing(weights), sha256_of_tensors(network))


def torchvision_preprocessing(weights: torchvision.models.WeightsEnum) -> Preprocessing:
    """Return what torchvision says that a set of its weights wants: for a file, the first set of its network."""
    asked = weights.transforms()
    return Preprocessing.resized_and_cropped(
        asked.resize_size[0], asked.crop_size[0], interpolation=asked.interpolation.value,
        mean=tuple(asked.mean), std=tuple(asked.std),
    )  # fmt: skip


def load_robustness(source: str, *, architecture: str) -> LoadedNetwork:
    """Return an adversarially trained torchvision network from a checkpoint of MadryLab's robustness package.

    The tensors lie under ``module.model.``; the second copy of them in the attacker is left out. Mean and standard
    deviation are those of the checkpoint's own normaliser, ImageNet's where it has none.

    Raises:
        ClassifierError: If there is no such file, it needs arbitrary pickle, or the tensors do not fit.

    Source: Engstrom et al. 2019, the robustness package; Salman et al. 2020, arXiv:2007.08489.
    """
    file = needed_file(source, "source")
    network, state = torchvision_network(architecture), without_prefix(read_tensors(file), "module.")
    colours = {}
    for name, key in (("mean", "normalizer.new_mean"), ("std", "normalizer.new_std")):
        if key in state:
            colours[name] = tuple(float(value) for value in state[key].flatten())
    kept = {key: value for key, value in state.items() if not key.startswith(("attacker.", "normalizer."))}
    odd = [key for key in kept if not key.startswith("model.")]
    if odd or not kept:
        raise ClassifierError(f"{source}: tensors must lie under module.model., got {odd[:3] or 'none'}")
    fill(network, without_prefix(kept, "model."), source)
    return LoadedNetwork(network, Preprocessing.resized_and_cropped(256, 224, **colours), sha256_of(file))


def load_open_clip(
    source: str, *, architecture: str = "", revision: str | None = None, prompts: str = "single"
) -> LoadedNetwork:
    """Return a CLIP as a classifier of the 1000 classes, by open_clip's own class names.

    Its hash covers all tensors as they were loaded, the text tower's too, and all prompts: it does not depend on the
    machine, as the last digits of the class embeddings do.

    Args:
        source: ``model/tag``, ``hf-hub:owner/model``, a local folder with ``open_clip_config.json``, or a file.
        architecture: open_clip's name of the model, for a file only.
        revision: Commit on the hub.
        prompts: ``single`` is "a photo of a {class}", ``ensemble`` OpenAI's 80 templates.

    Raises:
        ClassifierError: If the model cannot be had, does not fit, or wants a preprocessing that is not known here.

    Source: Radford et al. 2021, arXiv:2103.00020.
    """
    import open_clip  # takes seconds, and most runs do without

    model, called = _open_clip_model(source, architecture, revision)
    if type(model) not in (open_clip.CLIP, open_clip.CustomTextCLIP):
        raise ClassifierError(f"source must be a CLIP of two towers, got {type(model).__name__} in {source!r}")
    asked = open_clip.get_model_preprocess_cfg(model)
    modes = {"shortest": "center", "squash": "squash"}
    size = asked["size"] if isinstance(asked["size"], tuple | list) else (asked["size"],) * 2
    if asked["resize_mode"] not in modes or (asked["resize_mode"] == "shortest" and size[0] != size[1]):
        raise ClassifierError(f"{source}: resize_mode must be squash, or shortest to a square, got {asked}")
    preprocessing = Preprocessing(
        size=tuple(size), crop_fraction=1.0, crop_mode=modes[asked["resize_mode"]],
        interpolation="bilinear" if asked["interpolation"] == "bilinear" else "bicubic",
        mean=tuple(asked["mean"]), std=tuple(asked["std"]),
    )  # fmt: skip
    questions = [prompts_of(name, prompts) for name in open_clip.IMAGENET_CLASSNAMES]
    sha256 = hashlib.sha256((sha256_of_tensors(model) + json.dumps(questions)).encode()).hexdigest()
    check_finite(model, source)
    embeddings = class_embeddings(model.eval(), open_clip.get_tokenizer(called), questions)
    return LoadedNetwork(ZeroShotNetwork(model.visual, embeddings), preprocessing, sha256)


def load_dino(source: str, *, architecture: str, head: str, revision: str | None = None) -> LoadedNetwork:
    """Return a self-supervised backbone with the linear head that was trained on it.

    Args:
        source: Where the backbone's weights are: a timm name, ``hf-hub:owner/model``, a local folder or a file.
        architecture: timm's name of the backbone.
        head: File with the head's ``weight`` (1000, width) and ``bias`` (1000,), each behind ``module.linear.`` as DINO
            has it, or bare as DINOv2 has it.
        revision: Commit on the hub.

    Raises:
        ClassifierError: If a part cannot be had or does not fit, the backbone does not see 224 pixels, or the width of
            the head belongs to none of `LAYOUTS`.
    """
    head_file = needed_file(head, "head")
    backbone = timm.create_model(architecture, pretrained=False, num_classes=0)
    if file := local_file(source):
        state = without_prefix(read_tensors(file), "module.")
        fill(backbone, {key: value for key, value in state.items() if not key.startswith(("fc.", "head."))}, source)
    else:
        found = load_timm_network(timm_source(source, revision))
        found.reset_classifier(0)
        fill(backbone, found.state_dict(), source)
        backbone.pretrained_cfg = found.pretrained_cfg
    config = timm.data.resolve_model_data_config(backbone)
    if tuple(config["input_size"]) != (3, 224, 224):
        raise ClassifierError(f"{source}: a DINO backbone must see 224 pixels, as its head does, got {config}")
    state = read_tensors(head_file)
    prefix = next((p for p in HEAD_KEYS if set(state) == {f"{p}weight", f"{p}bias"}), None)
    if prefix is None:
        raise ClassifierError(f"head must hold module.linear.weight and module.linear.bias, got {sorted(state)[:4]}")
    weight, width = state[f"{prefix}weight"], backbone.num_features
    if weight.ndim != 2 or weight.shape[0] != CLASS_COUNT:
        raise ClassifierError(f"head must have a weight of shape ({CLASS_COUNT}, width), got {tuple(weight.shape)}")
    blocks = next((count for count in LAYOUTS if count * width == weight.shape[1]), None)
    if blocks is None or (blocks > 1 and getattr(backbone, "num_prefix_tokens", 0) < 1):
        allowed = "; ".join(f"{count * width}: {what}" for count, what in LAYOUTS.items())
        raise ClassifierError(
            f"head must be as wide as features of {architecture} ({allowed}; tokens are a transformer's), "
            f"got {weight.shape[1]}"
        )
    linear = torch.nn.Linear(weight.shape[1], CLASS_COUNT)
    fill(linear, without_prefix(state, prefix), head)
    network = LinearProbeNetwork(backbone, linear, blocks=blocks, interleaved=HEAD_KEYS[prefix])
    colours = {"mean": tuple(config["mean"]), "std": tuple(config["std"])}
    preprocessing = Preprocessing.resized_and_cropped(256, 224, interpolation="bicubic", **colours)
    return LoadedNetwork(network, preprocessing, sha256_of_tensors(network))


def prompts_of(name: str, prompts: str) -> list[str]:
    """Return what CLIP is asked about a class: one sentence (``single``) or 80 (``ensemble``)."""
    import open_clip

    templates = {"single": [lambda name: f"a photo of a {name}"], "ensemble": open_clip.OPENAI_IMAGENET_TEMPLATES}
    return [template(name) for template in templates[prompts]]


@torch.inference_mode()
def class_embeddings(
    model: torch.nn.Module, tokenizer: Callable[[list[str]], torch.Tensor], questions: list[list[str]]
) -> torch.Tensor:
    """Return the normalised mean of each class's normalised prompts times the logits' scale, float32 (classes, width).

    Args:
        model: From open_clip.
        questions: As many prompts for each class as for any other.
    """
    flat = [prompt for group in questions for prompt in group]
    chunks = (flat[start : start + PROMPTS_AT_ONCE] for start in range(0, len(flat), PROMPTS_AT_ONCE))
    embeddings = torch.cat([normalize(model.encode_text(tokenizer(chunk)).float(), dim=1) for chunk in chunks])
    means = embeddings.view(len(questions), -1, embeddings.shape[1]).mean(1)
    return (normalize(means, dim=1) * model.logit_scale.exp()).clone()


def is_path(source: str) -> bool:
    """Return whether `source` means a place on this machine, be it there or not (.pt is also a tag of timm's)."""
    path = Path(source).expanduser()
    named = source.startswith(("~", "/", ".")) or path.suffix in (".pth", ".ckpt", ".safetensors", ".bin")
    return named or path.exists()


def local_file(source: str) -> Path | None:
    """Return the file that `source` names, or None where it is a folder or a name.

    Raises:
        ClassifierError: If it is a path and there is nothing.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if is_path(source) and not path.is_dir():
        raise ClassifierError(f"there is no file or folder {source!r}: put the weights there, or change the zoo file")
    return None


def needed_file(source: str, argument: str) -> Path:
    """Return the file that `source` names.

    Raises:
        ClassifierError: If it names none.
    """
    file = local_file(source)
    if file is None:
        raise ClassifierError(f"{argument} must be a local file, got {source!r}")
    return file


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint: of the file itself, or of its ``state_dict``, ``model`` or ``model_ema``.

    Nothing in the file is executed.

    Raises:
        ClassifierError: If it cannot be read, needs arbitrary pickle, or holds no tensors.
    """
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises unpickling, runtime, zip and end-of-file errors, safetensors its own
        if "weights_only" not in str(error) and "Weights only" not in str(error):
            raise ClassifierError(f"{file}: the file cannot be read ({type(error).__name__}: {error})") from error
        raise ClassifierError(
            f"{file}: the file needs arbitrary pickle, which can run code, and is not read. Where it is trusted, "
            'convert it: python -c "import torch, dill; '
            "c = torch.load('OLD', pickle_module=dill, weights_only=False, map_location='cpu'); "
            "torch.save({'model': c.get('model', c.get('state_dict'))}, 'NEW')\""
        ) from error
    for key in ("state_dict", "model", "model_ema"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        found = sorted(map(str, content))[:4] if isinstance(content, Mapping) else type(content).__name__
        raise ClassifierError(f"{file}: the file must hold tensors by name (or under state_dict, model), got {found}")
    return {key: value for key, value in content.items() if key != "n_averaged"}  # a counter of the averaged model


def fill(network: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Put all tensors of `state` into `network`; batch normalisation may lack its counters, which nothing here reads.

    Raises:
        ClassifierError: If one is missing, too many, of another shape, or not finite; it names the first few.
    """
    target = network.state_dict()
    counters = {key: target[key] for key in target if key.endswith(".num_batches_tracked") and key not in state}
    state = dict(state) | counters
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(target[key].shape)}"
        for key in target
        if key in state and state[key].shape != target[key].shape
    ]
    missing, unexpected = [key for key in target if key not in state], [key for key in state if key not in target]
    for what, keys in (("lacks", missing), ("has unknown", unexpected), ("has other shapes of", shapes)):
        if keys:
            raise ClassifierError(f"{source}: the file {what} {len(keys)} tensors, such as {', '.join(keys[:3])}")
    network.load_state_dict(state)
    check_finite(network, source)


def check_finite(network: torch.nn.Module, source: str) -> None:
    """Raise `ClassifierError` if a tensor of `network` holds NaN or an infinity."""
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ClassifierError(f"{source}: tensors must be finite, got NaN or infinity in {key}")


def without_prefix(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return `state` with `prefix` taken off the names that begin with it."""
    return {key.removeprefix(prefix): value for key, value in state.items()}


def densenet_key(key: str) -> str:
    """Return the name that torchvision's network has today for a tensor in its old DenseNet files."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)


def torchvision_network(architecture: str) -> torch.nn.Module:
    """Return a torchvision classification network without weights.

    Raises:
        ClassifierError: If torchvision has none of that name.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if architecture not in names:
        raise ClassifierError(f"architecture must be one of torchvision's, such as resnet50, got {architecture!r}")
    published = {"transform_input": True} if architecture in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(architecture, weights=None, **published)


def timm_source(source: str, revision: str | None) -> str:
    """Return timm's name for `source` at a commit of its hub's repository; `source` itself without one."""
    if revision is None:
        return source
    if source.startswith("hf-hub:"):
        return f"{source}@{revision}"
    config = timm.get_pretrained_cfg(source)
    if config is None or not config.hf_hub_id:
        raise ClassifierError(f"revision must belong to a timm name that lies on the hub, got {source!r}")
    owner = config.hf_hub_id
    return f"hf-hub:{owner}{source if owner.endswith('/') else ''}@{revision}"


@contextmanager
def unreachable_hub_fails_at_once() -> Iterator[None]:
    """Within the block the Hugging Face hub is asked only if it answers now; what lies in its cache is found anyway.

    Without it, every model that is missing costs most of a minute of retries where there is no network.
    """
    constants, wait = huggingface_hub.constants, socket.getdefaulttimeout()
    offline = constants.HF_HUB_OFFLINE
    if not offline:
        try:
            get_session().head(constants.ENDPOINT, timeout=NETWORK_WAIT)
        except Exception:  # the session's library, and so its errors, depend on the hub's version
            constants.HF_HUB_OFFLINE = True
    socket.setdefaulttimeout(wait or 2 * NETWORK_WAIT)  # for what torchvision fetches
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        socket.setdefaulttimeout(wait)


def _open_clip_model(source: str, architecture: str, revision: str | None) -> tuple[torch.nn.Module, str]:
    """Return open_clip's model and the name under which its tokenizer is found."""
    import open_clip

    options = {"require_pretrained": True, "precision": "fp32", "device": "cpu"}
    if file := local_file(source):
        if architecture not in open_clip.list_models():
            raise ClassifierError(f"architecture must be one of open_clip's for a file, got {architecture!r}")
        return open_clip.create_model(architecture, pretrained=str(file), **options), architecture
    if is_path(source):
        called = f"local-dir:{Path(source).expanduser()}"
        return open_clip.create_model(called, **options), called
    if source.startswith("hf-hub:"):
        called = source
        if revision:
            patterns = ["open_clip_*", "tokenizer*", "vocab*", "merges*", "special_tokens*", "*.model"]
            owner_and_model = source.removeprefix("hf-hub:")
            folder = huggingface_hub.snapshot_download(owner_and_model, revision=revision, allow_patterns=patterns)
            called = f"local-dir:{folder}"
        return open_clip.create_model(called, **options), called
    name, _, tag = source.rpartition("/")
    known = open_clip.get_pretrained_cfg(name, tag)
    if not known:
        raise ClassifierError(
            f"source must be one of open_clip's model/tag, such as ViT-B-32/openai, hf-hub:owner/model, a folder or "
            f"a file, got {source!r}"
        )
    # open_clip only warns where the activation is not the one that the weights were trained with
    quick = bool(known.get("quick_gelu", False))
    return open_clip.create_model(name, pretrained=tag, force_quick_gelu=quick, **options), name
