"""Whose data a result speaks of, where the data come from the user's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circa_train import user_code
from circa_train.data import register_dataset
from circa_train.jobs import inputs
from circa_train.jobs.inputs import data_identity
from circa_train.jobs.job import run, run_folder_of
from circa_train.jobs.settings import (
    DataConfig,
    EvaluateConfig,
    FaultConfig,
    ModelConfig,
    RunConfig,
    TrackerConfig,
    TrainConfig,
)

SOURCE = """
import numpy as np

def pictures(root):
    stored = np.load(root + "/pictures.npz") if isinstance(root, str) else np.load(root / "pictures.npz")
    return stored["a"], stored["b"], stored["c"], stored["d"]
"""
QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "threads": 1}


def write(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = {}
    for images, labels, count in (("a", "b", 40), ("c", "d", 12)):
        parts[labels] = np.arange(count) % 2
        noise = rng.integers(0, 80, (count, 1, 8, 8))
        parts[images] = (noise + 120 * parts[labels][:, None, None, None]).astype(np.uint8)
    np.savez(folder / "pictures.npz", **parts)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SOURCE)
    write(tmp_path, 0)
    inputs._LOOKS.clear()
    return tmp_path


def training(place: Path, name: str) -> Any:
    return TrainConfig(
        model=ModelConfig(name="resnet8", width=0.25), data=DataConfig(name=name, root=str(place)),
        fault=FaultConfig(kind="none"), tracker=TrackerConfig(), run=RunConfig(**QUIET),
        epochs=1, batch_size=16,
    )  # fmt: skip


def changed(place: Path) -> None:
    write(place, 1)
    inputs._LOOKS.clear()  # as in another process


@pytest.mark.parametrize("registered", [False, True])
def test_changed_data_of_the_users_own_are_noticed(place: Path, registered: bool) -> None:
    name = "python:mine.py:pictures"
    if registered:
        register_dataset("mine", user_code.load(name))
        name = "mine"
    config = training(place, name)
    first = run("train", config, place / "run")
    assert first["data"]["name"] == name
    tested = EvaluateConfig(
        checkpoint=str(place / "run" / "best.pt"), model=ModelConfig(name="checkpoint"),
        data=DataConfig(name="checkpoint", root=str(place)), fault=FaultConfig(kind="none"),
        run=RunConfig(**QUIET),
    )  # fmt: skip
    measured = run("evaluate", tested, place / "tested")
    inputs._LOOKS.clear()
    assert run("train", config, place / "run") == first
    assert run("evaluate", tested, place / "tested") == measured
    changed(place)
    again = run("evaluate", tested, place / "tested")
    assert again["finished"] != measured["finished"]
    assert again["data"]["identity"] != measured["data"]["identity"]
    stale = run_folder_of(place / "run", "train", first["config"]).stale()
    assert any("contents of data" in why for why in stale)
    assert run("train", config, place / "run")["finished"] != first["finished"]


def test_code_is_not_run_because_a_result_names_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_code, "_NAMED", set())
    trap = place / "trap.py"
    trap.write_text("raise SystemExit('was run')")
    reference = f"python:{trap}:pictures"
    folder = run_folder_of(place / "x", "evaluate", {"data": {"name": "checkpoint"}})
    assert folder.data_now(reference) == "code that was not named"
    assert data_identity(reference, place, lambda name: False) == "code that was not named"


@pytest.mark.parametrize("name", ["digits", "synthetic:classes=3", "cifar10", "checkpoint", None, "None"])
def test_a_name_that_settles_its_contents_has_no_identity(name: str | None) -> None:
    assert data_identity(name, "nowhere") is None


def test_data_that_cannot_be_read_have_an_identity_of_their_own(place: Path) -> None:
    name = "python:mine.py:pictures"
    there = data_identity(name, str(place))
    (place / "pictures.npz").unlink()
    inputs._LOOKS.clear()
    assert str(data_identity(name, str(place))).startswith("FileNotFoundError")
    write(place, 0)
    inputs._LOOKS.clear()
    assert data_identity(name, str(place)) == there
