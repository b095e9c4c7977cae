"""The forward and backward of a site on the CPU: one compiled pass each, on torch's own threads.

Bit for bit :mod:`circa_train.nn.kernels.reference`, for every sign test, floating dtype, memory layout and number of threads.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circa_train.fault.masks import MAX_ELEMENTS, RUN
from circa_train.fault.sign import truncation
from circa_train.fault.spec import BitWindow, TruncatedSign, UniformFault
from circa_train.field import largest_centred
from circa_train.nn.kernels import compiled, jobs, layouts, memory, team
from circa_train.nn.kernels.plan import COUNTS, SitePlan, is_channels_last

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

#: The fewest elements that a thread takes at a time: much more than taking them costs.
CHUNK = 64 * RUN

_POLICIES = {"raise": jobs.RAISE, "wrap": jobs.WRAP, "saturate": jobs.SATURATE}
_DIRECTIONS = {"both": jobs.BOTH, "zeroed": jobs.ZEROED, "passed": jobs.PASSED}


def forward(z: Tensor, plan: SitePlan, address: Tensor, statistics: bool) -> tuple[Tensor, Tensor]:
    """(y, counts) as :func:`circa_train.nn.kernels.reference.forward`, and in counts[7] how many values are not finite."""
    channels_last = is_channels_last(z)
    dense = z if channels_last else z.contiguous()
    y = memory.empty_like(dense)
    counts = np.zeros(len(COUNTS) + 1, dtype=np.int64)
    per_image = math.prod(z.shape[1:]) if z.dim() and len(z) else 0
    draw, first_image = address.tolist()
    first = first_image * per_image
    if first + z.numel() > MAX_ELEMENTS:
        raise ValueError(f"elements {first} to {first + z.numel()} leave [0, 2^42), the range of addresses")
    job = np.zeros((), dtype=jobs.JOB)
    job["z"], job["y"], job["elements"], job["counts"] = dense.data_ptr(), y.data_ptr(), z.numel(), counts.ctypes.data
    job["first_run"], job["lead"] = divmod(first, RUN)
    job["channels"] = z.shape[1] if z.dim() > 1 else 1
    job["plane"] = max(math.prod(z.shape[2:]), 1)
    job["layout"], job["brain_float"] = _layout(z), z.dtype == torch.bfloat16
    job["statistics"], job["policy"] = statistics, _POLICIES[plan.overflow]
    job["seed"], job["site"], job["draw"] = plan.seed, plan.site, draw
    limit = largest_centred(plan.prime)
    job["prime"], job["limit"], job["scale"] = plan.prime, limit, 2.0**plan.frac_bits
    job["reach"] = _reach(limit, plan.frac_bits, z.dtype == torch.float64)
    k = np.atleast_1d(np.array(plan.spec.k if isinstance(plan.spec, TruncatedSign) else 0, dtype=np.int64))
    job["k"], job["k_count"] = k.ctypes.data, len(k)
    if isinstance(plan.spec, TruncatedSign):
        job["test"] = jobs.POSZERO if plan.spec.mode == "poszero" else jobs.NEGPASS
        if isinstance(plan.spec.k, tuple):
            truncation(plan.spec, z.shape, z.device)
    elif isinstance(plan.spec, UniformFault):
        job["test"], job["threshold"] = jobs.UNIFORM, plan.spec.threshold
        job["direction"] = _DIRECTIONS[plan.spec.direction]
    elif isinstance(plan.spec, BitWindow):
        job["test"], job["low"], job["high"] = jobs.WINDOW, plan.spec.low, plan.spec.high
    if channels_last:  # whole planes, of as many channels as are computed together or share a cache line
        together = layouts.CHANNELS if job["layout"] == jobs.TILED else 64 // z.element_size()
        unit = int(job["plane"]) * (together if z.shape[1] % together == 0 else z.shape[1])
    else:
        unit, job["shift"] = CHUNK, job["lead"]
    job["chunk"] = _chunk(z, unit)
    _run(False, z.element_size(), job)
    if dense is not z and y.stride() != torch.empty_like(z).stride():
        y = torch.empty_like(z).copy_(y)
    return y, torch.from_numpy(counts)


@functools.cache
def _reach(limit: int, frac_bits: int, double: bool) -> int:
    """The bit pattern of the largest number of that precision whose fixed-point value is at most ``limit``."""
    real, unsigned = (np.float64, np.uint64) if double else (np.float32, np.uint32)
    value = real(limit + 0.5)
    while np.rint(value) > limit:
        value = np.nextafter(value, real(0))
    return int((value * real(2.0**-frac_bits)).view(unsigned))


def _layout(z: Tensor) -> int:
    if not is_channels_last(z):
        return jobs.ROWS
    whole = math.prod(z.shape[2:]) % RUN == 0 and z.shape[1] % layouts.CHANNELS == 0
    return jobs.TILED if whole else jobs.STRIDED


def _chunk(tensor: Tensor, unit: int) -> int:
    """How many elements, in units, a thread takes at a time.

    Enough chunks that threads finish together; but up to a large page each, because threads that touch one fresh page at the
    same time wait for each other.
    """
    elements = min(tensor.numel() // (4 * torch.get_num_threads()), memory.LARGE_PAGE // tensor.element_size())
    return max(elements // unit, 1) * unit


def backward(grad: Tensor, y: Tensor) -> Tensor:
    """The gradient where the gate that y shows is open, else 0; laid out as y."""
    out = memory.empty_like(y)  # without gaps in memory, whatever the order of dimensions
    y, grad = (t if t.stride() == out.stride() else torch.empty_like(out).copy_(t) for t in (y, grad))
    job = np.zeros((), dtype=jobs.JOB)
    job["z"], job["y"], job["out"], job["elements"] = grad.data_ptr(), y.data_ptr(), out.data_ptr(), y.numel()
    job["chunk"] = _chunk(y, CHUNK)
    _run(True, y.element_size(), job)
    return out


def _run(is_backward: bool, itemsize: int, job: Any) -> None:
    taken = np.zeros(1, dtype=np.int64)
    job["next"] = taken.ctypes.data
    job["chunks"] = -(-(int(job["elements"]) + int(job["shift"])) // max(int(job["chunk"]), 1))
    threads = min(torch.get_num_threads(), int(job["chunks"]))
    team.run(compiled.entry(is_backward, itemsize).address, job.ctypes.data, threads)
