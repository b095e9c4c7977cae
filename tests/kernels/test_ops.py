"""The operator in torch: gradients, compilation, choice of backend, errors that name the site."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from circa_train.fault import BitWindow, TruncatedSign, UniformFault
from circa_train.fixed_point import FixedPointOverflow
from circa_train.kernels import ops
from circa_train.kernels.ops import choose, settings_from_text, settings_to_text, stochastic_relu
from circa_train.kernels.settings import SiteSettings
from circa_train.nn.activation import StochasticReLU, raise_pending


def site(backend: str = "auto", k: int = 14, **options: object) -> StochasticReLU:
    return StochasticReLU(TruncatedSign(k), seed=3, backend=backend, name="layer1.relu",
    **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("mode", ["poszero", "negpass"])
def test_the_gradient_is_the_gate_that_was_drawn(backend: str, dtype: torch.dtype, mode: str) -> None:
    z = (torch.randn(4, 3, 50) / 8).to(dtype)
    z[0, :, ::2] = 0.0
    z[1, :, ::3] = -0.0
    z.requires_grad_()
    relu = StochasticReLU(TruncatedSign(14, mode), backend=backend)
    y = relu(z)
    gate = (y != 0) | torch.signbit(y)
    assert torch.equal(y, torch.where(gate, z, 0))
    assert gate[z == 0].all() == (mode == "negpass"), "0 ties with itself under every mask"
    assert gate[z == 0].any() == (mode == "negpass")
    grad = torch.randn_like(y)
    (got,) = torch.autograd.grad(y, z, grad)
    assert torch.equal(got, torch.where(gate, grad, 0))


def test_the_gradient_has_a_gradient() -> None:
    z = torch.randn(100, dtype=torch.float64, requires_grad=True)
    relu = site(k=0)
    relu.set_draw(5)
    (gradient,) = torch.autograd.grad(relu(z).pow(3).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), z)
    assert torch.equal(second, torch.where(gradient != 0, 6 * z, 0).detach())


@pytest.mark.filterwarnings("ignore")  # opcheck's own
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_operators_keep_what_they_promise_to_torch(backend: str) -> None:
    settings = settings_to_text(SiteSettings(TruncatedSign(12), 16, 0, 0, "raise"))
    for z in (
        torch.randn(3, 4),
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.randn(5, 3).t(),
    ):
        arguments = (z.requires_grad_(), torch.tensor([1, 0]), settings, backend, True, "")
        torch.library.opcheck(stochastic_relu, arguments)


class Network(nn.Module):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.linear, self.first, self.second = nn.Linear(20, 30), site(backend), site(backend)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.linear(self.first(x)))


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_compiled_as_one_graph_it_draws_the_same_and_anew_each_time(compiler: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain, x = Network("cpu"), torch.randn(40, 20)
    compiled_network = copy.deepcopy(plain)
    compiled = torch.compile(compiled_network, fullgraph=True, backend=compiler)
    with torch._dynamo.config.patch(error_on_recompile=True):
        outputs = []
        for _ in range(3):
            expected, got = plain(x), compiled(x)
            assert torch.equal(expected, got)
            for network, output in ((plain, expected), (compiled_network, got)):
                network.zero_grad()
                output.sum().backward()
            assert torch.equal(plain.linear.weight.grad,
            compiled_network.linear.weight.grad)  # type: ignore[arg-type]
            outputs.append(got.detach())
    assert compiled_network.first.address.tolist() == [3, 0]
    assert not torch.equal(outputs[0], outputs[1])


def test_under_autocast_it_takes_what_comes() -> None:
    linear, relu = nn.Linear(8, 8), site()
    with torch.autocast("cpu", torch.bfloat16):
        y = relu(linear(torch.randn(4, 8)))
    assert y.dtype == torch.bfloat16
    y.sum().backward()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_errors_name_the_site(backend: str) -> None:
    with pytest.raises(ValueError, match=r"site layer1.relu: 1 of 3 activations are NaN or infinite"):
        site(backend)(torch.tensor([1.0, float("nan"), 2.0]))
    with pytest.raises(
        FixedPointOverflow, match=r"site layer1.relu: 1 of 2 .* largest frac_bits that fits is 10"
    ):
        site(backend)(torch.tensor([1.0, 1e6]))
    with pytest.raises(ValueError, match="are NaN or infinite"):
        site(backend, overflow="wrap")(torch.tensor([1e6, float("inf")]))
    with pytest.raises(TypeError, match=r"site layer1.relu: the activation is torch.int64"):
        site(backend)(torch.tensor([1]))
    relu = site(backend, overflow="saturate")
    relu(torch.tensor([1.0, 1e6]))
    assert int(relu.overflows) == 1
    raise_pending(relu)


def test_what_several_sites_had_to_tell_is_told_once_and_none_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, where every site holds back what it found. What stayed would blame a later forward."""
    network = nn.Sequential(*(StochasticReLU(TruncatedSign(12), name=name) for name in "abc"))
    held = {"b": FixedPointOverflow("of b"), "c": ValueError("of c")}

    def tell(relu: StochasticReLU) -> None:
        if (error := held.pop(relu.name, None)) is not None:
            raise error

    monkeypatch.setattr(StochasticReLU, "raise_pending", tell)
    with pytest.raises(FixedPointOverflow, match="of b"):
        raise_pending(network)
    raise_pending(network)
    assert not held


