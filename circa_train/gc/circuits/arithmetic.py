"""Integer arithmetic on bits, as few AND gates as half gates allow.

Numbers are lists of bits, lowest first; either a wire or a known ``bool``. n-bit addition, subtraction,
comparison and selection cost n AND gates each, fewer where operands are known, because the
:class:`~circa_train.gc.circuits.circuit.Builder` folds constants. Behind them are two identities with a
single AND. Since (x ^ c) & (y ^ c) is 1 exactly if x = y != c::

    carry    c ^ ((x ^ c) & (y ^ c))  =  x if x == y else c        the majority of the three bits
    verdict  x ^ ((x ^ c) & (y ^ c))  =  c if x == y else x        x decides unless it ties
"""

from __future__ import annotations

from collections.abc import Sequence

from circa_train.gc.circuits.circuit import Bit, Builder


def constant(value: int, bits: int) -> list[bool]:
    """``value`` as ``bits`` known bits; its higher bits are dropped."""
    return [bool(value >> i & 1) for i in range(bits)]


def greater(builder: Builder, x: Sequence[Bit], y: Sequence[Bit], *, or_equal: bool = False) -> Bit:
    """[x > y] of unsigned numbers of equal width; with ``or_equal`` [x >= y]. One AND per bit.

    From the lowest bit up: the higher bit decides where x and y differ there, else what was decided below
    stands. So the tie rule is only the value that the chain starts with.
    """
    verdict: Bit = or_equal
    for a, b in zip(x, y, strict=True):
        verdict = builder.xor(a, _agree_against(builder, a, b, verdict))
    return verdict


def add(builder: Builder, x: Sequence[Bit], y: Sequence[Bit], carry: Bit = False) -> list[Bit]:
    """x + y + carry, one bit wider than its operands, which have equal width."""
    total: list[Bit] = []
    for a, b in zip(x, y, strict=True):
        total.append(builder.xor(builder.xor(a, b), carry))
        carry = builder.xor(carry, _agree_against(builder, a, b, carry))
    return [*total, carry]


def subtract(builder: Builder, x: Sequence[Bit], y: Sequence[Bit]) -> tuple[list[Bit], Bit]:
    """(x - y modulo 2^n, [x >= y]) for unsigned n-bit numbers: x + ~y + 1, whose carry says that nothing was
    borrowed.
    """
    *difference, no_borrow = add(builder, x, [builder.negation(b) for b in y], True)
    return difference, no_borrow


def select(builder: Builder, condition: Bit, x: Sequence[Bit], y: Sequence[Bit]) -> list[Bit]:
    """x if condition else y, bit by bit: y ^ (condition & (x ^ y))."""
    return [
        builder.xor(b, builder.conjunction(condition, builder.xor(a, b))) for a, b in zip(x, y, strict=True)
    ]


def reduce_once(builder: Builder, x: Sequence[Bit], modulus: int) -> list[Bit]:
    """x mod ``modulus`` for x < 2 * modulus, one bit narrower than x: subtract once, keep x if that was too
    much.
    """
    difference, at_least = subtract(builder, x, constant(modulus, len(x)))
    return select(builder, at_least, difference, x)[:-1]


def _agree_against(builder: Builder, x: Bit, y: Bit, c: Bit) -> Bit:
    """1 exactly if x and y agree and c does not."""
    return builder.conjunction(builder.xor(x, c), builder.xor(y, c))
