"""scripts/cost.py: a table of networks from the command line, without data, checkpoints or a run folder."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "cost.py"


@pytest.fixture
def cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the script in this process, in an empty folder: its exit code."""
    spec = importlib.util.spec_from_file_location("cost", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str) -> int:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *overrides])
        try:
            module.main()
        except SystemExit as exit_:
            return int(exit_.code or 0)
        return 0

    return run


def test_a_row_per_network_size_and_circuit(cost, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cost("models=[resnet8,resnet20]", "image_sizes=[16,32]", "fault.k=15", "timed=false", "out=table.csv")
        == 0
    )
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert {row["network"] for row in rows} == {
        f"{m} {s}x{s}" for m in ("resnet8", "resnet20") for s in (16, 32)
    }
    truncated = [row for row in rows if row["circuit"] == "(d) truncated"]
    assert all(int(row["and_gates"]) == 16 * int(row["relus"]) for row in truncated)
    assert all(row["garble_seconds"] == "" for row in rows)
    assert "17,072 bytes" in capsys.readouterr().out


def test_seconds_are_measured_unless_told_otherwise(cost, tmp_path: Path) -> None:
    assert cost("models=[resnet8]", "image_sizes=[16]", "out=table.csv") == 0
    with (tmp_path / "table.csv").open() as file:
        assert all(
            float(row[f"{part}_seconds"]) > 0
            for row in csv.DictReader(file)
            for part in ("garble", "transfer")
        )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fault=uniform", "has no garbled circuit"),
        ("models=[resnet9]", "resnet9"),
        ("fault.k=31", "k = 31 is outside"),
    ],
)
def test_what_has_no_cost_is_refused(
    cost, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cost("timed=false", override) == 2
    assert message in capsys.readouterr().err
