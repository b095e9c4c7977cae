"""One of each kind of hostile input; ``make torture`` gives the large dose."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.hostile import MAKERS, hostile_checkpoints


@pytest.mark.filterwarnings("ignore")  # of torch about sparse and quantized tensors
@pytest.mark.parametrize("name", MAKERS)
def test_a_hostile_checkpoint_is_refused_soon_and_in_little_memory(name: str, tmp_path: Path):
    slow = {"bomb": 1, "many_views": 1, "nested": 1, "doubling": 1}
    tally = hostile_checkpoints(slow.get(name, 4), 1, tmp_path, {name: MAKERS[name]})
    assert tally.held, tally.findings()
