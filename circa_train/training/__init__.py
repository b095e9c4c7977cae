"""Training: one loop for plain and stochastic networks, and what it is put together from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circa_train.lazy import face

if TYPE_CHECKING:
    from circa_train.training.distributed import Ranks, join_ranks
    from circa_train.training.linearisation import BudgetNotMet
    from circa_train.training.loop import TrainingResult, train
    from circa_train.training.reduction_settings import ReductionSettings
    from circa_train.training.settings import PRECISIONS, TrainingSettings

__all__ = [
    "PRECISIONS",
    "BudgetNotMet",
    "Ranks",
    "ReductionSettings",
    "TrainingResult",
    "TrainingSettings",
    "join_ranks",
    "train",
]

__getattr__, __dir__ = face(
    __name__,
    {
        "BudgetNotMet": "linearisation",
        "Ranks": "distributed",
        "ReductionSettings": "reduction_settings",
        "TrainingResult": "loop",
        "PRECISIONS": "settings",
        "TrainingSettings": "settings",
        "join_ranks": "distributed",
        "train": "loop",
    },
)
