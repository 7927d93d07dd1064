"""How a split representation is fine-tuned: every setting of a run but its data, its folder and its seed."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

MONITORS = {"foreground_accuracy": 1, "foreground_cross_entropy": -1}  # what is better: more, or less
PRECISIONS = ("no", "bf16", "fp16")
KERNEL_METHODS = ("hsic", "distance_covariance")  # without a critic
WITHOUT_EFFECT = ("workers", "log_every", "checkpoint_every")  # on the weights


@dataclass(frozen=True, kw_only=True)
class FinetuningOptions:
    """Settings of `finetuning.finetune`.

    Attributes:
        method: A key of `dependence.DEPENDENCES`.
        pretrained: Whether the backbone starts from its weights; otherwise from random ones.
        foreground_width, background_width: Features of each half, which add up to the backbone's; D3S on ResNet-50:
            1798 and 250. None takes the rest, both None D3S's share.
        feature_scale: ``standardised`` or ``raw`` (the paper's); see `split_network.SplitNetwork`.
        penalty_weight: Of the two dependences beside the cross-entropies: one over D3S's alpha. The whole loss is D3S's
            over alpha, which an Adam step does not notice.
        warmup_steps, steps: Steps on cross-entropy alone (D3S: 2000), and steps in all.
        batch_size: Pictures a step, over all processes.
        photo_share: Share of plain photos in each batch; without photos it is 0.
        learning_rate, weight_decay, betas: Of AdamW, for backbone and heads.
        critic_steps: Critic steps before each model step after the warm-up, each on its own pictures (D3S: 5 in the
            paper, 4 in the code).
        critic_width: A critic's first hidden width, or ``halving``: half of its input, and halves down to 1, as in
            D3S's code.
        critic_learning_rate, gradient_penalty_weight: Of the critics; D3S: 10.
        image_size: Pixels of a picture's side; None takes the backbone's own.
        augmentation: Given to timm's `create_transform` for training, such as ``{"color_jitter": None}``.
        monitor: Held-out number that early stopping looks at, a key of `MONITORS`.
        patience: Held-out looks without a new best after which training stops; None never stops early.
        earliest_best: First step whose held-out number counts. Features are most accurate right after the warm-up,
            before anything was forgotten, so a search for the best must not begin there. None is halfway between the
            warm-up's end and the last step.
        evaluate_every, checkpoint_every, log_every: Steps between looks at held-out pictures, checkpoints, log rows.
        workers: Processes that read pictures ahead, for each process that trains.
        mixed_precision: ``no``, ``bf16`` or ``fp16``, as accelerate does it.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``mps``.

    Raises:
        ValueError: If a value is out of its range.
    """

    method: str = "wasserstein"
    pretrained: bool = True
    foreground_width: int | None = None
    background_width: int | None = None
    feature_scale: str = "standardised"
    penalty_weight: float = 3.0
    warmup_steps: int = 2000
    steps: int = 20_000
    batch_size: int = 128
    photo_share: float = 0.5
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    critic_steps: int = 5
    critic_width: int | Literal["halving"] = "halving"
    critic_learning_rate: float = 1e-4
    gradient_penalty_weight: float = 10.0
    image_size: int | None = None
    augmentation: dict[str, Any] = field(default_factory=dict)
    monitor: str = "foreground_accuracy"
    patience: int | None = 10
    earliest_best: int | None = None
    evaluate_every: int = 500
    checkpoint_every: int = 500
    log_every: int = 20
    workers: int = 0
    mixed_precision: str = "no"
    device: str = "auto"

    def __post_init__(self) -> None:
        least = {
            "steps": 1, "warmup_steps": 0, "batch_size": 2, "critic_steps": 0, "patience": 1, "earliest_best": 0,
            "evaluate_every": 1, "checkpoint_every": 1, "log_every": 1, "workers": 0, "penalty_weight": 0,
        }  # fmt: skip
        for name, limit in least.items():
            value = getattr(self, name)
            if value is not None and value < limit:
                raise ValueError(f"{name} must be at least {limit}, got {value}")
        number = isinstance(self.critic_width, int) and not isinstance(self.critic_width, bool)
        if self.critic_width != "halving" and not (number and self.critic_width >= 1):
            raise ValueError(f"critic_width must be 'halving' or an integer of at least 1, got {self.critic_width!r}")
        if self.earliest_best is not None and self.earliest_best > self.steps:
            raise ValueError(f"earliest_best must be at most steps ({self.steps}), got {self.earliest_best}")
        if not 0 <= self.photo_share < 1:
            raise ValueError(f"photo_share must be in [0, 1), got {self.photo_share}")
        for name, allowed in (("monitor", MONITORS), ("mixed_precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")

    @property
    def first_counted(self) -> int:
        """The first step whose held-out number counts; the last step's always does."""
        if self.earliest_best is not None:
            return self.earliest_best
        return (min(self.warmup_steps, self.steps) + self.steps) // 2

    def mixture(self, photo_count: int, processes: int) -> tuple[int, int]:
        """Return how many plain photos and how many pictures with a background a batch holds.

        Raises:
            ValueError: If the processes cannot share a batch evenly, with two pictures with a background for each
                and, for a kernel method, four in all.
        """
        photos = round(self.batch_size * self.photo_share / processes) * processes if photo_count else 0
        pictures = self.batch_size - photos
        least = max(2 * processes, 4 if self.method in KERNEL_METHODS else 2)
        if pictures % processes or pictures < least:
            raise ValueError(
                f"batch_size must give each of {processes} processes as many pictures and all of them at least {least} "
                f"with a background, got {self.batch_size} with {photos} plain photos"
            )
        return photos, pictures

    def that_matter(self) -> dict[str, Any]:
        """Return the settings that decide the weights, by name."""
        return {name: value for name, value in asdict(self).items() if name not in WITHOUT_EFFECT}
