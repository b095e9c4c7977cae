"""Conversion: every call a site, the same keys, the way back, copies, and what is refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from networks import EVERYTHING_SITES, Everything
from torch import Tensor, nn

from circa_train import NoFault, TruncatedSign, UniformFault, with_exact_relus, with_stochastic_relus
from circa_train.nn.activation import StochasticReLU
from circa_train.nn.control import set_draw, set_faults, set_specs, stochastic_relus
from circa_train.nn.convert import ConversionError

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> Everything:
    torch.manual_seed(0)
    return Everything().eval()


def test_every_call_is_a_site_of_its_own(model: Everything) -> None:
    network = with_stochastic_relus(model, TruncatedSign(3), seed=5)
    relus = stochastic_relus(network)
    assert list(relus) == EVERYTHING_SITES
    assert [relu.site for relu in relus.values()] == list(range(len(EVERYTHING_SITES)))
    assert {relu.seed for relu in relus.values()} == {5}
    assert all(dict(network.named_modules())[name] is relu for name, relu in relus.items())
    assert not any(isinstance(module, nn.ReLU) for module in network.modules())


def test_without_faults_nothing_changes(model: Everything) -> None:
    want = model(IMAGES)
    network = with_stochastic_relus(model, NoFault())
    assert torch.equal(network(IMAGES), want)
    faulty = with_stochastic_relus(model, TruncatedSign(16))
    assert not torch.equal(faulty(IMAGES), want)
    set_faults(faulty, False)
    assert torch.equal(faulty(IMAGES), want)


def test_state_dict_keys_and_order_are_kept_and_parameters_shared(model: Everything) -> None:
    network = with_stochastic_relus(model, TruncatedSign(3))
    assert list(network.state_dict()) == list(model.state_dict())
    assert [name for name, _ in network.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert all(a is b for a, b in zip(network.parameters(), model.parameters(), strict=True))
    network.load_state_dict({key: value + 1 for key, value in model.state_dict().items()})
    assert model.scale.item() == 2.5


def test_the_inverse_gives_back_the_network_with_what_it_learned(model: Everything) -> None:
    network = with_stochastic_relus(model, TruncatedSign(3)).double()
    network.train()
    network(IMAGES.double()).sum().backward()
    torch.optim.SGD(network.parameters(), 0.1).step()
    network.shift.add_(1)
    plain = with_exact_relus(network)
    assert plain is model
    assert plain.training
    assert plain.shift.dtype == torch.float64
    assert plain.shift.item() == pytest.approx(1.1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), plain.state_dict().values(), strict=True)
    )
    network.eval(), set_faults(network, False)
    assert torch.equal(network(IMAGES.double()), with_exact_relus(network)(IMAGES.double()))
    assert with_exact_relus(model) is model


def test_a_network_written_with_stochastic_relus_is_converted_both_ways() -> None:
    own = nn.Sequential(nn.Linear(4, 4), StochasticReLU(TruncatedSign(3), seed=9))
    network = with_stochastic_relus(own, UniformFault(0.5))
    assert stochastic_relus(network)["1"].spec == UniformFault(0.5)
    assert isinstance(with_exact_relus(own)[1], nn.ReLU)


def test_converting_again_replaces_the_specs(model: Everything) -> None:
    network = with_stochastic_relus(with_stochastic_relus(model, TruncatedSign(3)), UniformFault(0.1))
    assert {relu.spec for relu in stochastic_relus(network).values()} == {UniformFault(0.1)}
    assert with_exact_relus(network) is model


def test_training_flags_follow_the_mode(model: Everything) -> None:
    network = with_stochastic_relus(model, NoFault())
    network.train()
    torch.manual_seed(1)
    trained = network(IMAGES)
    model.train()
    torch.manual_seed(1)
    assert torch.equal(trained, model(IMAGES))
    torch.manual_seed(2)
    assert not torch.equal(network(IMAGES), trained)
    network.eval()
    assert torch.equal(network(IMAGES), network(IMAGES))


def test_modes_of_submodules_survive_conversion(model: Everything) -> None:
    model.train()
    model.bn.eval()
    network = with_stochastic_relus(model, NoFault())
    assert network.training
    assert not network.bn.training
    assert model.training
    assert not model.bn.training


def test_specs_per_site(model: Everything) -> None:
    specs = {name: TruncatedSign(k) for k, name in enumerate(EVERYTHING_SITES)}
    network = with_stochastic_relus(model, specs)
    assert {name: relu.spec for name, relu in stochastic_relus(network).items()} == specs
    set_specs(network, NoFault())
    assert {relu.spec for relu in stochastic_relus(network).values()} == {NoFault()}
    with pytest.raises(ValueError, match=r"no ReLU site is called nowhere; the sites are relu, relu#2"):
        with_stochastic_relus(model, {**specs, "nowhere": NoFault()})
    del specs["block.relu"]
    with pytest.raises(ValueError, match=r"no spec for the sites block.relu; a site that is to stay exact"):
        set_specs(network, specs)


def test_deepcopy_draws_the_same_and_shares_nothing(model: Everything) -> None:
    network = with_stochastic_relus(model, TruncatedSign(14))
    network(IMAGES)
    other = copy.deepcopy(network)
    assert torch.equal(network(IMAGES), other(IMAGES))
    assert list(other.state_dict()) == list(network.state_dict())
    assert all(a is not b for a, b in zip(network.parameters(), other.parameters(), strict=True))
    assert all(a is b for a, b in zip(with_exact_relus(other).parameters(), other.parameters(), strict=True))
    assert list(stochastic_relus(copy.deepcopy(other))) == EVERYTHING_SITES


def test_pickle_draws_the_same(model: Everything) -> None:
    network = with_stochastic_relus(model, TruncatedSign(14), seed=3)
    network(IMAGES)
    other = pickle.loads(pickle.dumps(network))
    assert torch.equal(network(IMAGES), other(IMAGES))


def test_parts_of_a_batch_draw_what_the_whole_draws(model: Everything) -> None:
    network = with_stochastic_relus(model, TruncatedSign(15))
    set_draw(network, 7)
    whole = network(IMAGES)
    parts = []
    for first in (0, 1, 3):
        set_draw(network, 7, first)
        parts.append(network(IMAGES[first : {0: 1, 1: 3, 3: 4}[first]]))
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.equal(network(IMAGES), whole), "every forward is a new draw"


def test_gradients_reach_shared_parameters(model: Everything) -> None:
    network = with_stochastic_relus(model, TruncatedSign(12))
    network(IMAGES).sum().backward()
    assert model.conv.weight.grad is not None
    assert float(model.conv.weight.grad.abs().sum()) > 0


class Calls(nn.Module):
    """A network whose forward is the given function of (self, x)."""

    def __init__(self, function, **modules: nn.Module) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: F.relu(x),
        lambda s, x: F.relu(x, inplace=True),
        lambda s, x: F.relu(x, True),
        lambda s, x: F.relu(input=x),
        lambda s, x: F.relu_(x),
        lambda s, x: torch.relu(x),
        lambda s, x: torch.relu_(x),
        lambda s, x: x.relu(),
        lambda s, x: x.relu_(),
        lambda s, x: torch.ops.aten.relu.default(x),
    ],
)
def test_every_functional_form_is_a_site(function) -> None:  # type: ignore[no-untyped-def]
    network = with_stochastic_relus(Calls(function), UniformFault(1.0))
    assert list(stochastic_relus(network)) == ["relu"]
    assert network(torch.tensor([-1.0, 2.0])).tolist() == [-1.0, 0.0]


def discarded_in_place(s: nn.Module, x: Tensor) -> Tensor:
    y = x + 0
    y.relu_()
    return y * 2


def in_place_seen_by_a_residual(s: nn.Module, x: Tensor) -> Tensor:
    y = x + 1
    return F.relu(y, inplace=True) + y


@pytest.mark.parametrize("function", [discarded_in_place, in_place_seen_by_a_residual])
def test_in_place_effects_are_kept(function) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(100)
    network = with_stochastic_relus(Calls(function), NoFault())
    assert torch.equal(network(x.clone()), function(None, x.clone()))


def in_place_through_a_view(s: nn.Module, x: Tensor) -> Tensor:
    y = x + 1
    y.view(-1).relu_()
    return y


def test_in_place_through_a_view_is_refused() -> None:
    with pytest.raises(
        ConversionError, match=r"also changes add, another view of its input .* use an out-of-place ReLU"
    ):
        with_stochastic_relus(Calls(in_place_through_a_view), NoFault())


def data_dependent(s: nn.Module, x: Tensor) -> Tensor:
    return F.relu(x) if x.sum() > 0 else x


def mode_dependent(s: nn.Module, x: Tensor) -> Tensor:
    return F.relu(x + 1) if s.training else F.relu(x)


@torch.fx.wrap
def opaque(x: Tensor) -> Tensor:
    return F.relu(x)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU6()), "ReLU6 at 1 is not a ReLU.*replace it by nn.ReLU"),
        (nn.Sequential(nn.ReLU(), nn.LeakyReLU()), "LeakyReLU at 1 is not a ReLU"),
        (nn.Sequential(nn.ReLU(), nn.GELU()), 'GELU at 1 .*other_activations="keep"'),
        (nn.Sequential(nn.ReLU(), nn.Threshold(0, 0)), "Threshold at 1"),
        (Calls(lambda s, x: F.relu(F.leaky_relu(x))), r"leaky_relu at the network \(node leaky_relu\)"),
        (Calls(lambda s, x: F.relu(x).clamp(min=0)), "clamp at the network"),
        (Calls(lambda s, x: F.relu(x).clamp_min(0)), "clamp_min at the network"),
        (Calls(lambda s, x: F.relu(x) + x * (x > 0)), "a product with the comparison gt"),
        (Calls(lambda s, x: F.relu(x) + torch.where(x > 0, x, 0.0)), "a product with the comparison gt"),
        (Calls(lambda s, x: F.relu(x) + torch.maximum(x, torch.zeros(1))), "maximum at the network"),
        (Calls(lambda s, x: F.relu(x) + torch.rand(3)), "makes a tensor that is different every time"),
        (nn.Sequential(nn.Linear(2, 2)), "Sequential calls no ReLU"),
        (Calls(data_dependent), "cannot trace the forward of Calls: .*free of control flow"),
        (nn.Sequential(nn.ReLU(), Calls(data_dependent)), r"cannot trace the forward of 1 \(Calls\)"),
        (Calls(mode_dependent), "different things in training and in evaluation"),
        (Calls(lambda s, x: F.relu(x) + opaque(x)), "opaque at the network .* is opaque to the trace"),
        (
            Calls(lambda s, x: s.t(x), t=nn.TransformerEncoderLayer(4, 2)),
            "TransformerEncoderLayer at t computes",
        ),
        (Calls(lambda s, x: F.relu(s.r(x)[0]), r=nn.RNN(2, 2, nonlinearity="relu")), "RNN at r computes"),
    ],
)
def test_refusals_name_the_place_and_the_remedy(network: nn.Module, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        with_stochastic_relus(network, NoFault())


def test_other_activations_can_be_kept_knowingly() -> None:
    network = with_stochastic_relus(
        nn.Sequential(nn.ReLU(), nn.ReLU6()), UniformFault(1.0), other_activations="keep"
    )
    assert list(stochastic_relus(network)) == ["0"]
    assert network(torch.tensor([-9.0, 9.0])).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="other_activations = 'ignore' is not one of refuse, keep"):
        with_stochastic_relus(nn.Sequential(nn.ReLU()), NoFault(), other_activations="ignore")


def test_tensors_made_in_the_forward_go_along() -> None:
    model = Calls(lambda s, x: F.relu(x) + torch.full((1,), 2.0))
    network = with_stochastic_relus(model, NoFault())
    assert network(torch.tensor([-1.0, 1.0])).tolist() == [2.0, 3.0]
    assert network.double()(torch.tensor([1.0], dtype=torch.float64)).dtype == torch.float64
    assert copy.deepcopy(network)(torch.ones(1).double()).tolist() == [3.0]
    assert not network.state_dict()
    assert not [name for name in vars(model) if "constant" in name], "the given network is left as it was"


def test_torchvision_resnet_has_a_site_per_call() -> None:
    models = pytest.importorskip("torchvision.models", reason="torchvision does not load beside this torch")
    model = models.resnet18(weights=None).eval()
    network = with_stochastic_relus(model, NoFault())
    assert len(stochastic_relus(network)) == 17
    assert list(stochastic_relus(network))[:3] == ["relu", "layer1.0.relu", "layer1.0.relu#2"]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(x), model(x))
