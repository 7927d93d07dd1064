"""Lists of ImageNet classifiers of all kinds in one file, loaded behind one interface; what cannot be had is a row.

``python -m d3s_utils.classifier_zoo list [ZOO ...]`` names the entries; ``pin FILE`` prints the file with the hashes of
all that loads here.
"""

import argparse
import contextlib
import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import takewhile
from pathlib import Path

import pandas as pd
import timm
import torch
import yaml

from d3s_utils import zoo_loaders
from d3s_utils.atomic_files import sha256_of
from d3s_utils.classifiers import BUNDLED, ClassifierError
from d3s_utils.preprocessing import Preprocessing
from d3s_utils.taxonomy import IN9

GROUPS = (
    "supervised conv", "transformer", "self-supervised", "weakly supervised", "adversarially trained", "zero-shot",
    "nine classes",
)  # fmt: skip
KINDS = ("timm", "torchvision", "robustness", "open_clip", "dino", "small_resnet")
PROMPTS = ("single", "ensemble")
ZOOS = Path(__file__).parent / "zoos"
ADVICE = "give a local file or folder in `source`, or take a bundled classifier"

_TRANSFORMERS = ("vit", "deit", "beit", "eva", "swin", "cait", "xcit", "pit_", "mvit", "maxvit", "flexivit", "davit")


class ZooError(ValueError):
    """A zoo file or a list of names is wrong; the message names the file, the entry, the field, and what is allowed."""


@dataclass(frozen=True)
class ZooEntry:
    """A classifier as a zoo file names it.

    Attributes:
        name: Unique in a zoo; shown in tables.
        group: One of `GROUPS`.
        kind: One of `KINDS`: who made the network and the format of its weights.
        source: Where the weights are; ``~`` is the home. See `zoo_loaders.load_timm` and its neighbours.
        architecture: The network's name (torchvision, robustness, dino; timm and open_clip for a file only).
        revision: Commit of a repository on the hub (timm, open_clip with ``hf-hub:``, dino).
        sha256: The only weights that are accepted, 64 hexadecimal digits; None accepts any.
        head: dino: file of the linear head.
        prompts: open_clip: ``single`` is "a photo of a {class}", ``ensemble`` OpenAI's 80 templates.

    Raises:
        ZooError: If a field is none of that.
    """

    name: str
    group: str
    kind: str
    source: str
    architecture: str = ""
    revision: str | None = None
    sha256: str | None = None
    head: str = ""
    prompts: str = "single"

    def __post_init__(self):
        for part in fields(self):
            value, optional = getattr(self, part.name), part.default is None
            if not isinstance(value, str) and not (optional and value is None):
                self._refuse(part.name, f"text{' or null' if optional else ''} (put digits in quotes)")
            if value is not None and not value.strip() and part.default != "":
                self._refuse(part.name, "text that is not empty")
        for name, allowed in (("group", GROUPS), ("kind", KINDS), ("prompts", PROMPTS)):
            if getattr(self, name) not in allowed:
                self._refuse(name, f"one of {', '.join(allowed)}")
        if self.sha256 is not None and not (len(self.sha256) == 64 and set(self.sha256) <= set("0123456789abcdef")):
            self._refuse("sha256", "64 hexadecimal digits in lower case, or null")
        if self.kind in ("torchvision", "robustness", "dino") and not self.architecture:
            self._refuse("architecture", f"the network's name, which the kind {self.kind} needs")
        if bool(self.head) != (self.kind == "dino"):
            self._refuse("head", "the linear head's file where the kind is dino, and empty elsewhere")
        if self.prompts != "single" and self.kind != "open_clip":
            self._refuse("prompts", "single where the kind is not open_clip")
        hub = self.kind in ("timm", "dino") or (self.kind == "open_clip" and self.source.startswith("hf-hub:"))
        if self.revision and not hub:
            self._refuse("revision", "null: only timm, dino and open_clip's hf-hub: sources have commits")

    def _refuse(self, part: str, allowed: str):
        raise ZooError(f"entry {self.name!r}: {part} must be {allowed}, got {getattr(self, part)!r}")


