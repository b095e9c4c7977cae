"""A site under torch.func: grad, vmap, jvp and what is made of them.

torch's own operators have rules for these, an operator of a library has none. An autograd function whose
context is set up apart from its forward can have them. The law is the same: dy/dz is the gate. Under ``vmap``
the mapped dimension counts as the first of the batch, so a network that is mapped over single images draws
the masks that it draws for the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from circa_train.kernels.ops import stochastic_relu_without_gradient
from circa_train.kernels.settings import COUNTS
from circa_train.kernels.torch_state import is_transformed


def applies(z: Tensor) -> bool:
    """Does ``z`` need this way through a site?"""
    return is_transformed(z)


def stochastic_relu(
    z: Tensor, state: tuple[Tensor, Tensor, Tensor], settings: str, backend: str, strict: bool, name: str
) -> Tensor:
    """y of a site, as :func:`circa_train.kernels.ops.stochastic_relu` computes it.

    ``state`` holds three tensors of the site: its address, its count of overflows (not touched if it is
    ``strict``), and what has to be raised later (used on CUDA only). They are changed in ``forward`` below,
    which no transformation sees: torch forbids such changes inside of one.
    """
    return _Transformed.apply(z, *state, settings, backend, strict, name)


class _Transformed(torch.autograd.Function):
    @staticmethod
    def forward(
        z: Tensor,
        address: Tensor,
        overflows: Tensor,
        pending: Tensor,
        settings: str,
        backend: str,
        strict: bool,
        name: str,
    ) -> Tensor:
        y, counts = stochastic_relu_without_gradient(z, address, settings, backend, False, name)
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
        state, (settings, backend, strict, name) = rest[:3], rest[3:]
        if info.randomness == "same":
            raise RuntimeError(
                f"site {name or '(unnamed)'} under vmap(randomness='same'): the masks of a batch differ from "
                "element to element. Use randomness='different', or vmap's default"
            )
        z_dim, *dims = in_dims[:4]
        if all(dim is None for dim in dims):
            return _Transformed.apply(z.movedim(z_dim, 0).contiguous(), *rest), 0
        # the site has a state for each entry: several networks are stacked on one another
        values = [z] * info.batch_size if z_dim is None else z.unbind(z_dim)
        states = [
            [tensor] * info.batch_size if dim is None else tensor.unbind(dim)
            for tensor, dim in zip(state, dims, strict=True)
        ]
        parts = [
            _Transformed.apply(value.contiguous(), *own, settings, backend, strict, name)
            for value, *own in zip(values, *states, strict=True)
        ]
        return torch.stack(parts), 0
