"""The machine operations that numba has no name for: a rounding, a count of bits, a cast, and an atomic sum."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_intrinsic: Any = intrinsic  # whose own type says that the typing context is passed by the caller


@_intrinsic
def rint(typing: Any, value: Any) -> Any:
    """``value`` (float32 or float64) rounded to the nearest integer, halves to even: one instruction, also in a vector."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [args[0].type]), args)

    return value(value), generate


@_intrinsic
def trailing_zeros(typing: Any, value: Any) -> Any:
    """How many zero bits are below the lowest one of ``value``, an unsigned integer that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return value(value), generate


@_intrinsic
def pointer(typing: Any, address: Any, dtype: Any) -> Any:
    """The memory at an integer address as a pointer to numbers of ``dtype`` (a numpy scalar class), for ``carray``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(dtype.dtype)(address, dtype), generate


@_intrinsic
def atomic_add(typing: Any, address: Any, value: Any) -> Any:
    """Add to the int64 at an integer address, whatever other threads do; returns what was there before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", target, args[1], "monotonic")

    return types.int64(types.int64, types.int64), generate
