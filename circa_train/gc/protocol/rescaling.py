"""Dropping fraction bits of a shared value between two parties: each shifts an offset share, and one
correlated oblivious transfer corrects the wrap.

The server holds x_s = (x + r) mod p, the client r, and |x| < p / 4. With o = floor(p / 4):

    server      u = (x_s + o) mod p;  holds (u >> bits) - (o >> bits)
    client      holds -((r + o mod 2^bits) >> bits)
    wrap        x + o + r passed p exactly if a = [r > p / 2] and c = [u < p / 2]

The client knows a before x is there, the server knows c and with it the correction
d = ((u + p) >> bits) - (u >> bits), or 0 where c is 0. Transfer j gives the server a block q, the client
q ^ a R (:mod:`circa_train.gc.protocol.ot`); hashed to Z_p, these are pads h0 and h1 or the one of both that a
chooses. The server sends z = h0 - h1 + d, one field element, and keeps -h0; the client keeps h0, or h1 + z.
Their sum is a d.

:func:`server` and :func:`client` rescale a layer on its own. In a ReLU the same halves ride in its round trip
(``bits`` of :mod:`circa_train.gc.protocol.parties`): both truncate, then multiply by the gate.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from circa_train.field import check_prime
from circa_train.gc.aes.engines import make_kernel
from circa_train.gc.aes.key_schedule import KEY_BYTES
from circa_train.gc.aes.randomness import Randomness, Seed
from circa_train.gc.circuits.sign import canonical
from circa_train.gc.protocol.base_ot import POINT_BYTES
from circa_train.gc.protocol.gating import both_pads, pads, send_product, take_product
from circa_train.gc.protocol.messages import Due, Message, MessageKind, chunks
from circa_train.gc.protocol.ot import COLUMNS, EvaluatorTransfer, GarblerTransfer, column_bytes

Share = NDArray[np.int64]
Steps = Generator[Message | Due, Message, Share]

#: What the server sends per value: a field element.
CORRECTION_BYTES = 4


@dataclass(frozen=True)
class Rescaling:
    """Drop ``bits`` low bits of values of Z_p."""

    prime: int
    bits: int

    def __post_init__(self) -> None:
        check_prime(self.prime)
        if not 0 < self.bits <= self.prime.bit_length() - 3:
            raise ValueError(
                f"bits to drop = {self.bits} is outside [1, {self.prime.bit_length() - 3}], which p = "
                f"{self.prime} leaves room for"
            )

    def server_half(self, share: Share) -> tuple[Share, Share]:
        """(the server's share, not yet corrected; the correction d) from x_s in [0, p)."""
        p, offset = self.prime, self.prime // 4
        u = (share + offset) % p
        correction = np.where(u <= p // 2, ((u + p) >> self.bits) - (u >> self.bits), 0)
        return (u >> self.bits) - (offset >> self.bits), correction

    def client_half(self, mask: Share) -> tuple[Share, NDArray[np.bool_]]:
        """(the client's share, not yet corrected; its choice a) from r in [0, p)."""
        low = self.prime // 4 % (1 << self.bits)
        return -((mask + low) >> self.bits), mask > self.prime // 2

    def correct(self, correction: Share, pads: tuple[Share, Share]) -> tuple[Message, Share]:
        """(the server's message, its share of a d), from d and the pads (h0, h1) of both choices."""
        words, own = send_product(correction, pads, self.prime)
        payload = words.astype("<u4").view(np.uint8)
        return Message(MessageKind.CORRECTION, payload, instances=len(words)), own

    def corrected(self, message: Message, choice: NDArray[np.bool_], pad: Share) -> Share:
        """The client's share of a d, from the server's message and the pad of its choice.

        Raises:
            ValueError: if the message holds what is no field element.
        """
        words = message.payload.view("<u4").astype(np.int64)
        if (words >= self.prime).any():
            raise ValueError(
                f"the server's correction holds {words.max()}, which is no element of Z_{self.prime}"
            )
        return take_product(words, choice, pad, self.prime)


def server(
    rescaling: Rescaling, server_share: Share, *, seed: Seed = None, kernel: str = "auto", chunk: int
) -> Steps:
    """The party with x_s, int64 (instances,), step by step; returns its canonical share of the rescaled x."""
    share = canonical(server_share, rescaling.prime, "server share")
    random = Randomness(seed, "server", kernel)
    offset = random.blocks(1)[0]
    key = random.secret("key of the hash")[:KEY_BYTES]
    hashes = make_kernel(key, kernel)
    transfer = GarblerTransfer(offset, random.child("transfer"))
    base_point = yield Due(MessageKind.BASE_OT_POINT, POINT_BYTES)
    yield Message(MessageKind.HELLO, np.frombuffer(key, dtype=np.uint8))
    yield transfer.setup(base_point)
    result = np.empty_like(share)
    for part in chunks(len(share), chunk):
        count = part.stop - part.start
        size = COLUMNS * column_bytes(count)
        matrix = yield Due(MessageKind.OT_EXTENSION, size, first_instance=part.start, instances=count)
        blocks = transfer.extend(matrix, count)
        pair = both_pads(hashes, blocks, offset, 0, part.start, rescaling.prime)
        own, correction = rescaling.server_half(share[part])
        message, corrected = rescaling.correct(correction, pair)
        yield replace(message, first_instance=part.start)
        result[part] = (own + corrected) % rescaling.prime
    return result


def client(
    rescaling: Rescaling, mask: Share, *, seed: Seed = None, kernel: str = "auto", chunk: int
) -> Steps:
    """The party with r, int64 (instances,), step by step; returns its canonical share of the rescaled x."""
    r = canonical(mask, rescaling.prime, "mask")
    transfer = EvaluatorTransfer(Randomness(seed, "client", kernel))
    yield transfer.hello()
    hello = yield Due(MessageKind.HELLO, KEY_BYTES)
    hashes = make_kernel(hello.expect(MessageKind.HELLO, KEY_BYTES).tobytes(), kernel)
    transfer.setup((yield Due(MessageKind.BASE_OT_CHOICES, COLUMNS * POINT_BYTES)))
    result = np.empty_like(r)
    for part in chunks(len(r), chunk):
        count = part.stop - part.start
        own, choice = rescaling.client_half(r[part])
        matrix, blocks = transfer.extend(choice)
        yield replace(matrix, first_instance=part.start, instances=count)
        message = yield Due(
            MessageKind.CORRECTION, CORRECTION_BYTES * count, first_instance=part.start, instances=count
        )
        pad = pads(hashes, blocks, 0, part.start, rescaling.prime)
        result[part] = (own + rescaling.corrected(message, choice, pad)) % rescaling.prime
    return result
