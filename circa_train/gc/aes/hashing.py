"""The hash that garbling rests on, named after the property that its security proof needs.

Half gates with free XOR need a hash that is *tweakable circular correlation robust* (TCCR): for a secret
offset R, H(x ^ R, i) ^ b R must look random for every fresh (x, i, b). In the random-permutation model the
construction TMMO of Guo, Katz, Wang and Yu (2019/074) has this property, at two calls of one fixed-key
permutation::

    H(x, i) = pi(pi(x) ^ i) ^ pi(x)          pi = AES-128 under a public key drawn for the session

Cheaper hashes with one AES call under a fixed key lack such a proof or lose bits of security, so they are not
offered.

The tweak i is unique: its low word is the number of the ciphertext within the circuit, its high word the
number of the instance within the session, counted over all layers. Gate g hashes its left operand under 2g
and its right one under 2g + 1; the projection of the output wire uses 2 * (number of AND gates).

:class:`Kernel` is the interface of what runs circuits through this hash: compiled AES instructions, or
OpenSSL and numpy. Both give the same bytes.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from circa_train.gc.aes.key_schedule import Blocks
from circa_train.gc.circuits.circuit import Circuit

#: Labels of the garbler's and of the evaluator's input wires, (wires, n, 2) each.
Inputs = tuple[Blocks, Blocks]


class Kernel(Protocol):
    """AES and everything built directly on it, for one public key. Blocks are uint64 arrays (..., 2)."""

    name: str

    def encrypt(self, blocks: Blocks) -> Blocks:
        """AES of every block of (n, 2): pi itself."""
        ...

    def counters(self, first: int, out: Blocks) -> None:
        """Fill C-contiguous ``out`` (..., 2) with pi(first), pi(first + 1), ...: a pseudorandom stream."""
        ...

    def tccr_hash(self, labels: Blocks, tweak: int, first_instance: int) -> Blocks:
        """TMMO of (n, 2) labels under the tweaks (tweak, first_instance + i)."""
        ...

    def activate(
        self, false_labels: Blocks, bits: NDArray[np.bool_], offset: Blocks, out: Blocks
    ) -> None:
        """Fill ``out`` (wires, n, 2) with the active labels of bool ``bits`` (wires, n): the false-label,
        moved by the offset where the bit is set.
        """
        ...

    def project(
        self, false_labels: Blocks, offset: Blocks, tweak: int, first_instance: int, prime: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Project a wire into Z_p: (ciphertexts, garbler's shares) from its false-labels (n, 2)."""
        ...

    def take_share(
        self, labels: Blocks, words: NDArray[np.uint32], tweak: int, first_instance: int, prime: int
    ) -> NDArray[np.int64]:
        """The evaluator's shares, int64 (n,), from its active labels (n, 2) and the ciphertexts (below p)."""
        ...

    def garble(
        self, circuit: Circuit, inputs: Inputs, offset: Blocks, tables: Blocks, first_instance: int
    ) -> list[Blocks]:
        """False-labels of the outputs, each (n, 2), from those of the inputs. Writes ``tables``, of shape
        (AND gates, 2, n, 2).
        """
        ...

    def evaluate(
        self, circuit: Circuit, inputs: Inputs, tables: Blocks, first_instance: int
    ) -> list[Blocks]:
        """Active labels of the outputs, each (n, 2), from those of the inputs."""
        ...


def to_field(hashes: Blocks, prime: int) -> NDArray[np.int64]:
    """floor(h * p / 2^128) for 128-bit h. If h is uniform, this value of [0, p) is uniform up to 2^-97.

    The product is computed in 32-bit digits with carries, so that no number exceeds 63 bits.
    """
    digit, p = np.uint64(0xFFFFFFFF), np.uint64(prime)
    half = np.uint64(32)
    low, high = hashes[..., 0], hashes[..., 1]
    carry = (low & digit) * p >> half
    carry = ((low >> half) * p + carry) >> half
    carry = ((high & digit) * p + carry) >> half
    return (((high >> half) * p + carry) >> half).astype(np.int64)
