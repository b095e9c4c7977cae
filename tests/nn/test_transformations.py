"""torch.func and forward-mode differentiation: the drawn gate is the derivative, and a mapped batch draws
what the batch draws.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

from circa_train import NoFault, StochasticReLU, TruncatedSign, UniformFault, with_stochastic_relus
from circa_train.nn.control import set_draw, set_specs, stochastic_relus
from circa_train.nn.observation import observe

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["auto", "reference"])
def net(request: Any) -> nn.Module:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 2))
    return with_stochastic_relus(plain, UniformFault(0.3), backend=request.param)


def loss(net: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    return functional_call(net, parameters, (x,)).square().sum()


def addresses(net: nn.Module) -> list[int]:
    return [int(relu.address[0]) for relu in stochastic_relus(net).values()]


def test_gradients_and_gradients_per_sample(net: nn.Module) -> None:
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    set_draw(net, 4)
    net(X).square().sum().backward()
    want = {name: p.grad for name, p in net.named_parameters()}
    set_draw(net, 4)
    got = grad(lambda p: loss(net, p, X))(parameters)
    assert addresses(net) == [5, 5]
    set_draw(net, 4)
    each = vmap(grad(lambda p, x: loss(net, p, x)), (None, 0))(parameters, X)
    assert addresses(net) == [5, 5]
    for name, value in want.items():
        assert torch.equal(got[name], value)
        torch.testing.assert_close(each[name].sum(0), value)


def test_jacobians_of_every_kind_agree(net: nn.Module) -> None:
    def at_four(f: Any) -> Tensor:
        set_draw(net, 4)
        return f()

    want = at_four(lambda: torch.autograd.functional.jacobian(net, X))
    torch.testing.assert_close(at_four(lambda: jacrev(net)(X)), want)
    torch.testing.assert_close(at_four(lambda: jacfwd(net)(X)), want)
    tangent = torch.ones_like(X)
    y, along = at_four(lambda: jvp(net, (X,), (tangent,)))
    assert torch.equal(y, at_four(lambda: net(X)))
    torch.testing.assert_close(along, (want * tangent).sum((2, 3)))
    _, back = at_four(lambda: vjp(net, X))
    torch.testing.assert_close(back(torch.ones_like(y))[0], want.sum((0, 1)))
    curved = at_four(lambda: hessian(lambda x: net(x).square().sum())(X))
    torch.testing.assert_close(curved, 2 * torch.einsum("abij,abkl->ijkl", want, want))
    with forward_ad.dual_level():
        dual = at_four(lambda: net(forward_ad.make_dual(X, tangent)))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, along)


def test_mapped_draws_are_those_of_the_batch(net: nn.Module) -> None:
    set_draw(net, 2)
    want = net(X)
    for options in ({}, {"randomness": "different"}, {"in_dims": 1}):
        set_draw(net, 2)
        given = X.t() if "in_dims" in options else X
        torch.testing.assert_close(vmap(net, **options)(given), want)
    set_draw(net, 2)
    torch.testing.assert_close(vmap(vmap(net))(X.reshape(1, 5, 4))[0], want)
    with pytest.raises(RuntimeError, match=r"site 1 under vmap\(randomness='same'\).*'different'"):
        vmap(net, randomness="same")(X)


def test_networks_that_are_stacked_draw_each_its_own() -> None:
    models = [
        nn.Sequential(nn.Linear(4, 60), StochasticReLU(TruncatedSign(16), overflow="wrap")) for _ in range(3)
    ]
    for number, model in enumerate(models):
        model[1].set_draw(number)
    want = torch.stack([model(X) for model in models])
    for number, model in enumerate(models):
        model[1].set_draw(number)
    parameters, buffers = stack_module_state(models)
    got = vmap(lambda p, b: functional_call(models[0], (p, b), (X,)))(parameters, buffers)
    torch.testing.assert_close(got, want)
    assert buffers["1.address"].tolist() == [[1, 0], [2, 0], [3, 0]]


def test_overflows_are_counted_and_what_cannot_be_is_refused(net: nn.Module) -> None:
    relu = StochasticReLU(TruncatedSign(3), frac_bits=29, overflow="saturate")
    y = vmap(relu)(X * 100)
    assert int(relu.overflows) == int((X.abs() * 100 * 2**29 > 2138816513 // 2).sum()) > 0
    assert bool(((y == 0) | (y == X * 100)).all())
    with observe(net), pytest.raises(RuntimeError, match="site 1 is observed under a transformation"):
        vmap(net)(X)
    set_specs(net, NoFault())
    assert torch.equal(vmap(net)(X), net(X)) or torch.allclose(vmap(net)(X), net(X))
