"""Inference in place: the same bits, only where the network allows it, and never where somebody looks."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circa_train.fault import TruncatedSign
from circa_train.fixed_point import FixedPointOverflow
from circa_train.kernels.cpu import launch as cpu
from circa_train.kernels.settings import SiteSettings
from circa_train.nn.activation import StochasticReLU
from circa_train.nn.control import set_draw, site_inputs, stochastic_relus
from circa_train.nn.convert import with_stochastic_relus
from circa_train.nn.models.registry import build_model


class Shapes(nn.Module):
    """Inputs of ReLUs of every kind: from a convolution, a sum, the network's input, a view, a value that is
    read again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.same = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        a = self.relu(x)
        b = self.conv(a)
        c = F.relu(b) + b
        d = F.relu(self.same(c)) + torch.relu(self.norm(c))
        e = F.relu(d + 1)
        return F.relu(self.conv(e).flatten(1)) + F.relu(self.conv(e), inplace=True).flatten(1)


def overwriting(network: nn.Module) -> list[bool]:
    return [relu._overwrites for relu in stochastic_relus(network).values()]


def test_only_values_that_are_new_and_read_once_are_overwritten() -> None:
    network = with_stochastic_relus(Shapes().eval(), TruncatedSign(12), seed=1)
    #                           input, read again, Identity, norm, sum, view, convolution
    assert overwriting(network) == [False, False, False, True, True, False, True]
    x = torch.randn(2, 3, 8, 8)
    before = x.clone()
    with torch.no_grad():
        in_place = network(x)
    set_draw(network, 0)
    assert torch.equal(in_place, network(x).detach()), "with gradients nothing is overwritten"
    assert torch.equal(x, before)


def test_residual_networks_are_overwritten_at_every_site_and_compute_the_same() -> None:
    model = build_model("resnet8", num_classes=10, image_size=32).eval()
    network = with_stochastic_relus(copy.deepcopy(model), TruncatedSign(14), frac_bits=16, seed=2)
    reference = with_stochastic_relus(model, TruncatedSign(14), frac_bits=16, seed=2, backend="reference")
    assert all(overwriting(network))
    images = torch.randn(5, 3, 32, 32)
    for layout in (images, images.to(memory_format=torch.channels_last)):
        with torch.no_grad():
            assert torch.equal(network(layout), reference(layout))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_hook_on_the_producer_or_the_site_sees_what_was_there(
    copied: Callable[[nn.Module], nn.Module],
) -> None:
    network = copied(
        with_stochastic_relus(build_model("resnet8", num_classes=10, image_size=32).eval(), TruncatedSign(12))
    )
    images, held = torch.randn(2, 3, 32, 32), []
    with torch.no_grad():
        expected = network(images)
        for place, register in (
            ("bn1", lambda hook: network.bn1.register_forward_hook(lambda m, i, o: hook(o))),
            ("relu", lambda hook: network.relu.register_forward_hook(lambda m, i, o: hook(i[0]))),
            ("relu", lambda hook: network.relu.register_forward_pre_hook(lambda m, i: hook(i[0]))),
            ("all", lambda hook: nn.modules.module.register_module_forward_hook(
                lambda m, i, o: hook(o) if m is network.bn1 else None)),
        ):  # fmt: skip
            held.clear()
            set_draw(network, 0)
            handle = register(lambda value: held.append((value, value.clone())))
            assert torch.equal(network(images), expected), place
            handle.remove()
            ((value, then),) = held
            assert torch.equal(value, then), place
            assert (value < 0).any()


def test_recorded_inputs_are_what_the_sites_saw() -> None:
    network = with_stochastic_relus(
        build_model("resnet8", num_classes=10, image_size=32).eval(), TruncatedSign(12)
    )
    held: dict[str, Tensor] = {}
    with torch.no_grad(), site_inputs(network, lambda name, z: held.update({name: z})):
        network(torch.randn(2, 3, 32, 32))
    assert len(held) == 7
    assert all((z < 0).any() for z in held.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("shape", [(3, 700), (2, 16, 16, 16), (4, 5, 7, 3), (1, 9001)], ids=str)
def test_in_place_gives_the_same_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for mode in ("poszero", "negpass"):
        settings = SiteSettings(TruncatedSign(14, mode), 16, 3, 1, "saturate")
        for scale in (1, 1e5 if dtype != torch.float16 else 1):
            z = (torch.randn(shape) * scale).to(dtype)
            for layout in (z, z.to(memory_format=torch.channels_last) if z.dim() == 4 else z):
                for statistics in (False, True):
                    expected, counts = cpu.run_forward(layout, settings, 4, 3, statistics)
                    target = layout.clone(memory_format=torch.preserve_format)
                    y, in_place_counts = cpu.run_forward(target, settings, 4, 3, statistics, in_place=True)
                    assert y.data_ptr() == target.data_ptr()
                    assert torch.equal(y, expected)
                    assert torch.equal(torch.signbit(y), torch.signbit(expected))
                    assert counts[cpu.COUNTED :][:8] == in_place_counts[cpu.COUNTED :][:8]


@pytest.mark.parametrize(
    ("values", "kind", "match"),
    [
        ((1e6, 9e4), FixedPointOverflow, r"2 of 5000 .* reaches 1e\+06"),
        ((float("nan"), float("inf")), ValueError, "2 of 5000 .* NaN or infinite"),
    ],
)
def test_what_is_refused_is_described_though_the_rest_is_overwritten(
    values: tuple[float, float], kind: type[Exception], match: str
) -> None:
    relu = StochasticReLU(TruncatedSign(12), name="site")
    relu.overwrite_input(None)
    for shape in ((5000,), (1, 20, 250)):
        z = torch.randn(5000)
        z[[7, 4001]] = torch.tensor(values)
        with torch.no_grad(), pytest.raises(kind, match=match):
            relu(z.reshape(shape))
    assert relu.address.tolist() == [0, 0]
