"""Sign tests, pure in (value, mask): every function here is the law applied to given randomness, with no
state.

The gate s decides y = x if s else 0. All take and return tensors of any one shape: values and masks int64,
gates bool.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from circa_train.fault.masks import random_words, ring_masks, uniform_masks
from circa_train.fault.spec import BitWindow, FaultSpec, NoFault, TruncatedSign, UniformFault
from circa_train.field import largest_centred


def truncated_sign(x: Tensor, t: Tensor, spec: TruncatedSign) -> Tensor:
    """Circa's truncated stochastic sign of ``x`` under the masks ``t`` (arXiv 2106.08475, section 3).

    s = 1 iff ((x + t) mod p >> k) > (t >> k) (PosZero) or >= (NegPass).

    Args:
        x: int64, centred values in [-(p-1)/2, (p-1)/2].
        t: int64, masks in [0, p), of a shape that broadcasts with ``x``.
        spec: k (per channel: one per entry of dimension 1), mode and prime.

    Returns:
        bool tensor: the gate.

    Example:
        p = 251, k = 3, x = 5: t = 0 gives x_s = 5, and 5 >> 3 = 0 ties with 0 >> 3, so PosZero answers 0 and
        NegPass 1; t = 248 wraps to x_s = 2 and both answer 0.

    Raises:
        TypeError: if either tensor is not int64.
        ValueError: if a value or mask is out of range, the devices differ, or the channels are not as many as
            k's.
    """
    for name, tensor in (("x", x), ("t", t)):
        if tensor.dtype != torch.int64:
            raise TypeError(
                f"{name} must be an int64 tensor, got {tensor.dtype}; quantise reals with to_fixed first"
            )
    if x.device != t.device:
        raise ValueError(f"x is on {x.device} and the masks t are on {t.device}; move one of them")
    _check_range(
        "x", x, -largest_centred(spec.prime), largest_centred(spec.prime), "reduce it with to_centred"
    )
    _check_range("t", t, 0, spec.prime - 1, "draw masks with uniform_masks")
    x_s = x + t
    x_s = torch.where(x_s >= spec.prime, x_s - spec.prime, x_s)
    x_s = torch.where(x_s < 0, x_s + spec.prime, x_s)
    k = truncation(spec, torch.broadcast_shapes(x.shape, t.shape), x.device)
    if spec.mode == "poszero":
        return (x_s >> k) > (t >> k)
    return (x_s >> k) >= (t >> k)


def flipped_sign(x: Tensor, word: Tensor, spec: UniformFault) -> Tensor:
    """[x > 0], flipped where the word (uniform on [0, 2^32)) is below the rate's threshold and the direction
    is meant.

    x = 0 is never flipped: either gate outputs 0.
    """
    positive = x > 0
    flip = word < spec.threshold
    if spec.direction == "zeroed":
        flip = flip & positive
    elif spec.direction == "passed":
        flip = flip & (x < 0)
    else:
        flip = flip & (x != 0)
    return positive ^ flip


def window_sign(x: Tensor, r: Tensor, spec: BitWindow) -> Tensor:
    """HummingBird's sign of ``x`` from the bits [low, high) of the shares (x + r) and -r in Z_2^64.

    ``r`` is an int64 bit pattern; int64 arithmetic wraps modulo 2^64 as the ring does, and the shift's copies
    of the top bit fall outside the window.
    """
    width = spec.high - spec.low
    window = (1 << width) - 1
    server, client = ((x + r) >> spec.low) & window, (-r >> spec.low) & window
    return (((server + client) >> (width - 1)) & 1) == 0


def draw_sign(
    x: Tensor, spec: FaultSpec, *, seed: int, site: int, draw: int | Tensor, first_element: int | Tensor = 0
) -> tuple[Tensor, Tensor | None]:
    """The gate of ``x`` under the masks that belong to the address, whichever the test.

    Elements are numbered in row-major order of the logical shape, whatever the strides.

    Returns:
        (s, mask): the gate, and the masks it was drawn with (t, word or r; None where the spec needs none).
    """
    if isinstance(spec, NoFault):
        return x > 0, None
    address: dict[str, Any] = {
        "seed": seed, "site": site, "draw": draw, "device": x.device, "first_element": first_element
    }  # fmt: skip
    if isinstance(spec, TruncatedSign):
        mask = uniform_masks(x.shape, prime=spec.prime, **address)
        return truncated_sign(x, mask, spec), mask
    if isinstance(spec, UniformFault):
        mask = random_words(x.shape, **address)
        return flipped_sign(x, mask, spec), mask
    mask = ring_masks(x.shape, **address)
    return window_sign(x, mask, spec), mask


def truncation(spec: TruncatedSign, shape: torch.Size, device: torch.device) -> int | Tensor:
    """k in the form that shifts a tensor of ``shape``: the int itself, or an int64 tensor (C, 1, ..., 1) of k
    per channel.
    """
    if isinstance(spec.k, int):
        return spec.k
    if len(shape) < 2 or shape[1] != len(spec.k):
        raise ValueError(
            f"spec has k for {len(spec.k)} channels, but the activation has shape {tuple(shape)}; "
            "give one k per entry of dimension 1, or a single int"
        )
    return torch.tensor(spec.k, dtype=torch.int64, device=device).reshape(-1, *[1] * (len(shape) - 2))


def _check_range(name: str, value: Tensor, low: int, high: int, remedy: str) -> None:
    if value.numel() == 0:
        return
    smallest, largest = (int(v) for v in torch.aminmax(value))
    if smallest < low or largest > high:
        raise ValueError(f"{name} spans [{smallest}, {largest}], outside [{low}, {high}]; {remedy}")
