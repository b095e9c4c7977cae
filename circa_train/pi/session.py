"""Both parties under one roof, and a dealer with them: for experiments and tests, where nothing is secret."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from circa_train.gc.protocol import Listener, memory_pair
from circa_train.pi.clear import logits_under
from circa_train.pi.client import Client
from circa_train.pi.dealer import serve_dealer
from circa_train.pi.handshake import Offline
from circa_train.pi.line import Traffic
from circa_train.pi.linear import Values
from circa_train.pi.network import Network
from circa_train.pi.server import Server
from circa_train.pi.stores import Stores

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What :func:`infer_in_memory` ended with.

    Attributes:
        logits: what the client learned, centred int64 (n, classes).
        expected: what the definition gives under the session's masks.
        client, server: what either sent and received.
    """

    logits: Values
    expected: Values
    client: Traffic
    server: Traffic


@contextmanager
def dealer_beside(network: Network, complain: Callable[[str], None] = lambda text: None) -> Any:
    """The address of a dealer in a thread of this process, while the block runs."""
    stop = threading.Event()
    with Listener(timeout=3600) as listener:
        thread = threading.Thread(
            target=serve_dealer, args=(network, listener, stop.is_set, complain), daemon=True
        )
        thread.start()
        try:
            yield listener.address
        finally:
            stop.set()
            thread.join()


def together(
    network: Network,
    converse: Callable[[Client], Result],
    *,
    offline: Offline = "dealer",
    timeout: float = 60.0,
    **client: Any,
) -> tuple[Result, Traffic]:
    """Run both parties in two threads: (what ``converse`` returns of the client, the server's traffic)."""
    server_end, client_end = memory_pair(timeout)
    with (
        TemporaryDirectory(prefix="circa-pi-") as folder,
        dealer_beside(network) as dealer,
        ThreadPoolExecutor(1) as pool,
    ):
        server = Server(
            network, Stores(Path(folder), "server"), offline=offline, dealer=dealer, own_dealer=True,
            timeout=timeout,
        )  # fmt: skip
        other = pool.submit(server.serve, server_end)
        try:
            found = Client(
                client_end, Stores(Path(folder), "client"), offline=offline, timeout=timeout, **client
            )
            try:
                result = converse(found)
                found.end()
            finally:
                found.line.close()
        except ConnectionError as error:
            client_end.close()
            reason = other.exception()
            if reason is not None:
                error.add_note(f"the server ended with: {reason}")
            raise
        return result, other.result().traffic


def infer_in_memory(network: Network, x: Values, *, offline: Offline = "dealer") -> Outcome:
    """One inference of integer inputs (n, *input shape), and what it should give."""

    def converse(client: Client) -> tuple[Values, Traffic, dict[str, Values]]:
        number = client.prepare(len(x), keep_masks=True)
        return client.infer(number, x), client.line.traffic, client.masks

    (logits, traffic, masks), server = together(network, converse, offline=offline)
    expected = logits_under(network.architecture, network.tensors, x, masks)
    return Outcome(logits, expected, traffic, server)
