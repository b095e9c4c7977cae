"""The task of the compiled CPU kernel: one record of numbers and addresses, and how threads share it."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from circa_train.kernels.cpu.intrinsics import atomic_add, call_int, machine_code

ROWS, STRIDED, TILED = range(3)
POSZERO, NEGPASS, UNIFORM, WINDOW = range(4)
RAISE, WRAP, SATURATE = range(3)
BOTH, ZEROED, PASSED = range(3)

#: A task counts so much: the COUNTS of :mod:`circa_train.kernels.settings`, and at this place after them the
#: values that are not finite.
COUNTERS, NOT_FINITE = 8, 7

#: The record of one forward or one backward.
TASK = np.dtype(
    [
        ("here", "i8"),  # address of this record
        ("threads", "i8"),
        # address of a function that tells a thread its number; if 0, threads are numbered as they arrive
        ("thread_number", "i8"),
        ("arrived", "i8"),  # threads so far
        ("counts", "i8", COUNTERS),  # COUNTS and, after them, the number of values that are not finite
        ("z", "i8"),  # address of the input (backward: the gradient)
        ("y", "i8"),  # address of the output, which may be that of the input (backward: the forward's output)
        ("out", "i8"),  # backward: address of the result
        ("elements", "i8"),
        ("chunk", "i8"),  # elements per chunk; chunk i starts at element i * chunk - shift
        ("shift", "i8"),
        ("chunks", "i8"),
        ("lead", "i8"),  # element number of the first element, modulo RUN
        ("first_run", "i8"),  # the same element number divided by RUN
        ("channels", "i8"),  # size of dimension 1, or 1
        ("plane", "i8"),  # elements per image and channel
        ("layout", "i8"),  # ROWS (row-major), STRIDED or TILED (channels are adjacent in memory)
        ("brain_float", "i8"),  # bool: 16-bit floats are bfloat16
        ("test", "i8"),  # POSZERO, NEGPASS, UNIFORM, WINDOW
        ("dropped", "i8"),  # address of one uint32 2^k - 1, or of one per channel
        ("dropped_count", "i8"),
        ("threshold", "i8"),  # UNIFORM: words below it flip
        ("direction", "i8"),
        ("low", "i8"),  # WINDOW
        ("high", "i8"),
        ("prime", "i8"),
        ("limit", "i8"),  # largest centred value
        # the largest |z| whose x does not exceed it, as the bit pattern of the arithmetic's type
        ("reach", "u8"),
        ("scales", "i8"),  # address of one float64 2^frac_bits, or of one per channel
        ("scale_count", "i8"),
        # one scale: that; one per channel: 1.0, and so is what ``reach`` is of, because values come scaled
        ("scale", "f8"),
        ("policy", "i8"),
        ("statistics", "i8"),  # bool
        ("seed", "u8"),
        ("site", "i8"),
        ("draw", "i8"),
    ]
)

_FIELDS: Any = TASK.fields

#: What the threads count together, in bytes from ``here``: how many threads arrived; the counts; and after
#: the record one int64 per thread, the chunks that have been taken from this thread's share.
ARRIVED, COUNTED, TAKEN = _FIELDS["arrived"][1], _FIELDS["counts"][1], TASK.itemsize

#: The place of each field in the same record as an array of 64-bit integers. Python fills in such an array
#: faster than named fields.
PLACE = {name: offset // 8 for name, (_, offset, *_) in _FIELDS.items()}


@functools.cache
def integers(threads: int) -> Any:
    """The ctypes array that holds a record and the counters of that many threads."""
    return ctypes.c_int64 * (TASK.itemsize // 8 + threads)


@machine_code
def thread_of(task: Any) -> Any:
    """Which of the task's threads this one is."""
    return (
        np.int64(call_int(task.thread_number)) if task.thread_number else atomic_add(task.here + ARRIVED, 1)
    )


@machine_code
def take(task: Any, thread: int) -> int:
    """Take a chunk that no thread has taken: from this thread's own share first, then from the others'.
    Returns its number, or -1 if none is left.

    A thread's share is the part of the tensor that torch's own operators give to the same thread. So the
    cache of its core may still hold it, and the next operator will look for it there. If a thread is late or
    was never started, the others do its share.
    """
    for step in range(task.threads):
        whose = (thread + step) % task.threads
        first, last = whose * task.chunks // task.threads, (whose + 1) * task.chunks // task.threads
        chunk = first + atomic_add(task.here + TAKEN + 8 * whose, 1)
        if chunk < last:
            return chunk
    return -1
