"""A job as Hydra starts it: its folder, the skip, the log, and errors in one line.

Errors that a user can cause (a bad value, a missing file or package) end a single run with one line and exit
code 2; in a sweep the other jobs go on, and the sweeper reports. ``HYDRA_FULL_ERROR=1`` shows the traceback,
which is in ``job.log`` anyway if the work had begun; what is refused before leaves no folder.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from circa_train.config.checks import unmake
from circa_train.config.errors import end, reason
from circa_train.config.naming import expand_home, plain
from circa_train.jobs.inputs import refuse_unnamed_code
from circa_train.jobs.job import perform, refuse_missing, run_folder_of, work_of
from circa_train.runs import FolderInUse, stored_results

log = logging.getLogger(__name__)


def run_job(cfg: DictConfig, kind: str, *, keep_memory: bool = True) -> dict[str, Any] | None:
    """Run the job ``kind`` (:mod:`circa_train.jobs`) in its folder unless its result is already there.

    Returns:
        The content of its ``result.json``; None if the job failed in a sweep.
    """
    hydra_config = HydraConfig.get()
    expand_home(cfg)
    config = plain(cfg)
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    place, overrides = Path(hydra_config.runtime.output_dir), tuple(hydra_config.overrides.task)
    folder = run_folder_of(place, kind, config, overrides)
    stored = folder.finished()
    if stored is not None and not config["run"]["again"]:
        log.info("finished before, skipped: %s (run.again=true runs it again)", folder.path)
        return stored
    try:
        refuse_missing(config)
        refuse_unnamed_code(config)
        if not sweeping:
            for change in folder.stale(stored_results(folder.path.parent)):
                log.warning("changed since the earlier result of the same command: %s", change)
        text = OmegaConf.to_yaml(OmegaConf.create(config))
        return perform(
            folder, OmegaConf.to_object(cfg), text, log, keep_memory=keep_memory,
            sweep=config["run"]["sweep"] if sweeping else None,
        )  # fmt: skip
    except KeyboardInterrupt:
        log.warning("interrupted; the same command goes on from what is in %s", folder.path)
        sys.exit(130)
    except FolderInUse as error:  # nothing is written into a folder that is another's, its log included
        if not sweeping:
            end(error)
        logging.getLogger("circa_train.console").info("left to another process: %s", error)
        return None
    except Exception as error:
        if not sweeping and not folder.begun:  # refused: nothing is left behind
            folder.withdraw()
            unmake()
            end(error)
        # the traceback goes into job.log, not onto the console
        logging.getLogger("circa_train.traceback").error("job failed", exc_info=error)
        if not sweeping:
            end(error)
        if not folder.begun:
            folder.fail(error)  # the sweep's summary says why
        log.error("failed: %s: %s", type(error).__name__, reason(error) or error)
        return None


def run_tool(cfg: DictConfig, kind: str, *arguments: Any) -> None:
    """Run a job that keeps no result of its own (``plot``, ``cost``), with the same treatment of errors."""
    try:
        expand_home(cfg)
        refuse_missing(plain(cfg))
        work_of(kind)(OmegaConf.to_object(cfg), *arguments)
    except Exception as error:
        end(error)
    finally:
        unmake()
