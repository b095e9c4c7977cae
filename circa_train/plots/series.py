"""Rows -> points with intervals; the knee; and the refusal to draw what does not belong together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from circa_train.runs import Row

#: What severity is counted in.
Number = TypeVar("Number", int, float)
Item = TypeVar("Item")


class MixedExperiments(ValueError):
    """Rows of different experiments would share one figure; the message says how to choose."""


@dataclass(frozen=True)
class Point:
    """One measured value.

    Attributes:
        x, y: where it is.
        low, high: of one network its 95% interval, of several the lowest and the highest of their values.
        networks: how many, of one recipe with other training seeds.
        rows: what it was made from.
    """

    x: float
    y: float
    low: float
    high: float
    networks: int = 1
    rows: tuple[Row, ...] = field(default=(), compare=False, repr=False)


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


def group(items: Iterable[Item], key: Callable[[Item], Any]) -> dict[Any, list[Item]]:
    """Items (rows, mostly) by key, keys in the order they first come."""
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def weights_of(row: Row) -> str:
    """What tells one network from another: the digest of its file, where it is known, else its path."""
    return str(row.get("weights") or row.get("checkpoint"))


def experiment_of(row: Row) -> str:
    """What networks have in common that differ in their training seed alone; else the network itself."""
    return str(row.get("recipe") or weights_of(row))


def accuracy_points(rows: Iterable[Row], column: str) -> list[Point]:
    """Accuracy against a column, sorted.

    At each place the rows of one network (other fault seeds) are pooled by :func:`pooled`, and several
    networks are put together by :func:`across`.
    """
    places = group(rows, lambda row: row[column])
    return [
        across([pooled(x, independent(members)) for members in group(places[x], weights_of).values()])
        for x in sorted(places)
    ]


def independent(rows: Sequence[Row]) -> list[Row]:
    """Of the rows of one network and fault seed the one with the most draws, and among those the one with the
    most images: it holds the draws of the others.

    The same point, alone and again in a sweep, is no second measurement, and must not narrow an interval.
    """
    same = group(rows, lambda row: (weights_of(row), str(row.get("config.fault.seed"))))
    return [
        max(members, key=lambda row: (int(row.get("draws") or 1), int(row.get("images") or 0)))
        for members in same.values()
    ]


def pooled(x: float, rows: Sequence[Row]) -> Point:
    """One point from independent measurements of the same quantity.

    The mean weighs each by its number of draws n; half-widths h of independent intervals add as sqrt(sum (n
    h)^2) / sum n.
    """
    if len(rows) == 1:  # as it is in the table, to the last digit
        (row,) = rows
        return Point(x, row["accuracy"], row["accuracy_low"], row["accuracy_high"], rows=(row,))
    weights = [max(int(row.get("draws") or 1), 1) for row in rows]
    total = sum(weights)
    mean = sum(w * row["accuracy"] for w, row in zip(weights, rows, strict=True)) / total
    halves = [
        w * (row["accuracy_high"] - row["accuracy_low"]) / 2 for w, row in zip(weights, rows, strict=True)
    ]
    half = math.sqrt(sum(h * h for h in halves)) / total
    return Point(x, mean, max(mean - half, 0.0), min(mean + half, 1.0), rows=tuple(rows))


def across(points: Sequence[Point]) -> Point:
    """One point from the same measurement on several networks: their mean, the lowest and the highest.

    Between training seeds lies more than between fault draws, so no interval of the draws would tell it, and
    a handful of seeds is too few for an interval of their mean: the range says what was seen.
    """
    if len(points) == 1:
        return points[0]
    values = [point.y for point in points]
    rows = tuple(row for point in points for row in point.rows)
    return Point(
        points[0].x, sum(values) / len(values), min(values), max(values), networks=len(points), rows=rows
    )


def knee(accuracy: Mapping[Number, float], baseline: float, tolerance: float = 0.01) -> Number | None:
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


def where_it_moves(lines: Iterable[Sequence[Point]], tolerance: float = 0.005) -> tuple[float, float]:
    """The stretch of x outside of which every line is flat: nothing left of it is further than ``tolerance``
    from the line's first value, nothing right of it from its last.

    Where no line moves at all it is the whole range.

    >>> line = [Point(x, y, y, y) for x, y in ((0, 0.9), (8, 0.9), (16, 0.8), (18, 0.1), (24, 0.1))]
    >>> where_it_moves([line])
    (8, 18)
    """
    lines = [sorted(line, key=lambda point: point.x) for line in lines if line]
    xs = sorted({point.x for line in lines for point in line})

    def moved(from_left: bool) -> set[float]:
        ends = [(line[0] if from_left else line[-1]).y for line in lines]
        return {
            point.x
            for line, end in zip(lines, ends, strict=True)
            for point in line
            if abs(point.y - end) > tolerance
        }

    left, right = moved(True), moved(False)
    if not left:
        return xs[0], xs[-1]
    low = max([x for x in xs if x < min(left)], default=xs[0])
    high = min([x for x in xs if x > max(right, default=xs[-1])], default=xs[-1])
    return low, max(high, low)
