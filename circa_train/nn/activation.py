"""The stochastic ReLU as a module: y = z where the drawn sign test says so, else 0.

The law (arXiv 2106.08475, section 3): with x = round_half_even(z * 2^frac_bits) and a fresh mask t uniform on
[0, p) per element, s is the truncated sign test of x under t, and y = z if s else 0. Nothing else ever comes
out, whatever the fault. The gradient is the gate that was drawn: dy/dz = s.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circa_train import kernels
from circa_train.fault import SignTest
from circa_train.fault.masks import MAX_DRAWS
from circa_train.field import largest_centred
from circa_train.fixed_point import FixedPointOverflow
from circa_train.kernels import transformed
from circa_train.kernels.ops import plan_to_text, stochastic_relu, stochastic_relu_without_gradient
from circa_train.kernels.plan import COUNTS, SitePlan
from circa_train.nn import replay


class StochasticReLU(nn.Module):
    """A ReLU whose sign test errs exactly as the protocol's does.

    Faults are a mode of their own, not ``training``: they exist at inference. Masks are addressed by (seed,
    site, draw, element); every forward is a new draw, counted in the buffer ``address``, and a draw can be
    replayed by setting it (:func:`circa_train.nn.control.set_draw`). An element's number is its row-major
    index in the whole batch, so a batch, its halves, and its parts on several ranks draw the same masks once
    the number of the first image is said.

    Args:
        spec: the sign test. ``NoFault()`` is bitwise ``nn.ReLU``, forward and backward.
        frac_bits: fraction bits at which the sign test sees the activation.
        seed: seed of the masks, in [0, 2^64).
        site: index of this site in its network, in [0, 2^16): sites with the same seed draw different masks.
        overflow: ``raise``, ``wrap`` or ``saturate``, see :mod:`circa_train.fixed_point`.
        backend: ``auto``, ``reference``, ``cpu`` or ``triton``, see :mod:`circa_train.kernels`; all give the
            same bits.
        name: how errors call this site; the qualified name in a converted network.

    Attributes:
        faults_enabled: False makes this module a plain ReLU that draws nothing.
        address: int64 buffer (2,), not in the state_dict: the next draw, and the number of the batch's first
            image.
        overflows: int64 buffer (), not in the state_dict: values that overflowed so far under ``wrap`` or
            ``saturate``.
        pending: int64 buffer (2,), not in the state_dict: on CUDA, values that overflowed, and that were not
            finite, and that no error has told of yet (:func:`raise_pending`).

    Raises (in forward; by the kernel for CUDA, which lets the host run ahead, in :func:`raise_pending`):
        ValueError: if the activation holds NaN or an infinity, or is on another device than the module.
        FixedPointOverflow: if a value does not fit into the field under the ``raise`` policy.

    Example:
        >>> relu = StochasticReLU(TruncatedSign(k=12), frac_bits=16, seed=0)
        >>> y = relu(torch.randn(8, 64, 32, 32))   # every element is 0 or the input
    """

    address: Tensor
    overflows: Tensor
    pending: Tensor

    def __init__(
        self,
        spec: SignTest,
        *,
        frac_bits: int = 16,
        seed: int = 0,
        site: int = 0,
        overflow: str = "raise",
        backend: str = "auto",
        name: str = "",
    ) -> None:
        super().__init__()
        self.backend = kernels.check_backend(backend)
        self.plan = SitePlan(spec, frac_bits, seed, site, overflow)
        self.name = name
        self.faults_enabled = True
        self.observer: Any = None
        self._overwrites = False
        self._producer: tuple[nn.Module, ...] = ()  # in a tuple, so that it is not registered as a submodule
        self.register_buffer("address", torch.zeros(2, dtype=torch.int64), persistent=False)
        self.register_buffer("overflows", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("pending", torch.zeros(2, dtype=torch.int64), persistent=False)

    @property
    def plan(self) -> SitePlan:
        """What the kernels are told about this site."""
        return self._plan

    @plan.setter
    def plan(self, plan: SitePlan) -> None:
        self._plan, self._plan_text = plan, plan_to_text(plan)

    @property
    def spec(self) -> SignTest:
        return self.plan.spec

    @property
    def frac_bits(self) -> int:
        return self.plan.frac_bits

    @property
    def seed(self) -> int:
        return self.plan.seed

    @property
    def site(self) -> int:
        return self.plan.site

    def set_spec(self, spec: SignTest) -> None:
        """Put another sign test at this site; fixed-point format and masks' address stay."""
        self.plan = replace(self.plan, spec=spec)

    def set_draw(self, draw: int, first_image: int = 0) -> None:
        """Choose the next draw, and which image of the whole batch comes first in the next input."""
        if not 0 <= draw < MAX_DRAWS or first_image < 0:
            raise ValueError(
                f"draw = {draw}, first_image = {first_image}: need 0 <= draw < 2^63 and first_image >= 0"
            )
        self.address[0] = draw
        self.address[1] = first_image

    def overwrite_input(self, *watched: nn.Module | None) -> None:
        """Allow y to be written over z, which is promised to be new memory that nobody else reads.

        It is done on a CPU where no gradient is wanted, and saves the memory system half its work. Hooks are
        somebody else: while this module, or one of those ``watched`` (which made z, or passed it on), has
        one, z stays as it is.
        """
        self._overwrites = True
        self._producer = tuple(module for module in watched if module is not None)

    def overwrite_as(self, other: StochasticReLU | None) -> None:
        """Overwrite what ``other`` may, watching the same modules; nothing for None."""
        self._overwrites = other is not None and other._overwrites
        self._producer = () if other is None else other._producer

    def _watched(self) -> bool:
        modules = (self, *self._producer)
        return any(m._forward_hooks or m._forward_pre_hooks for m in modules) or bool(_global_hooks())

    def forward(self, z: Tensor) -> Tensor:
        if not self.faults_enabled or self._plan.spec.is_exact:
            return F.relu(z)
        compiling = torch.compiler.is_compiling()
        if not compiling and replay.possible(self.training):
            address = replay.address(self, self.address, self.name)
            if address is not self.address:
                return self._again(z, address)
        if not compiling and self.observer is None:
            eager = _eager()
            if eager is not None and eager.applies(z, self.backend, self.address, self._plan.spec):
                in_place = self._overwrites and not self._watched()
                return eager.stochastic_relu(z, self._plan, self.address, self.overflows, self.name, in_place)
        if z.device != self.address.device:
            raise ValueError(
                f"site {self.name or '(unnamed)'}: the activation is on {z.device} and the module on "
                f"{self.address.device}; "
                "move the module with .to(device)"
            )
        if not compiling and transformed.applies(z):
            return self._transformed(z)
        needs_gradient = z.requires_grad and torch.is_grad_enabled()
        operator = stochastic_relu if needs_gradient else stochastic_relu_without_gradient
        y, counts = operator(
            z, self.address, self._plan_text, self.backend, self.observer is not None, self.name
        )
        if self.plan.overflow != "raise":
            self.overflows += counts[0]
        if z.is_cuda:
            self.pending += counts[:: len(COUNTS)]
        if self.observer is not None:
            self.observer.record(z.detach(), counts[: len(COUNTS)])
        self.address[0].add_(1)
        return y

    def _again(self, z: Tensor, address: Tensor) -> Tensor:
        """The forward once more, with a draw that was made before: it counts for nothing."""
        needs_gradient = z.requires_grad and torch.is_grad_enabled()
        operator = stochastic_relu if needs_gradient else stochastic_relu_without_gradient
        y, _ = operator(z, address, self._plan_text, self.backend, False, self.name)
        return y

    def _transformed(self, z: Tensor) -> Tensor:
        if self.observer is not None:
            raise RuntimeError(
                f"site {self.name or '(unnamed)'} is observed under a transformation of torch.func, where "
                "values are not known: observe a plain forward pass"
            )
        state, strict = (self.address, self.overflows, self.pending), self.plan.overflow == "raise"
        return transformed.stochastic_relu(z, state, self._plan_text, self.backend, strict, self.name)

    def raise_pending(self) -> None:
        """Raise what earlier forwards on CUDA would have raised, had the host waited for them; it waits
        now.
        """
        if not self.pending.is_cuda:
            return
        overflows, not_finite = self.pending.tolist()
        self.pending.zero_()
        site = f"site {self.name or '(unnamed)'}"
        if not_finite:
            raise ValueError(
                f"{site}: {not_finite} activations since the last check are NaN or infinite; they have no "
                "fixed-point value. "
                "Look for a diverged training run (lower the learning rate, clip gradients) or a bad input"
            )
        if overflows and self.plan.overflow == "raise":
            raise FixedPointOverflow(
                f"{site}: {overflows} activations since the last check overflow the field: frac_bits = "
                f"{self.frac_bits} holds "
                f"|z| <= {largest_centred(self.plan.prime) / 2.0**self.frac_bits:.6g} for p = "
                f"{self.plan.prime}; "
                "fit_frac_bits finds the largest that fits; overflow='wrap' or 'saturate' accept it knowingly"
            )

    def extra_repr(self) -> str:
        plan = self.plan
        address = f"frac_bits={plan.frac_bits}, seed={plan.seed}, site={plan.site}"
        return f"{plan.spec}, {address}, overflow={plan.overflow!r}"


@functools.cache
def _eager() -> Any:
    """The module of the short way, imported at the first forward, as numba takes a second; None where numba
    is missing.
    """
    try:
        from circa_train.kernels import eager
    except ImportError:
        return None
    return eager


def _global_hooks() -> int:
    """How many hooks watch every module there is; 1 where torch does not say."""
    names = ("_global_forward_hooks", "_global_forward_pre_hooks")
    return sum(len(getattr(nn.modules.module, name, "?")) for name in names)


def raise_pending(model: nn.Module) -> None:
    """Raise what the stochastic sites of ``model`` found wrong on CUDA since the last check; on a CPU there
    is nothing.

    A loop calls it where it waits for the device anyway, and before it stores anything: with the loss of a
    step, say, or after the last batch of an evaluation. Then no overflow or NaN goes unseen, and no forward
    waits.

    Raises:
        ValueError, FixedPointOverflow: as :class:`StochasticReLU` says.
    """
    for module in model.modules():
        if isinstance(module, StochasticReLU):
            module.raise_pending()
