"""The shape of every layer, as its inputs, its own fields and the shapes of its tensors imply it. Needs no
torch: tensors may be numpy's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from circa_train.export.layers import (
    Add,
    Concat,
    Conv2d,
    ExportError,
    Gather,
    Input,
    Layer,
    Linear,
    MaxPool,
    Pad,
    Reshape,
    Scatter,
    Shift,
    Slice,
    SumPool,
)

Shape = tuple[int, ...]

#: Elements of one layer's value for one image: 16 times the largest map of a ResNet-18 on 224 x 224 images.
MAX_ELEMENTS = 2**24

#: A shift keeps a centred value of a 31-bit field inside int64.
MAX_SHIFT = 31


def shape_of(layer: Layer, sources: Sequence[Shape], tensors: Mapping[str, Any]) -> Shape:
    """The shape of one image's value.

    Raises:
        ExportError: if the layer cannot read such inputs, or a field or tensor of it makes no sense.
    """
    wanted = {Input: 0, Add: 2, Scatter: 2}.get(type(layer), max(len(sources), 1) if _joins(layer) else 1)
    if len(sources) != wanted:
        raise wrong(layer, f"it reads {len(sources)} values, not {wanted}")
    x = sources[0] if sources else layer.shape
    match layer:
        case Input():
            _positive(layer, layer.shape, 1)
            return layer.shape
        case Conv2d(groups=groups):
            expect(layer, "rank of the input", len(x), 3)
            out, inner, *kernel = tensors["weight"].shape
            _positive(layer, (groups, *layer.dilation), 1)
            expect(layer, "input channels of its weight times groups", inner * groups, x[0])
            expect(layer, "remainder of its outputs by groups", out % groups, 0)
            expect(layer, "shape of its bias", tuple(tensors["bias"].shape), (out,))
            return (out, *_windows(layer, x, tuple(kernel), layer.dilation))
        case Linear():
            expect(layer, "rank of the input", len(x), 1)
            out, inner = tensors["weight"].shape
            expect(layer, "inputs of its weight", inner, x[0])
            expect(layer, "shape of its bias", tuple(tensors["bias"].shape), (out,))
            return (out,)
        case SumPool(kernel=kernel) | MaxPool(kernel=kernel):
            expect(layer, "rank of the input", len(x), 3)
            if any(2 * pad > size for pad, size in zip(layer.padding, kernel, strict=True)):
                raise wrong(layer, f"padding {layer.padding} is more than half of its window {kernel}")
            return (x[0], *_windows(layer, x, kernel, (1, 1)))
        case Add():
            expect(layer, "shape of its second input", sources[1], x)
            return x
        case Concat(axis=axis):
            if not 0 <= axis < len(x):
                raise wrong(layer, f"axis {axis} is none of its inputs'")
            for other in sources[1:]:
                same = [part[:axis] + part[axis + 1 :] for part in (other, x)]
                expect(layer, "other axes of its inputs", same[0], same[1])
            return (*x[:axis], sum(source[axis] for source in sources), *x[axis + 1 :])
        case Slice(slices=slices):
            for (start, stop, step), size in zip(slices, x, strict=True):
                if not (0 <= start <= size and 0 <= stop <= size and step >= 1):
                    raise wrong(layer, f"the slice {start}:{stop}:{step} leaves an axis of {size}")
            return tuple(len(range(*cut)) for cut in slices)
        case Pad(widths=widths):
            _positive(layer, [width for pair in widths for width in pair], 0)
            return tuple(size + sum(pair) for size, pair in zip(x, widths, strict=True))
        case Reshape():
            _positive(layer, layer.shape, 1)
            expect(layer, "number of elements", math.prod(layer.shape), math.prod(x))
            return layer.shape
        case Gather():
            return (len(_indices(layer, tensors["index"], x[0])), *x[1:])
        case Scatter():
            index = _indices(layer, tensors["index"], x[0])
            if any(b <= a for a, b in pairwise(index)):
                raise wrong(layer, "its index does not ascend")
            expect(layer, "shape of its second input", sources[1], (len(index), *x[1:]))
            return x
        case Shift(bits=bits) if not 0 < bits <= MAX_SHIFT:
            raise wrong(layer, f"it shifts by {bits} bits, not 1 to {MAX_SHIFT}")
    return x  # ReLU, Rescale, Shift


def _windows(layer: Conv2d | SumPool | MaxPool, x: Shape, kernel: Shape, dilation: Shape) -> Shape:
    _positive(layer, (*kernel, *layer.stride), 1)
    _positive(layer, layer.padding, 0)
    sizes = zip(x[1:], kernel, layer.stride, layer.padding, dilation, strict=True)
    out = tuple((size + 2 * pad - (k - 1) * gap - 1) // step + 1 for size, k, step, pad, gap in sizes)
    _positive(layer, out, 1)
    return out


def _indices(layer: Layer, index: Any, size: int) -> list[int]:
    values = [int(value) for value in index.reshape(-1).tolist()]
    if index.ndim != 1 or not values or not 0 <= min(values) <= max(values) < size:
        raise wrong(layer, f"its index is no list of entries of an axis of {size}")
    return values


def _joins(layer: Layer) -> bool:
    return isinstance(layer, Concat)


def _positive(layer: Layer, values: Sequence[int], least: int) -> None:
    if not values or min(values) < least:
        raise wrong(layer, f"{tuple(values)} where all must be at least {least}")


def expect(layer: Layer, what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise wrong(layer, f"{what} is {found}, but {wanted} by the other layers and tensors")


def wrong(layer: Layer, reason: str) -> ExportError:
    return ExportError(f"layer {layer.name!r} ({layer.kind}): {reason}")
