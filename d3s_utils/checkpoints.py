"""Training loops that can be killed at any step and go on to the same weights."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from tqdm import tqdm


def save_atomically(state: dict, path: Path) -> None:
    """Write `state` with `torch.save` to a temporary name, flush it to disk, then rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def train_with_checkpoints(
    modules: dict[str, torch.nn.Module],
    loss_at_step: Callable[[int], torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    checkpoint: Path,
    warmup_steps: int = 200,
    final_learning_rate_share: float = 0.05,
    average_decay: float = 0.999,
    checkpoint_every: int = 200,
    description: str = "training",
) -> Iterator[dict]:
    """Train `modules` with AdamW and an exponential moving average, yielding a record at each checkpoint.

    The learning rate warms up linearly, then follows half a cosine. `loss_at_step` must draw all its
    randomness from the step's number; then a run that was killed and started again ends with the same
    weights as one that was not. On return the modules hold the averaged weights.

    Args:
        modules: Modules to train, by name.
        loss_at_step: Returns the differentiable scalar loss of step i.
        steps: Total number of steps, counted from the first start.
        checkpoint: File that is written, and read if it exists.

    Yields:
        ``{"step": int, "loss": float}``, the mean loss since the last record.

    Raises:
        ValueError: If the checkpoint was made for another number of steps.
        FloatingPointError: If the loss is not finite; the last checkpoint is kept.
    """
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.99))
    average = EMAModel(parameters, decay=average_decay, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _learning_rate_share(step, steps, warmup_steps, final_learning_rate_share)
    )
    start, history = 0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=parameters[0].device, weights_only=False)
        if state["steps"] != steps:
            raise ValueError(f"checkpoint {checkpoint} is of a run of {state['steps']} steps, this one has {steps}")
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        average.load_state_dict(state["average"])
        start, history = state["step"], state["history"]
    yield from history
    losses = []
    for step in tqdm(range(start, steps), initial=start, total=steps, desc=description, mininterval=10):
        loss = loss_at_step(step)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{description}: the loss at step {step} is {loss.item()}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        average.step(parameters)
        losses.append(loss.item())
        if (step + 1) % checkpoint_every == 0 or step + 1 == steps:
            history.append({"step": step + 1, "loss": sum(losses) / len(losses)})
            losses = []
            save_atomically(
                {
                    "step": step + 1,
                    "steps": steps,
                    "history": history,
                    "modules": {name: module.state_dict() for name, module in modules.items()},
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "average": average.state_dict(),
                },
                checkpoint,
            )
            yield history[-1]
    average.copy_to(parameters)


def steps_done(checkpoint: Path) -> int:
    """Return how many steps a checkpoint of `train_with_checkpoints` stands for, 0 where there is none."""
    return torch.load(checkpoint, map_location="cpu", weights_only=False)["step"] if checkpoint.exists() else 0


def _learning_rate_share(step: int, steps: int, warmup_steps: int, final_share: float) -> float:
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return final_share + (1 - final_share) * 0.5 * (1 + float(torch.cos(torch.tensor(progress * torch.pi))))
