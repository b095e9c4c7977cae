"""What metrics are told to. A tracker is always there to be called: :class:`Tracker` itself does nothing, and
is what ranks other than 0 get.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any


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
