"""Ctrl-C and SIGTERM as requests: the batch at hand is finished and the state written before the process
goes.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

#: What a shell reports for a process that SIGTERM ended: 128 + 15.
TERMINATED = 128 + signal.SIGTERM


class Interruption:
    """While open, the first SIGINT or SIGTERM is noted instead of acted on; a second SIGINT interrupts at
    once.

    Outside the main thread, where Python allows no handlers, nothing is caught and the signals keep their
    meaning.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def leave(self, message: str) -> None:
        """Raise what the signal stands for: SystemExit(143) for SIGTERM, KeyboardInterrupt otherwise."""
        if self.signal == signal.SIGTERM:
            raise SystemExit(TERMINATED)
        raise KeyboardInterrupt(message)
