"""Where metrics go: always to JSON lines, which are the record, and if asked to Weights & Biases, which
mirrors it.

``metrics.jsonl`` holds one JSON object per line with ``step`` and ``time`` (seconds since 1970) before the
metrics, and ``sha256`` after them: the first digits of a SHA-256 of the row and of the check before it, so
that no line can change, go or come in between unseen. Every line is on the disk before the run goes on, so a
killed run leaves at most half a line, which the reader skips and the next start removes. A resumed run takes
back what was logged beyond the step it resumes from (``rewind``), so that the file reads as if the run had
never stopped. What a cut-off file lacks, the file itself cannot tell: a checkpoint keeps a copy of it
(``record``), which is put back (``restore``).

A tracker is always there to be called: ``Tracker`` itself does nothing, and is what ranks other than 0 get.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from circa_train.files import append_line, cut_off, json_digest, set_aside, write_text

logger = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"
_CHECK, _CHECK_DIGITS = "sha256", 16
WANDB_MODES = ("offline", "online", "disabled")
#: What wandb refuses in the name of a project, and its longest tag.
_WANDB_FORBIDDEN, WANDB_TAG_LETTERS = "/\\#?%:", 64
#: Longer, and a run without a network seems to hang; wandb's own limit is 90 s.
WANDB_TIMEOUT_SECONDS = 20
#: At the end of a run; wandb would retry for hours a server that has gone. What is not uploaded stays in the
#: local file.
WANDB_FINISH_SECONDS = 120


class Tracker:
    """Does nothing, and says what a tracker can be told."""

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Record numbers, strings or None by name, at a step that never falls."""

    def rewind(self, step: int) -> None:
        """Take back what was logged beyond ``step``: the run resumes there and will log it again."""

    def record(self) -> str | None:
        """All that was logged so far, as :meth:`restore` takes it; None if this tracker keeps nothing."""
        return None

    def restore(self, record: str) -> None:
        """After :meth:`rewind`: what was logged is exactly this."""

    def summary(self, metrics: Mapping[str, Any]) -> None:
        """Record what the whole run came to."""

    def checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Record that a checkpoint lies at ``path``, without copying it."""

    def finish(self) -> None:
        """Nothing more will come; can be called again."""


class Trackers(Tracker):
    """Several trackers as one, told everything in order."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = tuple(trackers)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        for tracker in self.trackers:
            tracker.log(metrics, step)

    def rewind(self, step: int) -> None:
        for tracker in self.trackers:
            tracker.rewind(step)

    def record(self) -> str | None:
        records = [tracker.record() for tracker in self.trackers]
        return next((record for record in records if record is not None), None)

    def restore(self, record: str) -> None:
        for tracker in self.trackers:
            tracker.restore(record)

    def summary(self, metrics: Mapping[str, Any]) -> None:
        for tracker in self.trackers:
            tracker.summary(metrics)

    def checkpoint(self, path: str | os.PathLike[str]) -> None:
        for tracker in self.trackers:
            tracker.checkpoint(path)

    def finish(self) -> None:
        for tracker in self.trackers:
            tracker.finish()


class JsonLinesTracker(Tracker):
    """Appends to ``folder/metrics.jsonl``; see :func:`read_metrics`.

    Numbers that JSON cannot say (NaN, infinities) become null. A summary is a line with the key ``summary``.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / METRICS_NAME
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._step, self._check = -1, ""
        self._checks = True
        if self.path.exists():
            self._keep(lambda row: True)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        if step < self._step:
            raise ValueError(f"step {step} is logged after step {self._step}; steps never fall, rewind first")
        row = {"step": step, "time": round(time.time(), 3)}
        self._append(row | {name: _plain(value) for name, value in metrics.items()})
        self._step = step

    def rewind(self, step: int) -> None:
        if self.path.exists():
            self._keep(lambda row: row["step"] <= step and "summary" not in row)

    def record(self) -> str:
        return self.path.read_text(encoding="utf-8") if self.path.exists() else ""

    def restore(self, record: str) -> None:
        if self.record() != record:
            kept = set_aside(self.path, "damaged")
            logger.warning(
                "%s did not hold what the checkpoint says was logged; it is as it was again%s",
                self.path, f", the damaged file is {kept}" if kept else "",
            )  # fmt: skip
            write_text(self.path, record)
        self._keep(lambda row: True)

    def summary(self, metrics: Mapping[str, Any]) -> None:
        plain = {name: _plain(value) for name, value in metrics.items()}
        self._append({"step": max(self._step, 0), "time": round(time.time(), 3), "summary": plain})

    def _append(self, row: Mapping[str, Any]) -> None:
        check = _checked(row, self._check) if self._checks else ""
        told = {_CHECK: check} if self._checks else {}
        append_line(self.path, json.dumps({**row, **told}, allow_nan=False).encode())
        self._check = check

    def _keep(self, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        """Cut the file off before its first row that is not ``wanted``, damaged or half written: rows are in
        order of steps. A damaged file is kept beside it.
        """
        if not self.path.exists():
            return
        lines, damage = _lines(self.path)
        if damage is not None:
            kept = self.path.with_name(f"{self.path.stem}.damaged{self.path.suffix}")
            shutil.copyfile(self.path, kept)
            logger.warning("%s; what follows is cut off, the damaged file is %s", damage, kept)
        length, self._step, self._check = 0, -1, ""
        for line in lines:
            if not wanted(line.row):
                break
            length, self._step, self._check = line.end, line.row["step"], line.check
        self._checks = length == 0 or self._check != ""  # a file from before there were any goes on without
        if length < self.path.stat().st_size:
            cut_off(self.path, length)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a metrics file (or of the one in a run folder), in order, without summaries.

    A half-written last line, which a killed run leaves, is skipped.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line before the last is damaged, with its number.
    """
    return [row for row in _rows(_metrics_file(path)) if "summary" not in row]


