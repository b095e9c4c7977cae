"""Fresh memory for large results, in large pages where the system offers them.

Memory new from the system costs a page fault at the first touch of every page: at 4 KiB per page that is most of the time
of an elementwise operator on a large tensor. Linux gives 2 MiB pages to memory that asks for them (``madvise``), unless it
is told never to; torch itself asks only if THP_MEM_ALLOC_ENABLE is set before it starts.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

import torch
from torch import Tensor

LARGE_PAGE = 2**21
_MADV_HUGEPAGE = 14


def empty_like(tensor: Tensor) -> Tensor:
    """``torch.empty_like(tensor)``, whose whole large pages are asked for as such."""
    result = torch.empty_like(tensor)
    first = -(-result.data_ptr() // LARGE_PAGE) * LARGE_PAGE
    last = (result.data_ptr() + result.numel() * result.element_size()) // LARGE_PAGE * LARGE_PAGE
    advise = _advise() if last > first else None
    if advise is not None:
        advise(first, last - first, _MADV_HUGEPAGE)  # advice: where it is refused, small pages do
    return result


@functools.cache
def _advise() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return advise
