"""The fault law: of all masks, exactly how many make the sign test of a given x wrong.

A fault is s != [x > 0] at x != 0. *Which* masks are faulty is decided by one count. For 0 < v < p let

    T(v) = #{ t in [0, p - v) : (t mod 2^k) + v < 2^k },

the masks that v is added to without crossing p and without leaving t's block of 2^k values: the ties. In
closed form, with n = p - v and m = max(2^k - v, 0),

    T(v) = (n >> k) * m + min(n mod 2^k, m).

PosZero at x > 0 errs for each of the x masks that wrap (x_s falls below t), and, among the others, for the
ties: N = x + T(x). At x < 0 it errs for the |x| wrapping masks, except that a wrap which lands in t's own
block ties and gives the right 0: N = |x| - T(p - |x|). The second term is zero unless 2^k > p - |x|, so only
for k near the bit length of p. Both cases are |x| + sgn(x) T(x mod p).

NegPass needs no law of its own: x_s >= t in blocks is the negation of t > x_s, and t is x_s plus -x under the
mask x_s, so N_negpass(x) = N_poszero(-x), with the directions exchanged.

Kinds: a fault is a *wrap* if x + t crossed p (or 0), a *truncation* otherwise, and then it is a tie.
Directions: *zeroed* if x > 0 was lost, *passed* if x < 0 was kept. The paper's |x|/p and (2^k - |x|)/2^k
(section 3) are approximations of N/p.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from circa_train.fault.sign import truncation
from circa_train.fault.spec import WORD_BITS, BitWindow, FaultSpec, NoFault, TruncatedSign, UniformFault
from circa_train.field import largest_centred

#: Elements at a time, when a tensor is gone through in parts: few enough for the caches, and enough for all
#: of torch's threads.
_PART = 2**17


@dataclass(frozen=True)
class FaultKinds:
    """Numbers of faults by kind and direction, counted or expected, among ``values`` tested.

    ``wrap`` and ``truncation`` split the faults of sign tests on shares (for a bit window: a value outside
    the window, and a carry lost below it); ``flip`` are those of :class:`UniformFault`.
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


def fault_count(x: int, spec: FaultSpec) -> int:
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
    if isinstance(spec, TruncatedSign) and not isinstance(spec.k, int):
        raise ValueError(f"k = {spec.k} differs by channel; count with one k at a time")
    return sum(_counts(x, spec))


def mask_count(spec: FaultSpec) -> int:
    """How many masks there are: p, 2^32 words, or 2^64 ring elements. 1 where the test uses none."""
    if isinstance(spec, TruncatedSign):
        return spec.prime
    return {UniformFault: 2**WORD_BITS, BitWindow: 2**64, NoFault: 1}[type(spec)]


