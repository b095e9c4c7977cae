"""Who holds what: a walk over real networks' layers that never needs what is not there yet."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from circa_train import NoFault, TruncatedSign, build_model
from circa_train.export import IntegerNetwork, holdings, round_trips, to_integers
from circa_train.export.layers import (
    Concat,
    Conv2d,
    Gather,
    Linear,
    Pad,
    ReLU,
    Rescale,
    Reshape,
    Scatter,
    Slice,
)

MOVES = (Reshape, Slice, Pad, Gather, Concat, Scatter)


class Chain(nn.Module):
    """Two convolutions without a ReLU between them, a pool before a sign test, and a value that two read."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.three, self.fc = nn.Conv2d(4, 4, 1), nn.Linear(64, 3)

    def forward(self, x):
        y = self.two(self.one(x))
        y = torch.relu(nn.functional.avg_pool2d(y, 2))
        z = self.three(y)
        return self.fc(torch.flatten(torch.relu(z) + z, 1))


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    masks = {"relu": torch.rand(8, 8, 8) < 0.5, "layer1.0.relu1": torch.tensor([True, True, False, True] * 2)}
    small = {"num_classes": 4, "image_size": 8, "width": 0.5}
    return {
        "resnet8": build_model("resnet8", **small),
        "reduced": build_model("resnet8", **small, reduction={"masks": masks, "sites": ["layer2.0.relu1"]}),
        "chain": Chain(),
    }


@pytest.fixture(scope="module", params=["resnet8", "reduced", "chain"])
def network(request, images) -> IntegerNetwork:
    return to_integers(networks()[request.param].eval(), TruncatedSign(8), [images]).network


def test_a_runtime_can_walk_the_layers_trip_by_trip(network):
    """Plays the protocol in symbols: both shares of what a layer reads are there when it runs."""
    plan = network.plan
    held = {holding.layer: holding for holding in holdings(plan)}
    kinds = {layer.name: layer for layer in plan.layers}
    known = {plan.layers[0].name}  # values whose shares both parties have
    done: set[str] = set()
    for trip in range(round_trips(held.values())):
        # Local work as far as it goes.
        for layer in plan.layers:
            if layer.name not in known and not held[layer.name].trips and known.issuperset(layer.inputs):
                known.add(layer.name)
        # The trip: its ReLUs, then the rescalings that ride in it for good.
        riding = [layer for layer in plan.layers if trip in held[layer.name].trips]
        assert riding, trip
        for layer in riding:
            if isinstance(layer, ReLU):
                assert layer.inputs[0] in known
                done.add(layer.name)
            elif trip == held[layer.name].trips[-1]:
                assert isinstance(layer, Rescale)
                pending, origins = [layer.inputs[0]], set()
                while pending:
                    source = pending.pop()
                    if isinstance(kinds[source], MOVES):
                        pending += kinds[source].inputs
                    else:
                        origins.add(source)
                assert set(held[layer.name].masks_of) == {o for o in origins if isinstance(kinds[o], ReLU)}
                assert all(o in done if isinstance(kinds[o], ReLU) else o in known for o in origins), layer
        for layer in riding:
            if isinstance(layer, Rescale) and trip == held[layer.name].trips[-1]:
                known.add(layer.name)
            if isinstance(layer, ReLU) and held[layer.name].carried:
                known.add(layer.name)
    for layer in plan.layers:
        if layer.name not in known and not held[layer.name].trips and known.issuperset(layer.inputs):
            known.add(layer.name)
    assert plan.output in known
    for (
        layer
    ) in plan.layers:  # what is not known is read by nothing but rescalings, or moved on the way to them
        if layer.name not in known:
            assert isinstance(layer, (ReLU, *MOVES))
            assert all(
                isinstance(reader, (Rescale, *MOVES)) for reader in plan.layers if layer.name in reader.inputs
            )


def test_one_round_trip_per_relu_and_one_for_the_pooling(conversion):
    plan = conversion.network.plan
    held = {holding.layer: holding for holding in holdings(plan)}
    assert round_trips(held.values()) == len(plan.sites) + 1
    assert [held[site.name].trips for site in plan.sites] == [(i,) for i in range(len(plan.sites))]
    assert held["relu.at9"].trips == held["relu"].trips
    assert held["relu.at9"].masks_of == ("relu",)
    # A pool's client share is no single mask: refreshed, and a trip of its own.
    pooled = held["flatten.at9"]
    assert (pooled.trips, pooled.refreshed, pooled.masks_of) == ((len(plan.sites),), True, ())
    # The identity shortcut reads relu as it is; nothing does behind the first ReLU of a block.
    assert held["relu"].carried
    assert not held["layer1.0.relu1"].carried
    assert not any(held[site.name].refreshed for site in plan.sites)
    assert {held[layer.name].client for layer in plan.layers if isinstance(layer, (Conv2d, Linear))} == {
        "fresh"
    }


def test_reduced_networks_keep_one_round_trip_per_relu(images):
    """Elements without a ReLU ride with those that have one. One site has none at all: a trip for its
    rescaling.
    """
    plan = to_integers(networks()["reduced"].eval(), TruncatedSign(8), [images]).network.plan
    held = {holding.layer: holding for holding in holdings(plan)}
    assert len(plan.sites) == 6
    assert round_trips(held.values()) == len(plan.sites) + 2
    scattered = next(holding for holding in held.values() if holding.masks_of == ("relu.relu",))
    assert (scattered.trips, scattered.refreshed) == ((0,), True)


def test_shares_that_are_pooled_or_read_twice_are_refreshed(images):
    plan = to_integers(networks()["chain"].eval(), NoFault(), [images]).network.plan
    held = {holding.layer: holding for holding in holdings(plan)}
    assert held["relu"].refreshed  # behind the pool
    assert held["relu#2"].refreshed  # its input is added to its output
    between = (
        held["one.at9"] if "one.at9" in held else next(h for n, h in held.items() if n.startswith("one.at"))
    )
    assert (between.masks_of, between.refreshed, len(between.trips)) == ((), False, 1)
    assert all(held[name].client == "local" for name in held if "avg_pool" in name and ".at" not in name)
