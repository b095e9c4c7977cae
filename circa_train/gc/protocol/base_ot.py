"""128 base oblivious transfers on Ed25519, from which :mod:`circa_train.gc.protocol.ot` makes millions.

The construction of Chou and Orlandi ("The simplest protocol for oblivious transfer", LatinCrypt 2015), used
against honest-but-curious parties: B is the base point, h a hash of the transfer's number, both points and
the shared point.

    sender      y random, sends S = y B
    receiver    choice c, x random, sends T = x B + c S, keeps h(x S)
    sender      keeps h(y T) and h(y (T - S)), of which the receiver knows number c
                and nothing about the other

Received points are checked to be canonical, on the curve and in the prime-order subgroup.
"""

from __future__ import annotations

import hashlib

import numpy as np
from nacl import bindings as sodium
from numpy.typing import NDArray

from circa_train.gc.aes.randomness import Randomness
from circa_train.gc.protocol.messages import Message, MessageKind

POINT_BYTES = 32
SEED_BYTES = 16


class BaseSender:
    """Ends with two seeds per transfer."""

    def __init__(self, transfers: int, random: Randomness) -> None:
        self._transfers = transfers
        self._scalar = sodium.crypto_core_ed25519_scalar_reduce(random.secret("base OT sender"))
        self._point = sodium.crypto_scalarmult_ed25519_base_noclamp(self._scalar)

    def message(self) -> Message:
        """S."""
        return Message(MessageKind.BASE_OT_POINT, np.frombuffer(self._point, dtype=np.uint8))

    def seeds(self, reply: Message) -> list[tuple[bytes, bytes]]:
        """Both seeds of every transfer, from the receiver's points.

        Raises:
            ValueError: if the reply is of another kind or length, or holds an invalid point.
        """
        payload = reply.expect(MessageKind.BASE_OT_CHOICES, self._transfers * POINT_BYTES).tobytes()
        own = sodium.crypto_scalarmult_ed25519_noclamp(self._scalar, self._point)
        pairs = []
        for i in range(self._transfers):
            point = _checked(payload[i * POINT_BYTES : (i + 1) * POINT_BYTES], f"point {i} of the base OT")
            shared = sodium.crypto_scalarmult_ed25519_noclamp(self._scalar, point)
            other = sodium.crypto_core_ed25519_sub(shared, own)
            pairs.append((_seed(i, self._point, point, shared), _seed(i, self._point, point, other)))
        return pairs


class BaseReceiver:
    """Ends with the seed it chose, per transfer. ``choices`` is bool (transfers,)."""

    def __init__(self, choices: NDArray[np.bool_], random: Randomness) -> None:
        self._choices = choices
        self._random = random

    def reply(self, message: Message) -> tuple[Message, list[bytes]]:
        """(the points T, the chosen seeds) for the sender's point.

        Raises:
            ValueError: if the message is of another kind or length, or holds an invalid point.
        """
        payload = message.expect(MessageKind.BASE_OT_POINT, POINT_BYTES).tobytes()
        sender = _checked(payload, "the sender's point of the base OT")
        points, seeds = [], []
        for i, choice in enumerate(self._choices.tolist()):
            scalar = sodium.crypto_core_ed25519_scalar_reduce(self._random.secret(f"base OT receiver {i}"))
            point = sodium.crypto_scalarmult_ed25519_base_noclamp(scalar)
            if choice:
                point = sodium.crypto_core_ed25519_add(point, sender)
            points.append(point)
            seeds.append(_seed(i, sender, point, sodium.crypto_scalarmult_ed25519_noclamp(scalar, sender)))
        joined = np.frombuffer(b"".join(points), dtype=np.uint8)
        return Message(MessageKind.BASE_OT_CHOICES, joined), seeds


def _checked(point: bytes, name: str) -> bytes:
    if not sodium.crypto_core_ed25519_is_valid_point(point):
        raise ValueError(f"{name} is no element of the prime-order group of Ed25519: {point.hex()}")
    return point


def _seed(number: int, sender: bytes, receiver: bytes, shared: bytes) -> bytes:
    return hashlib.sha256(number.to_bytes(4, "little") + sender + receiver + shared).digest()[:SEED_BYTES]
