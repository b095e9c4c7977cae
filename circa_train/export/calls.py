"""One converter for each kind of module or function that has a layer type; everything else is refused by
name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from circa_train.export.layers import (
    Add,
    Concat,
    Conv2d,
    ExportError,
    Gather,
    Layer,
    Linear,
    MaxPool,
    Pad,
    Pair,
    ReLU,
    Reshape,
    Scatter,
    Slice,
    SumPool,
)


@dataclass(frozen=True)
class Call:
    """One node that computes a tensor, its arguments resolved: layers by name, sizes and constants by value.

    Attributes:
        name: of the layer it becomes.
        what: class of the module, or name of the function.
        inputs: names of the layers it reads, ``in_shapes`` their shapes; ``shape`` its own; all for one
            image.
        args, kwargs: of the node; computed tensors are nodes, everything else is a value.
        module: the module that it calls, if it does.
        images: batch size that the sizes in ``args`` were found with.
        tensors: where its converter puts the layer's tensors.
    """

    name: str
    what: str
    inputs: tuple[str, ...]
    in_shapes: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    module: nn.Module | None
    images: int
    tensors: dict[str, Tensor]

    def argument(self, place: int, name: str, default: Any) -> Any:
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def refuse(self, reason: str) -> ExportError:
        return ExportError(f"layer {self.name} ({self.what}) cannot be exported: {reason}")

    def base(self) -> tuple[str, tuple[str, ...], tuple[int, ...]]:
        return self.name, self.inputs, self.shape


def convert(call: Call) -> tuple[Layer, ...]:
    """The layers of a call, the last under its name, their tensors put into ``call.tensors``; none if it
    changes nothing.
    """
    converter = _CONVERTERS.get(call.what)
    if converter is None:
        raise call.refuse(
            "the integer network has convolutions, linear layers, ReLU, BatchNorm, sums, concatenation, "
            "average and maximum "
            "pooling, slices, zero padding, reshapes and ReLU masks; write the layer with these"
        )
    found = converter(call)
    if found is None:
        return ()
    return found if isinstance(found, tuple) else (found,)


def _relu(call: Call) -> Layer:
    if "site" not in call.kwargs:
        raise call.refuse("it is a ReLU that the conversion does not know; call nn.ReLU or F.relu")
    return ReLU(*call.base(), site=call.kwargs["site"])


def _conv2d(call: Call) -> Layer:
    conv = call.module
    assert isinstance(conv, nn.Conv2d)
    if conv.padding_mode != "zeros":
        raise call.refuse(f"padding_mode={conv.padding_mode!r}; only zeros can be padded")
    padding = conv.padding
    if padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        if any(size % 2 for size in total):
            raise call.refuse("padding='same' is asymmetric for this kernel; pad explicitly")
        padding = (total[0] // 2, total[1] // 2)
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    call.tensors.update(weight=conv.weight, bias=bias)
    return Conv2d(*call.base(), _pair(conv.stride), _pair(padding), _pair(conv.dilation), conv.groups)


def _linear(call: Call) -> Layer:
    linear = call.module
    assert isinstance(linear, nn.Linear)
    if len(call.in_shapes[0]) != 1:
        raise call.refuse(f"its input has the shape {call.in_shapes[0]} per image; flatten it first")
    bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias
    call.tensors.update(weight=linear.weight, bias=bias)
    return Linear(*call.base())


def _add(call: Call) -> Layer:
    if len(call.inputs) != 2 or call.kwargs.get("alpha", 1) != 1 or len(call.args) > 2:
        raise call.refuse("only the sum of two computed tensors is supported; move constants into a bias")
    if call.in_shapes[0] != call.in_shapes[1]:
        raise call.refuse(f"it adds the shapes {call.in_shapes[0]} and {call.in_shapes[1]}; make them equal")
    return Add(*call.base())


def _concat(call: Call) -> Layer:
    axis = call.argument(1, "dim", call.kwargs.get("axis", 0)) % (len(call.shape) + 1)
    parts = call.argument(0, "tensors", ())
    if axis == 0 or len(parts) != len(call.inputs):
        raise call.refuse(
            "only different computed tensors of one image can be joined, along an axis other than the batch"
        )
    return Concat(*call.base(), axis=axis - 1)


def _avg_pool(call: Call) -> Layer:
    pool = call.module
    option = _options(
        call, ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    )
    kernel = _pair(option["kernel_size"])
    stride, padding = _pair(option["stride"] or kernel), _pair(option["padding"] or 0)
    if option["divisor_override"] not in (None, kernel[0] * kernel[1]):
        raise call.refuse("divisor_override is not the size of the window")
    if padding != (0, 0) and option["count_include_pad"] is False:
        raise call.refuse(
            "count_include_pad=False divides border windows by less; use count_include_pad=True"
        )
    _check_windows(call, kernel, stride, padding, pool)
    return SumPool(*call.base(), kernel, stride, padding)


def _max_pool(call: Call) -> Layer:
    option = _options(call, ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"))
    kernel = _pair(option["kernel_size"])
    stride, padding = _pair(option["stride"] or kernel), _pair(option["padding"] or 0)
    if _pair(option["dilation"] or 1) != (1, 1) or option["return_indices"]:
        raise call.refuse("dilation and return_indices are not supported")
    _check_windows(call, kernel, stride, padding, call.module)
    return MaxPool(*call.base(), kernel, stride, padding)


def _options(call: Call, names: Sequence[str]) -> dict[str, Any]:
    """Options of a pooling module or call; what is not said is None."""
    if call.module is not None:
        return {name: getattr(call.module, name, None) for name in names}
    return {name: call.argument(place, name, None) for place, name in enumerate(names, start=1)}


def _check_windows(call: Call, kernel: Pair, stride: Pair, padding: Pair, pool: nn.Module | None) -> None:
    height, width = call.in_shapes[0][-2:]
    floor = tuple(
        (s + 2 * p - k) // d + 1 for s, k, d, p in zip((height, width), kernel, stride, padding, strict=True)
    )
    if call.shape[-2:] != floor:
        raise call.refuse(
            "ceil_mode=True adds windows that hang over the border; use ceil_mode=False or pad explicitly"
        )


def _adaptive_avg_pool(call: Call) -> Layer | None:
    size, wanted = call.in_shapes[0][-2:], call.shape[-2:]
    if any(s % w for s, w in zip(size, wanted, strict=True)):
        raise call.refuse(
            f"{size} is not a multiple of {wanted}, so its windows differ in size; use another image size"
        )
    kernel = (size[0] // wanted[0], size[1] // wanted[1])
    return None if kernel == (1, 1) else SumPool(*call.base(), kernel, kernel, (0, 0))


def _mean(call: Call) -> tuple[Layer, ...] | Layer:
    axes = call.argument(1, "dim", None)
    rank = len(call.in_shapes[0]) + 1
    if (
        axes is None
        or sorted(axis % rank for axis in ([axes] if isinstance(axes, int) else axes)) != [2, 3]
        or rank != 4
    ):
        raise call.refuse("only the mean over height and width of a map is supported")
    channels, *size = call.in_shapes[0]
    window = (size[0], size[1])
    if call.shape == (channels, 1, 1):  # keepdim
        return SumPool(*call.base(), window, window, (0, 0))
    pooled = f"{call.name}.pool"
    pool = SumPool(pooled, call.inputs, (channels, 1, 1), window, window, (0, 0))
    return pool, Reshape(call.name, (pooled,), (channels,))


def _slice(call: Call) -> Layer:
    index = call.args[1]
    entries = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in entries:
        place = entries.index(Ellipsis)
        entries[place : place + 1] = [slice(None)] * (len(call.in_shapes[0]) + 2 - len(entries))
    entries += [slice(None)] * (len(call.in_shapes[0]) + 1 - len(entries))
    if len(entries) != len(call.in_shapes[0]) + 1 or not all(isinstance(entry, slice) for entry in entries):
        raise call.refuse("only slices start:stop:step of whole axes are supported")
    if entries[0].indices(call.images) != (0, call.images, 1):
        raise call.refuse("it slices the batch")
    slices = tuple(entry.indices(size) for entry, size in zip(entries[1:], call.in_shapes[0], strict=True))
    return Slice(*call.base(), slices)


def _pad(call: Call) -> Layer:
    widths, mode, value = (
        call.argument(1, "pad", None),
        call.argument(2, "mode", "constant"),
        call.argument(3, "value", 0),
    )
    if mode != "constant" or value not in (None, 0) or any(width < 0 for width in widths):
        raise call.refuse(
            f"mode={mode!r}, value={value!r}, pad={tuple(widths)}; only zeros can be padded, and nothing cut "
            "off"
        )
    pairs = [(widths[place], widths[place + 1]) for place in range(0, len(widths), 2)][::-1]
    axes = len(call.shape)
    if len(pairs) > axes:
        raise call.refuse("it pads the batch")
    return Pad(*call.base(), ((0, 0),) * (axes - len(pairs)) + tuple(pairs))


def _reshape(call: Call) -> Layer | None:
    if math.prod(call.shape) != math.prod(call.in_shapes[0]):
        raise call.refuse("it moves elements between images")
    return None if call.shape == call.in_shapes[0] else Reshape(*call.base())


def _permute(call: Call) -> tuple[Layer, ...] | None:
    """Axes in another order: the leading axes that move become one, its entries are gathered, and the shape
    is put back. A channel shuffle is one of these.
    """
    shape = call.in_shapes[0]
    rank = len(shape) + 1
    if call.what == "permute":
        axes = call.args[1:] if len(call.args) != 2 or isinstance(call.args[1], int) else call.args[1]
        order = [axis % rank for axis in (axes or call.kwargs["dims"])]
    else:
        first, second = (call.argument(i, f"dim{i - 1}", None) % rank for i in (1, 2))
        order = list(range(rank))
        order[first], order[second] = order[second], order[first]
    if order[0] != 0:
        raise call.refuse("it moves the axis of the images")
    moves = [axis - 1 for axis in order[1:]]
    kept = 0  # trailing axes that stay
    while kept < len(moves) and moves[-1 - kept] == len(moves) - 1 - kept:
        kept += 1
    if kept == len(moves):
        return None
    leading, trailing = shape[: len(shape) - kept], shape[len(shape) - kept :]
    rows = math.prod(leading)
    index = torch.arange(rows).reshape(leading).permute(moves[: len(leading)]).reshape(-1)
    flat, gathered = f"{call.name}.rows", f"{call.name}.gather"
    call.tensors["gather.index"] = index
    return (
        Reshape(flat, call.inputs, (rows, *trailing)),
        Gather(gathered, (flat,), (rows, *trailing)),
        Reshape(call.name, (gathered,), call.shape),
    )


def _index_select(call: Call) -> Layer:
    axis, index = call.argument(1, "dim", None), call.argument(2, "index", None)
    if axis != 1 or not isinstance(index, Tensor):
        raise call.refuse("only a fixed index along axis 1 is supported")
    call.tensors["index"] = index
    return Gather(*call.base())


def _index_copy(call: Call) -> Layer:
    axis, index = call.argument(1, "dim", None), call.argument(2, "index", None)
    if (
        axis != 1
        or not isinstance(index, Tensor)
        or len(call.inputs) != 2
        or not bool((index.diff() > 0).all())
    ):
        raise call.refuse("only a fixed, ascending index along axis 1 is supported")
    call.tensors["index"] = index
    return Scatter(*call.base())


def _pair(value: Any) -> Pair:
    first, second = (value, value) if isinstance(value, int) else (value[0], value[-1])
    return int(first), int(second)


_CONVERTERS: dict[str, Callable[[Call], Layer | tuple[Layer, ...] | None]] = {
    **dict.fromkeys(("clone", "contiguous", "detach"), lambda call: None),
    **dict.fromkeys(("transpose", "swapaxes", "permute"), _permute),
    "relu": _relu,
    "Conv2d": _conv2d,
    "Linear": _linear,
    **dict.fromkeys(("add", "iadd"), _add),
    **dict.fromkeys(("cat", "concat", "concatenate"), _concat),
    **dict.fromkeys(("AvgPool2d", "avg_pool2d"), _avg_pool),
    **dict.fromkeys(("MaxPool2d", "max_pool2d"), _max_pool),
    **dict.fromkeys(("AdaptiveAvgPool2d", "adaptive_avg_pool2d"), _adaptive_avg_pool),
    "mean": _mean,
    "getitem": _slice,
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(
        ("flatten", "Flatten", "unflatten", "Unflatten", "view", "reshape", "squeeze", "unsqueeze"), _reshape
    ),
    "index_select": _index_select,
    "index_copy": _index_copy,
}
