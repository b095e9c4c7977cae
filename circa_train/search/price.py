"""What the sign tests of a network cost per image: AND gates, bytes at rest, and seconds.

Bytes are those stored for evaluation (tables, output word, labels); seconds are of garbling, evaluating and
transfer on one core of this machine. Seconds are measured for three circuits and taken to be affine in the
AND gates, as every gate is the same work: so that allocations a few gates apart compare by gates and not by
the noise of a clock.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from circa_train.cost import circuits_of, measure_seconds, network_cost
from circa_train.fault import TruncatedSign
from circa_train.field import bit_length

#: Bytes are those that evaluation takes at rest; see :mod:`circa_train.cost`.
ACCOUNTING = "labels"


@dataclass(frozen=True)
class Price:
    """What all sign tests of a network cost per image."""

    and_gates: int
    bytes: int
    seconds: float

    @classmethod
    def of(
        cls,
        sites: Sequence[tuple[str, int]],
        specs: TruncatedSign | Mapping[str, TruncatedSign],
        seconds: Callable[[int, int], float],
    ) -> Price:
        """Of sites (name, ReLUs per image) under one sign test, or one for each; ``seconds(relus,
        and_gates)`` as :func:`measured_rate` gives it.
        """
        cost = network_cost(sites, specs, accounting=ACCOUNTING)
        return cls(cost.and_gates, cost.bytes, seconds(cost.relus, cost.and_gates))

    def __str__(self) -> str:
        return f"{self.and_gates:,} AND gates, {self.bytes / 2**20:.2f} MiB, {self.seconds:.3f} s per image"


def measured_rate(spec: TruncatedSign) -> Callable[[int, int], float]:
    """Seconds as a function of (ReLUs, AND gates): an affine fit through three circuits of this field, timed
    here and now.
    """
    bits = bit_length(spec.prime)
    circuits = [
        c for k in (0, bits // 2, bits - 1) for c in circuits_of(TruncatedSign(k, spec.mode, spec.prime))
    ]
    timed = measure_seconds(circuits)
    gates = [circuit.circuit.and_gates for circuit in timed]
    slope, constant = statistics.linear_regression(gates, [seconds.total for seconds in timed.values()])
    return lambda relus, and_gates: constant * relus + slope * and_gates
