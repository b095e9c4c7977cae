"""What a learned reduction is asked for: plain values, checked when they are put together."""

from __future__ import annotations

import math
from dataclasses import dataclass

GRANULARITIES = ("pixel", "channel")


@dataclass(frozen=True)
class ReductionSettings:
    """How :class:`circa_train.training.linearisation.Linearisation` chooses the ReLUs that stay; the law is
    told there, in the same letters.

    Attributes:
        budget: B, the most that the kept ReLUs may cost: their number, or the sum of their prices.
        granularity: ``pixel`` decides every ReLU by itself, ``channel`` whole channels.
        epochs: E, the length of the plan by which the relaxed cost falls to the budget.
        learning_rate: of the alphas (Adam).
        penalty: the first weight of the penalty, in units of the loss: what all ReLUs cost together.
        growth: factor on that weight.
        interval: steps between two looks at the cost.
    """

    budget: int
    granularity: str = "pixel"
    epochs: float = 2.0
    learning_rate: float = 5e-3
    penalty: float = 0.1
    growth: float = 1.1
    interval: int = 10

    def __post_init__(self) -> None:
        for name in ("budget", "interval"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"reduction: {name} is an integer, not {value!r} ({type(value).__name__})")
            if value < 1:
                raise ValueError(f"reduction: {name} = {value}: needs to be 1 or more")
        if self.granularity not in GRANULARITIES:
            raise ValueError(
                f"reduction: granularity = {self.granularity!r} is not one of {', '.join(GRANULARITIES)}"
            )
        for name, least, most in (
            ("epochs", 0.0, math.inf),
            ("learning_rate", 0.0, 1.0),
            ("penalty", 0.0, math.inf),
            ("growth", 1.0, math.inf),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"reduction: {name} is a number, not {value!r}")
            if not least < value < most:
                bound = "" if most == math.inf else f" and below {most:g}"
                raise ValueError(f"reduction: {name} = {value}: needs to be above {least:g}{bound}")
