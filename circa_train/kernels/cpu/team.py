"""Threads for compiled code: the team of threads that torch's own operators run on.

torch keeps a team of OpenMP threads. After each operator they wait for a while in a busy loop. A second pool
of threads would share the cores with those busy ones, in every network where convolutions and our kernel take
turns. So a kernel is given to torch's OpenMP runtime, by the function that compilers call for a parallel
region (``GOMP_parallel``). That function is no interface of torch's: a torch that was built with another
runtime may not have it. Then plain threads do the same work, as they do where the user asks for it
(CIRCA_TRAIN_TORCH_TEAM=0).

A kernel's work is divided into chunks, and each thread takes one after the other. So all of it is done,
however many threads come. A thread that the machine interrupts delays the others by one chunk at most.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from circa_train.tricks import allowed

#: void kernel(void *task), called once by every thread of the team.
KERNEL_TYPE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run(kernel: int, task: int, threads: int) -> None:
    """Call the compiled function at address ``kernel`` with the address ``task`` on ``threads`` threads, and
    wait for them. The interpreter's lock is not held while they work.
    """
    if threads <= 1:
        _function(kernel)(task)
        return
    parallel = _openmp_parallel()
    if parallel is not None:
        parallel(kernel, task, threads, 0)
        return
    with ThreadPoolExecutor(threads) as pool:
        wait([pool.submit(_function(kernel), task) for _ in range(threads)])


@functools.cache
def _function(kernel: int) -> Callable[[int], None]:
    return KERNEL_TYPE(kernel)


@functools.cache
def thread_number() -> int:
    """The address of OpenMP's ``int omp_get_thread_num(void)``, or 0 where :func:`run` uses plain threads."""
    runtime = _runtime()
    return (ctypes.cast(runtime.omp_get_thread_num, ctypes.c_void_p).value or 0) if runtime else 0


@functools.cache
def _openmp_parallel() -> Callable[[int, int, int, int], None] | None:
    """``GOMP_parallel(function, data, threads, flags)``, or None."""
    runtime = _runtime()
    if runtime is None:
        return None
    parallel: Any = runtime.GOMP_parallel
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel


@functools.cache
def _runtime() -> ctypes.CDLL | None:
    """The OpenMP runtime that torch is linked with, if it has both functions, and if we may use it."""
    if not allowed("CIRCA_TRAIN_TORCH_TEAM"):
        return None
    for path in sorted(Path(torch.__file__).parent.glob("lib/libtorch_cpu.*")):
        try:
            library = ctypes.CDLL(str(path))  # names are looked up in it and in the libraries that it loads
            if library.GOMP_parallel and library.omp_get_thread_num:
                return library
        except (OSError, AttributeError):
            continue
    return None
