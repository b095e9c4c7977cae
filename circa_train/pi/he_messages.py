"""The messages of homomorphic encryption: how long they are, their heads, and polynomials as bytes.

A message begins with 8 bytes of format, 16 that say kind, prime, parameters and packing, and a checksum of
16. The checksum finds accidents; against an attacker on the network use TLS. Numbers take the whole bytes
that their prime needs, and nothing is compressed: so the length is known before, and checked first.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np

from circa_train.pi import bfv
from circa_train.pi.bfv import DEGREE, HomomorphicError, Scheme, Words, pack_words, unpack_words
from circa_train.pi.linear_shape import LinearShape
from circa_train.pi.packing import Packing, choose

_FORMAT = b"circa-he"
HEAD_BYTES = len(_FORMAT) + 16 + 16

#: Bytes of one polynomial to the server, and of one to the client without the coefficients with results.
UP_BYTES = sum(bfv.WIDTHS) * DEGREE
DOWN_BYTES = bfv.WIDTHS[0] * DEGREE
KEY_BYTES = HEAD_BYTES + 2 * (sum(bfv.WIDTHS) + bfv.OWN_WIDTH) * DEGREE


@functools.cache
def packing_of(shape: LinearShape) -> Packing:
    """The packing that both parties use for a layer: the one with the fewest bytes.

    Raises:
        ValueError: naming a layer that is too wide, or has too many weights per output.
    """
    return choose(shape, DEGREE, bfv.MOST_WEIGHTS, UP_BYTES, DOWN_BYTES)


@dataclass(frozen=True)
class Traffic:
    """Ciphertexts and bytes of one layer. The public key, :data:`KEY_BYTES` once, is not in it."""

    requests: int
    answers: int
    bytes_up: int
    bytes_down: int


def traffic(shape: LinearShape) -> Traffic:
    """Exactly how long one request and its answer are. Needs no SEAL."""
    packing = packing_of(shape)
    requests = packing.row_tiles * packing.input_tiles
    answers = packing.row_tiles * packing.output_tiles
    results = int(np.prod(shape.output_shape))
    up = HEAD_BYTES + bfv.SEED_BYTES + requests * UP_BYTES
    down = HEAD_BYTES + answers * DOWN_BYTES + results * bfv.WIDTHS[0]
    return Traffic(requests, answers, up, down)


class Messages:
    """Heads before bodies, for one scheme."""

    def __init__(self, scheme: Scheme) -> None:
        self._parameters = f"{scheme.prime} {DEGREE} {scheme.moduli} {scheme.own_modulus}"

    def _about(self, kind: str, packing: Packing | None) -> bytes:
        text = f"{kind} {self._parameters} {packing}"
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    def write(self, kind: str, packing: Packing | None, body: bytes) -> bytes:
        head = _FORMAT + self._about(kind, packing)
        return head + _checksum(head, body) + body

    def read(self, kind: str, packing: Packing | None, message: bytes, length: int) -> memoryview:
        """The body of a message that must have this length.

        Raises:
            HomomorphicError: if it is not such a message, whole and undamaged.
        """
        if len(message) != length:
            raise HomomorphicError(f"{kind}: {len(message)} bytes instead of {length}")
        about, checksum = message[8:24], message[24:HEAD_BYTES]
        if not message.startswith(_FORMAT):
            raise HomomorphicError(
                f"{kind}: the message does not begin with {_FORMAT!r}; is the peer another program?"
            )
        if about != self._about(kind, packing):
            raise HomomorphicError(
                f"{kind}: the message is of another kind, or for another prime, layer or version of SEAL"
            )
        body = memoryview(message)[HEAD_BYTES:]
        if checksum != _checksum(message[:24], body):
            raise HomomorphicError(f"{kind}: the checksum is wrong, so the message was damaged on its way")
        return body


def _checksum(head: bytes, body: bytes | memoryview) -> bytes:
    checksum = hashlib.blake2b(head, digest_size=16)
    checksum.update(body)
    return checksum.digest()


def check_words(kind: str, words: Words, modulus: int) -> Words:
    if words.size and int(words.max()) >= modulus:
        raise HomomorphicError(f"{kind}: a number is not below its prime {modulus}, so this is no ciphertext")
    return words


def pack_polynomial(words: Words, widths: tuple[int, ...]) -> bytes:
    """One polynomial, modulo each prime. Inverse of :func:`unpack_polynomial`."""
    return b"".join(pack_words(row, width) for row, width in zip(words, widths, strict=True))


def unpack_polynomial(kind: str, part: memoryview, widths: tuple[int, ...], moduli: tuple[int, ...]) -> Words:
    starts = [DEGREE * sum(widths[:prime]) for prime in range(len(widths) + 1)]
    rows = [
        check_words(kind, unpack_words(part[first:last], width), modulus)
        for first, last, width, modulus in zip(starts, starts[1:], widths, moduli, strict=False)
    ]
    return np.stack(rows)
