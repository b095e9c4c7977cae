"""Coefficient packing: products of polynomials are the layer, for every shape, without any encryption."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from circa_train.field import DEFAULT_PRIME
from circa_train.pi.linear_shape import LinearShape
from circa_train.pi.packing import Packing, choose, negacyclic_product

PRIME = DEFAULT_PRIME


def direct(shape: LinearShape, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The layer modulo p, window by window, in Python's integers."""
    x = x.reshape(shape.channels, shape.height, shape.width)
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = shape.kernel, shape.stride, shape.padding, shape.dilation
    w = weights.reshape(shape.outputs, -1, kh, kw)
    y = np.zeros((shape.outputs, shape.output_rows, shape.output_columns), np.int64)
    for m, i, j in itertools.product(*map(range, y.shape)):
        total = 0
        first = m // (shape.outputs // shape.groups) * w.shape[1]
        for c, a, b in itertools.product(*map(range, w.shape[1:])):
            row, column = i * sh + a * dh - ph, j * sw + b * dw - pw
            if 0 <= row < shape.height and 0 <= column < shape.width:
                total += int(w[m, c, a, b]) * int(x[first + c, row, column])
        y[m, i, j] = total % PRIME
    return y.reshape(shape.output_shape)


def through_polynomials(packing: Packing, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The layer by the packing, as the server computes it, without encryption."""
    shape, polynomials = packing.shape, packing.input_polynomials(x)
    assert polynomials.shape == (packing.row_tiles, packing.input_tiles, packing.degree)
    y = np.full((shape.outputs, shape.output_rows, shape.output_columns), -1)
    for row_tile, output_tile in itertools.product(range(packing.row_tiles), range(packing.output_tiles)):
        total = np.zeros(packing.degree, np.int64)
        used = 0
        for input_tile in range(packing.input_tiles):
            kernel = packing.weight_polynomial(weights, output_tile, input_tile)
            if kernel is not None:
                used += np.count_nonzero(kernel)
                product = negacyclic_product(polynomials[row_tile, input_tile], kernel, PRIME)
                total = (total + np.array(product)) % PRIME
        assert used <= packing.weights_per_result
        index, (channels, rows) = packing.results(output_tile, row_tile)
        assert len(np.unique(index)) == index.size
        assert index.min() >= 0
        assert index.max() < packing.degree
        assert (y[channels, rows] == -1).all()
        y[channels, rows] = total[index]
    return y.reshape(shape.output_shape)


def every_packing(shape: LinearShape, degree: int) -> list[Packing]:
    found = []
    for strip, c, m in itertools.product(
        range(1, shape.output_rows + 1), range(1, shape.channels + 1), range(1, shape.outputs + 1)
    ):
        if m * c * Packing(shape, 2**62, strip, 1, 1).block <= degree:
            found.append(Packing(shape, degree, strip, c, m))
    return found


SHAPES = {
    "3x3": LinearShape(3, 5, 4, 4, (3, 3), padding=(1, 1)),
    "3x3, no padding": LinearShape(2, 5, 6, 3, (3, 3)),
    "3x3, stride 2": LinearShape(3, 6, 5, 2, (3, 3), (2, 2), (1, 1)),
    "1x1": LinearShape(5, 3, 3, 4, (1, 1)),
    "1x1, stride 2": LinearShape(4, 5, 6, 3, (1, 1), (2, 2)),
    "1x1, stride 3 and padding": LinearShape(2, 5, 4, 2, (1, 1), (3, 2), (1, 2)),
    "padding larger than the window": LinearShape(2, 3, 3, 2, (2, 2), (1, 2), (3, 2)),
    "7x7, stride 2": LinearShape(1, 9, 9, 2, (7, 7), (2, 2), (3, 3)),
    "unequal": LinearShape(2, 4, 7, 3, (3, 2), (1, 2), (2, 0)),
    "1x3": LinearShape(2, 4, 4, 2, (1, 3), (2, 1), (0, 1)),
    "window larger than the picture": LinearShape(3, 1, 1, 2, (3, 3), padding=(1, 1)),
    "window larger than the picture, 5x5": LinearShape(2, 2, 1, 2, (5, 5), padding=(2, 2)),
    "dilation": LinearShape(2, 6, 6, 2, (3, 3), (1, 2), (2, 1), (2, 2)),
    "groups": LinearShape(4, 4, 3, 6, (3, 3), padding=(1, 1), groups=2),
    "depthwise": LinearShape(5, 4, 4, 5, (3, 3), padding=(1, 1), groups=5),
    "depthwise, two each": LinearShape(3, 4, 4, 6, (3, 3), (2, 2), (1, 1), groups=3),
    "matrix": LinearShape.matrix(5, 7),
    "row": LinearShape.matrix(1, 9),
}


def numbers(shape: LinearShape, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of any size, centred or not, and an input, all of the field."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(-(PRIME // 2), PRIME // 2 + 1, shape.weight_shape)
    return weights, rng.integers(0, PRIME, shape.input_shape)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("degree", [32, 128])
def test_products_are_the_layer_in_every_packing(name: str, degree: int) -> None:
    shape = SHAPES[name]
    weights, x = numbers(shape, degree)
    expected = direct(shape, weights, x)
    packings = every_packing(shape, degree)
    for packing in packings[:: max(1, len(packings) // 8)]:
        np.testing.assert_array_equal(
            through_polynomials(packing, weights, x), expected, err_msg=str(packing)
        )


@pytest.mark.parametrize("name", SHAPES)
def test_the_chosen_packing_is_the_cheapest(name: str) -> None:
    shape, degree = SHAPES[name], 128
    for most, up, down in [(10**6, 5, 2), (10**6, 1, 9), (shape.channels * 50, 3, 3)]:
        allowed = [p for p in every_packing(shape, degree) if p.weights_per_result <= most]
        costs = {p: p.row_tiles * (p.input_tiles * up + p.output_tiles * down) for p in allowed}
        assert costs[choose(shape, degree, most, up, down)] == min(costs.values())


def test_one_number_too_many_does_not_fit() -> None:
    shape = LinearShape(2, 3, 3, 2, (3, 3), padding=(1, 1))  # blocks of 4 x 4
    assert Packing(shape, 64, 3, 2, 2).block == 16
    with pytest.raises(ValueError, match="2 x 2 x 16 coefficients"):
        Packing(shape, 63, 3, 2, 2)
    with pytest.raises(ValueError, match="more than N = 8 coefficients.*dealer"):
        choose(shape, 8, 10**6, 1, 1)
    with pytest.raises(ValueError, match="18 weights per output.*dealer"):
        choose(shape, 64, 17, 1, 1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"groups": 2}, "must divide"),
        ({"stride": (0, 1)}, "at least 1"),
        ({"padding": (-1, 0)}, "at least 0"),
        ({"kernel": (6, 3)}, "window is larger"),
    ],
)
def test_impossible_shapes_are_refused(sizes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearShape(**{"channels": 3, "height": 5, "width": 5, "outputs": 2, "kernel": (3, 3), **sizes})


def test_a_product_modulo_x_to_the_n_plus_1() -> None:
    # (1 + 2X)(3 + 4X) = 3 + 10X + 8X^2, and X^2 = -1
    assert negacyclic_product(np.array([1, 2]), np.array([3, 4]), 101) == [96, 10]
