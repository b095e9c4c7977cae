"""No ReLU stays exact without a word: written by hand, inside a layer taken as one step, or of a form that
nobody thought of, which the run on an example finds by its values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.nn import intrinsic
from torch.nn.utils import parametrizations, parametrize

from circa_train import NoFault, relu_sites, with_stochastic_relus
from circa_train.nn.control import stochastic_relus
from circa_train.nn.convert import ConversionError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


class Two(nn.Module):
    """A step to be looked at between two convolutions, and one honest ReLU."""

    def __init__(self, function: Callable[[Tensor], Tensor] | nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.b(self.function(self.a(x))))


BY_HAND: dict[str, Callable[[Tensor], Tensor]] = {
    "x.mul(x.gt(0).type_as(x))": lambda x: x.mul(x.gt(0).type_as(x)),
    "x * (1 - (x <= 0).float())": lambda x: x * (1 - (x <= 0).float()),
    "x * (~(x < 0)).to(x)": lambda x: x * (~(x < 0)).to(x),
    "torch.where(torch.ge(x, 0), x, zeros)": lambda x: torch.where(torch.ge(x, 0), x, torch.zeros_like(x)),
    "where of a cast condition": lambda x: torch.where((x > 0).int().bool(), x, 0.0),
    "where the other way round": lambda x: torch.where(x <= 0, 0.0, x),
    "x * torch.heaviside": lambda x: x * torch.heaviside(x, torch.zeros(())),
    "(x * sign(x) + x) / 2": lambda x: (x * torch.sign(x) + x) / 2,
    "x * (sign(x) + 1) * 0.5": lambda x: x * ((torch.sign(x) + 1) * 0.5),
    "x + x.abs()": lambda x: 0.5 * torch.add(x, torch.abs(x)),
    "x - min(x, 0)": lambda x: x - torch.minimum(x, torch.zeros(1)),
    "-min(-x, 0)": lambda x: -torch.min(-x, torch.zeros(1)),
    "fmax": lambda x: torch.fmax(x, x.new_zeros(1)),
    "x.max(zeros)": lambda x: x.max(torch.zeros_like(x)),
    "clamp(0)": lambda x: torch.clamp(x, 0),
    "clip(min=0)": lambda x: x.clip(min=0.0),
    "-clamp(-x, max=0)": lambda x: -torch.clamp(-x, max=0),
    "clamp_max": lambda x: x - x.clamp_max(0),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "leaky_relu of slope 0": lambda x: F.leaky_relu(x, 0.0),
    "hardtanh without an upper bound": lambda x: F.hardtanh(x, 0.0, float("inf")),
    "masked_fill of a negation": lambda x: x.masked_fill(torch.logical_not(x > 0), 0.0),
    "signbit": lambda x: x * (~torch.signbit(x)).float(),
    "addcmul": lambda x: torch.addcmul(torch.zeros(()), x, (x > 0).float()),
}

#: Not known by name; a run on an example finds them.
UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "x + sqrt(x^2)": lambda x: (x + torch.sqrt(x * x)) / 2,
    "a maximum over a stack": lambda x: torch.stack([x, torch.zeros_like(x)]).amax(0),
    "a sort": lambda x: torch.cat([x[None], (x * 0)[None]]).sort(0)[0][1],
    "max pooling over a padded pair": lambda x: F.max_pool1d(
        torch.stack([x.flatten(), x.flatten() * 0], 1)[None], 2
    ).reshape(x.shape),
    "x * ceil(sigmoid - 1/2)": lambda x: x * torch.ceil(torch.special.expit(x) - 0.5),
    "logaddexp at a large scale": lambda x: torch.logaddexp(x * 1e6, x * 0) / 1e6,
}


@pytest.mark.parametrize("form", BY_HAND)
def test_a_relu_by_hand_is_refused_by_name_everywhere(form: str) -> None:
    function = BY_HAND[form]
    x = torch.randn(100)
    y = function(x)
    assert torch.allclose(y, F.relu(x)) or torch.allclose(y, x.relu() * 2) or torch.allclose(y, x * (x > 0))
    for convert in (
        lambda: with_stochastic_relus(Two(function), NoFault()),
        lambda: relu_sites(Two(function), (3, 8, 8)),
    ):
        with pytest.raises(ConversionError, match=r"at the network \(node \w+\) is not a ReLU.*nn.ReLU"):
            convert()


@pytest.mark.parametrize("form", UNKNOWN)
def test_the_run_on_an_example_finds_what_has_no_name(form: str) -> None:
    function = UNKNOWN[form]
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(function(x), F.relu(x))
    with pytest.raises(ConversionError, match=r"at the network \(node \w+\) turned out to be a ReLU"):
        with_stochastic_relus(Two(function), NoFault(), example=x)
    with pytest.raises(ConversionError, match="turned out to be a ReLU"):
        relu_sites(Two(function), (3, 8, 8))
    network = with_stochastic_relus(Two(function), NoFault(), example=x, other_activations="keep")
    assert list(stochastic_relus(network)) == ["relu"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.max_pool2d(x, 3, 1, 1),
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: F.softmax(x, 1) - 0.1,
        lambda x: x.flatten(1).reshape(x.shape).contiguous().clone(),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.relu(F.relu(x)),
        lambda x: torch.relu(x) + F.relu(-x),
        lambda x: x.abs() + 1,
        lambda x: x * (torch.rand_like(x) < 0.9).float(),
        lambda x: F.normalize(x),
        lambda x: F.pad(x.relu(), (1, 1)),
        lambda x: torch.max(x, 1, keepdim=True)[0].expand(-1, 3, -1, -1),
        lambda x: F.avg_pool2d(x.relu(), 1),
    ],
)
def test_what_is_no_relu_is_not_taken_for_one(function: Callable[[Tensor], Tensor]) -> None:
    relu_sites(Two(function), (3, 8, 8))
    with_stochastic_relus(Two(function), NoFault(), example=torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize(
    "layer", [nn.ReLU6(), nn.GELU(), nn.Hardswish(), nn.LeakyReLU(), nn.Sigmoid(), nn.Hardtanh()]
)
def test_other_activations_are_no_hindrance_for_counting(layer: nn.Module) -> None:
    assert relu_sites(Two(layer), (3, 8, 8)) == [("relu", 192)]


@pytest.mark.parametrize("layer", [nn.Threshold(0, 0), nn.Hardtanh(0.0, float("inf")), nn.LeakyReLU(0.0)])
def test_a_layer_that_is_a_relu_by_its_numbers_is_refused_for_counting(layer: nn.Module) -> None:
    with pytest.raises(ConversionError, match=f"{type(layer).__name__} at function is not a ReLU"):
        relu_sites(Two(layer), (3, 8, 8))


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class ReLUConv(nn.Conv2d):
    """A subclass of a layer of torch's, with a ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.relu(x))


