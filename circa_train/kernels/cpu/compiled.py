"""The entry points of the CPU kernel's machine code, and under which key the code is kept on the disk.

numba keeps the compiled code in ``__pycache__`` beside this file or in the folder NUMBA_CACHE_DIR. It would
compile again only when the date of this file changes, and not when one of :data:`SOURCES` does. So the entry
points hold a digest of all those files, and of the width of vectors, in a closure, which is part of numba's
key. This relies on how numba makes its key, and a test keeps the list complete.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import cfunc, from_dtype, types

from circa_train import philox as generator
from circa_train.code_cache import compiled
from circa_train.fault import masks
from circa_train.kernels.cpu import gates, intrinsics, layouts, philox, tasks, walk

#: All modules that are compiled into the entry points, or that define what those compute.
SOURCES = (generator, masks, intrinsics, tasks, philox, gates, layouts, walk)

_TASK = from_dtype(tasks.TASK)

#: Decorates what becomes a C function that takes the address of a TASK.
_task_function = functools.partial(cfunc, types.void(types.CPointer(_TASK)))

_UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}


@functools.cache
def entry(backward: bool, itemsize: int) -> Any:
    """The compiled entry for elements of that many bytes. Its ``.address`` is that of a C function, which
    takes the address of a TASK.
    """
    make = _backward_entry if backward else _forward_entry
    return compiled(_task_function, make(itemsize, _sources()))


@functools.cache
def masks_entry() -> Any:
    """The compiled entry for masks alone, used like :func:`entry`."""
    return compiled(_task_function, _masks_entry(_sources()))


def _masks_entry(sources: str) -> Callable[[Any], None]:
    def masks(task: Any) -> None:
        sources  # noqa: B018 - as below
        walk.masks(task)

    return masks


def _forward_entry(itemsize: int, sources: str) -> Callable[[Any], None]:
    unsigned = _UNSIGNED[itemsize]
    real, real_bits = (np.float64, np.uint64) if itemsize == 8 else (np.float32, np.uint32)

    def forward(task: Any) -> None:
        sources  # noqa: B018 - numba's key has the values that a closure uses
        walk.forward(task, itemsize, unsigned, real, real_bits)

    return forward


def _backward_entry(itemsize: int, sources: str) -> Callable[[Any], None]:
    unsigned = _UNSIGNED[itemsize]

    def backward(task: Any) -> None:
        sources  # noqa: B018
        walk.backward(task, itemsize, unsigned)

    return backward


@functools.cache
def _sources() -> str:
    digest = hashlib.sha256(philox.VECTOR_BITS.encode())
    for module in SOURCES:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()
