"""What a step does to the scales of channels, as rules for :class:`~circa_train.nn.equalizing.walk.Walk`.

    same        one element in, the same out, through a function with f(c z) = c f(z) for c > 0
    moved       elements that only change places: the step itself, executed on the numbers
    by channel  pools and resizings: a window's elements share their scale
    reduced     sums and means along axes
    joined      sums, maxima: the operands share their scale
    scaled      products with what keeps its scale
    layers      convolutions, linear layers and normalisations: where scales go in and out

Rules of layers are in :mod:`circa_train.nn.equalizing.layers`. Each answers with the numbers of the result,
or None where it does not hold for the call at hand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from circa_train.nn.equalizing.layers import LAYERS
from circa_train.nn.equalizing.ties import ZERO
from circa_train.nn.equalizing.walk import MAKES_ZEROS, Rule, Step, Value, Walk


def _same(walk: Walk, step: Step) -> Any:
    source = step.source
    result = step.result
    fits = isinstance(source, Value) and isinstance(result, Tensor) and result.shape == source.real.shape
    return source.numbers if fits and result.dtype == source.real.dtype else None


def _moved(walk: Walk, step: Step) -> Any:
    """The numbers through the step itself: it moves numbers as it moves values."""

    def number(leaf: Any) -> Any:
        if not isinstance(leaf, Value):
            return leaf
        return (
            leaf.numbers.contiguous() if step.what == "view" else leaf.numbers
        )  # a view of no expanded tensor

    args, kwargs = pytree.tree_map(number, (step.args, step.kwargs))
    try:
        if step.module is not None:
            return step.module(*args, **kwargs)
        if step.node.op == "call_method":
            return getattr(args[0], str(step.node.target))(*args[1:], **kwargs)
        assert callable(step.node.target)
        return step.node.target(*args, **kwargs)
    except (RuntimeError, NotImplementedError, TypeError):
        return None  # torch has this step for floating-point numbers only


def _padded(walk: Walk, step: Step) -> Any:
    """Zeros agree with every channel; other constants do not, and reflections stay within a channel."""
    if step.module is None:
        mode = step.argument(2, "mode", default="constant")
    else:
        mode = "constant" if step.what.startswith(("Zero", "Constant")) else "within"
    if mode != "constant":
        return _by_channel(walk, step)
    fill = step.argument(3, "value", default=0.0)
    return _moved(walk, step) if fill in (None, 0) else None


def _by_channel(walk: Walk, step: Step) -> Any:
    source, result = step.source, step.result
    if isinstance(result, (tuple, list)) or not isinstance(source, Value):
        return None
    numbers = source.numbers
    if result.dim() != numbers.dim() or numbers.dim() < 3 or result.shape[:2] != numbers.shape[:2]:
        return None
    return walk.ties.tie_along(numbers, tuple(range(2, numbers.dim()))).expand(result.shape)


def _reduced(walk: Walk, step: Step) -> Any:
    source = step.source
    if not isinstance(source, Value):
        return None
    axes = step.argument(1, "dim", "axis")
    rank = source.numbers.dim()
    if axes is None:
        axes = tuple(range(rank))
    elif isinstance(axes, int):
        axes = (axes,)
    if not all(isinstance(axis, int) for axis in axes):
        return None
    numbers = walk.ties.tie_along(source.numbers, tuple(axis % rank for axis in axes))
    return numbers.reshape(step.result.shape) if numbers.numel() == step.result.numel() else None


def _joined(walk: Walk, step: Step) -> Any:
    operands = [step.argument(0, "input"), step.argument(1, "other")]
    if not isinstance(step.result, Tensor):
        return None
    parts = []
    for operand in operands:
        if isinstance(operand, Value):
            parts.append(operand.numbers)
        elif isinstance(operand, Tensor) or operand is None:
            return None
        elif operand != 0:
            parts.append(walk.ties.fixed(f"{step.where} joins it with the constant {operand}"))
    whole = parts[0] if len(parts) == 1 else walk.ties.tie(*parts)
    return whole.expand(step.result.shape)


def _chosen(walk: Walk, step: Step) -> Any:
    """``torch.where``: either of two, as something else says that keeps its scale."""
    condition, *both = (
        step.argument(place, name) for place, name in enumerate(("condition", "input", "other"))
    )
    if isinstance(condition, Value) or not all(isinstance(value, Value) for value in both):
        return None
    return walk.ties.tie(both[0].numbers, both[1].numbers).expand(step.result.shape)


def _clamped(walk: Walk, step: Step) -> Any:
    """Only a bound of zero, with the other side open, goes with every scale."""
    low, high = step.argument(1, "min"), step.argument(2, "max")
    zero = [bound for bound in (low, high) if bound is not None]
    return (
        _same(walk, step) if all(isinstance(bound, (int, float)) and bound == 0 for bound in zero) else None
    )


def _scaled(walk: Walk, step: Step) -> Any:
    """A product has the scale of one factor if the other keeps its own."""
    a, b = step.argument(0, "input", "self"), step.argument(1, "other")
    shape = step.result.shape if isinstance(step.result, Tensor) else ()
    if step.kwargs.get("rounding_mode"):
        return None
    if not isinstance(a, Value):
        a, b = b, a
        if "div" in step.what:
            return None  # a number divided by an activation
    if not isinstance(b, Value):
        return a.numbers.expand(shape)
    if walk.ties.frozen(b.numbers):
        return a.numbers.expand(shape)
    if walk.ties.frozen(a.numbers) and "div" not in step.what:
        return b.numbers.expand(shape)
    return None


def _zeros(walk: Walk, step: Step) -> Any:
    """Zeros that are only joined with something agree with every scale. Filled ones do not."""
    names = {getattr(user.target, "__name__", str(user.target)) for user in step.node.users}
    if names <= {"cat", "concat", "concatenate", "add"} and isinstance(step.result, Tensor):
        return torch.full((), ZERO).expand(step.result.shape)
    return None


_SAME = (
    "ReLU", "relu", "StochasticReLU", "LeakyReLU", "leaky_relu", "PReLU", "prelu", "RReLU", "rrelu",
    "Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d",
    "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "stochastic_depth",
    "contiguous", "clone", "detach", "float", "to", "type_as", "abs", "absolute", "neg", "negative",
    "alias", "requires_grad",
)  # fmt: skip
_MOVED = (
    "Flatten", "Unflatten", "PixelShuffle", "PixelUnshuffle", "ChannelShuffle", "flatten",
    "unflatten", "view", "reshape", "reshape_as", "view_as", "transpose", "permute", "t",
    "swapaxes", "swapdims", "movedim", "moveaxis", "squeeze", "unsqueeze", "expand", "expand_as",
    "repeat", "tile", "repeat_interleave", "narrow", "select", "index_select", "index_copy",
    "chunk", "split", "tensor_split", "unbind", "getitem", "cat", "concat", "concatenate", "stack",
    "flip", "roll", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "take_along_dim",
    "gather", "broadcast_to", "ravel", "diagonal", "hstack", "vstack",
)  # fmt: skip
_BY_CHANNEL = tuple(
    f"{kind}Pool{n}d" for n in (1, 2, 3) for kind in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg")
) + tuple(
    f"{kind}_pool{n}d" for n in (1, 2, 3) for kind in ("max", "avg", "adaptive_max", "adaptive_avg")
) + (
    "Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d", "interpolate", "upsample",
    *(f"{kind}Pad{n}d" for n in (1, 2, 3) for kind in ("Reflection", "Replication", "Circular")),
)  # fmt: skip

#: By class of a module, or bare name of a function without the underscore of an in-place form.
RULES: dict[str, Rule] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_MOVED, _moved),
    **dict.fromkeys(_BY_CHANNEL, _by_channel),
    **dict.fromkeys(
        ("pad", *(f"{kind}Pad{n}d" for n in (1, 2, 3) for kind in ("Zero", "Constant"))), _padded
    ),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduced),
    **dict.fromkeys(
        ("add", "iadd", "sub", "isub", "subtract", "maximum", "minimum", "fmax", "fmin"), _joined
    ),
    **dict.fromkeys(
        ("mul", "imul", "multiply", "div", "divide", "true_divide", "truediv", "itruediv"), _scaled
    ),
    **dict.fromkeys(MAKES_ZEROS, _zeros),
    **dict.fromkeys(("clamp", "clip"), _clamped),
    "where": _chosen,
    **LAYERS,
}
