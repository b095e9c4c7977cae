"""Both parties of one layer under one roof: in two threads, or in two processes over a loopback socket."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection

from circa_train.field import reconstruct
from circa_train.gc.aes.randomness import Randomness, Seed
from circa_train.gc.circuits.sign import SignCircuit
from circa_train.gc.protocol import rescaling as steps
from circa_train.gc.protocol.beaver import DealtTriples, TrustedDealer
from circa_train.gc.protocol.channel import Traffic
from circa_train.gc.protocol.parties import DEFAULT_CHUNK, Party, Share, client, run_party, server
from circa_train.gc.protocol.rescaling import Rescaling
from circa_train.gc.protocol.transport import DEFAULT_TIMEOUT, Listener, connect, memory_pair


@dataclass(frozen=True, eq=False)
class Outcome:
    """What both parties of a layer ended with.

    Attributes:
        prime: the field.
        server_share, client_share: shares of y, int64 (instances,), canonical.
        server_traffic, client_traffic: what either sent.
        seconds: wall-clock time, the set-up of the connection included.
    """

    prime: int
    server_share: Share
    client_share: Share
    server_traffic: Traffic
    client_traffic: Traffic
    seconds: float

    @property
    def y(self) -> Share:
        """The reconstructed output, centred."""
        y: Share = reconstruct(self.server_share, self.client_share, self.prime)
        return y

    @property
    def total_bytes(self) -> int:
        """All bytes that either party sent."""
        return self.server_traffic.total + self.client_traffic.total


def run_in_memory(
    relu: SignCircuit,
    server_share: Share,
    mask: Share,
    *,
    bits: int = 0,
    seed: Seed = None,
    kernel: str = "auto",
    chunk: int = DEFAULT_CHUNK,
    digest: bool = True,
    timeout: float = DEFAULT_TIMEOUT,
) -> Outcome:
    """Both parties in two threads of this process; a trusted dealer supplies the triples.

    Args:
        server_share, mask: x_s and t, int64 (instances,) in [0, p).
        bits: low bits dropped from x before it is multiplied by its sign.
        seed: None for real secrets; else everything, dealer included, is repeatable.
        digest: whether messages carry a digest.
    """
    started = time.perf_counter()
    for_server, for_client = _deal(relu, seed)
    seeds = _party_seeds(seed)
    return _in_two_threads(
        relu.prime,
        server(relu, server_share, for_server, bits=bits, seed=seeds[0], kernel=kernel, chunk=chunk),
        client(relu, mask, for_client, bits=bits, seed=seeds[1], kernel=kernel, chunk=chunk),
        digest, timeout, started,
    )  # fmt: skip


def rescale_in_memory(
    rescaling: Rescaling,
    server_share: Share,
    mask: Share,
    *,
    seed: Seed = None,
    kernel: str = "auto",
    chunk: int = DEFAULT_CHUNK,
    digest: bool = True,
    timeout: float = DEFAULT_TIMEOUT,
) -> Outcome:
    """A rescaling that rides in no ReLU's round trip, in two threads; arguments as of :func:`run_in_memory`,
    ``y`` is the rescaled x.
    """
    started = time.perf_counter()
    seeds = _party_seeds(seed)
    return _in_two_threads(
        rescaling.prime,
        Party(steps.server(rescaling, server_share, seed=seeds[0], kernel=kernel, chunk=chunk)),
        Party(steps.client(rescaling, mask, seed=seeds[1], kernel=kernel, chunk=chunk)),
        digest, timeout, started,
    )  # fmt: skip


def _in_two_threads(
    prime: int, ours: Party, theirs: Party, digest: bool, timeout: float, started: float
) -> Outcome:
    server_end, client_end = memory_pair(timeout)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(run_party, theirs, client_end, digest=digest)
        try:
            own = run_party(ours, server_end, digest=digest)
        except ConnectionError:
            other.result()  # what the client died of says more than that it is gone
            raise
        return _outcome(prime, own, other.result(), started)


def run_over_loopback(
    relu: SignCircuit,
    server_share: Share,
    mask: Share,
    *,
    bits: int = 0,
    seed: Seed = None,
    kernel: str = "auto",
    chunk: int = DEFAULT_CHUNK,
    digest: bool = True,
    timeout: float = DEFAULT_TIMEOUT,
) -> Outcome:
    """The server in this process, the client in a second one, a TCP socket between them. Arguments as in
    memory.

    Raises:
        ConnectionError: if the client's process dies or fails.
    """
    started = time.perf_counter()
    for_server, for_client = _deal(relu, seed)
    seeds = _party_seeds(seed)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    with Listener(timeout=timeout) as listener:
        process = context.Process(
            target=_client_process,
            args=(
                there, listener.address, relu, mask, for_client, bits, seeds[1], kernel, chunk, digest,
                timeout,
            ),
            daemon=True,
        )  # fmt: skip
        process.start()
        there.close()
        try:
            own = run_party(
                server(relu, server_share, for_server, bits=bits, seed=seeds[0], kernel=kernel, chunk=chunk),
                listener.accept(still_coming=process.is_alive),
                digest=digest,
            )
            other = here.recv() if here.poll(timeout) else None
        except EOFError:
            other = None
        finally:
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()
                process.join()
    if other is None:
        raise ConnectionError(
            f"the client's process ended with exit code {process.exitcode} and left no share"
        )
    return _outcome(relu.prime, own, other, started)


def _client_process(
    result: Connection,
    address: tuple[str, int],
    relu: SignCircuit,
    mask: Share,
    triples: DealtTriples | None,
    bits: int,
    seed: Seed,
    kernel: str,
    chunk: int,
    digest: bool,
    timeout: float,
) -> None:
    party = client(relu, mask, triples, bits=bits, seed=seed, kernel=kernel, chunk=chunk)
    result.send(run_party(party, connect(address, timeout), digest=digest))


def _deal(relu: SignCircuit, seed: Seed) -> tuple[DealtTriples | None, DealtTriples | None]:
    return TrustedDealer(relu.prime, seed).deal_on_demand() if relu.shares_bit else (None, None)


def _party_seeds(seed: Seed) -> tuple[Seed, Seed]:
    if seed is None:
        return None, None
    root = Randomness(seed, "both parties")
    return root.secret("server"), root.secret("client")


def _outcome(prime: int, own: tuple[Share, Traffic], other: tuple[Share, Traffic], started: float) -> Outcome:
    return Outcome(prime, own[0], other[0], own[1], other[1], time.perf_counter() - started)
