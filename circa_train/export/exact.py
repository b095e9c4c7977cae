"""Convolutions and matrix products of integers in float64, exact or refused.

A float64 holds every integer up to 2^53 in magnitude. If no partial sum of a product can be larger, each
multiplication and each addition is exact, in whatever order, so CPU and GPU agree bit for bit. The bound is
max |x| times the largest sum of |weights| of one output. Where that is too large, x is cut into a low and a
high half and each is multiplied on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from circa_train.export.layers import Conv2d
from circa_train.field import to_centred

EXACT = 2**53
LOW_BITS = 15  # half of what a centred value of a 31-bit field has


@dataclass(frozen=True)
class Accumulator:
    """A sum over the integers.

    Attributes:
        total: float64. Exact wherever it is below 2^53 in magnitude; beyond, rounded to 53 bits.
        residue: int64, the exact sum modulo p, centred; None if all of ``total`` is exact.
    """

    total: Tensor
    residue: Tensor | None


def conv2d(x: Tensor, weight: Tensor, bias: Tensor, layer: Conv2d, prime: int) -> Accumulator:
    """The convolution of int64 maps (N, C, H, W) with an int32 ``weight``, plus ``bias``."""
    kernel = weight.double()

    def convolve(part: Tensor) -> Tensor:
        # cuDNN may transform (FFT), which rounds; without it torch unfolds and multiplies matrices, as it
        # does on the CPU.
        with torch.backends.cudnn.flags(enabled=False):
            return F.conv2d(part, kernel, None, layer.stride, layer.padding, layer.dilation, layer.groups)

    return _accumulate(x, kernel, bias.double().reshape(-1, 1, 1), convolve, layer.name, prime)


def linear(x: Tensor, weight: Tensor, bias: Tensor, name: str, prime: int) -> Accumulator:
    """The int64 vectors (N, F) times an int32 ``weight`` (out, F), plus ``bias``."""
    matrix = weight.double()
    return _accumulate(x, matrix, bias.double(), lambda part: part @ matrix.T, name, prime)


def _accumulate(
    x: Tensor, weight: Tensor, bias: Tensor, multiply: Callable[[Tensor], Tensor], name: str, prime: int
) -> Accumulator:
    heaviest = float(weight.abs().flatten(1).sum(1).max()) if weight.numel() else 0.0
    offset = float(bias.abs().max()) if bias.numel() else 0.0
    largest = float(x.abs().max()) if x.numel() else 0.0
    if largest * heaviest + offset < EXACT:
        return Accumulator(multiply(x.double()).add_(bias), None)
    high, low = x >> LOW_BITS, x & ((1 << LOW_BITS) - 1)
    if max(float(high.abs().max()), 2.0**LOW_BITS) * heaviest + offset >= EXACT:
        raise ValueError(
            f"layer {name}: weights that sum to {heaviest:.3g} and inputs to {largest:.3g} leave exact "
            "arithmetic"
        )
    from_low, from_high = multiply(low.double()).add_(bias), multiply(high.double())
    # Both parts are exact and so is the scaling; the one rounding, in the sum, leaves what is below 2^53
    # exact.
    total = from_low + from_high * 2.0**LOW_BITS
    residue = (from_low.long() % prime) + (from_high.long() % prime) * (1 << LOW_BITS)
    return Accumulator(total, to_centred(residue, prime))
