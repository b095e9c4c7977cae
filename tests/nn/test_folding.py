"""BatchNorm as a part of the convolution before it: the same function, nothing else folded, the given network
left as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from circa_train import NoFault, build_model, with_stochastic_relus
from circa_train.nn import with_folded_batch_norms
from circa_train.nn.tracing.errors import ConversionError


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """The network with statistics and weights of BatchNorm that are not those of a new one."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            for tensor, low, high in (
                (module.running_mean, -1, 1), (module.running_var, 0.3, 3),
                (module.weight.data, -2, 2), (module.bias.data, -1, 1),
            ):  # fmt: skip
                tensor.uniform_(low, high, generator=generator)
    return model


@pytest.mark.parametrize(("name", "norms"), [("resnet8", 7), ("resnet18", 20), ("vgg16", 13)])
def test_the_networks_of_the_package_have_every_norm_folded(name: str, norms: int) -> None:
    model = lively(build_model(name, num_classes=4, image_size=32, width=0.25, seed=1)).eval()
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    folded, names = with_folded_batch_norms(model, example=images)
    assert len(names) == norms
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(isinstance(folded.get_submodule(norm), nn.Identity) for norm in names)
    exact = copy.deepcopy(model).double()(images.double())
    error, plain = ((network(images) - exact).abs().max() for network in (folded, model))
    assert error <= 20 * plain + 1e-6 * exact.abs().max()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert with_stochastic_relus(folded, NoFault())(images).shape == (2, 4)


class Tail(nn.Module):
    """A convolution ``a`` and a BatchNorm ``b``, called as ``run`` says."""

    def __init__(self, run: Callable[[Tail, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.run = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), run
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.run(self, x)).mean((2, 3))


def alias(tail: Tail) -> Tail:
    tail.c = tail.a
    return tail


def hooked(tail: Tail) -> Tail:
    tail.a.register_forward_hook(lambda module, inputs, output: output + 1)
    return tail


def derived(tail: Tail) -> Tail:
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    tail.a = Doubled(3, 3, 3, padding=1)
    return tail


def weighted(tail: Tail) -> Tail:
    nn.utils.parametrizations.weight_norm(tail.a)
    return tail


def without_statistics(tail: Tail) -> Tail:
    tail.b = nn.BatchNorm2d(3, track_running_stats=False)
    return tail


FORBIDDEN = {
    "read twice": Tail(lambda m, x: m.b(y := m.a(x)) + y),
    "convolution called twice": Tail(lambda m, x: m.b(m.a(x)) + m.a(x + 1)),
    "norm called twice": Tail(lambda m, x: m.b(m.b(m.a(x)))),
    "something between": Tail(lambda m, x: m.b(m.a(x) * 2)),
    "norm first": Tail(lambda m, x: m.a(m.b(x))),
    "weight read elsewhere": Tail(lambda m, x: m.b(m.a(x)) * m.a.weight.mean()),
    "two names": alias(Tail(lambda m, x: m.b(m.a(x)) + m.c(x))),
    "hook": hooked(Tail(lambda m, x: m.b(m.a(x)))),
    "derived class": derived(Tail(lambda m, x: m.b(m.a(x)))),
    "parametrization": weighted(Tail(lambda m, x: m.b(m.a(x)))),
    "statistics of the batch": without_statistics(Tail(lambda m, x: m.b(m.a(x)))),
}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_what_may_not_be_folded_stays(case: str) -> None:
    model = lively(FORBIDDEN[case]).eval()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    folded, names = with_folded_batch_norms(model, example=images)
    assert names == ()
    assert torch.equal(folded(images), model(images))


def test_a_hook_of_a_block_between_the_two_is_kept() -> None:
    model = lively(nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 3)), nn.BatchNorm2d(3), nn.ReLU())).eval()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    with model[0].register_forward_hook(lambda module, inputs, output: output + 1):
        folded, names = with_folded_batch_norms(model)
        assert names == ()
        assert torch.equal(folded(images), model(images))
    with model.register_forward_hook(lambda module, inputs, output: output + 1):  # it sees the same values
        folded, names = with_folded_batch_norms(model)
        assert names == ("1",)
        assert torch.allclose(folded(images), model(images), atol=1e-5)


def test_the_allowed_form_of_these_cases_is_folded() -> None:
    assert with_folded_batch_norms(Tail(lambda m, x: m.b(m.a(x))))[1] == ("b",)


def test_an_example_that_shows_another_output_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(Tail(lambda m, x: m.b(m.a(x)))).eval()
    monkeypatch.setattr("circa_train.nn.folding.fuse_conv_bn_eval", lambda conv, norm: copy.deepcopy(conv))
    with pytest.raises(ConversionError, match="outputs that differ by"):
        with_folded_batch_norms(model, example=torch.randn(2, 3, 8, 8))


def test_a_stochastic_network_is_refused() -> None:
    network = with_stochastic_relus(Tail(lambda m, x: m.b(m.a(x))), NoFault())
    with pytest.raises(ConversionError, match="give the plain network"):
        with_folded_batch_norms(network)
