"""The ReLUs of a whole network: AND gates, bytes and seconds per image, from their numbers and their sign
tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from circa_train.cost.accounting import relu_bytes
from circa_train.cost.circuits import Specs, circuits_of, exact_circuit
from circa_train.cost.timing import Seconds, sum_of
from circa_train.fault import SignTest
from circa_train.gc import relu_cost
from circa_train.gc.circuits import SignCircuit

Sites = Sequence[tuple[str, int]]


@dataclass(frozen=True)
class SiteCost:
    """One site, per image; ``seconds`` is None without timings."""

    site: str
    relus: int
    and_gates: int
    bytes: int
    seconds: Seconds | None


@dataclass(frozen=True)
class NetworkCost:
    """A whole network, per image.

    Attributes:
        accounting: what ``bytes`` counts, see :mod:`circa_train.cost.accounting`.
        relus, and_gates, bytes: totals.
        seconds: on one core; None without timings.
        sites: the same for each site.
    """

    accounting: str
    relus: int
    and_gates: int
    bytes: int
    seconds: Seconds | None
    sites: tuple[SiteCost, ...]


def network_cost(
    sites: Sites,
    specs: Specs,
    *,
    accounting: str = "labels",
    exact: SignCircuit | None = None,
    timings: Mapping[SignCircuit, Seconds] | None = None,
) -> NetworkCost:
    """What all ReLUs of a network cost, per image. A few look-ups per site, once a circuit has been counted.

    Args:
        sites: (name, ReLUs per image), as ``relu_sites`` gives them.
        specs: the sign test of all sites, or one for each. k may differ by channel; every channel has equally
            many ReLUs.
        accounting: what to count, one of :data:`~circa_train.cost.accounting.ACCOUNTINGS`.
        exact: the circuit of sites with ``NoFault``; by default that of :func:`exact_circuit`.
        timings: from :func:`~circa_train.cost.timing.measure_seconds`, for every circuit of
            :func:`circuits_of`.

    Raises:
        ValueError: if a site has no spec or one without a circuit, or for an unknown accounting.
        KeyError: if a circuit has no timing.

    Example:
        >>> network_cost([("relu", 1000)], TruncatedSign(k=12), accounting="tables").bytes
        608000
    """
    exact = exact_circuit(specs) if exact is None else exact
    costs = []
    for name, relus in sites:
        if isinstance(specs, Mapping) and name not in specs:
            raise ValueError(f"no spec for site {name}; a site that is to stay exact is named with NoFault()")
        spec = specs[name] if isinstance(specs, Mapping) else specs
        try:
            channels, gates, size = _per_channel(spec, accounting, exact)
        except ValueError as error:
            raise ValueError(f"site {name}: {error}") from error
        if relus % channels:
            raise ValueError(
                f"site {name}: {relus} ReLUs do not divide into the {channels} channels that k is given for"
            )
        plane = relus // channels
        seconds = None
        if timings is not None:
            seconds = (
                sum_of(timings[circuit] * count for circuit, count in circuits_of(spec, exact).items())
                * plane
            )
        costs.append(SiteCost(name, relus, plane * gates, plane * size, seconds))
    return NetworkCost(
        accounting=accounting,
        relus=sum(cost.relus for cost in costs),
        and_gates=sum(cost.and_gates for cost in costs),
        bytes=sum(cost.bytes for cost in costs),
        seconds=None
        if timings is None
        else sum_of(cost.seconds for cost in costs if cost.seconds is not None),
        sites=tuple(costs),
    )


def gates_saved(sites: Sites, specs: Specs, versus: Specs) -> int:
    """AND gates per image that ``specs`` needs fewer than ``versus``; negative if it needs more."""
    before, after = (network_cost(sites, each, accounting="tables").and_gates for each in (versus, specs))
    return before - after


@lru_cache(maxsize=4096)
def _per_channel(spec: SignTest, accounting: str, exact: SignCircuit) -> tuple[int, int, int]:
    """(channels, AND gates, bytes) of one ReLU in each channel."""
    circuits = circuits_of(spec, exact)
    gates = sum(count * relu_cost(circuit).and_gates for circuit, count in circuits.items())
    size = sum(count * relu_bytes(circuit, accounting) for circuit, count in circuits.items())
    return circuits.total(), gates, size
