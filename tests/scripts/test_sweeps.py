"""The scripts as users start them: train, sweep, skip, widen, fail, kill, collect, plot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from circa_train.runs.table import collect

ROOT = Path(__file__).parents[2]
SMALL = [
    "model.width=0.25",
    "data=synthetic",
    'data.name="synthetic:classes=3,size=8,channels=1,images=120"',
    "run.progress=false",
]
QUICK = ["draws.count=2", "run.progress=false", "run.threads=1"]


def script(name: str, *arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny trained network in runs/train."""
    folder = tmp_path_factory.mktemp("scripts")
    done = script("train", *SMALL, "epochs=1", "batch_size=32", "run.threads=1", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def results(folder: Path) -> list[Path]:
    return sorted((folder / "runs" / "sweeps").rglob("result.json"))


def test_a_sweep_skips_what_is_finished_widens_survives_failures_and_is_plotted(trained: Path) -> None:
    sweep = ["-m", "checkpoint=runs/train/*/best.pt", "fault=poszero", *QUICK]
    first = script("evaluate", *sweep, "fault.k=0,40,20", "sites=true", folder=trained)
    assert first.returncode == 1
    assert "2 of 3 jobs finished" in first.stdout
    assert "fault.k=40" in first.stdout
    assert "k = 40 is outside [0, 30]" in first.stdout
    assert "Traceback" not in first.stdout + first.stderr
    before = {path: path.stat().st_mtime_ns for path in results(trained)}
    assert len(before) == 2

    wider = script("evaluate", *sweep, "fault.k=0,20,24", "sites=true", folder=trained)
    assert wider.returncode == 0, wider.stdout + wider.stderr
    assert "3 jobs, 2 finished before" in wider.stdout
    assert {path: path.stat().st_mtime_ns for path in results(trained) if path in before} == before
    assert len(results(trained)) == 3

    failures = list((trained / "runs").rglob("failure.json"))
    assert [json.loads(path.read_text())["error"] for path in failures] == ["ValueError"]
    assert "Traceback" in (failures[0].parent / "job.log").read_text()

    plotted = script("plot", "runs=runs", "out=plots", folder=trained)
    assert plotted.returncode == 0, plotted.stdout + plotted.stderr
    assert "jobs failed" in plotted.stdout
    assert "lyph" not in plotted.stdout  # what fontTools has to say of every font in a PDF
    for name in (
        "results.csv",
        "accuracy_vs_k.png",
        "accuracy_vs_k.svg",
        "site_heat_map.png",
        "fault_probability_poszero.svg",
    ):
        assert (trained / "plots" / name).stat().st_size > 0
        assert name in plotted.stdout


def test_a_single_evaluation_is_skipped_the_second_time_unless_asked_again(trained: Path) -> None:
    command = ["checkpoint=runs/train/*/best.pt", "fault=negpass", "fault.k=3", *QUICK]
    assert script("evaluate", *command, folder=trained).returncode == 0
    (row,) = collect(trained / "runs" / "evaluate").rows
    assert (row["mode"], row["k"], row["draws"], row["data"]) == (
        "negpass",
        3,
        2,
        "synthetic:classes=3,size=8,channels=1,images=120",
    )
    second = script("evaluate", *command, folder=trained)
    assert "finished before, skipped" in second.stdout
    assert "finished before" not in script("evaluate", *command, "run.again=true", folder=trained).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fault=poszero", "fault.k=31"], 2, "k = 31 is outside"),
        (["fault.k=many"], 1, "fault.k"),
        (["checkpoint=nowhere/best=1.pt"], 2, "there is no checkpoint nowhere/best=1.pt"),
        ([], 2, "checkpoint is missing"),
    ],
)
def test_mistakes_get_one_clear_line(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    given = (
        arguments
        if not arguments or arguments[0].startswith("checkpoint")
        else ["checkpoint=x.pt", *arguments]
    )
    done = script("evaluate", *given, folder=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["train", "evaluate", "plot"])
def test_help_shows_commands_and_values(tmp_path: Path, name: str) -> None:
    done = script(name, "--help", folder=tmp_path)
    assert done.returncode == 0
    assert done.stdout.count(f"scripts/{name}.py") >= 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_sweep_ends_as_one_that_ran_through(trained: Path) -> None:
    sweep = [
        "-m",
        "checkpoint=runs/train/*/best.pt",
        "fault=poszero,negpass",
        "fault.k=range(0,30,5)",
        *QUICK,
    ]
    whole = script("evaluate", *sweep, "run.sweep=whole", folder=trained)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), *sweep, "run.sweep=killed"]
    killed = trained / "runs" / "sweeps" / "killed"
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=trained, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while len(list(killed.glob("*/result.json"))) < 4 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert 4 <= len(list(killed.glob("*/result.json"))) < 12
    again = script("evaluate", *sweep, "run.sweep=killed", folder=trained)
    assert again.returncode == 0, again.stdout + again.stderr

    def tables(name: str) -> list[tuple[object, ...]]:
        columns = (
            "config_hash",
            "mode",
            "k",
            "accuracy",
            "accuracy_low",
            "accuracy_high",
            "frac_bits",
            "baseline_accuracy",
        )
        return sorted(
            tuple(row[column] for column in columns)
            for row in collect(trained / "runs" / "sweeps" / name).rows
        )

    assert tables("killed") == tables("whole")
    assert len(tables("whole")) == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "plugin", "options"),
    [
        ("joblib", "hydra_joblib_launcher", ["hydra.launcher.n_jobs=2"]),
        ("submitit_local", "hydra_submitit_launcher", []),
        ("ray", "hydra_ray_launcher", ["+hydra.launcher.ray.init.num_cpus=2"]),
    ],
)
def test_parallel_launchers_give_the_same_folders(
    trained: Path, launcher: str, plugin: str, options: list[str]
) -> None:
    pytest.importorskip(
        f"hydra_plugins.{plugin}", reason=f"the extra of the package that brings {plugin} is not installed"
    )
    name = f"run.sweep={launcher}"
    sweep = ["-m", "checkpoint=runs/train/*/best.pt", "fault=poszero", *QUICK, name]
    done = script("evaluate", *sweep, "fault.k=1,2,40", f"launcher={launcher}", *options, folder=trained)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 of 3 jobs finished" in done.stdout
    again = script("evaluate", *sweep, "fault.k=1,2", folder=trained)
    assert "2 jobs, 2 finished before" in again.stdout, again.stdout + again.stderr
