"""Jobs that are killed, again and again, and started again: in the end everything is as if nothing had been.

A job runs in a forked child (torch is imported once). Half of the kills come just before a chosen file
operation of the child: every place at which a file could be left half done; the others at a random moment. No
child gets to clean up: it is SIGKILL.
"""

from __future__ import annotations

import importlib
import logging
import os
import random
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from circa_train.checkpoint import digest, load_checkpoint
from circa_train.fault import TruncatedSign
from circa_train.jobs.job import run
from circa_train.jobs.mirror import mirrored
from circa_train.jobs.settings import (
    DataConfig,
    EvaluateConfig,
    FaultConfig,
    ModelConfig,
    RunConfig,
    SearchConfig,
    SearchDrawsConfig,
    TrainConfig,
)
from circa_train.runs.metrics import read_metrics
from circa_train.runs.table import collect
from tests.torture.tally import Tally

#: Seconds after which a child counts as hung, and how often one job is killed before it may end.
PATIENCE, MOST_KILLS = 120.0, 4

#: The operations before which a child is killed: every way in which files come, change and go.
OPERATIONS = ("fsync", "replace", "rename", "unlink", "ftruncate")

#: What the jobs import on their way, seconds in all.
NEEDED = (
    "torch._dynamo", "circa_train.jobs.train", "circa_train.jobs.evaluate", "circa_train.jobs.search",
    "circa_train.kernels.cpu.launch", "circa_train.training.loop",
)  # fmt: skip

#: How a child that failed of itself ends.
_FAILED = 3

DATA = "synthetic:classes=3,size=8,channels=1,images=60"
QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "threads": 1}


#: The section of the truncated sign test, as the scripts have it.
TRUNCATED: Any = mirrored(
    "TRUNCATED", TruncatedSign, base=FaultConfig, extra={"kind": "truncated_sign"}, values={"k": 12}
)


def truncated(k: int) -> Any:
    return TRUNCATED(k=k)


def training() -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(name="resnet8", width=0.25), data=DataConfig(name=DATA), run=RunConfig(**QUIET),
        fault=FaultConfig(kind="none"), epochs=3, batch_size=16,
    )  # fmt: skip


class Trainings:
    """One training: its weights, and a row for every epoch."""

    def __init__(self, folder: Path) -> None:
        del folder

    def work(self, place: Path) -> None:
        run("train", training(), place / "run")

    def result(self, place: Path) -> Any:
        timing = {"time", "seconds", "images_per_second"}
        states = [digest(load_checkpoint(place / "run" / name).state_dict) for name in ("last.pt", "best.pt")]
        rows = read_metrics(place / "run")
        return states, [{k: v for k, v in row.items() if k not in timing} for row in rows]


