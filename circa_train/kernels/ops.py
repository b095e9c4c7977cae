"""The operators of a site as torch sees them: traceable, differentiable, and one for all backends.

``stochastic_relu(z, address, settings, backend, statistics, name) -> (y, counts)`` reads the draw from the
tensor ``address``, so a compiled graph draws anew each time without being compiled again. It changes none of
its arguments. Its derivative is the gate, which y shows, so nothing else is kept for the backward pass.
``counts`` are those of :data:`COUNTS`, and after them how many values are not finite. On the CPU and in the
reference that last number is always 0, because such a value is an error at once. On CUDA the host does not
wait for the result. There the caller keeps the counts, and raises the error later.

``gate_gradient(grad, y, backend)`` is that derivative. It is linear in ``grad``, so it is also its own
derivative.

``stochastic_relu_without_gradient`` is the first operator without a derivative. torch runs Python code for an
operator that has one, and between convolutions that costs as much as a thousand elements.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from circa_train.fault import SignTest, sign_test_from_dict
from circa_train.fixed_point import to_fixed
from circa_train.kernels import reference
from circa_train.kernels.settings import COUNTS, SiteSettings
from circa_train.tricks import allowed

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


#: Settings that were written in this process, by their text. After so many the oldest are forgotten.
_WRITTEN: dict[str, SiteSettings] = {}
_MOST_WRITTEN = 2**14


def settings_to_text(settings: SiteSettings) -> str:
    """The settings as an operator's argument. Inverse of :func:`settings_from_text`.

    The text tells two classes of one name apart: a class may be defined twice, as in a notebook.
    """
    fields = {name: getattr(settings, name) for name in ("frac_bits", "seed", "site", "overflow")}
    text = json.dumps({"spec": settings.spec.to_dict(), "class": id(type(settings.spec)), **fields})
    if text not in _WRITTEN and len(_WRITTEN) >= _MOST_WRITTEN:
        del _WRITTEN[next(iter(_WRITTEN))]
    _WRITTEN[text] = settings
    return text


def settings_from_text(text: str) -> SiteSettings:
    """The settings that :func:`settings_to_text` wrote. If another process wrote them, their sign test is of
    the newest class of its kind.
    """
    return _WRITTEN.get(text) or _read(text)


@functools.lru_cache(maxsize=4096)
def _read(text: str) -> SiteSettings:
    fields = json.loads(text)
    del fields["class"]
    return SiteSettings(sign_test_from_dict(fields.pop("spec")), **fields)


@functools.cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def kernel(backend: str) -> Any:
    """The module of a fused backend, imported at its first use: numba and Triton take a second each."""
    if backend == "cpu":
        from circa_train.kernels.cpu import launch

        return launch
    from circa_train.kernels import triton

    return triton


def unavailable(backend: str, device: torch.device, dtype: torch.dtype, spec: SignTest | None = None) -> str:
    """Why ``cpu`` or ``triton`` cannot compute this sign test on such tensors, empty if it can.

    Without a ``spec`` the question is about the backward pass, which is the same for all sign tests.
    """
    if backend == "cpu":
        if not allowed("CIRCA_TRAIN_CPU_KERNEL"):
            return "CIRCA_TRAIN_CPU_KERNEL=0 switches it off"
        if device.type != "cpu":
            return f"it computes on the CPU, and the activation is on {device}"
        if not _installed("numba"):
            return "numba is not installed (pip install numba)"
    elif not _installed("triton"):
        return "triton is not installed (pip install triton)"
    elif device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"it computes on CUDA devices, and the activation is on {device}"
    elif dtype == torch.float64:
        return f"it computes up to 32 bits, and the activation is {dtype}"
    if spec is not None and not kernel(backend).computes(spec):
        return f"it has no code for the sign test {spec.kind!r}"
    return ""


def choose(backend: str, device: torch.device, dtype: torch.dtype, spec: SignTest | None = None) -> str:
    """The backend that computes: the one asked for. Under ``auto`` it is the fused one of the device if it
    can, else the reference, which computes every sign test that keeps the contract.

    Raises:
        ValueError: if the one asked for cannot compute this sign test on such tensors, saying why.
    """
    if backend == "auto":
        fused = "cpu" if device.type == "cpu" else "triton"
        return "reference" if unavailable(fused, device, dtype, spec) else fused
    reason = "" if backend == "reference" else unavailable(backend, device, dtype, spec)
    if reason:
        raise ValueError(
            f"backend = {backend!r} cannot run here: {reason}; backend='auto' chooses one that can"
        )
    return backend


def _compute(
    z: Tensor, address: Tensor, settings: str, backend: str, statistics: bool, name: str
) -> tuple[Tensor, Tensor]:
    """:func:`stochastic_relu`, see above. ``name`` is how errors call the site.

    Raises:
        TypeError: if ``z`` is not a floating point tensor.
        ValueError: if ``z`` holds NaN or an infinity, or the backend cannot run.
        FixedPointOverflow: if a value does not fit, under the ``raise`` policy.
    """
    if z.dtype not in DTYPES:
        raise TypeError(
            f"site {name or '(unnamed)'}: the activation is {z.dtype}, not one of "
            f"{', '.join(map(str, DTYPES))}"
        )
    try:
        site = settings_from_text(settings)
        return _forward(z, site, address, choose(backend, z.device, z.dtype, site.spec), statistics)
    except ValueError as error:
        raise named(error, name) from error


def _shapes(
    z: Tensor, address: Tensor, settings: str, backend: str, statistics: bool, name: str
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(z), torch.empty(len(COUNTS) + 1, dtype=torch.int64, device=z.device)


stochastic_relu = torch.library.custom_op("circa_train::stochastic_relu", _compute, mutates_args=())
stochastic_relu.register_fake(_shapes)

_LIBRARY = torch.library.Library("circa_train", "FRAGMENT")
_LIBRARY.define(
    "stochastic_relu_without_gradient(Tensor z, Tensor address, str settings, str backend, bool statistics, "
    "str name) -> (Tensor, Tensor)"
)
_LIBRARY.impl("stochastic_relu_without_gradient", _compute, "CompositeExplicitAutograd")
torch.library.register_fake("circa_train::stochastic_relu_without_gradient", _shapes, lib=_LIBRARY)
stochastic_relu_without_gradient = torch.ops.circa_train.stochastic_relu_without_gradient.default


@torch.library.custom_op("circa_train::gate_gradient", mutates_args=())
def gate_gradient(grad: Tensor, y: Tensor, backend: str) -> Tensor:
    """``grad`` where y shows that the gate was open, else 0."""
    chosen = choose(backend, y.device, y.dtype) if grad.dtype == y.dtype else "reference"
    if chosen != "reference":
        return kernel(chosen).backward(grad, y)
    return torch.empty_like(y, dtype=grad.dtype).copy_(reference.backward(grad, y))


@gate_gradient.register_fake
def _(grad: Tensor, y: Tensor, backend: str) -> Tensor:
    return torch.empty_like(y, dtype=grad.dtype)


def _keep_y(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[0])
    ctx.backend = inputs[3]


def _gate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return gate_gradient(grad, ctx.saved_tensors[0], ctx.backend), None, None, None, None, None


def _keep_gate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.backend = inputs[2]


def _gate_again(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return gate_gradient(grad, ctx.saved_tensors[0], ctx.backend), None, None


stochastic_relu.register_autograd(_gate, setup_context=_keep_y)
gate_gradient.register_autograd(_gate_again, setup_context=_keep_gate)


def refuse(z: Tensor, settings: SiteSettings, overflows: int, not_finite: int) -> None:
    """Raise if the activation holds what the site's policy does not allow. The error says how far it
    reached.
    """
    if not_finite or (overflows and settings.overflow == "raise"):
        to_fixed(z, settings.frac_bits, settings.prime, settings.overflow)


def named(error: ValueError, name: str) -> ValueError:
    """The same error, saying at which site."""
    return type(error)(f"site {name or '(unnamed)'}: {error}")


def _forward(
    z: Tensor, settings: SiteSettings, address: Tensor, backend: str, statistics: bool
) -> tuple[Tensor, Tensor]:
    if backend == "reference":
        y, counts = reference.forward(z, settings, address, statistics)
        return torch.empty_like(z).copy_(y), F.pad(counts, (0, 1))
    y, counts = kernel(backend).forward(z, settings, address, statistics)
    if backend == "cpu":
        overflows, *_, not_finite = counts.tolist()
        refuse(z, settings, overflows, not_finite)
    return y, counts
