"""The law against enumeration over every mask."""

from __future__ import annotations

import pytest
import torch

from circa_train.fault import (
    BitWindow,
    FaultKinds,
    NoFault,
    TruncatedSign,
    UniformFault,
    expected_faults,
    fault_count,
    fault_probability,
    mask_count,
    observed_faults,
    truncated_sign,
)
from circa_train.field import DEFAULT_PRIME, bit_length, largest_centred

SMALL_PRIMES = (3, 5, 7, 11, 13, 17, 31, 37, 61, 127, 131, 251, 257)


def enumerated_fault(x: int, t: int, k: int, mode: str, p: int) -> bool:
    """The definition, on Python integers."""
    x_s = (x + t) % p
    s = (x_s >> k) > (t >> k) if mode == "poszero" else (x_s >> k) >= (t >> k)
    return x != 0 and s != (x > 0)


@pytest.mark.parametrize("mode", ["poszero", "negpass"])
@pytest.mark.parametrize("prime", SMALL_PRIMES)
def test_count_is_enumeration_for_every_x_k_and_kind(prime: int, mode: str) -> None:
    half = largest_centred(prime)
    xs = torch.arange(-half, half + 1)
    masks = torch.arange(prime)
    x, t = xs.repeat_interleave(prime), masks.repeat(prime)
    wrapped = (x + t >= prime) | (x + t < 0)
    for k in range(bit_length(prime)):
        spec = TruncatedSign(k, mode, prime)
        s = truncated_sign(x, t, spec)
        faults = ((s != (x > 0)) & (x != 0)).reshape(prime, prime)
        wraps = (faults & wrapped.reshape(prime, prime)).sum(1)
        counts = faults.sum(1)
        assert [fault_count(v, spec) for v in xs.tolist()] == counts.tolist(), (prime, k, mode)
        assert torch.equal(fault_probability(xs, spec), counts.double() / prime)
        for sign, directed in ((xs > 0, "zeroed"), (xs < 0, "passed")):
            expected = expected_faults(xs[sign], spec)
            want = (float(wraps[sign].sum()) / prime, float((counts - wraps)[sign].sum()) / prime)
            got = (getattr(expected, f"wrap_{directed}"), getattr(expected, f"truncation_{directed}"))
            assert got == pytest.approx(want, rel=1e-12, abs=0), (prime, k, mode, directed)
            assert expected.faults == pytest.approx(sum(want), rel=1e-12)
        kinds = observed_faults(x, t, s, spec)
        assert kinds.wrap_zeroed + kinds.wrap_passed == int(wraps.sum())
        assert kinds.faults == int(counts.sum())


