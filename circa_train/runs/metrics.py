"""Where metrics go: always to JSON lines, which are the record, and if asked to Weights & Biases, which
mirrors it.

``metrics.jsonl`` holds one JSON object per line with ``step`` and ``time`` (seconds since 1970) before the
metrics, and ``sha256`` after them: the first digits of a SHA-256 of the row and of the check before it, so
that no line can change, go or come in between unseen. Every line is on the disk before the run goes on, so a
killed run leaves at most half a line, which the reader skips and the next start removes. A resumed run takes
back what was logged beyond the step it resumes from (``rewind``), so that the file reads as if the run had
never stopped. What a cut-off file lacks, the file itself cannot tell: a checkpoint keeps a copy of it
(``record``), which is put back (``restore``).
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from circa_train.files import append_line, cut_off, json_digest, set_aside, write_text
from circa_train.runs.tracker import Tracker, Trackers
from circa_train.runs.wandb_mirror import WandbSettings, WandbTracker, wandb_mode

logger = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"
_CHECK, _CHECK_DIGITS = "sha256", 16


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
