"""scripts/benchmark.py on tiny sizes: every row is there and recorded. No number is asserted but those that
are counted.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"
#: Three pairs, as quartiles of two values lie outside them.
TINY = {
    "shape": "[2,4,8,8]", "pairs": 3, "evaluation_model": "resnet8", "evaluation_batch": 2,
    "training_model": "resnet8",
    "training_batch": 2, "network_pairs": 3, "law_elements": 100, "circuit_instances": 64, "circuit_pairs": 3,
    "pipeline_images": 64, "pipeline_pairs": 1, "profiles": "true", "two_party_model": "resnet8",
    "two_party_repeats": 3,
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
    assert set(record["result"]["profiles"]) == {"resnet8 evaluation", "resnet8 training step"}
    printed = capsys.readouterr().out
    assert all(name in printed for name in rows)
