"""What a training run is asked to do: plain values, checked when they are put together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "triangular", "step", "constant")
PRECISIONS = ("float32", "bfloat16")
CURRICULA = ("none", "rising", "random")


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides the result of :func:`circa_train.training.train`, given the network and the
    data.

    Attributes:
        epochs: passes over the training split; its last, incomplete batch is left out of each.
        batch_size: images per optimiser step, over all processes and micro-batches together.
        optimizer: ``sgd`` (with ``momentum`` and ``nesterov``) or ``adamw``.
        learning_rate: its peak.
        momentum: of sgd, in [0, 1).
        nesterov: Nesterov's momentum instead of the plain one.
        weight_decay: L2 for sgd, decoupled for adamw.
        decay_norm_and_bias: also decay parameters of fewer than two dimensions: biases, scales and shifts of
            BatchNorm.
        schedule: after the warm-up, ``cosine`` falls along half a cosine, ``triangular`` in a straight line,
            both to 0 at the end; ``step`` multiplies by ``step_factor`` at each of ``milestones``;
            ``constant`` stays.
        warmup_epochs: epochs of linear rise to the peak; the rising side of a triangular schedule.
        milestones: of ``step``, as fractions of the training, rising.
        step_factor: of ``step``.
        label_smoothing: in [0, 1).
        clip_norm: largest norm of the whole gradient; None does not clip.
        ema_decay: decay of the exponential moving average of the weights that is validated and kept; 0 keeps
            none.
        precision: ``float32``, or ``bfloat16`` by autocast (weights stay float32).
        channels_last: memory format of images and weights.
        compile: run the network through torch.compile.
        accumulate: micro-batches per process and optimiser step.
        seed: order, augmentation and dropout; random curricula. (The masks have the seed of their
            conversion.)
        augment_crop: pixels of padding before a random crop.
        augment_flip: mirror every other image.
        augment_cutout: side of a random square that is blanked.
        freeze_batchnorm: BatchNorm normalises with its stored statistics and leaves them as they are.
        curriculum: ``rising`` raises the faults from the least (k = 0, rate = 0) to those of the network in
            equal steps per epoch, and has reached them after ``curriculum_epochs``; ``random`` draws a level
            between for every step. Validation always has the network's own faults.
        curriculum_epochs: length of the rise; None is all epochs but the last.
        distillation_weight: share of the teacher's term in the loss, in [0, 1].
        distillation_temperature: softens both distributions before they are compared.
        validation_draws: fault draws that a validation averages over, the same after every epoch.
    """

    epochs: int = 30
    batch_size: int = 128
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = False
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    milestones: tuple[float, ...] = (0.5, 0.75)
    step_factor: float = 0.1
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    ema_decay: float = 0.0
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    accumulate: int = 1
    seed: int = 0
    augment_crop: int = 0
    augment_flip: bool = False
    augment_cutout: int = 0
    freeze_batchnorm: bool = False
    curriculum: str = "none"
    curriculum_epochs: int | None = None
    distillation_weight: float = 0.0
    distillation_temperature: float = 4.0
    validation_draws: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for name in ("epochs", "batch_size", "accumulate", "validation_draws"):
            self._integer(name, 1)
        for name in ("augment_crop", "augment_cutout", "seed"):
            self._integer(name, 0)
        if self.curriculum_epochs is not None:
            self._integer("curriculum_epochs", 1)
        for name in (
            "nesterov", "decay_norm_and_bias", "channels_last", "compile", "augment_flip", "freeze_batchnorm"
        ):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is true or false, not {getattr(self, name)!r}")
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("curriculum", CURRICULA),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r} is not one of {', '.join(known)}")
        self._number("learning_rate", lambda v: v > 0, "a positive number")
        self._number("weight_decay", lambda v: v >= 0, "0 or more")
        self._number("step_factor", lambda v: 0 < v <= 1, "in (0, 1]")
        self._number("distillation_temperature", lambda v: v > 0, "a positive number")
        self._number("distillation_weight", lambda v: 0 <= v <= 1, "in [0, 1]")
        for name in ("momentum", "label_smoothing", "ema_decay"):
            self._number(name, lambda v: 0 <= v < 1, "in [0, 1)")
        if self.clip_norm is not None:
            self._number("clip_norm", lambda v: v > 0, "a positive number, or None not to clip")
        self._number("warmup_epochs", lambda v: 0 <= v <= self.epochs, f"in [0, epochs = {self.epochs}]")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if any(not 0 < m < 1 for m in self.milestones) or sorted(set(self.milestones)) != list(
            self.milestones
        ):
            raise ValueError(
                f"milestones = {self.milestones}: give rising fractions of the training, each between 0 and 1"
            )
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov = True needs a momentum above 0; set momentum, or nesterov = False")
        if self.schedule == "triangular" and self.warmup_epochs == 0:
            raise ValueError(
                "schedule = 'triangular' rises over warmup_epochs, which is 0; set it, for instance to "
                "epochs / 5"
            )
        if self.curriculum_epochs is not None and self.curriculum != "rising":
            raise ValueError(f"curriculum_epochs = {self.curriculum_epochs} has no meaning with curriculum = "
                             f"{self.curriculum!r}; set curriculum = 'rising' or leave it out")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size = {self.batch_size} is no multiple of accumulate = {self.accumulate} "
                "micro-batches"
            )

    def _integer(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} is an integer, not {value!r} ({type(value).__name__})")
        object.__setattr__(self, name, value := int(value.__index__()))  # numpy's integers, too
        if value < least:
            raise ValueError(f"{name} = {value}: needs to be {least} or more")

    def _number(self, name: str, allowed: Any, requirement: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} is a number, not {value!r} ({type(value).__name__})")
        if not math.isfinite(value) or not allowed(value):
            raise ValueError(f"{name} = {value}: needs to be {requirement}")
