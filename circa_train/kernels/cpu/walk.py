"""The walk over a tensor in machine code: one thread's part of a forward, a backward, or masks alone.

Threads take chunks of the tensor until there are none left. A chunk is walked in *runs*, the 256 elements
that share 64 Philox blocks (:mod:`circa_train.fault.masks`), a batch of them at a time: their masks first,
then each from its activations to its results (:mod:`circa_train.kernels.cpu.gates`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import carray

from circa_train.fault.masks import LANES, RUN
from circa_train.kernels.cpu import gates, layouts, tasks
from circa_train.kernels.cpu.intrinsics import array_at, atomic_add, inlined, machine_code, stack
from circa_train.kernels.cpu.philox import BATCH, BATCH_MASKS, draw_masks, draw_words
from circa_train.kernels.cpu.tasks import COUNTERS, NEGPASS, POSZERO, ROWS, TILED


class _Room(NamedTuple):
    """The addresses of one thread's buffers on the stack. :func:`forward` takes them all, because such
    memory is there only until the function that took it returns.
    """

    starts: Any  # the first element of each run of a batch (int64)
    bases: Any  # the first block of each run of a batch (uint64)
    steps: Any  # for each lane, the number of its block less that of the first (uint64)
    masks: Any  # the masks of a batch, in the order of elements (uint32)
    z: Any  # a copy of a run of the input
    y: Any  # a run of the output, before it is copied to its places
    values: Any  # a run of the input as float32, if elements have 16 bits
    scales: Any  # 2^frac_bits for each element of a run, of the arithmetic's type
    scaled: Any  # a run of the input times its scales, if these differ from channel to channel
    x: Any  # the fixed-point values of a run (int32)
    gate: Any  # the gates of a run (uint32)
    dropped: Any  # 2^k - 1 for each element of a run (uint32)
    words: Any  # the second random word of each element of a run (uint32)
    counts: Any  # what this thread has counted so far (int64)


@machine_code
def forward(task_pointer: Any, width: int, unsigned: Any, real: Any, real_bits: Any) -> None:
    """One thread's part of a forward: it takes chunks until none is left.

    ``width`` is the bytes of an element, and ``unsigned`` the unsigned integer of that width. ``real`` is the
    type of the arithmetic, and ``real_bits`` the unsigned integer of its width.
    """
    task = carray(task_pointer, 1)[0]
    room = _Room(
        starts=stack(np.int64, BATCH),
        bases=stack(np.uint64, BATCH),
        steps=stack(np.uint64, LANES),
        masks=stack(np.uint32, BATCH_MASKS),
        z=stack(np.uint64, RUN),  # whatever the width of an element, up to 8 bytes
        y=stack(np.uint64, RUN),
        values=stack(np.float32, RUN),
        scales=stack(np.uint64, RUN),  # whatever the width of the arithmetic's type, up to 8 bytes
        scaled=stack(np.uint64, RUN),
        x=stack(np.int32, RUN),
        gate=stack(np.uint32, RUN),
        dropped=stack(np.uint32, RUN),
        words=stack(np.uint32, RUN),
        counts=stack(np.int64, COUNTERS),
    )
    numbers = gates.Numbers(
        scale=real(task.scale),
        prime=np.uint32(task.prime),
        sign=unsigned(1 << (8 * width - 1)),
        magnitude=real_bits((1 << (8 * max(width, 4) - 1)) - 1),
        reach=real_bits(task.reach),
    )
    counts = array_at(room.counts, COUNTERS, np.int64)
    counts[:] = 0
    layouts.steps_of(task, array_at(room.steps, LANES, np.uint64))
    if task.dropped_count == 1:
        _find_dropped(task, 0, 0, array_at(room.dropped, RUN, np.uint32))
    if task.scale_count == 1:
        _find_scales(task, 0, 0, array_at(room.scales, RUN, real))
    thread = tasks.thread_of(task)
    while True:
        chunk = tasks.take(task, thread)
        if chunk < 0:
            break
        at = max(chunk * task.chunk - task.shift, 0)
        end = min((chunk + 1) * task.chunk - task.shift, task.elements)
        while at < end:
            first = at
            at, runs = _batch(task, room.starts, room.bases, at, end)
            if (task.test == POSZERO) | (task.test == NEGPASS):
                _draw_batch(task, room, first, runs, width)
            for run in range(runs):
                _run(task, numbers, room, run, end, width, unsigned, real, real_bits)
    for place in range(COUNTERS):
        if counts[place]:
            atomic_add(task.here + tasks.COUNTED + 8 * place, counts[place])


@inlined
def _batch(task: Any, starts_at: int, bases_at: int, at: int, end: int) -> Any:
    """Find the next runs of a chunk, up to BATCH, from element ``at`` on. Writes the first element and the
    first block of each. Returns the element after the last of them, and how many there are.
    """
    starts, bases = array_at(starts_at, BATCH, np.int64), array_at(bases_at, BATCH, np.uint64)
    runs = 0
    while at < end and runs < BATCH:
        starts[runs], bases[runs] = at, layouts.base_of(task, at)
        at += RUN - (task.lead + at) % RUN
        runs += 1
    return at, runs


@inlined
def _draw_batch(task: Any, room: Any, first: int, runs: int, width: int) -> None:
    """Draw the masks of a batch of runs that starts at element ``first``."""
    run_bytes = width * RUN if task.layout == ROWS else 0
    z, y = task.z + width * first, task.y + width * first
    draw_masks(task, array_at(room.bases, BATCH, np.uint64), runs, room.steps, room.masks, z, y, run_bytes)


@inlined
def _run(
    task: Any, numbers: Any, room: Any, run: int, end: int, width: int,
    unsigned: Any, real: Any, real_bits: Any,
) -> None:  # fmt: skip
    """One run of a batch, from its activations to its results.

    If its elements lie one after the other in memory, it is read and written there. Else it is computed in
    buffers. If y is written over z, a buffer keeps z as well.
    """
    start = array_at(room.starts, BATCH, np.int64)[run]
    offset = (task.lead + start) % RUN
    count = min(RUN - offset, end - start)
    there = count == RUN and task.layout == ROWS
    z_at = task.z + width * start if there and task.z != task.y else room.z
    y_at = task.y + width * start if there else room.y
    z, y = array_at(z_at, RUN, unsigned), array_at(y_at, RUN, unsigned)
    if not there:
        z_all = array_at(task.z, task.elements, unsigned)
        _gather(task, start, offset, count, z_all, array_at(room.z, RUN, unsigned))
    elif task.z == task.y:
        _copy(array_at(task.z + width * start, RUN, unsigned), array_at(room.z, RUN, unsigned))
    values_at = z_at if width > 2 else room.values
    values, bits = array_at(values_at, RUN, real), array_at(values_at, RUN, real_bits)
    if width == 2:
        gates.widen(z, task.brain_float != 0, bits, values)
    if task.dropped_count > 1:
        _find_dropped(task, start, offset, array_at(room.dropped, RUN, np.uint32))
    scales, scaled, scaled_bits = array_at(room.scales, RUN, real), values, bits
    if task.scale_count > 1:
        _find_scales(task, start, offset, scales)
        scaled, scaled_bits = array_at(room.scaled, RUN, real), array_at(room.scaled, RUN, real_bits)
        gates.rescaled(values, scales, scaled)
    if _signs(task, numbers, room, run, scaled, scaled_bits, values, scales, z, y):
        if not there:
            _scatter(task, start, offset, count, array_at(task.y, task.elements, unsigned), y)
    elif there and task.z == task.y:
        _copy(z, y)


@inlined
def _copy(source: Any, target: Any) -> None:
    """Copy a run. This is a loop of its own, because a loop that might overwrite what it reads next does not
    become vector instructions.
    """
    for i in range(RUN):
        target[i] = source[i]


@inlined
def _gather(task: Any, start: int, offset: int, count: int, tensor: Any, buffer: Any) -> None:
    """Copy a run from the tensor to a buffer. Elements that the tensor does not have are 0 there."""
    if task.layout == TILED:
        layouts.copy_tile(task, start, tensor, buffer, True)
    else:
        buffer[:] = 0
        layouts.copy_run(task, start, count, tensor, buffer, offset, True)


@inlined
def _scatter(task: Any, start: int, offset: int, count: int, tensor: Any, buffer: Any) -> None:
    """Copy a run from a buffer to the tensor, as much of it as the tensor has."""
    if task.layout == TILED:
        layouts.copy_tile(task, start, tensor, buffer, False)
    else:
        layouts.copy_run(task, start, count, tensor, buffer, offset, False)


@inlined
def _find_dropped(task: Any, start: int, offset: int, dropped: Any) -> None:
    """Write 2^k - 1 for a run's elements: of one k, or as it differs from channel to channel."""
    count = task.dropped_count
    _find(task, start, offset, array_at(task.dropped, count, np.uint32), count, dropped)


