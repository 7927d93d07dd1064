"""Where tensors live: the choice of a device, from one word in the settings."""

import torch


def choose_device(device: str = "auto") -> torch.device:
    """Return the torch device called `device`; ``auto`` is the first GPU where there is one, else the CPU.

    Raises:
        ValueError: If torch does not know the device, or this machine does not have it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps, got {device!r}") from error
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(chosen.type, False):
        raise ValueError(f"device must be one that this machine has (auto finds it), got {device!r}")
    return chosen
