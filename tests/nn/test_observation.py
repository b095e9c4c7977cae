"""Observers: what a site saw and did is counted, and nothing that comes out changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from circa_train import BitWindow, NoFault, StochasticReLU, TruncatedSign, UniformFault, with_stochastic_relus
from circa_train.fault import FaultKinds, SignTest, expected_faults
from circa_train.fixed_point import to_fixed
from circa_train.nn.control import set_draw, set_faults, site_inputs, stochastic_relus
from circa_train.nn.observation import SiteObservation, expect, observe

SPECS: list[SignTest] = [
    TruncatedSign(20),
    TruncatedSign(18, "negpass"),
    UniformFault(0.1),
    BitWindow(12, 20),
]


def inputs(count: int = 12) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def network(spec: SignTest, **options: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 2), nn.ReLU(), nn.Flatten())
    return with_stochastic_relus(model, spec, frac_bits=16, seed=2, **options).eval().requires_grad_(False)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_observing_changes_nothing(spec: SignTest) -> None:
    model = network(spec)
    set_draw(model, 5)
    plain = model(inputs())
    set_draw(model, 5)
    with observe(model):
        watched = model(inputs())
    assert torch.equal(plain, watched)
    assert [relu.address.tolist() for relu in stochastic_relus(model).values()] == [[6, 0], [6, 0]]
    assert all(relu.observer is None for relu in stochastic_relus(model).values())


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_counts_against_inputs_and_outputs(spec: SignTest) -> None:
    model = network(spec)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name, relu in stochastic_relus(model).items():
        relu.register_forward_hook(lambda _, args, y, name=name: seen.__setitem__(name, (args[0], y)))
    with observe(model) as sites:
        model(inputs())
    assert list(sites) == list(stochastic_relus(model))
    for name, site in sites.items():
        z, y = seen[name]
        x = torch.round(z.double() * 2**16)
        assert site.values == site.faults.values == z.numel()
        assert (site.low, site.high) == (float(z.min()), float(z.max()))
        assert site.faults.zeroed == int(((x > 0) & (y == 0)).sum())
        assert site.faults.passed == int(((x < 0) & (y != 0)).sum())
        assert site.faults.faults > 0, "the specs are chosen so that something happens"
        assert site.fault_rate == site.faults.faults / z.numel()
        assert site.overflows == 0


def test_forwards_add_up() -> None:
    model, images = network(TruncatedSign(20)), inputs()
    with observe(model) as whole:
        set_draw(model, 0)
        model(images)
    with observe(model) as parts:
        for first in range(0, 12, 4):
            set_draw(model, 0, first)
            model(images[first : first + 4])
    assert parts == whole


def test_overflows_are_counted() -> None:
    z = torch.tensor([[-3.0, 2.0**15, -(2.0**16), 1.0]])
    for overflow in ("wrap", "saturate"):
        relu = StochasticReLU(TruncatedSign(0), frac_bits=16, overflow=overflow)
        with observe(nn.Sequential(relu)) as sites:
            relu(z)
            relu(z)
        assert sites["0"].overflows == int(relu.overflows) == 4
        assert (sites["0"].low, sites["0"].high) == (-(2.0**16), 2.0**15)


def test_sites_without_faults_are_not_counted() -> None:
    model = network(UniformFault(0.5))
    first, second = stochastic_relus(model).values()
    first.set_spec(NoFault())
    with observe(model) as sites:
        model(inputs())
        set_faults(model, False)
        model(inputs())
    one, two = sites.values()
    assert one == SiteObservation()
    assert one.fault_rate == 0.0
    assert (one.low, one.high) == (math.inf, -math.inf)
    assert two.values == 12 * 4, "one forward of two"
    assert second.observer is None


def test_the_earlier_observer_comes_back() -> None:
    model = network(TruncatedSign(20))
    with observe(model) as outer:
        with observe(model) as inner:
            model(inputs())
        assert all(site.values for site in inner.values())
        assert not any(site.values for site in outer.values())
        with pytest.raises(RuntimeError), observe(model):
            model(inputs()[:, :2])
        model(inputs())
    assert outer.keys() == inner.keys()
    assert all(site.values for site in outer.values())


def test_an_empty_batch_is_no_observation() -> None:
    relu = StochasticReLU(TruncatedSign(4))
    with observe(nn.Sequential(relu)) as sites:
        relu(torch.zeros(0, 3))
    assert sites["0"] == SiteObservation()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_law_is_added_up_at_every_site_with_faults(spec: SignTest) -> None:
    model = network(spec)
    first, second = stochastic_relus(model).values()
    second.faults_enabled = False
    seen: dict[str, Tensor] = {}
    with site_inputs(model, seen.__setitem__), expect(model) as expected:
        model(inputs())
    x, _ = to_fixed(seen[first.name], 16, spec.prime)
    once = expected_faults(x, spec)
    assert once.faults > 0
    assert expected == {first.name: once, second.name: FaultKinds(values=seen[second.name].numel())}
    with expect(model) as twice:
        model(inputs())
        model(inputs())
    assert twice[first.name] == once + once
