"""The short way through a site: for a plain tensor on the CPU, past torch's dispatcher.

What an operator of torch's costs in Python, a few microseconds in a loop by itself, becomes a tenth of a
millisecond between the convolutions of a network, whose data has pushed the interpreter's out of the caches.
In ResNet-32 that was half of what its stochastic sites cost. Where nobody but autograd needs to see an
operator (:func:`applies`), the kernel is called straight away; everywhere else :mod:`circa_train.kernels.ops`
gives the same bits.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from circa_train.fault import SignTest
from circa_train.kernels import ops
from circa_train.kernels.cpu import run as cpu
from circa_train.kernels.plan import SitePlan

#: A draw and the number of the first image, where the tensor that holds them keeps them.
_ADDRESS = ctypes.c_int64 * 2

_modes: Any = getattr(torch._C, "_len_torch_dispatch_stack", None)
_is_transformed: Any = getattr(getattr(torch._C, "_functorch", None), "is_functorch_wrapped_tensor", None)
_is_profiled: Any = getattr(torch.autograd, "_profiler_enabled", None)
_KNOWN = None not in (_modes, _is_transformed, _is_profiled)


def applies(
    z: Tensor, backend: str, address: Tensor | None = None, spec: SignTest | None = None
) -> bool:
    """May the short way be taken? Only where no tracer, transformation, mode or profiler looks on (whether a
    compiler does is not asked here), and for a sign test that the CPU kernel knows.

    ``address`` is that of the draw: read and written where it lies, which a module left on another device
    does not allow. Some of this torch tells only by private names; where one is missing, the answer is no.
    """
    return (
        type(z) is Tensor
        and z.is_cpu
        and (address is None or (address.is_cpu and type(address) is Tensor))
        and (backend == "auto" or backend == "cpu")
        and (spec is None or cpu.computes(spec))
        and z.dtype in ops.DTYPES
        and _KNOWN
        and not (_modes() or _is_transformed(z) or _is_profiled() or torch.jit.is_tracing())
        and torch.autograd.forward_ad._current_level < 0
    )


def stochastic_relu(
    z: Tensor, plan: SitePlan, address: Tensor, overflows: Tensor, name: str, in_place: bool = False
) -> Tensor:
    """y of a site on the CPU. Moves ``address`` to the next draw, and adds to ``overflows`` what a lenient
    policy let pass.

    ``in_place`` allows y to take the place of z; it does where no gradient is asked for.

    Raises:
        what the operator raises.
    """
    if z.requires_grad and torch.is_grad_enabled():
        return _StochasticReLU.apply(z, plan, address, overflows, name)
    return _forward(z, plan, address, overflows, name, in_place and not torch.is_grad_enabled())


def _forward(
    z: Tensor, plan: SitePlan, address: Tensor, overflows: Tensor, name: str, in_place: bool
) -> Tensor:
    place = _ADDRESS.from_address(address.data_ptr())
    try:
        y, task = cpu.run_forward(z, plan, place[0], place[1], False, in_place)
        if task[cpu.COUNTED]:
            ops.refuse(z, plan, task[cpu.COUNTED], task[cpu.NOT_FINITE])
            overflows += task[cpu.COUNTED]
    except ValueError as error:
        raise ops.named(error, name) from error
    place[0] += 1
    return y


class _StochasticReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, plan: SitePlan, address: Tensor, overflows: Tensor, name: str) -> Tensor:
        y = _forward(z, plan, address, overflows, name, False)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        differentiated = grad.requires_grad and torch.is_grad_enabled()
        short = not differentiated and grad.dtype == y.dtype and applies(grad, "cpu")
        return cpu.backward(grad, y) if short else ops.gate_gradient(grad, y, "cpu"), None, None, None, None
