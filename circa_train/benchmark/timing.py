"""Runs timed beside each other: ratios of interleaved rounds.

A machine has slow phases, and neighbours. So the sides of a comparison alternate, each round gives one ratio,
and the median and the quartiles of the ratios are reported: what slows all sides alike does not show, what
does not is spread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

Run = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise values; a single one is its own quartiles."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4)
        return cls(median, low, high)


@dataclass(frozen=True)
class Comparison:
    """Ours beside theirs.

    Attributes:
        ratio, low, high: median and quartiles, over the pairs, of our time divided by theirs.
        ours, theirs: median seconds.
    """

    ratio: float
    low: float
    high: float
    ours: float
    theirs: float


def seconds_of(run: Run, device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds from the start of ``run`` until the device has done all of it.

    With ``time.thread_time`` for a clock, the processor time of this thread alone: what other programs take
    from the core does not count.
    """
    finish = (lambda: None) if device == "cpu" else partial(torch.cuda.synchronize, device)
    finish()
    started = clock()
    run()
    finish()
    return clock() - started


def compare(ours: Run, theirs: Run, pairs: int, device: str = "cpu") -> Comparison:
    """Time both in ``pairs`` (at least 2) alternating pairs, after a warm-up; each first in every other
    pair.
    """
    for run in (ours, theirs, ours, theirs):
        run()
    mine, other = interleaved((ours, theirs), pairs, partial(seconds_of, device=device))
    ratio = Spread.of([a / b for a, b in zip(mine, other, strict=True)])
    return Comparison(ratio.median, ratio.low, ratio.high, statistics.median(mine), statistics.median(other))


def interleaved(
    runs: Sequence[Run], rounds: int, measure: Callable[[Run], float] = seconds_of
) -> list[list[float]]:
    """Seconds of every run, one for each round; every other round takes them in reverse order."""
    taken: list[list[float]] = [[] for _ in runs]
    for number in range(rounds):
        order = list(zip(runs, taken, strict=True))
        for run, seconds in order if number % 2 else reversed(order):
            seconds.append(measure(run))
    return taken
