"""Bisection and greed as pure logic, against enumeration."""

from __future__ import annotations

import itertools

import pytest
import torch

from circa_train.search.allocation import Tables, greedy_path, last_accepted


@pytest.mark.parametrize("count", [1, 2, 7, 31])
def test_last_accepted_finds_every_edge_from_every_guess(count: int) -> None:
    for edge, low, high in itertools.product(range(-1, count), range(-2, count + 2), range(-2, count + 2)):
        calls: list[int] = []

        def accept(index: int, edge: int = edge, calls: list[int] = calls) -> bool:
            calls.append(index)
            return index <= edge

        assert last_accepted(accept, count, low, high) == (edge if edge >= 0 else None)
        assert len(calls) == len(set(calls)), "an index is tested once"
        assert all(0 <= index < count for index in calls)
        assert len(calls) <= 2 * count.bit_length() + 2


def tables_of(harm: list[list[float]], relus: list[int]) -> Tables:
    bits = len(harm[0])
    gates = tuple(tuple(n * (bits - k) for k in range(bits)) for n in relus)
    return Tables(gates, tuple(map(tuple, harm)))


def test_greed_is_best_on_its_path() -> None:
    """For convex harm, no allocation beats the path's in both gates and harm: against all of them,
    enumerated.
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        weights = torch.rand(3, generator=generator).tolist()
        relus = torch.randint(1, 9, (3,), generator=generator).tolist()
        tables = tables_of([[w * 4**k for k in range(5)] for w in weights], relus)
        path = greedy_path(tables)
        assert path[0] == (0, 0, 0)
        assert path[-1] == (4, 4, 4)
        assert all(
            sum(b) - sum(a) == 1 and all(y >= x for x, y in zip(a, b, strict=True))
            for a, b in itertools.pairwise(path)
        )
        for ks, other in itertools.product(path, itertools.product(range(5), repeat=3)):
            better = tables.total_gates(other) < tables.total_gates(ks) and tables.total_harm(
                other
            ) < tables.total_harm(ks)
            assert not better, (ks, other)


def test_harm_that_falls_does_not_mislead() -> None:
    tables = tables_of([[1.0, 3.0, 2.0, 5.0]], [1])
    assert tables.harm == ((1.0, 3.0, 3.0, 5.0),)
    harmless = tables_of([[0.0, 0.0, 0.0], [0.0, 1.0, 2.0]], [1, 100])
    assert greedy_path(harmless)[:3] == [(0, 0), (1, 0), (2, 0)], "what does no harm comes first"
    with pytest.raises(ValueError, match="one value for every k"):
        Tables(((1, 2),), ((0.0,),))
