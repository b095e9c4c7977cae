"""Operations of the machine for which numba has no function: a rounding, a count of bits, memory by address,
an atomic sum. Each is a few lines of LLVM's intermediate language (IR), which numba compiles with the rest.

numba's own arrays lie on the heap, and their references are counted. The counting would cost as much as the
work on a run. So compiled code takes memory by its address: that of the tensors, and that of the stack.

This file, :mod:`circa_train.kernels.cpu.philox` and :mod:`circa_train.gc.aes.lanes` are all that writes IR.
numba promises no stable interface for it. CIRCA_TRAIN_CPU_KERNEL=0 does without the first two.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import carray, extending, njit, types
from numba.core import cgutils

intrinsic: Any = extending.intrinsic  # Any: its declared type wants the caller to pass the typing context


#: How the kernel's functions are compiled. ``inlined`` ones become part of their caller, so that the compiler
#: knows which of its arrays lie in the same memory, and which values no loop changes.
machine_code = njit(nogil=True, error_model="numpy")
inlined = njit(nogil=True, error_model="numpy", forceinline=True)


@intrinsic
def rint(typing: Any, value: Any) -> Any:
    """``value`` (float32 or float64) rounded to the nearest integer, halves to even. It is one instruction,
    also for a vector.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [args[0].type]), args)

    return value(value), generate


@intrinsic
def trailing_zeros(typing: Any, value: Any) -> Any:
    """How many zero bits ``value`` ends with. It is an unsigned integer, and not 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return value(value), generate


@intrinsic(prefer_literal=True)
def stack(typing: Any, dtype: Any, count: Any) -> Any:
    """The address of ``count`` (a constant) uninitialised numbers on the stack. They start at a cache line,
    and are there until the function that called this returns.
    """
    length = count.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room = cgutils.alloca_once(builder, ir.ArrayType(context.get_value_type(dtype.dtype), length))
        room.align = 64
        return builder.ptrtoint(room, ir.IntType(64))

    return types.int64(dtype, count), generate


@intrinsic
def _pointer(typing: Any, address: Any, dtype: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(dtype.dtype)(address, dtype), generate


@njit(inline="always")
def array_at(address: Any, count: Any, dtype: Any) -> Any:
    """``count`` numbers of ``dtype`` (a numpy scalar class) at an integer address."""
    return carray(_pointer(address, dtype), count)


@intrinsic(prefer_literal=True)
def prefetch(typing: Any, address: Any, to_write: Any) -> Any:
    """Have the cache line of an address fetched, to be written (``to_write`` = 1, a constant) or read (0).
    The address need not be a valid one.
    """
    write = to_write.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        flags = [ir.Constant(ir.IntType(32), flag) for flag in (write, 3, 1)]  # into the first level, data
        kind = ir.FunctionType(ir.VoidType(), [place.type, *[ir.IntType(32)] * 3])
        builder.call(builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind), [place, *flags])
        return context.get_dummy_value()

    return types.void(address, to_write), generate


@intrinsic
def call_int(typing: Any, address: Any) -> Any:
    """What the C function ``int f(void)`` at an integer address returns."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(builder.inttoptr(args[0], ir.FunctionType(ir.IntType(32), []).as_pointer()), [])

    return types.int32(types.int64), generate


@intrinsic
def atomic_add(typing: Any, address: Any, value: Any) -> Any:
    """Add to the int64 at an integer address, safely among threads. Returns what was there before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", target, args[1], "monotonic")

    return types.int64(types.int64, types.int64), generate
