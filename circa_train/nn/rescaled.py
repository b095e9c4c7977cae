"""A site that rescales what it lets through, as two parties do it before they multiply by the gate.

In the protocol the next linear layer reads s times the rescaled x (:mod:`circa_train.rescaling`): with
x = round_half_even(z * 2^frac_bits) and the sign test's own mask t, both parties drop ``bits`` low bits of
their shares of x, and

    y = s * R(x, t) / 2^(frac_bits - bits),     R(x, t) = floor(x / 2^bits), or one more

R rounds x / 2^bits up or down by the low bits of t, never a unit away. That is exact for what a convolution
reads behind a ReLU, and equal to the integer network's value bit for bit, as long as y's floating point type
holds R (float32: up to 2^24). Two things are not so in a network of floating point:

- A shortcut that reads the same activation reads it rescaled here, and unrescaled in the integer network,
  which carries both.
- What is rescaled behind no ReLU (a pooling) is not rescaled here.

Where these matter, evaluate the exported integer network. The gradient is straight through: dy/dz = s.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from circa_train.fault import SignTest
from circa_train.field import to_centred
from circa_train.fixed_point import FixedPointOverflow, frac_bits_text, scale_like
from circa_train.kernels import uniform_masks
from circa_train.nn import replay
from circa_train.nn.activation import StochasticReLU
from circa_train.rescaling import check_rescale_bits, offset_rescale, outside_domain


class RescaledReLU(StochasticReLU):
    """A :class:`StochasticReLU` whose result is rescaled by the offset method.

    Args:
        spec: the sign test. With ``NoFault()`` the gate is exact, and the rescaling draws masks all the same.
        bits: low bits to drop, at most those there are.
        options: of :class:`StochasticReLU`. Under ``overflow`` values outside |x| < p / 4 are refused
            (``raise``), come out as in the protocol (``wrap``), or are clamped to p / 4 (``saturate``); the
            latter two are counted in ``overflows``.

    ``faults_enabled = False`` makes it a plain ReLU that rescales nothing.
    """

    def __init__(self, spec: SignTest, *, bits: int, **options: Any) -> None:
        super().__init__(spec, **options)
        _leave_to_eager()
        self.bits = check_rescale_bits(bits, spec.prime)
        self._check_bits()
        self._repeated = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _leave_to_eager()

    @property
    def draws_masks(self) -> bool:
        """Whether two draws differ even with an exact gate."""
        return self.faults_enabled and self.bits > 0

    def _check_bits(self) -> None:
        fewest = self.frac_bits if isinstance(self.frac_bits, int) else min(self.frac_bits)
        if self.bits > fewest:
            raise ValueError(
                f"site {self.name or '(unnamed)'}: {self.bits} bits cannot be dropped from values of "
                f"{fewest} fraction bits"
            )

    def set_frac_bits(self, frac_bits: int | Sequence[int]) -> None:
        before = self.settings
        super().set_frac_bits(frac_bits)
        try:
            self._check_bits()
        except ValueError:
            self.settings = before
            raise

    def set_spec(self, spec: SignTest) -> None:
        check_rescale_bits(self.bits, spec.prime)
        super().set_spec(spec)

    def forward(self, z: Tensor) -> Tensor:
        if not self.faults_enabled:
            return F.relu(z)
        if self.spec.is_exact:
            address = replay.address(self, self.address, self.name) if _may_repeat(self) else self.address
            y = self._rescale(F.relu(z), address.clone())
            if address is self.address:
                self.address[0].add_(1)
            return y
        address, self._repeated = self.address.clone(), False
        y = super().forward(z)
        return y if self._repeated else self._rescale(y, address)

    def _again(self, z: Tensor, address: Tensor) -> Tensor:
        self._repeated = True
        return self._rescale(super()._again(z, address), address)

    def _transformed(self, z: Tensor) -> Tensor:
        raise RuntimeError(
            f"site {self.name or '(unnamed)'} rescales, which needs values that torch.func's transformations "
            "do not show: convert with rescale_bits=0"
        )

    def _rescale(self, y: Tensor, address: Tensor) -> Tensor:
        """y on the coarser grid, under the masks of ``address``; the gradient of y."""
        prime, quarter = self.settings.prime, self.settings.prime // 4
        scale = scale_like(self.frac_bits, y)
        x = to_centred(torch.round(y.detach().double() * scale).long(), prime)
        outside = outside_domain(x, prime)
        if bool(outside.any()):
            if self.settings.overflow == "raise":
                raise FixedPointOverflow(
                    f"site {self.name or '(unnamed)'}: {int(outside.sum())} of {x.numel()} values are "
                    "outside the domain of the offset rescaling, |z| < "
                    f"{prime / 4 / float(torch.as_tensor(scale).max()):.6g} at "
                    f"{frac_bits_text(self.frac_bits)} fraction bits for p = {prime}; use fewer "
                    "fraction bits, or accept it knowingly with overflow='wrap' or 'saturate'"
                )
            self.overflows += outside.sum()
            if self.settings.overflow == "saturate":
                x = x.clamp(-quarter, quarter)
        draw, first_image = address.tolist()
        mask = uniform_masks(
            x.shape, seed=self.seed, site=self.site, draw=draw, prime=prime, device=x.device,
            first_element=first_image * math.prod(x.shape[1:]),
        )  # fmt: skip
        rescaled = offset_rescale(x, mask, self.bits, prime).double() * 2.0**self.bits / scale
        return rescaled.to(y.dtype) + (y - y.detach())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"


@functools.cache
def _leave_to_eager() -> None:
    """Keep torch.compile out of the rescaling. As a decorator this would import torch's compiler, eight
    seconds of every script's start; so it is done when the first site is made or unpickled.
    """
    disabled = torch.compiler.disable(RescaledReLU._rescale)
    RescaledReLU._rescale = disabled  # type: ignore[method-assign]


def _may_repeat(site: RescaledReLU) -> bool:
    return not torch.compiler.is_compiling() and replay.possible(site.training)
