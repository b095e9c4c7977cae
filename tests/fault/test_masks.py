"""Masks: the generator's published vectors, exact uniformity, independence along every part of the
address.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from circa_train.fault import masks, random_words, ring_masks, uniform_masks
from circa_train.fault.masks import masks_at, words_at
from circa_train.field import DEFAULT_PRIME
from circa_train.philox import philox

#: A test that looks at a correct generator fails with this probability: that of a 5 sigma event, two-sided.
SIGNIFICANCE = math.erfc(5 / math.sqrt(2))


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # known-answer vectors of Random123's philox4x32 with 10 rounds
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]) -> None:
    assert tuple(int(w) for w in philox([torch.tensor([c]) for c in counter], key)) == words


def test_address_layout_on_python_integers() -> None:
    """The module's page, spelled out element by element."""

    def philox_int(c: list[int], k: list[int]) -> list[int]:
        for _ in range(10):
            low, high = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [(high >> 32) ^ c[1] ^ k[0], high & 0xFFFFFFFF, (low >> 32) ^ c[3] ^ k[1], low & 0xFFFFFFFF]
            k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
        return c

    seed, site, draw, attempt = 0x0123456789ABCDEF, 0xBEEF, 0x7EDCBA9876543210, 3
    elements = [0, 1, 63, 64, 255, 256, 1000, 2**33 + 77, 2**42 - 1]
    want = []
    for e in elements:
        block = (e // 256) * 64 + e % 64
        counter = [block % 2**32, block // 2**32 + attempt * 2**8 + site * 2**16, draw % 2**32, draw // 2**32]
        want.append(philox_int(counter, [seed % 2**32, seed // 2**32])[e // 64 % 4])
    got = words_at(torch.tensor(elements), seed=seed, site=site, draw=draw, attempt=attempt)
    assert got.tolist() == want


@pytest.mark.parametrize("prime", [3, 251, 2**30 + 3, DEFAULT_PRIME, 2**31 - 1])
def test_rejection_on_python_integers(prime: int) -> None:
    address = {"seed": 5, "site": 1, "draw": 2}
    words = [random_words((4096,), attempt=a,
    **address).tolist() for a in range(40)]  # type: ignore[arg-type]
    want = []
    for element in range(4096):
        attempt = 0
        while words[attempt][element] * prime % 2**32 < 2**32 % prime:
            attempt += 1
        want.append(words[attempt][element] * prime >> 32)
    assert uniform_masks((4096,), prime=prime, **address).tolist() == want  # type: ignore[arg-type]


@pytest.mark.parametrize("prime", [3, 5, 7])
def test_accepted_words_map_evenly_onto_residues(prime: int) -> None:
    """The rejection argument itself, by enumeration with 12-bit words in place of 32-bit ones."""
    bits = 12
    hits = [0] * prime
    for word in range(2**bits):
        if word * prime % 2**bits >= 2**bits % prime:
            hits[word * prime >> bits] += 1
    assert len(set(hits)) == 1


def chi_square_p_value(draws: Tensor, prime: int, cells: int = 4096) -> float:
    """Probability that uniform draws on [0, prime) look at least as uneven over ``cells`` equal parts of the
    field.
    """
    cell = draws * cells // prime
    observed = torch.bincount(cell, minlength=cells).double()
    edges = torch.tensor([-(-c * prime // cells) for c in range(cells + 1)], dtype=torch.float64)
    expected = edges.diff() * (len(draws) / prime)
    return float(chi2.sf(float(((observed - expected) ** 2 / expected).sum()), cells - 1))


def repeats_z_score(draws: Tensor, prime: int) -> float:
    """How many residues drawn from 32-bit words modulo p come up twice as likely: those below 2^32 mod p.

    Under uniformity their share is binomial with rate (2^32 mod p) / p; returns the deviation in standard
    deviations.
    """
    share = (2**32 % prime) / prime
    hits = int((draws < 2**32 % prime).sum())
    return (hits - len(draws) * share) / math.sqrt(len(draws) * share * (1 - share))


@pytest.mark.parametrize("prime", [251, 2**30 + 3, DEFAULT_PRIME, 2**31 - 1])
def test_masks_are_uniform(prime: int) -> None:
    draws = uniform_masks((2_000_000,), seed=11, site=3, draw=7, prime=prime)
    assert int(draws.min()) >= 0
    assert int(draws.max()) < prime
    assert chi_square_p_value(draws, prime, cells=min(prime, 4096)) > SIGNIFICANCE
    assert abs(repeats_z_score(draws, prime)) < 5


def test_the_test_sees_a_reduced_32_bit_word() -> None:
    """0.8% of the residues would come up 1.5 times as often: the planted bias that a careless generator
    has.
    """
    words = random_words((2_000_000,), seed=11, site=3, draw=7)
    assert repeats_z_score(words % DEFAULT_PRIME, DEFAULT_PRIME) > 5
    assert chi_square_p_value(words % DEFAULT_PRIME, DEFAULT_PRIME) < SIGNIFICANCE


def correlation(a: Tensor, b: Tensor, prime: int) -> float:
    """Correlation of two mask sequences in standard deviations of what independent uniform ones give (1 /
    sqrt n).
    """
    u, v = (2 * a.double() + 1) / prime - 1, (2 * b.double() + 1) / prime - 1
    return float((u * v).mean() * 3) * math.sqrt(len(u))


@pytest.mark.parametrize("lag", [1, 2, 63, 64, 65, 128, 192, 255, 256, 257, 1024])
def test_no_lag_correlation(lag: int) -> None:
    draws = uniform_masks((1_000_000,), seed=1, site=0, draw=0)
    assert abs(correlation(draws[:-lag], draws[lag:], DEFAULT_PRIME)) < 5


def test_the_lag_test_sees_a_planted_dependence() -> None:
    draws = uniform_masks((1_000_000,), seed=1, site=0, draw=0)
    # 1% copied from lag 64
    mixed = torch.where(torch.arange(len(draws) - 64) % 100 == 0, draws[:-64], draws[64:])
    assert correlation(draws[:-64], mixed, DEFAULT_PRIME) > 5


@pytest.mark.parametrize("part", ["seed", "site", "draw"])
def test_neighbouring_addresses_are_independent(part: str) -> None:
    base = {"seed": 2**32 - 1, "site": 4, "draw": 2**32 - 1}
    draws = [uniform_masks((500_000,), **{**base, part: base[part] + step}) for step in (0, 1,
    2)]  # type: ignore[arg-type]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(correlation(draws[one], draws[other], DEFAULT_PRIME)) < 5
        assert int((draws[one] == draws[other]).sum()) <= 5  # expected 2.3e-4


def test_position_does_not_matter() -> None:
    """Means over each of the 256 places within a run stay within 5 sigma (two-sided, Bonferroni-free: 256 x
    5.7e-7).
    """
    runs = 4000
    draws = uniform_masks((runs, 256), seed=9, site=0, draw=0).double() / DEFAULT_PRIME
    sigma = math.sqrt(1 / 12 / runs)
    assert float((draws.mean(0) - 0.5).abs().max()) < 5 * sigma


def test_parts_equal_the_whole() -> None:
    whole = uniform_masks((10_000,), seed=1, site=2, draw=3)
    for first, last in ((0, 1), (1, 1000), (63, 64), (200, 7001), (9999, 10_000)):
        part = uniform_masks((last - first,), seed=1, site=2, draw=3, first_element=first)
        assert torch.equal(part, whole[first:last])
    assert torch.equal(uniform_masks((10, 1000), seed=1, site=2, draw=3).flatten(), whole)
    by_tensor = uniform_masks((10,), seed=1, site=2, draw=torch.tensor(3), first_element=torch.tensor(50))
    assert torch.equal(by_tensor, whole[50:60])


def test_threads_do_not_matter() -> None:
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(uniform_masks((300_000,), seed=1, site=2, draw=3))
        assert torch.equal(*results)
    finally:
        torch.set_num_threads(before)


def test_global_seed_is_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = uniform_masks((100,), seed=1, site=0, draw=0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(uniform_masks((100,), seed=1, site=0, draw=0), first)


def test_ring_masks_join_two_words() -> None:
    address = {"seed": 1, "site": 2, "draw": 3}
    low = random_words((100,), **address)  # type: ignore[arg-type]
    high = random_words((100,), attempt=1, **address)  # type: ignore[arg-type]
    ring = ring_masks((100,), **address)  # type: ignore[arg-type]
    assert [r % 2**64 for r in ring.tolist()] == [
        (h << 32) | lo for lo, h in zip(low.tolist(), high.tolist(), strict=True)
    ]


def test_shapes() -> None:
    assert uniform_masks((), seed=0, site=0, draw=0).shape == ()
    assert uniform_masks((0, 3), seed=0, site=0, draw=0).shape == (0, 3)
    assert uniform_masks([2, 3], seed=0, site=0, draw=0).shape == (2, 3)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ({"seed": -1}, r"seed = -1 is outside \[0, 2\^64\)"),
        ({"seed": 2**64}, "seed = "),
        ({"site": masks.MAX_SITES}, "site = 65536 is outside"),
        ({"draw": -1}, "draw = -1 is outside"),
        ({"draw": 2**63}, "draw = "),
        ({"first_element": 2**42}, "the range of addresses"),
        ({"first_element": -1}, "the range of addresses"),
        ({"prime": 4}, "prime = 4 is not an odd prime"),
    ],
)
def test_addresses_out_of_range_are_refused(address: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        uniform_masks((2,), **{"seed": 0, "site": 0, "draw": 0, **address})  # type: ignore[arg-type]


def test_masks_of_chosen_elements_are_those_of_the_whole() -> None:
    address = {"seed": 5, "site": 2, "draw": 9}
    elements = torch.randperm(5000, generator=torch.Generator().manual_seed(0))[:700]
    for prime in (251, DEFAULT_PRIME):
        whole = uniform_masks((5000,), prime=prime, **address)
        assert torch.equal(masks_at(elements, prime=prime, **address), whole[elements])
