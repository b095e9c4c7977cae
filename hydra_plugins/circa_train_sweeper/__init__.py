"""The sweeper behind ``--multirun``, in the namespace where Hydra demands its plugins to be.

Hydra cannot resume a sweep, and reports a failing job by raising it at the end. Here

- jobs whose folder holds a result with their fingerprint are left out before any launcher, local or cluster,
  sees them;
- a default that changed since an earlier result of the same command is named;
- at the end one summary says what ran, what failed and why, and the process exits with 1 if anything is
  missing.

``circa_train.config.register`` makes it known to Hydra; root configurations choose it as ``hydra/sweeper:
resumable``.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from circa_train.config.identify import plain, run_folder
from circa_train.config.inputs import input_digests
from circa_train.config.templates import TemplateLoader
from circa_train.files import read_json
from circa_train.runs.folder import FAILURE, RESULT, RunFolder, stored_results

log = logging.getLogger(__name__)


class ResumableSweeper(BasicSweeper):
    """The basic sweeper (cartesian product of ``hydra.sweeper.params`` and the command line) that knows
    finished jobs.
    """

    def setup(
        self, *, hydra_context: HydraContext, task_function: Callable[[Any], Any], config: DictConfig
    ) -> None:
        loader: Any = TemplateLoader(hydra_context.config_loader)
        context = HydraContext(config_loader=loader, callbacks=hydra_context.callbacks)
        super().setup(hydra_context=context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        self.overrides = self.split_arguments(
            parser.parse_overrides([*self._parse_config(), *arguments]), self.max_batch_size
        )
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        jobs = [
            (list(overrides), self._job(folder, list(overrides)))
            for batch in self.overrides
            for overrides in batch
        ]
        again = bool(OmegaConf.select(self.config, "run.again", default=False))
        missing = [(overrides, job) for overrides, job in jobs if again or job.finished() is None]
        log.info("sweep %s: %d jobs, %d finished before", folder, len(jobs), len(jobs) - len(missing))
        self._name_changes(folder, [job for _, job in missing])
        size = self.max_batch_size or max(len(missing), 1)
        try:
            for first in range(0, len(missing), size):
                self.launcher.launch(
                    [overrides for overrides, _ in missing[first : first + size]], initial_job_idx=first
                )
        except Exception as error:  # a launcher that broke must not hide which jobs are done
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            log.error("the launcher stopped: %s: %s", type(error).__name__, error)
        if not _summary(folder, [job for _, job in jobs]):
            sys.exit(1)

    def _job(self, folder: Path, overrides: list[str]) -> RunFolder:
        assert self.hydra_context is not None
        assert self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        values = plain(config)
        return RunFolder(
            path=folder / run_folder(config),
            kind=config.hydra.job.name,
            config=values,
            overrides=tuple(config.hydra.overrides.task),
            inputs=input_digests(values),
        )

    def _name_changes(self, folder: Path, missing: Sequence[RunFolder]) -> None:
        earlier = list(stored_results(folder)) if missing else []
        named: dict[str, int] = {}
        for job in missing:
            for change in job.stale(earlier):
                named[change] = named.get(change, 0) + 1
        for change, count in named.items():
            log.warning(
                "changed since the earlier result of the same command: %s (%d jobs run anew)", change, count
            )


def _summary(folder: Path, jobs: Sequence[RunFolder]) -> bool:
    """Say what is finished and what is not; True if everything is."""
    failed = [job for job in jobs if job.finished() is None]
    log.info("sweep %s: %d of %d jobs finished", folder, len(jobs) - len(failed), len(jobs))
    for job in failed:
        failure = read_json(job.path / FAILURE)
        why = (
            f"{failure['error']}: {failure['message']}"
            if failure
            else f"no {RESULT} and no {FAILURE}: it was cut off"
        )
        log.error("  failed: %s: %s (log in %s)", " ".join(job.overrides), why, job.path)
    if failed:
        log.error("the same command again runs only these %d", len(failed))
    return not failed
