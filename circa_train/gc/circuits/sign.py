"""Circuits of one sign test: what the two-party protocol, the costs and the verification need of any of them.

The server holds x_s = (x + t) mod p, the client knows the mask t; the server garbles and the client
evaluates. A sign circuit answers one bit s, which leaves the circuit as additive shares in Z_p (a projection,
see :mod:`circa_train.gc.circuits.relu`) and is then multiplied with x. A circuit of your own is a frozen
dataclass with a ``prime`` and one method::

    @dataclass(frozen=True)
    class Top(SignCircuit):
        \"\"\"[the top bit of x_s is less than that of t]\"\"\"
        prime: int

        def sign(self, builder, server, client):
            return builder.conjunction(client[-1], builder.negation(server[-1]))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circa_train.field import bit_length
from circa_train.gc.circuits.circuit import Bit, Builder, Circuit, Wire, evaluate


class SignCircuit(ABC):
    """One sign test of shares in Z_p as a boolean circuit. Equal circuits compare equal: subclasses are
    frozen dataclasses.

    Attributes:
        prime: the field.
    """

    prime: int

    @abstractmethod
    def sign(self, builder: Builder, server: list[Wire], client: list[Wire]) -> Bit:
        """The answer s from all bits of x_s (the garbler's) and of t (the evaluator's), lowest bit first."""

    @property
    def bits(self) -> int:
        """n, the bit length of p."""
        return bit_length(self.prime)

    @property
    def shares_bit(self) -> bool:
        """Whether the result is a bit still to be multiplied with x."""
        return True

    @property
    def draws_share(self) -> bool:
        """Whether the server draws its share of the result and feeds it in; else the projection yields the
        share.
        """
        return False

    @cached_property
    def circuit(self) -> Circuit:
        """The gates. Inputs in order: the garbler's bits, then the evaluator's."""
        builder = Builder()
        server, client = builder.garbler_input(self.bits), builder.evaluator_input(self.bits)
        return builder.build([self.sign(builder, server, client)], share_modulus=self.prime)

    def garbler_bits(
        self, server_share: NDArray[np.int64], drawn_share: NDArray[np.int64] | None = None
    ) -> NDArray[np.bool_]:
        """The server's input bits, bool (wires, instances), from x_s, canonical, int64 (instances,)."""
        return to_bits(canonical(server_share, self.prime, "server share"), self.bits)

    def evaluator_bits(self, mask: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The client's input bits, bool (wires, instances), from the mask t, int64 (instances,) in [0, p)."""
        return to_bits(canonical(mask, self.prime, "mask"), self.bits)

    def cleartext(self, server_share: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.int64]:
        """Run the circuit in the clear: int64 (instances,), the bit s, or what else it computes, canonical.

        Where the circuit takes a drawn share it gets 0, so that the client's share is the result itself.
        """
        server_share = np.asarray(server_share, dtype=np.int64)
        drawn = np.zeros_like(server_share) if self.draws_share else None
        outputs = evaluate(self.circuit, self.garbler_bits(server_share, drawn), self.evaluator_bits(mask))
        return from_bits(outputs)


def canonical(values: NDArray[np.int64], prime: int, name: str) -> NDArray[np.int64]:
    """``values`` as a one-dimensional int64 array, refused with a ValueError unless all lie in [0, p)."""
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected a one-dimensional integer array, got {array.dtype} {array.shape}")
    outside = (array < 0) | (array >= prime)
    if outside.any():
        raise ValueError(
            f"{name}: {array[outside][0]} is outside [0, {prime}); reduce it with field.to_canonical"
        )
    return array.astype(np.int64, copy=False)


def to_bits(values: NDArray[np.int64], bits: int) -> NDArray[np.bool_]:
    """The low ``bits`` bits of non-negative integers (instances,) as bool (bits, instances). Inverse of
    from_bits.
    """
    numbers: NDArray[Any] = values.astype(np.uint32 if bits <= 32 else np.uint64)  # half the memory to read
    rows = np.empty((bits, len(values)), dtype=bool)
    for position, row in enumerate(rows):
        np.not_equal(numbers & numbers.dtype.type(1 << position), 0, out=row)
    return rows


def from_bits(bits: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Integers (instances,) whose bits, lowest first, are the rows of bool (bits, instances). Inverse of
    to_bits.
    """
    weights = np.int64(1) << np.arange(len(bits), dtype=np.int64)
    return weights @ bits.astype(np.int64)
