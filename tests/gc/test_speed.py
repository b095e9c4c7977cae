"""The benchmark runs and reports what it promises; its figures are for reading, not for asserting."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from gc_cases import KERNELS

from circa_train.benchmark.circuits import measure


@pytest.mark.parametrize("kernel", KERNELS)
def test_measure_reports_every_figure(kernel):
    figures = measure(kernel=kernel, instances=256, chunk=128, pairs=3, transfers=1 << 15)
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
    assert figures["transfer_ns"] > 0
    json.dumps(figures)


def test_the_package_never_imports_torch():
    modules = "accounting local protocol session speed kernels"
    code = "import sys; " + "; ".join(f"import circa_train.gc.{m}" for m in modules.split())
    code += "; assert 'torch' not in sys.modules and 'numba' not in sys.modules, 'imported too much'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
