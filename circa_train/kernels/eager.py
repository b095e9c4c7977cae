"""The short way through a site: a plain tensor on the CPU goes to the kernel without torch's dispatcher.

Calling an operator of torch costs a few microseconds of Python in a loop that does nothing else. Between the
convolutions of a network it costs a tenth of a millisecond, because their data has pushed the interpreter's
out of the caches. In ResNet-32 that was half of what the stochastic sites cost. So the kernel is called
directly where that is allowed (:func:`applies`). Everywhere else :mod:`circa_train.kernels.ops` gives the
same bits.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from circa_train.fault import SignTest
from circa_train.kernels import ops
from circa_train.kernels.cpu import launch as cpu
from circa_train.kernels.settings import SiteSettings
from circa_train.kernels.torch_state import is_unwatched

#: A draw and the number of the first image, in the memory of the tensor that holds them.
_ADDRESS = ctypes.c_int64 * 2


def applies(
    z: Tensor, backend: str, address: Tensor | None = None, spec: SignTest | None = None
) -> bool:
    """May the short way be taken? It may for a plain tensor on the CPU and a sign test that the CPU kernel
    computes, where only autograd needs to see what is done (:mod:`circa_train.kernels.torch_state`).

    ``address`` is the tensor that holds the draw. The short way reads and writes its memory, so it must be on
    the CPU, too.
    """
    return (
        type(z) is Tensor
        and z.is_cpu
        and (address is None or (address.is_cpu and type(address) is Tensor))
        and (backend == "auto" or backend == "cpu")
        and (spec is None or cpu.computes(spec))
        and z.dtype in ops.DTYPES
        and is_unwatched(z)
    )


def stochastic_relu(
    z: Tensor, settings: SiteSettings, address: Tensor, overflows: Tensor, name: str, in_place: bool = False
) -> Tensor:
    """y of a site on the CPU. Moves ``address`` to the next draw, and adds to ``overflows`` how many values
    overflowed under a policy that allows it.

    ``in_place`` allows y to be written over z. It is, where no gradient is asked for.

    Raises:
        what the operator raises.
    """
    if z.requires_grad and torch.is_grad_enabled():
        return _StochasticReLU.apply(z, settings, address, overflows, name)
    return _forward(z, settings, address, overflows, name, in_place and not torch.is_grad_enabled())


def _forward(
    z: Tensor, settings: SiteSettings, address: Tensor, overflows: Tensor, name: str, in_place: bool
) -> Tensor:
    place = _ADDRESS.from_address(address.data_ptr())
    try:
        y, task = cpu.run_forward(z, settings, place[0], place[1], False, in_place)
        if task[cpu.COUNTED]:
            ops.refuse(z, settings, task[cpu.COUNTED], task[cpu.NOT_FINITE])
            overflows += task[cpu.COUNTED]
    except ValueError as error:
        raise ops.named(error, name) from error
    place[0] += 1
    return y


class _StochasticReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, settings: SiteSettings, address: Tensor, overflows: Tensor, name: str
    ) -> Tensor:
        y = _forward(z, settings, address, overflows, name, False)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        differentiated = grad.requires_grad and torch.is_grad_enabled()
        short = not differentiated and grad.dtype == y.dtype and applies(grad, "cpu")
        return cpu.backward(grad, y) if short else ops.gate_gradient(grad, y, "cpu"), None, None, None, None