def read_summary(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the run came to, by :meth:`Tracker.summary`; empty if it has not finished."""
    merged: dict[str, Any] = {}
    for row in _rows(_metrics_file(path)):
        merged |= row.get("summary", {})
    return merged


def _metrics_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path / METRICS_NAME if path.is_dir() else path


@dataclass(frozen=True)
class _Line:
    """A row, the check of its line ("" in files from before there was one), and the offset of its end."""

    row: dict[str, Any]
    check: str
    end: int


def _rows(path: Path) -> list[dict[str, Any]]:
    lines, damage = _lines(path)
    if damage is not None:
        raise ValueError(f"{damage}: remove the line and all after it to read the rest")
    return [line.row for line in lines]


def _lines(path: Path) -> tuple[list[_Line], str | None]:
    """The rows up to the first damage, and what that is."""
    content = path.read_bytes()
    raw = content.splitlines(keepends=True)
    if raw and not raw[-1].endswith(b"\n"):
        raw.pop()  # half written, even if what is there happens to be JSON
    checked = any(f'"{_CHECK}": "'.encode() in line for line in raw)
    lines: list[_Line] = []
    check, end = "", 0
    for number, text in enumerate(raw, start=1):
        end += len(text)
        try:
            row = json.loads(text)
            if not isinstance(row, dict) or type(row.get("step")) is not int:
                raise ValueError("no object with a step")
            if checked:
                told = row.pop(_CHECK, None)
                check = _checked(row, check)
                if told != check:
                    raise ValueError("it is not what was written there")
        except (ValueError, RecursionError) as error:
            return lines, f"{path}, line {number} is damaged ({error})"
        lines.append(_Line(row, check, end))
    return lines, None


def _checked(row: Mapping[str, Any], before: str) -> str:
    """What vouches for a row and for all before it."""
    return json_digest([before, row])[:_CHECK_DIGITS]


def _plain(value: Any) -> Any:
    """A number, string, bool or None that JSON can say; one-element tensors and arrays become numbers."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a metric is a number, a string or None, not {value!r} ({type(value).__name__})")


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
    """

    mode: str = "offline"
    project: str = "circa_train"
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()

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
        try:
            import wandb
        except ImportError as error:
            raise ImportError(
                "tracking with wandb needs the package: pip install wandb (or tracker=jsonl)"
            ) from error
        self._wandb = wandb
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
                "wandb failed and is ignored from here on (%s); %s is complete", error, METRICS_NAME
            )


def build_tracker(
    folder: str | os.PathLike[str],
    *,
    wandb: WandbSettings | None = None,
    config: Mapping[str, Any] | None = None,
    rank: int = 0,
) -> Tracker:
    """JSON lines in ``folder``, and wandb beside them if asked; on other ranks than 0 a tracker that does
    nothing.
    """
    if rank != 0:
        return Tracker()
    lines = JsonLinesTracker(folder)
    if wandb is not None:
        wandb = replace(wandb, mode=wandb_mode(wandb.mode))
    if wandb is None or wandb.mode == "disabled":
        return lines
    return Trackers([lines, WandbTracker(folder, wandb, config)])
