"""The fault law, for every sign test alike: of all masks, exactly how many make the test of a given x wrong.

The law of each model stands with the model (``circa``, ``uniform``, ``bit_window``); here are the sums over
it: the count for one x, probabilities of a tensor, faults to expect, and faults that were made.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from circa_train.fault.masks import element_numbers
from circa_train.fault.test import FAULT_KINDS, SignTest

#: Elements at a time, when a tensor is gone through in parts: few enough for the caches, enough for all of
#: torch's threads.
_PART = 2**17


@dataclass(frozen=True)
class FaultKinds:
    """Numbers of faults by kind and direction, counted or expected, among ``values`` tested.

    ``wrap`` and ``truncation`` split the faults of sign tests on shares (for a bit window: a value outside
    the window, and a carry lost below it); ``flip`` are those of a model that knows no such difference, as
    :class:`UniformFault`.
    """

    values: float = 0.0
    wrap_zeroed: float = 0.0
    wrap_passed: float = 0.0
    truncation_zeroed: float = 0.0
    truncation_passed: float = 0.0
    flip_zeroed: float = 0.0
    flip_passed: float = 0.0

    def __add__(self, other: FaultKinds) -> FaultKinds:
        return FaultKinds(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def zeroed(self) -> float:
        return self.wrap_zeroed + self.truncation_zeroed + self.flip_zeroed

    @property
    def passed(self) -> float:
        return self.wrap_passed + self.truncation_passed + self.flip_passed

    @property
    def faults(self) -> float:
        return self.zeroed + self.passed


#: The columns of :class:`FaultKinds` in their order, after ``values``.
FAULT_COLUMNS = tuple(f"{kind}_{direction}" for kind in FAULT_KINDS for direction in ("zeroed", "passed"))


def fault_count(x: int, spec: SignTest) -> int:
    """The exact number of masks, out of :func:`mask_count`, under which the sign test of ``x`` is wrong.

    Args:
        x: centred integer; for :class:`TruncatedSign` in [-(p-1)/2, (p-1)/2].
        spec: the sign test, with a single k.

    Example:
        ``fault_count(5, TruncatedSign(k=3, prime=251)) == 98``: 5 wraps and 93 ties.

    Raises:
        TypeError: if x is not an int.
        ValueError: if x is out of range, or k differs by channel.
    """
    if isinstance(x, bool) or not isinstance(x, int):
        raise TypeError(f"x must be an int, got {x!r} ({type(x).__name__}); tensors go to fault_probability")
    if spec.by_channel:
        differing = f"{spec.severity} = {getattr(spec, str(spec.severity))}"
        raise ValueError(f"{differing} differs by channel; count with one {spec.severity} at a time")
    spec.check_values(x)
    return int(sum(spec.counts(x)))


def mask_count(spec: SignTest) -> int:
    """How many masks there are: p, 2^32 words, or 2^64 ring elements. 1 where the test uses none."""
    return spec.mask_count


def fault_probability(x: Tensor, spec: SignTest) -> Tensor:
    """``fault_count(x, spec) / mask_count(spec)`` for every element: int64 tensor -> float64 tensor of the
    same shape.

    The count is exact; the quotient is the float64 nearest to it for prime fields.

    Raises:
        TypeError: if x is not int64.
        ValueError: if a value is out of range.
    """
    _require_int64(x)
    spec.check_values(x)
    flat = x if spec.by_channel and x.dim() else x.reshape(-1)
    probability = torch.empty(flat.shape, dtype=torch.float64, device=x.device)
    # Divided by a tensor: by a number, torch multiplies with the rounded reciprocal, which is not the nearest
    # float64.
    masks = torch.tensor([spec.mask_count], dtype=torch.float64, device=x.device)
    # On a CPU part by part, so that the fifteen intermediate tensors stay in the cache.
    length = (
        max(1, _PART * len(flat) // max(flat.numel(), 1)) if x.device.type == "cpu" else max(len(flat), 1)
    )
    for part, result in zip(flat.split(length), probability.split(length), strict=True):
        torch.div(spec.count(part), masks, out=result)
    return probability.reshape(x.shape)


def expected_faults(x: Tensor, spec: SignTest) -> FaultKinds:
    """The expected number of faults when every element of the int64 tensor ``x`` is tested once, by kind and
    direction.
    """
    _require_int64(x)
    spec.check_values(x)
    positive, negative = x > 0, x < 0
    found = {}
    for kind, count in zip(spec.kinds, spec.counts(x), strict=True):
        # Sums of counts below 2^31 stay exact in int64 for any tensor that fits in memory.
        found[f"{kind}_zeroed"] = float((count * positive).sum()) / spec.mask_count
        found[f"{kind}_passed"] = float((count * negative).sum()) / spec.mask_count
    return FaultKinds(values=x.numel(), **found)


def observed_faults(x: Tensor, mask: Tensor | None, s: Tensor, spec: SignTest) -> FaultKinds:
    """The faults that the gate ``s`` made on ``x`` under ``mask``, both as draw_sign gives them."""
    if mask is None:
        return FaultKinds(values=x.numel())
    zeroed, passed, cause = (x > 0) & ~s, (x < 0) & s, spec.cause(x, mask)
    found = {}
    for place, kind in enumerate(spec.kinds):
        found[f"{kind}_zeroed"] = int((zeroed & (cause == place)).sum())
        found[f"{kind}_passed"] = int((passed & (cause == place)).sum())
    return FaultKinds(values=x.numel(), **found)


def draw_sign(
    x: Tensor, spec: SignTest, *, seed: int, site: int, draw: int | Tensor, first_element: int | Tensor = 0
) -> tuple[Tensor, Tensor | None]:
    """The gate of ``x`` under the masks that belong to the address, whichever the test.

    Elements are numbered in row-major order of the logical shape, whatever the strides.

    Returns:
        (s, mask): the gate, and the masks it was drawn with (None where the test needs none).
    """
    if spec.is_exact:
        return spec.gate(x, None), None
    spec.check_values(x)
    elements = element_numbers(x.shape, first_element, x.device)
    mask = spec.masks_at(elements, seed=seed, site=site, draw=draw)
    if mask is not None:
        mask = mask.reshape(x.shape)
    gate = spec.gate(x, mask)
    if gate.dtype != torch.bool or gate.shape != x.shape:
        raise TypeError(
            f"the gate of {spec.kind!r} must be a bool tensor of shape {tuple(x.shape)}, "
            f"not {gate.dtype} of shape {tuple(gate.shape)}"
        )
    return gate, mask


def _require_int64(x: Tensor) -> None:
    if x.dtype != torch.int64:
        raise TypeError(
            f"x must be an int64 tensor of centred values, got {x.dtype}; quantise reals with to_fixed first"
        )
