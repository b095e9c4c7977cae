"""The measurement functions: what they count and compare, never how fast anything is."""

from __future__ import annotations

import pytest
import torch

from circa_train.benchmark import layers as speed


@pytest.mark.filterwarnings("ignore")
def test_peak_memory_is_what_tensors_hold_at_once() -> None:
    def run() -> None:
        first = torch.empty(1_000_000)
        second = torch.empty(500_000)
        del first, second
        torch.empty(1_200_000)

    assert speed.peak_bytes(run) == 6_000_000


@pytest.mark.filterwarnings("ignore")
def test_a_training_step_with_faults_keeps_no_more_than_a_plain_one() -> None:
    fused, plain = speed.training_steps("resnet8", batch_size=8)
    assert speed.peak_bytes(fused) <= 1.02 * speed.peak_bytes(plain)


@pytest.mark.filterwarnings("ignore")
def test_the_largest_costs_are_named() -> None:
    left, right = torch.randn(300, 300), torch.randn(300, 300)
    ((name, share),) = speed.largest_costs(lambda: left @ right, count=1)
    assert "mm" in name
    assert 0 < share <= 1
