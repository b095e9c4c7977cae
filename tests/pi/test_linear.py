"""Linear layers in float64 are those of the export's reader in int64, for every shape and size of weights."""

from __future__ import annotations

import numpy as np
import pytest

from circa_train.export.layers import Conv2d, Linear, SumPool
from circa_train.export.reader import compute
from circa_train.pi.linear import LinearMap, local

P = 2138816513

CONVOLUTIONS = {
    "plain": ((6, 9, 8), (4, 6, 3, 3), {"padding": (1, 1)}),
    "strided": ((6, 9, 8), (4, 6, 3, 2), {"stride": (2, 3), "padding": (1, 0)}),
    "grouped": ((6, 9, 8), (9, 2, 3, 3), {"groups": 3, "padding": (2, 1)}),
    "dilated": ((4, 11, 9), (5, 4, 3, 3), {"dilation": (2, 2)}),
    "depthwise": ((6, 5, 5), (6, 1, 3, 3), {"groups": 6}),
}


def conv(name, weight, **given):
    fields = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1} | given
    return Conv2d(name, ("x",), (), **fields)


@pytest.mark.parametrize("largest", [5, 2**15, 2**26])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution(name, largest):
    random = np.random.default_rng(1)
    shape, size, given = CONVOLUTIONS[name]
    weight = random.integers(-largest, largest + 1, size)
    x = random.integers(0, P, (3, *shape))
    x[0] = P // 2  # the largest centred value everywhere
    x[1] = P // 2 + 1
    layer = conv("conv", weight, **given)
    found = LinearMap(layer, weight, P)(x)
    centred = np.where(x > P // 2, x - P, x)
    at = {"name": "conv", "kind": "conv2d", "shape": found.shape[1:], "stride": layer.stride,
          "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}  # fmt: skip
    tensors = {"conv.weight": weight, "conv.bias": np.zeros(len(weight), np.int64)}
    wanted = compute(at, [centred], tensors, None, P, "offset")
    assert np.array_equal(found, wanted % P)


@pytest.mark.parametrize("largest", [5, 2**15, 2**26])
def test_a_matrix(largest):
    random = np.random.default_rng(2)
    weight, x = random.integers(-largest, largest + 1, (5, 40)), random.integers(0, P, (3, 40))
    found = LinearMap(Linear("fc", ("x",), (5,)), weight, P)(x)
    wanted = [[sum(int(a) * int(b) for a, b in zip(w, row, strict=True)) % P for w in weight] for row in x]
    assert found.tolist() == wanted


def test_a_sum_over_windows():
    random = np.random.default_rng(3)
    x = random.integers(0, P, (2, 3, 7, 7))
    layer = SumPool("pool", ("x",), (3, 3, 3), (3, 3), (2, 2), (0, 0))
    at = {"name": "pool", "kind": "sum_pool", "stride": (2, 2), "padding": (0, 0), "kernel": (3, 3)}
    assert np.array_equal(local(layer, [x], {}, P), compute(at, [x], {}, None, P, "offset") % P)
