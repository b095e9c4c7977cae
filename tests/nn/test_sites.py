"""Sites and their switches: counts, draws, states, and calibration."""

from __future__ import annotations

import inspect

import pytest
import torch
from networks import EVERYTHING_SITES, Everything
from torch import nn

from circa_train import NoFault, TruncatedSign, fit_frac_bits, relu_sites, with_stochastic_relus
from circa_train.export import to_integers
from circa_train.field import largest_centred
from circa_train.fixed_point import FixedPointOverflow
from circa_train.jobs.faults import headroom_bits
from circa_train.jobs.settings import FaultConfig
from circa_train.nn.control import (
    draw_state,
    evaluating,
    fault_buffer_names,
    load_draw_state,
    set_draw,
    stochastic_relus,
    without_faults,
)

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(3, 8, 8), (5, 3, 8, 8)])
def test_relus_are_counted_per_image(shape: tuple[int, ...]) -> None:
    model = Everything().train()
    mean = model.bn.running_mean.clone()
    want = list(zip(EVERYTHING_SITES, [512, 512, 512, 512, 512, 512, 8, 8], strict=True))
    assert relu_sites(model, shape) == want
    network = with_stochastic_relus(model, TruncatedSign(3))
    assert relu_sites(network, shape) == want
    assert model.training
    assert torch.equal(model.bn.running_mean, mean)
    assert draw_state(network)["relu"] == [0, 0], "counting uses up no draw"


def test_vector_inputs_and_bad_shapes() -> None:
    model = nn.Sequential(nn.Linear(7, 5), nn.ReLU())
    assert relu_sites(model, (7,)) == relu_sites(model, (9, 7)) == [("1", 5)]
    with pytest.raises(ValueError, match="neither an image"):
        relu_sites(model, ())
    with pytest.raises(ValueError, match="neither an image"):
        relu_sites(model, (3, 0, 8))


def test_draw_state_goes_there_and_back() -> None:
    network = with_stochastic_relus(Everything().eval(), TruncatedSign(14))
    network(IMAGES)
    set_draw(network, 41, 6)
    state = draw_state(network)
    assert set(state) == set(EVERYTHING_SITES)
    assert state["relu"] == [41, 6]
    want = network(IMAGES)
    load_draw_state(network, state)
    assert torch.equal(network(IMAGES), want)
    with pytest.raises(ValueError, match="no ReLU site is called elsewhere"):
        load_draw_state(network, {"elsewhere": [0, 0]})
    with pytest.raises(ValueError, match="draw = -1"):
        set_draw(network, -1)


def test_fault_buffers_are_named_and_not_saved() -> None:
    network = with_stochastic_relus(Everything(), TruncatedSign(3))
    names = fault_buffer_names(network)
    assert len(names) == 3 * len(EVERYTHING_SITES)
    assert "block.relu.address" in names
    assert not set(names) & set(network.state_dict())


def test_context_managers_restore_what_was() -> None:
    network = with_stochastic_relus(Everything().train(), TruncatedSign(14))
    network.bn.eval()
    relus = list(stochastic_relus(network).values())
    relus[0].faults_enabled = False
    with evaluating(network), without_faults(network):
        assert not network.training
        assert not torch.is_grad_enabled()
        assert not any(relu.faults_enabled for relu in relus)
        with pytest.raises(RuntimeError):
            network(IMAGES[:, :2])
    assert network.training
    assert not network.bn.training
    assert [relu.faults_enabled for relu in relus] == [False] + [True] * (len(relus) - 1)


def test_fit_frac_bits_is_the_largest_that_runs() -> None:
    model = Everything().eval()
    fit = fit_frac_bits(model, [IMAGES[:2], (IMAGES[2:], torch.zeros(2))], headroom_bits=0)
    assert list(fit.ranges) == EVERYTHING_SITES
    magnitude = max(max(-low, high) for low, high in fit.ranges.values())
    assert (
        round(magnitude * 2**fit.frac_bits)
        <= largest_centred(2138816513)
        < round(magnitude * 2 ** (fit.frac_bits + 1))
    )
    quiet = TruncatedSign(0, prime=2138816513)
    with_stochastic_relus(model, NoFault(), frac_bits=fit.frac_bits)(IMAGES)
    network = with_stochastic_relus(model, quiet, frac_bits=fit.frac_bits + 2)
    with pytest.raises(FixedPointOverflow, match=r"site .*activations overflow the field"):
        network(IMAGES)
    assert fit_frac_bits(network, [IMAGES], headroom_bits=3).frac_bits == fit.frac_bits - 3
    assert draw_state(network)["relu"] == [0, 0]


def test_the_default_headroom_is_that_of_the_configurations() -> None:
    model = Everything().eval()
    largest = fit_frac_bits(model, [IMAGES], headroom_bits=0).frac_bits
    default = fit_frac_bits(model, [IMAGES]).frac_bits
    assert largest - default == headroom_bits(FaultConfig()) == 5
    assert inspect.signature(to_integers).parameters["headroom_bits"].default == 5
    network = with_stochastic_relus(model, TruncatedSign(0), frac_bits=default)
    network(8 * IMAGES)  # does not overflow, whatever is eight times as large


def test_fit_frac_bits_refuses() -> None:
    model = Everything().eval()
    with pytest.raises(ValueError, match="batches is empty"):
        fit_frac_bits(model, [])
    with pytest.raises(ValueError, match=r"site relu: .*NaN or infinite"):
        fit_frac_bits(model, [IMAGES * float("nan")])
    with pytest.raises(ValueError, match="headroom_bits = 99 is outside"):
        fit_frac_bits(model, [IMAGES], headroom_bits=99)
    with pytest.raises(ValueError, match="prime = 9"):
        fit_frac_bits(model, [IMAGES], prime=9)
