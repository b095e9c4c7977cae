"""Look at every site while a network runs, without changing what comes out: what it did, and what the exact
law expects of the same activations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from circa_train.fault import FaultKinds, expected_faults
from circa_train.field import largest_centred
from circa_train.fixed_point import to_fixed
from circa_train.kernels import COUNTS
from circa_train.nn.control import faulty_relus, site_inputs, stochastic_relus


@dataclass
class SiteObservation:
    """What one site has seen and done since the observation began.

    Attributes:
        values: activations tested.
        low, high: range of the pre-activations.
        overflows: values beyond the field (under ``raise`` there are none: the forward fails instead).
        faults: faults by kind and direction.
    """

    values: int = 0
    low: float = math.inf
    high: float = -math.inf
    overflows: int = 0
    faults: FaultKinds = field(default_factory=FaultKinds)

    def record(self, z: Tensor, counts: Tensor) -> None:
        """Called by the site after each forward, with its input and the kernel's counts."""
        if z.numel():
            low, high = torch.aminmax(z)
            self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        self.values += z.numel()
        overflows, *kinds = counts.tolist()
        self.overflows += overflows
        self.faults += FaultKinds(z.numel(), **dict(zip(COUNTS[1:], kinds, strict=True)))

    @property
    def fault_rate(self) -> float:
        return self.faults.faults / self.values if self.values else 0.0


@contextmanager
def observe(model: nn.Module) -> Iterator[dict[str, SiteObservation]]:
    """While open, every stochastic site counts its values, range, overflows and faults; a dict by site name.

    Sites without faults (``NoFault``, or faults switched off) draw nothing and are not counted.

    Example:
        >>> with observe(network) as sites:
        ...     network(images)
        >>> sites["layer1.0.relu1"].faults.wrap_zeroed
    """
    relus = stochastic_relus(model)
    observations = {name: SiteObservation() for name in relus}
    before = {name: relu.observer for name, relu in relus.items()}
    for name, relu in relus.items():
        relu.observer = observations[name]
    try:
        yield observations
    finally:
        for name, relu in relus.items():
            relu.observer = before[name]


@contextmanager
def expect(model: nn.Module) -> Iterator[dict[str, FaultKinds]]:
    """While open, the faults that the exact law expects on the activations that enter each stochastic site,
    added up; a dict by site name, to be held beside the faults of :func:`observe`.

    Sites without faults count their values, and expect nothing.
    """
    faulty = faulty_relus(model)
    expected = {name: FaultKinds() for name in stochastic_relus(model)}

    def record(site: str, z: Tensor) -> None:
        if site not in faulty:
            expected[site] += FaultKinds(values=z.numel())
            return
        relu = faulty[site]
        x, _ = to_fixed(z, relu.frac_bits, relu.spec.prime, relu.settings.overflow)
        expected[site] += expected_faults(x, relu.spec)

    with site_inputs(model, record):
        yield expected


@dataclass
class Magnitudes:
    """A histogram of fixed-point values by sign and bit length.

    Attributes:
        negative, positive: at index b, how many values have b + 1 bits: 2^b <= |x| < 2^(b + 1).
        zeros: how many are zero.
    """

    negative: list[int]
    positive: list[int]
    zeros: int

    @classmethod
    def of(cls, x: Tensor, prime: int) -> Magnitudes:
        """Of centred values x of Z_p.

        >>> Magnitudes.of(torch.tensor([-3, 0, 1, 2, 3]), 17)
        Magnitudes(negative=[0, 1, 0, 0], positive=[1, 2, 0, 0], zeros=1)
        """
        bits = largest_centred(prime).bit_length()
        # |x| = m 2^e with m in [1/2, 1): e is the bit length, exactly so below 2^53
        lengths = torch.frexp(x.double()).exponent.long().clamp(max=bits)
        negative, positive = (
            torch.bincount(lengths[side], minlength=bits + 1)[1:].tolist() for side in (x < 0, x > 0)
        )
        return cls(negative, positive, zeros=int((x == 0).sum()))

    def __add__(self, other: Magnitudes) -> Magnitudes:
        return Magnitudes(
            [a + b for a, b in zip(self.negative, other.negative, strict=True)],
            [a + b for a, b in zip(self.positive, other.positive, strict=True)],
            self.zeros + other.zeros,
        )


@contextmanager
def magnitudes(model: nn.Module) -> Iterator[dict[str, Magnitudes]]:
    """While open, how large the fixed-point values are that enter each site with faults, added up; a dict by
    site name, of the sites that ran.
    """
    faulty = faulty_relus(model)
    seen: dict[str, Magnitudes] = {}

    def record(site: str, z: Tensor) -> None:
        if site in faulty:
            relu = faulty[site]
            x, _ = to_fixed(z, relu.frac_bits, relu.spec.prime, relu.settings.overflow)
            found = Magnitudes.of(x, relu.spec.prime)
            seen[site] = seen[site] + found if site in seen else found

    with site_inputs(model, record):
        yield seen
