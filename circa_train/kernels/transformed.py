"""A site under torch.func: grad, vmap, jvp and what is made of them.

An operator of torch's library has no rule for these; an autograd function with its setup apart has. The law
is the same: dy/dz is the gate. Under ``vmap`` the mapped dimension counts as the batch's first, so that a
network mapped over single images draws what it draws for the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from circa_train.kernels.ops import stochastic_relu_without_gradient
from circa_train.kernels.plan import COUNTS

_is_wrapped: Any = getattr(torch._C._functorch, "is_functorch_wrapped_tensor", lambda _: False)


def applies(z: Tensor) -> bool:
    """Whether a transformation of torch.func, or forward-mode differentiation, looks on."""
    return bool(_is_wrapped(z)) or torch.autograd.forward_ad._current_level >= 0


def stochastic_relu(
    z: Tensor, state: tuple[Tensor, Tensor, Tensor], plan: str, backend: str, strict: bool, name: str
) -> Tensor:
    """y of a site, as :func:`circa_train.kernels.ops.stochastic_relu` computes it.

    ``state`` are the site's address, its count of overflows (left alone if it is ``strict``), and on CUDA
    what no error has told of yet. They move on where no transformation sees it: torch forbids that inside of
    one.
    """
    return _Transformed.apply(z, *state, plan, backend, strict, name)


class _Transformed(torch.autograd.Function):
    @staticmethod
    def forward(
        z: Tensor,
        address: Tensor,
        overflows: Tensor,
        pending: Tensor,
        plan: str,
        backend: str,
        strict: bool,
        name: str,
    ) -> Tensor:
        y, counts = stochastic_relu_without_gradient(z, address, plan, backend, False, name)
        if not strict:
            overflows += counts[0]
        if z.is_cuda:
            pending += counts[:: len(COUNTS)]
        address[0].add_(1)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        return torch.where(y != 0, grad, 0), *[None] * 7

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.where(y != 0, tangent, 0)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], z: Tensor, *rest: Any) -> tuple[Tensor, int]:
        state, (plan, backend, strict, name) = rest[:3], rest[3:]
        if info.randomness == "same":
            raise RuntimeError(
                f"site {name or '(unnamed)'} under vmap(randomness='same'): the masks of a batch differ from "
                "element to element. Use randomness='different', or vmap's default"
            )
        z_dim, *dims = in_dims[:4]
        if all(dim is None for dim in dims):
            return _Transformed.apply(z.movedim(z_dim, 0).contiguous(), *rest), 0
        # networks stacked on one another, each with a state of its own
        values = [z] * info.batch_size if z_dim is None else z.unbind(z_dim)
        states = [
            [tensor] * info.batch_size if dim is None else tensor.unbind(dim)
            for tensor, dim in zip(state, dims, strict=True)
        ]
        parts = [
            _Transformed.apply(value.contiguous(), *own, plan, backend, strict, name)
            for value, *own in zip(values, *states, strict=True)
        ]
        return torch.stack(parts), 0
