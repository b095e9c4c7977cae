"""The masks of a site on their own, for who needs them beside the forward: the rescaling of an integer
network, and of a site that rescales.

They are :func:`circa_train.fault.uniform_masks`, bit for bit, in compiled code on the CPU. Elsewhere, and
where the CPU kernel cannot run, that function draws them, a piece at a time: its words then stay in the
cache, which makes it three times as fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from circa_train import fault
from circa_train.fault.masks import check_address, check_elements
from circa_train.field import DEFAULT_PRIME, check_prime
from circa_train.kernels import ops

#: Elements of a piece: their words take about two megabytes.
_PIECE = 2**16


def uniform_masks(
    shape: Sequence[int],
    *,
    seed: int,
    site: int,
    draw: int,
    prime: int = DEFAULT_PRIME,
    device: torch.device | str = "cpu",
    first_element: int = 0,
) -> Tensor:
    """:func:`circa_train.fault.uniform_masks`: int64 tensor of ``shape``, the same bits.

    Raises:
        ValueError: for an address outside its range, or an invalid prime.
    """
    place, count = torch.device(device), math.prod(shape)
    if not ops.unavailable("cpu", place, torch.float32):
        check_prime(prime)
        check_address(seed, site, draw)
        check_elements(first_element, count)
        return ops.kernel("cpu").uniform_masks(
            shape, seed=seed, site=site, draw=draw, prime=prime, first_element=first_element
        )
    pieces = [
        fault.uniform_masks(
            (min(_PIECE, first_element + count - first),), seed=seed, site=site, draw=draw, prime=prime,
            device=place, first_element=first,
        )
        for first in range(first_element, first_element + max(count, 1), _PIECE)
    ]  # fmt: skip
    return torch.cat(pieces).reshape(tuple(shape))


def mask_vector_bits() -> int | None:
    """The width of the vectors with which this process draws masks on the CPU; None where they are not
    compiled. It is the processor's, or what CIRCA_TRAIN_VECTOR_BITS says.
    """
    if ops.unavailable("cpu", torch.device("cpu"), torch.float32):
        return None
    from circa_train.kernels.cpu.philox import VECTOR_BITS  # imports numba

    return int(VECTOR_BITS)
