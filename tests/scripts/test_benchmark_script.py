"""scripts/benchmark.py on tiny sizes: every row is there and recorded. No number is asserted but those that
are counted.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from circa_train.benchmark import table
from circa_train.benchmark.machine import machine_line
from circa_train.benchmark.sizes import BenchmarkSizes
from circa_train.benchmark.table import BenchmarkRow, benchmark_rows, benchmark_table, measured_devices
from circa_train.gc.aes import available_kernels

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"
#: Three pairs, as quartiles of two values lie outside them.
TINY = {
    "shape": "[2,4,8,8]", "pairs": 3, "evaluation_model": "resnet8", "evaluation_batch": 2,
    "training_model": "resnet8",
    "training_batch": 2, "network_pairs": 3, "law_elements": 100, "circuit_instances": 64, "circuit_pairs": 3,
    "pipeline_images": 64, "pipeline_pairs": 1, "profiles": "true", "two_party_model": "resnet8",
    "two_party_repeats": 3,
    "sweep_images": 60, "sweep_points": 2, "sweep_pairs": 3,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the profiler's own, and those of torchvision's workers
def test_every_row_is_measured_printed_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", [str(SCRIPT), *(f"benchmark.{key}={value}" for key, value in TINY.items())]
    )
    module.main()
    (stored,) = tmp_path.glob("runs/benchmark/quick-*/result.json")
    record = json.loads(stored.read_text())
    assert record["kind"] == "benchmark"
    assert record["machine"]["cores"]
    rows = {row["name"]: row for row in record["result"]["rows"] if not row["name"].endswith("cuda")}
    assert len(rows) >= 12
    assert rows["garbled tables, bytes per AND gate"]["value"] == 32
    assert rows["complete ReLU at k = 12, garbled bytes"]["value"] <= 640
    assert all(row["value"] > 0 and row["low"] <= row["high"] for row in rows.values())
    assert rows["resnet8, point of a sweep of 2, images/s, start included"]["value"] < 1
    assert rows["label by oblivious transfer, both parties, ns"]["value"] > 0
    machine = record["result"]["machine"]
    assert machine["circuit_kernel"] in available_kernels()
    assert machine["mask_vector_bits"] in (256, 512)
    assert set(record["result"]["profiles"]) == {"resnet8 evaluation", "resnet8 training step"}
    printed = capsys.readouterr().out
    assert all(name in printed for name in rows)
    assert machine_line(machine) in printed


def test_only_devices_that_are_here_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert measured_devices(BenchmarkSizes()) == ["cpu"]
    with pytest.raises(ValueError, match="no such device here"):
        measured_devices(BenchmarkSizes(devices=["cuda"]))
    with pytest.raises(ValueError, match="gpu is not one of cpu, cuda"):
        measured_devices(BenchmarkSizes(devices=["gpu", "cpu"]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert measured_devices(BenchmarkSizes(devices=["cuda", "cpu"])) == ["cpu", "cuda"]


def test_the_rows_of_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, its rows are stood in for: what is not of a GPU is not measured beside them."""
    asked: list[str] = []

    def stand_in(sizes: BenchmarkSizes, device: str, state: str = "") -> list[BenchmarkRow]:
        asked.append(device)
        return []

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("_layers", "_networks"):
        monkeypatch.setattr(table, name, stand_in)
    assert list(benchmark_rows(BenchmarkSizes(devices=["cuda"]), lambda text: None)) == []
    assert asked == ["cuda", "cuda"]


def test_a_row_whose_spread_leaves_it_open_is_marked() -> None:
    def row(low: float, value: float, high: float, bound: float | None = 1.0) -> BenchmarkRow:
        return BenchmarkRow("a", "b", value, low, high, bound, True, {})

    clear = (row(0.8, 0.9, 0.99), row(0.1, 0.5, 0.9), row(0.9, 0.95, 1.05))
    assert not any(r.vague for r in clear), "below the bound, or narrow"
    assert row(0.8, 0.9, 1.2).vague
    unbound = row(0.8, 0.9, 1.2, None)
    assert (unbound.reached, unbound.vague) == (None, False), "a row to be read has no bound to reach"
    assert benchmark_table([row(0.8, 1.1, 1.2)]).splitlines()[-1].endswith("MISSED, vague")


def test_a_machine_is_named_without_the_compiled_kernels() -> None:
    machine = {
        "processor": "Some", "architecture": "aarch64", "extensions": ["asimd"], "circuit_kernel": "numpy",
        "mask_vector_bits": None, "threads": 4, "cuda": [],
    }  # fmt: skip
    assert machine_line(machine) == (
        "Some (aarch64: asimd), 4 threads; circuits by numpy, masks not compiled; CUDA: no device here, so "
        "no GPU rows"
    )
