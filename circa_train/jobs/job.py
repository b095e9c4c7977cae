"""A job: a configuration, a folder, and the work that turns the one into a record in the other.

Every job module has ``work(job) -> record``, and the record is what ``result.json`` holds of its kind.
Without Hydra::

    from circa_train.jobs.job import run
    from circa_train.jobs.settings import DataConfig, EvaluateConfig, ModelConfig, RunConfig

    stored = run("evaluate", config, "runs/mine")     # skipped if the folder has this very result

The scripts do the same with a configuration that Hydra composed (:mod:`circa_train.config.job`).
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from circa_train.files import missing_folders, remove_empty_folders
from circa_train.jobs.inputs import data_identity, input_digests, refuse_unnamed_code
from circa_train.jobs.mirror import MISSING
from circa_train.jobs.tracked import of_job, tell, wandb_settings
from circa_train.runs import RunFolder, Tracker, WandbSettings, build_tracker, flatten, owned
from circa_train.user_code import was_named

#: Jobs that own a folder; each is a module here.
KINDS = ("train", "evaluate", "verify", "search", "equalize", "export", "benchmark", "infer")

#: What a kind of job makes beside its result, by path in its folder: a result whose files are gone or changed
#: does not count.
FILES = {
    "train": ("best.pt", "last.pt", "metrics.jsonl"),
    "search": ("fault.yaml", "measured.json"),
    "equalize": ("equalized.pt",),
    "export": ("export",),
}


@dataclass
class Job:
    """What a job's work gets to see.

    Work checks and loads first, and then calls :meth:`begin`. What is refused before leaves nothing behind,
    and what an earlier attempt has left as it is.

    Attributes:
        cfg: the configuration, as the dataclasses of :mod:`circa_train.jobs.settings` (``job.cfg.fault.k``).
        config: the same as plain data, for records.
        folder: where this job writes, once it has begun.
        resume: may it go on from what an earlier attempt left in the folder? Not if that was on other
            contents.
        log: its logger.
        inputs: digests of the files it reads, by key of the configuration.
        take: takes possession of the folder, and says ``resume`` and ``tracker``; None for a caller that did.
        begun: has it begun?
        tracker: what metrics are told to.
    """

    cfg: Any
    config: dict[str, Any]
    folder: Path
    resume: bool
    log: logging.Logger
    inputs: Mapping[str, str] = field(default_factory=dict)
    take: Callable[[], tuple[bool, Tracker]] | None = field(default=None, repr=False)
    begun: bool = False
    tracker: Tracker = field(default_factory=Tracker)

    def begin(self) -> None:
        """Everything given has been checked and loaded: from here on the folder is written to. Calling it
        again does nothing.
        """
        if not self.begun and self.take is not None:
            self.resume, self.tracker = self.take()
        self.begun = True


def run(kind: str, config: Any, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Run a job in a folder of its own, unless its result is already there; returns the content of
    ``result.json``.

    Args:
        kind: one of :data:`KINDS`.
        config: the job's dataclass of :mod:`circa_train.jobs.settings`, complete.
        folder: is made; an interrupted job goes on from what it left there.

    Raises:
        ValueError: for an unknown kind, or a value that was not given or is out of range; and what the work
            raises. Work that had begun leaves ``failure.json``, and what is refused before leaves nothing.
        FolderInUse: if another process works in the folder (a search waits for it).
    """
    if kind not in KINDS:
        raise ValueError(f"there is no job {kind!r}; there are {', '.join(KINDS)}")
    values = asdict(config)
    place = run_folder_of(Path(folder), kind, values)
    stored = place.finished()
    if stored is not None and not config.run.again:
        return stored
    return perform(place, config, json.dumps(values, indent=1), logging.getLogger(f"circa_train.jobs.{kind}"))


