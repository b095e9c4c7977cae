"""Linear layers modulo p in numpy, exactly: convolutions, matrices, sums over windows.

A float64 holds every integer up to 2^53, and a product of matrices of integers is exact in whatever order it
is summed if no partial sum can be larger. So the product runs in float64, where numpy is fast, if max |x|
times the largest sum of |weights| of one output stays below that; else x is cut into a low and a high half.
The slow definition is ``compute`` of the export's ``reader.py``, in int64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from circa_train.export.layers import (
    Add,
    Concat,
    Conv2d,
    Gather,
    Layer,
    Linear,
    Pad,
    Reshape,
    Scatter,
    Shift,
    Slice,
    SumPool,
)
from circa_train.field import to_centred

Values = NDArray[np.int64]

_EXACT = 2**53
_LOW_BITS = 16


def local(layer: Layer, sources: list[Values], tensors: Mapping[str, Values], prime: int) -> Values:
    """What a layer that is linear over Z_p and needs no weight makes of values, or of either party's shares,
    canonical int64 (n, ...).

    Raises:
        TypeError: for a layer of another kind.
    """
    x = sources[0]
    match layer:
        case Add():
            return (x + sources[1]) % prime
        case Shift(bits=bits):
            return (x << bits) % prime
        case SumPool():
            windows = _windows(x, layer.kernel, layer.stride, layer.padding, (1, 1))
            return windows.sum(axis=(4, 5)) % prime
    return move(layer, sources, tensors)


def move(layer: Layer, sources: list[Values], tensors: Mapping[str, Values]) -> Values:
    """What a layer that only moves elements makes of anything (n, ...)."""
    x = sources[0]
    match layer:
        case Concat(axis=axis):
            return np.concatenate(sources, axis + 1)
        case Slice(slices=slices):
            return x[(slice(None), *(slice(*cut) for cut in slices))]
        case Pad(widths=widths):
            return np.pad(x, [(0, 0), *widths])
        case Reshape(shape=shape):
            return x.reshape(len(x), *shape)
        case Gather():
            return x[:, tensors[f"{layer.name}.index"]]
        case Scatter():
            result = x.copy()
            result[:, tensors[f"{layer.name}.index"]] = sources[1]
            return result
    raise TypeError(f"layer {layer.name} of kind {layer.kind!r} has no rule here")


class LinearMap:
    """One linear layer without its bias, ready to be applied to canonical values.

    Args:
        layer: a convolution or a matrix.
        weight: int64, as in the export folder.
    """

    def __init__(self, layer: Conv2d | Linear, weight: Values, prime: int) -> None:
        self._layer, self._prime, self._weight = layer, prime, weight
        groups = layer.groups if isinstance(layer, Conv2d) else 1
        rows = weight.reshape(groups, len(weight) // groups, -1)
        self._matrix = np.ascontiguousarray(rows.transpose(0, 2, 1).astype(np.float64))
        self._heaviest = int(np.abs(rows).sum(2).max())

    def __call__(self, x: Values) -> Values:
        """W x mod p, int64 (n, *layer.shape) in [0, p), for x in [0, p)."""
        centred = to_centred(x, self._prime)
        if self._heaviest * (self._prime // 2) < _EXACT:
            return self._multiply(centred) % self._prime
        high, low = centred >> _LOW_BITS, centred & ((1 << _LOW_BITS) - 1)
        if self._heaviest << _LOW_BITS >= _EXACT:
            raise ValueError(
                f"layer {self._layer.name}: weights that sum to {self._heaviest} leave exact arithmetic"
            )
        upper = self._multiply(high) % self._prime
        return (self._multiply(low) + (upper << _LOW_BITS)) % self._prime

    def _multiply(self, x: Values) -> Values:
        layer = self._layer
        if isinstance(layer, Linear):
            return (x.astype(np.float64) @ self._matrix[0]).astype(np.int64)
        kernel = self._weight.shape[2:]
        windows = _windows(x.astype(np.float64), kernel, layer.stride, layer.padding, layer.dilation)
        groups, inner, outer = self._matrix.shape
        n, _, height, width = windows.shape[:4]
        # (groups, n h w, C / groups kh kw): one product of matrices per group
        columns = windows.reshape(n, groups, -1, height, width, *kernel).transpose(1, 0, 3, 4, 2, 5, 6)
        product = columns.reshape(groups, n * height * width, inner) @ self._matrix
        product = product.reshape(groups, n, height, width, outer).transpose(1, 0, 4, 2, 3)
        return product.reshape(n, groups * outer, height, width).astype(np.int64)


def linear_maps(
    layers: tuple[Layer, ...], tensors: Mapping[str, Values], prime: int
) -> dict[str, Callable[[Values], Values]]:
    """The linear layers of a network, by name."""
    return {
        layer.name: LinearMap(layer, tensors[f"{layer.name}.weight"], prime)
        for layer in layers
        if isinstance(layer, (Conv2d, Linear))
    }


def bias_of(layer: Layer, tensors: Mapping[str, Values]) -> Values:
    """The bias of a linear layer, in the shape in which it is added to (n, *layer.shape)."""
    bias = tensors[f"{layer.name}.bias"]
    return bias.reshape(-1, 1, 1) if isinstance(layer, Conv2d) else bias


def _windows(
    x: NDArray, size: tuple[int, ...], stride: tuple[int, int], padding: tuple[int, int],
    dilation: tuple[int, int],
) -> NDArray:  # fmt: skip
    """(n, C, H, W, *size): a view of the zero-padded maps."""
    padded = np.pad(x, [(0, 0), (0, 0), *((pad, pad) for pad in padding)])
    (di, dj), (si, sj), (h, w) = dilation, stride, size
    spans = ((h - 1) * di + 1, (w - 1) * dj + 1)
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(2, 3))
    return view[:, :, ::si, ::sj, ::di, ::dj]
