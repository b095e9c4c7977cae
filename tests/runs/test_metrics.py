from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb

from circa_train.runs.metrics import JsonLinesTracker, build_tracker, read_metrics, read_summary
from circa_train.runs.tracker import Tracker, Trackers
from circa_train.runs.wandb_mirror import WandbSettings, WandbTracker


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_metrics(folder)]


def test_lines_are_the_record_as_they_are_written(tmp_path: Path) -> None:
    tracker = JsonLinesTracker(tmp_path / "run")
    tracker.log(
        {"loss": torch.tensor(0.5), "accuracy": np.float32(0.25), "site": "a", "nothing": None}, step=1
    )
    (row,) = read_metrics(tmp_path / "run")  # while the run goes on
    assert row.pop("time") > 1e9
    assert row == {"step": 1, "loss": 0.5, "accuracy": 0.25, "site": "a", "nothing": None}
    tracker.log({"loss": float("nan"), "rate": float("inf")}, step=2)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[1]["loss"] is None
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_metric_that_is_no_number_is_refused(tmp_path: Path) -> None:
    tracker = JsonLinesTracker(tmp_path)
    with pytest.raises(TypeError, match="list"):
        tracker.log({"loss": [1, 2]}, step=0)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_steps_never_fall(tmp_path: Path) -> None:
    tracker = JsonLinesTracker(tmp_path)
    tracker.log({}, step=5)
    tracker.log({}, step=5)
    with pytest.raises(ValueError, match="step 4 is logged after step 5"):
        tracker.log({}, step=4)


@pytest.mark.parametrize("half", ['{"step": 3, "lo', '{"step": 3}', "{"])
def test_half_written_last_line_is_skipped_and_then_removed(tmp_path: Path, half: str) -> None:
    tracker = JsonLinesTracker(tmp_path)
    for step in (1, 2):
        tracker.log({"loss": step}, step=step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(half)
    assert steps(tmp_path) == [1, 2]
    JsonLinesTracker(tmp_path).log({"loss": 3}, step=3)
    assert steps(tmp_path) == [1, 2, 3]
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"step": "1"}'])
def test_damaged_line_within_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is damaged"):
        read_metrics(tmp_path)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_metrics(tmp_path)


def test_rewinding_drops_what_lies_beyond(tmp_path: Path) -> None:
    tracker = JsonLinesTracker(tmp_path)
    for step in range(5):
        tracker.log({"loss": step}, step=step)
    tracker.summary({"best": 1.0})
    assert read_summary(tmp_path) == {"best": 1.0}
    assert steps(tmp_path) == [0, 1, 2, 3, 4]
    resumed = JsonLinesTracker(tmp_path)
    resumed.rewind(4)
    assert read_summary(tmp_path) == {}
    resumed.rewind(2)
    assert steps(tmp_path) == [0, 1, 2]
    resumed.log({"loss": 3}, step=3)
    assert steps(tmp_path) == [0, 1, 2, 3]
    resumed.rewind(-1)
    assert steps(tmp_path) == []
    resumed.log({}, step=0)


def test_no_tracker_does_nothing_and_several_do_everything(tmp_path: Path) -> None:
    class Recording(Tracker):
        def __init__(self) -> None:
            self.calls: list[str] = []

        def __getattribute__(self, name: str) -> Any:
            if name in {"log", "rewind", "summary", "checkpoint", "finish"}:
                return lambda *args: self.calls.append(name)
            return super().__getattribute__(name)

    one, other = Recording(), Recording()
    for tracker in (Tracker(), Trackers([one, other])):
        tracker.log({"a": 1}, 0)
        tracker.rewind(0)
        tracker.summary({})
        tracker.checkpoint(tmp_path)
        tracker.finish()
    assert one.calls == other.calls == ["log", "rewind", "summary", "checkpoint", "finish"]
    assert list(tmp_path.iterdir()) == []


def test_only_rank_0_writes(tmp_path: Path) -> None:
    assert type(build_tracker(tmp_path / "a", wandb=WandbSettings(), rank=1)) is Tracker
    assert not (tmp_path / "a").exists()
    assert type(build_tracker(tmp_path, wandb=WandbSettings(mode="disabled"))) is JsonLinesTracker
    assert type(build_tracker(tmp_path)) is JsonLinesTracker


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="wandb mode = 'cloud' is not one of offline, online, disabled"):
        WandbSettings(mode="cloud")


