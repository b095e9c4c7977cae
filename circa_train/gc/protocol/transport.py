"""Carrying messages between two parties: a queue in memory, or a TCP socket. Both count bytes and give up in
time.

A message is framed by its length, 8 bytes little-endian; the counters include the frames, and not what TLS
adds. A peer that goes away is a ``ConnectionError``, one that stays silent or sends too slowly a
``TimeoutError``; both say so in words. Whoever receives says how long the message may be at most.

TLS is for a line that others can reach: it hides the messages and proves who sent them. Both ends are given
an ``ssl.SSLContext`` of the standard library, which says which certificates are shown and which are asked
for; one that would take any server's certificate is refused.
"""

from __future__ import annotations

import queue
import socket
import ssl
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

_FRAME = struct.Struct("<Q")

#: Bytes in front of a message on the line.
FRAME_BYTES = _FRAME.size

#: No chunk of a layer comes near this; a longer frame is noise or another protocol.
MAX_MESSAGE_BYTES = 1 << 31

DEFAULT_TIMEOUT = 60.0

#: Seconds between two looks at whether a peer that is waited for is still there.
_LOOK_AGAIN = 0.2

#: Bytes of a message that room is made for before any of them has come, so that an announcement alone costs
#: nothing.
_PIECE = 1 << 22


#: Bytes of a message too long to be read that are read all the same, to say what is wrong with it.
_BEGINNING = 64


class OverlongMessage(ConnectionError):
    """A longer message was announced than may come now. ``beginning`` are its first bytes."""

    def __init__(self, length: int, limit: int, beginning: bytes) -> None:
        super().__init__(
            f"a message of {length} bytes was announced where at most {limit} are due: both parties need the "
            "same circuit, chunk and length of the layer, or the other side speaks another protocol"
        )
        self.beginning = beginning


class NobodyListens(ConnectionError):
    """There is no party at an address, or not yet."""


