"""A site in plain tensor formulas: the definition. Every other backend must give the same bits."""

from __future__ import annotations

import torch
from torch import Tensor

from circa_train.fault import draw_sign, observed_faults
from circa_train.fixed_point import to_fixed
from circa_train.kernels.settings import COUNTS, SiteSettings


def forward(z: Tensor, settings: SiteSettings, address: Tensor, statistics: bool) -> tuple[Tensor, Tensor]:
    """y = z where the drawn gate is open, 0 where it is closed.

    A closed gate writes +0.0. An open one never does: where z is zero it writes -0.0. So the bits of y tell
    whether the gate was open, and the backward pass needs nothing else.

    Args:
        z: floating point activation, any shape.
        settings: those of the site.
        address: int64 tensor (2,): the draw, and the number of the first image in its batch.
        statistics: count the faults, too, by kind and direction.

    Returns:
        (y, counts): y like ``z``; int64 (7,), see :data:`COUNTS`.
    """
    x, overflows = to_fixed(z, settings.frac_bits, settings.prime, settings.overflow)
    per_image = z[0].numel() if z.dim() and len(z) else 0
    gate, mask = draw_sign(
        x, settings.spec, seed=settings.seed, site=settings.site,
        draw=address[0], first_element=address[1] * per_image,
    )  # fmt: skip
    y = torch.where(gate, torch.where(z == 0, -torch.zeros_like(z), z), torch.zeros_like(z))
    counts = torch.zeros(len(COUNTS), dtype=torch.int64, device=z.device)
    counts[0] = overflows
    if statistics:
        kinds = observed_faults(x, mask, gate, settings.spec)
        for place, name in enumerate(COUNTS[1:], start=1):
            counts[place] = int(getattr(kinds, name))
    return y, counts


def backward(grad: Tensor, y: Tensor) -> Tensor:
    """The gradient of z: dy/dz is the gate that was drawn, which was open unless y is +0.0."""
    return torch.where((y != 0) | torch.signbit(y), grad, torch.zeros_like(grad))