@inlined
def _find_scales(task: Any, start: int, offset: int, scales: Any) -> None:
    """Write 2^frac_bits for a run's elements: one scale, or as it differs from channel to channel."""
    count = task.scale_count
    _find(task, start, offset, array_at(task.scales, count, np.float64), count, scales)


@inlined
def _find(task: Any, start: int, offset: int, of_channels: Any, count: int, of_elements: Any) -> None:
    if task.layout == TILED and count > 1:
        layouts.spread_tile(task, start, of_channels, of_elements)
    else:
        layouts.spread(task, start - offset, of_channels, count, of_elements)


@inlined
def _signs(
    task: Any, numbers: Any, room: Any, run: int, values: Any, bits: Any, real: Any, scales: Any, z: Any,
    y: Any,
) -> bool:  # fmt: skip
    """Write y of a run: by a single loop if the sign test has one and all values fit, else step by step.

    ``values`` times the scale of ``numbers`` is what is rounded; ``real`` times ``scales`` is the same, from
    the values as they came.

    Returns False if the run has a value that the policy refuses. Then y is not usable. The host will raise,
    and it needs z for the message.
    """
    t = array_at(room.masks + 4 * RUN * run, RUN, np.uint32)
    dropped = array_at(room.dropped, RUN, np.uint32)
    if not task.statistics:
        if task.test == POSZERO and gates.poszero(values, bits, z, t, dropped, numbers, y):
            return True
        if task.test == NEGPASS and gates.negpass(values, bits, z, t, dropped, numbers, y):
            return True
    return _step_by_step(task, numbers, room, run, values, bits, real, scales, z, t, dropped, y)


