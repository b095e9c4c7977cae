"""numba values that hold 1, 2 or 4 AES blocks in one vector register, and the few instructions on them.

A compiled function gets its width from the type of the lanes it is given, so one source serves AES-NI (1 block) and
VAES (2 or 4). Addresses are ``uintp`` byte addresses of 16-byte aligned data; nothing is bounds-checked here, that is
the callers' part. Importing this module imports numba: do so only where a kernel is about to be compiled.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.extending import models, register_model

# numba types these functions by what they return, which no static checker can follow.
intrinsic: Any = extending.intrinsic

_WORD = ir.IntType(64)
_INDEX = ir.IntType(32)
_SUFFIX = {1: "", 2: ".256", 4: ".512"}


class Lanes(types.Type):
    """The numba type of ``blocks`` AES blocks side by side."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        super().__init__(name=f"Lanes({blocks})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Any) -> None:
        super().__init__(manager, lanes, _vector(lanes))


def _vector(lanes: Any) -> Any:
    return ir.VectorType(_WORD, 2 * lanes.blocks)


def _splat(lanes: Any, words: list[int]) -> Any:
    return ir.Constant(_vector(lanes), words * lanes.blocks)


@intrinsic(prefer_literal=True)
def broadcast(typingctx: Any, address: Any, blocks: Any) -> Any:
    """The one block at ``address`` in every lane; ``blocks`` must be a compile-time constant."""
    lanes = Lanes(blocks.literal_value)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], _WORD.as_pointer())
        words = [builder.load(cgutils.gep_inbounds(builder, pointer, i)) for i in range(2)]
        value = ir.Constant(_vector(lanes), ir.Undefined)
        for position in range(2 * lanes.blocks):
            value = builder.insert_element(value, words[position % 2], ir.Constant(_INDEX, position))
        return value

    return lanes(types.uintp, blocks), generate


@intrinsic
def lane_bytes(typingctx: Any, like: Any) -> Any:
    """16 times the number of blocks that ``like`` has."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_WORD, 16 * like.blocks)

    return types.uint64(like), generate


@intrinsic
def load(typingctx: Any, address: Any, like: Any) -> Any:
    """As many consecutive blocks from ``address`` as ``like`` has."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        loaded = builder.load(builder.inttoptr(args[0], _vector(like).as_pointer()))
        loaded.align = 16
        return loaded

    return like(types.uintp, like), generate


@intrinsic
def store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write all blocks of ``value`` to ``address``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        stored = builder.store(args[1], builder.inttoptr(args[0], _vector(value).as_pointer()))
        stored.align = 16
        return context.get_dummy_value()

    return types.void(types.uintp, value), generate


@intrinsic
def xor(typingctx: Any, a: Any, b: Any) -> Any:
    """a ^ b"""
    return a(a, a), lambda context, builder, signature, args: builder.xor(*args)


@intrinsic
def mask(typingctx: Any, a: Any, b: Any) -> Any:
    """a & b"""
    return a(a, a), lambda context, builder, signature, args: builder.and_(*args)


def _aes_instruction(name: str) -> Any:
    @intrinsic
    def instruction(typingctx: Any, state: Any, key: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vector = _vector(state)
            function_type = ir.FunctionType(vector, [vector, vector])
            function = cgutils.get_or_insert_function(
                builder.module, function_type, f"llvm.x86.aesni.{name}{_SUFFIX[state.blocks]}"
            )
            return builder.call(function, args)

        return state(state, state), generate

    return instruction


#: One middle round, and the last round, of AES encryption.
aes_round = _aes_instruction("aesenc")
aes_last_round = _aes_instruction("aesenclast")


def _ramp(word: int) -> Any:
    @intrinsic
    def ramp(typingctx: Any, low: Any, high: Any, like: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            # A splat and one addition of a constant; inserting every lane by itself would cost as much as AES rounds.
            value = ir.Constant(_vector(like), ir.Undefined)
            for position in range(2):
                value = builder.insert_element(value, args[position], ir.Constant(_INDEX, position))
            pairs = ir.Constant(
                ir.VectorType(_INDEX, 2 * like.blocks), [ir.Constant(_INDEX, i % 2) for i in range(2 * like.blocks)]
            )
            value = builder.shuffle_vector(value, ir.Constant(_vector(like), ir.Undefined), pairs)
            steps = [i // 2 if i % 2 == word else 0 for i in range(2 * like.blocks)]
            return builder.add(value, ir.Constant(_vector(like), steps))

        return like(types.uint64, types.uint64, like), generate

    return ramp


#: (low, high, like): lane i holds the block of words (low + i, high), or (low, high + i).
count_low = _ramp(0)
count_high = _ramp(1)


@intrinsic
def colour_mask(typingctx: Any, label: Any) -> Any:
    """All ones in the lanes whose block has colour 1 (bit 0 of its low word), else all zeros."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        both_low = ir.Constant(
            ir.VectorType(_INDEX, 2 * label.blocks), [ir.Constant(_INDEX, i & ~1) for i in range(2 * label.blocks)]
        )
        low = builder.shuffle_vector(args[0], ir.Constant(_vector(label), ir.Undefined), both_low)
        return builder.sub(_splat(label, [0, 0]), builder.and_(low, _splat(label, [1, 1])))

    return label(label), generate
