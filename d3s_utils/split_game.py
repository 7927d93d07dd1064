"""The game of fine-tuning: a network that forgets against critics that look for what it still tells."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy

from d3s_utils.dependence import make_dependence
from d3s_utils.finetuning_data import NO_BACKGROUND, seeded_choices
from d3s_utils.finetuning_options import FinetuningOptions
from d3s_utils.randomness import derive_seed
from d3s_utils.split_network import SplitNetwork

Batch = tuple[Tensor, Tensor, Tensor]  # pictures, classes, backgrounds
PARTS = ("foreground_cross_entropy", "background_cross_entropy", "foreground_dependence", "background_dependence")


class SplitGame:
    """A `SplitNetwork` in training, its optimizer, and a dependence for each half, over one process or several.

    The dependences look at pictures with a background alone: there class and background are independent by design. In
    plain photos they are not, and to forget what a photo's class tells about its background is to forget the class.

    With several processes (accelerate's DistributedDataParallel) every process has the same critics: they start alike
    and see the features of all processes, so they need not be kept equal. Batch normalisation is the field's: each
    process has the statistics of its own part of the batch, and running ones come from the first.
    """

    def __init__(
        self, network: SplitNetwork, *, counts: tuple[int, int], options: FinetuningOptions, seed: int,
        accelerator: Accelerator,
    ) -> None:  # fmt: skip
        """Prepare a network for training.

        Args:
            counts: Number of classes and of backgrounds.
            seed: Of the critics, and of what the backbone draws (dropout).

        Raises:
            ValueError: If there is no such method.
        """
        self.options, self.seed, self.accelerator = options, seed, accelerator
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, betas=options.betas
        )
        self.network, self.optimizer = accelerator.prepare(network, optimizer)
        self.dependences = [
            make_dependence(
                options.method,
                feature_width=width,
                label_count=other_count,
                seed=derive_seed(seed, "dependence", half),
                critic_width=options.critic_width,
                learning_rate=options.critic_learning_rate,
                gradient_penalty_weight=options.gradient_penalty_weight,
                device=str(accelerator.device),
            )
            for half, width, other_count in zip(("foreground", "background"), network.widths, counts[::-1], strict=True)
        ]

    @property
    def has_critics(self) -> bool:
        """Whether the method has something to fit; HSIC, for one, has not."""
        return any(getattr(dependence, "parts", True) for dependence in self.dependences)

    @property
    def split_network(self) -> SplitNetwork:
        """The network itself, without what accelerate wraps it in."""
        return self.accelerator.unwrap_model(self.network)

    def fit_critics(self, batch: Batch, *, step: int, number: int) -> list[float]:
        """Take one critic step on a batch; return both dependences as the critics see them."""
        with torch.no_grad():
            halves, _ = self._look(batch[0], "critics", step, number)
        shown, others = self._penalised(halves, batch)
        return [
            dependence.fit_step(self._scaled(self._of_all(half)), self._of_all(other))
            for dependence, half, other in zip(self.dependences, shown, others, strict=True)
        ]

    def model_step(self, batch: Batch, *, step: int) -> list[Tensor]:
        """Take one step of the network; return what `PARTS` names, on this process's part of the batch.

        Raises:
            FloatingPointError: If the loss is not finite.
        """
        halves, logits = self._look(batch[0], "model", step)
        known = batch[2] != NO_BACKGROUND
        entropies = [cross_entropy(logits[0], batch[1]), cross_entropy(logits[1][known], batch[2][known])]
        loss, penalties = sum(entropies), [entropies[0].new_zeros(())] * 2
        if step >= self.options.warmup_steps:
            shown, others = self._penalised(halves, batch)
            penalties = [
                dependence.penalty(self._scaled(self._beside_all(half)), self._of_all(other))
                for dependence, half, other in zip(self.dependences, shown, others, strict=True)
            ]
            # Gradients are averaged over processes, but each process has those of its own features alone.
            loss = loss + self.options.penalty_weight * self.accelerator.num_processes * sum(penalties)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"method {self.options.method}: the loss at step {step + 1} is {loss.item()}")
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.optimizer.step()
        return [part.detach() for part in (*entropies, *penalties)]

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to go on."""
        return {
            "network": self.split_network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "dependences": [dependence.state_dict() for dependence in self.dependences],
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same options."""
        self.split_network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for dependence, own in zip(self.dependences, state["dependences"], strict=True):
            dependence.load_state_dict(own)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _look(self, pictures: Tensor, *names: str | int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return halves and logits; what dropout draws hangs on names and process, not on what was drawn before."""
        seed = derive_seed(self.seed, "dropout", *names, self.accelerator.process_index)
        with seeded_choices(seed, device=self.accelerator.device):
            foreground, background, classes, backgrounds = self.network(pictures)
        return (foreground, background), (classes, backgrounds)

    @staticmethod
    def _penalised(halves: tuple[Tensor, Tensor], batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Return both halves of the pictures with a background, and for each the label that it should not tell."""
        known = batch[2] != NO_BACKGROUND
        return [half[known] for half in halves], [batch[2][known], batch[1][known]]

    def _scaled(self, half: Tensor) -> Tensor:
        """Return the features of the pictures that are penalised, by their own mean and deviation unless they are raw.

        The network's normalisation has plain photos in it too: without this the network could tell pictures from photos
        and shrink the pictures' features alone, which lowers a distance and forgets nothing.
        """
        if self.options.feature_scale == "raw":
            return half
        return (half - half.mean(0)) / (half.std(0) + 1e-5)

    def _of_all(self, own: Tensor) -> Tensor:
        """Return the rows of all processes, of which no gradient reaches this one's."""
        return self.accelerator.gather(own.detach().contiguous())

    def _beside_all(self, own: Tensor) -> Tensor:
        """Return the rows of all processes, this one's differentiable."""
        rows = list(self._of_all(own).chunk(self.accelerator.num_processes))
        rows[self.accelerator.process_index] = own
        return torch.cat(rows)
