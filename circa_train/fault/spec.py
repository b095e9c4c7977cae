"""Descriptions of sign tests: frozen values, checked when they are made, that say which test stands in for [x
> 0].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from dataclasses import fields as fields_of
from typing import Any, ClassVar, Union

from circa_train.field import DEFAULT_PRIME, bit_length, check_prime

MODES = ("poszero", "negpass")
DIRECTIONS = ("both", "zeroed", "passed")

#: A random word has 32 bits, so a fault rate is realised as a multiple of 2^-32.
WORD_BITS = 32


@dataclass(frozen=True)
class TruncatedSign:
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

    def __post_init__(self) -> None:
        check_prime(self.prime)
        if self.mode not in MODES:
            raise ValueError(f"mode = {self.mode!r} is not one of {', '.join(MODES)}")
        if isinstance(self.k, list):
            object.__setattr__(self, "k", tuple(self.k))
        if self.k == ():
            raise ValueError("k = () names no channel; give one k per channel, or one int for all")
        for k in self.k if isinstance(self.k, tuple) else (self.k,):
            if isinstance(k, bool) or not isinstance(k, int):
                raise TypeError(
                    f"k must be an int (or a tuple of ints, one per channel), got {k!r} ({type(k).__name__})"
                )
            if not 0 <= k < bit_length(self.prime):
                raise ValueError(
                    f"k = {k} is outside [0, {bit_length(self.prime) - 1}]: "
                    f"p = {self.prime} has {bit_length(self.prime)} bits and at least one must be compared"
                )


@dataclass(frozen=True)
class UniformFault:
    """An exact sign test whose answer is flipped at a given rate, whatever the value: the baseline of
    fault-rate sweeps.

    Attributes:
        rate: probability of a flip in [0, 1], realised to the nearest multiple of 2^-32.
        direction: ``both``, or only ``zeroed`` (x > 0 lost) or ``passed`` (x < 0 kept).
    """

    rate: float = 1e-3
    direction: str = "both"
    kind: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        if isinstance(self.rate, bool) or not isinstance(self.rate, (int, float)):
            raise TypeError(f"rate must be a number, got {self.rate!r} ({type(self.rate).__name__})")
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(f"rate = {self.rate} is not a probability; give a number in [0, 1]")
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction = {self.direction!r} is not one of {', '.join(DIRECTIONS)}")

    @property
    def threshold(self) -> int:
        """Of the 2^32 random words, those below this one flip the answer."""
        return round(self.rate * 2**WORD_BITS)


@dataclass(frozen=True)
class BitWindow:
    """HummingBird's sign test (Maeng and Suh, arXiv 2309.04875): only the bits [low, high) of each share are
    looked at.

    Shares live in Z_2^64: (x + r) mod 2^64 and -r mod 2^64 for r uniform on [0, 2^64). Each is shifted right
    by ``low`` and reduced modulo 2^(high - low); s = 1 iff the top bit of their sum is 0. Dropped low bits
    lose a carry (small positive x become 0), dropped high bits err for values outside the window, always.

    Attributes:
        low: first bit kept.
        high: first bit above the window, low < high <= 63.
    """

    low: int = 0
    high: int = 63
    kind: ClassVar[str] = "bit_window"

    def __post_init__(self) -> None:
        for name, value in (("low", self.low), ("high", self.high)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {value!r} ({type(value).__name__})")
        if not 0 <= self.low < self.high <= 63:
            raise ValueError(
                f"bit window [{self.low}, {self.high}) is empty or leaves [0, 63); need 0 <= low < high <= 63"
            )


@dataclass(frozen=True)
class NoFault:
    """The exact sign test: bitwise the plain ReLU, forward and backward."""

    kind: ClassVar[str] = "none"


# used by isinstance and by annotations
FaultSpec = Union[TruncatedSign, UniformFault, BitWindow, NoFault]  # noqa: UP007

_KINDS: dict[str, type] = {cls.kind: cls for cls in (TruncatedSign, UniformFault, BitWindow, NoFault)}


def field_prime(spec: FaultSpec) -> int:
    """The field whose range bounds fixed-point values under ``spec``; the default one where the test itself
    has none.
    """
    return spec.prime if isinstance(spec, TruncatedSign) else DEFAULT_PRIME


def spec_to_dict(spec: FaultSpec) -> dict[str, Any]:
    """A JSON-ready description, ``{"kind": ..., <fields>}``. Inverse of :func:`spec_from_dict`."""
    fields = {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(spec).items()
    }
    return {"kind": spec.kind, **fields}


def spec_from_dict(description: Mapping[str, Any]) -> FaultSpec:
    """Rebuild a spec from :func:`spec_to_dict`'s form; ValueError or TypeError names what is wrong with
    it.
    """
    fields = dict(description)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"fault kind {kind!r} is not one of {', '.join(_KINDS)}")
    known = [field.name for field in fields_of(_KINDS[kind])]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise ValueError(f"fault kind {kind!r} has no field {names}; it has {', '.join(known) or 'none'}")
    if isinstance(fields.get("k"), list):
        fields["k"] = tuple(fields["k"])
    return _KINDS[kind](**fields)
