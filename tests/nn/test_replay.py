"""Under activation checkpointing the second run of a region repeats the draws of the first; elsewhere every
forward is a new draw.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from circa_train import BitWindow, StochasticReLU, TruncatedSign, UniformFault, with_stochastic_relus
from circa_train.nn.control import draw_state, set_draw, stochastic_relus

REENTRANT = pytest.mark.parametrize("reentrant", [False, True])
IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


FLIPS = UniformFault(0.4)


def network(spec: Any = FLIPS, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    act = nn.ReLU()
    parts = nn.Sequential(nn.Conv2d(3, 4, 3), act, nn.Conv2d(4, 4, 3), act, nn.Flatten(), nn.Linear(64, 3))
    return with_stochastic_relus(parts, spec, **options).train()


def gradients(net: nn.Module, run: Callable[[nn.Module, Tensor], Tensor]) -> list[Tensor]:
    net.zero_grad()
    images = IMAGES.clone().requires_grad_()
    run(net, images).square().sum().backward()
    return [images.grad, *(p.grad for p in net.parameters())]  # type: ignore[list-item]


@REENTRANT
@pytest.mark.parametrize(
    "spec", [UniformFault(0.4), TruncatedSign(17), TruncatedSign(17, "negpass"), BitWindow(12, 20)]
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradients_are_those_of_the_plain_forward(reentrant: bool, spec: Any, backend: str) -> None:
    net = network(spec, backend=backend)
    want = gradients(net, lambda n, x: n(x))
    after = draw_state(net)
    set_draw(net, 0)
    got = gradients(net, lambda n, x: checkpoint(n, x, use_reentrant=reentrant))
    assert all(map(torch.equal, got, want))
    assert draw_state(net) == after, "the second run uses up no draw"
    again = gradients(net, lambda n, x: checkpoint(n, x, use_reentrant=reentrant))
    assert not torch.equal(again[0], want[0]), "the next step draws anew"


@REENTRANT
def test_several_forwards_before_one_backward(reentrant: bool) -> None:
    net = network()

    def twice(wrap: bool) -> Callable[[nn.Module, Tensor], Tensor]:
        def run(n: nn.Module, x: Tensor) -> Tensor:
            parts = [checkpoint(n, x, use_reentrant=reentrant) if wrap else n(x) for _ in range(3)]
            return parts[0] + 2 * parts[1] + 3 * parts[2]

        return run

    want = gradients(net, twice(False))
    set_draw(net, 0)
    got = gradients(net, twice(True))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@REENTRANT
@pytest.mark.filterwarnings(
    "ignore:None of the inputs have requires_grad"
)  # of a region in a region, by torch
def test_one_site_run_several_times_in_a_region_and_regions_in_regions(reentrant: bool) -> None:
    relu = StochasticReLU(UniformFault(0.5))

    def inner(x: Tensor) -> Tensor:
        return relu(relu(x) - 0.5) + 0.1

    def outer(x: Tensor) -> Tensor:
        return relu(checkpoint(inner, relu(x) - 0.2, use_reentrant=reentrant))

    def plain(x: Tensor) -> Tensor:
        return relu(inner(relu(x) - 0.2))

    results = []
    for run in (plain, lambda x: checkpoint(outer, x, use_reentrant=reentrant)):
        x = torch.linspace(-2, 2, 4000).requires_grad_()
        relu.set_draw(5)
        y = run(x)
        y.square().sum().backward()
        results += [(y.detach(), x.grad)]
        assert relu.address.tolist() == [9, 0]
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])  # type: ignore[arg-type]


@REENTRANT
def test_segments_of_a_sequence_and_a_graph_kept_for_two_backwards(reentrant: bool) -> None:
    parts = nn.Sequential(
        *(nn.Sequential(nn.Linear(9, 9), StochasticReLU(UniformFault(0.4), site=i)) for i in range(4))
    )
    x = torch.randn(20, 9).requires_grad_()
    y = parts(x)
    (want,) = torch.autograd.grad(y.sum(), x)
    set_draw(parts, 0)
    checkpointed = checkpoint_sequential(parts, 2, x, use_reentrant=reentrant)
    assert torch.equal(checkpointed, y)
    for _ in range(2):
        x.grad = None
        checkpointed.sum().backward(retain_graph=True)
        assert torch.equal(x.grad, want)  # type: ignore[arg-type]


@REENTRANT
def test_overflows_are_counted_once_and_the_first_image_is_repeated(reentrant: bool) -> None:
    relu = StochasticReLU(TruncatedSign(10), frac_bits=28, overflow="wrap")
    relu.set_draw(3, 17)
    x = (torch.randn(50, 40) * 4).requires_grad_()
    y = checkpoint(relu, x, use_reentrant=reentrant)
    counted = int(relu.overflows)
    y.sum().backward()
    assert counted > 0
    assert int(relu.overflows) == counted
    assert torch.equal(x.grad != 0, y != 0)  # type: ignore[operator]
    assert relu.address.tolist() == [4, 17]


def test_evaluation_mode_is_replayed_or_refused() -> None:
    net = network().eval()
    want = gradients(net, lambda n, x: n(x))
    set_draw(net, 0)
    assert all(map(torch.equal, gradients(net, lambda n, x: checkpoint(n, x, use_reentrant=False)), want))
    with pytest.raises(RuntimeError, match=r"site [13] runs again in a backward pass .*use_reentrant=False"):
        gradients(net, lambda n, x: checkpoint(n, x, use_reentrant=True))


def test_a_forward_in_somebodys_backward_is_a_draw_of_its_own() -> None:
    relu = StochasticReLU(UniformFault(0.5))

    class Calls(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            return grad + relu(torch.ones(3))

    x = torch.zeros(3, requires_grad=True)
    Calls.apply(x).sum().backward()
    assert relu.address.tolist() == [1, 0]


def test_copies_made_in_between_do_not_share_what_was_noted() -> None:
    net = network()
    y = checkpoint(net, IMAGES.clone().requires_grad_(), use_reentrant=False)
    other = copy.deepcopy(net)
    y.sum().backward()
    assert draw_state(other) == draw_state(net)
    assert all(relu.address.tolist() == [1, 0] for relu in stochastic_relus(net).values())
