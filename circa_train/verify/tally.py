"""What a site's sign tests add up to: counts, what the law expects of them, digests, and what disagreed.

A tally can be added to the next one and written down as JSON, so a whole test set is the sum of its batches,
whichever of them were computed today. The sums of probabilities are added in the order of the elements, so
that the same run gives the same record to the last bit.

**Digests.** A *leaf* is up to :data:`LEAF` consecutive elements of one image at one site. Its digest is the
SHA-256 of the image's number, the leaf's place in it, and the values in order: x as 32-bit integers, the
masks likewise, the gates as bits (little-endian, the last byte filled with zeros). A site's digest is the sum
of its leaves' modulo 2^256: it depends neither on the size of the batches nor on who computed which of them,
and tells two runs apart that differ anywhere. It finds accidents; somebody who picks values on purpose could
make sums collide.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Elements of a leaf, at most.
LEAF = 1 << 14

#: What is compared with the law, value by value, for every sign test.
EVERY_WAY = ("simulator", "circuit", "garbled")

#: What is digested, in this order.
DIGESTED = ("x", "masks", "gates")

#: Disagreements of one way that are named at a site; all are counted.
NAMED = 5

_MODULUS = 1 << 256


@dataclass(frozen=True)
class Disagreement:
    """One sign test at which a way disagrees with the law.

    Attributes:
        site, image, element: where: the image's place in the set, and the element's in the image (row-major).
        way: one of :data:`EVERY_WAY`.
        x, t, k: the value, its mask and the bits dropped (0 where the sign test drops none).
        want, got: the gate by the law, and by the way; ``got`` is no bit where y was neither 0 nor the input
            (-1), or the shares of the bit do not add up to one.
    """

    site: str
    image: int
    element: int
    way: str
    x: int
    t: int
    k: int
    want: int
    got: int

    def __str__(self) -> str:
        return (
            f"site {self.site}, image {self.image}, element {self.element}: x = {self.x}, t = {self.t}, "
            f"k = {self.k}: the law wants s = {self.want}, {self.way} got {self.got}"
        )


@dataclass(frozen=True)
class SiteTally:
    """Sums over the sign tests of one site.

    Attributes:
        compared: sign tests, each in all ways.
        zeros: those of x = 0, which cannot err.
        wraps, ties: masks that carried x + t out of [0, p), and pairs whose compared bits are equal; faults
            or not.
        observed, expected, variance: by kind and direction (``wrap_zeroed``, ...): faults that happened,
            the sum of their exact probabilities q, and the sum of q (1 - q).
        mismatches: disagreements with the law, by way.
        named: the first of each way.
        digests: see the module's text.
    """

    compared: int = 0
    zeros: int = 0
    wraps: int = 0
    ties: int = 0
    observed: Mapping[str, int] = field(default_factory=dict)
    expected: Mapping[str, float] = field(default_factory=dict)
    variance: Mapping[str, float] = field(default_factory=dict)
    mismatches: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(EVERY_WAY, 0))
    named: tuple[Disagreement, ...] = ()
    digests: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(DIGESTED, 0))

    def __add__(self, later: SiteTally) -> SiteTally:
        return SiteTally(
            self.compared + later.compared,
            self.zeros + later.zeros,
            self.wraps + later.wraps,
            self.ties + later.ties,
            _sum(self.observed, later.observed),
            _sum(self.expected, later.expected),
            _sum(self.variance, later.variance),
            _sum(self.mismatches, later.mismatches),
            first_of_each_way((*self.named, *later.named)),
            {name: (self.digests[name] + later.digests[name]) % _MODULUS for name in DIGESTED},
        )

    @property
    def agrees(self) -> bool:
        return not any(self.mismatches.values())

    @property
    def zeroed(self) -> int:
        return sum(count for kind, count in self.observed.items() if kind.endswith("_zeroed"))

    @property
    def passed(self) -> int:
        return sum(count for kind, count in self.observed.items() if kind.endswith("_passed"))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON. Inverse of :meth:`from_dict`."""
        digests = {name: f"{value:064x}" for name, value in self.digests.items()}
        return {**asdict(self), "named": [asdict(each) for each in self.named], "digests": digests}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> SiteTally:
        """A tally that was written down; TypeError, KeyError or ValueError if it is none."""
        return replace(
            cls(**stored),
            named=tuple(Disagreement(**each) for each in stored["named"]),
            digests={name: int(stored["digests"][name], 16) for name in DIGESTED},
        )


def first_of_each_way(found: tuple[Disagreement, ...]) -> tuple[Disagreement, ...]:
    """The first :data:`NAMED` of each way."""
    kept: list[Disagreement] = []
    for each in found:
        if sum(other.way == each.way for other in kept) < NAMED:
            kept.append(each)
    return tuple(kept)


def leaf_digest(image: int, place: int, values: NDArray[Any]) -> int:
    """The digest of a leaf: element ``place`` of ``image`` is its first."""
    digest = hashlib.sha256(struct.pack("<QQ", image, place))
    digest.update(np.ascontiguousarray(values).data)
    return int.from_bytes(digest.digest(), "big")


def _sum(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    return {name: left.get(name, 0) + right.get(name, 0) for name in {**left, **right}}
