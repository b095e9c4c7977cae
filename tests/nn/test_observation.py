"""Observers: what a site saw and did is counted, and nothing that comes out changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from circa_train import BitWindow, NoFault, StochasticReLU, TruncatedSign, UniformFault, with_stochastic_relus
from circa_train.fault import FaultKinds, SignTest, expected_faults
from circa_train.field import DEFAULT_PRIME
from circa_train.fixed_point import to_fixed
from circa_train.nn.control import set_draw, set_faults, site_inputs, stochastic_relus
from circa_train.nn.observation import Magnitudes, SiteObservation, expect, magnitudes, observe

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


def test_magnitudes_are_counted_by_sign_and_bit_length() -> None:
    prime = 251
    x = torch.arange(-125, 126)
    found = Magnitudes.of(x, prime)
    values = x.tolist()
    assert found.zeros == 1
    for b in range(7):
        assert found.positive[b] == sum(v > 0 and v.bit_length() == b + 1 for v in values)
        assert found.negative[b] == sum(v < 0 and (-v).bit_length() == b + 1 for v in values)
    assert len(found.positive) == len(found.negative) == 7
    powers = torch.tensor([2**29 - 1, 2**29, 1 - 2**29, -(2**29)])  # ends of bins at the default prime
    far = Magnitudes.of(powers, DEFAULT_PRIME)
    assert (far.positive[28:], far.negative[28:]) == ([1, 1], [1, 1])


def test_magnitudes_of_a_network_add_up_over_its_batches() -> None:
    network = with_stochastic_relus(nn.Sequential(nn.ReLU()), TruncatedSign(k=2), frac_bits=4)
    with magnitudes(network) as seen:
        network(torch.tensor([[0.25, -0.0625]]))
        network(torch.tensor([[0.0, 1.0]]))
    (found,) = seen.values()
    assert (found.positive[:5], found.negative[0], found.zeros) == ([0, 0, 1, 0, 1], 1, 1)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_magnitudes_count_every_value_under_any_fault_model(spec: SignTest) -> None:
    model = network(spec)
    with magnitudes(model) as seen, observe(model) as observed:
        model(inputs())
    totals = {name: sum(m.negative) + sum(m.positive) + m.zeros for name, m in seen.items()}
    assert totals == {name: site.values for name, site in observed.items()}
