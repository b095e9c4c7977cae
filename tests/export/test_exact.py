"""Exact products: against Python's integers, also where float64 has to be cut in two."""

from __future__ import annotations

import pytest
import torch

from circa_train.export.exact import EXACT, conv2d, linear
from circa_train.export.layers import Conv2d
from circa_train.field import DEFAULT_PRIME, largest_centred, to_centred

LIMIT = largest_centred(DEFAULT_PRIME)


def python_linear(x, weight, bias):
    return [
        [
            sum(a * b for a, b in zip(row, column, strict=True)) + c
            for column, c in zip(weight, bias, strict=True)
        ]
        for row in x
    ]


@pytest.mark.parametrize("magnitude", [2**10, LIMIT])
def test_linear_equals_python(magnitude):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-magnitude, magnitude + 1, (3, 40), generator=generator)
    weight = torch.randint(-(2**20), 2**20, (5, 40), generator=generator, dtype=torch.int32)
    bias = torch.randint(-LIMIT, LIMIT, (5,), generator=generator, dtype=torch.int32)
    x[0, :3] = torch.tensor([-magnitude, -1, magnitude])
    wanted = python_linear(x.tolist(), weight.tolist(), bias.tolist())
    found = linear(x, weight, bias, "fc", DEFAULT_PRIME)
    assert (found.residue is not None) == (magnitude == LIMIT)
    totals = found.total.tolist()
    for row, wanted_row in zip(totals, wanted, strict=True):
        for total, exact in zip(row, wanted_row, strict=True):
            assert (total == exact) if abs(exact) < EXACT else abs(total - exact) <= abs(exact) * 2**-52
            assert (abs(total) > LIMIT) == (abs(exact) > LIMIT)
    if found.residue is not None:
        assert found.residue.tolist() == [
            [to_centred(value, DEFAULT_PRIME) for value in row] for row in wanted
        ]


def test_cut_and_uncut_agree_where_both_are_exact():
    generator = torch.Generator().manual_seed(1)
    layer = Conv2d("conv", ("input",), (4, 3, 3), (2, 2), (1, 1), (1, 1), 2)
    x = torch.randint(-LIMIT, LIMIT, (2, 6, 6, 6), generator=generator)
    weight = torch.randint(-(2**22), 2**22, (4, 3, 3, 3), generator=generator, dtype=torch.int32)
    bias = torch.zeros(4, dtype=torch.int32)
    cut = conv2d(x, weight, bias, layer, DEFAULT_PRIME)
    assert cut.residue is not None
    # a convolution of x is that of its 10-bit digits, each far from the limit
    digits = [(x >> (10 * place)) if place == 3 else (x >> (10 * place)) & 1023 for place in range(4)]
    parts = [conv2d(digit, weight, bias, layer, DEFAULT_PRIME) for digit in digits]
    assert all(part.residue is None for part in parts)
    total = sum(
        part.total.long() % DEFAULT_PRIME * pow(2, 10 * place, DEFAULT_PRIME)
        for place, part in enumerate(parts)
    )
    assert torch.equal(cut.residue, to_centred(total, DEFAULT_PRIME))


def test_what_no_cut_makes_exact_is_refused_by_name():
    x = torch.full((1, 2**9), LIMIT)
    weight = torch.full((1, 2**9), 2**30, dtype=torch.int32)
    with pytest.raises(ValueError, match="layer fc"):
        linear(x, weight, torch.zeros(1, dtype=torch.int32), "fc", DEFAULT_PRIME)
