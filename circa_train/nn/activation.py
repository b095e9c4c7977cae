"""The stochastic ReLU as a module: y = z where the drawn sign test says so, else 0.

The law (arXiv 2106.08475, section 3): with x = round_half_even(z * 2^frac_bits) and a fresh mask t uniform on
[0, p) per element, s is the truncated sign test of x under t, and y = z if s else 0. Whatever the fault, y is
either z or 0. The gradient is the gate that was drawn: dy/dz = s.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circa_train.fault import SignTest
from circa_train.fault.masks import MAX_DRAWS
from circa_train.fixed_point import (
    FixedPointOverflow,
    FracBits,
    check_site_frac_bits,
    frac_bits_text,
    range_text,
)
from circa_train.kernels import (
    COUNTS,
    SiteSettings,
    check_backend,
    settings_to_text,
    stochastic_relu,
    stochastic_relu_without_gradient,
    transformed,
)
from circa_train.nn import replay
from circa_train.tricks import allowed


class StochasticReLU(nn.Module):
    """A ReLU whose sign test errs exactly as the protocol's does.

    Faults do not depend on ``training``: they exist at inference, and :attr:`faults_enabled` switches them.
    Masks are addressed by (seed, site, draw, element). Every forward is a new draw. The buffer ``address``
    counts the draws, and setting it replays one (:func:`circa_train.nn.control.set_draw`). An element's
    number is its row-major index in the whole batch. So the halves of a batch, or its parts on several ranks,
    draw the masks that the whole batch draws, if each is told the number of its first image.

    Args:
        spec: the sign test. ``NoFault()`` is bitwise ``nn.ReLU``, forward and backward.
        frac_bits: fraction bits at which the sign test sees the activation: of all channels, or one number
            per channel (dimension 1 of the activation). Only the gate depends on them, y is z itself or 0.
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
        pending: int64 buffer (2,), not in the state_dict: on CUDA, how many values overflowed, and how many
            were not finite, since the last check (:func:`raise_pending`).

    Raises (in forward; on CUDA, where the host does not wait for the result, in :func:`raise_pending`):
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
        frac_bits: int | Sequence[int] = 16,
        seed: int = 0,
        site: int = 0,
        overflow: str = "raise",
        backend: str = "auto",
        name: str = "",
    ) -> None:
        super().__init__()
        self.backend = check_backend(backend)
        self.settings = SiteSettings(spec, check_site_frac_bits(frac_bits), seed, site, overflow)
        self.name = name
        self.faults_enabled = True
        self.observer: Any = None
        self._overwrites = False
        self._producer: tuple[nn.Module, ...] = ()  # in a tuple, so that it is not registered as a submodule
        self.register_buffer("address", torch.zeros(2, dtype=torch.int64), persistent=False)
        self.register_buffer("overflows", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("pending", torch.zeros(2, dtype=torch.int64), persistent=False)

    @property
    def settings(self) -> SiteSettings:
        """What the kernels are told about this site, besides its address."""
        return self._settings

    @settings.setter
    def settings(self, settings: SiteSettings) -> None:
        self._settings, self._settings_text = settings, settings_to_text(settings)

    @property
    def spec(self) -> SignTest:
        return self.settings.spec

    @property
    def frac_bits(self) -> FracBits:
        return self.settings.frac_bits

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def site(self) -> int:
        return self.settings.site

    def set_spec(self, spec: SignTest) -> None:
        """Put another sign test at this site; fixed-point format and masks' address stay."""
        self.settings = replace(self.settings, spec=spec)

    def set_frac_bits(self, frac_bits: int | Sequence[int]) -> None:
        """Let the sign test see the activation at other fraction bits; spec and masks' address stay."""
        self.settings = replace(self.settings, frac_bits=check_site_frac_bits(frac_bits))

    def set_draw(self, draw: int, first_image: int = 0) -> None:
        """Choose the next draw, and which image of the whole batch comes first in the next input."""
        if not 0 <= draw < MAX_DRAWS or first_image < 0:
            raise ValueError(
                f"draw = {draw}, first_image = {first_image}: need 0 <= draw < 2^63 and first_image >= 0"
            )
        self.address[0] = draw
        self.address[1] = first_image

    def overwrite_input(self, *watched: nn.Module | None) -> None:
        """Allow y to be written over z. The caller promises that z is new memory, which nothing else reads.

        It is done on a CPU if no gradient is wanted, and saves half of the traffic between processor and
        memory. A hook may read z. So z is left as it is while this module has a hook, or one of the modules
        ``watched`` has: those that made z or passed it on.
        """
        self._overwrites = True
        self._producer = tuple(module for module in watched if module is not None)

    def overwrite_as(self, other: StochasticReLU | None) -> None:
        """Allow what ``other`` allows, and watch the same modules. For None: allow nothing."""
        self._overwrites = other is not None and other._overwrites
        self._producer = () if other is None else other._producer

    def _watched(self) -> bool:
        modules = (self, *self._producer)
        return any(m._forward_hooks or m._forward_pre_hooks for m in modules) or bool(_global_hooks())

    def forward(self, z: Tensor) -> Tensor:
        if not self.faults_enabled or self._settings.spec.is_exact:
            return F.relu(z)
        compiling = torch.compiler.is_compiling()
        if not compiling and replay.possible(self.training):
            address = replay.address(self, self.address, self.name)
            if address is not self.address:
                return self._again(z, address)
        if not compiling and self.observer is None:
            eager = _eager()
            if eager is not None and eager.applies(z, self.backend, self.address, self._settings.spec):
                in_place = self._overwrites and not self._watched()
                state = (self.address, self.overflows, self.pending)
                return eager.stochastic_relu(z, self._settings, state, self.name, in_place)
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
            z, self.address, self._settings_text, self.backend, self.observer is not None, self.name
        )
        if self.settings.overflow != "raise":
            self.overflows += counts[0]
        if z.is_cuda:
            self.pending += counts[:: len(COUNTS)]
        if self.observer is not None:
            self.observer.record(z.detach(), counts[: len(COUNTS)])
        self.address[0].add_(1)
        return y

    def _again(self, z: Tensor, address: Tensor) -> Tensor:
        """The forward once more, with a draw that was made before. No draw and no overflow is counted."""
        needs_gradient = z.requires_grad and torch.is_grad_enabled()
        operator = stochastic_relu if needs_gradient else stochastic_relu_without_gradient
        y, _ = operator(z, address, self._settings_text, self.backend, False, self.name)
        return y

    def _transformed(self, z: Tensor) -> Tensor:
        if self.observer is not None:
            raise RuntimeError(
                f"site {self.name or '(unnamed)'} is observed under a transformation of torch.func, where "
                "values are not known: observe a plain forward pass"
            )
        state, strict = (self.address, self.overflows, self.pending), self.settings.overflow == "raise"
        return transformed.stochastic_relu(z, state, self._settings_text, self.backend, strict, self.name)

    def raise_pending(self) -> None:
        """Raise the errors of earlier forwards on CUDA, for which the host did not wait. It waits now."""
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
        if overflows and self.settings.overflow == "raise":
            raise FixedPointOverflow(
                f"{site}: {overflows} activations since the last check overflow the field: "
                f"{range_text(self.frac_bits, self.settings.prime)}; "
                "fit_frac_bits finds the largest that fits; overflow='wrap' or 'saturate' accept it knowingly"
            )

    def extra_repr(self) -> str:
        settings = self.settings
        frac_bits = frac_bits_text(settings.frac_bits)
        address = f"frac_bits={frac_bits}, seed={settings.seed}, site={settings.site}"
        return f"{settings.spec}, {address}, overflow={settings.overflow!r}"


