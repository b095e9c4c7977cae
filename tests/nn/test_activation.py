"""The layer: its faults follow the exact law, every output is 0 or the input, and the gradient is the drawn
gate.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from circa_train import (
    BitWindow,
    NoFault,
    StochasticReLU,
    TruncatedSign,
    UniformFault,
    expected_faults,
    uniform_masks,
)
from circa_train.fault import SignTest, draw_sign, truncated_sign
from circa_train.fixed_point import FixedPointOverflow, to_fixed
from circa_train.nn.observation import observe

SPECS: list[SignTest] = [
    TruncatedSign(12),
    TruncatedSign(18, "negpass"),
    TruncatedSign(0),
    TruncatedSign(5, prime=65537),
    TruncatedSign(30, "negpass"),
    UniformFault(0.03),
    UniformFault(0.1, "passed"),
    BitWindow(10, 20),
]
KINDS = ("wrap_zeroed", "wrap_passed", "truncation_zeroed", "truncation_passed", "flip_zeroed", "flip_passed")


def activations(spec: SignTest, count: int = 300_000) -> tuple[Tensor, int]:
    """Reals that span the field of ``spec`` without overflow, dense near zero, with exact zeros among
    them.
    """
    z = torch.randn(count, generator=torch.Generator().manual_seed(1)) ** 3
    z[:: count // 100] = 0.0
    limit = 2**15 if isinstance(spec, TruncatedSign) and spec.prime < 2**17 else 2**30
    return z / z.abs().max(), int(math.log2(limit)) - 1


def deviations(observed: object, expected: object) -> dict[str, float]:
    """(observed - expected) / sigma by kind. sigma^2 <= expected: a sum of independent Bernoulli
    variables.
    """
    result = {}
    for kind in KINDS:
        got, want = getattr(observed, kind), getattr(expected, kind)
        result[kind] = (got - want) / math.sqrt(want) if want else (math.inf if got else 0.0)
    return result


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_faults_follow_the_law_by_kind_and_direction(spec: SignTest) -> None:
    z, frac_bits = activations(spec)
    relu = StochasticReLU(spec, frac_bits=frac_bits, seed=2, site=1, name="")
    x, _ = to_fixed(z, frac_bits, relu.settings.prime)
    with observe(torch.nn.Sequential(relu)) as sites:
        y = relu(z)
    assert bool(((y == 0) | (y == z)).all()), "every output is 0 or the input"
    observed, expected = sites["0"].faults, expected_faults(x, spec)
    assert all(abs(sigma) < 5 for sigma in deviations(observed, expected).values()), deviations(
        observed, expected
    )
    assert observed.zeroed == int(((x > 0) & (y == 0)).sum())
    assert observed.passed == int(((x < 0) & (y != 0)).sum())
    assert expected.faults > 100, "the test would see something"


def test_the_bound_sees_a_bias_of_one_bit() -> None:
    """A layer that truncates one bit more than it says is caught."""
    spec, planted = TruncatedSign(12), TruncatedSign(13)
    z, frac_bits = activations(spec)
    x, _ = to_fixed(z, frac_bits, spec.prime)
    with observe(torch.nn.Sequential(relu := StochasticReLU(planted, frac_bits=frac_bits))) as sites:
        relu(z)
    assert max(abs(v) for v in deviations(sites["0"].faults, expected_faults(x, spec)).values()) > 5


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_gate_is_the_sign_test_at_the_address(spec: SignTest) -> None:
    z, frac_bits = activations(spec, 5000)
    relu = StochasticReLU(spec, frac_bits=frac_bits, seed=7, site=3)
    relu.set_draw(11, 2)
    z = z.reshape(50, 100)
    x, _ = to_fixed(z, frac_bits, relu.settings.prime)
    gate, _ = draw_sign(x, spec, seed=7, site=3, draw=11, first_element=200)
    assert torch.equal(relu(z), torch.where(gate, z, torch.zeros_like(z)))
    if isinstance(spec, TruncatedSign):
        t = uniform_masks((50, 100), seed=7, site=3, draw=11, first_element=200, prime=spec.prime)
        assert torch.equal(gate, truncated_sign(x, t, spec))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_gradient_is_the_drawn_gate_even_at_zero(spec: SignTest) -> None:
    z, frac_bits = activations(spec, 3000)
    z[0], z[1] = 0.0, -0.0
    z.requires_grad_()
    relu = StochasticReLU(spec, frac_bits=frac_bits)
    weights = torch.randn(3000, generator=torch.Generator().manual_seed(3))
    x, _ = to_fixed(z.detach(), frac_bits, relu.settings.prime)
    gate, _ = draw_sign(x, spec, seed=0, site=0, draw=0)
    (relu(z) * weights).sum().backward()
    got, z.grad = z.grad, None
    (z * gate * weights).sum().backward()
    assert torch.equal(got, z.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_no_fault_is_bitwise_nn_relu(dtype: torch.dtype) -> None:
    z = torch.randn(1000).to(dtype)
    z[:3] = torch.tensor([0.0, -0.0, float("nan")])
    results = []
    for function in (StochasticReLU(NoFault()), F.relu):
        leaf = z.clone().requires_grad_()
        y = function(leaf)
        y.backward(torch.ones_like(y))
        results.append((y.detach().view(torch.uint8),
        leaf.grad.view(torch.uint8)))  # type: ignore[union-attr]
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_every_forward_is_a_new_draw_that_can_be_replayed() -> None:
    z = torch.randn(1000)
    relu = StochasticReLU(TruncatedSign(16))
    first, second = relu(z), relu(z)
    assert not torch.equal(first, second)
    relu.set_draw(0)
    assert torch.equal(relu(z), first)
    assert relu.address.tolist() == [1, 0]
    other = copy.deepcopy(relu)
    assert torch.equal(other(z), second)
    assert torch.equal(relu(z), second)
    assert not torch.equal(StochasticReLU(TruncatedSign(16), site=1)(z), first)
    assert not torch.equal(StochasticReLU(TruncatedSign(16), seed=1)(z), first)


def test_training_mode_is_not_the_switch() -> None:
    z = torch.randn(1000)
    relu = StochasticReLU(TruncatedSign(16))
    trained = relu.train()(z)
    relu.set_draw(0)
    assert torch.equal(relu.eval()(z), trained)
    relu.faults_enabled = False
    assert torch.equal(relu(z), F.relu(z))
    assert relu.address.tolist() == [1, 0]


def test_overflow_is_counted_or_refused_by_site() -> None:
    z = torch.tensor([5000.0, 1.0, -1.0, -5000.0])
    with pytest.raises(
        FixedPointOverflow, match=r"site block.relu: 2 of 4 activations overflow.*\|z\| reaches 5000"
    ):
        StochasticReLU(TruncatedSign(3), frac_bits=20, name="block.relu")(z)
    for policy in ("wrap", "saturate"):
        relu = StochasticReLU(TruncatedSign(3), frac_bits=20, overflow=policy)
        y = relu(relu(z))
        assert bool(((y == 0) | (y == z)).all())
        assert int(relu.overflows) >= 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_site(value: float) -> None:
    with pytest.raises(ValueError, match=r"site \(unnamed\): 1 of 2 activations are NaN or infinite"):
        StochasticReLU(TruncatedSign(3))(torch.tensor([1.0, value]))


def test_observers_do_not_change_the_outcome() -> None:
    z = torch.randn(64, 50)
    relu = StochasticReLU(TruncatedSign(14))
    want = relu(z)
    relu.set_draw(0)
    with observe(torch.nn.Sequential(relu)) as sites:
        assert torch.equal(relu(z), want)
    seen = sites["0"]
    assert (seen.values, seen.low, seen.high) == (3200, float(z.min()), float(z.max()))
    assert seen.fault_rate == seen.faults.faults / 3200
    assert relu.observer is None


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="frac_bits = 70"):
        StochasticReLU(TruncatedSign(3), frac_bits=70)
    with pytest.raises(ValueError, match="seed = -1"):
        StochasticReLU(TruncatedSign(3), seed=-1)
    with pytest.raises(ValueError, match="site = 70000"):
        StochasticReLU(TruncatedSign(3), site=70000)
    with pytest.raises(ValueError, match="overflow = 'clip'"):
        StochasticReLU(TruncatedSign(3), overflow="clip")
    with pytest.raises(ValueError, match="backend = 'tpu' is not one of"):
        StochasticReLU(TruncatedSign(3), backend="tpu")
    with pytest.raises(ValueError, match="k for 3 channels"):
        StochasticReLU(TruncatedSign((1, 2, 3)))(torch.zeros(2, 4, 5))
