"""What a run folder may and may not be used for: whose states, how many owners, and when a result counts."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from circa_train.checkpoint import load_checkpoint
from circa_train.jobs import inputs
from circa_train.jobs.job import run
from circa_train.jobs.settings import (
    DataConfig,
    EvaluateConfig,
    FaultConfig,
    ModelConfig,
    RunConfig,
    TrackerConfig,
    TrainConfig,
)
from circa_train.runs.folder import FAILURE, RESULT
from circa_train.runs.lock import FolderInUse, owned, owner
from circa_train.runs.metrics import read_metrics
from circa_train.runs.records import next_number
from circa_train.runs.table import collect

DATA = "synthetic:classes=3,size=8,channels=1,images=60"
QUIET = {"progress": False, "device": "cpu"}


def training(seed: int = 0, *, checkpoint: str | None = None, data: str = DATA, **run_values: Any) -> Any:
    return TrainConfig(
        model=ModelConfig(name="resnet8", width=0.25), data=DataConfig(name=data, image_size=None),
        fault=FaultConfig(kind="none"), tracker=TrackerConfig(), run=RunConfig(**{**QUIET, **run_values}),
        epochs=2, batch_size=16, seed=seed, checkpoint=checkpoint,
    )  # fmt: skip


def evaluating(checkpoint: Path) -> Any:
    return EvaluateConfig(
        checkpoint=str(checkpoint), model=ModelConfig(name="checkpoint"), data=DataConfig(name="checkpoint"),
        fault=FaultConfig(kind="none"), run=RunConfig(**QUIET),
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trainings, of seeds 0 and 1."""
    folder = tmp_path_factory.mktemp("trained")
    for seed in (0, 1):
        run("train", training(seed), folder / str(seed))
    return folder


#: Equal trainings with several threads may differ in the order of a sum: by 1e-8 where that was seen, while
#: other seeds, other first weights or other data differ by more than 1e-2 somewhere.
ROUNDING = 1e-5


def difference(one: Path, other: Path) -> float:
    """The largest one among the weights of two checkpoints."""
    a, b = load_checkpoint(one).state_dict, load_checkpoint(other).state_dict
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def test_the_tolerance_tells_trainings_apart(trained: Path) -> None:
    assert difference(trained / "0" / "best.pt", trained / "1" / "best.pt") > 1000 * ROUNDING