def perform(
    folder: RunFolder, cfg: Any, text: str, log: logging.Logger, *, keep_memory: bool = True,
    sweep: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Do the work of a job in its folder; returns the content of ``result.json``.

    Under torchrun all processes compute, and the first alone writes.

    Args:
        folder: the job's, with its configuration as plain data and the digests of its inputs.
        cfg: the configuration as dataclasses; ``text`` the same as YAML, for the folder.
        keep_memory: freed memory stays with the process (:func:`circa_train.kernels.keep_memory`),
            without which passes on a CPU take up to twice as long.
        sweep: the name of the sweep that it is a job of.

    Raises:
        FolderInUse: if another process works in the folder; a search waits for it, and takes its result.
    """
    leads = os.environ.get("RANK", "0") == "0"
    waiting = logging.getLogger("circa_train.console").info if folder.kind == "search" else None
    made = missing_folders(folder.path)
    wandb: WandbSettings | None = None

    def take() -> tuple[bool, Tracker]:
        resume = (folder.start(text) if leads else True) and not cfg.run.again
        mirror = wandb and of_job(wandb, folder.kind, folder.path.name, folder.config, sweep)
        tracker = build_tracker(
            folder.path, wandb=mirror, config=dict(folder.config), rank=0 if leads else 1
        )
        return resume, tracker

    job = Job(cfg, dict(folder.config), folder.path, False, log, folder.inputs, take)
    with owned(folder.path, waiting) if leads else nullcontext():
        stored = folder.finished()  # another process may have ended since the caller looked
        if leads and stored is not None and not cfg.run.again:
            return stored
        try:
            refuse_missing(folder.config)
            refuse_unnamed_code(folder.config)
            check_seeds(folder.config)
            wandb = wandb_settings(cfg.tracker)
            _prepare_process(cfg.run.threads, keep_memory)
            named = flatten(folder.config).get("data.name")
            seen = folder.data_now(str(named))  # before it is read: a change meanwhile shows later
            result = work_of(folder.kind)(job)
            if not leads:
                return {"result": result}
            job.begin()
            if folder.kind != "train":  # which tells of its epochs itself
                job.tracker.rewind(-1)
                tell(job.tracker, result)
            name = str(result.get("data"))
            identity = seen if name == named else folder.data_now(name)
            data = None if identity is None else (name, identity)
            return folder.finish(result, files=FILES.get(folder.kind, ()), data=data)
        except Exception as error:
            if leads and job.begun:
                _record(folder, error, log)
            elif leads:
                folder.withdraw()
                remove_empty_folders(made)
            raise
        finally:
            job.tracker.finish()


def run_folder_of(
    path: Path, kind: str, config: Mapping[str, Any], overrides: tuple[str, ...] = ()
) -> RunFolder:
    """The folder of a job with this configuration, which knows the files that the job reads."""
    values = flatten(config)
    root = values.get("data.root") or "data"

    def named(name: str) -> bool:
        return name == values.get("data.name") or bool(values.get("run.trust_code")) or was_named(name)

    data_now = functools.partial(data_identity, root=str(root), named=named)
    return RunFolder(path, kind, config, overrides, input_digests(config), data_now)


def _record(folder: RunFolder, error: Exception, log: logging.Logger) -> None:
    """Write down why a job failed; where that fails, too, the reason of the job is the one to be shown."""
    try:
        folder.fail(error)
    except OSError as second:
        log.warning("the failure cannot be recorded in %s: %s", folder.path, second)


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
        hints = {
            "checkpoint": "checkpoint=runs/train/<run>/best.pt",
            "runs": "runs=runs/sweeps/truncation",
            "export": "export=runs/export/<run>/export",
            "images": "images=pictures/cat.png",
        }
        asked = "; ".join(f"{key} is missing, give e.g. {hints.get(key, f'{key}=...')}" for key in missing)
        raise ValueError(asked)


def check_seeds(config: Any) -> None:
    """ValueError naming a seed that no generator takes."""
    for key, value in flatten(config).items():
        if key.rpartition(".")[2] == "seed" and value is not None and not 0 <= int(value) < 2**63:
            raise ValueError(f"{key} = {value} is outside [0, 2^63); give another number")


def _prepare_process(threads: int | None, keep_memory: bool) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if keep_memory:
        from circa_train import kernels

        kernels.keep_memory()
