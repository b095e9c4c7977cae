"""Memory for large results: in large pages where the system offers them, and kept by the process once it has
it.

Memory new from the system costs a page fault at the first touch of every page: at 4 KiB per page that is most
of the time of an elementwise operator on a large tensor, and torch's allocator on a CPU is the C library's,
which by default gives the memory of large tensors back to the system at once and asks for it anew in the next
layer. Two remedies:

- Linux gives 2 MiB pages to memory that asks for them (``madvise``), unless it is told never to; torch itself
  asks only if THP_MEM_ALLOC_ENABLE is set before it starts.
- glibc keeps what it has if it is told to (``mallopt``). The process then never shrinks.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from collections.abc import Callable

import torch
from torch import Tensor

LARGE_PAGE = 2**21
_MADV_HUGEPAGE = 14
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

_kept = False  # set by keep()

#: Large pages asked for already, as (first, last) address. Only of memory that is kept: what comes anew needs
#: new advice.
_advised: set[tuple[int, int]] = set()
_MOST_ADVISED = 4096


def empty_like(tensor: Tensor) -> Tensor:
    """``torch.empty_like(tensor)``, whose whole large pages are asked for as such."""
    result = torch.empty_like(tensor)
    size = result.numel() * result.element_size()
    if size >= LARGE_PAGE:
        _advise(result.data_ptr(), size)
    return result


def keep() -> bool:
    """Tell glibc to keep freed memory for the process's next tensors; whether it does.

    Nothing is changed where the user has chosen for glibc (GLIBC_TUNABLES, MALLOC_TRIM_THRESHOLD_,
    MALLOC_MMAP_MAX_, MALLOC_MMAP_THRESHOLD_), and there is nothing to change with another C library.
    """
    chosen = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in chosen):
        return False
    set_option = ctypes.CDLL(None).mallopt
    global _kept
    _kept = set_option(_M_TRIM_THRESHOLD, 2**31 - 1) == 1 and set_option(_M_MMAP_MAX, 0) == 1
    return _kept


def _advise(address: int, size: int) -> None:
    first = -(-address // LARGE_PAGE) * LARGE_PAGE
    last = (address + size) // LARGE_PAGE * LARGE_PAGE
    advise = _madvise()
    if last <= first or advise is None or (first, last) in _advised:
        return
    advise(first, last - first, _MADV_HUGEPAGE)  # advice: where it is refused, small pages do
    if _kept and len(_advised) < _MOST_ADVISED:
        _advised.add((first, last))


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return advise
