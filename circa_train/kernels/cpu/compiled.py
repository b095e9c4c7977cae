"""The CPU kernel's machine code: the walk over a tensor, and the entry points.

Threads take chunks of the tensor until there are none left. A chunk is walked in *runs*, the 256 elements
that share 64 Philox blocks (:mod:`circa_train.fault.masks`), a batch of them at a time: their masks first,
then each from its activations to its results (:mod:`circa_train.kernels.cpu.gates`).

Compiled code is kept on disk beside this file. numba would look at the date of this file alone, so the entry
points carry a digest of everything that is compiled with them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import carray, from_dtype, types

from circa_train import philox as generator
from circa_train.fault import masks
from circa_train.fault.masks import LANES, RUN
from circa_train.kernels.code_cache import compiled
from circa_train.kernels.cpu import gates, intrinsics, layouts, philox, tasks
from circa_train.kernels.cpu.gates import (
    count_faults,
    flipped,
    negpass,
    poszero,
    quantise,
    repair,
    truncated,
    widen,
    windowed,
    write,
)
from circa_train.kernels.cpu.intrinsics import array_at, atomic_add, call_int, machine_code, stack
from circa_train.kernels.cpu.layouts import (
    base_of,
    copy_run,
    copy_tile,
    dropped_of,
    dropped_of_tile,
    steps_of,
)
from circa_train.kernels.cpu.philox import BATCH, BATCH_MASKS, draw_masks, draw_words
from circa_train.kernels.cpu.tasks import (
    ARRIVED,
    COUNTED,
    NEGPASS,
    NOT_FINITE,
    POSZERO,
    RAISE,
    ROWS,
    TAKEN,
    TILED,
    UNIFORM,
)

#: Everything that is compiled into the entry points, or counted on by them, apart from this file.
SOURCES = (generator, masks, intrinsics, tasks, philox, gates, layouts)

_TASK = from_dtype(tasks.TASK)


@machine_code
def _thread(task: Any) -> Any:
    """Which of the task's threads this one is."""
    return (
        np.int64(call_int(task.thread_number)) if task.thread_number else atomic_add(task.here + ARRIVED, 1)
    )


@machine_code
def _take(task: Any, thread: int) -> int:
    """The number of a chunk that nobody has, of the thread's own share first; -1 if there is none left.

    A share is what torch's own operators give to the same thread, whose core's cache may still hold it, and
    will be asked for it next. A thread that is done, or late, or was never started, leaves nothing undone.
    """
    for step in range(task.threads):
        whose = (thread + step) % task.threads
        first, last = whose * task.chunks // task.threads, (whose + 1) * task.chunks // task.threads
        chunk = first + atomic_add(task.here + TAKEN + 8 * whose, 1)
        if chunk < last:
            return chunk
    return -1


