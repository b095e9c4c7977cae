"""Memory for large results: large pages from the system, and freed memory that the process keeps.

When a program first touches a page of new memory, the system has to provide that page (a page fault). With
pages of 4 KiB this takes most of the time of an elementwise operator on a large tensor. It happens again in
every layer: torch takes memory from the C library, and that one returns a large tensor's memory to the system
as soon as the tensor is gone. There are two remedies:

- Linux gives pages of 2 MiB to memory that asks for them (``madvise``), unless the machine's settings forbid
  it. torch asks only if THP_MEM_ALLOC_ENABLE is set before it starts. Here every large result asks, unless
  CIRCA_TRAIN_LARGE_PAGES=0.
- glibc keeps freed memory if it is told to (``mallopt``). Then the process never becomes smaller, so
  importing this package does not do it: a program calls :func:`keep_memory`. All our scripts do, and
  CIRCA_TRAIN_KEEP_MEMORY=0 makes that call do nothing.
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

from circa_train.tricks import allowed

LARGE_PAGE = 2**21
_MADV_HUGEPAGE = 14
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

_kept = False  # set by keep_memory()

#: Where large pages have been asked for, as (first, last) address. Used only if memory is kept: new memory at
#: the same place has to ask again.
_advised: set[tuple[int, int]] = set()
_MOST_ADVISED = 4096


def empty_like(tensor: Tensor) -> Tensor:
    """``torch.empty_like(tensor)``, in large pages if it is large and the system has some."""
    return _in_large_pages(torch.empty_like(tensor))


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """``torch.empty(shape, dtype=dtype)``, in large pages likewise."""
    return _in_large_pages(torch.empty(shape, dtype=dtype))


def _in_large_pages(result: Tensor) -> Tensor:
    size = result.numel() * result.element_size()
    if size >= LARGE_PAGE:
        _advise(result.data_ptr(), size)
    return result


def keep_memory() -> bool:
    """Tell glibc to keep freed memory for the next tensors of this process. Returns whether it will.

    Nothing is done if the C library is not glibc, if the user has set glibc's own variables (GLIBC_TUNABLES,
    MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_MAX_, MALLOC_MMAP_THRESHOLD_), or if CIRCA_TRAIN_KEEP_MEMORY=0.
    """
    chosen = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in chosen):
        return False
    if not allowed("CIRCA_TRAIN_KEEP_MEMORY"):
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
    advise(first, last - first, _MADV_HUGEPAGE)  # only advice: if it is refused, pages are small
    if _kept and len(_advised) < _MOST_ADVISED:
        _advised.add((first, last))


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux" or not allowed("CIRCA_TRAIN_LARGE_PAGES"):
        return None
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return advise
