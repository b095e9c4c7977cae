"""The forward and backward of a site on the CPU: one compiled pass each, on torch's own threads.

Bit for bit :mod:`circa_train.kernels.reference`, for every sign test, floating dtype, memory layout and
number of threads.

Between the convolutions of a network, whose data has pushed the interpreter's out of the caches, every line
of Python costs several times what it does in a loop by itself. So what a site's calls have in common is
worked out once (:func:`_template`).
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circa_train.fault import BitWindow, SignTest, TruncatedSign, UniformFault
from circa_train.fault.masks import MAX_ELEMENTS, RUN
from circa_train.field import largest_centred
from circa_train.kernels.cpu import compiled, layouts, memory, tasks, team
from circa_train.kernels.cpu.tasks import PLACE
from circa_train.kernels.plan import COUNTS, SitePlan, is_channels_last

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

#: The fewest elements that a thread takes at a time: much more than taking them costs.
CHUNK = 64 * RUN

_POLICIES = {"raise": tasks.RAISE, "wrap": tasks.WRAP, "saturate": tasks.SATURATE}
_DIRECTIONS = {"both": tasks.BOTH, "zeroed": tasks.ZEROED, "passed": tasks.PASSED}

_HERE, _Z, _Y, _OUT, _ELEMENTS = (PLACE[name] for name in ("here", "z", "y", "out", "elements"))
_DRAW, _FIRST_RUN, _LEAD, _SHIFT = (PLACE[name] for name in ("draw", "first_run", "lead", "shift"))
_THREADS, _NUMBER, _CHUNK, _CHUNKS = (PLACE[name] for name in ("threads", "thread_number", "chunk", "chunks"))
_LAYOUT = PLACE["layout"]

#: Where a task that is done says how many values overflowed, and how many were not finite.
COUNTED = PLACE["counts"]
NOT_FINITE = COUNTED + tasks.NOT_FINITE



def _circa(spec: TruncatedSign, shape: torch.Size, task: Any) -> Any:
    """Fill in the sign test of a task; returns the array of k, which the task only points to."""
    if spec.by_channel:
        spec.shift(shape, torch.device("cpu"))  # refuses another number of channels
    task["test"] = tasks.POSZERO if spec.mode == "poszero" else tasks.NEGPASS
    return np.atleast_1d(np.array(spec.k, dtype=np.int64))


def _uniform(spec: UniformFault, shape: torch.Size, task: Any) -> Any:
    task["test"], task["threshold"], task["direction"] = (
        tasks.UNIFORM,
        spec.threshold,
        _DIRECTIONS[spec.direction],
    )
    return np.zeros(1, dtype=np.int64)


def _window(spec: BitWindow, shape: torch.Size, task: Any) -> Any:
    task["test"], task["low"], task["high"] = tasks.WINDOW, spec.low, spec.high
    return np.zeros(1, dtype=np.int64)


#: The sign tests that this kernel computes. A class derived from one of them is another test, and not among
#: them.
_TESTS: dict[type[SignTest], Callable[[Any, torch.Size, Any], Any]] = {
    TruncatedSign: _circa,
    UniformFault: _uniform,
    BitWindow: _window,
}


def computes(spec: SignTest) -> bool:
    """Is the sign test one that this kernel was written for?"""
    return type(spec) in _TESTS


def forward(z: Tensor, plan: SitePlan, address: Tensor, statistics: bool) -> tuple[Tensor, Tensor]:
    """(y, counts) as :func:`circa_train.kernels.reference.forward`, and in counts[7] how many values are not
    finite.
    """
    draw, first_image = address.tolist()
    y, task = run_forward(z, plan, draw, first_image, statistics)
    return y, torch.frombuffer(task, dtype=torch.int64, count=len(COUNTS) + 1, offset=8 * COUNTED)


def run_forward(
    z: Tensor, plan: SitePlan, draw: int, first_image: int, statistics: bool, in_place: bool = False
) -> tuple[Tensor, Any]:
    """(y, task); from place :data:`COUNTED` on the task holds the counts of :func:`forward`.

    ``in_place``: y is z itself if z fills its memory. Then z is lost, unless the counts are such that the
    plan's policy refuses them: the runs of the refused values are left as they were.
    """
    template, _ks, per_image = _template(
        plan, z.shape, is_channels_last(z), z.dtype, statistics, torch.get_num_threads()
    )
    dense = z if template[_LAYOUT] != tasks.ROWS else z.contiguous()
    y = dense if in_place or dense is not z else memory.empty_like(dense)
    first = first_image * per_image
    if first + z.numel() > MAX_ELEMENTS:
        raise ValueError(f"elements {first} to {first + z.numel()} leave [0, 2^42), the range of addresses")
    task = type(template).from_buffer_copy(template)
    task[_Z], task[_Y], task[_DRAW] = dense.data_ptr(), y.data_ptr(), draw
    if first:
        task[_FIRST_RUN], task[_LEAD] = divmod(first, RUN)
        task[_SHIFT] = task[_LEAD] if task[_LAYOUT] == tasks.ROWS else 0
    _run(False, z.element_size(), task)
    if dense is not z and y.stride() != torch.empty_like(z).stride():
        y = torch.empty_like(z).copy_(y)
    return y, task


@functools.lru_cache(maxsize=4096)
def _template(
    plan: SitePlan, shape: torch.Size, channels_last: bool, dtype: torch.dtype, statistics: bool, threads: int
) -> tuple[Any, Any, int]:
    """The task of a tensor of that shape, all but its addresses and its draw; the array of k; the elements
    per image.
    """
    elements, plane, channels = (
        math.prod(shape),
        max(math.prod(shape[2:]), 1),
        shape[1] if len(shape) > 1 else 1,
    )
    task, limit = np.zeros((), dtype=tasks.TASK), largest_centred(plan.prime)
    task["threads"], task["thread_number"] = threads, team.thread_number()
    task["elements"], task["plane"], task["channels"] = elements, plane, channels
    task["brain_float"], task["statistics"], task["policy"] = (
        dtype == torch.bfloat16,
        statistics,
        _POLICIES[plan.overflow],
    )
    task["seed"], task["site"] = plan.seed, plan.site
    task["prime"], task["limit"], task["scale"] = plan.prime, limit, 2.0**plan.frac_bits
    task["reach"] = _reach(limit, plan.frac_bits, dtype == torch.float64)
    k = _TESTS[type(plan.spec)](plan.spec, shape, task)
    task["k"], task["k_count"] = k.ctypes.data, len(k)
    unit = CHUNK
    if channels_last:  # whole planes, of as many channels as are computed together or share a cache line
        tiled = plane % RUN == 0 and channels % layouts.CHANNELS == 0
        task["layout"] = tasks.TILED if tiled else tasks.STRIDED
        together = layouts.CHANNELS if tiled else 64 // dtype.itemsize
        unit = plane * (together if channels % together == 0 else channels)
    task["chunk"] = _chunk(elements, dtype.itemsize, unit, threads)
    template = tasks.integers(threads).from_buffer_copy(task.tobytes() + bytes(8 * threads))
    return template, k, elements // shape[0] if elements and len(shape) else 0


@functools.cache
def _reach(limit: int, frac_bits: int, double: bool) -> int:
    """The bit pattern of the largest number of that precision whose fixed-point value is at most
    ``limit``.
    """
    real, unsigned = (np.float64, np.uint64) if double else (np.float32, np.uint32)
    value = real(limit + 0.5)
    while np.rint(value) > limit:
        value = np.nextafter(value, real(0))
    return int((value * real(2.0**-frac_bits)).view(unsigned))


def _chunk(elements: int, itemsize: int, unit: int, threads: int) -> int:
    """How many elements, in units, a thread takes at a time.

    Enough chunks that threads finish together; but up to a large page each, because threads that touch one
    fresh page at the same time wait for each other.
    """
    return max(min(elements // (4 * threads), memory.LARGE_PAGE // itemsize) // unit, 1) * unit


def backward(grad: Tensor, y: Tensor) -> Tensor:
    """The gradient where the gate that y shows is open, else 0; laid out as y."""
    out = memory.empty_like(y)  # without gaps in memory, whatever the order of dimensions
    y, grad = (t if t.stride() == out.stride() else torch.empty_like(out).copy_(t) for t in (y, grad))
    threads = torch.get_num_threads()
    task = tasks.integers(threads)()
    task[_Z], task[_Y], task[_OUT], task[_ELEMENTS] = grad.data_ptr(), y.data_ptr(), out.data_ptr(), y.numel()
    task[_CHUNK] = _chunk(y.numel(), y.element_size(), CHUNK, threads)
    task[_THREADS], task[_NUMBER] = threads, team.thread_number()
    _run(True, y.element_size(), task)
    return out


def _run(is_backward: bool, itemsize: int, task: Any) -> None:
    """Have a task done that is complete but for its own address and the number of its chunks."""
    task[_HERE] = ctypes.addressof(task)
    task[_CHUNKS] = -(-(task[_ELEMENTS] + task[_SHIFT]) // task[_CHUNK])
    team.run(_address(is_backward, itemsize), task[_HERE], min(task[_THREADS], task[_CHUNKS]))


@functools.cache
def _address(is_backward: bool, itemsize: int) -> int:
    return int(compiled.entry(is_backward, itemsize).address)
