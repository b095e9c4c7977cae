"""The groups of a network's channels: which share a scale, which keep it and why, and where scales go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from circa_train.nn.blocks import has_hooks
from circa_train.nn.control import evaluating
from circa_train.nn.convert import with_exact_relus
from circa_train.nn.equalizing.rules import RULES
from circa_train.nn.equalizing.ties import ZERO
from circa_train.nn.equalizing.walk import Walk
from circa_train.nn.tracing.leaves import refuse_unfinished
from circa_train.nn.tracing.preserving import unchanged
from circa_train.nn.tracing.recognition import is_relu
from circa_train.nn.tracing.relu_calls import relu_calls
from circa_train.nn.tracing.trace import trace

#: Stands for the group of an element that is zero under every scale.
NONE = -1


@dataclass(frozen=True, eq=False)
class ParameterGroups:
    """Which groups scale a parameter: it is multiplied by the scales of ``times``, divided by those of
    ``over``; both hold numbers of groups (or :data:`NONE`) and broadcast to the parameter.
    """

    times: Tensor
    over: Tensor | None


@dataclass(frozen=True, eq=False)
class ChannelGroups:
    """What :func:`channel_groups` found. Groups are numbered in the order of execution.

    Attributes:
        count: how many groups there are.
        kept: why a group keeps its scale, by its number; groups that are not here are free.
        parameters: where scales go in and out, by the parameter's name.
        makers: group of each channel that a layer makes, by the layer's name.
        readers: group of each channel that a layer divides by, by the layer's name.
        sites: group of each element of one image before each ReLU, by the site's name.
    """

    count: int
    kept: Mapping[int, tuple[str, ...]]
    parameters: Mapping[str, ParameterGroups]
    makers: Mapping[str, Tensor]
    readers: Mapping[str, Tensor]
    sites: Mapping[str, Tensor]

    @property
    def free(self) -> tuple[int, ...]:
        """The groups whose scale may be chosen."""
        return tuple(group for group in range(self.count) if group not in self.kept)

    def reasons(self, site: str) -> tuple[str, ...]:
        """Why elements of a site keep their scale; empty if all are free."""
        groups = torch.unique(self.sites[site]).tolist()
        return tuple(dict.fromkeys(reason for group in groups for reason in self.kept.get(group, ())))


def channel_groups(model: nn.Module, example: Any) -> ChannelGroups:
    """Find which channels of a network share a scale, on its traced graph.

    Args:
        model: a plain or converted network, with parameters on any device; left as it was.
        example: a small batch as the network takes it (a tensor, or a tuple of arguments), of at least two
            images; or the shape (C, H, W) or (F,) of one image.

    Raises:
        ConversionError: if the network cannot be traced, or may hide a ReLU.
    """
    plain = with_exact_relus(model)
    refuse_unfinished(plain)
    graph = trace(plain)
    modules = dict(plain.named_modules(remove_duplicate=False))
    any_relu = any(is_relu(node, modules) for node in graph.nodes)
    sites = {node: name for name, node in relu_calls(plain, graph, "keep")} if any_relu else {}
    hooked = {
        name
        for network in (model, plain)
        for name, module in network.named_modules(remove_duplicate=False)
        if has_hooks(module)
    }
    walk = Walk(plain, graph, sites, RULES, hooked)
    with unchanged(plain), evaluating(plain):
        walk.run(*_arguments(plain, example))
    found = walk.finish()
    roots = sorted({root for root in walk.ties.roots(torch.arange(walk.ties.total)).tolist() if root != ZERO})
    used = {
        root
        for each in (*found.makers.values(), *found.sites.values())
        for root in walk.ties.roots(torch.unique(each)).tolist()
    }
    roots = [root for root in roots if root in used]
    table = torch.full((walk.ties.total,), NONE)
    table[roots] = torch.arange(len(roots))

    def groups(numbers: Tensor) -> Tensor:
        return table[walk.ties.roots(numbers)]

    return ChannelGroups(
        count=len(roots),
        kept={place: walk.ties.reasons(root) for place, root in enumerate(roots) if walk.ties.reasons(root)},
        parameters={
            name: ParameterGroups(groups(each.times), None if each.over is None else groups(each.over))
            for name, each in found.parameters.items()
        },
        makers={name: groups(numbers) for name, numbers in found.makers.items()},
        readers={name: groups(numbers) for name, numbers in found.readers.items()},
        sites={name: groups(numbers) for name, numbers in found.sites.items()},
    )


def _arguments(model: nn.Module, example: Any) -> tuple[Any, ...]:
    if isinstance(example, Sequence) and all(isinstance(size, int) for size in example):
        parameter = next(model.parameters(), torch.zeros(()))
        noise = torch.randn((2, *example), generator=torch.Generator().manual_seed(0))
        return (noise.to(parameter),)
    return tuple(example) if isinstance(example, (tuple, list)) else (example,)
