"""Garbled circuits for one ReLU layer at a time, and the two-party protocol around them. Never imports torch.

    circuits     boolean circuits, their arithmetic, the sign test as a circuit, Circa's four ReLU circuits
    aes          the hash that garbling rests on, the engines that run circuits through it, secrets, memory
    protocol     garbling, oblivious transfer, multiplication of shares, messages, sessions; both parties
    accounting   gates and bytes of one ReLU

The first three are packages with a face of their own: ``from circa_train.gc.circuits import ReluCircuit``.

Both parties are assumed honest but curious: they follow the protocol and must learn nothing but their shares
from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circa_train.lazy import face

if TYPE_CHECKING:
    from circa_train.gc.accounting import ReluCost, relu_cost

__all__ = [
    "ReluCost",
    "relu_cost",
]

_HOMES = {
    "ReluCost": "accounting",
    "relu_cost": "accounting",
}
__getattr__, __dir__ = face(__name__, _HOMES)
