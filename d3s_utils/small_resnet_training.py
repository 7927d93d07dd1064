"""Training the small residual network from nothing, on photos that the generator never saw.

``python -m d3s_utils.small_resnet_training --data ../shared/data`` makes the shipped network again, with its card.
Photos of split "judge" train it, photos of split "test" measure it (see `training_photos.split_of`). It is trained
twice: first without every fourth photo, to find the temperatures that calibrate it on these, then with all photos. A
run that is killed goes on from its checkpoints, to the same weights.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from d3s_utils.checkpoints import save_atomically
from d3s_utils.randomness import derive_seed
from d3s_utils.small_resnet import BUNDLED_FOLDER, NAME, TRANSFORM, SmallResnet, TwoHeads, save_small_resnet
from d3s_utils.small_resnet_card import COMPARED, card_text
from d3s_utils.small_resnet_measures import (
    calibration_error,
    fit_temperature,
    logits_and_labels,
    measure_small_resnet,
    measured_images,
)
from d3s_utils.small_resnet_photos import NONE, Batches, LabelledPhotos, labelled_scenes, read_labelled_photos
from d3s_utils.taxonomy import BACKGROUNDS, IN9

CHECKPOINTS = Path("outputs/small_resnet")
LEFT_OUT = 4  # every fourth photo of split "judge": with fewer there are none of sand or night among them


@dataclass(frozen=True)
class Recipe:
    """How the network is made and trained; see `small_resnet_card.COMPARED` for what was tried.

    Attributes:
        layers, channels: See `small_resnet.TwoHeads`.
        steps: Number of batches.
        sizes: Photos, scenes and composites in a batch.
        scenes_per_background: Number of scenes that are made of the scene photos, once.
        learning_rate: The highest; it warms up over the first 3 % of the steps, then falls along half a cosine.
        weight_decay: Of stochastic gradient descent, on every parameter.
        average_decay: Of the moving average of the weights, which is what is kept.
        label_smoothing: Share of the target that is spread over all labels.
        balance: See `small_resnet_photos.Batches`.
        class_weight: Of a third head's loss, which tells the ImageNet classes apart and is thrown away in the end: it
            teaches the trunk what the nine superclasses are made of.
        half: Whether convolutions compute in bfloat16; weights stay in single precision.
        seed: The only source of randomness.
    """

    layers: tuple[int, ...] = (2, 2, 2, 2)
    channels: tuple[int, ...] = (32, 64, 128, 192)
    steps: int = 8000
    sizes: tuple[int, int, int] = (32, 13, 19)
    scenes_per_background: int = 400
    learning_rate: float = 0.1
    weight_decay: float = 1e-3
    average_decay: float = 0.998
    label_smoothing: float = 0.1
    balance: float = 0.5
    class_weight: float = 0.5
    half: bool = True
    seed: int = 0


def train_small_resnet(
    photos: LabelledPhotos, recipe: Recipe, *, checkpoint: Path, checkpoint_every: int = 200
) -> TwoHeads:
    """Return a network trained from random weights, in evaluation mode: the moving average of what SGD passed through.

    Args:
        photos: What it learns from, and nothing else.
        recipe: How.
        checkpoint: File that is written as the run goes, and read if it exists.
        checkpoint_every: Number of steps between two writings.

    Raises:
        ValueError: If the checkpoint is of another recipe or of other photos, or a background has no photo.
        FloatingPointError: If the loss is not finite; the last checkpoint is kept.
    """
    scenes = labelled_scenes(photos, per_background=recipe.scenes_per_background, seed=recipe.seed)
    batches = Batches(photos, scenes, sizes=recipe.sizes, balance=recipe.balance, seed=recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "small resnet's weights"))
        model = TwoHeads(layers=recipe.layers, channels=recipe.channels).to(memory_format=torch.channels_last)
        classes = torch.nn.Linear(model.num_features, len(batches.synsets))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.average_decay), use_buffers=True)
    parameters = [*model.parameters(), *classes.parameters()]
    optimizer = torch.optim.SGD(
        parameters, lr=recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    schedule = OneCycleLR(optimizer, recipe.learning_rate, recipe.steps, pct_start=0.03, div_factor=100.0)
    parts = {"model": model, "classes": classes, "average": average, "optimizer": optimizer, "schedule": schedule}
    run = {"recipe": asdict(recipe), "photos": photos.sha256}
    first = _restore(parts, checkpoint, run)
    smoothing = {"ignore_index": NONE, "label_smoothing": recipe.label_smoothing}
    model.train()
    losses, start = [], time.monotonic()
    for step in range(first, recipe.steps):
        batch = batches.at_step(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.half):
            superclass, background, features = model(batch.pixels)
            synset = classes(features)
        loss = cross_entropy(superclass.float(), batch.superclasses, **smoothing)
        loss = loss + cross_entropy(background.float(), batch.backgrounds, **smoothing)
        loss = loss + recipe.class_weight * cross_entropy(synset.float(), batch.classes, **smoothing)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss at step {step} is {loss.item()}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        losses.append(loss.item())
        if (step + 1) % checkpoint_every == 0 or step + 1 == recipe.steps:
            state = {name: part.state_dict() for name, part in parts.items()}
            save_atomically({"run": run, "step": step + 1, "state": state}, checkpoint)
            seconds = time.monotonic() - start
            print(f"step {step + 1} of {recipe.steps}: loss {np.mean(losses):.3f}, {seconds:.0f} s", flush=True)
            losses = []
    return average.module.eval()


def _restore(parts: Mapping[str, Any], checkpoint: Path, run: Mapping) -> int:
    """Put every part back to where the checkpoint left it; return the next step, 0 where there is no checkpoint."""
    if not checkpoint.exists():
        return 0
    saved = torch.load(checkpoint, map_location="cpu", weights_only=False)
    if saved["run"] != run:
        raise ValueError(
            f"checkpoint {checkpoint} must be of this recipe and these photos, got {saved['run']}; "
            "remove it or name another file"
        )
    for name, part in parts.items():
        part.load_state_dict(saved["state"][name])
    return saved["step"]


def ready(model: TwoHeads, card: dict) -> SmallResnet:
    """Return a trained model that was not saved yet as `load_small_resnet` would."""
    return SmallResnet(model.eval(), TRANSFORM, "", "cpu", card)


def find_temperatures(model: TwoHeads, photos: LabelledPhotos, *, seed: int) -> dict[str, dict[str, float]]:
    """Return the temperature of each head, fitted on photos that did not train `model`.

    Photos and composites fit that of the superclasses, scenes with and without an object that of the backgrounds.

    Returns:
        By head: `temperature`, `n`, and `calibration_error_before` and `calibration_error_after` on these same images.
    """
    network = ready(model, {})
    images = measured_images(photos, per_background=max(2, len(photos.scenes) // len(BACKGROUNDS)), seed=seed)
    parts = {
        "superclass": ("superclass/photos", "superclass/composites"),
        "background": ("background/scenes", "background/scenes_with_object"),
    }
    found = {}
    for head, names in parts.items():
        shown = [logits_and_labels(network, name, images[name])[:2] for name in names]
        logits, truth = (np.concatenate(column) for column in zip(*shown, strict=True))
        temperature = fit_temperature(logits, truth)
        found[head] = {
            "temperature": temperature,
            "n": len(truth),
            "calibration_error_before": calibration_error(softmax(logits, axis=1), truth),
            "calibration_error_after": calibration_error(softmax(logits / temperature, axis=1), truth),
        }
    return found


@torch.no_grad()
def fold_in(model: TwoHeads, temperatures: Mapping[str, float]) -> None:
    """Divide each head's logits by its temperature, in its own weights, in place.

    Args:
        temperatures: By head, `superclass` and `background`.
    """
    for head, temperature in temperatures.items():
        layer = getattr(model, head)
        layer.weight /= temperature
        layer.bias /= temperature


def make_small_resnet(
    data: Path, output: Path, recipe: Recipe, *, checkpoints: Path, per_background: int = 200
) -> dict[str, dict]:
    """Train, calibrate, measure and save the network.

    Args:
        data: Folder with the two Tiny-ImageNet parquet files.
        output: Folder to write; see `small_resnet.save_small_resnet`.
        recipe: How.
        checkpoints: Folder that a killed run goes on from.
        per_background: Scenes of each background to measure on.

    Returns:
        `measure_small_resnet` on photos of split "test".
    """
    photos = read_labelled_photos(data, "judge")
    rest, held_out = (photos.every_nth(LEFT_OUT, left_out=left_out) for left_out in (True, False))
    first = train_small_resnet(rest, recipe, checkpoint=checkpoints / "three_quarters.pt")
    calibration = find_temperatures(first, held_out, seed=recipe.seed)
    model = train_small_resnet(photos, recipe, checkpoint=checkpoints / "all_photos.pt")
    fold_in(model, {head: found["temperature"] for head, found in calibration.items()})
    model = model.half().float()  # what is measured is what is saved
    test = measured_images(read_labelled_photos(data, "test"), per_background=per_background, seed=recipe.seed)
    card = {
        "name": NAME,
        "superclasses": list(IN9),
        "backgrounds": list(BACKGROUNDS),
        **asdict(recipe),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training_photos": {"objects": len(photos.objects), "scenes": len(photos.scenes)},
        "calibration": calibration,
        "compared": COMPARED,
        "test": measure_small_resnet(ready(model, {}), test),
    }
    save_small_resnet(model, card, card_text(card), output)
    return card["test"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the network as told; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Train the small residual network from nothing.")
    parser.add_argument("--data", type=Path, required=True, help="folder with the two tiny-imagenet parquet files")
    parser.add_argument(
        "--output", type=Path, default=BUNDLED_FOLDER, help="folder to write; the shipped one if not given"
    )
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="folder that a killed run goes on from")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="batches of each of the two trainings")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    options = parser.parse_args(arguments)
    recipe = Recipe(steps=options.steps, seed=options.seed)
    found = make_small_resnet(options.data, options.output, recipe, checkpoints=options.checkpoints)
    for part, measured in found.items():
        accuracy = measured["accuracy"]
        print(f"{part}: {accuracy['value']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}], n = {accuracy['n']}")


if __name__ == "__main__":
    main()
