"""What a sweep says of jobs that a launcher did not bring to an end."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from circa_train.config import sweeper
from circa_train.config.registration import register
from circa_train.runs import FAILURE, LOG, RESULT, RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "x", "evaluate", {"fault": {"k": 3}}, ("fault.k=3",))


def told(caplog: pytest.LogCaptureFixture, folder: RunFolder) -> str:
    with caplog.at_level(logging.INFO):
        assert not sweeper._summary(folder.path.parent, [folder])
    return next(r.getMessage() for r in caplog.records if "failed: fault.k=3" in r.getMessage())


def test_a_job_that_was_never_started_has_no_log(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    line = told(caplog, folder)
    assert line.endswith("it was not started")
    assert "log" not in line


def test_a_job_that_was_cut_off_names_the_log_that_is_there(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.start("")
    assert "log" not in told(caplog, folder)
    caplog.clear()
    (folder.path / LOG).write_text("so far")
    assert told(caplog, folder).endswith(f"it was cut off (log: {folder.path / LOG})")


def test_a_job_that_failed_says_why(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    folder.fail(ValueError("k = 99 is outside"))
    assert (folder.path / FAILURE).exists()
    assert "ValueError: k = 99 is outside" in told(caplog, folder)
    assert not (folder.path / RESULT).exists()


def test_rays_timeout_comes_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sweeper.RAY_PATIENCE, "7")
    line = sweeper.launcher_stopped(Exception("The current node timed out during startup."))
    assert "after 7 s" in line
    assert sweeper.RAY_PATIENCE in line
    assert "hydra.launcher.ray.init.address=auto" in line
    assert sweeper.RAY_PATIENCE not in sweeper.launcher_stopped(OSError("no such host"))


def test_an_interrupted_launcher_ends_the_sweep_in_one_line(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """joblib and Ray wait for processes of their own, and Ctrl-C reaches the sweeper, not a job."""

    class Interrupted:
        def launch(self, overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[object]:
            raise KeyboardInterrupt

    made = object.__new__(sweeper.FinishedJobsSweeper)
    made.launcher, made.max_batch_size = Interrupted(), None  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING), pytest.raises(SystemExit) as ended:
        made._run([sweeper._Job(["fault.k=3"], 0, folder)], folder.path.parent)
    assert ended.value.code == 130
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"interrupted; the same command goes on from what is in {folder.path.parent}"


@pytest.mark.parametrize("own", [None, "300"])
def test_ray_gets_time_to_start_unless_the_environment_says_how_much(
    monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    class RayLauncher:
        __module__ = "hydra_plugins.hydra_ray_launcher.ray_launcher"

        def launch(self, overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[object]:
            return []

    monkeypatch.setenv(sweeper.RAY_PATIENCE, "")  # so that it is put back afterwards
    del os.environ[sweeper.RAY_PATIENCE]
    if own is not None:
        monkeypatch.setenv(sweeper.RAY_PATIENCE, own)
    register()
    made = object.__new__(sweeper.FinishedJobsSweeper)
    made.launcher, made.max_batch_size = RayLauncher(), None  # type: ignore[assignment]
    made._launch([])
    assert os.environ[sweeper.RAY_PATIENCE] == (own or sweeper.RAY_SECONDS)
