"""The handler behind ``job.log``."""

from __future__ import annotations

import logging
import sys


class JobLog(logging.FileHandler):
    """A log file that cannot be written to (a full disk, a folder without permission) is said once, in one
    line: the messages are on the console, too, and the reason of a failure must not drown in tracebacks of
    the log.
    """

    _told = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message; opening the file, at the first one, may fail as well."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        if not self._told:
            self._told = True
            print(f"nothing is written to {self.baseFilename}: {sys.exc_info()[1]}", file=sys.stderr)
