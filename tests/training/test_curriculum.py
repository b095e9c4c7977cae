from __future__ import annotations

import math
from collections import Counter

import pytest

from circa_train import BitWindow, NoFault, TruncatedSign, UniformFault
from circa_train.training import TrainingSettings
from circa_train.training.curriculum import fault_level


def test_level_one_is_the_spec_itself_and_level_zero_the_least() -> None:
    for spec in (
        TruncatedSign(7),
        TruncatedSign((3, 5), mode="negpass"),
        UniformFault(0.2),
        BitWindow(4, 20),
        NoFault(),
    ):
        assert spec.at_level(1.0) is spec
    assert TruncatedSign((3, 5), mode="negpass", prime=251).at_level(0.0) == TruncatedSign(
        (0, 0), mode="negpass", prime=251
    )
    assert UniformFault(0.2, "zeroed").at_level(0.0) == UniformFault(0.0, "zeroed")
    assert BitWindow(4, 20).at_level(0.0) == BitWindow(0, 20)
    assert NoFault().at_level(0.0) == NoFault()


def test_rising_level_reaches_the_networks_faults() -> None:
    settings = TrainingSettings(epochs=5, curriculum="rising")
    assert [fault_level(settings, epoch, 0) for epoch in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    settings = TrainingSettings(epochs=5, curriculum="rising", curriculum_epochs=2)
    assert [fault_level(settings, epoch, 0) for epoch in range(5)] == [0, 0.5, 1, 1, 1]
    assert fault_level(TrainingSettings(epochs=1, curriculum="rising"), 0, 0) == 0


def test_no_curriculum_is_the_networks_faults() -> None:
    assert fault_level(TrainingSettings(), 0, 0) == 1


def test_random_level_is_a_function_of_seed_and_step() -> None:
    one, other = TrainingSettings(curriculum="random"), TrainingSettings(curriculum="random", seed=1)
    levels = [fault_level(one, 0, step) for step in range(50)]
    assert levels == [fault_level(one, 3, step) for step in range(50)]
    assert levels != [fault_level(other, 0, step) for step in range(50)]


def _largest_deviation(counts: Counter[int], n: int, kinds: int) -> float:
    """In standard deviations of the binomial."""
    p = 1 / kinds
    return max(abs(counts[k] - n * p) / math.sqrt(n * p * (1 - p)) for k in range(kinds))


def test_random_k_is_uniform_up_to_the_networks_own() -> None:
    settings, n = TrainingSettings(curriculum="random"), 4000
    levels = [fault_level(settings, 0, step) for step in range(n)]
    drawn = Counter(TruncatedSign(4).at_level(level).k for level in levels)
    assert set(drawn) == {0, 1, 2, 3, 4}
    assert _largest_deviation(drawn, n, 5) < 5
    # The same bound sees a rounding that gives the ends half their share.
    assert _largest_deviation(Counter(round(level * 4) for level in levels), n, 5) > 5


@pytest.mark.parametrize("level", [0.0, 0.3, 0.999999])
def test_scaled_rate_is_proportional(level: float) -> None:
    scaled = UniformFault(0.01).at_level(level)
    assert scaled.rate == pytest.approx(0.01 * level)
