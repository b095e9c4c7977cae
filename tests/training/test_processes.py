"""Trainings in processes of their own: killed at any moment, stopped by a scheduler, or two on one batch."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from circa_train.checkpoint import load_checkpoint
from circa_train.nn.models.mask_files import load_masks
from circa_train.runs.metrics import read_metrics

SCRIPT = Path(__file__).with_name("tiny.py")


def start(*jobs: dict[str, Any], slow: bool = False, **environment: str) -> subprocess.Popen[bytes]:
    """One process that runs the jobs in turn: keyword arguments of ``tiny.run``."""
    described = json.dumps([job | {"folder": str(job["folder"]), "slow": slow} for job in jobs])
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), described], env=os.environ | environment, stderr=subprocess.PIPE
    )


def wait_for(condition: Any, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)


def finish(process: subprocess.Popen[bytes]) -> int:
    """The exit status; the error output is shown if the test fails."""
    _, errors = process.communicate(timeout=300)
    sys.stderr.write(errors.decode())
    return process.returncode


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def rows(folder: Path) -> list[dict[str, Any]]:
    timing = {"time", "seconds", "images_per_second"}
    return [
        {name: value for name, value in row.items() if name not in timing} for row in read_metrics(folder)
    ]


def test_stopped_and_killed_at_any_moment_and_resumed(tiny: ModuleType, tmp_path: Path) -> None:
    """SIGTERM costs nothing, SIGKILL at most the epoch at hand; the end is that of an uninterrupted run, bit
    for bit.
    """
    settings: dict[str, Any] = {"epochs": 30, "ema_decay": 0.9, "faulty": True}
    folder, moments = tmp_path / "parts", random.Random(0)
    for number, status in ((signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
        process = start({"folder": folder, **settings}, slow=True)
        # Some time after the next epoch has been logged; whatever is being written then is cut off.
        before = size(folder / "metrics.jsonl")
        wait_for(lambda before=before: size(folder / "metrics.jsonl") > before + 300, process)
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(number)
        assert finish(process) == status
        done = len(rows(folder))
        assert done > 0
        for name in ("last.pt", "best.pt"):
            checkpoint = load_checkpoint(folder / name)
            if checkpoint.training_state is not None:
                assert (
                    0 <= done - checkpoint.training_state["progress"]["epoch"] <= (number == signal.SIGKILL)
                )
    tiny.run(tmp_path / "whole", **settings)
    tiny.run(folder, **settings)
    assert rows(folder) == rows(tmp_path / "whole")
    one, other = (load_checkpoint(run / "last.pt").state_dict for run in (folder, tmp_path / "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_two_processes_take_the_steps_of_one_on_the_joined_batch(tiny: ModuleType, tmp_path: Path) -> None:
    """With faults the masks must be those of the joined batch: rank 0's may not be given to all.

    A second training stands still and only watches: a running mean is linear in what was seen, so the average
    over the processes is the joined batch's. A third one chooses ReLUs: the same, or the alphas' gradients
    were not added up.
    """
    stepping: dict[str, Any] = {
        "faulty": True,
        "batchnorm": False,
        "epochs": 2,
        "accumulate": 2,
        "momentum": 0.9,
        "validation_draws": 2,
    }
    watching: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-30, "weight_decay": 0.0}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    choosing: dict[str, Any] = {
        "batchnorm": False,
        "epochs": 5,
        "learning_rate": 0.01,
        "reduction": {"budget": 104, "epochs": 2, "learning_rate": 0.1, "interval": 1, "growth": 1.5},
    }
    wanted = {"stepping": stepping, "watching": watching, "choosing": choosing}
    jobs = [{"folder": tmp_path / f"{name}2", **settings} for name, settings in wanted.items()]
    processes = [
        start(
            *jobs,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(2)
    ]
    one, _ = tiny.run(tmp_path / "stepping1", **stepping)
    watched, _ = tiny.run(tmp_path / "watching1", **watching)
    tiny.run(tmp_path / "choosing1", **choosing)
    assert [finish(process) for process in processes] == [0, 0]

    two = load_checkpoint(tmp_path / "stepping2" / "last.pt").state_dict
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5)
    for a, b in zip(rows(tmp_path / "stepping1"), rows(tmp_path / "stepping2"), strict=True):
        for name in ("epoch", "train_accuracy", "validation_accuracy"):
            assert a[name] == b[name]
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
    mean = load_checkpoint(tmp_path / "watching2" / "last.pt").state_dict["1.running_mean"]
    torch.testing.assert_close(mean, watched["1.running_mean"], rtol=1e-5, atol=1e-6)
    ours, theirs = (load_masks(tmp_path / f"choosing{n}" / "masks.safetensors") for n in (1, 2))
    assert all(torch.equal(ours[site], theirs[site]) for site in ours)
