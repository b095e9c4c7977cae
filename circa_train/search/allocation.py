"""Allocations as numbers: which site gets how many bits. No network, no tensor.

A candidate is one k per site. Its cost in AND gates is a sum over sites, and so is its *predicted harm*; both
are tables ``[site][k]``. The cheapest allocation for a given harm is a knapsack problem, and since harm grows
faster and faster with k while every bit saves the same, its relaxation is solved by greed: raise, by one bit,
the site that saves most per harm. The allocations on that path are nested, so one number, the place on the
path, is all that is left to search for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

Allocation = tuple[int, ...]


@dataclass(frozen=True)
class Tables:
    """Cost and predicted harm of every k at every site.

    Attributes:
        gates: AND gates per image, ``gates[site][k]``.
        harm: predicted harm, ``harm[site][k]``, in any unit that adds up over sites.
    """

    gates: tuple[tuple[int, ...], ...]
    harm: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if [len(row) for row in self.gates] != [len(row) for row in self.harm] or not all(self.gates):
            raise ValueError(
                "gates and harm must hold one value for every k at every site, at least one site and one k"
            )
        # Harm that falls with k (noise, or the law near the bit length of the prime) would make greed walk in
        # circles.
        object.__setattr__(self, "harm", tuple(tuple(accumulate(row, max)) for row in self.harm))

    def total_gates(self, ks: Allocation) -> int:
        return sum(row[k] for row, k in zip(self.gates, ks, strict=True))

    def total_harm(self, ks: Allocation) -> float:
        return math.fsum(row[k] for row, k in zip(self.harm, ks, strict=True))

    def raised(self, ks: Allocation) -> Iterator[tuple[int, Allocation]]:
        """(site, allocation with one bit more there), for every site that has a bit left to drop."""
        for site, k in enumerate(ks):
            if k + 1 < len(self.gates[site]):
                yield site, (*ks[:site], k + 1, *ks[site + 1 :])


def greedy_path(tables: Tables) -> list[Allocation]:
    """From no bit dropped to all that can be: each allocation raises one site of the one before by one bit.

    The site is the one that saves most AND gates per predicted harm; where a bit does no harm, the one that
    saves most.
    """
    ks: Allocation = (0,) * len(tables.gates)
    path = [ks]
    while moves := list(tables.raised(ks)):
        _, ks = max(moves, key=lambda move: _worth(tables, ks, move[0]))
        path.append(ks)
    return path


def _worth(tables: Tables, ks: Allocation, site: int) -> tuple[float, int]:
    gates, harm, k = tables.gates[site], tables.harm[site], ks[site]
    saved, done = gates[k] - gates[k + 1], harm[k + 1] - harm[k]
    return (saved / done if done > 0 else math.inf), saved


def last_accepted(accept: Callable[[int], bool], count: int, low: int, high: int) -> int | None:
    """The largest index in [0, count) that ``accept`` takes, if it takes all up to some index and none
    beyond; else None.

    Args:
        accept: called at most once per index.
        count: how many there are.
        low: believed to be accepted.
        high: believed not to be; both beliefs are tested, and where they are wrong the search widens in
            doubling strides.
    """
    known: dict[int, bool] = {}

    def taken(index: int) -> bool:
        if index < 0 or index >= count:
            return index < 0
        if index not in known:
            known[index] = accept(index)
        return known[index]

    low, high = max(-1, min(low, count - 1)), min(count, max(high, low + 1))
    stride = 1
    while not taken(low):
        low, high, stride = max(-1, low - stride), low, 2 * stride
    stride = 1
    while taken(high):
        low, high, stride = high, min(count, high + stride), 2 * stride
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if taken(middle) else (low, middle)
    return None if low < 0 else low
