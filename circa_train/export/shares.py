"""Who holds which share at each layer, and in which round trip: what two parties need beside the layers.

At every layer the client's share is known before the online phase, so that linear layers can be prepared in
it (Delphi). It is one of:

    fresh       minus a new mask, uniform on [0, p), which the client chooses offline
    local       the layer applied to the client's own shares; the server does the same with its own
    protocol    of a layer that needs a protocol of its own (max_pool)

A linear layer's output, and what a round trip brings back, are fresh. A ReLU takes one round trip: labels and
the server's opening down, the client's opening and its share of the product, masked anew, up. An *offset*
rescaling of what comes out of a ReLU rides in that trip: both parties truncate their shares of x, under the
mask t of the sign test, and multiply by the gate after; the one field element of its transfer goes down with
the labels. The unrescaled product is brought back beside it only where something reads it (``carried``: a
shortcut). Rescaled elements that come out of no ReLU ride in the last trip that already finds them, or else
take one of their own.

A sign test or a rescaling expects a mask that nobody else uses. Where the client's share is not that (it was
pooled, or somebody else reads it too) it is *refreshed*: in the offline phase the client sends, per element,
the new mask less its old one, and the server adds it to its share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from circa_train.export.layers import (
    Add,
    Concat,
    Conv2d,
    Gather,
    Input,
    Layer,
    Linear,
    MaxPool,
    Pad,
    ReLU,
    Rescale,
    Reshape,
    Scatter,
    Slice,
)

#: Layers that only move elements: a mask goes where its value goes.
MOVES = (Reshape, Slice, Pad, Gather, Concat, Scatter)


class Layers(Protocol):
    """A network as far as shares go: an :class:`~circa_train.export.quantize.IntegerPlan`, or what a party
    knows without the weights.
    """

    @property
    def layers(self) -> tuple[Layer, ...]:
        """In the order of execution."""

    @property
    def output(self) -> str:
        """The name of the last one that counts."""


@dataclass(frozen=True)
class Holding:
    """What both parties do and hold at one layer, under offset rescaling.

    Attributes:
        layer: its name.
        client: ``fresh``, ``local`` or ``protocol``: the client's share of the layer's value.
        trips: numbers of the round trips, from 0, that it takes part in.
        refreshed: whether (some of) the shares that it reads are refreshed offline.
        carried: of a ReLU: whether its unrescaled value is read.
        masks_of: of a rescaling: the ReLUs whose masks its elements have.
    """

    layer: str
    client: str
    trips: tuple[int, ...] = ()
    refreshed: bool = False
    carried: bool = False
    masks_of: tuple[str, ...] = ()

    def to_value(self) -> dict[str, Any]:
        """As plain JSON values, for the manifest."""
        return {
            "client": self.client,
            "trips": list(self.trips),
            "refreshed": self.refreshed,
            "carried": self.carried,
            "masks_of": list(self.masks_of),
        }


def holdings(plan: Layers) -> tuple[Holding, ...]:
    """What is held at every layer, in the order of execution."""
    kinds = {layer.name: layer for layer in plan.layers}
    order = {layer.name: place for place, layer in enumerate(plan.layers)}
    origins, chosen, carried = _origins(plan), _chosen(plan), _carried(plan)
    found: list[Holding] = []
    trip_of: dict[str, int] = {}
    trips = 0
    for layer in plan.layers:
        match layer:
            case Input() | Conv2d() | Linear():
                found.append(Holding(layer.name, "fresh"))
            case MaxPool():
                found.append(Holding(layer.name, "protocol"))
            case ReLU():
                trip_of[layer.name] = trips
                refreshed = layer.inputs[0] not in chosen
                found.append(Holding(layer.name, "fresh", (trips,), refreshed, layer.name in carried))
                trips += 1
            case Rescale():
                parts = origins[layer.inputs[0]]
                relus = tuple(name for name in parts if isinstance(kinds[name], ReLU))
                others = [name for name in parts if name not in relus]
                taken = {trip_of[name] for name in relus}
                last = max((order[name] for name in relus), default=-1)
                if any(order[name] > last for name in others):
                    taken.add(trips)
                    trips += 1
                refreshed = bool(others) and layer.inputs[0] not in chosen
                found.append(Holding(layer.name, "fresh", tuple(sorted(taken)), refreshed, False, relus))
            case _:
                found.append(Holding(layer.name, "local"))
    return tuple(found)


def round_trips(held: Iterable[Holding]) -> int:
    """How many round trips one inference takes: one per ReLU, and one per rescaling that rides in none."""
    return 1 + max((trip for holding in held for trip in holding.trips), default=-1)


def masked_layers(plan: Layers) -> frozenset[str]:
    """The ReLUs, and the layers that move their values, whose masks a rescaling will read."""
    kinds = {layer.name: layer for layer in plan.layers}
    origins = _origins(plan)
    wanted = {layer.inputs[0] for layer in plan.layers if isinstance(layer, Rescale)}
    found: set[str] = set()
    for layer in reversed(plan.layers):
        if layer.name not in wanted or not any(isinstance(kinds[name], ReLU) for name in origins[layer.name]):
            continue
        found.add(layer.name)
        if isinstance(layer, MOVES):
            wanted.update(layer.inputs)
    return frozenset(found)


def _origins(plan: Layers) -> dict[str, tuple[str, ...]]:
    """By layer: those that compute the elements of its value, past what only moves them; each once."""
    found: dict[str, tuple[str, ...]] = {}
    for layer in plan.layers:
        moved = isinstance(layer, MOVES)
        parts = [name for source in layer.inputs for name in found[source]] if moved else [layer.name]
        found[layer.name] = tuple(dict.fromkeys(parts))
    return found


def _chosen(plan: Layers) -> set[str]:
    """The values whose mask the client may choose for their one reader alone."""
    readers = Counter([name for layer in plan.layers for name in layer.inputs] + [plan.output])
    found: set[str] = set()
    for layer in plan.layers:
        free = isinstance(layer, (Input, Conv2d, Linear, ReLU, Rescale)) or (
            isinstance(layer, (Reshape, Add)) and any(source in found for source in layer.inputs)
        )
        if free and readers[layer.name] == 1:
            found.add(layer.name)
    return found


def _carried(plan: Layers) -> set[str]:
    """The values that something other than a rescaling reads, also after they were moved."""
    read = {plan.output}
    for layer in reversed(plan.layers):
        if not isinstance(layer, Rescale) and (not isinstance(layer, MOVES) or layer.name in read):
            read.update(layer.inputs)
    return read
