"""The short way through a site: the operator's bits, draws and errors, and only where nobody else looks
on.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from circa_train.fault import BitWindow, SignTest, TruncatedSign, UniformFault
from circa_train.fixed_point import FixedPointOverflow
from circa_train.kernels import eager
from circa_train.kernels.cpu import launch as cpu
from circa_train.nn import activation
from circa_train.nn.activation import StochasticReLU

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def site(spec: SignTest | None = None, **options: object) -> StochasticReLU:
    return StochasticReLU(spec or TruncatedSign(14), seed=5, site=3, name="layer1.relu",
    **options)  # type: ignore[arg-type]


@pytest.fixture
def the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "_eager", lambda: None)


@pytest.fixture
def short_calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    calls: list[Tensor] = []
    real = eager.stochastic_relu
    monkeypatch.setattr(eager, "stochastic_relu", lambda z, *rest: (calls.append(z), real(z, *rest))[1])
    return calls


SPECS = [TruncatedSign(14), TruncatedSign(20, "negpass"), UniformFault(0.2), BitWindow(3, 20)]


@pytest.mark.parametrize("spec", SPECS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[gpu, pytest.mark.gpu])])
def test_it_draws_and_differentiates_as_the_operator_does(
    spec: SignTest,
    dtype: torch.dtype,
    device: str,
    short_calls: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short, long = site(spec).to(device), site(spec).to(device)
    z = torch.randn(6, 5, 9, 7, dtype=dtype, device=device)
    for relu in (short, long):
        relu.set_draw(11, 4)
    for layout in (z, z.to(memory_format=torch.channels_last), z.transpose(0, 1)):
        for needs_gradient in (False, True):
            results = []
            for relu in (short, long):
                leaf = (
                    layout.detach().clone(memory_format=torch.preserve_format).requires_grad_(needs_gradient)
                )
                with monkeypatch.context() as patch:
                    if relu is long:
                        patch.setattr(activation, "_eager", lambda: None)
                    y = relu(leaf)
                    results.append([y.detach()])
                    if needs_gradient:
                        results[-1] += torch.autograd.grad(
                            y, leaf, torch.arange(y.numel(), device=device).reshape(y.shape).to(dtype)
                        )
            for ours, theirs in zip(*results, strict=True):
                assert torch.equal(ours, theirs)
                assert ours.stride() == theirs.stride()
            assert torch.equal(torch.signbit(results[0][0]), torch.signbit(results[1][0]))
    assert short.address.tolist() == long.address.tolist() == [17, 4]
    assert len(short_calls) == (0 if (device, dtype) == ("cuda", torch.float64) else 6)


def test_the_gradient_has_a_gradient_and_may_be_asked_for_twice() -> None:
    z = torch.randn(300, dtype=torch.float64, requires_grad=True)
    y = site()(z)
    (gradient,) = torch.autograd.grad(y.pow(3).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), z)
    assert torch.equal(second, torch.where(gradient != 0, 6 * z, 0).detach())
    y = site()(z)
    first, again = (torch.autograd.grad(y.sum(), z, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)


def test_errors_are_the_operators_and_use_up_no_draw(
    the_long_way: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases: list[tuple[StochasticReLU, Tensor, type[Exception]]] = [
        (site(), torch.tensor([1.0, float("nan")]), ValueError),
        (site(), torch.tensor([1.0, 1e6]), FixedPointOverflow),
        (site(overflow="wrap"), torch.tensor([float("inf"), 1e6]), ValueError),
        (site(TruncatedSign((1, 2, 3))), torch.ones(2, 4), ValueError),
        (site(), torch.tensor([1]), TypeError),
    ]
    for relu, z, kind in cases:
        with pytest.raises(kind) as long:
            relu(z)
        with monkeypatch.context() as patch:
            patch.setattr(activation, "_eager", lambda: eager)
            with pytest.raises(kind) as short:
                relu(z)
        assert str(short.value) == str(long.value)
        assert "layer1.relu" in str(short.value)
        assert relu.address.tolist() == [0, 0]


@pytest.mark.parametrize("policy", ["wrap", "saturate"])
def test_lenient_policies_count_what_they_let_pass(policy: str, short_calls: list[Tensor]) -> None:
    relu, z = site(overflow=policy), torch.tensor([1.0, 1e6, -1e7])
    relu(z)
    relu(z.requires_grad_())
    assert int(relu.overflows) == 4
    assert len(short_calls) == 2


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("policy", ["raise", "wrap"])
def test_on_a_gpu_it_counts_for_later_what_the_operator_counts(
    policy: str, short_calls: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = (site(overflow=policy).cuda() for _ in range(2))
    for z in (torch.tensor([1.0, 1e6, -1e7]).cuda(), torch.tensor([1.0, float("nan")]).cuda()):
        short(z)
        short(z.requires_grad_())
        with monkeypatch.context() as patch:
            patch.setattr(activation, "_eager", lambda: None)
            long(z.detach())
            long(z)
    assert len(short_calls) == 4
    for name in ("address", "overflows", "pending"):
        assert torch.equal(getattr(short, name), getattr(long, name)), name
    assert short.pending.tolist() == [6, 2]  # what is not finite is outside, too


def test_who_looks_on_sees_the_operator(short_calls: list[Tensor]) -> None:
    relu, z = site(backend="cpu"), torch.randn(40)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as trace:
        relu(z)
    assert any(event.key.startswith("circa_train::stochastic_relu") for event in trace.key_averages())
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert relu(mode.from_tensor(z)).shape == z.shape
    graph = make_fx(lambda x: relu(x))(z)
    assert "circa_train.stochastic_relu" in graph.code
    assert site(backend="reference")(z).shape == z.shape
    assert not short_calls
    relu(z)
    assert len(short_calls) == 1


def test_a_draw_that_lies_elsewhere_is_not_read_as_memory(short_calls: list[Tensor]) -> None:
    relu = site().to("meta")
    with pytest.raises(
        ValueError, match=r"layer1.relu: the activation is on cpu and the module on meta; move the module"
    ):
        relu(torch.randn(5))
    assert not short_calls


def test_without_a_compiled_kernel_there_is_no_short_way(
    the_long_way: None, short_calls: list[Tensor]
) -> None:
    network = nn.Sequential(nn.Linear(4, 4), site())
    network(torch.randn(3, 4)).sum().backward()
    assert not short_calls


def test_inputs_that_others_hold_stay_as_they_are() -> None:
    z = torch.randn(5000)
    before = z.clone()
    site()(z)
    assert torch.equal(z, before)


def test_a_job_is_filled_in_anew_every_time() -> None:
    relu, z = site(), torch.randn(20_000)
    relu.set_draw(7, 0)
    first = relu(z)
    relu.set_draw(8, 1)
    other = relu(z)
    relu.set_draw(7, 0)
    assert torch.equal(relu(z), first)
    assert not torch.equal(first, other)
    assert cpu._template.cache_info().maxsize is not None, "shapes that vary must not fill the memory"
