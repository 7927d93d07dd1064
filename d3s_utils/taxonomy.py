"""The labels of the project: ImageNet classes, the nine ImageNet-9 superclasses, the ten D3S backgrounds."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path

import numpy as np

BACKGROUNDS = {  # name (the prompt's last word) -> the phrase in the prompt, in the paper's order
    "grass": "on grass",
    "road": "on a road",
    "forest": "in a forest",
    "water": "in water",
    "sand": "in sand",
    "indoors": "indoors",
    "snow": "in snow",
    "rain": "in rain",
    "night": "at night",
    "cave": "in a cave",
}

SPLITS = ("train", "val")  # of guides and of the pictures dreamt from them

# Xiao et al. 2020 (arXiv:2006.09994) map 370 of the 1000 ImageNet classes to nine WordNet superclasses:
# superclass -> inclusive ranges of ImageNet indices.
_IN9_RANGES = {
    "dog": [(151, 170), (173, 268)],
    "bird": [(7, 24), (87, 100), (127, 146)],
    "wheeled vehicle": [
        *[(i, i) for i in (407, 408, 428, 436, 444, 468, 511, 547, 555, 561, 565, 569, 573, 586, 603, 609, 612, 627)],
        *[(i, i) for i in (656, 661, 665, 670, 671, 675, 690, 705, 717, 734, 751, 757, 791, 802, 803, 817, 820)],
        *[(i, i) for i in (829, 847, 864, 866, 867, 870, 880)],
    ],
    "reptile": [(33, 68)],
    "carnivore": [(269, 280), (286, 299), (356, 362), (387, 388)],
    "insect": [(300, 326)],
    "musical instrument": [
        *[(i, i) for i in (401, 402, 420, 432, 486, 494, 513, 541, 546, 558, 566, 577, 579, 593, 594, 641, 642)],
        *[(i, i) for i in (683, 684, 687, 699, 776, 822, 875, 881, 889)],
    ],
    "primate": [(365, 384)],
    "fish": [(0, 6), (389, 397)],
}
IN9 = tuple(_IN9_RANGES)
IN9_OF_INDEX = {
    index: name for name, ranges in _IN9_RANGES.items() for low, high in ranges for index in range(low, high + 1)
}
IN9_OF_LABEL = IN9_OF_INDEX | {1000 + place: name for place, name in enumerate(IN9)}  # see `label_name`


@dataclass(frozen=True)
class ImageNetClass:
    """One of the 1000 ImageNet classes.

    Attributes:
        synset: WordNet id, such as ``n02129165``.
        index: Place in ImageNet's order, 0 to 999.
        name: First WordNet lemma, such as ``lion``.
        definition: WordNet gloss.
        in9: ImageNet-9 superclass, or an empty string.
    """

    synset: str
    index: int
    name: str
    definition: str
    in9: str


@cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """Return the 1000 ImageNet classes in order; names and glosses come from timm's lists.

    They are those of `timm.data.ImageNetInfo`, read from its files, since importing timm and torch takes seconds.
    """
    lists = Path(find_spec("timm").origin).parent / "data" / "_info"
    lemmas, definitions = (
        dict(line.split("\t", 1) for line in (lists / name).read_text(encoding="utf-8").splitlines())
        for name in ("imagenet_synset_to_lemma.txt", "imagenet_synset_to_definition.txt")
    )
    synsets = (lists / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    return tuple(
        ImageNetClass(synset, index, lemmas[synset].split(", ")[0], definitions[synset], IN9_OF_INDEX.get(index, ""))
        for index, synset in enumerate(synsets)
    )


@cache
def imagenet_class(key: str | int) -> ImageNetClass:
    """Return the class with this synset, index or name (case does not matter, nor do `_` and spaces).

    Raises:
        ValueError: If there is none, or a name belongs to several classes (two are called ``crane``).
    """
    if isinstance(key, int) and not isinstance(key, bool) and 0 <= key < 1000:
        return imagenet_classes()[key]
    wanted = str(key).replace("_", " ").strip().lower()
    found = [c for c in imagenet_classes() if wanted in (c.synset, c.name.lower())]
    if len(found) != 1:
        known = f"several classes have that name: {', '.join(c.synset for c in found)}" if found else "none has it"
        raise ValueError(f"class must be an ImageNet synset (n02129165), index (0-999) or name, got {key!r}; {known}")
    return found[0]


def label_name(index: int) -> str:
    """Return the name of what a classifier answered.

    Args:
        index: 0 to 999 is an ImageNet class; 1000 to 1008 is a superclass, ``IN9[index - 1000]``, the answer of a
            network that knows only the nine.

    Raises:
        ValueError: If it is another number, or none.
    """
    if isinstance(index, Integral) and not isinstance(index, bool) and 0 <= index < 1000 + len(IN9):
        return imagenet_classes()[index].name if index < 1000 else IN9[index - 1000]
    raise ValueError(f"index must be 0 to 999 (ImageNet) or 1000 to {999 + len(IN9)} (ImageNet-9), got {index!r}")


def check_background(name: str) -> str:
    """Return `name` if it is one of the ten D3S backgrounds.

    Raises:
        ValueError: If it is not; the message lists the ten.
    """
    if name not in BACKGROUNDS:
        raise ValueError(f"background must be one of {', '.join(BACKGROUNDS)}, got {name!r}")
    return name


def object_prompt(imagenet: ImageNetClass, *, background: str | None = None) -> str:
    """Return D3S's prompt ``a photo of a {class name}, {definition}, {background}``, or its part without background."""
    parts = [f"a photo of a {imagenet.name}", imagenet.definition]
    parts += [BACKGROUNDS[check_background(background)]] if background is not None else []
    return ", ".join(part for part in parts if part)


def scene_prompt(background: str) -> str:
    """Return the prompt for a background template: a scene with no object."""
    return f"a photo of a scene, {BACKGROUNDS[check_background(background)]}"


def in9_of_logits(logits: np.ndarray) -> np.ndarray:
    """Return the ImageNet-9 prediction of 1000-class logits, as an index into `IN9`.

    It is the superclass of the largest logit among the 370 classes that have one. The Backgrounds Challenge of Xiao et
    al. 2020 is harder: there the best of all 1000 classes counts, and one without a superclass is wrong.

    Args:
        logits: Shape (n, 1000).

    Raises:
        ValueError: If the shape is another one.
    """
    logits = np.asarray(logits)
    if logits.ndim != 2 or logits.shape[1] != 1000:
        raise ValueError(f"logits must have shape (n, 1000), got {logits.shape}")
    members = np.array(sorted(IN9_OF_INDEX))
    superclass = np.array([IN9.index(IN9_OF_INDEX[index]) for index in members])
    return superclass[logits[:, members].argmax(1)]


def superclass_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the probability of each ImageNet-9 superclass given that it is one of the nine, float64 (n, 9).

    It is the softmax over the 370 classes that have a superclass, summed within each.

    Args:
        logits: Shape (n, 1000).
    """
    members = np.array([[IN9_OF_INDEX.get(index) == name for name in IN9] for index in range(1000)], dtype=np.float64)
    in_nine = members.any(1)
    shifted = np.asarray(logits, dtype=np.float64)[:, in_nine]
    weights = np.exp(shifted - shifted.max(1, keepdims=True))
    return weights @ members[in_nine] / weights.sum(1, keepdims=True)


def classes_of(keys: Iterable[str | int]) -> tuple[ImageNetClass, ...]:
    """Return `imagenet_class` of each key; an unknown one raises ValueError naming it."""
    return tuple(imagenet_class(key) for key in keys)
