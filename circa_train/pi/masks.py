"""The client's side of the masks: a walk in which it learns its share of every value, before there is any.

The client draws a mask for the input and a new one behind every ReLU and every rescaling; its share of a
linear layer's output comes from whoever prepares linear layers; everything between is computed from those. A
dealer who is given the client's seed walks along, and so knows what the linear layers are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from circa_train.export.layers import Conv2d, Input, Layer, Linear
from circa_train.gc.aes import Randomness, to_field
from circa_train.pi.linear import Values
from circa_train.pi.walk import Group, Shares, Trip, Walk, moved

#: From a linear layer and the client's share of its input to the client's share of its output.
PrepareLinear = Callable[[Layer, Values], Values]


@dataclass(frozen=True, eq=False)
class GroupMasks:
    """Of a group, flat and canonical.

    Attributes:
        group: the group.
        mask: t: minus the client's share of what goes in.
        change: the new mask less the old one, where it was refreshed; what the server adds to its share.
        fresh: r per entry of ``bits``: minus the client's share of what comes out.
    """

    group: Group
    mask: Values
    change: Values | None
    fresh: tuple[Values, ...]


class ClientMasks:
    """One walk; :meth:`trips` makes it.

    Attributes:
        shares: the client's shares so far.
        masks: by layer, of every ReLU and rescaling: the masks that the definition is asked with
            (:mod:`circa_train.pi.clear`).
    """

    def __init__(self, walk: Walk, images: int, random: Randomness, prepare: PrepareLinear) -> None:
        self._walk, self._images, self._random, self._prepare = walk, images, random, prepare
        self._prime = walk.architecture.prime
        self.shares = Shares(walk, images)
        self.masks: dict[str, Values] = {}

    def trips(self) -> Iterator[tuple[Trip, list[GroupMasks]]]:
        """Walk, stopping at every trip with the masks of its groups."""
        for step in self._walk.steps:
            if isinstance(step, Trip):
                found = [self._of_group(group) for group in step.groups]
                yield step, found
                self._note(step, found)
                self.shares.finish(step, [[-r % self._prime for r in masks.fresh] for masks in found])
            elif isinstance(step, Input):
                self.shares.values[step.name] = self._draw((self._images, *step.shape))
            elif isinstance(step, (Conv2d, Linear)):
                self.shares.values[step.name] = self._prepare(step, self.shares.source(step))
            else:
                self.shares.step(step)

    @property
    def input_share(self) -> Values:
        return self.shares.values[self._walk.architecture.layers[0].name]

    @property
    def output_share(self) -> Values:
        return self.shares.values[self._walk.architecture.output]

    def _of_group(self, group: Group) -> GroupMasks:
        share, change = self.shares.of_group(group), None
        if group.refreshed:
            new = self._draw(share.shape)
            change, share = (share - new) % self._prime, new
        fresh = tuple(self._draw(share.shape) for _ in group.bits)
        return GroupMasks(group, -share % self._prime, change, fresh)

    def _note(self, trip: Trip, found: list[GroupMasks]) -> None:
        architecture = self._walk.architecture
        for masks in found:
            layer = architecture.layer(masks.group.layer)
            value = self.masks.setdefault(layer.name, self._zeros(layer))
            masks.group.put(masks.mask, value)
        for layer in trip.complete:

            def of_gates(origin: Layer) -> Values:
                return self.masks[origin.name] if origin.kind == "relu" else self._zeros(origin)

            gates = moved(architecture, layer.inputs[0], of_gates)
            self.masks[layer.name] = gates + self.masks.get(layer.name, 0)

    def _draw(self, shape: tuple[int, ...]) -> Values:
        return to_field(self._random.blocks(math.prod(shape)), self._prime).reshape(shape)

    def _zeros(self, layer: Layer) -> Values:
        return np.zeros((self._images, *layer.shape), dtype=np.int64)
