"""A server that stays: one thread per client, and a dealer in a process of its own beside it."""

from __future__ import annotations

import multiprocessing
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from circa_train.gc.protocol import Listener, Transport
from circa_train.pi.dealer import serve_dealer
from circa_train.pi.network import load_network
from circa_train.pi.server import Server

#: Clients at a time; one more waits until one has gone.
MAX_CLIENTS = 16

#: Seconds that a dealer's process may take to read the network.
_START = 120.0


def serve_clients(
    server: Server,
    listener: Listener,
    *,
    connections: int | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> None:
    """Serve whoever connects, until interrupted.

    Args:
        connections: end after so many; None never.
        report: is told what happens, a line at a time.
    """
    room = threading.Semaphore(MAX_CLIENTS)
    threads: list[threading.Thread] = []
    served = 0

    def one(transport: Transport, name: str) -> None:
        try:
            traffic = server.serve(transport, lambda text: report(f"{name}: {text}")).traffic
            sent, received = sum(traffic.sent.values()), sum(traffic.received.values())
            report(f"{name}: ended, {sent:,} bytes sent and {received:,} received")
        except (ValueError, ConnectionError, TimeoutError, OSError) as error:
            report(f"{name}: {type(error).__name__}: {error}")
        finally:
            room.release()

    while connections is None or served < connections:
        room.acquire()
        try:
            transport = listener.accept()
        except TimeoutError:
            room.release()
            continue
        except ConnectionError as error:  # somebody who does not come to terms on TLS
            room.release()
            report(str(error))
            continue
        served += 1
        threads = [thread for thread in threads if thread.is_alive()]
        threads.append(threading.Thread(target=one, args=(transport, f"client {served}"), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()


@contextmanager
def dealer_process(
    folder: str | os.PathLike[str], host: str = "127.0.0.1", port: int = 0
) -> Iterator[tuple[str, int]]:
    """The address of a dealer in a process of its own, which ends with the block.

    Raises:
        ConnectionError: if it did not start.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_deal, args=(there, str(Path(folder)), host, port), daemon=True)
    process.start()
    there.close()
    try:
        address = here.recv() if here.poll(_START) else None
    except EOFError:
        address = None
    try:
        if address is None:
            raise ConnectionError(f"the dealer's process did not start (exit code {process.exitcode})")
        yield address
    finally:
        process.terminate()
        process.join()


def _deal(result: Connection, folder: str, host: str, port: int) -> None:
    with Listener(host, port, timeout=3600) as listener:
        network = load_network(folder)
        result.send(listener.address)
        result.close()
        serve_dealer(network, listener)


def server_tls(certificate: str, key: str, authority: str | None = None) -> ssl.SSLContext:
    """A server's end of TLS; with an ``authority`` only clients whose certificate it signed may connect."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if authority is not None:
        context.load_verify_locations(authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(authority: str, certificate: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """A client's end of TLS: the server's certificate must be the authority's, or signed by it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context
