"""Private inference timed: server, dealer and client in a process each, on this machine."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from circa_train.gc.protocol import Listener, connect
from circa_train.pi.client import Client
from circa_train.pi.dealer import serve_dealer
from circa_train.pi.garbling import warm_up
from circa_train.pi.handshake import Offline
from circa_train.pi.linear import Values
from circa_train.pi.link import LineSpeed, emulated
from circa_train.pi.network import Network
from circa_train.pi.server import Server
from circa_train.pi.stores import Stores

#: Seconds that a process may take to start, and a message to come, on a busy machine.
_PATIENCE = 600.0


@dataclass(frozen=True)
class Trial:
    """What repeated inferences of one batch took.

    Attributes:
        offline, online: seconds of every repetition, as the client saw them.
        offline_processor, online_processor: processor seconds of both parties together, per repetition.
        client_peak_mib: the most memory that the client's process had.
        sent, received: bytes of the client online, per repetition.
    """

    offline: tuple[float, ...]
    online: tuple[float, ...]
    offline_processor: float
    online_processor: float
    client_peak_mib: float
    sent: int
    received: int


def run_trial(
    network: Network, x: Values, repeats: int, *, offline: Offline = "dealer", speed: LineSpeed | None = None
) -> Trial:
    """Prepare and infer the batch ``x`` of integer inputs so many times over one connection, after once to
    warm up.
    """
    with (
        TemporaryDirectory(prefix="circa-trial-") as folder,
        _process(_deal, network) as (_, dealer),
        _process(_serve, network, folder, offline, dealer) as (server, address),
        _process(_infer, address, x, repeats, folder, offline, speed or LineSpeed()) as (_, found),
    ):
        at_server = server.recv() if server.poll(_PATIENCE) else None
    if at_server is None:
        raise ConnectionError("the server of a trial did not end")
    runs = repeats + 1
    return Trial(
        tuple(found["offline"][1:]),
        tuple(found["online"][1:]),
        (found["processor"]["offline"] + at_server["offline"]) / runs,
        (found["processor"]["online"] + at_server["online"]) / runs,
        found["peak_mib"],
        found["bytes"][0] // runs,
        found["bytes"][1] // runs,
    )


def peak_mib() -> float:
    """The most memory that this process has had, in MiB.

    Linux says it twice. What getrusage says begins at the size of the process that started this one, so the
    other is taken where it can be had.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10
    except (OSError, StopIteration):
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@contextmanager
def _process(target: Any, *given: Any) -> Iterator[tuple[Connection, Any]]:
    """A process, and the first thing that it sends."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process: BaseProcess = context.Process(target=target, args=(there, *given), daemon=True)
    process.start()
    there.close()
    try:
        try:
            yield here, here.recv() if here.poll(_PATIENCE) else None
        except EOFError:
            raise ConnectionError(f"a process of a trial ended with exit code {process.exitcode}") from None
    finally:
        process.join(timeout=5)
        if process.is_alive():
            process.terminate()
            process.join()


def _serve(
    result: Connection, network: Network, folder: str, offline: Offline, dealer: tuple[str, int]
) -> None:
    warm_up(network.architecture.prime)
    stores = Stores(folder, "server")
    server = Server(network, stores, offline=offline, dealer=dealer, own_dealer=True, timeout=_PATIENCE)
    with Listener(timeout=_PATIENCE) as listener:
        result.send(listener.address)
        line = server.serve(listener.accept())
    result.send(dict(line.processor_seconds))


def _deal(result: Connection, network: Network) -> None:
    with Listener(timeout=_PATIENCE) as listener:
        result.send(listener.address)
        serve_dealer(network, listener)


def _infer(
    result: Connection,
    address: tuple[str, int],
    x: Values,
    repeats: int,
    folder: str,
    offline: Offline,
    speed: LineSpeed,
) -> None:
    found: dict[str, list[float]] = {"offline": [], "online": []}
    with emulated(address, speed) as place:
        client = Client(
            connect(place, _PATIENCE), Stores(folder, "client"), offline=offline, timeout=_PATIENCE
        )
        warm_up(client.architecture.prime)
        for _ in range(repeats + 1):
            begun = time.perf_counter()
            number = client.prepare(len(x))
            prepared = time.perf_counter()
            client.infer(number, x)
            found["online"].append(time.perf_counter() - prepared)
            found["offline"].append(prepared - begun)
        client.end()
    line = client.line
    about = {"processor": dict(line.processor_seconds), "peak_mib": peak_mib()}
    result.send(found | about | {"bytes": line.traffic.of("online")})
