"""What every script does around its work: the folder, the skip, the log, the result, the failure.

A script is one ``work(job) -> result`` function and::

    @hydra.main(version_base="1.3", config_path=config_folder(), config_name="evaluate")
    def main(cfg: DictConfig) -> None:
        run_job(cfg, kind="evaluate", work=evaluate_job)

Errors that a user can cause (a bad value, a missing file or package) end a single run with one line and exit
code 2; in a sweep the other jobs go on, and the sweeper reports. ``HYDRA_FULL_ERROR=1`` shows the traceback,
which is in ``job.log`` anyway.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from circa_train.config.identify import plain
from circa_train.config.inputs import input_digests
from circa_train.runs.folder import RunFolder, flatten, stored_results

log = logging.getLogger(__name__)

#: What a wrong value, a missing file or a missing package raises: the message says it all.
USER_ERRORS = (ValueError, TypeError, OSError, ImportError)


@dataclass(frozen=True)
class Job:
    """What a script's work gets to see.

    Attributes:
        cfg: the composed configuration as the dataclasses of ``schema`` (``job.cfg.fault.k``).
        config: the same as plain data, for records.
        folder: where this job writes.
        resume: may it go on from what an earlier attempt left in the folder? Not if that was on other
            contents.
        log: its logger (console and ``job.log``).
    """

    cfg: Any
    config: dict[str, Any]
    folder: Path
    resume: bool
    log: logging.Logger


def run_job(
    cfg: DictConfig, *, kind: str, work: Callable[[Job], dict[str, Any]], keep_memory: bool = True
) -> None:
    """Run ``work`` in its folder unless its result is already there; see the module's text for errors.

    The work returns the kind-specific part of ``result.json``, plain data that JSON can hold.
    ``keep_memory``: freed memory stays with the process (:func:`circa_train.kernels.cpu.memory.keep`),
    without which passes on a CPU take up to twice as long.
    """
    hydra_config = HydraConfig.get()
    config = plain(cfg)
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    folder = RunFolder(
        path=Path(hydra_config.runtime.output_dir),
        kind=kind,
        config=config,
        overrides=tuple(hydra_config.overrides.task),
        inputs=input_digests(config),
    )
    if folder.finished() is not None and not config["run"]["again"]:
        log.info("finished before, skipped: %s (run.again=true runs it again)", folder.path)
        return
    if not sweeping:
        for change in folder.stale(stored_results(folder.path.parent)):
            log.warning("changed since the earlier result of the same command: %s", change)
    # under torchrun the other processes compute, and write nothing
    leads = os.environ.get("RANK", "0") == "0"
    resume = not config["run"]["again"]
    if leads:
        resume = folder.start(OmegaConf.to_yaml(OmegaConf.create(config))) and resume
    try:
        _refuse_missing(config)
        _prepare_process(config["run"]["threads"], keep_memory)
        result = work(Job(OmegaConf.to_object(cfg), config, folder.path, resume, log))
        if leads:
            folder.finish(result)
    except KeyboardInterrupt:
        log.warning("interrupted; the same command goes on from what is in %s", folder.path)
        sys.exit(130)
    except Exception as error:
        if leads:
            folder.fail(error)
        _record(error)
        if sweeping:
            log.error("failed: %s: %s", type(error).__name__, error)
        else:
            _end(error)


def run_tool(cfg: DictConfig, work: Callable[[Any], None]) -> None:
    """Run a script that keeps no result of its own (``plot``), with the same treatment of errors."""
    try:
        _refuse_missing(plain(cfg))
        work(OmegaConf.to_object(cfg))
    except Exception as error:
        _end(error)


def _record(error: Exception) -> None:
    """The traceback goes into ``job.log``, not onto the console."""
    logging.getLogger("circa_train.traceback").error("job failed", exc_info=error)


def _end(error: Exception) -> None:
    """One line and exit code 2 for what a user can cause; anything else, or on request, as it is."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1" or not isinstance(error, USER_ERRORS):
        raise error
    print(f"error: {error}\n(HYDRA_FULL_ERROR=1 shows the traceback)", file=sys.stderr)
    sys.exit(2)


def _refuse_missing(config: dict[str, Any]) -> None:
    missing = [key for key, value in flatten(config).items() if value == "???"]
    if missing:
        hints = {"checkpoint": "checkpoint=runs/train/<run>/best.pt", "runs": "runs=runs/sweeps/truncation"}
        asked = "; ".join(f"{key} is missing, give e.g. {hints.get(key, f'{key}=...')}" for key in missing)
        raise ValueError(asked)


def _prepare_process(threads: int | None, keep_memory: bool) -> None:
    import torch  # late, so that --help and a result that is there already need not wait for it

    from circa_train.kernels.cpu import memory

    if threads is not None:
        torch.set_num_threads(threads)
    if keep_memory:
        memory.keep()