class _OnCheckpoint:
    """A job on a checkpoint, which a child trains beforehand."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint = folder / "source" / "best.pt"
        if not self.checkpoint.exists():
            outcome = _in_child(lambda: run("train", training(), folder / "source"), folder / "error")[0]
            assert outcome == "done", outcome


class Sweeps(_OnCheckpoint):
    """A sweep: a row for every point, once."""

    def work(self, place: Path) -> None:
        for k in (4, 12, 20):
            config = EvaluateConfig(
                checkpoint=str(self.checkpoint), model=ModelConfig(name="checkpoint"), run=RunConfig(**QUIET),
                data=DataConfig(name="checkpoint"), fault=truncated(k),
            )  # fmt: skip
            run("evaluate", config, place / f"k{k}")

    def result(self, place: Path) -> Any:
        found = collect(place)
        assert not found.skipped, found.skipped
        changing = {"finished", "seconds", "run"}
        return [{k: v for k, v in row.items() if k not in changing} for row in found.rows]


class Searches(_OnCheckpoint):
    """A search: its answer, and all that was measured on the way."""

    def work(self, place: Path) -> None:
        config = SearchConfig(
            checkpoint=str(self.checkpoint), model=ModelConfig(name="checkpoint"), run=RunConfig(**QUIET),
            data=DataConfig(name="checkpoint"), fault=truncated(12), budget=0.3, margin=0.0, per_site=False,
            draws=SearchDrawsConfig(count=2, most=4),
        )  # fmt: skip
        run("search", config, place / "run")

    def result(self, place: Path) -> Any:
        (row,) = collect(place).rows
        changing = {"finished", "seconds", "run", "fault_file"}  # and the circuits, which are timed
        return {k: v for k, v in row.items() if k not in changing and not k.endswith(".seconds")}


KINDS = {"trainings": Trainings, "sweeps": Sweeps, "searches": Searches}

#: A search takes longer than the others, and comes less often.
TURNS = ("trainings", "sweeps") * 3 + ("searches",)


def killed_jobs(count: int, seed: int, folder: Path) -> Tally:
    """At least ``count`` kills, the kinds of jobs by turns."""
    rng, tally = random.Random(seed), Tally()
    torch.set_num_threads(1)  # a child of a process with a team of threads would wait for it for ever
    for module in NEEDED:  # once, and not in every child
        importlib.import_module(module)
    jobs: dict[str, Any] = {}
    right: dict[str, Any] = {}
    lengths: dict[str, tuple[int, float]] = {}
    kills = number = 0
    while kills < count:
        name = TURNS[number % len(TURNS)]
        number += 1
        error = folder / "error"
        if name not in jobs:
            jobs[name] = job = KINDS[name](folder)
            whole = folder / f"whole_{name}"
            started = time.monotonic()
            outcome, operations = _in_child(lambda j=job, w=whole: j.work(w), error)
            if outcome != "done":
                tally.raised.append(f"{name}, not killed at all: {outcome}")
                return tally
            lengths[name] = operations, time.monotonic() - started
            right[name] = job.result(whole)
        place = folder / f"{name}_{number}"
        operations, seconds = lengths[name]
        what, here = f"seed {seed}, {name} {number}", []
        for _ in range(rng.randint(1, MOST_KILLS)):
            at = rng.randrange(max(operations, 1)) if rng.random() < 0.5 else None
            after = rng.random() * seconds if at is None else None
            outcome, _ = _in_child(lambda j=jobs[name], p=place: j.work(p), error, at=at, after=after)
            here.append(f"operation {at}" if at is not None else f"{after:.3f} s")
            kills += outcome == "killed"
            tally.counts[f"kills of {name}"] += outcome == "killed"
            tally.outcomes[f"{name}: {outcome.splitlines()[0]}"] += 1
            if outcome == "hung":
                tally.hung.append(f"{what}, killed at {', '.join(here)}")
            elif outcome not in ("killed", "done"):
                tally.raised.append(f"{what}, killed at {', '.join(here)}: {outcome}")
        outcome, _ = _in_child(lambda j=jobs[name], p=place: j.work(p), error)
        try:
            if outcome != "done":
                tally.raised.append(f"{what}, killed at {', '.join(here)}, then: {outcome}")
            elif jobs[name].result(place) != right[name]:
                tally.wrong.append(f"{what}, killed at {', '.join(here)}: another result")
        except Exception as trouble:
            tally.raised.append(f"{what}, killed at {', '.join(here)}, read: {trouble!r}")
    return tally


def _in_child(
    work: Callable[[], Any], error: Path, *, at: int | None = None, after: float | None = None
) -> tuple[str, int]:
    """("done", "killed", "hung" or a traceback, number of file operations that a whole run made)."""
    error.unlink(missing_ok=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _live(work, error, at, writing)
    os.close(writing)
    started, killed = time.monotonic(), False
    status: int | None = None
    while status is None:
        found, code = os.waitpid(child, os.WNOHANG)
        if found:
            status = code
            break
        spent = time.monotonic() - started
        if (after is not None and spent > after) or spent > PATIENCE:
            os.kill(child, signal.SIGKILL)
            killed = spent <= PATIENCE
            status = os.waitpid(child, 0)[1]
        time.sleep(0.002)
    with os.fdopen(reading, "rb") as told:
        operations = int(told.read() or b"0")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            return f"ended by signal {number}", operations
        return ("killed" if killed or at is not None else "hung"), operations
    if os.WEXITSTATUS(status) == 0:
        return "done", operations
    return error.read_text() if error.exists() else f"exit code {os.WEXITSTATUS(status)}", operations


def _live(work: Callable[[], Any], error: Path, at: int | None, writing: int) -> None:
    """The child's life; it never returns."""
    operations = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **named: Any) -> Any:
            nonlocal operations
            if operations == at:
                os.kill(os.getpid(), signal.SIGKILL)
            operations += 1
            return original(*arguments, **named)

        return operation

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))
    try:
        logging.disable()
        warnings.simplefilter("ignore")
        work()
    except BaseException:
        error.write_text(traceback.format_exc())
        os._exit(_FAILED)
    os.write(writing, str(operations).encode())
    os._exit(0)