class Transport(Protocol):
    """A two-way channel of byte strings. Closing it is what tells the peer that this party is gone."""

    sent_bytes: int
    received_bytes: int

    def send(self, data: bytes) -> None: ...

    def receive(self, limit: int = MAX_MESSAGE_BYTES) -> bytes | bytearray: ...

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

    def receive(self, limit: int = MAX_MESSAGE_BYTES) -> bytes:
        """The peer's next message, of at most ``limit`` bytes."""
        try:
            data = self._incoming.get(timeout=self._timeout)
        except queue.Empty:
            raise TimeoutError(f"the other party sent nothing for {self._timeout:g} s") from None
        if data is None:
            self._incoming.put(None)
            raise ConnectionError(
                "the other party is gone: it closed the channel before the protocol was over"
            )
        if len(data) > limit:
            raise OverlongMessage(len(data), limit, bytes(data[:_BEGINNING]))
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
    """A connected TCP socket, or one in TLS.

    Args:
        timeout: seconds that one message may take, from asking for it to its last byte, however many pieces
            it comes in; give slow lines more.
    """

    def __init__(self, connection: socket.socket, timeout: float = DEFAULT_TIMEOUT) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._timeout = connection, timeout
        self.sent_bytes = self.received_bytes = 0

    def send(self, data: bytes) -> None:
        """Send ``data`` whole."""
        deadline = time.monotonic() + self._timeout
        try:
            for part in (_FRAME.pack(len(data)), data):
                with memoryview(part) as view:
                    sent = 0
                    while sent < len(view):
                        self._wait_until(deadline)
                        sent += self._socket.send(view[sent:])
        except TimeoutError:
            raise TimeoutError(
                f"the other party did not take {len(data)} bytes within {self._timeout:g} s"
            ) from None
        except OSError as error:
            raise ConnectionError(
                f"the other party is gone: sending {len(data)} bytes failed ({error})"
            ) from error
        self.sent_bytes += _FRAME.size + len(data)

    def receive(self, limit: int = MAX_MESSAGE_BYTES) -> bytearray:
        """The peer's next message, of at most ``limit`` bytes."""
        deadline = time.monotonic() + self._timeout
        (length,) = _FRAME.unpack(self._read(_FRAME.size, deadline))
        if length > MAX_MESSAGE_BYTES:
            raise ConnectionError(
                f"a message of {length} bytes was announced: the other side speaks another protocol"
            )
        if length > limit:
            raise OverlongMessage(length, limit, bytes(self._read(min(length, _BEGINNING), deadline)))
        data = self._read(length, deadline)
        self.received_bytes += _FRAME.size + length
        return data

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _read(self, length: int, deadline: float) -> bytearray:
        data, read = bytearray(min(length, _PIECE)), 0
        while read < length:
            if read == len(data):
                data.extend(bytes(min(length - read, max(_PIECE, read))))
            try:
                self._wait_until(deadline)
                with memoryview(data) as view:
                    count = self._socket.recv_into(view[read:])
            except TimeoutError:
                came = f"{read} of {length} bytes that were due" if read else "nothing"
                raise TimeoutError(f"the other party sent {came} for {self._timeout:g} s") from None
            except OSError as error:
                raise ConnectionError(f"the other party is gone: {error}") from error
            if count == 0:
                raise ConnectionError(
                    f"the other party is gone: the connection ended after {read} of {length} bytes that were "
                    "due"
                )
            read += count
        return data

    def _wait_until(self, deadline: float) -> None:
        """Let the next read or write of the socket wait no longer than this."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)


class Listener:
    """Waits for one peer. Use as a context manager.

    Args:
        host, port: where; port 0 lets the system choose, see ``address``.
        timeout: seconds to wait for the peer, and then for each message.
        tls: for a connection in TLS: a server's context with its certificate and key. Only a context that
            asks for the peer's, too (``verify_mode = ssl.CERT_REQUIRED``), knows who connects.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        timeout: float = DEFAULT_TIMEOUT,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if tls is not None and tls.protocol is not ssl.PROTOCOL_TLS_SERVER:
            raise ValueError(f"tls is of {tls.protocol.name}: a listener needs PROTOCOL_TLS_SERVER")
        self._tls = tls
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
            ConnectionError: if ``still_coming`` says no and nobody has connected, or if whoever connects does
                not come to terms on TLS.
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
                return _transport(connection, self._timeout, self._tls, server=True)
        raise TimeoutError(f"nobody connected to {self.address} for {self._timeout:g} s")

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def connect(
    address: tuple[str, int],
    timeout: float = DEFAULT_TIMEOUT,
    *,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
) -> SocketTransport:
    """Connect to a :class:`Listener`.

    Args:
        timeout: seconds for the connection, and then for each message.
        tls: for a connection in TLS: a client's context that verifies the listener's certificate.
        server_name: the name that must stand in that certificate; None is the address.

    Raises:
        NobodyListens: if nobody listens there.
        ConnectionError: if TLS is not agreed on.
        ValueError: if ``tls`` is no client's context, or would take any certificate.
    """
    if tls is not None and tls.protocol is not ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError(f"tls is of {tls.protocol.name}: connecting needs PROTOCOL_TLS_CLIENT")
    if tls is not None and tls.verify_mode is not ssl.CERT_REQUIRED:
        raise ValueError(
            "tls takes any certificate, so anybody could be the other party: load the listener's authority "
            "with load_verify_locations and leave verify_mode at CERT_REQUIRED"
        )
    return _transport(reach(address, timeout), timeout, tls, server=False, name=server_name or address[0])


def reach(address: tuple[str, int], timeout: float | None = None) -> socket.socket:
    """A bare connection; NobodyListens if there is none to be had."""
    try:
        return socket.create_connection(address, timeout)
    except OSError as error:
        raise NobodyListens(f"no party listens at {address[0]}:{address[1]} ({error})") from error


def _transport(
    connection: socket.socket,
    timeout: float,
    tls: ssl.SSLContext | None,
    *,
    server: bool,
    name: str | None = None,
) -> SocketTransport:
    """A transport over a fresh connection, TLS agreed on if it is asked for."""
    if tls is not None:
        connection.settimeout(timeout)  # of the whole handshake, not of a read
        try:
            connection = tls.wrap_socket(connection, server_side=server, server_hostname=name)
        except TimeoutError:
            connection.close()
            raise TimeoutError(f"the other party did not come to terms on TLS for {timeout:g} s") from None
        except OSError as error:
            connection.close()
            raise ConnectionError(f"the other party and this one did not agree on TLS: {error}") from error
    return SocketTransport(connection, timeout)

