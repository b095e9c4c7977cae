"""The exact sign test: no fault at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from circa_train.fault.test import SignTest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NoFault(SignTest):
    """The exact sign test: bitwise the plain ReLU, forward and backward."""

    kind: ClassVar[str] = "none"
    is_exact: ClassVar[bool] = True

    @property
    def mask_count(self) -> int:
        """1: no mask is drawn."""
        return 1

    def gate(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[x > 0]."""
        return x > 0

    def counts(self, x: Any) -> tuple[Any]:
        """(0,)."""
        return (x * 0,)
