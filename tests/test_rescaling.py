"""Rescaling: the laws counted over every mask of small fields, and the parties' own arithmetic."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from circa_train.field import DEFAULT_PRIME, largest_centred, to_centred
from circa_train.rescaling import (
    check_rescale_bits,
    check_rescaling,
    expected_wraps,
    floor_rescale,
    local_rescale,
    misjudged_masks,
    offset_law,
    offset_rescale,
    outside_domain,
    rescale_law,
)

#: Of either residue modulo 4, since p / 4 rounds differently.
FIELDS = [(p, bits) for p in (61, 127, 251) for bits in (0, 1, 2, 3, p.bit_length() - 3)]


def two_parties(x: int, r: int, bits: int, p: int) -> tuple[int, int]:
    """(value, wrap as the parties judge it), step by step, each from what it knows."""
    offset = p // 4
    client_share = r  # the client holds -r
    server_share = (x + r) % p
    # Online, the server alone:
    u = (server_share + offset) % p
    server = (u >> bits) - (offset >> bits)
    correction = ((u + p) >> bits) - (u >> bits) if u < p / 2 else 0
    # Before, the client alone:
    client = -((client_share + offset % 2**bits) >> bits)
    choice = 1 if client_share > p / 2 else 0
    # The transfer: shares of choice * correction, under a pad that neither chooses.
    pad = 17
    client, server = client + pad, server + choice * correction - pad
    return to_centred(server + client, p), choice if u < p / 2 else 0


@pytest.mark.parametrize(("prime", "bits"), FIELDS)
def test_the_parties_never_err_by_a_unit_inside_the_domain(prime, bits):
    """Every x with |x| < p / 4, every mask: the wrap is judged as it is, and the error is below one unit."""
    for x in range(-(prime // 4), prime // 4 + 1):
        assert abs(x) < prime / 4
        found: Counter[int] = Counter()
        for r in range(prime):
            value, wrap = two_parties(x, r, bits, prime)
            assert wrap == (x + prime // 4 + r) // prime
            assert abs(value - x / 2**bits) < 1
            assert value == offset_rescale(x, r, bits, prime)
            found[value] += 1
        law = offset_law(x, bits, prime)
        assert (law.down, law.up, law.wrapped) == (found[x >> bits], found[(x >> bits) + 1], 0), x
        if x % 2**bits == 0:
            assert law.down == prime, "a multiple of 2^bits comes out exactly"


@pytest.mark.parametrize(("prime", "bits"), FIELDS)
def test_outside_the_domain_wraps_are_misjudged_and_counted(prime, bits):
    limit = largest_centred(prime)
    outside = [x for x in range(-limit, limit + 1) if abs(x) > prime / 4]
    assert outside == [x for x in range(-limit, limit + 1) if outside_domain(x, prime)]
    for x in outside:
        results: Counter[str] = Counter()
        for r in range(prime):
            value, wrap = two_parties(x, r, bits, prime)
            assert value == offset_rescale(x, r, bits, prime)
            if wrap != (x + prime // 4 + r) // prime:
                results["wrapped"] += 1
                error = abs(to_centred(value - (x >> bits), prime))
                assert abs(error - prime / 2**bits) <= 2 or abs(prime - error - prime / 2**bits) <= 2
            else:
                assert value in (to_centred(x >> bits, prime), to_centred((x >> bits) + 1, prime))
                results["down" if value == to_centred(x >> bits, prime) else "up"] += 1
        law = offset_law(x, bits, prime)
        assert (law.down, law.up, law.wrapped) == (results["down"], results["up"], results["wrapped"]), x
        assert misjudged_masks(x, prime) == results["wrapped"]
        # x = (p + 1) / 4 is the one value beyond p / 4 that o = floor(p / 4) still has room for.
        assert results["wrapped"] > 0 or 4 * x == prime + 1


def test_the_offset_rounded_down_would_miss_wraps_inside_the_domain():
    """Why the low bits of o stay: without them, x between -p / 4 and -o wraps downwards unseen."""
    prime, bits, x = 251, 3, -62
    offset = prime // 4 >> bits << bits
    u = (x + offset) % prime  # r = 0
    assert abs(to_centred((u >> bits) - (offset >> bits), prime) - x / 2**bits) > 1
    assert abs(offset_rescale(x, 0, bits, prime) - x / 2**bits) < 1


@pytest.mark.parametrize("bits", [1, 8, 12, 13, 20, 28])
def test_the_law_at_the_default_prime(bits):
    """Borders of the domain and of the mask, and the mean: x / 2^bits up to the remainder of p."""
    p, limit = DEFAULT_PRIME, largest_centred(DEFAULT_PRIME)
    quarter = p // 4
    masks = torch.tensor([0, 1, 2**bits - 1, quarter, limit, limit + 1, p - quarter, p - 2, p - 1])
    for x in (-quarter, -quarter + 1, -1, 0, 1, 12345678, quarter - 1, quarter):
        law = offset_law(x, bits, p)
        assert (law.wrapped, law.down + law.up) == (0, p)
        got = offset_rescale(torch.full_like(masks, x), masks, bits, p)
        assert got.tolist() == [two_parties(x, r, bits, p)[0] for r in masks.tolist()]
        assert set(got.tolist()) <= {x >> bits, (x >> bits) + 1}
        mean = (x >> bits) + law.up / p
        assert abs(mean - x / 2**bits) <= 2**bits / p
    for x in (-quarter - 1, quarter + 1, -limit, limit):
        assert offset_law(x, bits, p).wrapped == misjudged_masks(x, p) > 0


def test_a_gate_may_come_before_or_after():
    """s times the rescaled x is the rescaled s x, because 0 stays 0: a runtime truncates, then multiplies."""
    for prime, bits in ((61, 2), (251, 4)):
        masks = np.arange(prime)
        assert not offset_rescale(np.zeros_like(masks), masks, bits, prime).any()
        assert not local_rescale(np.zeros_like(masks), masks, bits, prime).any()


def test_integers_arrays_and_tensors_agree():
    p, bits = 2138816513, 9
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-p // 2 + 1, p // 2, (500,), generator=generator)
    r = torch.randint(0, p, (500,), generator=generator)
    got = offset_rescale(x, r, bits, p)
    assert got.dtype == torch.int64
    assert np.array_equal(offset_rescale(x.numpy(), r.numpy(), bits, p), got.numpy())
    assert [
        offset_rescale(a, b, bits, p) for a, b in zip(x.tolist(), r.tolist(), strict=True)
    ] == got.tolist()
    assert expected_wraps(x, "local", p).tolist() == x.abs().tolist()
    assert expected_wraps(x, "offset", p).tolist() == [misjudged_masks(a, p) for a in x.tolist()]
    assert not expected_wraps(x, "floor", p).any()


@pytest.mark.parametrize("prime", [3, 7, 61, 251])
@pytest.mark.parametrize("bits", [1, 2, 5])
def test_the_law_of_local_is_the_count_over_all_masks(prime, bits):
    masks = torch.arange(prime)
    for x in range(-largest_centred(prime), largest_centred(prime) + 1):
        results = local_rescale(torch.full_like(masks, x), masks, bits, prime)
        in_range = (x + masks >= 0) & (x + masks < prime)
        sign = -1 if x < 0 else 1
        found = Counter(results[in_range].tolist())
        near, far = (to_centred(sign * ((abs(x) >> bits) + step), prime) for step in (0, 1))
        assert set(found) <= {near, far}, (x, found)
        law = rescale_law(x, bits, prime)
        assert (law.near, law.far, law.wrapped) == (found[near], found[far], int((~in_range).sum())), x


def test_each_party_alone_computes_its_local_share():
    prime, bits, x = 251, 3, -17
    masks = torch.arange(prime)
    server, client = [(x + r) % prime for r in range(prime)], [(prime - r) % prime for r in range(prime)]
    truncated = [
        ((s >> bits) - (((prime - c) % prime) >> bits)) % prime for s, c in zip(server, client, strict=True)
    ]
    assert local_rescale(torch.full_like(masks, x), masks, bits, prime).tolist() == [
        to_centred(t, prime) for t in truncated
    ]


def test_floor_rounds_down_on_both_sides():
    x = torch.tensor([-9, -8, -7, -1, 0, 1, 7, 8, 9])
    assert floor_rescale(x, 3).tolist() == [-2, -1, -1, -1, 0, 0, 0, 1, 1]


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match="'nearest'"):
        check_rescaling("nearest")
    for law in (rescale_law, offset_law):
        with pytest.raises(ValueError, match="x = 126"):
            law(126, 3, 251)
    for bits in (-1, 6):
        with pytest.raises(ValueError, match=rf"bits to drop = {bits} is outside \[0, 5\]"):
            check_rescale_bits(bits, 251)
    with pytest.raises(TypeError, match=r"1\.0"):
        check_rescale_bits(1.0, 251)
    assert check_rescale_bits(28, DEFAULT_PRIME) == 28
