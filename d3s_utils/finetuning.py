"""Fine-tuning a backbone end to end so that a part of its features forgets the background, the rest the object."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch.nn.functional import cross_entropy
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from d3s_utils.checkpoints import save_atomically
from d3s_utils.devices import choose_device
from d3s_utils.finetuned_features import FinetunedFeatures, load_finetuned, make_split_network
from d3s_utils.finetuning_data import (
    NO_BACKGROUND,
    BatchPlan,
    FinetuningData,
    LabelledFiles,
    LabelledPictures,
    finetuning_data,
    load_batches,
)
from d3s_utils.finetuning_options import MONITORS, FinetuningOptions
from d3s_utils.split_game import PARTS, Batch, SplitGame
from d3s_utils.split_network import feature_width, make_backbone, split_widths

CHECKPOINT, BEST, RESULT, LOGS = "checkpoint.pt", "best.pt", "finetuned.pt", "tensorboard"


def finetune(
    backbone: str,
    *,
    photos: pd.DataFrame | None,
    pictures: pd.DataFrame,
    held_out: pd.DataFrame,
    root: str | Path,
    folder: str | Path,
    seed: int,
    **options: Any,
) -> FinetunedFeatures:
    """Fine-tune a timm backbone whose features split into foreground features and background features.

    The loss is CE(class of plain photos and pictures) + CE(background of pictures) + `penalty_weight` x (dependence of
    the foreground features on the background + dependence of the background features on the class). A warm-up on
    cross-entropy alone goes before; then the critics take `critic_steps` steps before each step of the network.

    A run that was killed goes on from its last checkpoint in `folder` to the same weights; one that is finished is read
    from there. On several GPUs, call it in each process that ``accelerate launch`` starts. The progress bar goes to
    stdout.

    Args:
        backbone: As in `classifiers.load_classifier`.
        photos, pictures, held_out, root: As in `finetuning_data.finetuning_data`.
        folder: For checkpoint, best weights, TensorBoard logs and the result, ``finetuned.pt``.
        seed: The result depends on nothing else (on one CPU, with one number of processes; a GPU's convolutions do not
            repeat to the last bit).
        options: Of `finetuning_options.FinetuningOptions`.

    Raises:
        ValueError: If a table or an option is wrong, or `folder` holds a run with other ones.
        ClassifierError: If the backbone cannot be had.
        PhotoError: If a picture cannot be read.
        FloatingPointError: If the loss stops being finite; the last checkpoint is kept.

    Source: Kattakinda, Levine, Feizi 2022, arXiv:2211.10370.
    """
    chosen, folder = FinetuningOptions(**options), Path(folder)
    data = finetuning_data(photos, pictures, held_out, root=root)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # accelerate keeps device and precision of an earlier call
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=choose_device(chosen.device).type == "cpu", mixed_precision=chosen.mixed_precision)
    run = _fingerprint(backbone, data, seed, chosen, accelerator.num_processes)
    if not (folder / RESULT).exists():
        _train(backbone, data, folder=folder, seed=seed, options=chosen, accelerator=accelerator, run=run)
        accelerator.wait_for_everyone()
    _check_same_run(torch.load(folder / RESULT, map_location="cpu", weights_only=False)["run"], run, folder)
    return load_finetuned(folder / RESULT)


def _train(
    backbone: str, data: FinetuningData, *, folder: Path, seed: int, options: FinetuningOptions,
    accelerator: Accelerator, run: dict[str, Any],
) -> None:  # fmt: skip
    """Train from the last checkpoint to the end, and leave the result in `folder`."""
    network = make_backbone(backbone, pretrained=options.pretrained, seed=seed)
    preprocessing = timm.data.resolve_model_data_config(network)
    if options.image_size is not None:
        preprocessing["input_size"] = (3, options.image_size, options.image_size)
    width = feature_width(network, preprocessing["input_size"][-1])
    described = {
        "run": run,
        "backbone": backbone,
        "method": options.method,
        "widths": split_widths(width, options.foreground_width, options.background_width),
        "feature_scale": options.feature_scale,
        "preprocessing": preprocessing,
        "foregrounds": data.foregrounds,
        "backgrounds": data.backgrounds,
    }
    counts = len(data.foregrounds), len(data.backgrounds)
    game = SplitGame(
        make_split_network(network, described), counts=counts, options=options, seed=seed, accelerator=accelerator
    )
    plan = _batch_plan(data, game, seed=seed)
    start, history, evaluations = _resume(game, folder, run)
    training = timm.data.create_transform(**preprocessing, is_training=True, **options.augmentation)
    looking = timm.data.create_transform(**preprocessing, is_training=False)
    own = {"process": accelerator.process_index, "processes": accelerator.num_processes}
    loader = load_batches(
        LabelledPictures(data.training, training), lambda: plan.batches(start, options.steps, **own),
        workers=options.workers, seed=seed,
    )  # fmt: skip
    main, steps = accelerator.is_main_process, range(start, options.steps)
    bar = tqdm(
        steps, initial=start, total=options.steps, desc=f"fine-tuning, {options.method}", file=sys.stdout,
        mininterval=2.0, disable=not main,
    )  # fmt: skip
    with closing(SummaryWriter(folder / LOGS, purge_step=start + 1) if main else _NoLogs()) as logs, closing(bar):
        batches = _on_device(loader, accelerator)
        stopped = _out_of_patience(evaluations, options)
        for step in () if stopped else bar:
            game.network.train()
            if step >= plan.warmup_steps:
                for number in range(plan.critic_steps):
                    game.fit_critics(next(batches), step=step, number=number)
            parts = game.model_step(next(batches), step=step)
            done = step + 1
            if done % options.log_every == 0 or done == options.steps:
                row = dict(zip(PARTS, accelerator.reduce(torch.stack(parts), "mean").tolist(), strict=True))
                history.append({"step": done, **row})
                bar.set_postfix({name: f"{value:.3f}" for name, value in row.items()}, refresh=False)
                _log(logs, "training", history[-1])
            if done % options.evaluate_every == 0 or done == options.steps:
                evaluations.append({"step": done, **_evaluate(game, data.held_out, looking, options, seed)})
                _log(logs, "held_out", evaluations[-1])
                if main and _best(evaluations, options) is evaluations[-1]:
                    save_atomically({"network": game.split_network.state_dict(), "step": done}, folder / BEST)
                stopped = _out_of_patience(evaluations, options)
            if main and (stopped or done % options.checkpoint_every == 0 or done == options.steps):
                state = {"run": run, "step": done, "history": history, "evaluations": evaluations}
                save_atomically(state | {"game": game.state_dict()}, folder / CHECKPOINT)
            if stopped:
                break
    if main:
        best = torch.load(folder / BEST, map_location="cpu", weights_only=False)
        found = {"network": best["network"], "best_step": best["step"], "stopped_early": stopped}
        save_atomically(described | found | {"history": history, "evaluations": evaluations}, folder / RESULT)


def _batch_plan(data: FinetuningData, game: SplitGame, *, seed: int) -> BatchPlan:
    options = game.options
    photos_per_batch, pictures_per_batch = options.mixture(data.photo_count, game.accelerator.num_processes)
    return BatchPlan(
        photo_count=data.photo_count,
        picture_count=len(data.training.files) - data.photo_count,
        photos_per_batch=photos_per_batch,
        pictures_per_batch=pictures_per_batch,
        warmup_steps=options.warmup_steps,
        critic_steps=options.critic_steps if game.has_critics else 0,
        seed=seed,
    )


def _on_device(loader: torch.utils.data.DataLoader, accelerator: Accelerator) -> Iterator[Batch]:
    for batch in loader:
        yield tuple(part.to(accelerator.device, non_blocking=True) for part in batch)


@torch.no_grad()
def _evaluate(
    game: SplitGame, held_out: LabelledFiles, transform: Any, options: FinetuningOptions, seed: int
) -> dict[str, float]:
    """Return accuracy and mean cross-entropy (nats) of both heads on held-out pictures, over all processes."""
    accelerator, network = game.accelerator, game.split_network.eval()
    if accelerator.num_processes > 1:  # running statistics are the first process's, as in training
        for buffer in network.buffers():
            buffer.copy_(broadcast(buffer.clone()))
    rows = range(accelerator.process_index, len(held_out.files), accelerator.num_processes)
    share = max(1, options.batch_size // accelerator.num_processes)
    batches = [[(row, 0) for row in rows[first : first + share]] for first in range(0, len(rows), share)]
    loader = load_batches(
        LabelledPictures(held_out, transform), lambda: iter(batches), workers=options.workers, seed=seed
    )
    sums = torch.zeros(2, 3, device=accelerator.device)  # of each head: right, cross-entropy, number
    for pictures, *labels in _on_device(loader, accelerator):
        for total, logits, truth in zip(sums, network(pictures)[2:], labels, strict=True):
            logits, truth = logits[truth != NO_BACKGROUND], truth[truth != NO_BACKGROUND]
            right = (logits.argmax(1) == truth).sum()
            total += torch.stack([right, cross_entropy(logits, truth, reduction="sum"), right.new_tensor(len(truth))])
    sums = accelerator.reduce(sums, "sum").cpu().double().numpy()
    with np.errstate(invalid="ignore"):
        means = sums[:, :2] / sums[:, 2:]
    names = (f"{half}_{what}" for half in ("foreground", "background") for what in ("accuracy", "cross_entropy"))
    return dict(zip(names, means.ravel().tolist(), strict=True))


def _counted(evaluations: list[dict], options: FinetuningOptions) -> list[dict]:
    return [each for each in evaluations if each["step"] >= options.first_counted or each["step"] == options.steps]


def _best(evaluations: list[dict], options: FinetuningOptions) -> dict | None:
    """Return the first of the best looks that count."""
    sign = MONITORS[options.monitor]
    return max(_counted(evaluations, options), key=lambda each: sign * each[options.monitor], default=None)


def _out_of_patience(evaluations: list[dict], options: FinetuningOptions) -> bool:
    counted, best = _counted(evaluations, options), _best(evaluations, options)
    return options.patience is not None and best is not None and len(counted) - counted.index(best) > options.patience


def _resume(game: SplitGame, folder: Path, run: dict[str, Any]) -> tuple[int, list[dict], list[dict]]:
    """Bring a game to its last checkpoint; return the steps done, the logged rows and the looks at held-out ones."""
    if not (folder / CHECKPOINT).exists():
        return 0, [], []
    state = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=False)
    _check_same_run(state["run"], run, folder)
    game.load_state_dict(state["game"])
    return state["step"], state["history"], state["evaluations"]


def _fingerprint(
    backbone: str, data: FinetuningData, seed: int, options: FinetuningOptions, processes: int
) -> dict[str, Any]:
    """Return everything that decides the weights, by name; of a picture: its name, its bytes' number and its labels."""
    digest = hashlib.sha256()
    for labelled in (data.training, data.held_out):
        rows = zip(labelled.files, labelled.foregrounds, labelled.backgrounds, strict=True)
        known = (f"{file.name} {file.stat().st_size} {first} {second}" for file, first, second in rows)
        digest.update("\n".join(known).encode())
    own = {"backbone": backbone, "seed": seed, "processes": processes, "pictures": digest.hexdigest()}
    return own | options.that_matter()


def _check_same_run(found: dict[str, Any], run: dict[str, Any], folder: Path) -> None:
    for name, value in run.items():
        if found.get(name) != value:
            raise ValueError(
                f"folder {folder} holds a run with {name} {found.get(name)!r}, got {value!r}: choose another folder"
            )


class _NoLogs:
    """Takes the place of TensorBoard's writer in all processes but the first."""

    def add_scalar(self, *_: Any) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Close nothing."""


def _log(logs: SummaryWriter | _NoLogs, group: str, row: dict[str, float]) -> None:
    for name, value in row.items():
        if name != "step":
            logs.add_scalar(f"{group}/{name}", value, row["step"])
