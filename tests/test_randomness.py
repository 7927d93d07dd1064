"""Seeds hang on names alone."""

import numpy as np
import pytest
import torch

from d3s_utils.randomness import derive_seed, numpy_generator, torch_generator


def test_a_seed_is_the_same_in_every_session_and_differs_by_name():
    assert derive_seed(0, "image", "a") == derive_seed(0, "image", "a") == 3222221403373009315
    names = [(), ("a",), ("b",), ("a", "b"), ("ab",), ("a", 1), ("a", 11)]
    seeds = [derive_seed(seed, *name) for seed in (0, 1, 10) for name in names]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_repeat_their_draws():
    assert numpy_generator(3, "x").random() == numpy_generator(3, "x").random()
    first, second = (torch.randn(4, generator=torch_generator(3, "x")) for _ in range(2))
    assert torch.equal(first, second)
    assert not np.allclose(numpy_generator(3, "x").random(4), numpy_generator(4, "x").random(4))


@pytest.mark.parametrize("seed", [None, 1.0, "1", True])
def test_a_seed_that_is_no_integer_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be an integer, got"):
        derive_seed(seed, "x")
