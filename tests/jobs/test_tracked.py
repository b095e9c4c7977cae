"""What trackers are told of jobs that are no trainings, and how they appear in Weights & Biases."""

from __future__ import annotations

import csv
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb

from circa_train import build_model
from circa_train.checkpoint import save_checkpoint
from circa_train.jobs.job import KINDS, perform, run, run_folder_of
from circa_train.jobs.plot import work as plot_work
from circa_train.jobs.settings import (
    DataConfig,
    EvaluateConfig,
    ExportConfig,
    ModelConfig,
    PlotConfig,
    RunConfig,
    SearchConfig,
    SearchDrawsConfig,
    TrackerConfig,
    VerifyConfig,
)
from circa_train.jobs.tracked import run_name, steps, summary
from circa_train.runs import WandbSettings
from circa_train.runs.metrics import read_metrics, read_summary
from circa_train.runs.wandb_mirror import WandbTracker

NETWORK = {"name": "resnet8", "num_classes": 3, "image_size": 8, "width": 0.25, "in_channels": 1}
DATA = {
    "name": "synthetic:classes=3,size=8,channels=1,images=60",
    "mean": [0.5], "std": [0.25], "class_names": list("abc"),
}  # fmt: skip
ACCURACY = ("accuracy", "accuracy_low", "accuracy_high")
QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "threads": 1}