@functools.cache
def _eager() -> Any:
    """The module of the short way, imported at the first forward, because numba takes a second. None if
    numba is missing, or if the user has switched that way off.
    """
    if not (allowed("CIRCA_TRAIN_CPU_KERNEL") and allowed("CIRCA_TRAIN_SHORT_WAY")):
        return None
    try:
        from circa_train.kernels import eager
    except ImportError:
        return None
    return eager


def _global_hooks() -> int:
    """How many hooks watch all modules there are. torch tells by private names; without them the answer is
    not 0, so that nothing is overwritten.
    """
    names = ("_global_forward_hooks", "_global_forward_pre_hooks")
    return sum(len(getattr(nn.modules.module, name, "?")) for name in names)


def raise_pending(model: nn.Module) -> None:
    """Raise the errors that the stochastic sites of ``model`` had on CUDA since the last check. On a CPU
    forwards raise them at once, and nothing is left to raise. Of several sites the first one's error is
    raised, and none is left for a later check: that would blame other forwards.

    A loop calls this where it waits for the device anyway, and before it stores anything: for example when it
    reads the loss of a step, or after the last batch of an evaluation. Then no overflow and no NaN is missed,
    and no forward has to wait.

    Raises:
        ValueError, FixedPointOverflow: as :class:`StochasticReLU` says.
    """
    first: Exception | None = None
    for module in model.modules():
        if isinstance(module, StochasticReLU):
            try:
                module.raise_pending()
            except ValueError as error:
                first = first or error
    if first is not None:
        raise first
