"""What a kernel needs to know about a site, apart from the tensor and the address of the draw."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from circa_train.fault import FAULT_COLUMNS, SignTest
from circa_train.fault.masks import check_address
from circa_train.field import as_int
from circa_train.fixed_point import check_frac_bits, check_overflow_policy

#: What a kernel counts, in the order of its ``counts`` tensor (int64). Without statistics only the first is
#: filled in.
COUNTS = ("overflows", *FAULT_COLUMNS)


@dataclass(frozen=True)
class SitePlan:
    """A site: its sign test, its fixed-point format, and its part of the mask address. Checked when made."""

    spec: SignTest
    frac_bits: int
    seed: int
    site: int
    overflow: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "frac_bits", check_frac_bits(self.frac_bits))
        for name in ("seed", "site"):
            object.__setattr__(self, name, as_int(name, getattr(self, name)))
        check_overflow_policy(self.overflow)
        check_address(self.seed, self.site, 0)
        object.__setattr__(
            self, "_hash", hash((self.spec, self.frac_bits, self.seed, self.site, self.overflow))
        )

    def __hash__(self) -> int:
        """Worked out once: a plan is looked up at every forward of its site."""
        return int(self._hash)  # type: ignore[attr-defined]

    @property
    def prime(self) -> int:
        """The field that bounds the fixed-point values."""
        return self.spec.prime


@cache
def largest_float(limit: int) -> float:
    """The largest float32 that does not exceed ``limit``: an equal bound for values of that precision."""
    value = torch.tensor(limit, dtype=torch.float32)
    return float(value if int(value) <= limit else torch.nextafter(value, torch.zeros_like(value)))


def is_channels_last(z: Tensor) -> bool:
    """Whether ``z`` fills its memory in the order of images, then pixels, then channels, and not in its
    own.
    """
    return z.dim() > 2 and not z.is_contiguous() and z.movedim(1, -1).is_contiguous()
