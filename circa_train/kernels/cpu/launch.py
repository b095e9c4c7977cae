"""Launch the compiled CPU kernel: fill in its task, start its threads, hand back y or the gradient.

The bits are those of :mod:`circa_train.kernels.reference`, for every sign test that is computed here, and for
every floating dtype, memory layout and number of threads.

Between the convolutions of a network a line of Python costs several times what it costs in a loop that does
nothing else, because the data of the convolutions has pushed the interpreter's out of the caches. So what all
calls of a site have in common is computed once (:func:`_template`).
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circa_train.fault import BitWindow, SignTest, TruncatedSign, UniformFault
from circa_train.fault.masks import RUN, check_elements
from circa_train.field import largest_centred
from circa_train.fixed_point import check_channels
from circa_train.kernels.cpu import compiled, layouts, memory, tasks, team
from circa_train.kernels.cpu.tasks import PLACE
from circa_train.kernels.settings import COUNTS, SiteSettings, is_channels_last

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

#: The fewest elements that a thread takes at a time: much more than taking them costs.
CHUNK = 64 * RUN

_POLICIES = {"raise": tasks.RAISE, "wrap": tasks.WRAP, "saturate": tasks.SATURATE}
_DIRECTIONS = {"both": tasks.BOTH, "zeroed": tasks.ZEROED, "passed": tasks.PASSED}

_HERE, _Z, _Y, _OUT, _ELEMENTS = (PLACE[name] for name in ("here", "z", "y", "out", "elements"))
_DRAW, _FIRST_RUN, _LEAD, _SHIFT = (PLACE[name] for name in ("draw", "first_run", "lead", "shift"))
_THREADS, _NUMBER, _CHUNK, _CHUNKS = (PLACE[name] for name in ("threads", "thread_number", "chunk", "chunks"))
_LAYOUT = PLACE["layout"]

#: The places in a finished task of how many values overflowed, and of how many were not finite.
COUNTED = PLACE["counts"]
NOT_FINITE = COUNTED + tasks.NOT_FINITE


def _circa(spec: TruncatedSign, shape: torch.Size, task: Any) -> Any:
    """Fill in the sign test of a task. Returns the array of 2^k - 1, as the task has only its address."""
    if spec.by_channel:
        spec.shift(shape, torch.device("cpu"))  # refuses another number of channels
    task["test"] = tasks.POSZERO if spec.mode == "poszero" else tasks.NEGPASS
    return np.atleast_1d((1 << np.array(spec.k, dtype=np.int64)) - 1).astype(np.uint32)


def _uniform(spec: UniformFault, shape: torch.Size, task: Any) -> Any:
    task["test"], task["threshold"], task["direction"] = (
        tasks.UNIFORM,
        spec.threshold,
        _DIRECTIONS[spec.direction],
    )
    return np.zeros(1, dtype=np.uint32)


def _window(spec: BitWindow, shape: torch.Size, task: Any) -> Any:
    task["test"], task["low"], task["high"] = tasks.WINDOW, spec.low, spec.high
    return np.zeros(1, dtype=np.uint32)


#: The sign tests that this kernel computes. A class derived from one of them is another sign test: this
#: kernel does not compute it.
_TESTS: dict[type[SignTest], Callable[[Any, torch.Size, Any], Any]] = {
    TruncatedSign: _circa,
    UniformFault: _uniform,
    BitWindow: _window,
}


def computes(spec: SignTest) -> bool:
    """Is the sign test one that this kernel was written for?"""
    return type(spec) in _TESTS


def forward(z: Tensor, settings: SiteSettings, address: Tensor, statistics: bool) -> tuple[Tensor, Tensor]:
    """(y, counts) as :func:`circa_train.kernels.reference.forward` has them; counts[7] says how many values
    are not finite.
    """
    draw, first_image = address.tolist()
    y, task = run_forward(z, settings, draw, first_image, statistics)
    return y, torch.frombuffer(task, dtype=torch.int64, count=len(COUNTS) + 1, offset=8 * COUNTED)


def run_forward(
    z: Tensor, settings: SiteSettings, draw: int, first_image: int, statistics: bool, in_place: bool = False
) -> tuple[Tensor, Any]:
    """(y, task). The task holds the counts of :func:`forward`, from place :data:`COUNTED` on.

    With ``in_place``, y is written over z if z has no gaps in memory. Runs of z with a value that the site's
    policy refuses are left as they were, so that the error can say what was wrong.
    """
    template, _arrays, per_image = _template(
        settings, z.shape, is_channels_last(z), z.dtype, statistics, torch.get_num_threads()
    )
    dense = z if template[_LAYOUT] != tasks.ROWS else z.contiguous()
    y = dense if in_place or dense is not z else memory.empty_like(dense)
    first = first_image * per_image
    check_elements(first, z.numel())
    task = type(template).from_buffer_copy(template)
    task[_Z], task[_Y], task[_DRAW] = dense.data_ptr(), y.data_ptr(), draw
    if first:
        task[_FIRST_RUN], task[_LEAD] = divmod(first, RUN)
        task[_SHIFT] = task[_LEAD] if task[_LAYOUT] == tasks.ROWS else 0
    _run(_address(False, z.element_size()), task)
    if dense is not z and y.stride() != torch.empty_like(z).stride():
        y = torch.empty_like(z).copy_(y)
    return y, task


@functools.lru_cache(maxsize=4096)
def _template(
    settings: SiteSettings,
    shape: torch.Size,
    channels_last: bool,
    dtype: torch.dtype,
    statistics: bool,
    threads: int,
) -> tuple[Any, Any, int]:
    """(the task of such a tensor, complete but for addresses and draw; arrays that have to live as long as
    the task; elements per image).
    """
    elements, plane, channels = (
        math.prod(shape),
        max(math.prod(shape[2:]), 1),
        shape[1] if len(shape) > 1 else 1,
    )
    task, limit = np.zeros((), dtype=tasks.TASK), largest_centred(settings.prime)
    task["threads"], task["thread_number"] = threads, team.thread_number()
    task["elements"], task["plane"], task["channels"] = elements, plane, channels
    task["brain_float"], task["statistics"], task["policy"] = (
        dtype == torch.bfloat16,
        statistics,
        _POLICIES[settings.overflow],
    )
    task["seed"], task["site"] = settings.seed, settings.site
    task["prime"], task["limit"] = settings.prime, limit
    check_channels(settings.frac_bits, shape)
    frac_bits = np.atleast_1d(settings.frac_bits)
    scales, common = 2.0**frac_bits, int(frac_bits[0]) if len(frac_bits) == 1 else 0
    task["scales"], task["scale_count"], task["scale"] = scales.ctypes.data, len(scales), 2.0**common
    task["reach"] = _reach(limit, common, dtype == torch.float64)
    dropped = _TESTS[type(settings.spec)](settings.spec, shape, task)
    task["dropped"], task["dropped_count"] = dropped.ctypes.data, len(dropped)
    unit = CHUNK
    if channels_last:  # a chunk has whole planes, of all channels that lie in one tile or one cache line
        tiled = plane % RUN == 0 and channels % layouts.CHANNELS == 0
        task["layout"] = tasks.TILED if tiled else tasks.STRIDED
        together = layouts.CHANNELS if tiled else 64 // dtype.itemsize
        unit = plane * (together if channels % together == 0 else channels)
    task["chunk"] = _chunk(elements, dtype.itemsize, unit, threads)
    template = tasks.integers(threads).from_buffer_copy(task.tobytes() + bytes(8 * threads))
    return template, (dropped, scales), elements // shape[0] if elements and len(shape) else 0


@functools.cache
def _reach(limit: int, frac_bits: int, double: bool) -> int:
    """The bit pattern of the largest floating point number whose fixed-point value is at most ``limit``."""
    real, unsigned = (np.float64, np.uint64) if double else (np.float32, np.uint32)
    value = real(limit + 0.5)
    while np.rint(value) > limit:
        value = np.nextafter(value, real(0))
    return int((value * real(2.0**-frac_bits)).view(unsigned))


def _chunk(elements: int, itemsize: int, unit: int, threads: int) -> int:
    """How many elements a thread takes at a time: a multiple of ``unit``.

    Four chunks or more for each thread, so that all threads finish at about the same time. But a chunk has no
    more than a large page, because a thread should have a new page to itself: threads that touch one at the
    same time wait for each other.
    """
    return max(min(elements // (4 * threads), memory.LARGE_PAGE // itemsize) // unit, 1) * unit


def backward(grad: Tensor, y: Tensor) -> Tensor:
    """The gradient where y shows that the gate was open, else 0. It lies in memory as y does."""
    out = memory.empty_like(y)  # without gaps in memory, whatever the order of dimensions
    y, grad = (t if t.stride() == out.stride() else torch.empty_like(out).copy_(t) for t in (y, grad))
    threads = torch.get_num_threads()
    task = tasks.integers(threads)()
    task[_Z], task[_Y], task[_OUT], task[_ELEMENTS] = grad.data_ptr(), y.data_ptr(), out.data_ptr(), y.numel()
    task[_CHUNK] = _chunk(y.numel(), y.element_size(), CHUNK, threads)
    task[_THREADS], task[_NUMBER] = threads, team.thread_number()
    _run(_address(True, y.element_size()), task)
    return out


def uniform_masks(
    shape: Sequence[int], *, seed: int, site: int, draw: int, prime: int, first_element: int
) -> Tensor:
    """The masks of :func:`circa_train.fault.masks.uniform_masks`, on the CPU. The address is a valid one."""
    out = memory.empty(tuple(shape), torch.int64)
    threads = torch.get_num_threads()
    record = np.zeros((), dtype=tasks.TASK)
    record["seed"], record["site"], record["draw"], record["prime"] = seed, site, draw, prime
    task = tasks.integers(threads).from_buffer_copy(record.tobytes() + bytes(8 * threads))
    task[_Y], task[_ELEMENTS] = out.data_ptr(), out.numel()
    task[_CHUNK] = _chunk(out.numel(), out.element_size(), CHUNK, threads)
    task[_FIRST_RUN], task[_LEAD] = divmod(first_element, RUN)
    task[_SHIFT] = task[_LEAD]
    task[_THREADS], task[_NUMBER] = threads, team.thread_number()
    _run(_masks_address(), task)
    return out


def _run(kernel: int, task: Any) -> None:
    """Have a task done by the compiled function at address ``kernel``. What it still lacks, its own address
    and the number of its chunks, is filled in.
    """
    task[_HERE] = ctypes.addressof(task)
    task[_CHUNKS] = -(-(task[_ELEMENTS] + task[_SHIFT]) // task[_CHUNK])
    team.run(kernel, task[_HERE], min(task[_THREADS], task[_CHUNKS]))


@functools.cache
def _address(is_backward: bool, itemsize: int) -> int:
    return int(compiled.entry(is_backward, itemsize).address)


@functools.cache
def _masks_address() -> int:
    return int(compiled.masks_entry().address)
