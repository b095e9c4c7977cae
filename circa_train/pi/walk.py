"""The order of one inference: local layers as far as they go, then a round trip, and so on; and what each
round trip is about.

A trip is a list of *groups*: elements of one layer that are treated alike. A group with a circuit belongs to
a ReLU: its elements are tested, and the gate is multiplied with x under each of ``bits`` (0 is x itself, b is
x with b bits dropped). A group without one belongs to a rescaling, and has the elements that come out of no
ReLU. The walk follows from the architecture alone (:mod:`circa_train.export.shares`), so both parties, and a
dealer, walk alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from circa_train.export.layers import Layer, ReLU, Rescale
from circa_train.export.shares import MOVES, round_trips
from circa_train.gc.circuits import ReluCircuit
from circa_train.pi.architecture import Architecture
from circa_train.pi.linear import Values, local, move


@dataclass(frozen=True, eq=False)
class Group:
    """Elements of a round trip that are treated alike.

    Attributes:
        layer: the ReLU, or the rescaling.
        circuit: of the sign test; None of a rescaling.
        bits: what is asked of x: dropped bits, each once; 0 is x itself.
        elements: places in the flattened value of one image; None for all.
        count: how many they are.
        refreshed: whether the client's share of what goes in is masked anew offline.
    """

    layer: str
    circuit: ReluCircuit | None
    bits: tuple[int, ...]
    elements: NDArray[np.int64] | None
    count: int
    refreshed: bool

    def take(self, value: Values) -> Values:
        """The elements of a value (n, ...), flat."""
        flat = value.reshape(len(value), -1)
        return (flat if self.elements is None else flat[:, self.elements]).reshape(-1)

    def put(self, elements: Values, value: Values) -> None:
        """Inverse of :meth:`take`, into the contiguous ``value``."""
        flat = value.reshape(len(value), -1)
        flat[:, slice(None) if self.elements is None else self.elements] = elements.reshape(len(value), -1)


@dataclass(frozen=True, eq=False)
class Trip:
    """One round trip: its groups, and the rescalings that are complete after it."""

    number: int
    groups: tuple[Group, ...]
    complete: tuple[Rescale, ...]


class Walk:
    """The steps of an architecture, in order: layers without messages of the online phase, and trips."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        held = architecture.held
        steps: list[Layer | Trip] = []
        known: set[str] = set()

        def local_layers() -> None:
            for layer in architecture.layers:
                if layer.name in known or held[layer.name].trips or not known.issuperset(layer.inputs):
                    continue
                known.add(layer.name)
                steps.append(layer)

        for number in range(round_trips(held.values())):
            local_layers()
            riding = [layer for layer in architecture.layers if number in held[layer.name].trips]
            groups: list[Group] = []
            for layer in riding:
                if isinstance(layer, ReLU):
                    groups += self._gates(layer)
            complete = tuple(
                layer
                for layer in riding
                if isinstance(layer, Rescale) and held[layer.name].trips[-1] == number
            )
            for layer in complete:
                groups += self._others(layer)
            known.update(layer.name for layer in complete)
            known.update(layer.name for layer in riding if held[layer.name].carried)
            steps.append(Trip(number, tuple(groups), complete))
        local_layers()
        self.steps = tuple(steps)

    @cached_property
    def trips(self) -> tuple[Trip, ...]:
        """The round trips alone."""
        return tuple(step for step in self.steps if isinstance(step, Trip))

    def _gates(self, layer: ReLU) -> Iterator[Group]:
        held, test = self.architecture.held, self.architecture.tests[layer.name]
        asked = {
            other.bits
            for other in self.architecture.layers
            if isinstance(other, Rescale) and layer.name in held[other.name].masks_of
        }
        bits = (*([0] if held[layer.name].carried else []), *sorted(asked))
        prime, count, refreshed = self.architecture.prime, math.prod(layer.shape), held[layer.name].refreshed
        if not isinstance(test.k, tuple):
            yield Group(layer.name, test.circuit(prime, test.k), bits, None, count, refreshed)
            return
        channel = np.repeat(np.arange(layer.shape[0]), count // layer.shape[0])
        for k in sorted(set(test.k)):
            elements = np.flatnonzero(np.array(test.k)[channel] == k)
            yield Group(layer.name, test.circuit(prime, k), bits, elements, len(elements), refreshed)

    def _others(self, layer: Rescale) -> Iterator[Group]:
        """The elements of a rescaling that come out of no ReLU, and out of no padding."""

        def mark(source: Layer) -> Values:
            return np.full((1, *source.shape), not isinstance(source, ReLU), dtype=np.int64)

        elements = np.flatnonzero(moved(self.architecture, layer.inputs[0], mark))
        if len(elements):
            refreshed = self.architecture.held[layer.name].refreshed
            yield Group(layer.name, None, (layer.bits,), elements, len(elements), refreshed)


def moved(architecture: Architecture, name: str, origin: Callable[[Layer], Values]) -> Values:
    """The value called ``name``, from what ``origin`` says of the layers that it is moved from."""
    layer = architecture.layer(name)
    if isinstance(layer, MOVES):
        sources = [moved(architecture, source, origin) for source in layer.inputs]
        return move(layer, sources, architecture.index)
    return origin(layer)


class Shares:
    """One party's shares in the course of a walk, canonical int64 (n, *shape).

    Attributes:
        values: by layer.
    """

    def __init__(self, walk: Walk, images: int) -> None:
        self._walk, self._architecture, self._images = walk, walk.architecture, images
        self.values: dict[str, Values] = {}
        self._rescaled: dict[tuple[str, int], Values] = {}  # of ReLUs

    def source(self, layer: Layer) -> Values:
        """What a layer with one input reads."""
        return self.values[layer.inputs[0]]

    def step(self, layer: Layer) -> None:
        """Compute a layer that needs no message and no weight."""
        sources = [self.values[name] for name in layer.inputs]
        self.values[layer.name] = local(layer, sources, self._architecture.index, self._architecture.prime)

    def of_group(self, group: Group) -> Values:
        """The shares that go into a group, flat."""
        layer = self._architecture.layer(group.layer)
        if isinstance(layer, ReLU):
            return group.take(self.source(layer))
        return group.take(moved(self._architecture, layer.inputs[0], self._without_gates))

    def finish(self, trip: Trip, results: list[list[Values]]) -> None:
        """Take what a trip brought: per group, and per entry of its ``bits``, flat shares."""
        rides: dict[str, Values] = {}
        for group, found in zip(trip.groups, results, strict=True):
            layer = self._architecture.layer(group.layer)
            for bits, elements in zip(group.bits, found, strict=True):
                if not isinstance(layer, ReLU):
                    value = rides.setdefault(layer.name, self._zeros(layer))
                elif bits:
                    value = self._rescaled.setdefault((layer.name, bits), self._zeros(layer))
                else:
                    value = self.values.setdefault(layer.name, self._zeros(layer))
                group.put(elements, value)
        for layer in trip.complete:
            value = moved(self._architecture, layer.inputs[0], self._gated(layer.bits))
            self.values[layer.name] = value + rides[layer.name] if layer.name in rides else value

    def _zeros(self, layer: Layer) -> Values:
        return np.zeros((self._images, *layer.shape), dtype=np.int64)

    def _without_gates(self, origin: Layer) -> Values:
        return self._zeros(origin) if isinstance(origin, ReLU) else self.values[origin.name]

    def _gated(self, bits: int) -> Callable[[Layer], Values]:
        def origin(layer: Layer) -> Values:
            return self._rescaled[layer.name, bits] if isinstance(layer, ReLU) else self._zeros(layer)

        return origin
