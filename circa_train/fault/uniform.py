"""Sign faults at a given rate, whatever the value: the baseline of fault-rate sweeps."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

from circa_train.fault.test import SignTest

if TYPE_CHECKING:
    from torch import Tensor

DIRECTIONS = ("both", "zeroed", "passed")

#: A random word has 32 bits, so a fault rate is realised as a multiple of 2^-32.
WORD_BITS = 32


@dataclass(frozen=True)
class UniformFault(SignTest):
    """An exact sign test whose answer is flipped at a given rate.

    The mask is a random word, uniform on [0, 2^32): the answer [x > 0] is flipped where the word is below
    :attr:`threshold` and the direction is meant. x = 0 is never flipped: either gate outputs 0.

    Attributes:
        rate: probability of a flip in [0, 1], realised to the nearest multiple of 2^-32.
        direction: ``both``, or only ``zeroed`` (x > 0 lost) or ``passed`` (x < 0 kept).
    """

    rate: float = 1e-3
    direction: str = "both"
    kind: ClassVar[str] = "uniform"
    severity: ClassVar[str | None] = "rate"

    def __post_init__(self) -> None:
        if isinstance(self.rate, bool) or not isinstance(self.rate, Real):
            raise TypeError(f"rate must be a number, got {self.rate!r} ({type(self.rate).__name__})")
        plain = self.rate if isinstance(self.rate, (int, float)) else float(self.rate)  # numpy's
        object.__setattr__(self, "rate", plain)
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(f"rate = {self.rate} is not a probability; give a number in [0, 1]")
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction = {self.direction!r} is not one of {', '.join(DIRECTIONS)}")

    @property
    def threshold(self) -> int:
        """Of the 2^32 random words, those below this one flip the answer."""
        return round(self.rate * 2**WORD_BITS)

    @property
    def mask_count(self) -> int:
        """2^32."""
        return 2**WORD_BITS

    def gate(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[x > 0], flipped where it is meant."""
        assert mask is not None
        return (x > 0) ^ ((mask < self.threshold) & self._meant(x))

    def counts(self, x: Any) -> tuple[Any]:
        """(words that flip,)."""
        return (self._meant(x) * self.threshold,)

    def _meant(self, x: Any) -> Any:
        """May the answer on x be flipped?"""
        return {"both": x != 0, "zeroed": x > 0, "passed": x < 0}[self.direction]
