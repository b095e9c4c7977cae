"""Circa's truncated stochastic sign (arXiv 2106.08475, section 3): its test, its gate, and the exact law of
its faults.

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

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from circa_train.fault.test import SignTest
from circa_train.field import DEFAULT_PRIME, as_int, bit_length, check_prime, largest_centred

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MODES = ("poszero", "negpass")


@dataclass(frozen=True)
class TruncatedSign(SignTest):
    """Circa's sign test on shares, without the modular addition and without the k low bits (sections 3.1 and
    3.2).

    With x_s = (x + t) mod p for a mask t uniform on [0, p)::

        poszero:  s = 1  iff  (x_s >> k) >  (t >> k)     a tie gives 0: small positive x become 0
        negpass:  s = 1  iff  (x_s >> k) >= (t >> k)     a tie gives 1: small negative x pass

    Attributes:
        k: low bits dropped, 0 <= k < bit length of ``prime``; k = 0 is the plain stochastic sign. A tuple
            gives one k per channel (dimension 1 of the activation).
        mode: ``poszero`` or ``negpass``.
        prime: the field, an odd prime below 2^31.
    """

    k: int | tuple[int, ...]
    mode: str = "poszero"
    prime: int = DEFAULT_PRIME
    kind: ClassVar[str] = "truncated_sign"
    kinds: ClassVar[tuple[str, ...]] = ("wrap", "truncation")
    severity: ClassVar[str | None] = "k"
    shown: ClassVar[tuple[str, ...] | None] = ("mode", "k")

    def __post_init__(self) -> None:
        object.__setattr__(self, "prime", check_prime(self.prime))
        if self.mode not in MODES:
            raise ValueError(f"mode = {self.mode!r} is not one of {', '.join(MODES)}")
        article = "an int (or a tuple of ints, one per channel)"
        given = tuple(self.k) if isinstance(self.k, (list, tuple)) else (self.k,)
        if not given:
            raise ValueError("k = () names no channel; give one k per channel, or one int for all")
        ks = tuple(as_int("k", k, article) for k in given)
        object.__setattr__(self, "k", ks if isinstance(self.k, (list, tuple)) else ks[0])
        for k in ks:
            if not 0 <= k < bit_length(self.prime):
                raise ValueError(
                    f"k = {k} is outside [0, {bit_length(self.prime) - 1}]: "
                    f"p = {self.prime} has {bit_length(self.prime)} bits and at least one must be compared"
                )

    @property
    def by_channel(self) -> bool:  # type: ignore[override]
        """Is there one k per channel?"""
        return isinstance(self.k, tuple)

    @property
    def mask_count(self) -> int:
        """p."""
        return self.prime

    def channels(self) -> tuple[TruncatedSign, ...]:
        """The sign tests of the channels, with a single k each."""
        return (self,) if isinstance(self.k, int) else tuple(replace(self, k=k) for k in self.k)

    def gate(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """s of the centred values ``x`` under the masks ``mask`` in [0, p), all in range:
        :func:`truncated_sign`.
        """
        assert mask is not None
        x_s = x + mask
        x_s = x_s - self.prime * (x_s >= self.prime)
        x_s = x_s + self.prime * (x_s < 0)
        k = self.shift(x_s.shape, x_s.device)
        return (x_s >> k) > (mask >> k) if self.mode == "poszero" else (x_s >> k) >= (mask >> k)

    def counts(self, x: Any) -> tuple[Any, Any]:
        """(wraps, ties) that err, for values in range."""
        x, ties = self._with_ties(x)
        return abs(x) - ties * (x < 0), ties * (x > 0)

    def count(self, x: Tensor) -> Tensor:
        """N, in int32."""
        x, ties = self._with_ties(x.int())
        return x.sign() * (x + ties)

    def cause(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """0 where x + t left [0, p), else 1."""
        assert mask is not None
        total = x + mask
        return ((total < self.prime) & (total >= 0)).int()

    def check_values(self, x: Any) -> None:
        """ValueError unless all values are centred ones of the field."""
        limit = largest_centred(self.prime)
        smallest, largest = _extremes(x)
        if smallest < -limit or largest > limit:
            raise ValueError(
                f"x spans [{smallest}, {largest}], outside [-{limit}, {limit}] of p = {self.prime}; "
                "reduce it with to_centred"
            )

    def shift(self, shape: torch.Size, device: torch.device) -> int | Tensor:
        """k in the form that shifts a tensor of ``shape``: the int itself, or an int64 tensor (C, 1, ..., 1).

        Raises:
            ValueError: if there are not as many channels as k's.
        """
        if isinstance(self.k, int):
            return self.k
        if len(shape) < 2 or shape[1] != len(self.k):
            raise ValueError(
                f"spec has k for {len(self.k)} channels, but the activation has shape {tuple(shape)}; "
                "give one k per entry of dimension 1, or a single int"
            )
        import torch

        return torch.tensor(self.k, dtype=torch.int64, device=device).reshape(-1, *[1] * (len(shape) - 2))

    def _shift_like(self, x: Any) -> Any:
        """k as numbers of x's kind."""
        if isinstance(self.k, int):
            return self.k
        if isinstance(x, int):
            return self.k
        return self.shift(x.shape, x.device).to(x.dtype)  # type: ignore[union-attr]

    def _with_ties(self, x: Any) -> tuple[Any, Any]:
        """(x, T(x mod p)), x negated for NegPass; T means nothing at x = 0. All numbers fit into int32."""
        p, k = self.prime, self._shift_like(x)
        if self.mode == "negpass":
            x = -x
        v = x + ((x >> 31) & p)
        n = p - v
        m = _maximum((1 << k) - v, 0)
        return x, (n >> k) * m + _minimum(n & ((1 << k) - 1), m)


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
        if str(tensor.dtype) != "torch.int64":
            raise TypeError(
                f"{name} must be an int64 tensor, got {tensor.dtype}; quantise reals with to_fixed first"
            )
    if x.device != t.device:
        raise ValueError(f"x is on {x.device} and the masks t are on {t.device}; move one of them")
    limit = largest_centred(spec.prime)
    for name, tensor, low, high, remedy in (
        ("x", x, -limit, limit, "reduce it with to_centred"),
        ("t", t, 0, spec.prime - 1, "draw masks with uniform_masks"),
    ):
        smallest, largest = _extremes(tensor)
        if smallest < low or largest > high:
            raise ValueError(f"{name} spans [{smallest}, {largest}], outside [{low}, {high}]; {remedy}")
    return spec.gate(x, t)


def _extremes(x: Any) -> tuple[int, int]:
    """The smallest and the largest value of an int or a tensor; (0, 0) where there is none."""
    if isinstance(x, int):
        return x, x
    return tuple(int(v) for v in x.aminmax()) if x.numel() else (0, 0)  # type: ignore[return-value]


def _minimum(a: Any, b: Any) -> Any:
    return min(a, b) if isinstance(a, int) else a.minimum(b)


def _maximum(value: Any, floor: int) -> Any:
    return max(value, floor) if isinstance(value, int) else value.clamp(min=floor)