def test_a_backend_that_cannot_run_is_refused_with_the_reason() -> None:
    with pytest.raises(
        ValueError, match=r"backend = 'triton' cannot run here: .* CUDA devices, and the activation is on cpu"
    ):
        site("triton")(torch.randn(3))
    with pytest.raises(ValueError, match=r"backend = 'cpu' cannot run here: .* is on cuda:0"):
        choose("cpu", torch.device("cuda:0"), torch.float32)
    with pytest.raises(ValueError, match="backend = 'fast' is not one of"):
        site("fast")
    assert choose("auto", torch.device("cpu"), torch.float64) == "cpu"
    assert choose("auto", torch.device("meta"), torch.float32) == "reference"


def test_settings_survive_being_an_argument() -> None:
    for spec in (TruncatedSign((1, 2), "negpass", 251), UniformFault(0.25, "zeroed"), BitWindow(2, 30)):
        settings = SiteSettings(spec, 11, 2**64 - 1, 7, "wrap")
        assert settings_from_text(settings_to_text(settings)) == settings


def test_a_copy_draws_what_the_original_draws() -> None:
    relu, z = site(), torch.randn(200)
    relu(z)
    other = copy.deepcopy(relu)
    assert torch.equal(relu(z), other(z))
    relu.set_spec(UniformFault(1.0))
    assert torch.equal(relu(z), torch.where(z > 0, 0, z))


def test_settings_that_were_written_are_forgotten_but_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A curriculum writes new ones at every step."""
    monkeypatch.setattr(ops, "_WRITTEN", {})
    monkeypatch.setattr(ops, "_MOST_WRITTEN", 10)
    every = [SiteSettings(TruncatedSign(12), 16, seed, 0, "raise") for seed in range(30)]
    texts = [settings_to_text(settings) for settings in every]
    assert len(ops._WRITTEN) == 10
    assert [settings_from_text(text) for text in texts] == every


def test_a_class_that_is_defined_again_is_another_test() -> None:
    """As in a notebook: the layers made with either class go on with their own."""
    from circa_train.fault import SignTest
    from circa_train.fault.test import _REGISTRY

    def define(flipped: bool) -> SignTest:
        class Again(SignTest):
            kind = "defined again"
            mask_count = 2**32  # type: ignore[assignment]

            def gate(self, x, mask):
                return (x > 0) ^ flipped

            def counts(self, x):
                return ((x != 0) * flipped * 2**32,)

        return dataclass(frozen=True)(Again)()

    try:
        z = torch.tensor([[-1.0, 2.0]], requires_grad=True)
        layers = [StochasticReLU(define(flipped), frac_bits=4) for flipped in (False, True)]
        assert [layer(z).tolist() for layer in layers] == [[[0.0, 2.0]], [[-1.0, 0.0]]]
        assert layers[0](z).tolist() == [[0.0, 2.0]]
    finally:
        _REGISTRY.pop("defined again")
