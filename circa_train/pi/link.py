"""A slow line, emulated in the program: figures of a LAN or a WAN on any machine.

The client connects to a port of its own process, and two pumps carry bytes between that and the server. Each
direction has its own bandwidth, and a byte comes out half a round trip after the line had room for it. No
privilege and no tool of the system is needed; what passes are the same bytes, so TLS and the accounting do
not notice.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from circa_train.gc.protocol import reach

#: Bytes that a pump takes at a time.
_PIECE = 1 << 16

#: Pieces that wait on the line at least, so that a fast one is not held up by the pump.
_WAITING = 64


@dataclass(frozen=True)
class LineSpeed:
    """What a line can do.

    Attributes:
        bandwidth: bits per second in each direction; None for no limit.
        latency: seconds of a round trip.
    """

    bandwidth: float | None = None
    latency: float = 0.0

    def __post_init__(self) -> None:
        if self.bandwidth is not None and not self.bandwidth > 0:
            raise ValueError(f"bandwidth = {self.bandwidth} bit/s: must be above 0, or null for no limit")
        if not 0 <= self.latency < 60:
            raise ValueError(f"latency = {self.latency} s: a round trip takes 0 to 60 s")

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to emulate."""
        return self.bandwidth is None and self.latency == 0

    def arrival(self, free: float, now: float, size: int) -> tuple[float, float]:
        """(when the line is free again, when the last byte comes out) for bytes handed to it now."""
        begun = max(free, now)
        free = begun if self.bandwidth is None else begun + 8 * size / self.bandwidth
        return free, free + self.latency / 2


@contextmanager
def emulated(address: tuple[str, int], speed: LineSpeed) -> Iterator[tuple[str, int]]:
    """The address to connect to, once, instead of ``address``, while the block runs.

    Raises:
        NobodyListens: if nobody listens at ``address``.
    """
    if speed.is_plain:
        yield address
        return
    with reach(address) as there, socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_carry, args=(listening, there, speed), daemon=True)
        thread.start()
        yield listening.getsockname()[:2]


def _carry(listening: socket.socket, there: socket.socket, speed: LineSpeed) -> None:
    with suppress(OSError):
        here, _ = listening.accept()
        for end in (here, there):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pumps = [_Pump(here, there, speed), _Pump(there, here, speed)]
        for pump in pumps:
            pump.join()
        here.close()
        there.close()


class _Pump:
    """One direction: a thread that reads and stamps, and one that waits and writes."""

    def __init__(self, source: socket.socket, target: socket.socket, speed: LineSpeed) -> None:
        self._source, self._target, self._speed = source, target, speed
        on_the_way = 0 if speed.bandwidth is None else speed.bandwidth * speed.latency / 8 / _PIECE
        self._pieces: queue.Queue[tuple[float, bytes]] = queue.Queue(_WAITING + 2 * int(on_the_way))
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._read, self._write)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        free, piece = 0.0, b"first"
        while piece:
            try:
                piece = self._source.recv(_PIECE)
            except OSError:
                piece = b""
            free, due = self._speed.arrival(free, time.monotonic(), len(piece))
            self._pieces.put((due, piece))

    def _write(self) -> None:
        lost = False
        while True:
            due, piece = self._pieces.get()
            time.sleep(max(due - time.monotonic(), 0))
            if not piece:
                break
            try:
                if not lost:
                    self._target.sendall(piece)
            except OSError:
                lost = True  # goes on reading, so that the other thread ends, too
                with suppress(OSError):
                    self._source.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            self._target.shutdown(socket.SHUT_WR)
