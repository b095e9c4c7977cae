"""The benchmark runs and reports what it promises; its figures are for reading, not for asserting."""

from __future__ import annotations

import json

import pytest

from circa_train.benchmark.circuits import measure, measure_transfer
from circa_train.gc.aes.engines import available_kernels


@pytest.mark.parametrize("kernel", dict.fromkeys((available_kernels()[0], "numpy")))
def test_measure_reports_every_figure(kernel):
    figures = measure(kernel=kernel, instances=256, chunk=128, pairs=3)
    assert figures["kernel"] == kernel
    assert (figures["and_gates_per_relu"], figures["garbled_bytes_per_relu"]) == (19, 612)
    spreads = {name: value for name, value in figures.items() if isinstance(value, dict)}
    assert {
        "ceiling_blocks",
        "garble_ratio",
        "evaluate_ratio",
        "garble_ratio_openssl",
        "evaluate_ns_per_relu",
    } <= set(spreads)
    for value in spreads.values():
        assert 0 < value["low"] <= value["median"] <= value["high"]
    transfer = measure_transfer(kernel=kernel, chunk=1 << 10, chunks=2, pairs=3)
    assert 0 < transfer["ceiling_ns"]["median"] < transfer["transfer_ns"]["median"]
    json.dumps([figures, transfer])