class FakeRun:
    """What this module uses of a wandb run."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments
        self.id = arguments["id"]
        self.step = 0
        self.offline = arguments["mode"] == "offline"
        self.disabled = False
        self.logged: list[tuple[dict[str, Any], int]] = []
        self.summary: dict[str, Any] = {}
        self.artifacts: list[Any] = []
        self.finished = False

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self.logged.append((metrics, step))

    def log_artifact(self, artifact: Any) -> None:
        self.artifacts.append(artifact)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    started: list[FakeRun] = []

    def init(**arguments: Any) -> FakeRun:
        started.append(FakeRun(arguments))
        return started[-1]

    monkeypatch.setattr(wandb, "init", init)
    return started


def test_one_run_per_folder_continued_on_resumption(tmp_path: Path, runs: list[FakeRun]) -> None:
    settings = WandbSettings(group="sweep", tags=("a",))
    for folder in ("job0", "job1", "job0"):
        WandbTracker(tmp_path / folder, settings, {"fault": {"k": 12}}).finish()
    assert runs[0].id == runs[2].id != runs[1].id
    arguments = runs[1].arguments
    assert (arguments["name"], arguments["group"], arguments["mode"]) == ("job1", "sweep", "offline")
    assert (arguments["reinit"], arguments["resume"]) == ("finish_previous", "allow")
    assert arguments["config"] == {"fault": {"k": 12}}
    assert arguments["settings"].init_timeout == 20
    assert all(run.finished for run in runs)


def test_metrics_are_mirrored_but_never_twice(tmp_path: Path, runs: list[FakeRun]) -> None:
    tracker = build_tracker(tmp_path, wandb=WandbSettings())
    for step in (0, 1):
        tracker.log({"loss": step}, step)
    tracker.rewind(0)
    for step in (1, 2):
        tracker.log({"loss": step}, step)
    tracker.summary({"best": 1})
    assert [step for _, step in runs[0].logged] == [0, 1, 2]
    assert runs[0].summary == {"best": 1}
    assert steps(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize(
    "failure",
    [
        wandb.errors.UsageError("No API key configured."),
        wandb.errors.CommError("Timed out\nretrying"),
        TimeoutError(),
    ],
)
def test_online_without_key_or_server_goes_offline_with_one_warning(
    tmp_path: Path,
    runs: list[FakeRun],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
) -> None:
    fake = wandb.init

    def init(**arguments: Any) -> Any:
        if arguments["mode"] == "online":
            assert arguments["settings"].init_timeout <= 20
            raise failure
        return fake(**arguments)

    monkeypatch.setattr(wandb, "init", init)
    with caplog.at_level(logging.WARNING):
        tracker = WandbTracker(tmp_path, WandbSettings(mode="online"))
    assert tracker.run.offline
    (record,) = caplog.records
    assert "wandb is offline for this run" in record.message
    assert "\n" not in record.message
    tracker.log({"loss": 1.0}, 0)
    assert runs[0].logged == [({"loss": 1.0}, 0)]


def test_declined_login_goes_offline(
    tmp_path: Path, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = wandb.init

    def init(**arguments: Any) -> Any:
        run = fake(**arguments)
        run.disabled = arguments["mode"] == "online"
        return run

    monkeypatch.setattr(wandb, "init", init)
    assert WandbTracker(tmp_path, WandbSettings(mode="online")).run.offline
    assert runs[0].finished


def test_online_stays_online(tmp_path: Path, runs: list[FakeRun]) -> None:
    assert WandbTracker(tmp_path, WandbSettings(mode="online")).run.arguments["mode"] == "online"
    assert len(runs) == 1


def test_error_of_the_mirror_is_told_once_and_stops_nothing(
    tmp_path: Path, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = build_tracker(tmp_path, wandb=WandbSettings())
    monkeypatch.setattr(
        runs[0], "log", lambda *args, **kwargs: (_ for _ in ()).throw(BrokenPipeError("service gone"))
    )
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            tracker.log({"loss": step}, step)
        tracker.finish()
    assert [record.message for record in caplog.records] == [
        "wandb failed and is ignored from here on (service gone); metrics.jsonl is complete"
    ]
    assert steps(tmp_path) == [0, 1, 2]


def test_wandb_offline_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no server; the checkpoint is referred to, not copied."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "job"
    tracker = build_tracker(folder, wandb=WandbSettings(), config={"k": 12})
    checkpoint = tmp_path / "best.pt"
    checkpoint.write_bytes(bytes(3_000_000))
    tracker.log({"loss": 1.0}, 0)
    tracker.checkpoint(checkpoint)
    tracker.summary({"best": 0.5})
    tracker.finish()
    (recorded,) = folder.glob("wandb/offline-run-*/*.wandb")
    assert (folder / "wandb_id").read_text() in recorded.name
    assert (
        sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file() and file != checkpoint)
        < 1_000_000
    )
