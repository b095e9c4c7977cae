"""Networks and images small enough to train in milliseconds; as a script, trainings in a process of their
own:

python tiny.py '[{"folder": "/tmp/run", "slow": false, "epochs": 3, "faulty": true, ...}, ...]'
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from circa_train import TruncatedSign, with_stochastic_relus
from circa_train.data import DataSplits, ImageSet
from circa_train.runs.metrics import JsonLinesTracker, build_tracker
from circa_train.runs.tracker import Tracker
from circa_train.training import ReductionSettings, TrainingResult, TrainingSettings, join_ranks, train

#: Columns of the metrics in which equal trainings differ.
TIMING = {"time", "seconds", "images_per_second"}


def splits(images: int = 48) -> DataSplits:
    generator = torch.Generator().manual_seed(0)

    def part(count: int) -> ImageSet:
        labels = torch.randint(4, (count,), generator=generator)
        pixels = torch.randint(120, (count, 1, 6, 6), generator=generator) + 40 * labels[:, None, None, None]
        return ImageSet(pixels.to(torch.uint8), labels)

    return DataSplits("tiny", part(images), part(20), part(8), ("a", "b", "c", "d"), (0.4,), (0.2,))


def network(*, faulty: bool = False, batchnorm: bool = True, dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4) if batchnorm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(64, 4),
        )
    return with_stochastic_relus(model, TruncatedSign(k=12), frac_bits=12, seed=3) if faulty else model


class SlowTracker(JsonLinesTracker):
    """Takes its time, so that a signal meets the training at work and not its end."""

    def log(self, metrics: Any, step: int) -> None:
        super().log(metrics, step)
        time.sleep(0.02)


def run(folder: Path, tracker: Tracker | None = None, *, faulty: bool = False, batchnorm: bool = True,
        dropout: float = 0.0, reduction: dict[str, Any] | None = None, prices: dict[str, int] | None = None,
        save_every: int = 1, **settings: Any) -> tuple[dict[str, Tensor], TrainingResult]:
    model = network(faulty=faulty, batchnorm=batchnorm, dropout=dropout)
    chosen = TrainingSettings(**{"epochs": 3, "batch_size": 16, "learning_rate": 0.05, **settings})
    result = train(
        model, splits(), chosen, folder=folder, tracker=tracker or JsonLinesTracker(folder), progress=False,
        reduction=None if reduction is None else ReductionSettings(**reduction), prices=prices,
        save_every=save_every,
    )
    return model.state_dict(), result


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join_ranks("cpu") as ranks:
        for job in json.loads(sys.argv[1]):
            target = Path(job.pop("folder"))
            run(
                target,
                SlowTracker(target) if job.pop("slow") else build_tracker(target, rank=ranks.rank),
                **job,
            )
