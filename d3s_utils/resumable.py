"""The state of something that is trained, so that a killed training goes on as if it had not been killed."""

from typing import Any

import torch


class Resumable:
    """Has a state made of networks, optimizers and random generators, by name.

    Attributes:
        parts: What has a `state_dict` of its own, by name.
        generators: What it draws from, by name.
    """

    def __init__(self, *, parts: dict[str, Any] | None = None, generators: dict[str, torch.Generator] | None = None):
        """Name the parts; none of either is a state that is empty."""
        self.parts = parts or {}
        self.generators = generators or {}

    def state_dict(self) -> dict[str, Any]:
        """Return the present state, which `torch.save` writes; as torch's own it is live, not a copy."""
        states = {name: part.state_dict() for name, part in self.parts.items()}
        return states | {name: generator.get_state() for name, generator in self.generators.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take on a state.

        Raises:
            ValueError: If it has other parts, as that of another method has.
        """
        own = self.parts | self.generators
        if state.keys() != own.keys():
            raise ValueError(f"state must have the parts {sorted(own)}, got {sorted(state)}")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        for name, generator in self.generators.items():
            generator.set_state(state[name].cpu())


def check_sizes(feature_width: int, label_count: int) -> None:
    """Raise a ValueError unless there is a feature and there are two labels to be told apart."""
    if feature_width < 1 or label_count < 2:
        raise ValueError(
            "feature_width must be at least 1 and label_count at least 2, "
            f"got feature_width={feature_width}, label_count={label_count}"
        )
