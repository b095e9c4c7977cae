"""HummingBird's sign test on a window of bits (Maeng and Suh, arXiv 2309.04875), and its law.

(x >> low) - c is tested in the window, where c = 1 if the carry out of the low parts is lost, which it is for
2^low - 1 - (x mod 2^low) of the 2^low low parts of r. A fault that happens without the lost carry (c = 0) is
counted as wrap: the value lies outside the window. One that only the carry makes is a truncation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from circa_train.fault.test import SignTest
from circa_train.field import as_int

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BitWindow(SignTest):
    """HummingBird's sign test: only the bits [low, high) of each share are looked at.

    Shares live in Z_2^64: (x + r) mod 2^64 and -r mod 2^64 for r uniform on [0, 2^64). Each is shifted right
    by ``low`` and reduced modulo 2^(high - low); s = 1 iff the top bit of their sum is 0. Dropped low bits
    lose a carry (small positive x become 0), dropped high bits err for values outside the window, always.

    Attributes:
        low: first bit kept.
        high: first bit above the window, low < high <= 63.
    """

    low: int = 0
    high: int = 63
    kind: ClassVar[str] = "bit_window"
    kinds: ClassVar[tuple[str, ...]] = ("wrap", "truncation")
    severity: ClassVar[str | None] = "low"
    shown: ClassVar[tuple[str, ...] | None] = ("low", "high")

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, as_int(name, getattr(self, name)))
        if not 0 <= self.low < self.high <= 63:
            raise ValueError(
                f"bit window [{self.low}, {self.high}) is empty or leaves [0, 63); need 0 <= low < high <= 63"
            )

    @property
    def mask_count(self) -> int:
        """2^64."""
        return 2**64

    def masks_at(self, elements: Tensor, *, seed: int, site: int, draw: int | Tensor) -> Tensor:
        """r as int64 bit patterns."""
        from circa_train.fault.masks import ring_masks_at

        return ring_masks_at(elements, seed=seed, site=site, draw=draw)

    def gate(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The top bit of the sum of both windows is 0.

        int64 arithmetic wraps modulo 2^64 as the ring does, and the shift's copies of the top bit fall
        outside the window.
        """
        assert mask is not None
        width = self.high - self.low
        window = (1 << width) - 1
        server, client = ((x + mask) >> self.low) & window, (-mask >> self.low) & window
        return (((server + client) >> (width - 1)) & 1) == 0

    def counts(self, x: Any) -> tuple[Any, Any]:
        """(values outside the window, carries lost), of 2^64 masks: float64 for a tensor, exact for an
        int.
        """
        whole = isinstance(x, int)
        repeat: Any = 2 ** (64 - self.low)  # masks that share their low part
        carries = (1 << self.low) - 1 - (x & ((1 << self.low) - 1))
        without, with_carry = self._errs(x, 0), self._errs(x, 1)
        if not whole:
            carries, repeat = carries.double(), float(repeat)
        both = without * ((1 << self.low) - carries + carries * with_carry) * repeat
        only = with_carry and not without if whole else with_carry & ~without
        return both, only * carries * repeat

    def cause(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """0 where x lies outside the window, else 1."""
        return (~self._errs(x, 0)).int()

    def _errs(self, x: Any, carry: int) -> Any:
        """Is the windowed sign of x wrong, given whether the low parts' carry was lost?"""
        negative = ((((x >> self.low) - carry) >> (self.high - self.low - 1)) & 1) == 1
        return ((x > 0) & negative) | ((x < 0) & (negative == 0))
