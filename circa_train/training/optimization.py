"""The optimiser and its learning rate, the latter a function of the step alone: nothing of it needs to be
stored.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from circa_train.training.settings import TrainingSettings


def build_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """SGD or AdamW over the trainable parameters, those of one dimension without decay unless the settings
    ask for it.

    Raises:
        ValueError: if no parameter is trainable.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the network has no trainable parameter (requires_grad is False everywhere)")
    decayed = [p for p in parameters if settings.decay_norm_and_bias or p.ndim >= 2]
    exempt = [p for p in parameters if not (settings.decay_norm_and_bias or p.ndim >= 2)]
    groups = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((decayed, settings.weight_decay), (exempt, 0.0))
        if group
    ]
    # One kernel for all parameters where there is one; the CPU keeps the plain loop, whose sums are the
    # reference.
    fused = True if parameters[0].device.type == "cuda" else None
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)
    return torch.optim.SGD(
        groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.nesterov, fused=fused
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def learning_rate(settings: TrainingSettings, step: int, steps_per_epoch: int, start: int = 0) -> float:
    """The learning rate of optimiser step ``step`` (0 is the first).

    Before step ``start`` it is the peak, and the schedule has the steps that are left.

    The warm-up of w steps gives step i the share (i + 1) / w of the peak, so that the first step already
    learns. Of the remaining n steps, step j of ``cosine`` and ``triangular`` is at the fraction j / n of the
    fall.

    >>> settings = TrainingSettings(epochs=4, learning_rate=1.0, schedule="triangular", warmup_epochs=2)
    >>> [learning_rate(settings, step, 2) for step in range(8)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < start:
        return settings.learning_rate
    total, step = settings.epochs * steps_per_epoch - start, step - start
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    fraction = min((step - warmup) / max(total - warmup, 1), 1.0)
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * fraction))
    if settings.schedule == "triangular":
        return settings.learning_rate * (1 - fraction)
    if settings.schedule == "step":
        return settings.learning_rate * settings.step_factor ** sum(
            step >= m * total for m in settings.milestones
        )
    return settings.learning_rate
