"""A job: a configuration, a folder, and the work that turns the one into a record in the other.

Every job module has ``work(job) -> record``, and the record is what ``result.json`` holds of its kind.
Without Hydra::

    from circa_train.jobs.job import run
    from circa_train.jobs.settings import DataConfig, EvaluateConfig, ModelConfig, RunConfig

    stored = run("evaluate", config, "runs/mine")     # skipped if the folder has this very result

The scripts do the same with a configuration that Hydra composed (:mod:`circa_train.config.job`).
"""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from circa_train.jobs.inputs import input_digests
from circa_train.jobs.mirror import MISSING
from circa_train.runs.folder import RunFolder, flatten

#: Jobs that own a folder; each is a module here.
KINDS = ("train", "evaluate", "verify", "search", "export", "benchmark")


@dataclass(frozen=True)
class Job:
    """What a job's work gets to see.

    Attributes:
        cfg: the configuration, as the dataclasses of :mod:`circa_train.jobs.settings` (``job.cfg.fault.k``).
        config: the same as plain data, for records.
        folder: where this job writes.
        resume: may it go on from what an earlier attempt left in the folder? Not if that was on other
            contents.
        log: its logger.
    """

    cfg: Any
    config: dict[str, Any]
    folder: Path
    resume: bool
    log: logging.Logger


def run(kind: str, config: Any, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Run a job in a folder of its own, unless its result is already there; returns the content of
    ``result.json``.

    Args:
        kind: one of :data:`KINDS`.
        config: the job's dataclass of :mod:`circa_train.jobs.settings`, complete.
        folder: is made; an interrupted job goes on from what it left there.

    Raises:
        ValueError: for an unknown kind, or a value that was not given or is out of range; and what the work
            raises, after ``failure.json`` has been written.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no job {kind!r}; there are {', '.join(KINDS)}")
    values = asdict(config)
    place = RunFolder(Path(folder), kind, values, inputs=input_digests(values))
    stored = place.finished()
    if stored is not None and not config.run.again:
        return stored
    return perform(place, config, json.dumps(values, indent=1), logging.getLogger(f"circa_train.jobs.{kind}"))


def perform(
    folder: RunFolder, cfg: Any, text: str, log: logging.Logger, *, keep_memory: bool = True
) -> dict[str, Any]:
    """Do the work of a job in its folder; returns the content of ``result.json``.

    Under torchrun all processes compute, and the first alone writes.

    Args:
        folder: the job's, with its configuration as plain data and the digests of its inputs.
        cfg: the configuration as dataclasses; ``text`` the same as YAML, for the folder.
        keep_memory: freed memory stays with the process (:func:`circa_train.kernels.keep_memory`),
            without which passes on a CPU take up to twice as long.
    """
    leads = os.environ.get("RANK", "0") == "0"
    resume = not cfg.run.again
    if leads:
        resume = folder.start(text) and resume
    try:
        refuse_missing(folder.config)
        _prepare_process(cfg.run.threads, keep_memory)
        result = work_of(folder.kind)(Job(cfg, dict(folder.config), folder.path, resume, log))
        return folder.finish(result) if leads else {"result": result}
    except Exception as error:
        if leads:
            folder.fail(error)
        raise


def work_of(kind: str) -> Callable[..., Any]:
    """The work of a kind of job, imported now: torch takes seconds, and a finished result needs none of
    it.
    """
    work: Callable[..., Any] = importlib.import_module(f"circa_train.jobs.{kind}").work
    return work


def refuse_missing(config: Any) -> None:
    """ValueError naming what has to be given and was not."""
    missing = [key for key, value in flatten(config).items() if value == MISSING]
    if missing:
        hints = {"checkpoint": "checkpoint=runs/train/<run>/best.pt", "runs": "runs=runs/sweeps/truncation"}
        asked = "; ".join(f"{key} is missing, give e.g. {hints.get(key, f'{key}=...')}" for key in missing)
        raise ValueError(asked)


def _prepare_process(threads: int | None, keep_memory: bool) -> None:
    import torch

    from circa_train import kernels

    if threads is not None:
        torch.set_num_threads(threads)
    if keep_memory:
        kernels.keep_memory()
