"""One line for what a user can cause or the machine refuses; a traceback for a mistake of ours."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from omegaconf.errors import OmegaConfBaseException

from circa_train.config.unknown import refused_by_hydra

#: What a wrong value, a missing file or package, or a training that diverges raises: the message says it all.
USER_ERRORS = (ValueError, TypeError, OSError, ImportError, FloatingPointError, OverflowError)

#: What torch says, on whichever device, where memory is short.
_SHORT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def reason(error: BaseException) -> str | None:
    """The line to show, None for an error that nobody but us can mend."""
    full = next((e for e in _chain(error) if isinstance(e, OSError) and e.errno == errno.ENOSPC), None)
    if full is not None:  # torch wraps it, in words of its own
        return f"the disk is full: {full}"
    text = str(error).strip()
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in _SHORT_OF_MEMORY)
    ):
        first = text.splitlines()[0] if text else "an allocation failed"
        return f"not enough memory: {first}; lower batch_size, or raise accumulate where there is such a key"
    if isinstance(error, OmegaConfBaseException):
        where = f" (in {error.full_key})" if getattr(error, "full_key", None) else ""
        return f"{text.splitlines()[0] if text else type(error).__name__}{where}"
    if isinstance(error, USER_ERRORS):
        return text or type(error).__name__
    return refused_by_hydra(error)


def end(error: Exception) -> NoReturn:
    """One line and exit code 2 for what has a :func:`reason`; anything else, or on request, as it is."""
    told = reason(error)
    if told is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    print(f"error: {told}\n(HYDRA_FULL_ERROR=1 shows the traceback)", file=sys.stderr)
    sys.exit(2)


@contextmanager
def ending() -> Iterator[None]:
    """A block whose errors :func:`end` the process: for code that Hydra runs outside of a job, which it would
    answer with a traceback.
    """
    try:
        yield
    except Exception as error:
        end(error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
