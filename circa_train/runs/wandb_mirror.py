"""Weights & Biases mirrors the metrics of a run, if asked; the record is ``metrics.jsonl``."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circa_train.files import write_text
from circa_train.runs.tracker import Tracker

logger = logging.getLogger(__name__)

WANDB_MODES = ("offline", "online", "disabled")
#: What wandb refuses in the name of a project, and its longest tag.
_WANDB_FORBIDDEN, WANDB_TAG_LETTERS = "/\\#?%:", 64
#: Longer, and a run without a network seems to hang; wandb's own limit is 90 s.
WANDB_TIMEOUT_SECONDS = 20
#: At the end of a run; wandb would retry for hours a server that has gone. What is not uploaded stays in the
#: local file.
WANDB_FINISH_SECONDS = 120


@dataclass(frozen=True)
class WandbSettings:
    """How a run appears in Weights & Biases.

    Attributes:
        mode: ``offline`` (a local file, synchronised later with ``wandb sync``), ``online``, or ``disabled``.
        project: the project's name.
        entity: team or user; None is the account's default.
        group: what the jobs of one multirun share.
        name: this job's name; None uses the run folder's.
        tags: words to filter by.
        job_type: the kind of job, such as ``evaluate``.
    """

    mode: str = "offline"
    project: str = "circa_train"
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    job_type: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in WANDB_MODES:
            raise ValueError(f"wandb mode = {self.mode!r} is not one of {', '.join(WANDB_MODES)}")
        if bad := sorted(set(self.project) & set(_WANDB_FORBIDDEN)):
            team, _, project = self.project.rpartition("/")
            remedy = f"; give entity={team} and project={project}" if team and project else ""
            raise ValueError(f"wandb project = {self.project!r} has {' '.join(bad)} in it{remedy}")
        for tag in self.tags:
            if not 1 <= len(tag) <= WANDB_TAG_LETTERS:
                raise ValueError(
                    f"wandb tag {tag!r} has {len(tag)} letters; wandb takes 1 to {WANDB_TAG_LETTERS}"
                )


def wandb_mode(mode: str) -> str:
    """The mode as the environment has it: where ``WANDB_MODE`` says one, it has the last word, as with
    wandb itself.
    """
    said = os.environ.get("WANDB_MODE", "").strip().lower()
    said = {"dryrun": "offline", "run": "online"}.get(said, said)  # wandb's older words
    if said not in WANDB_MODES or said == mode:
        return mode
    logger.info("wandb is %s and not %s, because of WANDB_MODE in the environment", said, mode)
    return said


def import_wandb() -> Any:
    """The package, where it is wanted for the first time: importing it takes a second.

    Raises:
        ImportError: if wandb is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise ImportError(
            "tracking with wandb needs the package: pip install wandb (or tracker=jsonl)"
        ) from error
    return wandb


class WandbTracker(Tracker):
    """Mirrors metrics to Weights & Biases, one run per folder; never stops or delays the training it watches.

    Online without a key or a server falls back to offline with one warning. An error of wandb's later on is
    warned of once, and then the mirror stays silent. The run's id is kept in ``folder/wandb_id``, so that a
    resumed job continues its run.

    Args:
        folder: the job's folder; wandb's files go to ``folder/wandb``.
        settings: see :class:`WandbSettings`.
        config: plain containers that describe the job.

    Raises:
        ImportError: if wandb is not installed.
    """

    def __init__(
        self, folder: str | os.PathLike[str], settings: WandbSettings, config: Mapping[str, Any] | None = None
    ) -> None:
        self._wandb = import_wandb()
        self._folder = Path(folder).resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._settings = settings
        self._config = dict(config or {})
        self._failed = False
        self.run: Any = self._start()
        # wandb cannot take rows back: a resumed run logs nothing up to the last step that wandb already has.
        self._last_step = int(self.run.step) - 1

    def _start(self) -> Any:
        if self._settings.mode != "online":
            return self._init(self._settings.mode)
        reason = "wandb is not logged in"
        try:
            run = self._init("online")
            # Where the user declines to log in, or lets the prompt time out, wandb itself turns offline or
            # off.
            if not run.disabled and not run.offline:
                return run
            run.finish()
        except (self._wandb.errors.Error, OSError, TimeoutError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        logger.warning(
            "wandb is offline for this run (%s); later: wandb sync %s",
            reason,
            self._folder / "wandb" / "*run-*",
        )
        return self._init("offline")

    def _init(self, mode: Any) -> Any:
        limits: dict[str, Any] = {
            "init_timeout": WANDB_TIMEOUT_SECONDS,
            "login_timeout": WANDB_TIMEOUT_SECONDS,
        }
        if "finish_timeout" in self._wandb.Settings.model_fields:  # newer than the oldest wandb we support
            limits["finish_timeout"] = WANDB_FINISH_SECONDS
        return self._wandb.init(
            project=self._settings.project,
            entity=self._settings.entity,
            group=self._settings.group,
            job_type=self._settings.job_type,
            name=self._settings.name or self._folder.name,
            tags=list(self._settings.tags),
            config=self._config,
            dir=str(self._folder),
            id=self._run_id(),
            resume="allow",
            mode=mode,
            # Without this, the second job of a process would write into the first one's run.
            reinit="finish_previous",
            settings=self._wandb.Settings(**limits),
        )

    def _run_id(self) -> str:
        path = self._folder / "wandb_id"
        if not path.exists():
            write_text(path, uuid.uuid4().hex[:12])
        return path.read_text(encoding="utf-8").strip()

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        if step > self._last_step:
            self._last_step = step
            self._guarded(lambda: self.run.log(dict(metrics), step=step))

    def summary(self, metrics: Mapping[str, Any]) -> None:
        self._guarded(lambda: self.run.summary.update(dict(metrics)))

    def checkpoint(self, path: str | os.PathLike[str]) -> None:
        """A reference artifact: wandb records the file's address and checksum, and copies nothing."""

        def record() -> None:
            artifact = self._wandb.Artifact(f"{Path(path).stem}-{self.run.id}", type="model")
            artifact.add_reference(Path(path).resolve().as_uri())
            self.run.log_artifact(artifact)

        self._guarded(record)

    def figure(self, path: str | os.PathLike[str]) -> None:
        """Show a drawn PNG, under its file's name."""
        name = f"figures/{Path(path).stem}"
        self._guarded(lambda: self.run.log({name: self._wandb.Image(str(path))}))

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Show a table: one row each, with a cell for every column. What is neither a number nor a word nor
        None is shown as text.
        """
        cells = [[_cell(value) for value in row] for row in rows]

        def show() -> None:
            # Columns of kept tables mix words with numbers, which wandb refuses otherwise.
            table = self._wandb.Table(columns=list(columns), data=cells, allow_mixed_types=True)
            self.run.log({name: table})

        self._guarded(show)

    def finish(self) -> None:
        self._guarded(lambda: self.run.finish())

    def _guarded(self, call: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            call()
        except Exception as error:  # whatever it is, hours of training must not end because a mirror broke
            self._failed = True
            logger.warning(
                "wandb failed and is ignored from here on (%s); metrics.jsonl is complete", error
            )


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
