"""How many fraction bits a network's activations leave room for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from circa_train.field import DEFAULT_PRIME, check_prime
from circa_train.fixed_point import check_finite, largest_frac_bits
from circa_train.nn.control import evaluating, site_inputs, stochastic_relus, without_faults
from circa_train.nn.convert import as_stochastic
from circa_train.nn.tracing.leaves import refuse_unfinished
from circa_train.nn.tracing.preserving import unchanged
from circa_train.nn.trial import try_out


@dataclass(frozen=True)
class FracBitsFit:
    """What calibration found.

    Attributes:
        frac_bits: the largest number of fraction bits at which every activation seen fits into the field,
            less the headroom.
        ranges: (lowest, highest) pre-activation seen, by site, in the order of execution.
    """

    frac_bits: int
    ranges: dict[str, tuple[float, float]]


def fit_frac_bits(
    model: nn.Module,
    batches: Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]],
    prime: int = DEFAULT_PRIME,
    headroom_bits: int = 5,
) -> FracBitsFit:
    """The largest frac_bits for the ReLU inputs of ``model`` that leave some headroom, from exact forward
    passes in evaluation mode.

    Args:
        model: a plain or converted network (left as it was).
        batches: inputs as the network takes them, or tuples that start with them.
        prime: the field they must fit into.
        headroom_bits: fraction bits to stay below the largest: each doubles the range that unseen data may
            take. The default lets them be 32 times as large as what was seen, as the configurations do; 0 is
            the largest that fits these batches, and other images may then overflow.

    Raises:
        ValueError: if there is no batch, an activation is not finite, or the headroom leaves nothing.
        FixedPointOverflow: if the range does not even fit without fraction bits.
    """
    check_prime(prime)
    network = as_stochastic(model)
    refuse_unfinished(network)
    ranges: dict[str, tuple[float, float]] = {}

    def record(name: str, z: Tensor) -> None:
        try:
            check_finite(z)
        except ValueError as error:
            raise ValueError(f"site {name}: {error}") from error
        low, high = (float(v) for v in torch.aminmax(z))
        seen = ranges.get(name, (low, high))
        ranges[name] = (min(seen[0], low), max(seen[1], high))

    tried = network is model
    with unchanged(model), site_inputs(network, record), evaluating(network), without_faults(network):
        for batch in batches:
            images = batch[0] if isinstance(batch, (tuple, list)) else batch
            network(images)
            if not tried:
                try_out(model, network, images[:2])
                tried = True
    if not ranges:
        raise ValueError("batches is empty; calibration needs at least one batch of inputs")
    magnitude = max(max(abs(low), abs(high)) for low, high in ranges.values())
    largest = largest_frac_bits(magnitude, prime)
    if not 0 <= headroom_bits <= largest:
        raise ValueError(
            f"headroom_bits = {headroom_bits} is outside [0, {largest}], the fraction bits that fit; lower "
            "it, or take a larger prime"
        )
    return FracBitsFit(largest - headroom_bits, {name: ranges[name] for name in stochastic_relus(network)})
