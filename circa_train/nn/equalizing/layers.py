"""Rules of the layers that scales go into: convolutions and linear layers, and normalisations.

A convolution with weights W and bias b gives s_out y for an input s_in x if

    W' = W s_out / s_in,    b' = b s_out,

a normalisation gives s_out y if its weight and bias are multiplied by s_out. What a normalisation reads keeps
its scale: a running mean and a variance could be rescaled, but eps could not, and in training mode the
statistics that it collects must stay what they were. In both directions this holds in training mode, too.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor

from circa_train.nn.equalizing.ties import Ties
from circa_train.nn.equalizing.walk import Rule, Step, Value, Walk


def _convolution(walk: Walk, step: Step) -> Any:
    """W has the axes (out, in of a group, ...), transposed (in, out of a group, ...)."""
    source, weight, bias = step.source, *_weights(step)
    if weight is None or not isinstance(source, Value) or source.numbers.dim() != weight.dim():
        return None
    transposed = "ranspose" in step.what
    groups = step.argument(5 if transposed else 6, "groups", default=1)
    outs = weight.shape[1] * groups if transposed else weight.shape[0]
    read = _per_channel(walk.ties, source.numbers, 1)
    rest = [1] * (weight.dim() - 2)
    parts = weight.shape[0] // groups
    times_shape = (weight.shape[0] if transposed else outs, weight.shape[1] if transposed else 1, *rest)
    if not (walk.fits(weight, times_shape, True) and walk.fits(bias, (outs,), False)):
        return None
    made = walk.ties.new(outs)
    if transposed:
        times = made.reshape(groups, 1, -1).expand(groups, parts, -1).reshape(times_shape)
        over = read.reshape(-1, 1, *rest)
    else:
        times = made.reshape(times_shape)
        over = read.reshape(groups, 1, -1).expand(groups, parts, -1).reshape(outs, -1, *rest)
    walk.absorb(weight, times, over)
    walk.absorb(bias, made)
    _note(walk, step, made, read)
    return made.reshape(1, -1, *rest).expand(step.result.shape)


def _linear(walk: Walk, step: Step) -> Any:
    source, weight, bias = step.source, *_weights(step)
    if weight is None or not isinstance(source, Value) or source.numbers.dim() < 2:
        return None
    outs = weight.shape[0]
    if not (walk.fits(weight, (outs, 1), True) and walk.fits(bias, (outs,), False)):
        return None
    read = _per_channel(walk.ties, source.numbers, source.numbers.dim() - 1)
    made = walk.ties.new(outs)
    walk.absorb(weight, made.reshape(-1, 1), read.reshape(1, -1))
    walk.absorb(bias, made)
    _note(walk, step, made, read)
    return made.expand(step.result.shape)


def _normalisation(walk: Walk, step: Step) -> Any:
    """Per channel (BatchNorm, GroupNorm, InstanceNorm) or per feature (LayerNorm, RMSNorm)."""
    source, weight, bias = step.source, *_weights(step)
    if not isinstance(source, Value):
        return None
    by_feature = step.what.lower().replace("_", "") in ("layernorm", "rmsnorm")
    needs_bias = "rms" not in step.what.lower()
    walk.ties.freeze(source.numbers, f"{step.where} normalises it")
    if weight is None or (needs_bias and bias is None):
        fixed = walk.ties.fixed(f"{step.where} makes it, and has no weight and bias that could be rescaled")
        return fixed.expand(step.result.shape)
    if not (walk.fits(weight, tuple(weight.shape), False) and walk.fits(bias, tuple(weight.shape), False)):
        return None
    made = walk.ties.new(prod(weight.shape)).reshape(weight.shape)
    walk.absorb(weight, made)
    walk.absorb(bias, made)
    _note(walk, step, made.reshape(-1), None)
    shape = made.shape if by_feature else (1, -1, *[1] * (step.result.dim() - 2))
    return made.reshape(shape).expand(step.result.shape)


def _weights(step: Step) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of a layer, if they are parameters. Computed ones (parametrized, by hooks) are none."""
    if step.module is not None:
        weight, bias = (step.module._parameters.get(name) for name in ("weight", "bias"))
        computed = weight is None or (bias is None and getattr(step.module, "bias", None) is not None)
        return (None, None) if computed else (weight, bias)
    places = _PLACES.get(step.what.rstrip("_"), (1, 2))
    found = [step.argument(place, name) for place, name in zip(places, ("weight", "bias"), strict=True)]
    if not all(value is None or (isinstance(value, Value) and value.parameter) for value in found):
        return None, None
    weight, bias = (None if value is None else value.real for value in found)
    return weight, bias


def _per_channel(ties: Ties, numbers: Tensor, axis: int) -> Tensor:
    """One number for each place along an axis; what lies along the others is tied."""
    tied = ties.tie_along(numbers, tuple(other for other in range(numbers.dim()) if other != axis))
    return tied.reshape(-1)


def _note(walk: Walk, step: Step, made: Tensor, read: Tensor | None) -> None:
    """For the report: what the layer makes, and what it reads."""
    name, number = str(step.node.target) if step.module is not None else step.where, 1
    while name in walk.found.makers:
        number += 1
        name = f"{name.partition('#')[0]}#{number}"
    walk.found.makers[name] = made
    if read is not None:
        walk.found.readers[name] = read


#: Where functions take weight and bias.
_PLACES = {"batch_norm": (3, 4), "layer_norm": (2, 3), "group_norm": (2, 3), "instance_norm": (3, 4)}

_CONVOLUTIONS = tuple(
    name
    for n in (1, 2, 3)
    for name in (f"Conv{n}d", f"ConvTranspose{n}d", f"conv{n}d", f"conv_transpose{n}d")
)
_NORMALISATIONS = (
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "GroupNorm", "LayerNorm", "RMSNorm",
    "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "batch_norm", "layer_norm", "group_norm",
    "instance_norm",
)  # fmt: skip

LAYERS: dict[str, Rule] = {
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    **dict.fromkeys(_NORMALISATIONS, _normalisation),
    **dict.fromkeys(("Linear", "linear"), _linear),
}
