"""What travels between the parties: a kind, where it belongs, a payload, and a digest over all of it.

Layout, little-endian: magic "CGC2", kind, flags (bit 0: digest present), two zero bytes, fingerprint of the
circuit (8), first instance (8), instances (8), payload length (8), number of the message in its direction
(8), session (16), then the digest (16, unless switched off), then the payload, which so starts on a 16-byte
boundary and is evaluated where it lies.

Session and number say which message of which connection this is (:mod:`circa_train.gc.protocol.channel`), so
that none can be played again, left out or taken from elsewhere. Outside a session both are zero.

The digest is the AES-GMAC of everything else under a fixed, public key: a 128-bit checksum that runs at
memory speed. It finds damage in transit before anything is evaluated. It is no authentication: against
somebody who alters messages on purpose, run the connection inside TLS
(:mod:`circa_train.gc.protocol.transport`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

_MAGIC = b"CGC2"
_HEADER = struct.Struct("<4sBBH8sQQQQ16s")
_HAS_DIGEST = 1
_NO_CIRCUIT = bytes(8)
_NONCE = bytes(12)
DIGEST_BYTES = 16

#: The session of what is sent outside any.
NO_SESSION = bytes(16)

#: Numbers of instances stay far from where 64-bit arithmetic on bytes would wrap.
_LAST_INSTANCE = 1 << 48


class MessageKind(IntEnum):
    """Who sends it, and what for."""

    HELLO = 1  # garbler: the public key of the hash
    BASE_OT_POINT = 2  # evaluator: the point of the base OT
    BASE_OT_CHOICES = 3  # garbler: the points that hide the bits of its offset
    OT_EXTENSION = 4  # evaluator: the matrix that hides its input bits
    TABLES = 5  # garbler: ciphertexts and output words
    INPUT_LABELS = 6  # garbler: active labels of its own inputs
    OPENING = 7  # either: its shares of the two opened differences of a multiplication
    CORRECTION = 8  # server: what mends the wraps of a rescaling, masked
    HANDSHAKE = 9  # either: which version, network and preparation of linear layers (circa_train.pi)
    ARCHITECTURE = 10  # server: the layers of its network, without weights
    REQUEST = 11  # client: prepare or run an inference, or end
    SHARES = 12  # either: masked field elements
    CIPHERTEXTS = 13  # either: homomorphic encryptions of one linear layer
    GATES = 14  # server: active labels, corrections and product words of a piece of a round trip
    ANSWER = 15  # client: transfers and shares of a round trip, masked
    RECORD = 16  # nobody: a record of a store on the disk


def chunks(instances: int, chunk: int) -> Iterator[slice]:
    """The parts of a layer that travel one after the other, ``chunk`` instances each, the last with fewer."""
    if chunk < 1:
        raise ValueError(f"chunk = {chunk}: must be at least 1")
    return (slice(start, min(start + chunk, instances)) for start in range(0, instances, chunk))


@dataclass(frozen=True, eq=False)
class Message:
    """One message.

    Attributes:
        kind: what it is.
        payload: uint8 (bytes,).
        circuit: fingerprint of the circuit it belongs to, 8 bytes; zeros if to none.
        first_instance: number of its first instance within the session.
        instances: how many instances it is about.
    """

    kind: MessageKind
    payload: NDArray[np.uint8]
    circuit: bytes = _NO_CIRCUIT
    first_instance: int = 0
    instances: int = 0

    def to_bytes(self, *, digest: bool = True, session: bytes = NO_SESSION, number: int = 0) -> bytes:
        """The message as it is sent, as number ``number`` of ``session``. Inverse of :meth:`from_bytes`."""
        return b"".join(self.to_parts(digest=digest, session=session, number=number))

    def to_parts(
        self, *, digest: bool = True, session: bytes = NO_SESSION, number: int = 0
    ) -> tuple[bytes, memoryview]:
        """The two parts of :meth:`to_bytes`: what stands before the payload, and the payload, not copied."""
        payload = np.ascontiguousarray(self.payload)
        header = _HEADER.pack(
            _MAGIC, self.kind, _HAS_DIGEST if digest else 0, 0, self.circuit, self.first_instance,
            self.instances, len(payload), number, session,
        )  # fmt: skip
        checksum = _checksum(header, payload) if digest else b""
        return header + checksum, payload.data

    @classmethod
    def from_bytes(
        cls,
        data: bytes | bytearray | memoryview,
        *,
        digest: bool = True,
        session: bytes | None = NO_SESSION,
        number: int = 0,
    ) -> Message:
        """Read a message that arrived; ``digest`` says whether it must carry one, ``session`` and ``number``
        which one it must be, None for any session.

        Raises:
            ValueError: if it is too short, of an unknown version or kind, not as long as it says, has or
                lacks a digest unexpectedly, does not match its digest, or is another message of this session
                or one of another session.
        """
        if len(data) < _HEADER.size:
            raise ValueError(
                f"message of {len(data)} bytes: too short for a header of {_HEADER.size}; was it cut off?"
            )
        magic, kind, flags, unused, circuit, first, instances, length, numbered, named = _HEADER.unpack_from(
            data
        )
        if magic != _MAGIC:
            raise ValueError(
                f"message starts with {magic!r} instead of {_MAGIC!r}: not from this protocol or version"
            )
        if kind not in set(MessageKind):
            raise ValueError(f"message of unknown kind {kind}")
        if flags != (_HAS_DIGEST if digest else 0) or unused:
            raise ValueError(
                f"message flags {flags}: both sides must agree on whether messages carry a digest"
            )
        start = _HEADER.size + (DIGEST_BYTES if digest else 0)
        if len(data) != start + length:
            raise ValueError(
                f"message of {len(data)} bytes should have {start + length}; it was cut off or run together"
            )
        if first + instances > _LAST_INSTANCE:
            raise ValueError(
                f"message about instances {first} to {first + instances}: no session has so many"
            )
        payload = np.frombuffer(data, dtype=np.uint8, offset=start)
        if digest and _checksum(data[: _HEADER.size], payload) != data[_HEADER.size : start]:
            raise ValueError(
                f"{MessageKind(kind).name} message does not match its digest: it was damaged in transit"
            )
        if session is not None and named != session:
            raise ValueError(
                f"{MessageKind(kind).name} message is of session {named.hex()}, not {session.hex()}: "
                "it belongs to another connection"
            )
        if numbered != number:
            raise ValueError(
                f"{MessageKind(kind).name} message is number {numbered} of its session, due is {number}: "
                "one was lost, or this one was played again"
            )
        return cls(MessageKind(kind), payload, circuit, first, instances)

    @classmethod
    def without_payload(cls, beginning: bytes | bytearray) -> Message | None:
        """What a message says of itself whose payload shall not be read; None if it is none of ours."""
        if len(beginning) < _HEADER.size:
            return None
        magic, kind, _, _, circuit, first, instances, *_ = _HEADER.unpack_from(beginning)
        if magic != _MAGIC or kind not in set(MessageKind):
            return None
        return cls(MessageKind(kind), np.empty(0, dtype=np.uint8), circuit, first, instances)

    @staticmethod
    def session_of(data: bytes | bytearray) -> bytes:
        """The session that a message names, which :meth:`from_bytes` has accepted."""
        return bytes(_HEADER.unpack_from(data)[-1])

    def expect(
        self, kind: MessageKind, payload_bytes: int, circuit: bytes = _NO_CIRCUIT
    ) -> NDArray[np.uint8]:
        """The payload, if the message is of this kind, about this circuit and this long; else a
        ValueError.
        """
        if self.kind != kind:
            raise ValueError(
                f"expected a {kind.name} message, got {self.kind.name}: the parties are out of step"
            )
        if self.circuit != circuit:
            raise ValueError(
                f"{kind.name} message is for circuit {self.circuit.hex()}, not {circuit.hex()}: "
                "both parties must use the same prime, k, mode and kind of circuit"
            )
        if len(self.payload) != payload_bytes:
            raise ValueError(f"{kind.name} payload has {len(self.payload)} bytes instead of {payload_bytes}")
        return self.payload


@dataclass(frozen=True)
class Due:
    """Which message a party waits for, known before any of it has come: what bounds the memory it may take.

    Attributes:
        kind, circuit, first_instance, instances: as in :class:`Message`.
        payload_bytes: the length of its payload.
    """

    kind: MessageKind
    payload_bytes: int
    circuit: bytes = _NO_CIRCUIT
    first_instance: int = 0
    instances: int = 0

    def check(self, message: Message) -> Message:
        """``message``, if it is what is due.

        Raises:
            ValueError: saying what differs: the kind, the circuit, the instances or the length.
        """
        self.check_place(message)
        message.expect(self.kind, self.payload_bytes, self.circuit)
        return message

    def check_place(self, message: Message) -> None:
        """The same without the length of the payload, for a message whose payload is not there yet."""
        if message.kind != self.kind:
            raise ValueError(
                f"expected a {self.kind.name} message, got {message.kind.name}: the parties are out of step"
            )
        if message.circuit != self.circuit:
            raise ValueError(
                f"{message.kind.name} is of another circuit, {message.circuit.hex()} and not "
                f"{self.circuit.hex()}: both parties need the same prime, k, mode and kind of circuit"
            )
        here, there = (
            (part.first_instance, part.first_instance + part.instances) for part in (self, message)
        )
        if here != there:
            raise ValueError(
                f"{message.kind.name} is for instances {there[0]} to {there[1]}, expected {here[0]} to "
                f"{here[1]}: both parties need layers of the same length and the same chunk"
            )


def overhead(*, digest: bool = True) -> int:
    """Bytes that a message has besides its payload."""
    return _HEADER.size + (DIGEST_BYTES if digest else 0)


def _checksum(header: bytes | bytearray | memoryview, payload: NDArray[np.uint8]) -> bytes:
    # The nonce binds the header by a first tag, so that the payload need not be copied behind it.
    gmac = AESGCM(bytes(16))
    of_header = gmac.encrypt(_NONCE, b"", header)
    return gmac.encrypt(of_header[: len(_NONCE)], b"", payload.data)