@inlined
def _step_by_step(
    task: Any, numbers: Any, room: Any, run: int, values: Any, bits: Any, real: Any, scales: Any, z: Any,
    t: Any, dropped: Any, y: Any,
) -> bool:  # fmt: skip
    """What :func:`_signs` does, for every sign test: first arrays of x and of gates, then y. Also counts
    overflows, and faults if they are asked for.
    """
    x, gate = array_at(room.x, RUN, np.int32), array_at(room.gate, RUN, np.uint32)
    counts = array_at(room.counts, COUNTERS, np.int64)
    if not gates.quantise(values, bits, numbers, x):
        gates.repair(task, real, scales, x, counts)
        if task.policy == tasks.RAISE or counts[tasks.NOT_FINITE] > 0:
            return False
    base, steps = array_at(room.bases, BATCH, np.uint64)[run], array_at(room.steps, LANES, np.uint64)
    if task.test == tasks.UNIFORM:
        draw_words(task, base, steps, 0, t)
        gates.flipped(x, t, task.threshold, task.direction, gate)
    elif task.test == tasks.WINDOW:
        high = array_at(room.words, RUN, np.uint32)
        draw_words(task, base, steps, 0, t)
        draw_words(task, base, steps, 1, high)
        gates.windowed(x, t, high, task.low, task.high, gate)
    else:
        gates.truncated(x, t, dropped, task.test == NEGPASS, numbers.prime, gate)
    if task.statistics:
        gates.count_faults(task, x, t, gate, counts)
    gates.write(z, gate, numbers.sign, y)
    return True


@machine_code
def backward(task_pointer: Any, width: int, unsigned: Any) -> None:
    """One thread's part of a backward: it takes chunks until none is left."""
    task = carray(task_pointer, 1)[0]
    thread = tasks.thread_of(task)
    while True:
        chunk = tasks.take(task, thread)
        if chunk < 0:
            break
        start = chunk * task.chunk
        count, offset = min(task.chunk, task.elements - start), width * start
        grad, y = array_at(task.z + offset, count, unsigned), array_at(task.y + offset, count, unsigned)
        out, zero = array_at(task.out + offset, count, unsigned), unsigned(0)
        for i in range(count):
            out[i] = grad[i] if y[i] != 0 else zero


@machine_code
def masks(task_pointer: Any) -> None:
    """One thread's part of the masks of consecutive elements, written as int64 to ``task.y``."""
    task = carray(task_pointer, 1)[0]
    starts, bases = stack(np.int64, BATCH), stack(np.uint64, BATCH)
    steps, drawn_at = stack(np.uint64, LANES), stack(np.uint32, BATCH_MASKS)
    layouts.steps_of(task, array_at(steps, LANES, np.uint64))
    thread = tasks.thread_of(task)
    while True:
        chunk = tasks.take(task, thread)
        if chunk < 0:
            break
        at = max(chunk * task.chunk - task.shift, 0)
        end = min((chunk + 1) * task.chunk - task.shift, task.elements)
        while at < end:
            first, offset = at, (task.lead + at) % RUN
            at, runs = _batch(task, starts, bases, at, end)
            draw_masks(task, array_at(bases, BATCH, np.uint64), runs, steps, drawn_at, 0, 0, 0)
            count = min(at, end) - first
            drawn = array_at(drawn_at + 4 * offset, count, np.uint32)
            out = array_at(task.y + 8 * first, count, np.int64)
            for i in range(count):
                out[i] = np.int64(drawn[i])