class FakeRun:
    """What is used of a wandb run."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments, self.id, self.step = arguments, arguments["id"], 0
        self.disabled = self.offline = False
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.finished = False

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self.logged.append(metrics)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    started: list[FakeRun] = []

    def init(**arguments: Any) -> FakeRun:
        started.append(FakeRun(arguments))
        return started[-1]

    monkeypatch.setattr(wandb, "init", init)
    return started


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "c.pt"
    save_checkpoint(path, build_model(**NETWORK), {"model": NETWORK, "data": DATA})
    return path


def fault(k: int, seed: int = 0) -> Any:
    from circa_train.config.schema import _of_kind  # the section as the scripts have it

    return _of_kind("truncated_sign")(kind="truncated_sign", k=k, seed=seed)


def asked(kind: str, checkpoint: Path, **tracker: Any) -> Any:
    section = TrackerConfig(**({"name": "wandb", "mode": "offline"} | tracker))
    common: dict[str, Any] = {
        "checkpoint": str(checkpoint), "model": ModelConfig(name="checkpoint"), "run": RunConfig(**QUIET),
        "data": DataConfig(name="checkpoint"), "fault": fault(12, seed=3), "tracker": section,
    }  # fmt: skip
    if kind == "search":
        draws = SearchDrawsConfig(count=2, most=2)
        return SearchConfig(**common, budget=0.9, per_site=False, draws=draws)
    makers: dict[str, Any] = {"evaluate": EvaluateConfig, "verify": VerifyConfig, "export": ExportConfig}
    return makers[kind](**common)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("evaluate", {*ACCURACY, "baseline_accuracy", "k", "and_gates", "relus"}),
        ("verify", {"values", "mismatches", "k", "frac_bits"}),
        ("search", {*ACCURACY, "k", "k_most", "and_gates", "uniform_accuracy"}),
        ("export", {*ACCURACY, "k", "integer_minus_simulator"}),
    ],
)
def test_every_job_tells_its_tracker(
    tmp_path: Path, checkpoint: Path, runs: list[FakeRun], kind: str, told: set[str]
) -> None:
    stored = run(kind, asked(kind, checkpoint, tags=["a", "b"], group="mine"), tmp_path / "x-0123456789")
    (seen,) = runs
    arguments = seen.arguments
    assert (arguments["job_type"], arguments["group"], arguments["tags"]) == (kind, "mine", ["a", "b"])
    assert arguments["name"] == "x-0123456789-k12-seed3"
    assert arguments["config"]["fault"]["k"] == 12
    assert seen.finished
    assert told <= set(seen.summary), told - set(seen.summary)
    assert seen.summary == summary(stored["result"]) == read_summary(tmp_path / "x-0123456789")
    rows = [{k: v for k, v in row.items() if k not in ("step", "time")}
            for row in read_metrics(tmp_path / "x-0123456789")]  # fmt: skip
    assert rows == [*steps(stored["result"]), summary(stored["result"])] == seen.logged
    json.dumps(rows)


def test_a_sweep_is_a_group(tmp_path: Path, checkpoint: Path, runs: list[FakeRun]) -> None:
    for number, group in enumerate((None, "given")):
        config = asked("evaluate", checkpoint, group=group)
        values = json.loads(json.dumps(config, default=vars))
        folder = run_folder_of(tmp_path / f"poszero-k12-{number}", "evaluate", values)
        perform(folder, config, "", logging.getLogger("test"), sweep="truncation")
    assert [seen.arguments["group"] for seen in runs] == ["truncation", "given"]
    assert runs[0].arguments["name"] == "poszero-k12-0-seed3"


def test_a_job_that_runs_again_tells_it_once(tmp_path: Path, checkpoint: Path, runs: list[FakeRun]) -> None:
    config = asked("evaluate", checkpoint, name="jsonl")
    first = run("evaluate", config, tmp_path / "x")
    config.run.again = True
    run("evaluate", config, tmp_path / "x")
    assert len(read_metrics(tmp_path / "x")) == len(first["result"]["accuracy"]["draws"]) + 1
    assert not runs


def test_a_refused_job_starts_no_run(tmp_path: Path, checkpoint: Path, runs: list[FakeRun]) -> None:
    config = asked("evaluate", checkpoint)
    config.split = "nonsense"
    with pytest.raises(ValueError, match="nonsense"):
        run("evaluate", config, tmp_path / "x")
    assert not runs


def test_wandb_mode_disabled_in_the_environment_has_the_last_word(
    tmp_path: Path, checkpoint: Path, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run("evaluate", asked("evaluate", checkpoint), tmp_path / "x")
    assert not runs
    assert read_summary(tmp_path / "x")["k"] == 12


def test_lists_of_a_record_are_steps() -> None:
    counts = {"values": 9.0, "wrap_zeroed": 1.0, "truncation_passed": 2.0}
    record = {
        "accuracy": {"mean": 0.5, "draws": [0.4, 0.6]},
        "sites": [{"site": "relu", "relus": 9, "expected": counts, "observed": counts, "low": None}],
        "rows": [{"name": "a", "against": "b", "value": 1.5, "low": 1, "high": 2, "detail": {}}],
    }
    assert list(steps(record)) == [
        {"draw": 0, "draw_accuracy": 0.4},
        {"draw": 1, "draw_accuracy": 0.6},
        {"site": "relu", "relus": 9, "expected_faults": 3.0, "observed_faults": 3.0},
        {"name": "a", "against": "b", "value": 1.5, "low": 1, "high": 2},
    ]
    sites = {"a": {"kind": "truncated_sign", "k": 3}, "b": {"kind": "truncated_sign", "k": 9}}
    assert summary({**record, "fault": {"sites": sites}}) == {"accuracy": 0.5, "k_least": 3, "k_most": 9}


def test_names_say_k_and_seed() -> None:
    assert run_name("poszero-k12-0", {"fault": {"k": 12, "seed": 3}}) == "poszero-k12-0-seed3"
    assert run_name("mine-0", {"fault": {"k": 7, "seed": 3}, "seed": 5}) == "mine-0-k7-seed5"
    assert run_name("quick", {"benchmark": {}}) == "quick"


def test_every_kind_of_job_has_a_tracker() -> None:
    from circa_train.jobs import settings, two_party

    told = {**vars(settings), **vars(two_party)}
    for kind in KINDS:
        config: Any = told[f"{kind.capitalize()}Config"]
        assert "tracker" in config.__dataclass_fields__, kind


def point(folder: Path, k: int, accuracy: float) -> None:
    """The record of an evaluation in a run folder, as a sweep leaves it."""
    result = {
        "model": "resnet8", "data": "digits", "split": "test", "checkpoint": "runs/train/base/best.pt",
        "fault": {"kind": "truncated_sign", "k": k, "mode": "poszero", "prime": 2138816513},
        "accuracy": {"mean": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.01, "draws": [accuracy]},
        "baseline_accuracy": 0.95, "frac_bits": 16,
    }  # fmt: skip
    content = {"format": 1, "kind": "evaluate", "config": {}, "seconds": 1.0, "result": result}
    (folder / f"k{k}").mkdir(parents=True)
    (folder / f"k{k}" / "result.json").write_text(json.dumps(content))


def plotted(tmp_path: Path, **tracker: Any) -> PlotConfig:
    """A plot of a sweep of three points, which lies below ``sweep``, into ``plots``."""
    for k, accuracy in ((12, 0.95), (16, 0.9), (18, 0.4)):
        point(tmp_path / "sweep", k, accuracy)
    section = TrackerConfig(**({"name": "wandb", "mode": "offline"} | tracker))
    return PlotConfig(
        runs=str(tmp_path / "sweep"), out=str(tmp_path / "plots"), formats=["png"], tracker=section
    )


def test_a_plot_shows_its_table_and_its_figures(
    tmp_path: Path, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, Any] = {}
    monkeypatch.setattr(wandb, "Image", lambda path: f"image of {Path(path).name}")
    monkeypatch.setattr(FakeRun, "log", lambda self, metrics, step=None: shown.update(metrics))
    plot_work(plotted(tmp_path, tags=["a"], group="truncation"), "plot.py")
    (seen,) = runs
    arguments = seen.arguments
    assert (arguments["job_type"], arguments["group"], arguments["tags"]) == ("plot", "truncation", ["a"])
    assert seen.finished
    table = shown.pop("results")
    assert shown["figures/accuracy_vs_k"] == "image of accuracy_vs_k.png"
    drawn = {path.stem for path in (tmp_path / "plots").glob("*.png")}
    assert shown.keys() == {f"figures/{name}" for name in drawn}
    header, *lines = csv.reader((tmp_path / "plots/results.csv").read_text().splitlines())
    assert table.columns == header
    assert [["" if cell is None else str(cell) for cell in row] for row in table.data] == lines
    k = table.columns.index("k")
    assert [row[k] for row in table.data] == [12, 16, 18], "numbers stay numbers"


def test_a_disabled_wandb_shows_no_plot(
    tmp_path: Path, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    plot_work(plotted(tmp_path), "plot.py")
    assert not runs
    assert (tmp_path / "plots/results.csv").is_file()


def test_a_plot_in_wandb_offline_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no server: the table and the figures lie in the run's files."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    monkeypatch.setenv("WANDB_SILENT", "true")
    plot_work(plotted(tmp_path), "plot.py")
    (media,) = (tmp_path / "plots/wandb").glob("offline-run-*/files/media")
    (table,) = media.rglob("*.table.json")
    content = json.loads(table.read_text())
    assert [row[content["columns"].index("accuracy")] for row in content["data"]] == [0.95, 0.9, 0.4]
    assert any("accuracy_vs_k" in path.name for path in media.rglob("*.png"))


def test_a_plot_without_wandb_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = PlotConfig(runs=str(tmp_path / "nowhere"), tracker=TrackerConfig(name="wandb"))
    with pytest.raises(ImportError, match=r"pip install wandb \(or tracker=jsonl\)"):
        plot_work(config, "")


def test_cells_that_wandb_has_no_type_for_are_words(runs: list[FakeRun], tmp_path: Path) -> None:
    tracker = WandbTracker(tmp_path, WandbSettings())
    tracker.run.log = runs[0].logged.append
    tracker.table("t", ["a", "b"], [[(1, 2), None], [True, 0.5], ["x", 3]])
    assert runs[0].logged[0]["t"].data == [["(1, 2)", None], [True, 0.5], ["x", 3]]


def test_figures_that_wandb_cannot_show_are_refused(tmp_path: Path) -> None:
    config = PlotConfig(runs=str(tmp_path), formats=["pdf"], tracker=TrackerConfig(name="wandb"))
    with pytest.raises(ValueError, match="add png"):
        plot_work(config, "")


def test_the_old_name_of_the_trackers_still_works() -> None:
    from circa_train import runs, tracking

    assert tracking.WandbSettings is runs.WandbSettings
    assert tracking.build_tracker is runs.build_tracker
