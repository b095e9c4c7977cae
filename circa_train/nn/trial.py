"""Try a conversion out on an example, so that whatever a trace loses is noticed, known or not.

Three comparisons, in evaluation mode and without faults: the outputs of the converted network with those of
the plain one, their gradients by parameter and input, and the ReLUs that really run with the sites. The last
looks at values, not at names: a step outside of the sites whose result is the ReLU of something computed
before is a ReLU, however it is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from circa_train.nn.activation import StochasticReLU
from circa_train.nn.control import evaluating, without_faults
from circa_train.nn.tracing.errors import ConversionError
from circa_train.nn.tracing.leaves import refuse_unfinished
from circa_train.nn.tracing.preserving import unchanged
from circa_train.nn.tracing.recognition import place_of

#: How far the two networks may differ, as a share of the largest value: they run the same operations, which
#: some libraries sum up in another order the second time.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_SEED = 20210615
#: So much of a gradient is compared: all of it, but for the weights of the largest layers.
_COMPARED = 2**22


def try_out(plain: nn.Module, network: nn.Module, example: Any, *, refuse_relus: bool = True) -> None:
    """Run an example through ``network`` and the ``plain`` one it was made from; both are left as they were.

    Args:
        plain: the network as it was given.
        network: the converted one.
        example: a batch, or a tuple of arguments.
        refuse_relus: refuse ReLUs that run outside of the sites.

    Raises:
        ConversionError: if outputs or gradients differ, or a ReLU runs that is no site.
    """
    refuse_unfinished(network)
    args = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    with (
        unchanged(plain),
        unchanged(network),
        evaluating(plain),
        evaluating(network),
        without_faults(network),
    ):
        _compare(_run(plain, args), _run(network, args), type(plain).__name__)
        if refuse_relus:
            with torch.no_grad(), _same_random_numbers(plain), _Watch(network) as watch:
                _Steps(network, watch).run(*args)


def _run(network: nn.Module, args: tuple[Any, ...]) -> dict[str, Tensor]:
    """Outputs, and the gradients of a fixed weighted sum of them, by name."""
    with torch.inference_mode(False), torch.enable_grad(), _same_random_numbers(network):
        leaves, inputs = [], []
        for value in args:
            if isinstance(value, Tensor) and value.is_floating_point():
                leaves.append(value.detach().clone().requires_grad_())
                value = leaves[-1] * 1  # an in-place step may come first, and a leaf forbids it
            inputs.append(value)
        outputs = [leaf for leaf in pytree.tree_leaves(network(*inputs)) if isinstance(leaf, Tensor)]
        found = {f"output {number}": value.detach() for number, value in enumerate(outputs)}
        differentiable = [value for value in outputs if value.requires_grad and value.is_floating_point()]
        total = sum((value.cpu().double() * _weights(value)).sum() for value in differentiable)
        if isinstance(total, Tensor):
            wanted: dict[str, Tensor] = {n: p for n, p in network.named_parameters() if p.requires_grad}
            wanted |= {f"argument {number}": leaf for number, leaf in enumerate(leaves)}
            gradients = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
            found |= {
                f"gradient of {name}": gradient.flatten()[:_COMPARED].clone()
                for name, gradient in zip(wanted, gradients, strict=True)
                if gradient is not None
            }
    return found


def _compare(plain: dict[str, Tensor], converted: dict[str, Tensor], network: str) -> None:
    for name in [*plain, *converted]:
        a, b = plain.get(name), converted.get(name)
        if a is None or b is None:
            difference = f"only the {'converted' if a is None else 'plain'} one has a {name}"
        elif a.shape != b.shape or a.dtype != b.dtype:
            difference = f"its {name} is {b.dtype} {tuple(b.shape)}, not {a.dtype} {tuple(a.shape)}"
        elif torch.equal(a, b) or _close(a, b):
            continue
        else:
            difference = f"its {name} differs by up to {float((a.double() - b.double()).abs().max()):.3g}"
        raise ConversionError(
            f"converted and without faults, {network} does not compute what it did on the example: "
            f"{difference}. "
            "Something in its forward is lost in a trace (state that is kept between calls, numbers computed "
            "in Python): write it with operations on tensors alone"
        )


def _close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return False
    finite = a[a.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(a, b, rtol=0, atol=_TOLERANCE.get(a.dtype, 0.0) * largest, equal_nan=True)


def _weights(value: Tensor) -> Tensor:
    """A weight for every element, no two alike, the same in both networks; on the CPU, for not every device
    has 64 bits.
    """
    places = torch.arange(value.numel(), dtype=torch.float64)
    return (1.5 + torch.sin(places * math.sqrt(2))).reshape(value.shape)


@contextmanager
def _same_random_numbers(network: nn.Module) -> Iterator[None]:
    """Whatever the network draws, it draws the same each time, and the caller's generators do not move."""
    parameter = next(network.parameters(), torch.zeros(()))
    with torch.random.fork_rng(devices=[parameter.device] if parameter.is_cuda else []):
        torch.manual_seed(_SEED)
        yield


