"""The rescaling of an export folder, value by value, in four ways that must agree.

The law, :func:`circa_train.rescaling.offset_rescale` of x and the mask r, times the gate where the rescaling
rides in a ReLU's round trip, says what must come out. Against it stand

    executor    the integer network's own value
    reader      the numpy reader's rule, which knows nothing of this package
    simulator   the float simulator's site (:mod:`circa_train.nn.rescaled`), on the real value of x; only
                behind a ReLU, as it has no other
    parties     what both parties end with after their messages: sign test, transfer and product where it
                rides in a ReLU's trip, the transfer alone elsewhere
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from circa_train.cost import circuit_of
from circa_train.fault import TruncatedSign
from circa_train.field import share
from circa_train.gc.aes import Seed
from circa_train.gc.protocol import Rescaling, rescale_in_memory
from circa_train.rescaling import offset_rescale
from circa_train.verify.checking import TRANSPORTS, check_transport

#: Values that a report names; all mismatches are counted.
_NAMED = 5


@dataclass(frozen=True, eq=False)
class RescaleSample:
    """Rescaled values of one layer.

    Attributes:
        layer: its name; ``site`` the ReLU in whose trip they are rescaled, None for none.
        spec: the sign test of ``site``, k a single number for all; None without one.
        bits, prime: what is dropped, in which field.
        elements: which of the layer's values, row-major, int64 (n,).
        x, mask, gate: before the gate, int64 (n,); gate 1 without a ReLU.
        found: by way, what came out, int64 (n,).
    """

    layer: str
    site: str | None
    spec: TruncatedSign | None
    bits: int
    prime: int
    elements: NDArray[np.int64]
    x: NDArray[np.int64]
    mask: NDArray[np.int64]
    gate: NDArray[np.int64]
    found: dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class RescaleReport:
    """What came of one layer.

    Attributes:
        layer, bits, site: as in :class:`RescaleSample`.
        values: how many were compared, ``ways`` in which ways.
        up: those that came out as floor(x / 2^bits) + 1.
        mismatches: disagreements with the law, by way; ``named`` the first few, in words.
        sent_bytes: what both parties sent, set-up and message headers included.
        seconds: of everything.
    """

    layer: str
    bits: int
    site: str | None
    values: int
    ways: tuple[str, ...]
    up: int
    mismatches: dict[str, int]
    named: tuple[str, ...]
    sent_bytes: int
    seconds: float


def verify_rescaling(sample: RescaleSample, *, transport: str = "memory", seed: Seed = None) -> RescaleReport:
    """Compare one layer's values with the law, in every way there is.

    Args:
        sample: values, masks, and what came out of the executor, the reader and the simulator.
        transport: of ReLUs' round trips, as of :func:`~circa_train.verify.checking.verify_site`; a rescaling
            of its own always runs in memory.
        seed: of the parties' secrets; None for real ones.

    Raises:
        ValueError: for an unknown transport or an empty sample.
    """
    check_transport(transport)
    if len(sample.x) == 0:
        raise ValueError(f"layer {sample.layer}: no value to verify")
    started = time.perf_counter()
    rescaled = offset_rescale(sample.x, sample.mask, sample.bits, sample.prime)
    law = rescaled * sample.gate
    parties, sent = _by_messages(sample, TRANSPORTS[transport], seed)
    mismatches: dict[str, int] = {}
    named: list[str] = []
    for way, got in {**sample.found, "parties": parties}.items():
        wrong = np.flatnonzero(got != law)
        mismatches[way] = len(wrong)
        named += [_in_words(sample, way, i, law, got) for i in wrong[:_NAMED]]
    return RescaleReport(
        layer=sample.layer,
        bits=sample.bits,
        site=sample.site,
        values=len(law),
        ways=tuple(mismatches),
        up=int((rescaled != sample.x >> sample.bits).sum()),
        mismatches=mismatches,
        named=tuple(named),
        sent_bytes=sent,
        seconds=time.perf_counter() - started,
    )


def by_truncation(sample: RescaleSample, k: NDArray[np.int64]) -> list[RescaleSample]:
    """The sample in parts that drop the same number of bits in their sign test: one circuit each."""
    if sample.spec is None:
        return [sample]
    parts = []
    for value in np.unique(k):
        at = np.flatnonzero(k == value)
        found = {way: got[at] for way, got in sample.found.items()}
        picked = {key: getattr(sample, key)[at] for key in ("elements", "x", "mask", "gate")}
        parts.append(replace(sample, spec=replace(sample.spec, k=int(value)), found=found, **picked))
    return parts


def _by_messages(
    sample: RescaleSample, run: Callable[..., object], seed: Seed
) -> tuple[NDArray[np.int64], int]:
    server_share, _ = share(sample.x, sample.mask, sample.prime)
    if sample.spec is None:
        rescaling = Rescaling(sample.prime, sample.bits)
        outcome = rescale_in_memory(rescaling, server_share, sample.mask, seed=seed)
    else:
        circuit = circuit_of(sample.spec)
        outcome = run(circuit, server_share, sample.mask, bits=sample.bits,
        seed=seed)  # type: ignore[assignment]
    return outcome.y, outcome.total_bytes


def _in_words(sample: RescaleSample, way: str, i: int, law: NDArray[np.int64], got: NDArray[np.int64]) -> str:
    return (
        f"layer {sample.layer}, element {sample.elements[i]}: x = {sample.x[i]}, r = {sample.mask[i]}, "
        f"{sample.bits} bits: the law wants {law[i]}, {way} got {got[i]}"
    )
