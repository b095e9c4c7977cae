"""The four ReLU circuits of Circa (arXiv 2106.08475, figure 2), each cheaper than the one before.

The server holds x_s = (x + t) mod p, the client knows the mask t; the server garbles and the client
evaluates, as in Delphi, on which Circa builds.

=====================  =============================================  ===================================
circuit                computes                                       AND gates (n = bit length of p)
=====================  =============================================  ===================================
(a) ``full``           shares of ReLU(x): add the shares, reduce,     about 8 n
                       compare with p/2, select, re-share, reduce
(b) ``exact``          shares of [x >= 0]: add, reduce, compare       about 4 n
(c) ``stochastic``     shares of [x_s > t] or [x_s >= t]              n
(d) ``truncated``      the same of x_s >> k and t >> k                n - k
=====================  =============================================  ===================================

(a) finishes the ReLU inside the circuit. (b) to (d) leave the parties with additive shares in Z_p of one bit,
which a Beaver multiplication turns into shares of x times that bit (:mod:`circa_train.gc.protocol.beaver`). x
= 0 may count as either sign: the product is 0.

The bit becomes a share by a *projection*: the garbler encrypts two field elements under the two labels of the
one sign wire, 4 bytes per ReLU and no gate. The construction of the paper selects between the two field
elements bit by bit, n more AND gates; ``multiplexer=True`` builds that, for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from circa_train.field import DEFAULT_PRIME, as_int, check_prime, largest_centred
from circa_train.gc.circuits import arithmetic
from circa_train.gc.circuits.circuit import Bit, Builder, Circuit, Wire
from circa_train.gc.circuits.sign import SignCircuit, canonical, to_bits

Kind = Literal["full", "exact", "stochastic", "truncated"]
Mode = Literal["poszero", "negpass"]
KINDS: tuple[Kind, ...] = ("full", "exact", "stochastic", "truncated")
MODES: tuple[Mode, ...] = ("poszero", "negpass")


@dataclass(frozen=True)
class ReluCircuit(SignCircuit):
    """One of the four circuits, with the meaning of its inputs and outputs.

    Attributes:
        kind: "full", "exact", "stochastic" or "truncated".
        prime: the field.
        k: low bits dropped before the comparison; 0 unless kind is "truncated".
        mode: what a tie gives, "poszero" 0 and "negpass" 1; ignored by "full" and "exact", whose sign is
            exact.
        multiplexer: share the bit by n AND gates instead of a projection; not for "full", which has no bit to
            share.

    Raises:
        ValueError: for an unknown kind or mode, a k that the kind does not have or outside [0, bit length of
            p), a number that is not an odd prime below 2^31, or a multiplexer on "full".
    """

    kind: Kind = "truncated"
    prime: int = DEFAULT_PRIME
    k: int = 0
    mode: Mode = "poszero"
    multiplexer: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "prime", check_prime(self.prime))
        if self.kind not in KINDS:
            raise ValueError(f"kind = {self.kind!r} is none of {KINDS}")
        if self.mode not in MODES:
            raise ValueError(f"mode = {self.mode!r} is none of {MODES}")
        object.__setattr__(self, "k", as_int("k", self.k))
        if not 0 <= self.k < self.bits:
            raise ValueError(f"k = {self.k} is outside [0, {self.bits}), the bits of p = {self.prime}")
        if self.k and self.kind != "truncated":
            raise ValueError(f"k = {self.k}: only the truncated circuit drops bits, not {self.kind!r}")
        if self.multiplexer and self.kind == "full":
            raise ValueError("the full circuit shares its result by an addition; it has no multiplexer")

    @property
    def shares_bit(self) -> bool:
        """Whether the result is a bit still to be multiplied with x; only (a) ends with the ReLU itself."""
        return self.kind != "full"

    @property
    def draws_share(self) -> bool:
        """Whether the server draws its share of the result and feeds it in; else the projection yields the
        share.
        """
        return self.kind == "full" or self.multiplexer

    def sign(self, builder: Builder, server: list[Wire], client: list[Wire]) -> Bit:
        """[x_s > t] or [x_s >= t] of the compared bits: (c) and (d). The others need x itself."""
        return arithmetic.greater(builder, server, client, or_equal=self.mode == "negpass")

    @cached_property
    def circuit(self) -> Circuit:
        """The gates. Inputs in order: x_s (its kept bits), the drawn share if any; the evaluator's bits of t
        or p - t.
        """
        b = Builder()
        compared = self.bits - self.k
        server, client = b.garbler_input(compared), b.evaluator_input(compared)
        if self.kind in ("stochastic", "truncated"):
            bit = self.sign(b, server, client)
        else:
            x = arithmetic.reduce_once(b, arithmetic.add(b, server, client), self.prime)
            half = arithmetic.constant(largest_centred(self.prime), self.bits)
            bit = b.negation(arithmetic.greater(b, x, half))
        if self.kind == "full":
            negated_share = b.garbler_input(self.bits)
            relu = [b.conjunction(bit, x_bit) for x_bit in x]
            return b.build(arithmetic.reduce_once(b, arithmetic.add(b, relu, negated_share), self.prime))
        if self.multiplexer:
            if_zero, if_one = b.garbler_input(self.bits), b.garbler_input(self.bits)
            return b.build(arithmetic.select(b, bit, if_one, if_zero))
        return b.build([bit], share_modulus=self.prime)

    def garbler_bits(
        self, server_share: NDArray[np.int64], drawn_share: NDArray[np.int64] | None = None
    ) -> NDArray[np.bool_]:
        """The server's input bits, bool (wires, instances), from x_s and, where the circuit wants one, its
        drawn share.

        Both are canonical, int64 (instances,). The client's share of the result plus ``drawn_share`` is the
        result.
        """
        server_share = canonical(server_share, self.prime, "server share")
        words = [(server_share >> self.k, self.bits - self.k)]
        if self.draws_share:
            if drawn_share is None:
                raise ValueError("this circuit needs the server's drawn share of the result")
            minus = (self.prime - canonical(drawn_share, self.prime, "drawn share")) % self.prime
            words.append((minus, self.bits))
            if self.multiplexer:
                words.append(((minus + 1) % self.prime, self.bits))
        return np.concatenate([to_bits(word, width) for word, width in words])

    def evaluator_bits(self, mask: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The client's input bits, bool (wires, instances), from the mask t, int64 (instances,) in [0, p).

        The exact circuits add the shares, so they take p - t; the stochastic ones compare with t itself.
        """
        mask = canonical(mask, self.prime, "mask")
        if self.kind in ("stochastic", "truncated"):
            return to_bits(mask >> self.k, self.bits - self.k)
        return to_bits((self.prime - mask) % self.prime, self.bits)
