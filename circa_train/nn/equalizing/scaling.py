"""The scales go into the weights: a network of larger and smaller channels that computes the same.

With scales that are powers of two every weight, sum and product keeps its significant digits, so the outputs
are the same bits, as long as nothing leaves the range of the floating-point format. A weight that would is
refused.

Do not train a rewritten network: a weight that is c times as large takes another step at the same learning
rate, and decays otherwise. Train the network as it was, and rewrite the result.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from circa_train.nn.equalizing.groups import NONE, ChannelGroups, ParameterGroups
from circa_train.nn.tracing.errors import ConversionError

Network = TypeVar("Network", bound=nn.Module)


class ScaleError(ValueError):
    """Scales that a network cannot take; the message says which, where and why."""


def apply_scales(
    model: Network,
    groups: ChannelGroups,
    scales: Sequence[float] | Mapping[int, float],
    *,
    powers_of_two: bool = True,
) -> Network:
    """A copy of ``model`` whose channels are larger by their group's scale, and which computes the same.

    Its inverse is itself with the reciprocals (:func:`reciprocals`). The copy is of the same class, with the
    same ``state_dict`` keys; ``model`` is left as it was.

    Args:
        model: the network that ``groups`` was found on, or another with the same architecture.
        groups: :func:`~circa_train.nn.equalizing.groups.channel_groups` of it.
        scales: one for each group, or by the group's number, the others 1.
        powers_of_two: refuse others, for which the outputs are the same only up to rounding.

    Raises:
        ScaleError: for a scale that is no positive number, or no power of two; that belongs to a group which
            must keep its scale; or under which a weight leaves the range of its floating-point format.
    """
    table = scale_table(groups, scales, powers_of_two)
    copied = copy_of(model)
    parameters = dict(copied.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, each in groups.parameters.items():
            scaled, lost = _scaled(parameters[name], each, table, powers_of_two)
            if scaled is None:
                continue
            if count := int(lost.sum()):
                factors = table[each.times].max(), table[each.times].min()
                raise ScaleError(
                    f"{count} of {lost.numel()} values of {name} would leave the range of "
                    f"{scaled.dtype} (scales {float(factors[1]):g} to {float(factors[0]):g}): use scales "
                    "nearer to 1"
                )
            parameters[name].copy_(scaled)
    return copied


def reciprocals(scales: Sequence[float]) -> tuple[float, ...]:
    """The scales that take the given ones back."""
    return tuple(1 / scale for scale in scales)


def groups_out_of_range(model: nn.Module, groups: ChannelGroups, scales: Sequence[float]) -> dict[int, str]:
    """The groups with a scale other than 1 whose weights would leave the range of their floating-point
    format, with the parameter's name.
    """
    table, found = scale_table(groups, scales, True), dict[int, str]()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, each in groups.parameters.items():
        scaled, lost = _scaled(parameters[name].detach(), each, table, True)
        if scaled is None or not bool(lost.any()):
            continue
        lost = lost.cpu()
        for part in (each.times, each.over):
            if part is not None:
                for group in torch.unique(part.expand(lost.shape)[lost]).tolist():
                    if group != NONE and scales[group] != 1:
                        found.setdefault(group, name)
    return found


def scale_table(
    groups: ChannelGroups, scales: Sequence[float] | Mapping[int, float], powers_of_two: bool
) -> Tensor:
    """The checked scales, float64, by group; the last one, 1, is that of :data:`NONE`."""
    if isinstance(scales, Mapping):
        unknown = sorted(set(scales) - set(range(groups.count)))
        if unknown:
            raise ScaleError(f"there is no group {unknown[0]}; the groups are 0 to {groups.count - 1}")
        scales = [scales.get(group, 1.0) for group in range(groups.count)]
    if len(scales) != groups.count:
        raise ScaleError(f"{len(scales)} scales for {groups.count} groups; give one for each")
    for group, scale in enumerate(scales):
        if not (math.isfinite(scale) and scale > 0):
            raise ScaleError(f"the scale of group {group} is {scale}; a scale is a positive number")
        if powers_of_two and math.frexp(scale)[0] != 0.5:
            raise ScaleError(
                f"the scale of group {group} is {scale}, no power of two, so outputs would be the same only "
                "up to rounding; powers_of_two=False allows that"
            )
        if scale != 1 and group in groups.kept:
            raise ScaleError(
                f"group {group} has to keep its scale, and was given {scale}: {groups.kept[group][0]}"
            )
    return torch.tensor([*scales, 1.0], dtype=torch.float64)


def copy_of(model: Network) -> Network:
    """A deep copy, with values of its own for tensors that somebody computed and kept.

    Raises:
        ConversionError: naming a module whose ``forward`` was replaced on the object: the copy's would still
            run with the weights of the original.
    """
    memo: dict[int, Any] = {}
    for name, module in model.named_modules():
        if "forward" in vars(module) and not isinstance(module, torch.jit.ScriptModule):
            raise ConversionError(
                f"{name or 'the network'} ({type(module).__name__}) has a forward of its own, set on the "
                "object, which a copy cannot follow: write it as a module class, or take it off first"
            )
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # what deepcopy refuses to copy
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


def _scaled(
    parameter: Tensor, each: ParameterGroups, table: Tensor, exactly: bool
) -> tuple[Tensor | None, Tensor]:
    """The rescaled values, None if they are what they were; and which of them do not come back: too large, or
    so small that digits are lost.
    """
    times = table[each.times]
    over = torch.ones(()) if each.over is None else table[each.over]
    if bool((times == 1).all() and (over == 1).all()):
        return None, torch.zeros(())
    dtype = parameter.dtype if exactly else torch.float64
    times, over = times.to(parameter.device, dtype), over.to(parameter.device, dtype)
    values = parameter.to(dtype)
    scaled = (values * times / over).to(parameter.dtype)
    if exactly:
        return scaled, scaled * over / times != parameter
    tiny = torch.finfo(parameter.dtype).tiny
    return scaled, ~scaled.isfinite() | ((scaled.abs() < tiny) & (parameter.abs() >= tiny))
