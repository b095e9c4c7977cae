"""The measuring function runs and divides what it says it divides; how fast anything is, no test asks."""

from __future__ import annotations

import pytest

from circa_train.benchmark.pipeline import measure_pipelines


def test_both_pipelines_are_measured():
    pytest.importorskip("torchvision")
    speed = measure_pipelines(images=64, batch_size=16, workers=0, repeats=1)
    assert speed.batches > 0
    assert speed.dataloader > 0
    assert speed.ratio == pytest.approx(speed.batches / speed.dataloader)
