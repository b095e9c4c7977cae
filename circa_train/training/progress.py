"""Where a training stands, and whether a stored state belongs to the training that would resume it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from circa_train.checkpoint import CheckpointError, digest
from circa_train.data import DataSplits
from circa_train.nn import stochastic_relus
from circa_train.training.settings import TrainingSettings

_LISTED_CHANGES = 12


@dataclass
class Progress:
    """Position and running sums of a training; with the weights and the optimiser, all that a resumption
    needs.

    Everything random in a step is a function of (seed, epoch, step), so there is no generator whose state
    would belong here.

    Attributes:
        epoch: epochs completed.
        batch: steps done in the epoch at hand; all of them while its validation is outstanding.
        step: optimiser steps done.
        best_accuracy, best_epoch: of the best validation so far; -1 before the first.
        loss, right, images: sums over the epoch at hand, of all processes.
        epoch_seconds, seconds: time spent training in the epoch at hand, and in all, earlier sittings
            included.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_accuracy: float = -1.0
    best_epoch: int = -1
    loss: float = 0.0
    right: int = 0
    images: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0

    def next_epoch(self) -> None:
        self.epoch += 1
        self.batch = self.right = self.images = 0
        self.loss = self.epoch_seconds = 0.0


class OtherTraining(CheckpointError):
    """A stored state belongs to another training, or a part of what belongs to it is missing."""


def identity(
    model: nn.Module,
    splits: DataSplits,
    settings: TrainingSettings,
    teacher: nn.Module | None,
    inputs: Mapping[str, str] | None = None,
    reduction: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Flat plain values: a stored state may be resumed by a training that has the same.

    Args:
        model: the network, with its faults.
        splits: the data; the images and labels themselves count, not their name.
        settings: of the training.
        teacher: of a distillation; its weights count.
        inputs: digests of what else determines the result, by name: the first weights above all.
        reduction: plain values that determine which ReLUs stay; None keeps all.
    """
    values: dict[str, Any] = {f"settings.{name}": value for name, value in asdict(settings).items()}
    values["data.name"] = splits.name
    for split in ("train", "validation"):
        values[f"data.{split}"] = len(getattr(splits, split))
        images = getattr(splits, split)
        values[f"data.{split}.digest"] = digest([images.images, images.labels])
    values["data.mean"], values["data.std"] = tuple(splits.mean), tuple(splits.std)
    for site, relu in stochastic_relus(model).items():
        described = relu.spec.to_dict() | {
            "frac_bits": relu.frac_bits,
            "seed": relu.seed,
            "overflow": relu.settings.overflow,
        }
        values.update({f"fault.{site}.{name}": value for name, value in described.items()})
    values["teacher"] = None if teacher is None else digest(teacher.state_dict())
    values.update({f"reduction.{name}": value for name, value in (reduction or {}).items()})
    values.update({f"inputs.{name}": value for name, value in (inputs or {}).items()})
    return values


def check_identity(stored: Mapping[str, Any], now: Mapping[str, Any], place: object) -> None:
    """OtherTraining, naming what has changed, unless a run of ``now`` continues one of ``stored``.

    The number of epochs may change where nothing before the end depends on it: with a constant learning rate
    and no curriculum that takes its length from it.
    """
    extensible = now["settings.schedule"] == "constant" and (
        now["settings.curriculum"] != "rising" or now["settings.curriculum_epochs"] is not None
    )
    missing = object()
    changed = [
        key
        for key in sorted(stored.keys() | now.keys())
        if _plain(stored.get(key, missing)) != _plain(now.get(key, missing))
        and not (key == "settings.epochs" and extensible)
    ]
    if changed:
        listed = [
            f"{key}: {stored.get(key, '(none)')} -> {now.get(key, '(none)')}"
            for key in changed[:_LISTED_CHANGES]
        ]
        more = f" and {len(changed) - len(listed)} more" if len(changed) > len(listed) else ""
        raise OtherTraining(
            f"{place} was written by a training with other settings ({'; '.join(listed)}{more}). Resume with "
            "the same ones, "
            "train in another folder, or start over with resume=False"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
