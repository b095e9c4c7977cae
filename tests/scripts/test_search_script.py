"""``scripts/search.py``: its answer is a file that the evaluation reads and reproduces, and it survives being
killed.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from circa_train.checkpoint import load_checkpoint
from circa_train.data import load_data
from circa_train.jobs.job import Job, work_of

ROOT = Path(__file__).parents[2]
QUICK = [
    "budget=0.1",
    "margin=0",  # so few images leave no room for one
    "draws.count=3",
    "draws.most=6",
    "trials=2",
    "images=32",
    "run.device=cpu",
    "run.progress=false",
]


def test_the_answer_is_reproduced_by_an_evaluation(
    checkpoint: Path, job: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        record = work_of("search")(
            job("search", f"checkpoint={checkpoint}", "fault.seed=5", "fault.k=14", "joint=false", *QUICK)
        )
    json.dumps(record, allow_nan=False)
    path = Path(record["fault_file"])
    assert sorted(file.name for file in path.parent.iterdir()) == ["fault.yaml", "measured.json"]
    content = yaml.safe_load(path.read_text())
    assert content["frac_bits"] == record["frac_bits"] == 16
    ks = {site: spec["k"] for site, spec in content["sites"].items()}
    assert ks == {row["site"]: row["k"] for row in record["allocation"]}
    assert record["chosen"]["validation"]["verdict"] == "within"
    assert record["saved"]["and_gates"] == sum(
        row["relus"] * (row["k"] - record["k"]) for row in record["allocation"]
    )
    assert record["beats_uniform"] == (record["saved"]["and_gates"] > 0)
    assert f"fault.path={path}" in caplog.text

    for split in ("validation", "test"):
        accuracy = record["chosen"][split]["accuracy"]
        evaluated = work_of("evaluate")(job(
            "evaluate", f"checkpoint={checkpoint}", "fault=file", f"fault.path={path}", "fault.seed=5",
            f"split={split}",
            f"draws.count={len(accuracy['draws'])}", "batch_size=50", "run.device=cpu",
        ))  # fmt: skip
        assert evaluated["accuracy"]["draws"] == accuracy["draws"]
        assert evaluated["accuracy"]["low"] == accuracy["low"]
        assert evaluated["baseline_accuracy"] == record["chosen"][split]["baseline_accuracy"]
        assert evaluated["frac_bits"] == 16
        assert evaluated["fault"]["sites"].keys() == ks.keys()


def test_scales_and_modes_are_searched_and_half_of_the_test_images_decide(
    checkpoint: Path, job: Callable[..., Job]
) -> None:
    asked = ["fault.k=14", "decide_on=test", *QUICK]
    record = work_of("search")(job("search", f"checkpoint={checkpoint}", *asked))
    json.dumps(record, allow_nan=False)
    content = yaml.safe_load(Path(record["fault_file"]).read_text())
    images = {split: record["chosen"][split]["accuracy"]["images"] for split in ("validation", "test")}
    assert record["decide_on"] == "test"
    assert sum(images.values()) == len(load_data(load_checkpoint(checkpoint).metadata["data"]["name"]).test)
    assert record["frac_bits"] == 16, "the network as it is"
    assert content["frac_bits"] == {row["site"]: row["frac_bits"] for row in record["allocation"]}
    for row in record["allocation"]:
        assert content["sites"][row["site"]]["mode"] == row["mode"]
    assert record["chosen"]["and_gates"] < record["uniform"]["and_gates"]
    evaluated = work_of("evaluate")(job(
        "evaluate", f"checkpoint={checkpoint}", "fault=file", f"fault.path={record['fault_file']}",
        "fault.overflow=saturate",  # other images, other masks: behind so many faults a value may go too far
        "run.device=cpu",
    ))  # fmt: skip
    assert evaluated["frac_bits"] == {name: tuple(bits) for name, bits in content["frac_bits"].items()}
    assert evaluated["cost"]["and_gates"] == record["chosen"]["and_gates"]


def test_gates_are_allocated_and_measured_and_an_evaluation_reproduces_it(
    checkpoint: Path, job: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    asked = [f"checkpoint={checkpoint}", "gates=9.5", "draws.count=3", "images=32", "fault.seed=5"]
    with caplog.at_level(logging.INFO):
        record = work_of("search")(job("search", *asked))
    json.dumps(record, allow_nan=False)
    path = Path(record["fault_file"])
    assert sorted(file.name for file in path.parent.iterdir()) == ["fault.yaml", "measured.json"]
    assert 8.5 < record["chosen"]["and_gates"] / record["relus"] <= 9.5
    assert (record["gates"], record["budget"], record["confirmed"]) == (9.5, None, None)
    assert len({row["k"] for row in record["allocation"]}) > 1
    assert record["allocation"][0]["harm_k"] == 22, "one k for all has 9 gates there, and 10 below"
    assert "on average, at most 9.5 asked" in caplog.text
    accuracy = record["chosen"]["test"]["accuracy"]
    evaluated = work_of("evaluate")(job(
        "evaluate", f"checkpoint={checkpoint}", "fault=file", f"fault.path={path}", "fault.seed=5",
        "draws.count=3", "run.device=cpu",
    ))  # fmt: skip
    assert evaluated["accuracy"]["draws"] == accuracy["draws"]
    assert evaluated["cost"]["and_gates"] == record["chosen"]["and_gates"]


def test_refusals(checkpoint: Path, job: Callable[..., Job]) -> None:
    for overrides, message in (
        (["fault=uniform"], "has no k to search for"),
        (["budget=0"], "budget = 0.0"),
        (["draws.count=1"], "draws = 1"),
        (["fault.k=31"], "k = 31 is outside"),
        (["decide_on=train"], "decide_on = 'train'"),
        (["gates=0"], "gates = 0.0: needs to be a number above 0"),
        (["gates=0.9"], "gates = 0.9: .* give gates=1 or more"),
        (["gates=11", "budget=0.02"], "budget = 0.02 and gates = 11"),
        (["gates=11", "decide_on=test"], "decide_on = test and gates = 11"),
    ):
        with pytest.raises(ValueError, match=message):
            work_of("search")(job("search", f"checkpoint={checkpoint}", "run.device=cpu", *overrides))


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/search.py", *arguments], cwd=ROOT,
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_gates_from_the_command_line_and_once_more(checkpoint: Path, tmp_path: Path) -> None:
    """Nothing is confirmed, so the exit code is 0 however much is lost; and the second time it is there."""
    arguments = [
        f"checkpoint={checkpoint}", "gates=2", "draws.count=2", "images=32", "run.device=cpu",
        f"run.root={tmp_path}",
    ]  # fmt: skip
    first = run(arguments)
    assert first.returncode == 0, first.stderr
    assert result_of(tmp_path)["chosen"]["test"]["loss"]["mean"] > 0.1
    again = run(arguments)
    assert "finished before, skipped" in again.stdout
    assert again.returncode == 0
    refused = run([*arguments[:1], "gates=0.2", f"run.root={tmp_path / 'none'}"])
    assert refused.returncode == 2
    assert "gates = 0.2" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_killed_and_started_again(checkpoint: Path, tmp_path: Path) -> None:
    """kill -9 in the middle, then the same command: it goes on, and the answer is that of an undisturbed
    run.
    """
    arguments = [f"checkpoint={checkpoint}", *QUICK, "draws.count=6", "draws.most=24"]
    whole = run([*arguments, f"run.root={tmp_path / 'whole'}"])
    assert whole.returncode in (0, 1), whole.stderr
    command = [sys.executable, "scripts/search.py", *arguments, f"run.root={tmp_path / 'killed'}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if list((tmp_path / "killed").rglob("measured.json")):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was still at work"
    (measured,) = (tmp_path / "killed").rglob("measured.json")
    before = json.loads(measured.read_text())["accuracies"]
    assert before

    again = run([*arguments, f"run.root={tmp_path / 'killed'}"])
    assert again.returncode == whole.returncode, again.stderr
    after = json.loads(measured.read_text())["accuracies"]
    assert all(after[key][: len(draws)] == draws for key, draws in before.items())
    first, second = (result_of(tmp_path / name) for name in ("whole", "killed"))
    assert whole.returncode == (0 if first["confirmed"] else 1)
    assert first["chosen"]["test"] == second["chosen"]["test"]
    assert first["allocation"] == second["allocation"]
    skipped = run([*arguments, f"run.root={tmp_path / 'killed'}"])
    assert "finished before, skipped" in skipped.stdout
    assert skipped.returncode == whole.returncode


def result_of(root: Path) -> dict[str, Any]:
    (path,) = root.rglob("result.json")
    content: dict[str, Any] = json.loads(path.read_text())
    assert content["kind"] == "search"
    return dict(content["result"])
