"""Fault curricula: the level of the faults as a function of epoch and step, nothing drawn from a shared
generator.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from circa_train.fault.spec import BitWindow, FaultSpec, TruncatedSign, UniformFault
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


def at_level(spec: FaultSpec, level: float) -> FaultSpec:
    """``spec`` with the fraction ``level`` of its severity: bits dropped (rounded down from k + 1 equal
    parts), or rate.

    Level u uniform on [0, 1) makes k uniform on {0, ..., k}; level 1 is ``spec`` itself.

    >>> [at_level(TruncatedSign(k=2), level).k for level in (0.0, 0.34, 0.67, 1.0)]
    [0, 1, 2, 2]
    """
    if level == 1.0:
        return spec
    if isinstance(spec, TruncatedSign):
        if isinstance(spec.k, tuple):
            return replace(spec, k=tuple(_part(k, level) for k in spec.k))
        return replace(spec, k=_part(spec.k, level))
    if isinstance(spec, BitWindow):
        return replace(spec, low=_part(spec.low, level))
    if isinstance(spec, UniformFault):
        return replace(spec, rate=spec.rate * level)
    return spec


def _part(bits: int, level: float) -> int:
    return min(int(level * (bits + 1)), bits)
