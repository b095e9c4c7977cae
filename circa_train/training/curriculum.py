"""Fault curricula: the level of the faults as a function of epoch and step, nothing drawn from a shared
generator.
"""

from __future__ import annotations

import numpy as np

from circa_train.training.settings import TrainingSettings

_STREAM = 0x63757272  # keeps the levels apart from whatever else is drawn from the same seed


def fault_level(settings: TrainingSettings, epoch: int, step: int) -> float:
    """Between 0 (the least faults of the model: nothing truncated, no flips) and 1 (the network's own), at
    ``step``.

    ``rising``: epoch / curriculum_epochs, at most 1. ``random``: uniform on [0, 1), a function of (seed,
    step).
    """
    if settings.curriculum == "rising":
        length = settings.curriculum_epochs or max(settings.epochs - 1, 1)
        return min(epoch / length, 1.0)
    if settings.curriculum == "random":
        return float(np.random.default_rng([_STREAM, settings.seed, step]).random())
    return 1.0
