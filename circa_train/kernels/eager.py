"""The short way through a site: a plain tensor goes to the fused kernel without torch's dispatcher.

Calling an operator of torch costs a few microseconds of Python in a loop that does nothing else. Between the
convolutions of a network it costs a tenth of a millisecond, because their data has pushed the interpreter's
out of the caches. In ResNet-32 that was half of what the stochastic sites cost. So the kernel is called
directly where that is allowed (:func:`applies`). On a GPU the calls are what a small network waits for.
Everywhere else :mod:`circa_train.kernels.ops` gives the same bits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from circa_train.fault import SignTest
from circa_train.kernels import ops
from circa_train.kernels.cpu import launch as cpu
from circa_train.kernels.settings import COUNTS, SiteSettings
from circa_train.kernels.torch_state import is_unwatched

#: A draw and the number of the first image, in the memory of the tensor that holds them.
_ADDRESS = ctypes.c_int64 * 2


def applies(
    z: Tensor, backend: str, address: Tensor | None = None, spec: SignTest | None = None
) -> bool:
    """May the short way be taken? It may for a plain tensor on a CPU or CUDA device and a sign test that the
    fused kernel of that device computes, where only autograd needs to see what is done
    (:mod:`circa_train.kernels.torch_state`).

    ``address`` is the tensor that holds the draw. It must be where ``z`` is.
    """
    if type(z) is not Tensor or z.dtype not in ops.DTYPES:
        return False
    if z.is_cpu:
        name, possible = "cpu", spec is None or cpu.computes(spec)
    elif z.is_cuda:
        name, possible = "triton", not ops.unavailable("triton", z.device, z.dtype, spec)
    else:
        return False
    here = address is None or (type(address) is Tensor and address.device == z.device)
    return possible and here and backend in ("auto", name) and is_unwatched(z)


def stochastic_relu(
    z: Tensor, settings: SiteSettings, state: Sequence[Tensor], name: str, in_place: bool = False
) -> Tensor:
    """y of a site whose buffers ``address``, ``overflows`` and ``pending`` are ``state``. Moves ``address``
    to the next draw, and adds to ``overflows`` how many values overflowed under a policy that allows it. On
    a GPU nothing is waited for: what may be an error is added to ``pending``.

    ``in_place`` allows y to be written over z. It is on a CPU, where no gradient is asked for.

    Raises:
        what the operator raises.
    """
    if z.requires_grad and torch.is_grad_enabled():
        return _StochasticReLU.apply(z, settings, state, name)
    return _forward(z, settings, state, name, in_place and not torch.is_grad_enabled())


def _forward(
    z: Tensor, settings: SiteSettings, state: Sequence[Tensor], name: str, in_place: bool
) -> Tensor:
    try:
        return _on_cpu(z, settings, state, in_place) if z.is_cpu else _on_gpu(z, settings, state)
    except ValueError as error:
        raise ops.named(error, name) from error


def _on_cpu(z: Tensor, settings: SiteSettings, state: Sequence[Tensor], in_place: bool) -> Tensor:
    address, overflows, _ = state
    place = _ADDRESS.from_address(address.data_ptr())
    y, task = cpu.run_forward(z, settings, place[0], place[1], False, in_place)
    if task[cpu.COUNTED]:
        ops.refuse(z, settings, task[cpu.COUNTED], task[cpu.NOT_FINITE])
        overflows += task[cpu.COUNTED]
    place[0] += 1
    return y


def _on_gpu(z: Tensor, settings: SiteSettings, state: Sequence[Tensor]) -> Tensor:
    address, overflows, pending = state
    y, counts = ops.kernel("triton").forward(z, settings, address, False)
    if settings.overflow != "raise":
        overflows += counts[0]
    pending += counts[:: len(COUNTS)]
    address[0].add_(1)
    return y


class _StochasticReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, settings: SiteSettings, state: Sequence[Tensor], name: str) -> Tensor:
        y = _forward(z, settings, state, name, False)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        differentiated = grad.requires_grad and torch.is_grad_enabled()
        if differentiated or grad.dtype != y.dtype or not applies(grad, "auto"):
            return ops.gate_gradient(grad, y, "auto"), None, None, None
        return (cpu if grad.is_cpu else ops.kernel("triton")).backward(grad, y), None, None, None
