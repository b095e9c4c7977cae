"""A party's end of the line: messages of the kinds that it names, field elements, and bytes by phase."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from circa_train.gc.protocol import Channel, Due, Message, MessageKind, Transport
from circa_train.pi.linear import Values
from circa_train.pi.pieces import ELEMENT_BYTES

Payload = NDArray[np.uint8]


@dataclass
class Traffic:
    """Bytes by (phase, place): headers and frames included, TLS not."""

    sent: Counter[tuple[str, str]] = field(default_factory=Counter)
    received: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: Traffic) -> None:
        """Add what another one counted."""
        self.sent.update(other.sent)
        self.received.update(other.received)

    def of(self, phase: str) -> tuple[int, int]:
        """(sent, received) in a phase."""
        return (
            sum(count for (name, _), count in self.sent.items() if name == phase),
            sum(count for (name, _), count in self.received.items() if name == phase),
        )


class Line:
    """One party's end. What it sends and receives, and the time that passes, counts for the phase and the
    place that it entered last.

    Raises (all methods):
        ConnectionError, TimeoutError: if the other party goes away, stays silent or announces too much.
        ValueError: if a message is damaged, out of turn or not what is due.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport, self._channel = transport, Channel(transport)
        self.traffic = Traffic()
        #: Seconds by (phase, place), and processor seconds of this thread by phase.
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.processor_seconds: defaultdict[str, float] = defaultdict(float)
        self.phase, self.place = "setup", ""
        self._since, self._processor_since = time.perf_counter(), time.thread_time()

    def enter(self, phase: str, place: str = "") -> None:
        """Count for another phase and place from now on."""
        now, processor_now = time.perf_counter(), time.thread_time()
        self.seconds[self.phase, self.place] += now - self._since
        self.processor_seconds[self.phase] += processor_now - self._processor_since
        self.phase, self.place, self._since, self._processor_since = phase, place, now, processor_now

    def send(
        self, kind: MessageKind, payload: Payload | bytes, *, circuit: bytes = bytes(8), first: int = 0,
        count: int = 0,
    ) -> None:  # fmt: skip
        """Send a message."""
        data = np.frombuffer(payload, dtype=np.uint8) if isinstance(payload, bytes) else payload
        self.send_message(Message(kind, data, circuit, first, count))

    def send_message(self, message: Message) -> None:
        """Send a message that is there already."""
        before = self._transport.sent_bytes
        self._channel.send(message)
        self.traffic.sent[self.phase, self.place] += self._transport.sent_bytes - before

    def receive(
        self, kind: MessageKind, size: int, *, circuit: bytes = bytes(8), first: int = 0, count: int = 0
    ) -> Message:
        """The next message, which must be of this kind and size, and about this."""
        due = Due(kind, size, circuit, first, count)
        before = self._transport.received_bytes
        message = due.check(self._channel.receive(due))
        self.traffic.received[self.phase, self.place] += self._transport.received_bytes - before
        return message

    def send_elements(self, values: Values) -> None:
        """Send field elements."""
        self.send(MessageKind.SHARES, to_words(values), count=values.size)

    def receive_elements(self, shape: tuple[int, ...], prime: int) -> Values:
        """Field elements, int64 of this shape."""
        count = int(np.prod(shape))
        message = self.receive(MessageKind.SHARES, ELEMENT_BYTES * count, count=count)
        return from_words(message.payload, prime).reshape(shape)

    def close(self) -> None:
        """Tell the other party that this one is gone."""
        self._transport.close()


def to_words(values: Values) -> Payload:
    """Canonical field elements as they are sent. Inverse of :func:`from_words`."""
    return values.astype("<u4").reshape(-1).view(np.uint8)


def from_words(payload: Payload, prime: int) -> Values:
    """Field elements that arrived, int64; ValueError if one is none."""
    words = payload.view("<u4")
    if len(words) and words.max() >= prime:
        raise ValueError(f"a message holds {words.max()}, which is no element of Z_{prime}")
    return words.astype(np.int64)
