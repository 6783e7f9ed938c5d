"""How a training run is done: one frozen dataclass, checked when it is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("step", "cosine", "constant")
PRECISIONS = ("float32", "bfloat16", "float16")

# Fields that change what is watched and kept, never the weights: a resumed run may set them anew.
FREE_FIELDS = frozenset(
    {"checkpoint_every", "keep_last", "evaluate_every", "log_every", "num_workers", "tensorboard"}
)


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe of a run. The defaults are torchvision's reference recipe, scaled to small data sets.

    A *step* is one update of the weights. ``batch_size`` counts the images of a step over all processes and
    all accumulated parts, so a recipe does not change with the hardware: 16 images are 16 images on one GPU,
    on eight, or in four parts one after the other.

    Raises ``ValueError`` naming the field, what was expected and what came.
    """

    steps: int = 800
    """Updates of the weights in the whole run."""
    batch_size: int = 4
    """Images of one step, over all processes and accumulated parts."""
    accumulation: int = 1
    """Parts in which each process works through its share of a step, to save memory."""
    seed: int = 0
    """Seed of the order of images, of augmentation and of sampling inside the model."""

    optimizer: str = "sgd"
    """"sgd" (with momentum) or "adamw"."""
    lr: float = 0.02
    """Learning rate after warm-up. 0.02 suits SGD; AdamW wants about 1e-4."""
    momentum: float = 0.9
    """Momentum of SGD."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's two moments."""
    weight_decay: float = 1e-4
    """L2 penalty of SGD, decoupled decay of AdamW."""
    decay_norm_and_bias: bool = True
    """Whether normalisation parameters and biases decay too (torchvision's recipe: yes)."""

    schedule: str = "step"
    """"step" (times ``gamma`` at each of ``milestones``), "cosine" (down to ``final_lr``) or "constant"."""
    milestones: tuple[int, ...] = ()
    """Steps at which the step schedule multiplies the learning rate by ``gamma``."""
    gamma: float = 0.1
    """Factor of the step schedule."""
    final_lr: float = 0.0
    """Learning rate at the end of the cosine schedule."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly."""
    warmup_factor: float = 0.001
    """Fraction of the learning rate at the first step of warm-up."""

    clip_grad_norm: float | None = None
    """Largest norm of the whole gradient; None: no clipping."""
    precision: str = "float32"
    """"float32", or autocast to "bfloat16" (CPU, CUDA) or "float16" (CUDA, with loss scaling)."""
    channels_last: bool = False
    """Keep the weights and maps in channels_last memory format."""
    compile: bool = False
    """Let ``torch.compile`` fuse what the backbone computes; the first steps then take minutes."""
    ema_decay: float = 0.0
    """Decay of a moving average of the weights, used for evaluation and saved as the model; 0: none."""

    flip: float = 0.5
    """Probability of a horizontal flip."""
    vertical_flip: float = 0.0
    """Probability of a vertical flip: for pictures without an up, from a microscope or the air."""
    aspect_ratio_grouping: bool = True
    """Batch landscape and portrait images apart, to save padding."""
    replacement: bool = False
    """Draw images uniformly with replacement, instead of every image once an epoch."""
    keep_empty: bool = True
    """Train on images without objects too."""
    num_workers: int = 0
    """Processes that load images beside each training process."""

    checkpoint_every: int = 200
    """Steps between checkpoints; 0: one at the end only."""
    keep_last: int = 2
    """Newest checkpoints to keep; older ones are deleted."""
    evaluate_every: int = 0
    """Steps between evaluations; 0: one at the end only."""
    log_every: int = 1
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = False
    """Write metrics for TensorBoard as well (needs the tensorboard package)."""

    def __post_init__(self) -> None:
        for field in ("steps", "batch_size", "accumulation", "keep_last", "log_every"):
            self._integer(field, at_least=1)
        for field in ("seed", "warmup_steps", "num_workers", "checkpoint_every", "evaluate_every"):
            self._integer(field, at_least=0)
        self._choice("optimizer", OPTIMIZERS)
        self._choice("schedule", SCHEDULES)
        self._choice("precision", PRECISIONS)
        for field in ("decay_norm_and_bias", "channels_last", "aspect_ratio_grouping", "replacement"):
            self._boolean(field)
        for field in ("compile", "keep_empty", "tensorboard"):
            self._boolean(field)
        self._number("lr", "above 0", lambda x: x > 0)
        for field in ("weight_decay", "final_lr"):
            self._number(field, "of at least 0", lambda x: x >= 0)
        for field in ("momentum", "ema_decay"):
            self._number(field, "in [0, 1)", lambda x: 0 <= x < 1)
        for field in ("gamma", "warmup_factor"):
            self._number(field, "in (0, 1]", lambda x: 0 < x <= 1)
        for field in ("flip", "vertical_flip"):
            self._number(field, "in [0, 1]", lambda x: 0 <= x <= 1)
        if self.clip_grad_norm is not None:
            self._number("clip_grad_norm", "above 0, or None", lambda x: x > 0)
        self._betas()
        self._milestones()
        if self.batch_size % self.accumulation:
            self._reject("batch_size", f"a multiple of accumulation ({self.accumulation})")

    # ---- checks ------------------------------------------------------------------------------------------

    def _reject(self, field: str, expected: str) -> None:
        raise ValueError(f"TrainingConfig.{field}: expected {expected}, got {getattr(self, field)!r}")

    def _integer(self, field: str, at_least: int) -> None:
        value = getattr(self, field)
        if type(value) is not int or value < at_least:
            self._reject(field, f"an integer of at least {at_least}")

    def _choice(self, field: str, allowed: tuple[str, ...]) -> None:
        if getattr(self, field) not in allowed:
            self._reject(field, "one of " + ", ".join(map(repr, allowed)))

    def _boolean(self, field: str) -> None:
        if type(getattr(self, field)) is not bool:
            self._reject(field, "True or False")

    def _number(self, field: str, expected: str, holds: Any) -> None:
        value = getattr(self, field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._reject(field, f"a number {expected}")
        if not math.isfinite(value) or not holds(value):
            self._reject(field, f"a number {expected}")

    def _betas(self) -> None:
        if not (
            isinstance(self.betas, tuple | list)
            and len(self.betas) == 2
            and all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in self.betas)
        ):
            self._reject("betas", "two numbers in [0, 1)")
        object.__setattr__(self, "betas", (float(self.betas[0]), float(self.betas[1])))

    def _milestones(self) -> None:
        if not isinstance(self.milestones, tuple | list) or any(
            type(step) is not int or step < 1 for step in self.milestones
        ):
            self._reject("milestones", "integers of at least 1")
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            self._reject("milestones", "increasing steps")
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if self.milestones and self.schedule != "step":
            self._reject("milestones", f"none with schedule={self.schedule!r}")

    # ---- as data -----------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """The inverse of :meth:`as_dict`; unknown fields raise ``ValueError`` naming them."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"TrainingConfig: unknown fields {unknown}; known are {sorted(known)}")
        return cls(**values)


def changed_fields(old: TrainingConfig, new: TrainingConfig) -> list[str]:
    """Differences that would make a resumed run another run than an unbroken one, as "name: old -> new".

    ``steps`` may change where the learning rate does not depend on it, that is, without the cosine schedule:
    then a run made longer ends with the weights of one that was planned so from the start.
    """
    free = FREE_FIELDS if "cosine" in (old.schedule, new.schedule) else FREE_FIELDS | {"steps"}
    before, after = old.as_dict(), new.as_dict()
    return [f"{k}: {before[k]!r} -> {after[k]!r}" for k in before if k not in free and before[k] != after[k]]
