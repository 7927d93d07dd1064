"""A training loop that was killed ends where an uninterrupted one does."""

import pytest
import torch

from d3s_utils.checkpoints import train_with_checkpoints
from d3s_utils.randomness import torch_generator


def line(seed: int = 0) -> torch.nn.Linear:
    model = torch.nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.randn(1, 3, generator=torch_generator(seed, "start")))
        model.bias.zero_()
    return model


def losses(model):
    truth = torch.tensor([1.0, -2.0, 0.5])

    def loss_at_step(step):
        inputs = torch.randn(16, 3, generator=torch_generator(0, "batch", step))
        return (model(inputs)[:, 0] - inputs @ truth).square().mean()

    return loss_at_step


def train(model, checkpoint, *, steps=60, **options):
    options = {"learning_rate": 0.05, "warmup_steps": 5, "checkpoint_every": 10, **options}
    return train_with_checkpoints({"model": model}, losses(model), steps=steps, checkpoint=checkpoint, **options)


def test_training_lowers_the_loss_and_leaves_the_average(tmp_path):
    model = line()
    records = list(train(model, tmp_path / "c.pt", steps=300))
    assert records[-1]["step"] == 300
    assert records[-1]["loss"] < 0.05 * records[0]["loss"]
    state = torch.load(tmp_path / "c.pt", weights_only=False)
    assert not torch.equal(model.weight, state["modules"]["model"]["weight"]), "the model must hold the average"


def test_a_run_cut_anywhere_ends_with_the_same_weights(tmp_path):
    whole, cut = line(), line()
    expected = list(train(whole, tmp_path / "whole.pt"))
    for cuts in (1, 3):  # the generator is dropped after so many checkpoints, as a kill would
        run = train(cut, tmp_path / "cut.pt")
        for _ in range(cuts):
            next(run)
        run.close()
        cut = line(seed=99)  # a fresh process knows nothing but the checkpoint
    assert list(train(cut, tmp_path / "cut.pt")) == expected
    assert torch.equal(whole.weight, cut.weight)


def test_another_number_of_steps_is_refused(tmp_path):
    list(train(line(), tmp_path / "c.pt", steps=10))
    with pytest.raises(ValueError, match="is of a run of 10 steps, this one has 20"):
        list(train(line(), tmp_path / "c.pt", steps=20))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    model = line()
    good = losses(model)
    run = train_with_checkpoints(
        {"model": model}, lambda step: good(step) * (float("nan") if step == 25 else 1.0),
        steps=40, learning_rate=0.01, checkpoint=tmp_path / "c.pt", checkpoint_every=10,
    )  # fmt: skip
    with pytest.raises(FloatingPointError, match="loss at step 25 is nan"):
        list(run)
    assert torch.load(tmp_path / "c.pt", weights_only=False)["step"] == 20
    assert not list(tmp_path.glob("*.partial"))
