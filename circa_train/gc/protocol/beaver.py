"""Multiplying two shared values in Z_p: the share of the sign bit times the shares of x (Beaver, CRYPTO
1991).

For a triple c = a b of which both parties hold additive shares, they open d = x - a and e = s - b, which are
uniform and say nothing about x and s. Then x s = c + d b + e a + d e, in which everything but d e is linear
in what is shared.

The triples come from a :class:`TrustedDealer`: somebody whom both parties trust to hand out correlated
randomness and to forget it. A deployment replaces the dealer by homomorphic encryption or oblivious transfer
in its offline phase.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from circa_train.field import check_prime
from circa_train.gc.aes.hashing import to_field
from circa_train.gc.aes.randomness import OneProcess, Randomness, Seed
from circa_train.gc.protocol.messages import Message, MessageKind

#: What each party sends per multiplication: two field elements.
OPENING_BYTES = 8


@dataclass(eq=False)
class Triples:
    """One party's shares of triples, int64 (triples,) each, in [0, p). Handed out once and never again.

    A triple used twice would reveal the difference of the values it masked.
    """

    prime: int
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    c: NDArray[np.int64]
    _taken: int = 0
    _here: OneProcess = field(default_factory=lambda: OneProcess("a supply of triples"))

    def take(self, count: int) -> Triples:
        """The next ``count`` triples.

        Raises:
            ValueError: if fewer are left.
            RuntimeError: after a fork.
        """
        self._here.check()
        left = len(self.a) - self._taken
        if count > left:
            raise ValueError(f"{count} triples wanted, {left} left of {len(self.a)}: ask the dealer for more")
        part = slice(self._taken, self._taken + count)
        self._taken += count
        return Triples(self.prime, self.a[part], self.b[part], self.c[part])


class TripleSource(Protocol):
    """Where a party takes its shares of triples from: dealt beforehand, or as they are needed."""

    def take(self, count: int) -> Triples:
        """This party's shares of the next ``count`` triples."""
        ...


class TrustedDealer:
    """Draws triples and splits them. Knows everything that they will mask."""

    def __init__(self, prime: int, seed: Seed = None) -> None:
        self._prime = check_prime(prime)
        self._random = Randomness(seed, "trusted dealer")

    def deal_on_demand(self) -> tuple[DealtTriples, DealtTriples]:
        """(server's, client's) sources of triples that are drawn as they are taken. For both parties under
        one roof.
        """
        root = self._random.secret("on demand")
        return DealtTriples(self._prime, root, 0), DealtTriples(self._prime, root, 1)

    def deal(self, count: int) -> tuple[Triples, Triples]:
        """(server's, client's) shares of ``count`` fresh triples."""
        p = self._prime
        draws = to_field(self._random.blocks(5 * count).reshape(5, count, 2), p)
        server_a, client_a, server_b, client_b, server_c = draws
        product = (server_a + client_a) % p * ((server_b + client_b) % p) % p
        client_c = (product - server_c) % p
        return Triples(p, server_a, server_b, server_c), Triples(p, client_a, client_b, client_c)


class DealtTriples:
    """One party's line to a dealer who deals as triples are taken, so that memory does not grow with the
    layer.

    The dealer is played at both ends, from one seed: whoever holds this object could know the other party's
    shares too. Both parties must take the same numbers of triples in the same order.
    """

    def __init__(self, prime: int, root: bytes, party: int) -> None:
        self._prime, self._root, self._party = prime, root, party
        self._dealt = 0
        self._here = OneProcess("a supply of triples")

    def take(self, count: int) -> Triples:
        """This party's shares of the next ``count`` triples; a RuntimeError after a fork."""
        self._here.check()
        dealer = TrustedDealer(self._prime, self._root + self._dealt.to_bytes(8, "little"))
        self._dealt += count
        return dealer.deal(count)[self._party]


class Multiplication:
    """One party's part in multiplying shared x with shared s, element by element.

    Args:
        x, s: this party's shares, int64 (n,) in [0, p).
        triples: this party's shares of n unused triples.
        leads: whether this party adds the public term d e; exactly one of the two does.
    """

    def __init__(self, x: NDArray[np.int64], s: NDArray[np.int64], triples: Triples, *, leads: bool) -> None:
        if not x.shape == s.shape == triples.a.shape:
            raise ValueError(
                f"shares of x {x.shape}, of s {s.shape} and triples {triples.a.shape} differ in number"
            )
        self._triples, self._leads = triples, leads
        self._opening = np.stack([x - triples.a, s - triples.b]) % triples.prime

    def opening(self) -> Message:
        """This party's shares of d and e, for the other."""
        words = self._opening.astype("<u4")
        return Message(MessageKind.OPENING, words.reshape(-1).view(np.uint8), instances=words.shape[1])

    def finish(self, peer: Message) -> NDArray[np.int64]:
        """This party's share of the product, int64 (n,) in [0, p).

        Raises:
            ValueError: if the peer's message is of another kind or length, or holds what is no field element.
        """
        p, triples = self._triples.prime, self._triples
        payload = peer.expect(MessageKind.OPENING, OPENING_BYTES * self._opening.shape[1], peer.circuit)
        theirs = payload.view("<u4").reshape(2, -1).astype(np.int64)
        if (theirs >= p).any():
            raise ValueError(f"the peer's opening holds {theirs.max()}, which is no element of Z_{p}")
        # Every product is below 2^62 and is reduced before anything is added.
        d, e = (self._opening + theirs) % p
        product = triples.c + d * triples.b % p + e * triples.a % p
        if self._leads:
            product += d * e % p
        return product % p
