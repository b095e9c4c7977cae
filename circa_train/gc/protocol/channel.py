"""One session of two parties over a transport: who it is between, and which message comes next.

The first message of either party names 16 random bytes of the operating system as its session, whatever seed
the rest comes from. From there on

    session of a direction = first 16 bytes of SHA-256("circa_train session" || sender's bytes || receiver's)

and every message carries the session of its direction and its number in it, from 0. So a message is accepted
in one place of one connection only: not in another session, whose random bytes differ at least in those that
the receiver drew; not twice, later or earlier; and not by the party that sent it. A first message that was
taken from elsewhere brings other random bytes with it, and the next one does not fit.

What is due bounds what is read: a party knows kind, circuit, instances and length of the next message, and
one that announces more is refused before room is made for it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

from circa_train.gc.protocol.messages import NO_SESSION, Due, Message, MessageKind, overhead
from circa_train.gc.protocol.transport import OverlongMessage, Transport


@dataclass
class Traffic:
    """Bytes one party sent, by kind of message, headers included and frames of the transport not."""

    sent: dict[MessageKind, int] = field(default_factory=dict)

    def add(self, kind: MessageKind, size: int) -> None:
        """Count a message."""
        self.sent[kind] = self.sent.get(kind, 0) + size

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.sent.values())


class Channel:
    """One party's end of a session.

    Args:
        transport: connected to the other party, which has its own channel at the other end.
        digest: whether messages carry a digest.
    """

    def __init__(self, transport: Transport, *, digest: bool = True) -> None:
        self._transport, self._digest = transport, digest
        self._mine = os.urandom(len(NO_SESSION))
        self._theirs: bytes | None = None
        self._sent = self._received = 0
        #: What this party sent so far.
        self.traffic = Traffic()

    def send(self, message: Message) -> None:
        """Send the next message.

        Raises:
            ConnectionError, TimeoutError: if the other party goes away or takes nothing.
            RuntimeError: at the second message, if none has come: only then is there a session to name.
        """
        if self._sent == 0:
            session = self._mine
        elif self._theirs is None:
            raise RuntimeError("a party sends one message, then waits for one: only then is there a session")
        else:
            session = _session(self._mine, self._theirs)
        data = message.to_bytes(digest=self._digest, session=session, number=self._sent)
        self._transport.send(data)
        self._sent += 1
        self.traffic.add(message.kind, len(data))

    def receive(self, due: Due) -> Message:
        """The other party's next message, no longer than the one ``due``; who takes it checks the rest.

        Raises:
            ConnectionError, TimeoutError: if the other party goes away, stays silent or announces too much.
            ValueError: if the message is damaged, of another session or out of turn.
        """
        try:
            data = self._transport.receive(overhead(digest=self._digest) + due.payload_bytes)
        except OverlongMessage as error:
            if announced := Message.without_payload(error.beginning):
                due.check_place(announced)  # says more than the length, if this is what is wrong
            raise
        session = None if self._theirs is None else _session(self._theirs, self._mine)
        message = Message.from_bytes(data, digest=self._digest, session=session, number=self._received)
        if self._theirs is None:
            self._theirs = Message.session_of(data)
            if self._theirs == self._mine:
                raise ValueError(
                    f"{message.kind.name} message is of this party's own session: the connection leads back "
                    "to where it came from"
                )
        self._received += 1
        return message


def _session(sender: bytes, receiver: bytes) -> bytes:
    return hashlib.sha256(b"circa_train session" + sender + receiver).digest()[: len(NO_SESSION)]
