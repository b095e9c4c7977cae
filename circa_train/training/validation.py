"""Validation after an epoch: fixed fault draws, shared among the processes, and how often the sites would
fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circa_train.data import Batches, DataSplits
from circa_train.nn import evaluating, expect, faulty_relus, set_draw, stochastic_relus
from circa_train.training.distributed import Ranks
from circa_train.training.objective import logits_of
from circa_train.training.settings import TrainingSettings

#: Validation draws count from here: training numbers its draws by steps from 0, evaluation from 2^32.
FIRST_DRAW = 2**31


@dataclass(frozen=True)
class Validation:
    """What a network does on the validation split, averaged over images and draws.

    Attributes:
        accuracy: in [0, 1].
        loss: cross-entropy without label smoothing.
        fault_rates: by site, the expected faults per value on the first batch, by the exact law; empty
            without faults.
    """

    accuracy: float
    loss: float
    fault_rates: dict[str, float]


def validate(
    model: nn.Module,
    splits: DataSplits,
    settings: TrainingSettings,
    *,
    batch_size: int,
    ranks: Ranks,
    device: torch.device,
    stop: Callable[[], bool] = lambda: False,
) -> Validation | None:
    """Accuracy and loss on ``splits.validation``; None if ``stop()``, asked after every batch, said so.

    Masks are addressed by the image's place in the split: the result depends neither on batch size nor on
    processes.
    """
    batches = Batches(
        splits.validation, whole_batch_size(len(splits.validation), batch_size, ranks.world_size),
        mean=splits.mean, std=splits.std, rank=ranks.rank, world_size=ranks.world_size,
    )
    totals = torch.zeros(2, dtype=torch.float64, device=device)  # right answers, loss
    draws = settings.validation_draws if stochastic_relus(model) else 1
    rates: dict[str, float] = {}
    with evaluating(model):
        for draw in range(draws):
            for images, labels, first in batches:
                images, labels = images.to(device), labels.to(device)
                set_draw(model, FIRST_DRAW + draw, first)
                if rates or draw or first:
                    logits = logits_of(model, images, settings)
                else:
                    logits, rates = _with_fault_rates(model, images, settings)
                totals[0] += (logits.argmax(1) == labels).sum()
                totals[1] += F.cross_entropy(logits, labels, reduction="sum")
                if stop():
                    return None
    accuracy, loss = (ranks.sum(totals) / (draws * len(splits.validation))).tolist()
    return Validation(accuracy, loss, rates)


def whole_batch_size(images: int, batch_size: int, world_size: int) -> int:
    """The largest size up to ``batch_size`` whose last batch has an image for every process, or is full."""
    size = min(batch_size, images)
    while size > world_size and 0 < images % size < world_size:
        size -= 1
    return size


def _with_fault_rates(
    model: nn.Module, images: Tensor, settings: TrainingSettings
) -> tuple[Tensor, dict[str, float]]:
    with expect(model) as expected:
        logits = logits_of(model, images, settings)
    faulty = ((site, expected[site]) for site in faulty_relus(model))
    return logits, {site: found.faults / found.values for site, found in faulty if found.values}
