"""What every penalty keeps to: its interface, a resume to the same numbers, and that features forget under it."""

import io

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from d3s_utils.dependence import DEPENDENCES, make_dependence, measure_dependence
from d3s_utils.randomness import torch_generator

METHODS = sorted(DEPENDENCES)
PENALTIES = sorted(set(DEPENDENCES) - {"none"})


def _points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch_generator(seed, "points"))


def _labelled(count: int, *, strength: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return eight features, four of which are shifted by a balanced label, shapes (n, 8) and (n,)."""
    labels = torch.arange(count) % 4
    features = _points(count, 8, seed=seed)
    features[:, :4] += strength * one_hot(labels, 4)
    return features, labels


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_interface(method):
    features, labels = _points(30, 6).requires_grad_(), torch.arange(30) % 3
    options = {
        "feature_width": 6, "label_count": 3, "seed": 0, "critic_width": 16, "learning_rate": 1e-3,
        "gradient_penalty_weight": 10.0, "device": "cpu",
    }  # fmt: skip
    dependence = make_dependence(method, **options)
    assert isinstance(dependence.fit_step(features, labels), float)
    assert features.grad is None, "fitting an estimator must not reach the features"
    penalty = dependence.penalty(features, labels)
    assert penalty.shape == ()
    again = make_dependence(method, **options)
    again.fit_step(features, labels)
    assert again.penalty(features, labels).item() == penalty.item()
    if method != "none":
        (gradient,) = torch.autograd.grad(penalty, features)
        assert gradient.abs().sum() > 0


def test_options_reach_the_method_that_they_concern():
    dependence = make_dependence(
        "wasserstein", feature_width=6, label_count=3, seed=0, critic_width=40, learning_rate=0.02,
        gradient_penalty_weight=3.0,
    )  # fmt: skip
    assert dependence.critic[0].out_features == 40
    assert dependence.optimizer.param_groups[0]["lr"] == 0.02
    assert dependence.gradient_penalty_weight == 3.0
    for method in ("adversarial", "mine", "club"):
        dependence = make_dependence(
            method, feature_width=6, label_count=3, seed=0, critic_width=40, learning_rate=0.02
        )
        assert dependence.network[0].out_features == 40
        assert dependence.optimizer.param_groups[0]["lr"] == 0.02


def test_without_a_width_each_method_takes_its_own():
    sizes = {"feature_width": 50, "label_count": 3, "seed": 0}
    assert make_dependence("wasserstein", **sizes).critic[0].weight.shape == (30, 60), "half of 50 + 10, as in D3S"
    assert make_dependence("mine", **sizes).network[0].out_features == 50
    assert make_dependence("mine", critic_width="halving", **sizes).network[0].out_features == 25


def test_unknown_method_and_unknown_option_are_named():
    with pytest.raises(ValueError, match=r"method must be one of none, adversarial, .*, got 'cca'"):
        make_dependence("cca", feature_width=2, label_count=2, seed=0)
    with pytest.raises(TypeError, match="critic_widht"):
        make_dependence("none", feature_width=2, label_count=2, seed=0, critic_widht=3)


@pytest.mark.parametrize("method", ["adversarial", "wasserstein", "mine", "club"])
@pytest.mark.parametrize("sizes", [{"feature_width": 0, "label_count": 3}, {"feature_width": 4, "label_count": 1}])
def test_sizes_too_small_are_named(method, sizes):
    with pytest.raises(ValueError, match="feature_width must be at least 1 and label_count at least 2"):
        make_dependence(method, seed=0, **sizes)


class _Game:
    """A linear map that learns features under a penalty, as in `invariant_features` but in a few lines."""

    def __init__(self, method: str, *, seed: int = 0):
        self.weight = torch.nn.Parameter(_points(8, 3, seed=seed))
        self.optimizer = torch.optim.Adam([self.weight], lr=0.02)
        self.batches = torch_generator(seed, "batches")
        self.dependence = make_dependence(
            method, feature_width=3, label_count=4, seed=seed, critic_width=16, learning_rate=3e-3
        )

    def play(self, steps: int) -> list[float]:
        features, labels = _labelled(400, strength=2.0)
        values = []
        for _ in range(steps):
            rows = torch.randint(len(features), (32,), generator=self.batches)
            values.append(self.dependence.fit_step(features[rows] @ self.weight, labels[rows]))
            loss = self.dependence.penalty(features[rows] @ self.weight, labels[rows]) + self.weight.square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            values.append(loss.item())
        return values

    def state(self) -> dict:
        return {
            "weight": self.weight.data,
            "optimizer": self.optimizer.state_dict(),
            "batches": self.batches.get_state(),
            "dependence": self.dependence.state_dict(),
        }


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_training_resumes_to_the_same_numbers(method):
    whole = _Game(method)
    whole.play(7)
    stored = io.BytesIO()
    torch.save(whole.state(), stored)
    expected = whole.play(9)
    state = torch.load(io.BytesIO(stored.getvalue()), weights_only=True)
    resumed = _Game(method, seed=5)  # another seed: all that matters must be in the state
    resumed.weight.data = state["weight"]
    resumed.optimizer.load_state_dict(state["optimizer"])
    resumed.batches.set_state(state["batches"])
    resumed.dependence.load_state_dict(state["dependence"])
    assert resumed.play(9) == expected
    assert torch.equal(resumed.weight, whole.weight)


def test_the_state_of_another_method_is_refused():
    state = make_dependence("club", feature_width=3, label_count=4, seed=0).state_dict()
    with pytest.raises(ValueError, match=r"state must have the parts \['average', 'network', 'optimizer'\]"):
        make_dependence("mine", feature_width=3, label_count=4, seed=0).load_state_dict(state)


@pytest.mark.parametrize("method", METHODS)
def test_features_forget_the_label_under_a_penalty_and_keep_what_they_need(method):
    """One direction carries the label to forget, one the label to keep; three orthonormal features see six directions.

    How much of a direction the features hold is the squared length of its projection on them, 0 to 1. They start
    with both.
    """
    generator = torch_generator(1, "forgetting")
    forgotten, kept = (torch.randint(2, (1000,), generator=generator) for _ in range(2))
    pictures = torch.randn(1000, 6, generator=generator)
    pictures[:, 0] = 0.3 * pictures[:, 0] + 2.0 * forgotten - 1.0
    pictures[:, 1] = 0.3 * pictures[:, 1] + 2.0 * kept - 1.0
    weight = torch.nn.Parameter(torch.eye(6)[:, :3] + 0.2 * torch.randn(6, 3, generator=generator))
    head = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(head.weight)
    optimizer = torch.optim.Adam([weight, *head.parameters()], lr=0.02)
    dependence = make_dependence(method, feature_width=3, label_count=2, seed=0, critic_width=32, learning_rate=3e-3)
    for _ in range(150):
        basis = torch.linalg.qr(weight)[0]
        for _ in range(3):
            rows = torch.randint(1000, (64,), generator=generator)
            dependence.fit_step(pictures[rows] @ basis, forgotten[rows])
        features = pictures[rows] @ basis
        loss = cross_entropy(head(features), kept[rows]) + 3 * dependence.penalty(features, forgotten[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held = torch.linalg.qr(weight)[0].square().sum(1)
    assert held[1] > 0.8
    if method == "none":
        assert held[0] > 0.5
    else:
        assert held[0] < 0.1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("method", METHODS)
def test_long_runs_stay_finite(method, scale):
    """Two thousand steps on features of any scale, with labels missing from batches and rows that are equal."""
    generator = torch_generator(0, "long run")
    dependence = make_dependence(method, feature_width=3, label_count=5, seed=0, critic_width=8, learning_rate=3e-3)
    features = scale * torch.randn(60, 3, generator=generator)
    features[:10] = features[0]
    features[10:20] = 0.0
    labels = (features[:, 0] > 0).long() + 2 * (features[:, 1] > 0)  # the label 4 never occurs
    for step in range(2000 if scale == 1.0 else 200):
        rows = torch.randint(60, (8,), generator=generator)
        estimate = dependence.fit_step(features[rows], labels[rows])
        assert estimate == estimate
        assert abs(estimate) < float("inf"), f"step {step}"
    features.requires_grad_()
    penalty = dependence.penalty(features, labels)
    assert torch.isfinite(penalty)
    if method != "none":
        assert torch.isfinite(torch.autograd.grad(penalty, features)[0]).all()


@pytest.mark.parametrize("method", PENALTIES)
def test_a_fresh_estimator_finds_dependence_on_new_pictures_and_none_where_there_is_none(method):
    found = {}
    for strength in (2.0, 0.0):
        train, test = (_labelled(n, strength=strength, seed=n) for n in (4000, 1200))
        found[strength] = measure_dependence(
            train, test, seed=0, method=method, steps=150, critic_width=32, learning_rate=1e-3
        )
    assert abs(found[0.0]) < 0.1
    assert found[2.0] > max(0.15, 4 * abs(found[0.0]))


def test_a_fresh_critic_refuses_labels_that_do_not_fit():
    with pytest.raises(ValueError, match="test must have a label for each of 4 features, got 3"):
        measure_dependence((_points(4, 2), torch.arange(4)), (_points(4, 2), torch.arange(3)), seed=0)
