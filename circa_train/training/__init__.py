"""Training: one loop for plain and stochastic networks, and what it is put together from."""

from __future__ import annotations

from circa_train.training.distributed import Ranks, join_ranks
from circa_train.training.loop import TrainingResult, train
from circa_train.training.settings import TrainingSettings

__all__ = ["Ranks", "TrainingResult", "TrainingSettings", "join_ranks", "train"]