def patched() -> nn.Module:
    layer = nn.Conv2d(3, 3, 1)
    layer.forward = lambda x: F.relu(nn.Conv2d.forward(layer, x))  # type: ignore[method-assign]
    return layer


def parametrized(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Halved())
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        patched,
        lambda: ReLUConv(3, 3, 1),
        lambda: parametrized(ReLUConv(3, 3, 1)),
        lambda: parametrizations.weight_norm(ReLUConv(3, 3, 1)),
        lambda: parametrizations.orthogonal(ReLUConv(3, 3, 1)),
    ],
)
def test_layers_that_only_look_like_torchs_are_run_through(layer: Callable[[], nn.Module]) -> None:
    model = Two(layer()).eval()
    network = with_stochastic_relus(model, NoFault(), example=torch.randn(2, 3, 8, 8))
    assert list(stochastic_relus(network)) == ["function.relu", "relu"]
    assert list(network.state_dict()) == list(model.state_dict())


def test_a_parametrized_layer_of_torchs_stays_one_step() -> None:
    model = nn.Sequential(parametrized(nn.Conv2d(3, 3, 1)), nn.ReLU())
    network = with_stochastic_relus(model, NoFault(), example=torch.randn(2, 3, 8, 8))
    assert network.get_submodule("0") is model[0]


def scripted_function() -> nn.Module:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x > 0, x, x * 0)

    return torch.jit.script(Half())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (scripted_function, "function is a program of torch.jit .* computes gt, where"),
        (lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU6())), "computes .*hardtanh"),
        (lambda: torch.jit.trace(nn.ReLU(), torch.randn(3)), "computes relu, .* in Python"),
        (lambda: intrinsic.ConvReLU2d(nn.Conv2d(3, 3, 1), nn.ReLU()), ""),
        (lambda: nn.TransformerDecoderLayer(3, 1), "one fused layer|cannot trace"),
    ],
)
def test_compiled_and_fused_layers(layer: Callable[[], nn.Module], message: str) -> None:
    if not message:  # a Sequential in a coat: run through
        assert list(stochastic_relus(with_stochastic_relus(Two(layer()), NoFault()))) == [
            "function.1",
            "relu",
        ]
        return
    for convert in (with_stochastic_relus, lambda model, _: relu_sites(model, (3, 8, 8))):
        with pytest.raises(ConversionError, match=message):
            convert(Two(layer()), NoFault())


@pytest.mark.parametrize("dynamic", [False, True])
def test_programs_are_refused_at_the_root_and_inside(dynamic: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()).eval()
    x = torch.randn(2, 3, 8, 8)
    shapes = ({0: torch.export.Dim("n")},) if dynamic else None
    program = torch.export.export(model, (x,), dynamic_shapes=shapes)
    for given in (program, program.module(), nn.Sequential(program.module(), nn.ReLU())):
        with pytest.raises(
            ConversionError, match=r"a program of torch.export.*in Python that it was made from"
        ):
            with_stochastic_relus(given, NoFault())  # type: ignore[arg-type]
    for given in (torch.jit.trace(model, x), torch.jit.script(model)):
        with pytest.raises(ConversionError, match=r"a program of torch.jit"):
            relu_sites(given, (3, 8, 8))
    with pytest.raises(TypeError, match=r"function is not a torch.nn.Module"):
        relu_sites(F.relu, (3, 8, 8))  # type: ignore[arg-type]


class Hides(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * (ctx.saved_tensors[0] > 0)


class Reads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (Hides, "autograd function Hides at the network .* computes clamp"),
        (Reads, "Reads .* does not let itself be traced"),
    ],
)
def test_autograd_functions_are_looked_into(function: type[torch.autograd.Function], message: str) -> None:
    for convert in (with_stochastic_relus, lambda model, _: relu_sites(model, (3, 8, 8))):
        with pytest.raises(ConversionError, match=message):
            convert(Two(function.apply), NoFault())