class _Steps(fx.Interpreter):
    """Runs a graph and tells the watch at which node it is."""

    def __init__(self, network: nn.Module, watch: _Watch) -> None:
        super().__init__(network)
        self.watch = watch

    def run_node(self, n: fx.Node) -> Any:
        self.watch.node = n
        module = self.submodules.get(str(n.target)) if n.op == "call_module" else None
        self.watch.in_site = isinstance(module, StochasticReLU)
        return super().run_node(n)


class _Watch(TorchDispatchMode):
    """Sees every operation that torch executes, and looks for ReLUs among them.

    A tensor is remembered by one number: the weighted sum of its positive part. An operation whose result has
    no negative element, has zeros (both but for rounding), and has the number of an earlier tensor that had
    negative elements is that tensor's ReLU, unless the result itself was there before (a copy, a view). What
    is equal to a ReLU only because this example stays below its upper bound (ReLU6) is not meant.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Asked by torch: no network is compiled while this looks on. If it had to be kept out of a
        compilation, torch would import its compiler for that, which takes seven seconds.
        """
        return False

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.node: fx.Node | None = None
        # what the network holds is no activation, nor is a view of it
        held = [*network.parameters(), *network.buffers()]
        self._held = {_memory(tensor) for tensor in held}
        self.in_site = False
        self._candidates: dict[int, list[float]] = {}
        self._known: dict[int, list[float]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[-1]
        given = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        if not self._candidates:  # the first operation of all reads the example
            for value in given:
                self._remember(value)
        result = func(*args, **kwargs)
        made = [v for v in pytree.tree_leaves(result) if isinstance(v, Tensor)]
        if not self.in_site:
            if name in ("relu", "relu_") or (name.endswith("_relu") and "leaky" not in name):
                self._refuse(name)
            if not _bounded_above(name, args, kwargs) and any(map(self._is_relu, made)):
                self._refuse(name)
        for value in made:
            self._remember(value)
        return result

    def _is_relu(self, y: Tensor) -> bool:
        if y.numel() < 4 or _memory(y) in self._held:
            return False
        if (number := _number(y)) is None:
            return False
        if not (number > 0 and abs(float(y.min())) <= _rounding(y)):
            return False
        same = [other for other in self._known.get(y.numel(), ()) if _alike(number, other)]
        return not same and any(_alike(number, other) for other in self._candidates.get(y.numel(), ()))

    def _remember(self, value: Tensor) -> None:
        number = None if _memory(value) in self._held else _number(value)
        if number is None:
            return
        self._candidates.setdefault(value.numel(), [])
        if float(value.min()) >= -_rounding(value):
            self._known.setdefault(value.numel(), []).append(number)
        elif number > 0:
            self._candidates[value.numel()].append(number)

    def _refuse(self, operation: str) -> None:
        place = place_of(self.node) if self.node is not None else "the network"
        raise ConversionError(
            f"{operation} at {place} turned out to be a ReLU when the example was run, and it is no site "
            "that could be replaced: write it as nn.ReLU or F.relu, or pass "
            'other_activations="keep" to leave it as it is'
        )


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr() if value.layout == torch.strided else 0


def _number(value: Tensor) -> float | None:
    """The weighted sum of the positive part; None for what is not made of real numbers, or is not finite."""
    if not value.is_floating_point() or value.numel() == 0 or value.is_meta or value.layout != torch.strided:
        return None
    number = float((value.detach().cpu().double().clamp(min=0) * _weights(value)).sum())
    return number if math.isfinite(number) else None


def _rounding(value: Tensor) -> float:
    """What counts as zero: x + sqrt(x^2) of a negative x may be a rounding away from it, on either side."""
    return 8 * torch.finfo(value.dtype).eps * float(value.detach().abs().max())


def _alike(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-7)


def _bounded_above(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if name.rstrip("_") not in ("hardtanh", "clamp", "clip"):
        return False
    bound = kwargs.get("max", kwargs.get("max_val", args[2] if len(args) > 2 else None))
    return bound is not None and not (isinstance(bound, (int, float)) and bound == math.inf)
