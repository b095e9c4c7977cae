"""Real <-> fixed point: exact rounding, the range check, and the three overflow policies."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from circa_train.field import DEFAULT_PRIME, largest_centred, to_centred
from circa_train.fixed_point import (
    FixedPointOverflow,
    check_frac_bits,
    check_overflow_policy,
    from_fixed,
    largest_frac_bits,
    to_fixed,
)

LIMIT = largest_centred(DEFAULT_PRIME)


def test_ties_round_to_even() -> None:
    z = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49, -0.0])
    x, overflows = to_fixed(z, 0, DEFAULT_PRIME)
    assert x.dtype == torch.int64
    assert x.tolist() == [-2, -2, 0, 0, 2, 2, 0, 0]
    assert overflows == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_rounding_equals_rational_arithmetic(dtype: torch.dtype) -> None:
    z = (torch.randn(500, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
    for frac_bits in (0, 7, 16, 24):
        x, _ = to_fixed(z, frac_bits, DEFAULT_PRIME)
        assert x.tolist() == [round(Fraction(v) * 2**frac_bits) for v in z.tolist()]


def test_there_and_back() -> None:
    x = torch.tensor([-LIMIT, -12345, -1, 0, 1, 12345, LIMIT])
    back, overflows = to_fixed(from_fixed(x, 20, torch.float64), 20, DEFAULT_PRIME)
    assert torch.equal(back, x)
    assert overflows == 0


def test_the_edge_of_the_field_is_inside() -> None:
    for prime in (5, 251, DEFAULT_PRIME, 2**31 - 1):
        limit = largest_centred(prime)
        edge = torch.tensor([-limit - 0.5, -limit, limit, limit + 0.49], dtype=torch.float64)
        x, overflows = to_fixed(edge[1:3], 0, prime)
        assert x.tolist() == [-limit, limit]
        assert overflows == 0
        over = torch.tensor([float(limit + 1)], dtype=torch.float64)
        with pytest.raises(FixedPointOverflow):
            to_fixed(over, 0, prime)


def test_overflow_raises_with_range_and_remedy() -> None:
    message = r"1 of 3 .*\|z\| reaches 2000.*frac_bits = 20.*largest frac_bits that fits is 19"
    with pytest.raises(FixedPointOverflow, match=message):
        to_fixed(torch.tensor([1.0, -2000.0, 3.0]), 20, DEFAULT_PRIME)


def test_overflow_wraps_as_the_protocol_would() -> None:
    z = torch.tensor([2000.0, -2000.0, 1.0, 3e30, -3e30])
    x, overflows = to_fixed(z, 20, DEFAULT_PRIME, "wrap")
    assert overflows == 4
    assert x.tolist() == [to_centred(round(Fraction(v) * 2**20), DEFAULT_PRIME) for v in z.tolist()]


def test_overflow_saturates() -> None:
    x, overflows = to_fixed(torch.tensor([2000.0, -2000.0, 1.0]), 20, DEFAULT_PRIME, "saturate")
    assert overflows == 2
    assert x.tolist() == [LIMIT, -LIMIT, 2**20]


@pytest.mark.parametrize("prime", [251, DEFAULT_PRIME])
def test_values_whose_scaling_leaves_float64_wrap_exactly(prime: int) -> None:
    values = [1e300, -1.7e308, 2.0**1000, 2.0**961, 2.0**962]
    x, overflows = to_fixed(torch.tensor(values, dtype=torch.float64), 62, prime, "wrap")
    assert overflows == len(values)
    assert [int(v) % prime for v in x] == [int(value) * 2**62 % prime for value in values]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("policy", ["raise", "wrap", "saturate"])
def test_no_policy_accepts_what_is_not_finite(value: float, policy: str) -> None:
    with pytest.raises(ValueError, match="1 of 2 activations are NaN or infinite"):
        to_fixed(torch.tensor([1.0, value]), 16, DEFAULT_PRIME, policy)


@pytest.mark.parametrize("magnitude", [1e-9, 0.7, 1.0, 1020.0, 1019.8, 1e6, float(LIMIT)])
def test_largest_frac_bits_is_the_largest(magnitude: float) -> None:
    frac_bits = largest_frac_bits(magnitude, DEFAULT_PRIME)
    z = torch.tensor([magnitude], dtype=torch.float64)
    to_fixed(z, frac_bits, DEFAULT_PRIME)
    if frac_bits < 62:
        with pytest.raises(FixedPointOverflow):
            to_fixed(z, frac_bits + 1, DEFAULT_PRIME)


def test_refusals() -> None:
    with pytest.raises(FixedPointOverflow, match="even at frac_bits = 0"):
        largest_frac_bits(1e12, DEFAULT_PRIME)
    with pytest.raises(ValueError, match=r"frac_bits = 63 is outside \[0, 62\]"):
        check_frac_bits(63)
    with pytest.raises(TypeError, match="frac_bits must be an int"):
        check_frac_bits(1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="overflow = 'clip' is not one of raise, wrap, saturate"):
        check_overflow_policy("clip")
