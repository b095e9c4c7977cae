"""Test vectors notice what a runtime gets wrong: another k, mode, offset or way to rescale, at every site."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from circa_train import TruncatedSign
from circa_train.export.pairs import rescale_pairs, sign_pairs
from circa_train.fault import truncated_sign
from circa_train.field import DEFAULT_PRIME
from circa_train.rescaling import floor_rescale, local_rescale, offset_rescale


@pytest.mark.parametrize("prime", [61, 251, DEFAULT_PRIME])
def test_no_two_sign_tests_answer_the_pairs_alike(prime):
    """Every k in both modes, told apart by the gates; by y alone, too, but for the mode at k = 0."""
    specs = [
        TruncatedSign(k, mode, prime) for k in range(prime.bit_length()) for mode in ("poszero", "negpass")
    ]
    gates, outputs = set(), set()
    for spec in specs:
        pairs = sign_pairs(spec)
        assert torch.equal(pairs["gate"], truncated_sign(pairs["x"], pairs["mask"], spec).long())
        gates.add(tuple(pairs["gate"].tolist()))
        outputs.add(tuple((pairs["gate"] * pairs["x"]).tolist()))
    assert len(gates) == len(specs)
    assert len(outputs) == len(specs) - 1


def test_pairs_have_ties_and_wraps_in_both_directions():
    pairs = sign_pairs(TruncatedSign(12))
    x, t, p = pairs["x"], pairs["mask"], DEFAULT_PRIME
    assert bool(((x + t >= p) & (x > 0)).any())
    assert bool(((x + t < 0) & (x < 0)).any())
    tie = ((x + t) % p >> 12) == (t >> 12)
    assert bool((tie & (x > 0)).any())
    assert bool((tie & (x < 0)).any())


def test_one_k_per_channel_has_the_pairs_at_every_channel():
    spec = TruncatedSign((3, 12, 3), "negpass")
    pairs = sign_pairs(spec)
    for channel, k in enumerate(spec.k):
        alone = sign_pairs(replace(spec, k=k))
        assert all(torch.equal(pairs[key][:, channel], alone[key]) for key in pairs)


@pytest.mark.parametrize("bits", [1, 8, 13])
def test_pairs_tell_the_rescalings_apart(bits):
    p = DEFAULT_PRIME
    pairs = rescale_pairs(bits, p)
    x, r = pairs["x"], pairs["mask"]
    rounded = p // 4 >> bits << bits
    u = (x + rounded + r) % p
    naive = ((u + p * ((2 * r > p) & (2 * u < p))) >> bits) - (r >> bits) - (rounded >> bits)
    results = [floor_rescale(x, bits), local_rescale(x, r, bits, p), offset_rescale(x, r, bits, p)]
    results += [offset_rescale(x, r, bits - 1, p), offset_rescale(x, r, bits + 1, p)]
    if rounded != p // 4:
        results.append(naive)
    assert len({tuple(result.tolist()) for result in results}) == len(results)
    assert torch.equal(pairs["local"], results[1])
    assert torch.equal(pairs["offset"], results[2])