def fault_probability(x: Tensor, spec: FaultSpec) -> Tensor:
    """``fault_count(x, spec) / mask_count(spec)`` for every element: int64 tensor -> float64 tensor of the
    same shape.

    The count is exact; the quotient is the float64 nearest to it for prime fields.

    Raises:
        TypeError: if x is not int64.
        ValueError: if a value is out of range.
    """
    _require_int64(x)
    if isinstance(spec, TruncatedSign):
        _require_centred(x, spec.prime)
    by_channel = isinstance(spec, TruncatedSign) and isinstance(spec.k, tuple)
    flat = x if by_channel and x.dim() else x.reshape(-1)
    probability = torch.empty(flat.shape, dtype=torch.float64, device=x.device)
    # Divided by a tensor: by a number, torch multiplies with the rounded reciprocal, which is not the nearest
    # float64.
    masks = torch.tensor([mask_count(spec)], dtype=torch.float64, device=x.device)
    # On a CPU part by part, so that the fifteen intermediate tensors stay in the cache.
    length = (
        max(1, _PART * len(flat) // max(flat.numel(), 1)) if x.device.type == "cpu" else max(len(flat), 1)
    )
    for part, result in zip(flat.split(length), probability.split(length), strict=True):
        torch.div(_total(part, spec), masks, out=result)
    return probability.reshape(x.shape)


def _total(x: Tensor, spec: FaultSpec) -> Tensor:
    """The sum of :func:`_counts`, of values that are in range."""
    if not isinstance(spec, TruncatedSign):
        return sum(_counts(x, spec))
    x, ties = _with_ties(x.int(), spec)
    return torch.sign(x) * (x + ties)


def expected_faults(x: Tensor, spec: FaultSpec) -> FaultKinds:
    """The expected number of faults when every element of the int64 tensor ``x`` is tested once, by kind and
    direction.
    """
    _require_int64(x)
    wrap, other = _counts(x, spec)
    positive, negative = x > 0, x < 0
    # Sums of counts below 2^31 stay exact in int64 for any tensor that fits in memory.
    wrap_zeroed, wrap_passed, zeroed, passed = (
        float((count * sign).sum()) / mask_count(spec)
        for count in (wrap, other)
        for sign in (positive, negative)
    )
    if isinstance(spec, UniformFault):
        return FaultKinds(values=x.numel(), flip_zeroed=zeroed, flip_passed=passed)
    return FaultKinds(x.numel(), wrap_zeroed, wrap_passed, zeroed, passed)


def observed_faults(x: Tensor, mask: Tensor | None, s: Tensor, spec: FaultSpec) -> FaultKinds:
    """The faults that the gate ``s`` made on ``x`` under ``mask``, both as draw_sign gives them."""
    zeroed, passed = (x > 0) & ~s, (x < 0) & s
    if isinstance(spec, NoFault) or mask is None:
        return FaultKinds(values=x.numel())
    if isinstance(spec, UniformFault):
        return FaultKinds(values=x.numel(), flip_zeroed=int(zeroed.sum()), flip_passed=int(passed.sum()))
    if isinstance(spec, TruncatedSign):
        total = x + mask
        wrapped = (total >= spec.prime) | (total < 0)
    else:
        wrapped = _window_fault(x, 0, spec)
    counts = (zeroed & wrapped, passed & wrapped, zeroed & ~wrapped, passed & ~wrapped)
    return FaultKinds(x.numel(), *(int(count.sum()) for count in counts))


def _require_int64(x: Tensor) -> None:
    if x.dtype != torch.int64:
        raise TypeError(
            f"x must be an int64 tensor of centred values, got {x.dtype}; quantise reals with to_fixed first"
        )


def _require_centred(x: Any, p: int) -> None:
    limit = largest_centred(p)
    if isinstance(x, Tensor):
        smallest, largest = (int(v) for v in torch.aminmax(x)) if x.numel() else (0, 0)
    else:
        smallest, largest = x, x
    if smallest < -limit or largest > limit:
        raise ValueError(
            f"x spans [{smallest}, {largest}], outside [-{limit}, {limit}] of p = {p}; reduce it with "
            "to_centred"
        )


def _counts(x: Any, spec: FaultSpec) -> tuple[Any, Any]:
    """(wrap, truncation or flip) counts of an int, or of every element of an int64 tensor."""
    if isinstance(spec, TruncatedSign):
        return _truncated_counts(x, spec)
    if isinstance(spec, BitWindow):
        return _window_counts(x, spec)
    if isinstance(spec, NoFault):
        return x * 0, x * 0
    meant = {"both": x != 0, "zeroed": x > 0, "passed": x < 0}[spec.direction]
    return x * 0, meant * spec.threshold


def _truncated_counts(x: Any, spec: TruncatedSign) -> tuple[Any, Any]:
    _require_centred(x, spec.prime)
    x, ties = _with_ties(x, spec)
    return abs(x) - ties * (x < 0), ties * (x > 0)


def _with_ties(x: Any, spec: TruncatedSign) -> tuple[Any, Any]:
    """(x, T(x mod p)), x negated for NegPass; T means nothing at x = 0. All numbers fit into int32."""
    p, k = spec.prime, _shift(x, spec)
    if spec.mode == "negpass":
        x = -x
    v = x + ((x >> 31) & p)
    n = p - v
    m = _maximum((1 << k) - v, 0)
    return x, (n >> k) * m + _minimum(n & ((1 << k) - 1), m)


def _shift(x: Any, spec: TruncatedSign) -> Any:
    """k as numbers of x's kind."""
    k = spec.k if isinstance(x, int) else truncation(spec, x.shape, x.device)
    return k.to(x.dtype) if isinstance(k, Tensor) else k


def _minimum(a: Any, b: Any) -> Any:
    return torch.minimum(a, b) if isinstance(a, Tensor) else min(a, b)


def _maximum(value: Any, floor: int) -> Any:
    return value.clamp(min=floor) if isinstance(value, Tensor) else max(value, floor)


def _window_counts(x: Any, spec: BitWindow) -> tuple[Any, Any]:
    """HummingBird: (x >> low) - c is tested in the window, c = 1 for 2^low - 1 - (x mod 2^low) of the 2^low
    low parts of r.

    A fault that happens without the lost carry (c = 0) is counted as wrap, one that only the carry makes as
    truncation.
    """
    repeat = 2 ** (64 - spec.low)  # masks that share their low part
    carries = (1 << spec.low) - 1 - (x & ((1 << spec.low) - 1))
    without, with_carry = _window_fault(x, 0, spec), _window_fault(x, 1, spec)
    if isinstance(x, Tensor):  # up to 2^64 masks: float64 (the counts of an int x stay exact)
        carries, repeat = carries.double(), float(repeat)
    both = without * ((1 << spec.low) - carries + carries * with_carry) * repeat
    return both, (
        with_carry & ~without if isinstance(x, Tensor) else with_carry and not without
    ) * carries * repeat


def _window_fault(x: Any, carry: int, spec: BitWindow) -> Any:
    """Is the windowed sign of x wrong, given whether the low parts' carry was lost?"""
    width = spec.high - spec.low
    negative = ((((x >> spec.low) - carry) >> (width - 1)) & 1) == 1
    return ((x > 0) & negative) | ((x < 0) & (negative == 0))

