"""A run folder has one owner at a time.

Two processes that train in one folder would write each other's lines into ``metrics.jsonl`` and resume from
each other's states. So whoever works in a folder holds a lock on its file ``.lock``, which also says who that
is. The lock is the system's (``flock``): it ends with the process, however that ends, and nothing has to be
cleaned up. On a network file system that has no locks between machines it guards only against the
processes of one machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from circa_train.files import read_json

LOCK = ".lock"

#: Seconds between two looks at whether a folder has become free.
_PATIENCE = 0.2


class FolderInUse(ValueError):
    """Another process works in the folder; the message names it."""


@contextmanager
def owned(folder: Path, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock of a folder, which is made if need be.

    Args:
        folder: the run folder.
        on_wait: if given, a folder that is in use is waited for, after one call with a text that names its
            owner; else it is refused.

    Raises:
        FolderInUse: naming the process that owns the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        told = False
        while not _try(descriptor):
            if on_wait is None:
                raise FolderInUse(
                    f"{folder} is in use by {_owner(folder)}: wait until it has ended, or stop it"
                )
            if not told:
                on_wait(f"{folder} is in use by {_owner(folder)}; waiting until it has ended")
                told = True
            time.sleep(_PATIENCE)
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()})
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
        yield
    finally:
        os.close(descriptor)  # which ends the lock


def owner(folder: Path) -> str | None:
    """Which process works in a folder, as text; None if none does."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        return None if _try(descriptor) else _owner(folder)
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(folder: Path) -> str:
    named = read_json(folder / LOCK) or {}  # for a moment after it was taken it is still empty
    return f"process {named.get('pid', '(unknown)')} on {named.get('host', 'this machine')}"