@dataclass(frozen=True)
class ZooClassifier:
    """A classifier of the 1000 ImageNet classes, or of ImageNet-9's nine, on the CPU.

    Attributes:
        name: Its entry's.
        group: One of `GROUPS`.
        network: In evaluation mode, channels last: normalised float32 (n, 3, h, w) -> logits (n, classes).
        preprocessing: What makes its input of a picture.
        sha256: Of the weights: of their file where there is a single local file, else of all tensors; of a CLIP, of
            all tensors and all prompts.
        source: Where the weights came from.
        classes: 1000, or 9 of a network that tells the superclasses (in the order of `taxonomy.IN9`).
    """

    name: str
    group: str
    network: torch.nn.Module = field(repr=False)
    preprocessing: Preprocessing
    sha256: str
    source: str
    classes: int = 1000

    @property
    def parameters(self) -> int:
        """How many numbers were learnt (a CLIP's text tower, which is gone, does not count)."""
        return sum(parameter.numel() for parameter in self.network.parameters())


def read_zoo(path_or_name: str | Path) -> tuple[ZooEntry, ...]:
    """Return the entries of a zoo file.

    Args:
        path_or_name: ``paper``, ``bundled``, or a YAML file: a list of mappings with the fields of `ZooEntry`.

    Raises:
        ZooError: If there is no such file, or anything in it is wrong.
    """
    names = shipped_zoos()
    path = ZOOS / f"{path_or_name}.yaml" if str(path_or_name) in names else Path(path_or_name).expanduser()
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ZooError(f"zoo must be one of {', '.join(names)} or a YAML file, got {str(path_or_name)!r}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ZooError(f"{path}: the zoo cannot be read as YAML: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise ZooError(f"{path}: a zoo must be a list of entries, at least one, got {type(rows).__name__}")
    known = {part.name for part in fields(ZooEntry)}
    needed = {part.name for part in fields(ZooEntry)[:4]}
    entries = []
    for place, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ZooError(f"{path}: entry {place} must be a mapping with name, group, kind, source, got {row!r}")
        called = f"{path}: entry {place} ({row.get('name', 'without a name')!r})"
        if unknown := sorted(map(str, set(row) - known)):
            raise ZooError(f"{called}: fields must be among {', '.join(sorted(known))}, got {', '.join(unknown)}")
        if missing := sorted(needed - set(row)):
            raise ZooError(f"{called}: fields must include {', '.join(missing)}, got {', '.join(sorted(row))}")
        try:
            entries.append(ZooEntry(**row))
        except ZooError as error:
            raise ZooError(f"{path}: {error}") from None
    _check_unique(entries, str(path))
    return tuple(entries)


def shipped_zoos() -> list[str]:
    """Return the names of the zoo files that come with the package."""
    return sorted(path.stem for path in ZOOS.glob("*.yaml"))


def entries_of(names: Sequence[str]) -> tuple[ZooEntry, ...]:
    """Return the entries that `names` mean, in their order.

    Args:
        names: Each is a zoo (``paper``, ``bundled``, or a path ending in .yaml or .yml: all its entries), the name of
            an entry of a zoo that ships, a bundled classifier, another timm name, ``hf-hub:owner/model``, or a local
            folder in timm's format. The group of the last three is guessed from the name.

    Raises:
        ZooError: If a name is none of that, or two entries would have the same name.
    """
    shipped = {entry.name: entry for zoo in reversed(shipped_zoos()) for entry in read_zoo(zoo)}
    entries = []
    for name in names:
        if name in shipped_zoos() or name.endswith((".yaml", ".yml")):
            entries += read_zoo(name)
        elif name in shipped:
            entries.append(shipped[name])
        elif name in BUNDLED or name.startswith("hf-hub:") or zoo_loaders.is_path(name) or _is_timm(name):
            entries.append(ZooEntry(name, _guessed_group(name), "timm", name))
        else:
            close = difflib.get_close_matches(name, [*shipped, *shipped_zoos(), *timm.list_pretrained()], n=3)
            hint = f"; the closest are {', '.join(close)}" if close else ""
            raise ZooError(
                f"classifiers must be a zoo ({', '.join(shipped_zoos())}, a .yaml), an entry of one, a timm name, "
                f"hf-hub:owner/model or a folder, got {name!r}{hint}"
            )
    _check_unique(entries, "classifiers")
    return tuple(entries)


def load_entry(entry: ZooEntry) -> ZooClassifier:
    """Return the classifier that `entry` names, on the CPU.

    Raises:
        ClassifierError: If its weights cannot be had, do not fit, or are not those of its `sha256`.
    """
    try:
        file = zoo_loaders.local_file(entry.source)
        if entry.sha256 and file and entry.kind not in ("open_clip", "dino"):
            _check_pin(entry, sha256_of(file))  # before anything in it is read
        with contextlib.nullcontext() if _is_here(entry) else zoo_loaders.unreachable_hub_fails_at_once():
            loaded = _load(entry)
        zoo_loaders.check_finite(loaded.network, entry.source)
        _check_pin(entry, loaded.sha256)
    except Exception as error:  # five libraries and the hub raise dozens of kinds; each means that it cannot be had
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = "" if "local folder" in reason else f"; {ADVICE}"
        raise ClassifierError(f"classifier {entry.name!r} ({entry.kind}) cannot be had: {reason}{advice}") from error
    network = loaded.network.float().eval().requires_grad_(False).to(memory_format=torch.channels_last)
    source = f"{entry.source}@{entry.revision}" if entry.revision else entry.source
    classes = zoo_loaders.CLASS_COUNT if entry.kind != "small_resnet" else len(IN9)
    return ZooClassifier(entry.name, entry.group, network, loaded.preprocessing, loaded.sha256, source, classes)


def load_zoo(entries: Sequence[ZooEntry]) -> tuple[list[ZooClassifier], pd.DataFrame]:
    """Return the classifiers that could be loaded, and a row for each that could not; a line each goes to stdout.

    Where the hub does not answer it is asked once, not once for each entry.

    Returns:
        The classifiers in the order of `entries`, and a table with the columns `name`, `group`, `kind`, `source` and
        `error`, which is one line.

    Raises:
        ZooError: If two entries have the same name.
    """
    _check_unique(entries, "entries")
    found, failed = [], []
    outside = not all(_is_here(entry) for entry in entries)
    with zoo_loaders.unreachable_hub_fails_at_once() if outside else contextlib.nullcontext():
        for entry in entries:
            try:
                classifier = load_entry(entry)
            except ClassifierError as error:
                row = {part: getattr(entry, part) for part in ("name", "group", "kind", "source")}
                failed.append(row | {"error": str(error)})
                print(f"{entry.name}: not loaded: {error}", flush=True)
                continue
            found.append(classifier)
            height, width = classifier.preprocessing.size
            millions = classifier.parameters / 1e6
            print(f"{entry.name}: {millions:.1f} million parameters, sees {height} × {width} pixels", flush=True)
    return found, pd.DataFrame(failed, columns=["name", "group", "kind", "source", "error"])


def pinned(path: str | Path) -> tuple[str, list[str]]:
    """Return a zoo file's text with the hashes of all that loads here, and a line for each entry that does not.

    The comment at the head of the file is kept. What does not load keeps the hash it had.

    Raises:
        ZooError: If the file is wrong.
    """
    entries = read_zoo(path)
    with contextlib.redirect_stdout(sys.stderr):
        classifiers, errors = load_zoo(entries)
    hashes = {classifier.name: classifier.sha256 for classifier in classifiers}
    path = ZOOS / f"{path}.yaml" if str(path) in shipped_zoos() else Path(path).expanduser()
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    comment = "".join(takewhile(lambda line: line.startswith("#") or not line.strip(), lines))
    rows = [asdict(replace(entry, sha256=hashes.get(entry.name, entry.sha256))) for entry in entries]
    plain = {part.name: part.default for part in fields(ZooEntry)}
    rows = [{key: v for key, v in row.items() if key == "sha256" or v != plain[key]} for row in rows]
    text = yaml.safe_dump(rows, sort_keys=False, width=200, allow_unicode=True)
    return comment + text, [f"{row.name}: {row.error}" for row in errors.itertuples(index=False)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``list [ZOO ...]`` or ``pin FILE``; return 0, or 1 where an entry to pin did not load."""
    parser = argparse.ArgumentParser(prog="python -m d3s_utils.classifier_zoo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="name the entries of zoos")
    listing.add_argument("zoos", nargs="*", default=shipped_zoos(), help="zoo names or YAML files")
    commands.add_parser("pin", help="print a zoo file with hashes").add_argument("file", help="zoo name or YAML file")
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "list":
            for entry in (entry for zoo in asked.zoos for entry in read_zoo(zoo)):
                print(f"{entry.name:44} {entry.group:22} {entry.kind:12} {entry.source}")
            return 0
        text, failed = pinned(asked.file)
    except ZooError as error:
        parser.error(str(error))
    print(text, end="")
    return 1 if failed else 0


def _load(entry: ZooEntry) -> zoo_loaders.LoadedNetwork:
    source, architecture, revision = entry.source, entry.architecture, entry.revision
    if entry.kind == "timm":
        return zoo_loaders.load_timm(source, architecture=architecture, revision=revision)
    if entry.kind == "torchvision":
        return zoo_loaders.load_torchvision(source, architecture=architecture)
    if entry.kind == "robustness":
        return zoo_loaders.load_robustness(source, architecture=architecture)
    if entry.kind == "open_clip":
        return zoo_loaders.load_open_clip(
            source, architecture=architecture, revision=revision, prompts=entry.prompts
        )  # fmt: skip
    if entry.kind == "small_resnet":
        return zoo_loaders.load_superclass_network(source)
    return zoo_loaders.load_dino(source, architecture=architecture, head=entry.head, revision=revision)


def _is_here(entry: ZooEntry) -> bool:
    return entry.source in BUNDLED or entry.kind == "small_resnet" or zoo_loaders.is_path(entry.source)


def _check_pin(entry: ZooEntry, sha256: str) -> None:
    if entry.sha256 not in (None, sha256):
        raise ClassifierError(
            f"the weights of {entry.source!r} must have the sha256 {entry.sha256}, got {sha256}: fetch the pinned ones "
            "again, or change the pin in the zoo file"
        )


def _check_unique(entries: Sequence[ZooEntry], where: str) -> None:
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ZooError(f"{where}: names must occur once, got {', '.join(twice)} more than once")


def _is_timm(name: str) -> bool:
    return timm.is_model(name.split(".")[0])


def _guessed_group(name: str) -> str:
    folder = Path(name).expanduser() / "config.json"
    if folder.is_file():
        with contextlib.suppress(OSError, ValueError, AttributeError):  # loading it says what is wrong with it
            name = str(json.loads(folder.read_text(encoding="utf-8")).get("architecture", name))
    model, _, tag = name.removeprefix("hf-hub:").rpartition("/")[2].partition(".")
    if "_adv" in tag:
        return "adversarially trained"
    if any(mark in tag for mark in ("ssl_yfcc", "swsl_ig", "wsl_ig", "ns_jft")):
        return "weakly supervised"
    return "transformer" if model.startswith(_TRANSFORMERS) else "supervised conv"


if __name__ == "__main__":
    sys.exit(main())
