"""Which kernel a machine gets: compiled AES instructions if numba may use them, else OpenSSL and numpy."""

from __future__ import annotations

from functools import cache

from circa_train.gc.aes.engine_numpy import NumpyKernel
from circa_train.gc.aes.hashing import Kernel
from circa_train.tricks import allowed

#: Kernel names by vector width in blocks. "auto" takes the widest that the host has.
_NUMBA_WIDTHS = {"numba-128": 1, "numba-256": 2, "numba-512": 4}


def make_kernel(key: bytes, name: str = "auto") -> Kernel:
    """The kernel called ``name`` under the public AES key ``key`` (16 bytes).

    Args:
        name: "auto", "numpy", or one of "numba-128" (AES-NI), "numba-256" and "numba-512" (VAES). All give
            the same bytes.

    Raises:
        ValueError: for a name that is unknown, or that this machine cannot run.
    """
    usable = available_kernels()
    if name == "auto":
        name = usable[0]
    if name == "numpy":
        return NumpyKernel(key)
    if name not in usable:
        raise ValueError(f"kernel = {name!r} cannot run here; choose 'auto' or one of {usable}")
    from circa_train.gc.aes.engine_numba import NumbaKernel

    return NumbaKernel(key, _NUMBA_WIDTHS[name])


@cache
def available_kernels() -> tuple[str, ...]:
    """Names of the kernels that this machine can run, fastest first; "numpy" is always among them."""
    features = _compiler_features()
    names = []
    if {"vaes", "avx512f"} <= features:
        names.append("numba-512")
    if {"vaes", "avx2"} <= features:
        names.append("numba-256")
    if {"aes", "sse2"} <= features:
        names.append("numba-128")
    return (*names, "numpy")


def _compiler_features() -> set[str]:
    """The processor's features that code compiled by numba may use. There are none if the user told numba not
    to compile, or not to use this processor's, or if CIRCA_TRAIN_COMPILED_AES=0.

    If LLVM is asked for an instruction that its target lacks, it ends the process. So in doubt the answer is
    no.
    """
    if not allowed("CIRCA_TRAIN_COMPILED_AES"):
        return set()
    try:
        from llvmlite.binding import get_host_cpu_features
        from numba import config
    except ImportError:
        return set()
    settings = vars(config)
    untouched = settings["CPU_NAME"] is None and settings["CPU_FEATURES"] is None and settings["ENABLE_AVX"]
    if settings["DISABLE_JIT"] or not untouched:
        return set()
    return {feature for feature, present in get_host_cpu_features().items() if present}
