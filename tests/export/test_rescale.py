"""Rescaling: the law counted over every mask of small fields."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from circa_train.export.rescale import check_rescaling, floor_rescale, local_rescale, rescale_law
from circa_train.field import largest_centred, to_centred


@pytest.mark.parametrize("prime", [3, 7, 61, 251])
@pytest.mark.parametrize("bits", [1, 2, 5])
def test_the_law_is_the_count_over_all_masks(prime, bits):
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


def test_each_party_alone_computes_its_share():
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
    with pytest.raises(ValueError, match="x = 126"):
        rescale_law(126, 3, 251)
