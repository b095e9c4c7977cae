"""Carrying messages between two parties: a queue in memory, or a TCP socket. Both count bytes and give up in
time.

A message is framed by its length, 8 bytes little-endian; the counters include the frames. A peer that goes
away is a ``ConnectionError``, one that stays silent a ``TimeoutError``; both say so in words.
"""

from __future__ import annotations

import queue
import socket
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

_FRAME = struct.Struct("<Q")

#: No chunk of a layer comes near this; a longer frame is noise or another protocol.
MAX_MESSAGE_BYTES = 1 << 31

DEFAULT_TIMEOUT = 60.0

#: Seconds between two looks at whether a peer that is waited for is still there.
_LOOK_AGAIN = 0.2

#: Bytes of a message that room is made for before any of them has come, so that an announcement alone costs
#: nothing.
_PIECE = 1 << 22


class Transport(Protocol):
    """A two-way channel of byte strings. Closing it is what tells the peer that this party is gone."""

    sent_bytes: int
    received_bytes: int

    def send(self, data: bytes) -> None: ...

    def receive(self) -> bytes | bytearray: ...

    def close(self) -> None: ...


class MemoryTransport:
    """One end of a channel between two threads; made in pairs by :func:`memory_pair`."""

    def __init__(self, outgoing: queue.SimpleQueue[bytes | None], incoming: queue.SimpleQueue[bytes | None],
                 timeout: float) -> None:  # fmt: skip
        self._outgoing, self._incoming, self._timeout = outgoing, incoming, timeout
        self.sent_bytes = self.received_bytes = 0

    def send(self, data: bytes) -> None:
        """Hand ``data`` to the peer."""
        self._outgoing.put(data)
        self.sent_bytes += _FRAME.size + len(data)

    def receive(self) -> bytes:
        """The peer's next message."""
        try:
            data = self._incoming.get(timeout=self._timeout)
        except queue.Empty:
            raise TimeoutError(f"the other party sent nothing for {self._timeout:g} s") from None
        if data is None:
            self._incoming.put(None)
            raise ConnectionError(
                "the other party is gone: it closed the channel before the protocol was over"
            )
        self.received_bytes += _FRAME.size + len(data)
        return data

    def close(self) -> None:
        """Tell the peer that nothing more will come."""
        self._outgoing.put(None)


def memory_pair(timeout: float = DEFAULT_TIMEOUT) -> tuple[MemoryTransport, MemoryTransport]:
    """Both ends of a channel."""
    there: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    back: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    return MemoryTransport(there, back, timeout), MemoryTransport(back, there, timeout)


class SocketTransport:
    """A connected TCP socket."""

    def __init__(self, connection: socket.socket, timeout: float = DEFAULT_TIMEOUT) -> None:
        connection.settimeout(timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._timeout = connection, timeout
        self.sent_bytes = self.received_bytes = 0

    def send(self, data: bytes) -> None:
        """Send ``data`` whole."""
        try:
            self._socket.sendall(_FRAME.pack(len(data)))
            self._socket.sendall(data)
        except TimeoutError:
            raise TimeoutError(f"the other party took nothing for {self._timeout:g} s") from None
        except OSError as error:
            raise ConnectionError(
                f"the other party is gone: sending {len(data)} bytes failed ({error})"
            ) from error
        self.sent_bytes += _FRAME.size + len(data)

    def receive(self) -> bytearray:
        """The peer's next message."""
        (length,) = _FRAME.unpack(self._read(_FRAME.size))
        if length > MAX_MESSAGE_BYTES:
            raise ConnectionError(
                f"a message of {length} bytes was announced: the other side speaks another protocol"
            )
        data = self._read(length)
        self.received_bytes += _FRAME.size + length
        return data

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _read(self, length: int) -> bytearray:
        data, read = bytearray(), 0
        while read < length:
            if read == len(data):
                data.extend(bytes(min(length - read, max(_PIECE, read))))
            try:
                with memoryview(data) as view:
                    count = self._socket.recv_into(view[read:])
            except TimeoutError:
                raise TimeoutError(f"the other party sent nothing for {self._timeout:g} s") from None
            except OSError as error:
                raise ConnectionError(f"the other party is gone: {error}") from error
            if count == 0:
                raise ConnectionError(
                    f"the other party is gone: the connection ended after {read} of {length} bytes that were "
                    "due"
                )
            read += count
        return data


class Listener:
    """Waits for one peer. Use as a context manager.

    Args:
        host, port: where; port 0 lets the system choose, see ``address``.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._socket = socket.create_server((host, port))
        self._timeout = timeout
        #: (host, port) that a peer connects to.
        self.address: tuple[str, int] = self._socket.getsockname()[:2]

    def accept(self, *, still_coming: Callable[[], bool] = lambda: True) -> SocketTransport:
        """The connection of the first peer that comes.

        Args:
            still_coming: asked several times a second; whether it is worth waiting on, where the caller can
                tell.

        Raises:
            ConnectionError: if ``still_coming`` says no and nobody has connected.
            TimeoutError: if nobody connects in time.
        """
        deadline = time.monotonic() + self._timeout
        while (left := deadline - time.monotonic()) > 0:
            expected = still_coming()  # asked before looking: who connected and then went away did connect
            self._socket.settimeout(min(left, _LOOK_AGAIN))
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                if not expected:
                    raise ConnectionError("the other party is gone: it ended before it connected") from None
            else:
                return SocketTransport(connection, self._timeout)
        raise TimeoutError(f"nobody connected to {self.address} for {self._timeout:g} s")

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def connect(address: tuple[str, int], timeout: float = DEFAULT_TIMEOUT) -> SocketTransport:
    """Connect to a :class:`Listener`."""
    try:
        return SocketTransport(socket.create_connection(address, timeout), timeout)
    except OSError as error:
        raise ConnectionError(f"no party listens at {address[0]}:{address[1]} ({error})") from error
