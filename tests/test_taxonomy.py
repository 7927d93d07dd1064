"""Classes, superclasses, backgrounds, prompts."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from timm.data import ImageNetInfo

from d3s_utils.taxonomy import (
    BACKGROUNDS,
    IN9,
    IN9_OF_INDEX,
    imagenet_class,
    imagenet_classes,
    in9_of_logits,
    label_name,
    object_prompt,
    scene_prompt,
    superclass_probabilities,
)


def test_the_nine_superclasses_have_the_sizes_of_the_paper():
    """Xiao et al. 2020, Table 3."""
    sizes = {"dog": 116, "bird": 52, "wheeled vehicle": 42, "reptile": 36, "carnivore": 35, "insect": 27,
             "musical instrument": 26, "primate": 20, "fish": 16}  # fmt: skip
    assert Counter(IN9_OF_INDEX.values()) == sizes
    assert sum(sizes.values()) == 370


def test_the_superclasses_are_those_of_the_shared_photos(shared_data):
    for name in ("imagenet-samples-even", "tiny-imagenet-in9", "tiny-imagenet-scenes"):
        table = pd.read_parquet(shared_data / f"{name}.parquet", columns=["synset", "imagenet_index", "in9"])
        for row in table.drop_duplicates("synset").itertuples():
            imagenet = imagenet_class(row.synset)
            assert (imagenet.index, imagenet.in9) == (row.imagenet_index, row.in9 or "")


def test_a_class_is_found_by_synset_index_and_name():
    lion = imagenet_class("n02129165")
    assert (lion.index, lion.name, lion.in9) == (291, "lion", "carnivore")
    assert imagenet_class(291) is imagenet_class("Lion") is lion
    assert imagenet_class("golden_retriever").index == 207
    assert len(imagenet_classes()) == len({c.synset for c in imagenet_classes()}) == 1000


@pytest.mark.parametrize("key", ["n00000000", "dragon", 1000, -1, True, "crane", ""])
def test_an_unknown_or_doubtful_class_is_refused(key):
    with pytest.raises(ValueError, match="class must be an ImageNet synset") as error:
        imagenet_class(key)
    assert repr(key) in str(error.value)


def test_an_answer_has_a_name_in_either_numbering():
    assert [label_name(index) for index in (0, 291, np.int64(999))] == ["tench", "lion", "toilet tissue"]
    assert [label_name(1000 + place) for place in range(9)] == list(IN9)


@pytest.mark.parametrize("index", [-1, 1009, 1.0, True, "lion", None])
def test_an_answer_that_is_no_label_is_refused(index):
    with pytest.raises(ValueError, match=r"index must be 0 to 999 .* or 1000 to 1008 \(ImageNet-9\)") as error:
        label_name(index)
    assert repr(index) in str(error.value)


def test_prompts_have_the_form_of_the_paper():
    lion = imagenet_class("lion")
    full = object_prompt(lion, background="cave")
    assert full.startswith("a photo of a lion, large gregarious predatory feline")
    assert full.endswith(", in a cave")
    assert object_prompt(lion) + ", in a cave" == full
    assert scene_prompt("night") == "a photo of a scene, at night"
    assert [phrase.split()[-1] for phrase in BACKGROUNDS.values()] == list(BACKGROUNDS)
    with pytest.raises(ValueError, match=r"background must be one of grass, .*, got 'moon'"):
        object_prompt(lion, background="moon")


def test_superclass_of_logits_ignores_classes_outside_the_370():
    logits = np.zeros((3, 1000))
    logits[0, 291] = 1  # lion
    logits[1, 463], logits[1, 207] = 9, 1  # a bucket, then a golden retriever
    logits[2, 1], logits[2, 84] = 1, 9  # goldfish; peacock is a bird, but not in ImageNet-9
    assert [IN9[i] for i in in9_of_logits(logits)] == ["carnivore", "dog", "fish"]
    with pytest.raises(ValueError, match=r"logits must have shape \(n, 1000\), got \(1000,\)"):
        in9_of_logits(logits[0])


def test_superclass_probabilities_add_up_over_the_370_classes():
    logits = np.random.default_rng(0).normal(0, 3, (4, 1000))
    shares = superclass_probabilities(logits)
    np.testing.assert_allclose(shares.sum(1), 1)
    flat = superclass_probabilities(np.zeros((1, 1000)))[0]
    counts = [list(IN9_OF_INDEX.values()).count(name) for name in IN9]
    np.testing.assert_allclose(flat, np.array(counts) / 370)
    outside = next(index for index in range(1000) if index not in IN9_OF_INDEX)
    logits[:, outside] += 100  # a class of no superclass changes nothing
    np.testing.assert_allclose(superclass_probabilities(logits), shares)


def test_names_and_glosses_are_those_of_timm():
    info = ImageNetInfo("imagenet-1k")
    assert [c.synset for c in imagenet_classes()] == info.label_names()
    for c in imagenet_classes():
        assert c.name == info.label_name_to_description(c.synset, detailed=False).split(", ")[0]
        assert info.label_name_to_description(c.synset, detailed=True).endswith(f": {c.definition}")


def test_settings_are_read_without_importing_torch(root):
    code = "import sys, d3s_utils.settings as s; s.load_settings('mini'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
