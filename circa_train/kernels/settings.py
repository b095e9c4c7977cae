"""The settings of a site: what a kernel is told about it, apart from the tensor and the draw."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from circa_train.fault import FAULT_COLUMNS, SignTest
from circa_train.fault.masks import check_address
from circa_train.field import as_int
from circa_train.fixed_point import FracBits, check_overflow_policy, check_site_frac_bits

#: What a kernel counts, in the order of its ``counts`` tensor (int64). Without statistics it counts the
#: overflows only, and the others are 0.
COUNTS = ("overflows", *FAULT_COLUMNS)


@dataclass(frozen=True)
class SiteSettings:
    """A site: its sign test, fixed-point format, and part of the masks' address. Checked when made.

    ``frac_bits`` are of all channels, or one number per channel (dimension 1 of the activation).
    """

    spec: SignTest
    frac_bits: FracBits
    seed: int
    site: int
    overflow: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "frac_bits", check_site_frac_bits(self.frac_bits))
        for name in ("seed", "site"):
            object.__setattr__(self, name, as_int(name, getattr(self, name)))
        check_overflow_policy(self.overflow)
        check_address(self.seed, self.site, 0)
        object.__setattr__(
            self, "_hash", hash((self.spec, self.frac_bits, self.seed, self.site, self.overflow))
        )

    def __hash__(self) -> int:
        """Computed once, because settings are looked up at every forward of their site."""
        return int(self._hash)  # type: ignore[attr-defined]

    @property
    def prime(self) -> int:
        """The field that bounds the fixed-point values."""
        return self.spec.prime


@cache
def largest_float(limit: int) -> float:
    """The largest float32 that does not exceed ``limit``. For a float32 both bounds say the same."""
    value = torch.tensor(limit, dtype=torch.float32)
    return float(value if int(value) <= limit else torch.nextafter(value, torch.zeros_like(value)))


def is_channels_last(z: Tensor) -> bool:
    """Are the elements of ``z`` without gaps in the order images, pixels, channels, and not in that of its
    dimensions?
    """
    return z.dim() > 2 and not z.is_contiguous() and z.movedim(1, -1).is_contiguous()
