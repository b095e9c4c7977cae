"""What every test leaves as it found it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

#: The loggers that a job started by Hydra gives handlers to: of streams and folders that end with the test.
LOGGERS = ("", "circa_train.traceback", "circa_train.console")


@pytest.fixture(autouse=True)
def _no_handler_outlives_its_test() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [list(logger.handlers) for logger in loggers]
    yield
    for logger, kept in zip(loggers, before, strict=True):
        for handler in set(logger.handlers).difference(kept):
            logger.removeHandler(handler)
            handler.close()
