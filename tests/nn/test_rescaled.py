"""The float simulator's rescaling: the protocol's own integers, and a gradient that sees only the gate."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from circa_train import NoFault, StochasticReLU, TruncatedSign, uniform_masks, with_stochastic_relus
from circa_train.evaluation import has_faults
from circa_train.fixed_point import FixedPointOverflow
from circa_train.nn.control import set_draw, set_faults
from circa_train.nn.rescaled import RescaledReLU
from circa_train.rescaling import offset_rescale

SPEC = TruncatedSign(5, "negpass")


def activations(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("spec", [SPEC, TruncatedSign(0), NoFault()])
def test_it_is_the_gate_times_what_both_parties_hold(spec):
    """x under the sign test's own mask, on the coarse grid, exactly; the address is that of the draw."""
    z = activations(6, 3, 5, 5) * 4
    site = RescaledReLU(spec, bits=7, frac_bits=16, seed=3, site=2)
    plain = StochasticReLU(spec, frac_bits=16, seed=3, site=2)
    for relu in (site, plain):
        relu.set_draw(9, first_image=4)
    y, gated = site(z), plain(z)
    x = torch.round(z.double() * 2**16).long()
    t = uniform_masks(x.shape, seed=3, site=2, draw=9, first_element=4 * 75)
    wanted = offset_rescale(x, t, 7, spec.prime) * (gated != 0)
    assert torch.equal(y.double() * 2**9, wanted.double())
    assert bool(((y - torch.relu(z)).abs()[gated == torch.relu(z)] < 2**-9 * 1.01).all())
    assert site.address.tolist() == [10, 4]


def test_a_small_field_goes_through_every_value():
    spec = TruncatedSign(2, prime=251)
    quarter = 251 // 4
    x = torch.arange(-quarter, quarter + 1).repeat(40).reshape(-1, 1)
    site = RescaledReLU(spec, bits=3, frac_bits=6, seed=1)
    t = uniform_masks(x.shape, seed=1, site=0, draw=0, prime=251)
    gate = ((x + t) % 251 >> 2) > (t >> 2)
    assert torch.equal(site(x / 64.0) * 8, (offset_rescale(x, t, 3, 251) * gate).float())


def test_the_gradient_is_the_gate():
    z = activations(4, 3, 6, 6).requires_grad_()
    site = RescaledReLU(SPEC, bits=8, frac_bits=14, seed=1)
    plain = StochasticReLU(SPEC, frac_bits=14, seed=1)
    y = site(z)
    (gradient,) = torch.autograd.grad((y * activations(*y.shape)).sum(), z)
    (wanted,) = torch.autograd.grad((plain(z) * activations(*y.shape)).sum(), z)
    assert torch.equal(gradient, wanted)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("spec", [SPEC, NoFault()])
def test_checkpointing_rescales_again_under_the_same_masks(spec, reentrant):
    def gradients(checkpointed: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), RescaledReLU(spec, bits=10, frac_bits=14, seed=2), nn.Conv2d(4, 2, 3)
        )
        z = activations(2, 3, 9, 9).requires_grad_()
        y = checkpoint(network, z, use_reentrant=reentrant) if checkpointed else network(z)
        y.square().sum().backward()
        return [p.grad for p in network.parameters()] + [z.grad]

    for got, wanted in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(got, wanted)


def test_outside_the_domain_nothing_is_silent():
    spec = TruncatedSign(0, prime=251)
    z = torch.tensor([[70.0, 10.0, -3.0]])
    with pytest.raises(FixedPointOverflow, match=r"site here: 1 of 3 values are outside the domain"):
        RescaledReLU(spec, bits=0, frac_bits=0, seed=_opens(spec, z), name="here")(z)
    seed = _opens(spec, z)
    for policy in ("wrap", "saturate"):
        site = RescaledReLU(spec, bits=0, frac_bits=0, seed=seed, overflow=policy)
        y = site(z)
        assert int(site.overflows) == 1
        t = uniform_masks(z.shape, seed=seed, site=0, draw=0, prime=251)
        x = z.long() if policy == "wrap" else z.long().clamp(-62, 62)
        assert float(y[0, 0]) == float(offset_rescale(x, t, 0, 251)[0, 0])


def _opens(spec: TruncatedSign, z: torch.Tensor) -> int:
    """A seed under which the first value passes its sign test."""
    return next(s for s in range(50) if StochasticReLU(spec, frac_bits=0, seed=s)(z)[0, 0] != 0)


def test_conversion_puts_it_at_every_site_and_takes_it_away():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten())
    z = activations(2, 3, 8, 8)
    network = with_stochastic_relus(model, NoFault(), frac_bits=16, seed=1, rescale_bits=8).eval()
    assert has_faults(network)
    first = network(z)
    assert not torch.equal(first, network(z))  # another draw
    set_draw(network, 0)
    assert torch.equal(first, network(z))
    assert 0 < float((first - model(z)).detach().abs().max()) < 0.05
    assert (first * 2**8 == (first * 2**8).round()).all()
    copy = pickle.loads(pickle.dumps(network))
    set_draw(copy, 0)
    assert torch.equal(copy(z), first)
    set_faults(network, False)
    assert torch.equal(network(z), model(z))
    assert not has_faults(network)


def test_refusals():
    with pytest.raises(ValueError, match=r"bits to drop = 6 is outside \[0, 5\]"):
        RescaledReLU(TruncatedSign(2, prime=251), bits=6, frac_bits=10)
    with pytest.raises(ValueError, match="12 bits cannot be dropped from values of 8 fraction bits"):
        RescaledReLU(SPEC, bits=12, frac_bits=8)
    with pytest.raises(ValueError, match="bits to drop = 8"):
        RescaledReLU(SPEC, bits=8, frac_bits=16).set_spec(TruncatedSign(2, prime=251))
    site = RescaledReLU(SPEC, bits=8, frac_bits=16)
    with pytest.raises(RuntimeError, match="rescale_bits=0"):
        torch.func.vmap(site)(activations(2, 3))
