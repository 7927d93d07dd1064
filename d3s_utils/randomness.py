"""Every random choice flows from one integer seed, through names rather than through order."""

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Return the seed of the choice called `names` in the run whose seed is `seed`.

    The result depends on nothing else: not on the order of calls, the batch size or the worker.

    Args:
        seed: The run's seed.
        names: What the choice is for, such as ``("image", "n02129165/cave/3")``.

    Returns:
        An integer in [0, 2**63).

    Raises:
        ValueError: If `seed` is not an integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise ValueError(f"seed must be an integer, got {seed!r}")
    key = "\x1f".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a NumPy generator for the choice called `names` (see `derive_seed`)."""
    return np.random.default_rng(derive_seed(seed, *names))


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU torch generator for the choice called `names` (see `derive_seed`).

    Noise is always drawn on the CPU, so that a picture does not depend on the device.
    """
    return torch.Generator().manual_seed(derive_seed(seed, *names))
