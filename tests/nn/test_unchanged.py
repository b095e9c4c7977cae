"""No public function changes a network that it was given, in the README's own order of calls, twice."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import ZOO, Gate

from circa_train import (
    NoFault,
    StochasticReLU,
    TruncatedSign,
    fit_frac_bits,
    relu_sites,
    with_exact_relus,
    with_stochastic_relus,
)
from circa_train.diagnosis import compare_activations
from circa_train.nn.control import draw_state, evaluating, set_draw, stochastic_relus
from circa_train.nn.convert import ConversionError
from circa_train.nn.observation import observe

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def picture(model: nn.Module) -> list[Any]:
    """Everything of a network by identity, and what can change in place by value."""
    seen: list[Any] = []

    def look(value: Any, depth: int = 0) -> Any:
        if isinstance(value, Tensor):
            return "tensor", id(value), value.requires_grad, value.detach().clone().tolist()
        if isinstance(value, dict) and depth < 6:
            return type(value), [(key, look(item, depth + 1)) for key, item in value.items()]
        if isinstance(value, (list, tuple)) and depth < 6:
            return type(value), [look(item, depth + 1) for item in value]
        if (
            type(value).__module__.endswith("zoo")
            and not isinstance(value, nn.Module)
            and hasattr(value, "__dict__")
        ):
            return id(value), look(vars(value), depth + 1)
        return (value,) if isinstance(value, (int, float, str, bool)) else id(value)

    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, torch.jit.ScriptModule):
            seen.append((name, id(module), type(module), look(vars(module))))
    return seen


@pytest.mark.parametrize("name", ZOO)
def test_the_given_network_is_left_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    model = ZOO[name]().train()
    if (norm := getattr(model, "norm", None)) is not None:
        norm.eval()  # modes of parts are its own business
    before = picture(model)
    first: list[Any] = []
    for _ in range(2):
        sites = relu_sites(model, (3, 8, 8))
        assert picture(model) == before, "relu_sites"
        fit = fit_frac_bits(model, [IMAGES, (IMAGES, torch.zeros(4))], headroom_bits=5)
        assert picture(model) == before, "fit_frac_bits"
        network = with_stochastic_relus(model, TruncatedSign(12), frac_bits=fit.frac_bits, example=IMAGES[:1])
        assert picture(model) == before, "with_stochastic_relus"
        assert list(stochastic_relus(network)) == [site for site, _ in sites] == list(fit.ranges)
        assert list(network.state_dict()) == list(model.state_dict())
        converted = picture(network)
        assert relu_sites(network, (3, 8, 8)) == sites
        fit_frac_bits(network, [IMAGES])
        with observe(network), evaluating(network):
            pass
        if name not in ("counts", "remembers"):  # these change in their own forward, as they shall
            set_draw(network, 0)
            converted = picture(network)
            compare_activations(network, IMAGES)
        assert picture(network) == converted
        assert set(draw_state(network)) == set(fit.ranges)
        assert with_exact_relus(network) is model
        assert picture(model) == before, "with_exact_relus"
        first = first or [sites, fit]
        assert [sites, fit] == first, "the second time gives what the first gave"


@pytest.mark.parametrize("name", [name for name in ZOO if name not in ("scripted", "hooked")])
def test_it_can_still_be_copied_and_pickled(name: str) -> None:
    model = ZOO[name]()
    relu_sites(model, (3, 8, 8))
    with_stochastic_relus(model, NoFault())
    copy.deepcopy(model)
    if "norm" not in name:  # parametrized modules cannot be pickled
        pickle.dumps(model)


@pytest.mark.parametrize("name", ZOO)
def test_without_faults_nothing_changes_even_as_a_copy(name: str) -> None:
    torch.manual_seed(0)
    model = ZOO[name]().eval()
    network = with_stochastic_relus(model, NoFault())
    with torch.no_grad():  # a feature map with a gradient could not be copied
        want = model(IMAGES)
    for other in (network, copy.deepcopy(network) if name != "scripted" else network):
        got = other(IMAGES)
        if isinstance(want, dict):
            assert torch.equal(got["out"], want["out"])
        else:
            assert torch.equal(got, want)


def test_exact_relus_of_any_other_module_are_in_a_copy() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), StochasticReLU(TruncatedSign(3)))
            self.network = with_stochastic_relus(nn.Sequential(nn.Linear(4, 4), Gate()), TruncatedSign(3))
            self.head, self.notes = nn.Linear(4, 2), ["kept"]

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.network(self.inner(x)))

    own = Own().train()
    own.inner[1].register_forward_hook(lambda module, args, y: y + 1)
    before = picture(own)
    plain = with_exact_relus(own)
    assert picture(own) == before
    assert not stochastic_relus(plain)
    assert stochastic_relus(own)
    assert plain.head is own.head
    assert all(a is b for a, b in zip(plain.parameters(), own.parameters(), strict=True))
    assert isinstance(plain.inner[1], nn.ReLU)
    plain.notes.append("new")
    assert own.notes == ["kept"]
    x = torch.randn(3, 4)
    want = own.head(torch.relu(with_exact_relus(own.network)[0](torch.relu(own.inner[0](x)) + 1)))
    assert torch.equal(plain(x), want)


def test_a_network_that_its_first_batch_would_change_is_refused() -> None:
    model = nn.Sequential(nn.LazyConv2d(3, 1), nn.LazyBatchNorm2d(), nn.ReLU())
    for call in (
        lambda: relu_sites(model, (3, 8, 8)),
        lambda: fit_frac_bits(model, [IMAGES]),
        lambda: with_stochastic_relus(model, NoFault(), example=IMAGES),
    ):
        with pytest.raises(ConversionError, match=r"0.weight has no shape yet .*run a batch"):
            call()
    with_stochastic_relus(model, NoFault())
    assert isinstance(model[0], nn.LazyConv2d)


def test_what_training_mode_does_beside_its_purpose_is_undone() -> None:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self[0].requires_grad_(not mode)
            return self

    model = Frozen(nn.Conv2d(3, 3, 1), nn.ReLU()).eval()
    assert model[0].weight.requires_grad
    relu_sites(model, (3, 8, 8))
    assert model[0].weight.requires_grad
