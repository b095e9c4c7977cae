"""Do faults happen as often as the exact law says? One number per site and kind, and one test of them all.

Given what enters a site, its faults of one kind are independent events of known probabilities q: the masks of
a site have addresses of their own, and its inputs depend on those of earlier sites only. So with the expected
number m = sum q and the variance v = sum q (1 - q), the number S of faults has

    z = (S - m) / sqrt(v)

of mean 0 and variance 1, and by Bernstein's inequality, for d = |S - m|,

    P(|S - m| >= d) <= 2 exp(-d^2 / (2 v + 2 d / 3)),

which holds for any q, also where so few faults are expected that no normal law applies. Of n such numbers the
smallest bound is below b / n with probability at most b (the union bound; nothing is assumed of how sites
depend on each other). Hence the one test: n times the smallest bound, at most 1. A true law gets below
:data:`DOUBT` once in a million verifications.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from circa_train.verify.tally import SiteTally

#: Below this the law is doubted.
DOUBT = 1e-6


@dataclass(frozen=True)
class Rate:
    """Faults of one kind and direction at one site.

    Attributes:
        observed, expected: how many there were, and how many the law expects.
        z: how many standard deviations lie between; None where no such fault can happen.
        bound: an upper bound of the probability of being so far off.
    """

    observed: int
    expected: float
    z: float | None
    bound: float


@dataclass(frozen=True)
class Verdict:
    """The test of all rates together.

    Attributes:
        numbers: how many were tested.
        bound: an upper bound of the probability that the worst of so many is as far off as it is.
        site, kind: which is the worst; None where nothing could err.
    """

    numbers: int
    bound: float
    site: str | None
    kind: str | None

    @property
    def doubted(self) -> bool:
        return self.bound < DOUBT


def rate(observed: int, expected: float, variance: float) -> Rate:
    """A count beside its law."""
    distance = abs(observed - expected)
    if variance <= 0:  # certain events only; up to the rounding of a sum of quotients
        return Rate(observed, expected, None, 1.0 if distance <= 1e-9 * max(1.0, expected) else 0.0)
    bound = 1.0 if distance == 0 else 2 * math.exp(-(distance**2) / (2 * variance + 2 * distance / 3))
    return Rate(observed, expected, (observed - expected) / math.sqrt(variance), min(1.0, bound))


def rates(tally: SiteTally) -> dict[str, Rate]:
    """The rates of a site, by kind and direction."""
    return {
        name: rate(tally.observed[name], tally.expected[name], tally.variance[name])
        for name in tally.expected
    }


def verdict(tallies: Mapping[str, SiteTally]) -> Verdict:
    """The one test of all sites."""
    found = [
        (each.bound, site, kind)
        for site, tally in tallies.items()
        for kind, each in rates(tally).items()
        if each.z is not None or each.bound < 1
    ]
    if not found:
        return Verdict(0, 1.0, None, None)
    bound, site, kind = min(found, key=lambda entry: entry[0])
    return Verdict(len(found), min(1.0, len(found) * bound), site, kind)
