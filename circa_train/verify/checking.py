"""Four ways to the same answers, compared value by value.

The law, that is the gate of the sign test on x and t, says what must come out. Against it stand

    simulator   what the network's own forward let through; its kernel draws the masks anew from their address
    circuit     the boolean circuit on the bits of x_s = (x + t) mod p and t, in the clear
    garbled     the same circuit garbled and evaluated, its messages serialised in between
    shares      y, from what both parties of the protocol end with after oblivious transfer, garbled circuit
                and Beaver multiplication: x if s else 0
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from circa_train.cost import circuit_of
from circa_train.fault import FaultKinds, SignTest, TruncatedSign, observed_faults
from circa_train.field import share
from circa_train.gc.aes import Seed
from circa_train.gc.circuits import SignCircuit
from circa_train.gc.protocol import DEFAULT_CHUNK, run_in_memory, run_locally, run_over_loopback
from circa_train.verify.sampling import SiteSample

WAYS = ("simulator", "circuit", "garbled", "shares")

TRANSPORTS = {"memory": run_in_memory, "socket": run_over_loopback}

#: Mismatches of one way that a report names; all are counted.
_NAMED = 5

#: Instances that go through the circuit in the clear at a time, so that memory does not grow with the layer.
_CLEAR_CHUNK = 1 << 15


@dataclass(frozen=True)
class Mismatch:
    """One value at which a way disagrees with the law.

    Attributes:
        site, element: where; ``element`` counts within the draw.
        way: one of :data:`WAYS`.
        x, t, k: the value, its mask and the bits dropped.
        want, got: the gate (0 or 1), or for ``shares`` the output y.
    """

    site: str
    element: int
    way: str
    x: int
    t: int
    k: int
    want: int
    got: int

    def __str__(self) -> str:
        what = "y" if self.way == "shares" else "s"
        return (
            f"site {self.site}, element {self.element}: x = {self.x}, t = {self.t}, k = {self.k}: "
            f"the law wants {what} = {self.want}, {self.way} got {self.got}"
        )


@dataclass(frozen=True)
class SiteReport:
    """What came of one site.

    Attributes:
        site, spec_mode, prime: which sign test; ``ks`` the numbers of bits dropped, each once.
        values: sign tests compared, each in four ways.
        faults: those among them that erred, by kind and direction.
        mismatches: disagreements with the law, by way; all 0 if the simulator is the protocol.
        named: the first few of each way.
        sent_bytes: what both parties sent, set-up and message headers included.
        protocol_seconds: time of the two-party runs, set-up included; ``seconds`` of everything.
    """

    site: str
    mode: str
    prime: int
    ks: tuple[int, ...]
    values: int
    faults: FaultKinds
    mismatches: dict[str, int]
    named: tuple[Mismatch, ...]
    sent_bytes: int
    protocol_seconds: float
    seconds: float

    @property
    def agrees(self) -> bool:
        return not any(self.mismatches.values())


def verify_site(
    sample: SiteSample,
    *,
    transport: str = "memory",
    seed: Seed = None,
    kernel: str = "auto",
    chunk: int = DEFAULT_CHUNK,
) -> SiteReport:
    """Compare the sign tests of one site in all four ways. Elements that drop the same number of bits go
    together.

    Args:
        sample: from :func:`~circa_train.verify.sampling.collect_samples`, or
            :func:`~circa_train.verify.sampling.select`.
        transport: ``memory``, both parties in threads of this process, or ``socket``, two processes and a
            loopback connection.
        seed: of the parties' secrets; None for real ones, a number to replay a run.
        kernel: see :func:`circa_train.gc.aes.engines.make_kernel`.
        chunk: instances in flight at a time.

    Raises:
        ValueError: for an unknown transport, an empty sample, values or masks outside their range, or a
            damaged message.
        ConnectionError, TimeoutError: if the other party disappears or stays silent.
    """
    check_transport(transport)
    if len(sample) == 0:
        raise ValueError(f"site {sample.site}: no activation to verify")
    started = time.perf_counter()
    faults, mismatches, named = FaultKinds(), dict.fromkeys(WAYS, 0), []
    sent, protocol_seconds = 0, 0.0
    for part in _by_truncation(sample):
        spec, p = _single(part), part.spec.prime
        relu = circuit_of(spec)
        x, t = torch.from_numpy(part.x), torch.from_numpy(part.t)
        spec.check_values(x)
        gate = spec.gate(x, t)
        faults += observed_faults(x, t, gate, spec)
        law = gate.numpy().astype(np.int64)
        server_share, _ = share(part.x, part.t, p)
        outcome = TRANSPORTS[transport](relu, server_share, part.t, seed=seed, kernel=kernel, chunk=chunk)
        answers = {
            "simulator": (part.applied.astype(np.int64), law),
            "circuit": (_in_the_clear(relu, server_share, part.t), law),
            "garbled": (
                run_locally(relu, server_share, part.t, seed=seed, kernel=kernel, chunk=chunk).values,
                law,
            ),
            "shares": (outcome.y, part.x * law),
        }
        for way, (got, want) in answers.items():
            wrong = np.flatnonzero(got != want)
            room = max(0, _NAMED - mismatches[way])
            mismatches[way] += len(wrong)
            named += [_mismatch(part, way, i, want, got) for i in wrong[:room]]
        sent += outcome.total_bytes
        protocol_seconds += outcome.seconds
    return SiteReport(
        site=sample.site,
        mode=getattr(sample.spec, "mode", sample.spec.kind),
        prime=sample.spec.prime,
        ks=tuple(sorted({int(k) for k in sample.k})),
        values=len(sample),
        faults=faults,
        mismatches=mismatches,
        named=tuple(named),
        sent_bytes=sent,
        protocol_seconds=protocol_seconds,
        seconds=time.perf_counter() - started,
    )


def check_transport(transport: str) -> str:
    """Return ``transport`` if there is one of that name; ValueError otherwise."""
    if transport not in TRANSPORTS:
        raise ValueError(f"transport = {transport!r} is not one of {', '.join(TRANSPORTS)}")
    return transport


def _by_truncation(sample: SiteSample) -> Iterator[SiteSample]:
    for k in np.unique(sample.k):
        at = np.flatnonzero(sample.k == k)
        yield replace(
            sample,
            elements=sample.elements[at],
            x=sample.x[at],
            t=sample.t[at],
            k=sample.k[at],
            applied=sample.applied[at],
        )


def _single(part: SiteSample) -> SignTest:
    """The sign test of elements that all drop the same number of bits."""
    if isinstance(part.spec, TruncatedSign):
        return replace(part.spec, k=int(part.k[0]))
    if part.spec.by_channel:
        raise ValueError(f"site {part.site}: {part.spec} differs by channel; verify one channel at a time")
    return part.spec


def _in_the_clear(
    relu: SignCircuit, server_share: NDArray[np.int64], t: NDArray[np.int64]
) -> NDArray[np.int64]:
    starts = range(0, len(t), _CLEAR_CHUNK)
    return np.concatenate(
        [relu.cleartext(server_share[i : i + _CLEAR_CHUNK], t[i : i + _CLEAR_CHUNK]) for i in starts]
    )


def _mismatch(
    part: SiteSample, way: str, i: int, want: NDArray[np.int64], got: NDArray[np.int64]
) -> Mismatch:
    element, x, t, k = (int(values[i]) for values in (part.elements, part.x, part.t, part.k))
    return Mismatch(part.site, element, way, x, t, k, int(want[i]), int(got[i]))
