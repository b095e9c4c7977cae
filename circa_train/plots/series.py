"""Rows -> series of points with intervals; and the refusal to draw what does not belong together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circa_train.runs import Row


class MixedExperiments(ValueError):
    """Rows of different experiments would share one figure; the message says how to choose."""


@dataclass(frozen=True)
class Point:
    """One measured value with its 95% interval."""

    x: float
    y: float
    low: float
    high: float


def require_one(rows: Iterable[Row], columns: Sequence[str], figure: str) -> dict[str, Any]:
    """The single value of each of ``columns``.

    Raises:
        MixedExperiments: if a column has several.
    """
    rows = list(rows)
    found = {}
    for column in columns:
        values = sorted({str(row.get(column)) for row in rows})
        if len(values) > 1:
            listed = ", ".join(values[:6]) + (", ..." if len(values) > 6 else "")
            choices = "  or  ".join(f"+where.{column}={value}" for value in values[:4])
            raise MixedExperiments(
                f"{figure} would mix {len(values)} values of {column}: {listed}; choose one, e.g. "
                f"scripts/plot.py ... {choices}"
            )
        found[column] = rows[0].get(column) if rows else None
    return found


def group(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """Rows by key, keys in the order they first come."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def accuracy_points(rows: Iterable[Row], column: str) -> list[Point]:
    """Accuracy against a column, sorted; rows at one place (other fault seeds) are pooled by
    :func:`pooled`.
    """
    places = group(rows, lambda row: row[column])
    return [pooled(x, independent(places[x])) for x in sorted(places)]


def independent(rows: Sequence[Row]) -> list[Row]:
    """Of the rows of one checkpoint and fault seed the one with the most draws: it holds the draws of the
    others.

    The same point, alone and again in a sweep, is no second measurement, and must not narrow an interval.
    """
    same = group(rows, lambda row: (row.get("checkpoint"), row.get("config.fault.seed")))
    return [max(members, key=lambda row: int(row.get("draws") or 1)) for members in same.values()]


def pooled(x: float, rows: Sequence[Row]) -> Point:
    """One point from independent measurements of the same quantity.

    The mean weighs each by its number of draws n; half-widths h of independent intervals add as sqrt(sum (n
    h)^2) / sum n.
    """
    weights = [max(int(row.get("draws") or 1), 1) for row in rows]
    total = sum(weights)
    mean = sum(w * row["accuracy"] for w, row in zip(weights, rows, strict=True)) / total
    if len(rows) == 1:
        return Point(x, mean, rows[0]["accuracy_low"], rows[0]["accuracy_high"])
    halves = [
        w * (row["accuracy_high"] - row["accuracy_low"]) / 2 for w, row in zip(weights, rows, strict=True)
    ]
    half = math.sqrt(sum(h * h for h in halves)) / total
    return Point(x, mean, max(mean - half, 0.0), min(mean + half, 1.0))


def knee(accuracy: Mapping[int, float], baseline: float, tolerance: float = 0.01) -> int | None:
    """The largest measured k up to which nothing is lost yet.

    That is the largest k such that at it, and at every smaller measured k, the accuracy is at least
    ``baseline - tolerance``; None if the smallest measured k already loses more.

    >>> knee({8: 0.95, 12: 0.949, 16: 0.90}, baseline=0.951)
    12
    """
    found = None
    for k in sorted(accuracy):
        if accuracy[k] < baseline - tolerance:
            break
        found = k
    return found