@pytest.mark.parametrize("mode", ["poszero", "negpass"])
def test_sign_and_count_are_the_definition_on_python_integers(mode: str) -> None:
    for prime in (7, 31, 37):
        for k in range(bit_length(prime)):
            spec = TruncatedSign(k, mode, prime)
            for x in range(-(prime // 2), prime // 2 + 1):
                faults = [enumerated_fault(x, t, k, mode, prime) for t in range(prime)]
                s = truncated_sign(torch.full((prime,), x), torch.arange(prime), spec)
                assert s.tolist() == [
                    fault != (x > 0) if x else bool(v) for fault, v in zip(faults, s, strict=True)
                ]
                assert fault_count(x, spec) == sum(faults)


def test_the_documented_example() -> None:
    assert fault_count(5, TruncatedSign(k=3, prime=251)) == 98


@pytest.mark.slow
@pytest.mark.parametrize(
    ("x", "k", "mode"),
    [
        (5, 3, "poszero"),
        (-5, 3, "negpass"),
        (123_456, 18, "poszero"),
        (-123_456, 18, "negpass"),
        (70_000, 12, "negpass"),
        (-1_000_000_000, 30, "poszero"),
        (1_069_408_256, 30, "negpass"),
        (1, 30, "poszero"),
    ],
)
def test_count_is_enumeration_over_every_mask_of_the_default_prime(x: int, k: int, mode: str) -> None:
    spec = TruncatedSign(k, mode)
    total, chunk = 0, 2**24
    for start in range(0, DEFAULT_PRIME, chunk):
        t = torch.arange(start, min(start + chunk, DEFAULT_PRIME))
        x_s = torch.remainder(t + x, DEFAULT_PRIME) >> k
        s = x_s > (t >> k) if mode == "poszero" else x_s >= (t >> k)
        total += int((s != (x > 0)).sum())
    assert fault_count(x, spec) == total


@pytest.mark.parametrize("prime", [DEFAULT_PRIME, 2**31 - 1, 2**30 + 3])
def test_vectorised_probability_is_the_integer_count_at_large_primes(prime: int) -> None:
    half = largest_centred(prime)
    for k in (0, 1, 12, 18, bit_length(prime) - 2, bit_length(prime) - 1):
        edges = {0, 1, 2, 2**k - 1, 2**k, 2**k + 1, half - 1, half, prime - 2**k, prime - 2**k - 1}
        values = sorted({s * v for v in edges for s in (1, -1) if 0 <= v <= half})
        for mode in ("poszero", "negpass"):
            spec = TruncatedSign(k, mode, prime)
            got = fault_probability(torch.tensor(values), spec)
            assert got.tolist() == [fault_count(v, spec) / prime for v in values], (prime, k, mode)


def test_k_per_channel() -> None:
    x = torch.arange(-10, 10).reshape(2, 5, 2)
    ks = (0, 1, 3, 5, 7)
    got = fault_probability(x, TruncatedSign(ks, prime=251))
    for channel, k in enumerate(ks):
        assert torch.equal(got[:, channel], fault_probability(x[:, channel], TruncatedSign(k, prime=251)))
    with pytest.raises(ValueError, match="k for 5 channels, but the activation has shape"):
        fault_probability(x[:, :3], TruncatedSign(ks, prime=251))
    with pytest.raises(ValueError, match="differs by channel"):
        fault_count(1, TruncatedSign(ks, prime=251))


@pytest.mark.parametrize(("low", "high"), [(0, 6), (3, 8), (5, 6), (2, 12), (0, 12)])
def test_bit_window_count_is_enumeration_of_the_low_parts(low: int, high: int) -> None:
    """Only the low 12 bits of r matter here, so 2^12 masks stand for all 2^64."""
    spec = BitWindow(low, high)
    r = torch.arange(2**12) * 31  # every residue modulo 2^12 once
    for x in (-3000, -70, -33, -9, -1, 0, 1, 5, 7, 8, 31, 33, 64, 2047, 2048):
        s = spec.gate(torch.full_like(r, x), r)
        faults = int((s != (x > 0)).sum()) if x else 0
        assert fault_count(x, spec) * 2**12 == faults * mask_count(spec), x
        got = fault_probability(torch.tensor([x]), spec)
        assert got.item() == pytest.approx(faults / 2**12, rel=1e-12, abs=0)
        kinds = observed_faults(torch.full_like(r, x), r, s, spec)
        expected = expected_faults(torch.full_like(r, x), spec)
        for name in ("wrap_zeroed", "wrap_passed", "truncation_zeroed", "truncation_passed"):
            assert getattr(kinds, name) == pytest.approx(getattr(expected, name)), (x, name)


@pytest.mark.parametrize("direction", ["both", "zeroed", "passed"])
def test_uniform_faults_strike_the_meant_direction_at_the_rate(direction: str) -> None:
    spec = UniformFault(0.25, direction)
    x = torch.tensor([-3, 0, 4])
    want = {"both": [0.25, 0, 0.25], "zeroed": [0, 0, 0.25], "passed": [0.25, 0, 0]}[direction]
    assert fault_probability(x, spec).tolist() == want
    assert [fault_count(v, spec) / mask_count(spec) for v in x.tolist()] == want


def test_no_fault_has_none() -> None:
    assert fault_count(-7, NoFault()) == 0
    assert expected_faults(torch.arange(-5, 5), NoFault()) == FaultKinds(values=10)


def test_kinds_add_up() -> None:
    total = FaultKinds(10, 1, 2, 3, 4, 5, 6) + FaultKinds(1, 1, 1, 1, 1, 1, 1)
    assert total == FaultKinds(11, 2, 3, 4, 5, 6, 7)
    assert (total.zeroed, total.passed, total.faults) == (2 + 4 + 6, 3 + 5 + 7, 27)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"x spans \[126, 126\], outside \[-125, 125\]"):
        fault_count(126, TruncatedSign(0, prime=251))
    with pytest.raises(ValueError, match="outside"):
        fault_probability(torch.tensor([0, -126]), TruncatedSign(0, prime=251))
    with pytest.raises(TypeError, match="int64"):
        fault_probability(torch.tensor([1.0]), TruncatedSign(0))
    with pytest.raises(TypeError, match="x must be an int"):
        fault_count(1.0, TruncatedSign(0))  # type: ignore[arg-type]
