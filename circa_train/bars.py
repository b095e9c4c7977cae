"""How far a long piece of work is: a bar on a terminal, a plain line now and then where there is none.

A bar in a file, or in the log of a cluster, is a thousand lines; nothing at all looks like a job that hangs.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)

#: Seconds between two lines. What takes less says nothing.
BETWEEN_LINES = 30.0


def bar(total: int, what: str, unit: str, *, shown: bool | None = None, initial: int = 0) -> Any:
    """A context manager with ``update(n)``, ``total``, ``initial`` and ``set_postfix(**values)``, as tqdm's.

    Args:
        total: how many units there are.
        what: is being done, such as ``evaluating``.
        unit: of what, such as ``batch``.
        shown: False shows nothing at all.
        initial: units that were done before.
    """
    if shown is False or sys.stderr.isatty():
        return tqdm(total=total, desc=what, unit=unit, initial=initial, leave=False, disable=shown is False)
    return Lines(total, what, unit, initial)


class Lines:
    """The bar where nobody watches: a line in the log (level INFO) every :data:`BETWEEN_LINES` seconds."""

    def __init__(self, total: int, what: str, unit: str, initial: int = 0) -> None:
        self.total, self.initial, self.n = total, initial, initial
        self._what, self._unit = what, unit
        self._postfix = ""
        self._started = self._told = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def set_postfix(self, **values: Any) -> None:
        values.pop("refresh", None)
        self._postfix = "".join(f", {name} {value}" for name, value in values.items())

    def update(self, count: int = 1) -> None:
        self.n += count
        now = time.monotonic()
        if now - self._told < BETWEEN_LINES or self.n >= self.total:
            return
        self._told = now
        done, spent = max(self.n - self.initial, 1), now - self._started
        logger.info(
            "%s: %d of %d (%s)%s; about %.0f s to go",
            self._what, self.n, self.total, self._unit, self._postfix, spent * (self.total - self.n) / done,
        )  # fmt: skip
