"""Whether settings, networks, data and processes go together, asked before a training begins."""

from __future__ import annotations

import math

from torch import nn

from circa_train.data import DataSplits
from circa_train.nn import stochastic_relus
from circa_train.training.distributed import Ranks
from circa_train.training.reduction_settings import ReductionSettings
from circa_train.training.settings import TrainingSettings


def check_fit(
    settings: TrainingSettings, splits: DataSplits, model: nn.Module, teacher: nn.Module | None,
    ranks: Ranks, reduction: ReductionSettings | None = None
) -> None:
    """ValueError where settings, networks, data and processes do not go together."""
    parts = settings.accumulate * ranks.world_size
    if settings.batch_size % parts:
        raise ValueError(
            f"batch_size = {settings.batch_size} does not divide into {ranks.world_size} processes with "
            f"accumulate = {settings.accumulate} micro-batches each; make it a multiple of {parts}"
        )
    if len(splits.train) < settings.batch_size:
        raise ValueError(
            f"batch_size = {settings.batch_size} is more than the {len(splits.train)} training images; lower "
            "it"
        )
    if len(splits.validation) < ranks.world_size:
        raise ValueError(
            f"{len(splits.validation)} validation images do not go round {ranks.world_size} processes"
        )
    if reduction is not None and settings.epochs < math.ceil(reduction.epochs) + 1:
        raise ValueError(
            f"reduction: its plan of {reduction.epochs:g} epochs leaves no epoch of epochs = "
            f"{settings.epochs} for fine-tuning; give more epochs, or a smaller reduction.epochs"
        )
    if settings.curriculum != "none" and not stochastic_relus(model):
        raise ValueError(
            f"curriculum = {settings.curriculum!r} needs a network with stochastic ReLUs "
            "(with_stochastic_relus)"
        )
    if (teacher is not None) != (settings.distillation_weight > 0):
        given = "a teacher is given" if teacher is not None else "no teacher is given"
        raise ValueError(
            f"distillation_weight = {settings.distillation_weight}, but {given}; give both or neither"
        )
    if teacher is not None and any(
        relu.faults_enabled and not relu.spec.is_exact
        for relu in stochastic_relus(teacher).values()
    ):
        raise ValueError("the teacher has stochastic ReLUs; distil from the exact network (with_exact_relus)")


def check_save_every(epochs: int, name: str = "save_every") -> None:
    """ValueError unless a state is written after every so many ``epochs``; ``name`` is what it is called."""
    if epochs < 1:
        raise ValueError(f"{name} = {epochs}: at least 1 epoch lies between two states")
