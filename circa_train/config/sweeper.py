"""The sweeper behind ``--multirun``.

Hydra cannot resume a sweep, and reports a failing job by raising it at the end. Here

- jobs whose folder holds a result with their fingerprint are left out before any launcher, local or cluster,
  sees them;
- a default that changed since an earlier result of the same command is named;
- a job that another process is at is left to it, and waited for at the end: two equal sweeps at once share
  the work, and each point is computed once;
- at the end one summary says what ran, what failed and why, and the process exits with 1 if anything is
  missing.

``circa_train.config.register`` makes it known to Hydra; root configurations choose it as ``hydra/sweeper:
resumable``.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from circa_train.config.checks import check, make, unmake
from circa_train.config.errors import ending
from circa_train.config.naming import plain
from circa_train.config.templates import TemplateLoader
from circa_train.jobs.job import run_folder_of
from circa_train.runs import FAILURE, LOG, RESULT, STARTED, RunFolder, owner, read_json, stored_results

log = logging.getLogger(__name__)

#: Seconds between two looks at whether another process has ended.
_PATIENCE = 0.5


#: How long Ray waits for its own processes. Its default of 10 s is too short for a machine at work.
RAY_PATIENCE, RAY_SECONDS = "RAY_raylet_start_wait_time_s", "120"


@dataclass(frozen=True)
class _Job:
    """A point of a sweep: what Hydra is told, its number, and its folder."""

    overrides: list[str]
    number: int
    folder: RunFolder


class FinishedJobsSweeper(BasicSweeper):
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
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        self.overrides = self.split_arguments(
            parser.parse_overrides([*self._parse_config(), *arguments]), self.max_batch_size
        )
        folder = Path(str(self.config.hydra.sweep.dir))
        every = [list(overrides) for batch in self.overrides for overrides in batch]
        with ending():
            make(folder)
            try:
                jobs = [self._job(folder, overrides, number) for number, overrides in enumerate(every)]
                _check_places(jobs)
            except BaseException:
                unmake()
                raise
        again = bool(OmegaConf.select(self.config, "run.again", default=False))
        missing = [job for job in jobs if again or job.folder.finished() is None]
        log.info("sweep %s: %d jobs, %d finished before", folder, len(jobs), len(jobs) - len(missing))
        self._name_changes(folder, [job.folder for job in missing])
        self._run(missing, folder)
        if not _summary(folder, [job.folder for job in jobs]):
            sys.exit(1)

    def _run(self, jobs: Sequence[_Job], folder: Path) -> None:
        """Compute what is missing. A launcher that broke must not hide which jobs are done."""
        try:
            self._launch(jobs)
            self._share(jobs)
        except KeyboardInterrupt:  # here if jobs run in other processes; a job of this one ends it itself
            log.warning("interrupted; the same command goes on from what is in %s", folder)
            sys.exit(130)
        except Exception as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            log.error("%s", launcher_stopped(error))

    def _launch(self, jobs: Sequence[_Job]) -> None:
        """Hand jobs to the launcher; where their numbers name their folders, as runs of consecutive ones."""
        assert self.launcher is not None
        if "ray" in type(self.launcher).__module__:
            os.environ.setdefault(RAY_PATIENCE, RAY_SECONDS)
        size = self.max_batch_size or max(len(jobs), 1)
        parts: list[list[_Job]] = []
        for job in jobs:
            follows = parts and (self._named_by_hash or parts[-1][-1].number + 1 == job.number)
            if follows and len(parts[-1]) < size:
                parts[-1].append(job)
            else:
                parts.append([job])
        for part in parts:
            self.launcher.launch([job.overrides for job in part], initial_job_idx=part[0].number)

    def _share(self, jobs: Sequence[_Job]) -> None:
        """Wait for the jobs that were left to other processes, and do those that are then still missing."""
        pending = [job for job in jobs if job.folder.finished() is None]
        waited = True
        while pending and waited:
            waited = False
            for job in pending:
                by = owner(job.folder.path)
                if by is not None:
                    log.info("waiting for %s, which is at %s", by, job.folder.path)
                    waited = True
                while owner(job.folder.path) is not None:
                    time.sleep(_PATIENCE)
            pending = [
                job
                for job in pending
                if job.folder.finished() is None and not (job.folder.path / FAILURE).exists()
            ]
            if waited:  # else nobody was at them: they were cut off, and the summary says so
                self._launch(pending)

    @property
    def _named_by_hash(self) -> bool:
        """Whether folders have the names that ``configs/hydra/folders.yaml`` gives them."""
        assert self.config is not None
        text = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)
        return isinstance(text, dict) and text["subdir"] == "${run_folder:}"

    def _job(self, folder: Path, overrides: list[str], number: int) -> _Job:
        assert self.hydra_context is not None
        assert self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num = config.hydra.job.id = number
        if any(override.startswith("+") for override in overrides):  # other unknown keys do not compose
            check(config)
        task = tuple(config.hydra.overrides.task)
        place = folder / str(config.hydra.sweep.subdir)
        return _Job(
            overrides, number, run_folder_of(place, config.hydra.job.name, plain(config), task)
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


def launcher_stopped(error: Exception) -> str:
    """The line about a launcher that broke: with the remedy where there is one that its message lacks."""
    told = f"the launcher stopped: {type(error).__name__}: {error}"
    if "timed out during startup" in str(error):
        told += (
            f" Ray had not started after {os.environ.get(RAY_PATIENCE, RAY_SECONDS)} s: set {RAY_PATIENCE} "
            "in the environment to more, or start it beforehand (ray start --head) and give "
            "hydra.launcher.ray.init.address=auto"
        )
    return f"{told} (HYDRA_FULL_ERROR=1 shows the traceback)"


def _check_places(jobs: Sequence[_Job]) -> None:
    """ValueError if two points that are not the same question have one folder."""
    places: dict[Path, _Job] = {}
    for job in jobs:
        other = places.setdefault(job.folder.path, job)
        if other.folder.fingerprint != job.folder.fingerprint:
            raise ValueError(
                f"{' '.join(other.overrides)} and {' '.join(job.overrides)} would share the folder "
                f"{job.folder.path}; leave out hydra.sweep.subdir, or put ${{hydra.job.num}} into it"
            )


def _summary(folder: Path, jobs: Sequence[RunFolder]) -> bool:
    """Say what is finished and what is not; True if everything is."""
    failed = [job for job in jobs if job.finished() is None]
    log.info("sweep %s: %d of %d jobs finished", folder, len(jobs) - len(failed), len(jobs))
    for job in failed:
        failure = read_json(job.path / FAILURE)
        if failure:
            why = f"{failure['error']}: {failure['message']}"
        elif (job.path / STARTED).exists():
            why = f"no {RESULT} and no {FAILURE}: it was cut off"
        else:
            why = "it was not started"
        written = job.path / LOG
        where = f" (log: {written})" if written.exists() else ""
        log.error("  failed: %s: %s%s", " ".join(job.overrides), why, where)
    if failed:
        log.error("the same command again runs only these %d", len(failed))
    return not failed
