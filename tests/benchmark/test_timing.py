"""Which run is timed when, and what is made of the times; never how fast anything is."""

from __future__ import annotations

from circa_train.benchmark.timing import Spread, compare, interleaved, seconds_of


def test_pairs_alternate_and_the_ratio_is_ours_over_theirs() -> None:
    calls: list[str] = []
    found = compare(lambda: calls.append("ours"), lambda: calls.append("theirs"), pairs=4)
    assert calls[:4] == ["ours", "theirs"] * 2
    assert sorted(calls[4:6]) == sorted(calls[6:8]) == ["ours", "theirs"]
    assert calls[4] != calls[6]
    assert found.low <= found.ratio <= found.high


def test_every_run_gets_its_own_times_and_the_order_turns_round() -> None:
    calls: list[str] = []
    clock = {"a": 1.0, "b": 2.0, "c": 3.0}
    runs = [lambda name=name: calls.append(name) for name in clock]
    taken = interleaved(runs, 3, lambda run: (run(), clock[calls[-1]] + len(calls))[1])
    assert "".join(calls) == "cbaabccba"
    assert taken == [[1 + 3, 1 + 4, 1 + 9], [2 + 2, 2 + 5, 2 + 8], [3 + 1, 3 + 6, 3 + 7]]


def test_median_and_quartiles() -> None:
    assert Spread.of([5, 1, 3, 2, 4]) == Spread(3, 1.5, 4.5)
    assert Spread.of([7]) == Spread(7, 7, 7)


def test_a_run_is_timed_from_start_to_end() -> None:
    times = iter([3.0, 10.0])
    calls: list[int] = []
    assert seconds_of(lambda: calls.append(1), clock=lambda: next(times)) == 7
    assert calls == [1]
    assert seconds_of(lambda: None) >= 0
