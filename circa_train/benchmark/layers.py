"""How fast stochastic ReLUs are beside plain ones: ratios of interleaved pairs, peak memory, and where the
time goes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from circa_train.benchmark.timing import Comparison, compare
from circa_train.fault import TruncatedSign, fault_probability
from circa_train.field import largest_centred
from circa_train.nn import StochasticReLU, build_model, with_stochastic_relus

K = 12
SPEC = TruncatedSign(K)


def compare_layers(
    shape: Sequence[int],
    *,
    pairs: int,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    backend: str = "auto",
) -> dict[str, Comparison]:
    """StochasticReLU against ``nn.ReLU`` (``forward``, ``forward and backward``), and counting against not
    (``statistics``).
    """
    z = torch.randn(tuple(shape), dtype=dtype, device=device)
    leaf, grad = z.clone().requires_grad_(), torch.randn_like(z)
    site, plain = StochasticReLU(SPEC, backend=backend).to(device), nn.ReLU()
    counting = copy.deepcopy(site)
    counting.observer = _Ignored()

    def step(module: nn.Module) -> Callable[[], object]:
        return lambda: torch.autograd.grad(module(leaf), leaf, grad)

    return {
        "forward": compare(lambda: site(z), lambda: plain(z), pairs, device),
        "forward and backward": compare(step(site), step(plain), pairs, device),
        "statistics": compare(lambda: counting(z), lambda: site(z), pairs, device),
    }


def compare_law(elements: int, *, pairs: int, device: str = "cpu") -> Comparison:
    """``fault_probability`` against ``torch.relu`` on the same int64 tensor, uniform over the field."""
    limit = largest_centred(SPEC.prime)
    x = torch.randint(-limit, limit + 1, (elements,), device=device)
    return compare(lambda: fault_probability(x, SPEC), lambda: torch.relu(x), pairs, device)


def evaluation_passes(
    name: str, *, batch_size: int, device: str = "cpu", backend: str = "auto"
) -> tuple[Callable, Callable]:
    """(with faults at every site, plain): one forward pass each of the same network over one batch of
    CIFAR-sized images.
    """
    plain, stochastic = _networks(name, device, backend)
    images = torch.randn(batch_size, 3, 32, 32, device=device)

    def run(network: nn.Module) -> Callable[[], Tensor]:
        network.eval()
        return torch.no_grad()(lambda: network(images))

    return run(stochastic), run(plain)


def training_steps(
    name: str, *, batch_size: int, device: str = "cpu", backend: str = "auto"
) -> tuple[Callable, Callable]:
    """(with faults at every site, plain): one step of SGD with momentum each, on the same batch of
    CIFAR-sized images.
    """
    plain, stochastic = _networks(name, device, backend)
    images = torch.randn(batch_size, 3, 32, 32, device=device)
    labels = torch.randint(0, 10, (batch_size,), device=device)

    def run(network: nn.Module) -> Callable[[], None]:
        optimizer = torch.optim.SGD(network.train().parameters(), lr=1e-3, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()

        return step

    return run(stochastic), run(plain)


def peak_bytes(run: Callable[[], object], device: str = "cpu") -> int:
    """The most memory that tensors held at once during ``run``, above what they held before."""
    run()
    if device != "cpu":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as trace:
        run()
    held = most = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def largest_costs(run: Callable[[], object], count: int = 3, device: str = "cpu") -> list[tuple[str, float]]:
    """The ``count`` operators that take most of the time of ``run`` by themselves, with their share of it."""
    run()
    activities = [ProfilerActivity.CPU] if device == "cpu" else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=activities, acc_events=True) as trace:
        run()
    kind = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    times = {event.key: float(getattr(event, kind)) for event in trace.key_averages()}
    total = sum(times.values())
    return sorted(((name, seconds / total) for name, seconds in times.items()), key=lambda item: -item[1])[
        :count
    ]


class _Ignored:
    """An observer that makes the kernel count and looks at nothing."""

    def record(self, z: Tensor, counts: Tensor) -> None:
        pass


def _networks(name: str, device: str, backend: str) -> tuple[nn.Module, nn.Module]:
    plain = build_model(name, num_classes=10, image_size=32).to(device)
    return plain, with_stochastic_relus(copy.deepcopy(plain), SPEC, backend=backend)
