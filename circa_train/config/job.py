"""A job as Hydra starts it: its folder, the skip, the log, and errors in one line.

Errors that a user can cause (a bad value, a missing file or package) end a single run with one line and exit
code 2; in a sweep the other jobs go on, and the sweeper reports. ``HYDRA_FULL_ERROR=1`` shows the traceback,
which is in ``job.log`` anyway.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from circa_train.config.naming import plain
from circa_train.jobs.inputs import input_digests
from circa_train.jobs.job import perform, refuse_missing, work_of
from circa_train.runs.folder import RunFolder, stored_results

log = logging.getLogger(__name__)

#: What a wrong value, a missing file or a missing package raises: the message says it all.
USER_ERRORS = (ValueError, TypeError, OSError, ImportError)


def run_job(cfg: DictConfig, kind: str, *, keep_memory: bool = True) -> dict[str, Any] | None:
    """Run the job ``kind`` (:mod:`circa_train.jobs`) in its folder unless its result is already there.

    Returns:
        The content of its ``result.json``; None if the job failed in a sweep.
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
    stored = folder.finished()
    if stored is not None and not config["run"]["again"]:
        log.info("finished before, skipped: %s (run.again=true runs it again)", folder.path)
        return stored
    if not sweeping:
        for change in folder.stale(stored_results(folder.path.parent)):
            log.warning("changed since the earlier result of the same command: %s", change)
    try:
        refuse_missing(config)
        text = OmegaConf.to_yaml(OmegaConf.create(config))
        return perform(folder, OmegaConf.to_object(cfg), text, log, keep_memory=keep_memory)
    except KeyboardInterrupt:
        log.warning("interrupted; the same command goes on from what is in %s", folder.path)
        sys.exit(130)
    except Exception as error:
        # the traceback goes into job.log, not onto the console
        logging.getLogger("circa_train.traceback").error("job failed", exc_info=error)
        if not sweeping:
            _end(error)
        log.error("failed: %s: %s", type(error).__name__, error)
        return None


def run_tool(cfg: DictConfig, kind: str, *arguments: Any) -> None:
    """Run a job that keeps no result of its own (``plot``, ``cost``), with the same treatment of errors."""
    try:
        refuse_missing(plain(cfg))
        work_of(kind)(OmegaConf.to_object(cfg), *arguments)
    except Exception as error:
        _end(error)


def _end(error: Exception) -> None:
    """One line and exit code 2 for what a user can cause; anything else, or on request, as it is."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1" or not isinstance(error, USER_ERRORS):
        raise error
    print(f"error: {error}\n(HYDRA_FULL_ERROR=1 shows the traceback)", file=sys.stderr)
    sys.exit(2)