@machine_code
def _forward(task_pointer: Any, width: int, unsigned: Any, real: Any, real_bits: Any) -> None:
    """One thread's part. ``unsigned`` is of the elements' width, in bytes; ``real_bits`` of the arithmetic's
    type ``real``.
    """
    task = carray(task_pointer, 1)[0]
    z_all, y_all = array_at(task.z, task.elements, unsigned), array_at(task.y, task.elements, unsigned)
    z_copy_at, y_copy_at, widened_at = stack(np.uint64, RUN), stack(np.uint64, RUN), stack(np.float32, RUN)
    z_copy = array_at(z_copy_at, RUN, unsigned)
    x, gate = array_at(stack(np.int32, RUN), RUN, np.int32), array_at(stack(np.uint32, RUN), RUN, np.uint32)
    dropped, more = (
        array_at(stack(np.uint32, RUN), RUN, np.uint32),
        array_at(stack(np.uint32, RUN), RUN, np.uint32),
    )
    starts, bases = (
        array_at(stack(np.int64, BATCH), BATCH, np.int64),
        array_at(stack(np.uint64, BATCH), BATCH, np.uint64),
    )
    steps_at, masks_at = stack(np.uint64, LANES), stack(np.uint32, BATCH_MASKS)
    steps, counts = array_at(steps_at, LANES, np.uint64), array_at(stack(np.int64, 8), 8, np.int64)
    sign, magnitude = unsigned(1 << (8 * width - 1)), real_bits((1 << (8 * max(width, 4) - 1)) - 1)
    scale, reach, prime = real(task.scale), real_bits(task.reach), np.uint32(task.prime)
    in_place = task.z == task.y
    tiled, circa = task.layout == TILED, (task.test == POSZERO) | (task.test == NEGPASS)
    counts[:] = 0
    steps_of(task, steps)
    if task.k_count == 1:
        dropped_of(task, 0, dropped)
    thread = _thread(task)
    while True:
        chunk = _take(task, thread)
        if chunk < 0:
            break
        at = max(chunk * task.chunk - task.shift, 0)
        end = min((chunk + 1) * task.chunk - task.shift, task.elements)
        while at < end:
            runs = 0
            while at < end and runs < BATCH:
                starts[runs], bases[runs] = at, base_of(task, at)
                at += RUN - (task.lead + at) % RUN
                runs += 1
            if circa:
                first, run_bytes = width * starts[0], width * RUN if task.layout == ROWS else 0
                draw_masks(task, bases, runs, steps_at, masks_at, task.z + first, task.y + first, run_bytes)
            for run in range(runs):
                start = starts[run]
                offset = (task.lead + start) % RUN
                count = min(RUN - offset, end - start)
                direct = count == RUN and task.layout == ROWS
                z_at = task.z + width * start if direct and not in_place else z_copy_at
                values_at = z_at if width > 2 else widened_at
                z, y = (
                    array_at(z_at, RUN, unsigned),
                    array_at(task.y + width * start if direct else y_copy_at, RUN, unsigned),
                )
                values, bits = array_at(values_at, RUN, real), array_at(values_at, RUN, real_bits)
                t = array_at(masks_at + 4 * RUN * run, RUN, np.uint32)
                if tiled:
                    copy_tile(task, start, z_all, z, True)
                # a loop that might overwrite what it reads next would not become vectors
                elif direct and in_place:
                    z_there = array_at(task.z + width * start, RUN, unsigned)
                    for i in range(RUN):
                        z_copy[i] = z_there[i]
                elif not direct:
                    z[:] = 0
                    copy_run(task, start, count, z_all, z, offset, True)
                if width == 2:
                    widen(z, task.brain_float != 0, bits, values)
                if task.k_count > 1:
                    if tiled:
                        dropped_of_tile(task, start, dropped)
                    else:
                        dropped_of(task, start - offset, dropped)
                done = False
                if circa and not task.statistics:
                    if task.test == POSZERO:
                        done = poszero(values, bits, z, t, dropped, scale, prime, sign, magnitude, reach, y)
                    else:
                        done = negpass(values, bits, z, t, dropped, scale, prime, sign, magnitude, reach, y)
                if not done:
                    if not quantise(values, bits, scale, magnitude, reach, x):
                        repair(task, values, x, counts)
                        if task.policy == RAISE or counts[NOT_FINITE] > 0:
                            if direct and in_place:
                                for i in range(RUN):
                                    y[i] = z[i]
                            continue  # the host raises, and looks at z for what to say
                    if circa:
                        truncated(x, t, dropped, task.test == NEGPASS, prime, gate)
                    elif task.test == UNIFORM:
                        draw_words(task, bases[run], steps, 0, t)
                        flipped(x, t, task.threshold, task.direction, gate)
                    else:
                        draw_words(task, bases[run], steps, 0, t)
                        draw_words(task, bases[run], steps, 1, more)
                        windowed(x, t, more, task.low, task.high, gate)
                    if task.statistics:
                        count_faults(task, x, t, gate, counts)
                    write(z, gate, sign, y)
                if tiled:
                    copy_tile(task, start, y_all, y, False)
                elif not direct:
                    copy_run(task, start, count, y_all, y, offset, False)
    for place in range(8):
        if counts[place]:
            atomic_add(task.here + COUNTED + 8 * place, counts[place])


@machine_code
def _backward(task_pointer: Any, width: int, unsigned: Any) -> None:
    """One thread's part."""
    task = carray(task_pointer, 1)[0]
    thread = _thread(task)
    while True:
        chunk = _take(task, thread)
        if chunk < 0:
            break
        start = chunk * task.chunk
        count, offset = min(task.chunk, task.elements - start), width * start
        grad, y = array_at(task.z + offset, count, unsigned), array_at(task.y + offset, count, unsigned)
        out, zero = array_at(task.out + offset, count, unsigned), unsigned(0)
        for i in range(count):
            out[i] = grad[i] if y[i] != 0 else zero


_UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}


@functools.cache
def entry(backward: bool, itemsize: int) -> Any:
    """The compiled entry for elements of that many bytes; ``.address`` is a C function that takes the address
    of a TASK.
    """
    make = _backward_entry if backward else _forward_entry
    return compiled(types.void(types.CPointer(_TASK)), make(itemsize, _sources()))


def _forward_entry(itemsize: int, sources: str) -> Callable[[Any], None]:
    unsigned = _UNSIGNED[itemsize]
    real, real_bits = (np.float64, np.uint64) if itemsize == 8 else (np.float32, np.uint32)

    def forward(task: Any) -> None:
        sources  # noqa: B018 - what a closure holds is part of the key under which numba keeps the code
        _forward(task, itemsize, unsigned, real, real_bits)

    return forward


def _backward_entry(itemsize: int, sources: str) -> Callable[[Any], None]:
    unsigned = _UNSIGNED[itemsize]

    def backward(task: Any) -> None:
        sources  # noqa: B018
        _backward(task, itemsize, unsigned)

    return backward


@functools.cache
def _sources() -> str:
    digest = hashlib.sha256()
    for module in SOURCES:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()
