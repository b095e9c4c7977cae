"""How two parties find out whether they speak the same protocol about the same network, before anything else
is sent.

The client's first message says what it expects: digests of an architecture and of parameters, zeros where it
takes any. The server answers with its own. Both compare, and both refuse by name; no weight is sent, and the
server has sent nothing but digests when a client is refused. Then the client asks for the architecture if it
has none.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from circa_train.gc.protocol import MessageKind
from circa_train.pi.architecture import MAX_BYTES, Architecture
from circa_train.pi.line import Line

#: Of this protocol; both parties need the same.
VERSION = 1

#: How linear layers are prepared.
Offline = Literal["dealer", "homomorphic"]
OFFLINES: tuple[Offline, ...] = ("dealer", "homomorphic")

ANY = bytes(32)

_GREETING = struct.Struct("<4sIBxHI32s32s16x")
_REQUEST = struct.Struct("<BxxxI16s8x")
_MAGIC = b"CTPI"

GREETING_BYTES, REQUEST_BYTES = _GREETING.size, _REQUEST.size

#: What a client may ask for.
PREPARE, INFER, END, DESCRIBE = 1, 2, 3, 4

#: What the server answers.
READY, NO_STORE = 0, 1


class Refused(ConnectionError):
    """Both parties are there, and do not agree: another version, network, or way of preparing it."""


@dataclass(frozen=True)
class Greeting:
    """What either party says first.

    Attributes:
        offline: how linear layers are prepared.
        architecture, parameters: digests, 32 bytes; ``ANY`` of a client that takes any.
        dealer_port: where the server's own dealer listens; 0 if it has none.
        architecture_bytes: length of the architecture as JSON.
        version: of the protocol.
    """

    offline: Offline
    architecture: bytes = ANY
    parameters: bytes = ANY
    dealer_port: int = 0
    architecture_bytes: int = 0
    version: int = VERSION

    def send(self, line: Line) -> None:
        """Send it."""
        line.send(
            MessageKind.HANDSHAKE,
            _GREETING.pack(
                _MAGIC, self.version, OFFLINES.index(self.offline), self.dealer_port, self.architecture_bytes,
                self.architecture, self.parameters,
            ),
        )  # fmt: skip

    @classmethod
    def receive(cls, line: Line) -> Greeting:
        """The other party's.

        Raises:
            Refused: if it is of another protocol.
        """
        payload = line.receive(MessageKind.HANDSHAKE, _GREETING.size).payload.tobytes()
        magic, version, offline, port, length, architecture, parameters = _GREETING.unpack(payload)
        if magic != _MAGIC or version != VERSION:
            raise Refused(
                f"the other party speaks version {version} of private inference, this one {VERSION}: "
                "both need the same circa_train"
            )
        if offline >= len(OFFLINES) or length > MAX_BYTES:
            raise Refused("the other party's greeting is not understood: it is damaged, or another program")
        return cls(OFFLINES[offline], architecture, parameters, port, length)


def check(ours: Greeting, theirs: Greeting) -> None:
    """Refused, naming what differs."""
    if ours.offline != theirs.offline:
        raise Refused(
            f"this party prepares linear layers by pi.offline={ours.offline}, the other one by "
            f"{theirs.offline}: both need the same"
        )
    for what in ("architecture", "parameters"):
        here, there = getattr(ours, what), getattr(theirs, what)
        if ANY not in (here, there) and here != there:
            raise Refused(
                f"the other party has another network: its {what} have the digest {there.hex()}, here it is "
                f"{here.hex()}"
            )


def ask(line: Line, what: int, number: bytes = bytes(16), images: int = 0) -> int:
    """The client's request, and the server's answer."""
    line.send(MessageKind.REQUEST, _REQUEST.pack(what, images, number))
    return int(line.receive(MessageKind.REQUEST, 1).payload[0])


def asked(line: Line) -> tuple[int, bytes, int]:
    """The server's side: (what, number, images)."""
    payload = line.receive(MessageKind.REQUEST, _REQUEST.size).payload.tobytes()
    what, images, number = _REQUEST.unpack(payload)
    return what, number, images


def reply(line: Line, code: int) -> None:
    """The server's answer to a request."""
    line.send(MessageKind.REQUEST, bytes([code]))


def fetch_architecture(line: Line, theirs: Greeting) -> Architecture:
    """The server's architecture, checked against the digest that it greeted with.

    Raises:
        Refused: if it is another.
        ArchitectureError: if it contradicts itself.
    """
    ask(line, DESCRIBE)
    payload = line.receive(MessageKind.ARCHITECTURE, theirs.architecture_bytes).payload
    architecture = Architecture.from_json(payload.tobytes())
    if architecture.digest != theirs.architecture:
        raise Refused("the server's architecture does not have the digest that it announced")
    return architecture
