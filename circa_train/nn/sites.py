"""Which ReLUs a network evaluates per image: the numbers that private inference pays for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from circa_train.nn.control import evaluating, site_inputs, stochastic_relus, without_faults
from circa_train.nn.convert import as_stochastic
from circa_train.nn.tracing.leaves import refuse_unfinished
from circa_train.nn.tracing.preserving import unchanged
from circa_train.nn.trial import try_out


def relu_sites(model: nn.Module, input_shape: Sequence[int]) -> list[tuple[str, int]]:
    """The ReLU sites of a network in the order of execution, with the number of ReLUs that each evaluates per
    image.

    Args:
        model: a plain or converted network. It is run on zeros, in evaluation mode, and left as it was. A
            plain one is also tried out beside its converted form, on an image of noise
            (:mod:`circa_train.nn.trial`).
        input_shape: one image (C, H, W) or (F,), or a batch of them (N, C, H, W) or (N, F), which counts per
            image.

    Raises:
        ConversionError: if the network cannot be traced, or a ReLU in it is none that can be replaced.
        ValueError: if ``input_shape`` is neither of these.
    """
    shape = tuple(input_shape)
    if len(shape) not in (1, 2, 3, 4) or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(
            f"input_shape = {shape} is neither an image (C, H, W) or (F,) nor a batch (N, C, H, W) or (N, F)"
        )
    batch = shape if len(shape) in (2, 4) else (1, *shape)
    network = as_stochastic(model)
    refuse_unfinished(network)
    counts: dict[str, int] = {}
    parameter = next(model.parameters(), torch.zeros(()))
    zeros = torch.zeros(batch, device=parameter.device, dtype=parameter.dtype)
    if network is not model:
        noise = torch.randn((1, *batch[1:]), generator=torch.Generator().manual_seed(0))
        try_out(model, network, noise.to(zeros))
    with (
        unchanged(model),
        site_inputs(network, lambda name, z: counts.update({name: z.numel() // batch[0]})),
        evaluating(network),
        without_faults(network),
    ):
        network(zeros)
    return [(name, counts[name]) for name in stochastic_relus(network)]