def test_a_fine_tuning_of_other_first_weights_is_not_resumed(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Replace the first weights, start with a value that is refused, and start again."""
    first = tmp_path / "ck.pt"
    shutil.copy(trained / "0" / "best.pt", first)
    run("train", training(checkpoint=str(first)), tmp_path / "tuned")
    shutil.copy(trained / "1" / "best.pt", first)
    with pytest.raises(ValueError, match=r"run\.device"):
        run("train", training(checkpoint=str(first), device="cuda:77"), tmp_path / "tuned")
    with caplog.at_level(logging.WARNING):
        run("train", training(checkpoint=str(first)), tmp_path / "tuned")
    assert "is set aside" in caplog.text
    right = tmp_path / "right"
    run("train", training(checkpoint=str(first)), right)
    other = tmp_path / "other"
    run("train", training(checkpoint=str(trained / "0" / "best.pt")), other)
    for name in ("last.pt", "best.pt"):
        assert difference(tmp_path / "tuned" / name, right / name) < ROUNDING
        assert difference(tmp_path / "tuned" / name, other / name) > 1000 * ROUNDING
    assert (tmp_path / "tuned" / "last.stale-1.pt").is_file()


@pytest.mark.parametrize("damage", ["best.pt gone", "last.pt gone", "best.pt changed", "metrics changed"])
def test_a_result_without_its_files_is_none(trained: Path, tmp_path: Path, damage: str) -> None:
    place = tmp_path / "run"
    shutil.copytree(trained / "0", place)  # with other times: the contents decide
    before = (place / RESULT).read_bytes()
    run("train", training(), place)
    assert (place / RESULT).read_bytes() == before
    name, what = damage.split()
    file = place / {"metrics": "metrics.jsonl"}.get(name, name)
    if what == "gone":
        file.unlink()
    elif name == "metrics":
        file.write_bytes(file.read_bytes().replace(b'"epoch": 1', b'"epoch": 7'))
    else:
        shutil.copy(trained / "1" / name, file)
    run("train", training(), place)
    assert (place / RESULT).read_bytes() != before
    for name in ("best.pt", "last.pt"):
        assert difference(place / name, trained / "0" / name) < ROUNDING
    assert [row["epoch"] for row in read_metrics(place)] == [1, 2]


def picture(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(level).integers(0, 40, (8, 8, 3))
    Image.fromarray((noise + level).astype(np.uint8)).save(path)


def test_data_changed_under_the_same_path_are_noticed(tmp_path: Path) -> None:
    for part, count in (("train", 30), ("test", 4)):
        for label in (0, 1):
            for number in range(count):
                picture(tmp_path / "data" / part / str(label) / f"{number}.png", 100 * label + number)
    config = training(data=f"imagefolder:{tmp_path / 'data'}")
    config.data.root = str(tmp_path)
    first = run("train", config, tmp_path / "run")
    checkpoint = tmp_path / "run" / "best.pt"
    tested = evaluating(checkpoint)
    tested.data.root = str(tmp_path)
    measured = run("evaluate", tested, tmp_path / "tested")
    assert run("train", config, tmp_path / "run") == first
    assert run("evaluate", tested, tmp_path / "tested") == measured
    for number in range(4):
        picture(tmp_path / "data" / "test" / "0" / f"{number}.png", 100 + number)
    inputs._LOOKS.clear()  # on a machine so loaded that the look took long, it would not be repeated yet
    again = run("evaluate", tested, tmp_path / "tested")
    assert again["finished"] != measured["finished"]
    assert again["result"]["baseline_accuracy"] != measured["result"]["baseline_accuracy"]
    assert run("train", config, tmp_path / "run")["finished"] != first["finished"]


@pytest.mark.parametrize("damage", ["flipped", "emptied", "without digest"])
def test_a_damaged_result_is_named_and_the_job_runs_again(
    trained: Path, tmp_path: Path, damage: str
) -> None:
    place = tmp_path / "run"
    config = evaluating(trained / "0" / "best.pt")
    run("evaluate", config, place)
    text = (place / RESULT).read_text()
    sound = json.loads(text)
    bad = {
        "flipped": text.replace('"relus": ', '"relus": 1'),
        "emptied": "",
        "without digest": json.dumps({key: value for key, value in sound.items() if key != "sha256"}),
    }[damage]
    assert bad != text
    (place / RESULT).write_text(bad)
    found = collect(place)
    assert found.rows == []
    assert [skipped.path for skipped in found.skipped] == [place / RESULT]
    assert run("evaluate", config, place)["result"] == sound["result"]
    assert len(collect(place).rows) == 1


def test_a_sound_result_in_the_folder_of_another_run_is_named(trained: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        run("evaluate", evaluating(trained / str(seed) / "best.pt"), tmp_path / str(seed))
    shutil.copy(tmp_path / "0" / RESULT, tmp_path / "1" / RESULT)
    found = collect(tmp_path)
    assert [row["run"] for row in found.rows] == [str(tmp_path / "0")]
    assert "another run" in found.skipped[0].reason
    (tmp_path / "x-0123456789").mkdir()
    shutil.copy(tmp_path / "0" / RESULT, tmp_path / "x-0123456789" / RESULT)
    assert len(collect(tmp_path).skipped) == 2


def test_numbers_rise_whatever_the_clock_says(tmp_path: Path) -> None:
    assert [next_number(tmp_path, RESULT) for _ in range(3)] == [1, 2, 3]
    program = (
        "import pathlib, sys; from circa_train.runs.records import next_number;"
        f"print(next_number(pathlib.Path(sys.argv[1]), {RESULT!r}))"
    )
    (tmp_path / ".number").unlink()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / RESULT).write_text('{"number": 41}')
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, check=True)
    assert int(done.stdout) == 42


HOLD = """
import sys, pathlib
from circa_train.runs.lock import owned
with owned(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holding(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_has_one_owner_which_is_named_and_a_killed_one_leaves_it_free(tmp_path: Path) -> None:
    process = holding(tmp_path / "run")
    with pytest.raises(FolderInUse, match=f"is in use by process {process.pid} on "):
        run("train", training(), tmp_path / "run")
    assert not (tmp_path / "run" / FAILURE).exists()
    assert str(process.pid) in str(owner(tmp_path / "run"))
    process.kill()
    process.communicate()
    assert owner(tmp_path / "run") is None
    with owned(tmp_path / "run"):
        assert str(os.getpid()) in str(owner(tmp_path / "run"))


def test_who_waits_goes_on_when_the_owner_has_ended(tmp_path: Path) -> None:
    process = holding(tmp_path)
    told = []

    def waiting(text: str) -> None:
        told.append(text)
        process.kill()
        process.communicate()

    with owned(tmp_path, waiting):
        pass
    assert f"process {process.pid}" in told[0]


TRAIN = """
import sys
from tests_owning import run, training
run("train", training(), sys.argv[1])
"""


def test_two_identical_trainings_at_once(trained: Path, tmp_path: Path) -> None:
    shutil.copy(__file__, tmp_path / "tests_owning.py")
    command = [sys.executable, "-c", TRAIN, str(tmp_path / "run")]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert 0 in [process.returncode for process in both]
    for process, error in zip(both, errors, strict=True):  # the later one came too late, or was refused
        assert process.returncode == 0 or "FolderInUse" in error, error
    assert [row["epoch"] for row in read_metrics(tmp_path / "run")] == [1, 2]
    assert difference(tmp_path / "run" / "best.pt", trained / "0" / "best.pt") < ROUNDING
