"""What the command line refuses in one line, what it takes as it is, and two sweeps at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from circa_train import build_model
from circa_train.checkpoint import save_checkpoint
from circa_train.config.checks import check, make
from circa_train.config.entry import flags_first, quote_paths
from circa_train.config.errors import reason
from circa_train.config.registration import config_folder, register
from circa_train.runs.table import collect

ROOT = Path(__file__).parents[2]
NETWORK = {"name": "resnet8", "num_classes": 4, "image_size": 16, "width": 0.25}
DATA = {
    "name": "synthetic:classes=4,size=16,images=60",
    "mean": [0.5] * 3, "std": [0.25] * 3, "class_names": list("abcd"),
}  # fmt: skip


def started(name: str, *arguments: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "c.pt", build_model(**NETWORK), {"model": NETWORK, "data": DATA})
    return tmp_path


@pytest.mark.parametrize(
    ("root", "override", "near"),
    [
        ("train", "+foo=3", "foo"),
        ("train", "+epohcs=3", "epochs"),
        ("train", "+optim.learning_rat=1", "optim.learning_rate"),
        ("evaluate", "+draws.cuont=3", "draws.count"),
        ("plot", "+tolerence=1", "tolerance"),
        ("cost", "+image_size=1", "image_sizes"),
    ],
)
def test_an_added_key_that_nobody_knows_is_refused_with_the_nearest(
    root: str, override: str, near: str
) -> None:
    register()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        config = compose(root, [override], return_hydra_config=True)
        with pytest.raises(ValueError, match=near):
            check(config)
        check(compose(root, [], return_hydra_config=True))


def test_open_sections_stay_open() -> None:
    register()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        check(compose("plot", ["+where.model=resnet8"], return_hydra_config=True))
        check(compose("train", ["model.reduction={alternate: true}"], return_hydra_config=True))


@pytest.mark.parametrize(
    "path", ["~/a.pt", "a|b.pt", "a@b.pt", "5\".pt", "a\\.pt", "a\\\"b.pt", "#1.pt", "a;b&c!.pt", "ü.pt"]
)
def test_a_path_holds_anything(path: str) -> None:
    (argument,) = quote_paths([f"checkpoint={path}"])
    assert OverridesParser.create().parse_override(argument).value() == path


def test_a_file_with_a_comma_in_its_name_is_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b.pt").touch()
    assert quote_paths(["checkpoint=a,b.pt", "checkpoint=c,d.pt"]) == [
        'checkpoint="a,b.pt"', "checkpoint=c,d.pt",
    ]  # fmt: skip


def test_overrides_may_stand_on_both_sides_of_a_flag() -> None:
    given = ["a=1", "-m", "b=2", "--cfg", "job", "~c"]
    assert flags_first(given) == ["-m", "--cfg", "job", "a=1", "b=2", "~c"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FloatingPointError("the loss is not finite at step 3"), "the loss is not finite"),
        (OSError(28, "No space left on device"), "the disk is full"),
        (PermissionError(13, "Permission denied", "x"), "Permission denied"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "not enough memory"),
        (RuntimeError("a mistake of ours"), None),
        (AssertionError(), None),
    ],
)
def test_reasons(error: Exception, told: str | None) -> None:
    found = reason(error)
    assert found is None if told is None else told in str(found)


def test_a_full_disk_that_torch_wraps_is_told() -> None:
    wrapped = RuntimeError("unexpected pos 64 vs 0")
    wrapped.__context__ = OSError(28, "No space left on device")
    assert "the disk is full" in str(reason(wrapped))


def test_a_folder_that_cannot_be_made_leaves_none_of_those_above_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        make(tmp_path / "runs" / "evaluate" / (300 * "a"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=resnet20"], "holds a resnet8"),
        (["data=digits"], "3 channels"),
        (["checkpoint=${oc.env:NOT_SET_ANYWHERE}"], "NOT_SET_ANYWHERE"),
        (["hydra.job.chdir=true"], "chdir"),
        (["fault.seed=-1"], "fault.seed = -1"),
        (["run.name=" + 300 * "a"], "File name too long"),
        (["run.root=c.pt"], "c.pt"),
        (["+epohcs=3"], "no key epohcs"),
        (["fault.bits=12"], "did you mean fault.frac_bits?"),
    ],
)
def test_refusals_have_one_line(checkpoint: Path, arguments: list[str], message: str) -> None:
    given = [] if arguments[0].startswith("checkpoint") else ["checkpoint=c.pt"]
    process = started("evaluate", *given, *arguments, folder=checkpoint)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2, output
    assert message in output
    assert "Traceback" not in output
    assert sorted(path.name for path in checkpoint.iterdir()) == ["c.json", "c.pt"], "nothing is left"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("evaluate", ["-m", "checkpoint=c.pt", "fault.k=3,4", "+epohcs=1"]),
        ("evaluate", ["-m", "checkpoint=c.pt", "fault.k=3,4", "hydra.sweep.subdir=one"]),
        ("cost", ["models=[nothing]"]),
        ("plot", ["runs=nowhere", "out=plots/here"]),
        ("train", ["epochs=0"]),
    ],
)
def test_refused_sweeps_and_tools_leave_nothing(checkpoint: Path, script: str, arguments: list[str]) -> None:
    process = started(script, *arguments, folder=checkpoint)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2, output
    assert sorted(path.name for path in checkpoint.iterdir()) == ["c.json", "c.pt"]


@pytest.mark.slow
def test_two_equal_sweeps_at_once_compute_each_point_once(checkpoint: Path) -> None:
    sweep = ["-m", "checkpoint=c.pt", "fault.k=range(0,12,2)", "draws.count=2", "run.progress=false"]
    both: list[Any] = [started("evaluate", *sweep, folder=checkpoint) for _ in range(2)]
    output = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], output
    assert len(collect(checkpoint / "runs").rows) == 6
    logs = list((checkpoint / "runs").rglob("job.log"))
    assert sum(log.read_text().count("over 2 draws") for log in logs) == 6
