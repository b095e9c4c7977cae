"""An attack on the messages of two parties: damaged, replayed, swapped and forged ones, and peers that die or
dawdle.

:func:`damaged_messages` runs the protocol step by step and offers every message in many wrong forms before
the right one: each must be refused by name and leave no trace, so that the right one is still accepted and
the result is still the right one. :func:`failing_peers` lets one party go wrong in the middle of a session
over a socket: the other must hear of it within seconds and end without a share.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from circa_train.field import to_centred
from circa_train.gc.circuits.relu import ReluCircuit
from circa_train.gc.protocol.beaver import TrustedDealer
from circa_train.gc.protocol.channel import Channel
from circa_train.gc.protocol.messages import Message, MessageKind
from circa_train.gc.protocol.parties import Party, client, run_party, server
from circa_train.gc.protocol.transport import Listener, SocketTransport, connect, memory_pair
from tests.torture.tally import Tally

CIRCUITS = (ReluCircuit(k=3, prime=251), ReluCircuit("exact", prime=251), ReluCircuit("full", prime=31))
INSTANCES, CHUNK = 12, 5

#: What is promised to whoever runs a party.
NAMED = (ValueError, ConnectionError, TimeoutError)

#: Seconds until a party gives up on a message, and until an attempt counts as a hang.
PATIENCE, HANG = 0.4, 10.0


def parties(relu: ReluCircuit, seed: int) -> tuple[Party, Party, np.ndarray]:
    """(server, client, y) of a small layer."""
    rng = np.random.default_rng(seed)
    server_share, mask = rng.integers(0, relu.prime, (2, INSTANCES))
    deals = TrustedDealer(relu.prime, seed).deal_on_demand() if relu.shares_bit else (None, None)
    pair = (
        server(relu, server_share, deals[0], kernel="numpy", chunk=CHUNK),
        client(relu, mask, deals[1], kernel="numpy", chunk=CHUNK),
    )
    value = relu.cleartext(server_share, mask)
    y = value if relu.kind == "full" else value * to_centred(server_share - mask, relu.prime)
    return *pair, y


class Session:
    """Both parties of a layer, run step by step by whoever wants to meddle."""

    def __init__(self, relu: ReluCircuit, seed: int) -> None:
        self.relu = relu
        self._parties = parties(relu, seed)[:2]
        self.y = parties(relu, seed)[2]
        self._ends = memory_pair(PATIENCE)
        self.channels = [Channel(end) for end in self._ends]
        #: What each party was sent so far.
        self.received: list[list[bytes]] = [[], []]
        self.shares: list[np.ndarray | None] = [None, None]

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """(who is to receive it, the message) one after the other; each is delivered when the next is asked
        for.
        """
        wanted = [next(party) for party in self._parties]
        waiting: list[list[bytes]] = [[], []]
        while any(share is None for share in self.shares):
            for me in range(2):
                while self.shares[me] is None and (wanted[me] is not None or waiting[me]):
                    try:
                        if wanted[me] is not None:
                            self.channels[me].send(wanted[me])
                            waiting[1 - me].append(self._ends[1 - me].receive())
                            wanted[me] = next(self._parties[me])
                        else:
                            data = waiting[me].pop(0)
                            yield me, data
                            self.received[me].append(data)
                            self._ends[1 - me].send(data)
                            due = self._parties[me].due
                            wanted[me] = self._parties[me].send(self.channels[me].receive(due))
                    except StopIteration as end:
                        self.shares[me] = end.value

    def offer(self, me: int, data: bytes) -> Exception | None:
        """The error with which party ``me`` refuses ``data`` as its next message; None if it takes it. The
        session is not moved.
        """
        self._ends[1 - me].send(data)
        due = self._parties[me].due
        try:
            due.check(copy.copy(self.channels[me]).receive(due))
        except Exception as error:
            return error
        return None

    def right(self) -> bool:
        """Whether the shares are those of y."""
        return bool((to_centred(sum(self.shares) % self.relu.prime, self.relu.prime) == self.y).all())


def damaged_messages(count: int, seed: int) -> Tally:
    """At least ``count`` wrong messages, offered where right ones are due."""
    rng, tally = random.Random(seed), Tally()
    while tally.counts["damaged messages"] < count:
        relu = rng.choice(CIRCUITS)
        shared = rng.randrange(1 << 30)
        other = Session(relu, shared)
        for _ in other.messages():
            pass
        session = Session(relu, shared)
        for me, data in session.messages():
            for name, wrong in _variants(rng, session, other, me, data):
                if wrong == data or tally.counts["damaged messages"] >= count:
                    continue
                tally.counts["damaged messages"] += 1
                started = time.monotonic()
                error = session.offer(me, wrong)
                what = f"seed {seed}, {relu.kind}: message {len(session.received[me])} to party {me}, {name}"
                if error is None:
                    tally.wrong.append(f"{what}: accepted")
                elif not isinstance(error, NAMED):
                    tally.raised.append(f"{what}: {error!r}")
                if time.monotonic() - started > HANG:
                    tally.hung.append(what)
                tally.outcomes[f"{name}: {type(error).__name__}"] += 1
        if not session.right():
            tally.wrong.append(f"seed {seed}, {relu.kind}: refused messages changed the result")
    return tally


def _variants(
    rng: random.Random, session: Session, other: Session, me: int, data: bytes
) -> Iterator[tuple[str, bytes]]:
    """(what was done, a message that must not be accepted in place of ``data``)."""
    for _ in range(8):
        flipped = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            flipped[rng.choice((rng.randrange(len(data)), rng.randrange(80)))] ^= 1 << rng.randrange(8)
        yield "flipped", bytes(flipped)
    yield "cut off", data[: rng.randrange(len(data))]
    yield "extended", data + rng.randbytes(rng.choice((1, 16, 5000)))
    yield "noise", rng.randbytes(rng.choice((0, 8, 64, 80, 112, len(data))))
    number = len(session.received[me])
    if number:  # the first message names its session: a wrong one is noticed at the second
        yield "of another session", other.received[me][number]
        yield "of another session, elsewhere", rng.choice(other.received[me])
        yield "replayed", rng.choice(session.received[me])
    if session.received[1 - me]:
        yield "sent back", rng.choice(session.received[1 - me])
    message, named = Message.from_bytes(data, session=None, number=number), Message.session_of(data)
    forged = {
        "another number": message.to_bytes(session=named, number=number + rng.choice((1, 2, 1 << 40))),
        "another circuit": replace(message, circuit=rng.randbytes(8)).to_bytes(session=named, number=number),
        "another part": replace(message, first_instance=message.first_instance + 5).to_bytes(
            session=named, number=number
        ),
        "of another length": replace(message, payload=message.payload[: rng.randrange(len(message.payload))])
        .to_bytes(session=named, number=number),
        "of another kind": replace(
            message, kind=rng.choice([kind for kind in MessageKind if kind != message.kind])
        ).to_bytes(session=named, number=number),
        "without digest": message.to_bytes(digest=False, session=named, number=number),
    }  # fmt: skip
    if number:
        forged["without session"] = message.to_bytes(number=number)
    yield from forged.items()


class Sabotage:
    """A transport whose ``number``-th message goes wrong in one way."""

    WAYS = ("dies", "dies inside", "silent", "dawdles", "giant", "swaps", "drops", "twice", "old session")

    def __init__(self, inner: SocketTransport, way: str, number: int, old: list[bytes]) -> None:
        self._inner, self._way, self._number, self._old = inner, way, number, old
        self._count = -1
        self._held: bytes | None = None
        #: Whether anything has gone wrong yet.
        self.done = False

    def send(self, data: bytes) -> None:
        self._count += 1
        if self._held is not None:
            held, self._held = self._held, None
            self._inner.send(data)
            self._inner.send(held)
        elif self._count != self._number:
            self._inner.send(data)
        else:
            self.done = True
            getattr(self, f"_{self._way.replace(' ', '_')}")(data)

    def receive(self, limit: int) -> bytes | bytearray:
        return self._inner.receive(limit)

    def close(self) -> None:
        self._inner.close()

    def _dies(self, data: bytes) -> None:
        self._inner.close()
        raise ConnectionError("the saboteur has left")

    def _dies_inside(self, data: bytes) -> None:
        self._raw(len(data).to_bytes(8, "little") + data[: len(data) // 2])
        self._dies(data)

    def _silent(self, data: bytes) -> None:
        time.sleep(3 * PATIENCE)
        self._dies(data)

    def _dawdles(self, data: bytes) -> None:
        for byte in len(data).to_bytes(8, "little") + data:
            self._raw(bytes([byte]))  # fails as soon as the other has given up
            time.sleep(PATIENCE / 20)

    def _giant(self, data: bytes) -> None:
        length = (1 << 31, (1 << 64) - 1, 1 << 30)[len(data) % 3]
        self._raw(length.to_bytes(8, "little") + data)

    def _swaps(self, data: bytes) -> None:
        self._held = data

    def _drops(self, data: bytes) -> None:
        pass

    def _twice(self, data: bytes) -> None:
        self._inner.send(data)
        self._inner.send(data)

    def _old_session(self, data: bytes) -> None:
        self._inner.send(self._old[self._number])

    def _raw(self, data: bytes) -> None:
        try:
            self._inner._socket.sendall(data)
        except OSError as error:
            raise ConnectionError("the victim has given up") from error


def failing_peers(count: int, seed: int) -> Tally:
    """``count`` sessions over sockets, in each of which one party goes wrong at some message."""
    rng, tally = random.Random(seed), Tally()
    old = {relu: _recorded(relu, 1) for relu in CIRCUITS}
    for attempt in range(count):
        relu, way, bad = rng.choice(CIRCUITS), Sabotage.WAYS[attempt % len(Sabotage.WAYS)], rng.randrange(2)
        number = rng.randrange(len(old[relu][1 - bad]))
        what = f"seed {seed}, {relu.kind}: party {bad} {way} at its message {number}"
        server_party, client_party, y = parties(relu, 1)
        pair = (server_party, client_party)
        with Listener(timeout=5) as listener, ThreadPoolExecutor(2) as pool:
            theirs = connect(listener.address, timeout=PATIENCE)
            ends = [listener.accept(), theirs]
            ends[0]._timeout = PATIENCE
            saboteur = Sabotage(ends[bad], way, number, old[relu][1 - bad])
            lines = [saboteur if me == bad else ends[me] for me in range(2)]
            started = time.monotonic()
            jobs = [pool.submit(run_party, *at) for at in zip(pair, lines, strict=True)]
            errors = [job.exception() for job in jobs]
            seconds = time.monotonic() - started
        tally.counts["failing peers"] += 1
        tally.outcomes[f"{way}: {type(errors[1 - bad]).__name__}"] += 1
        last = number == len(old[relu][1 - bad]) - 1
        if errors[1 - bad] is None:
            # What came twice at the very end was never read.
            shares = [job.result()[0] for job in jobs if job.exception() is None]
            if not (last and way == "twice" and _is_right(shares, relu, y)):
                tally.wrong.append(f"{what}: the other party ended with a share")
        elif not isinstance(errors[1 - bad], NAMED):
            tally.raised.append(f"{what}: {errors[1 - bad]!r}")
        if seconds > HANG:
            tally.hung.append(f"{what}: {seconds:.1f} s")
    return tally


def _is_right(shares: list[np.ndarray], relu: ReluCircuit, y: np.ndarray) -> bool:
    return len(shares) < 2 or bool((to_centred(sum(shares) % relu.prime, relu.prime) == y).all())


def _recorded(relu: ReluCircuit, seed: int) -> list[list[bytes]]:
    """What either party receives in an honest session."""
    session = Session(relu, seed)
    for _ in session.messages():
        pass
    return session.received
