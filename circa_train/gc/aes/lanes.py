"""numba values that hold several AES blocks in vector registers, and the few instructions on them.

A value of type ``Lanes`` is ``count`` vectors of ``width`` blocks (1 for AES-NI, 2 or 4 for VAES). A round of
AES takes a few cycles, and one or two can start in each cycle. So :func:`encrypt` takes all vectors of its
argument through a round before the next round begins. If it encrypted one vector after the other, the
processor would not look far enough ahead to do several at once. Round keys are values, too (``Schedule``), so
the compiler keeps them in registers if there are enough. With AVX-512 there are 32 registers, else 16, and
then the order has to be forced (:func:`_afresh`).

Addresses are ``uintp`` byte addresses, on any boundary. Nothing here checks bounds: the callers do. Importing
this module imports numba, so it is imported only where a kernel is about to be compiled.

Everything here is written in LLVM's intermediate language, for which numba promises no stable interface.
CIRCA_TRAIN_COMPILED_AES=0 does without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.extending import models, register_model

from circa_train.gc.aes.key_schedule import ROUNDS

# numba finds the types of these functions by calling them, which no static checker can follow.
intrinsic: Any = extending.intrinsic

_WORD = ir.IntType(64)
_INDEX = ir.IntType(32)
_SUFFIX = {1: "", 2: ".256", 4: ".512"}


class Lanes(types.Type):
    """The numba type of ``count`` vectors of ``width`` blocks each."""

    def __init__(self, width: int, count: int) -> None:
        self.width, self.count = width, count
        super().__init__(name=f"Lanes({width} x {count})")


class Schedule(types.Type):
    """The numba type of the 11 round keys, each repeated through a vector of ``width`` blocks."""

    def __init__(self, width: int) -> None:
        self.width, self.count = width, ROUNDS + 1
        super().__init__(name=f"Schedule({width})")


@register_model(Lanes)
@register_model(Schedule)
class _VectorsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, ir.ArrayType(_vector(kind), kind.count))


def _vector(kind: Any) -> Any:
    return ir.VectorType(_WORD, 2 * kind.width)


def _pack(builder: Any, vectors: list[Any]) -> Any:
    packed = ir.Constant(ir.ArrayType(vectors[0].type, len(vectors)), ir.Undefined)
    for position, vector in enumerate(vectors):
        packed = builder.insert_value(packed, vector, position)
    return packed


def _unpack(builder: Any, value: Any) -> list[Any]:
    return [builder.extract_value(value, position) for position in range(value.type.count)]


def _repeat(builder: Any, words: Any, width: int) -> Any:
    """A vector of ``width`` copies of the block whose low and high word are given."""
    undefined = ir.Constant(ir.VectorType(_WORD, 2), ir.Undefined)
    block = undefined
    for position, word in enumerate(words):
        block = builder.insert_element(block, word, ir.Constant(_INDEX, position))
    pattern = ir.Constant(ir.VectorType(_INDEX, 2 * width), [i % 2 for i in range(2 * width)])
    return builder.shuffle_vector(block, undefined, pattern)


def _words_at(builder: Any, address: Any, blocks: int) -> list[Any]:
    pointer = builder.inttoptr(address, _WORD.as_pointer())
    return [builder.load(cgutils.gep_inbounds(builder, pointer, i)) for i in range(2 * blocks)]


@intrinsic(prefer_literal=True)
def broadcast(typingctx: Any, address: Any, width: Any, count: Any) -> Any:
    """The one block at ``address`` in every lane; ``width`` and ``count`` must be compile-time constants."""
    lanes = Lanes(width.literal_value, count.literal_value)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _repeat(builder, _words_at(builder, args[0], 1), lanes.width)
        return _pack(builder, [vector] * lanes.count)

    return lanes(types.uintp, width, count), generate


@intrinsic
def schedule(typingctx: Any, address: Any, like: Any) -> Any:
    """The 11 round keys that lie one after the other at ``address``, as wide as ``like``."""
    keys = Schedule(like.width)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = _words_at(builder, args[0], keys.count)
        return _pack(
            builder, [_repeat(builder, words[i : i + 2], keys.width) for i in range(0, len(words), 2)]
        )

    return keys(types.uintp, like), generate


@intrinsic
def encrypt(typingctx: Any, plain: Any, keys: Any) -> Any:
    """AES of every block, all vectors together round by round."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _vector(plain)
        kind = ir.FunctionType(vector, [vector, vector])
        names = ["aesenc"] * (ROUNDS - 1) + ["aesenclast"]
        first, *others = _unpack(builder, args[1])
        states = [builder.xor(state, first) for state in _unpack(builder, args[0])]
        for name, key in zip(names, others, strict=True):
            if plain.width < 4:
                key = _afresh(builder, key)
            instruction = cgutils.get_or_insert_function(
                builder.module, kind, f"llvm.x86.aesni.{name}{_SUFFIX[plain.width]}"
            )
            states = [builder.call(instruction, [state, key]) for state in states]
        return _pack(builder, states)

    return plain(plain, keys), generate


def _afresh(builder: Any, key: Any) -> Any:
    """A round key that the compiler must believe to be another one each time: it passes through an empty
    piece of assembly.

    Of 16 registers the compiler would give 11 to the round keys, and with the few that remain it would take
    two vectors through all rounds, then the next two. Two are too few to keep the processor busy. The pieces
    of assembly keep their order, and so do the rounds; and a key that is loaded for each round needs one
    register. An AND gate garbles a fifth faster so and evaluates a third faster, with AVX2 as with SSE.
    """
    kind = ir.FunctionType(key.type, [key.type])
    return builder.call(ir.InlineAsm(kind, "", "=x,0", side_effect=True), [key])


@intrinsic
def blocks_of(typingctx: Any, like: Any) -> Any:
    """How many blocks ``like`` has."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_WORD, like.width * like.count)

    return types.uint64(like), generate


def _places(builder: Any, address: Any, lanes: Any) -> list[Any]:
    """Pointers to the consecutive vectors that start at ``address``."""
    pointer = builder.inttoptr(address, _vector(lanes).as_pointer())
    return [cgutils.gep_inbounds(builder, pointer, i) for i in range(lanes.count)]


@intrinsic
def load(typingctx: Any, address: Any, like: Any) -> Any:
    """As many consecutive blocks from ``address`` as ``like`` has."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _pack(builder, [builder.load(place, align=1) for place in _places(builder, args[0], like)])

    return like(types.uintp, like), generate


@intrinsic
def store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write all blocks of ``value`` to ``address``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for place, vector in zip(_places(builder, args[0], value), _unpack(builder, args[1]), strict=True):
            builder.store(vector, place, align=1)
        return context.get_dummy_value()

    return types.void(types.uintp, value), generate


def _bitwise(name: str) -> Any:
    @intrinsic
    def operation(typingctx: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pairs = zip(*(_unpack(builder, arg) for arg in args), strict=True)
            return _pack(builder, [getattr(builder, name)(left, right) for left, right in pairs])

        return a(a, b), generate

    return operation


#: a ^ b and a & b of two values of the same type.
xor = _bitwise("xor")
mask = _bitwise("and_")


@intrinsic
def join(typingctx: Any, a: Any, b: Any) -> Any:
    """The vectors of ``a``, then those of ``b``, as one value, which is encrypted together."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _pack(builder, [vector for arg in args for vector in _unpack(builder, arg)])

    return Lanes(a.width, a.count + b.count)(a, b), generate


def _half(number: int) -> Any:
    @intrinsic
    def half(typingctx: Any, joined: Any) -> Any:
        size = joined.count // 2

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _pack(builder, _unpack(builder, args[0])[number * size : (number + 1) * size])

        return Lanes(joined.width, size)(joined), generate

    return half


#: Undo :func:`join` of two values of the same type.
first_half = _half(0)
second_half = _half(1)


def _ramp(word: int) -> Callable[..., Any]:
    @intrinsic
    def ramp(typingctx: Any, low: Any, high: Any, like: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            # One vector of copies, and one addition per vector. Writing every lane by itself would cost as
            # much as rounds of AES.
            start, vectors = _repeat(builder, args[:2], like.width), []
            for first in range(0, like.width * like.count, like.width):
                steps = [first + i // 2 if i % 2 == word else 0 for i in range(2 * like.width)]
                vectors.append(builder.add(start, ir.Constant(_vector(like), steps)))
            return _pack(builder, vectors)

        return like(types.uint64, types.uint64, like), generate

    return ramp


#: Of (low, high, like), as many blocks as ``like`` has: block i is (low + i, high) or (low, high + i).
count_low = _ramp(0)
count_high = _ramp(1)


@intrinsic
def colour_mask(typingctx: Any, labels: Any) -> Any:
    """All ones in the blocks that have colour 1 (bit 0 of their low word), else all zeros."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _vector(labels)
        low_words = ir.Constant(
            ir.VectorType(_INDEX, 2 * labels.width), [i & ~1 for i in range(2 * labels.width)]
        )
        masks = []
        for label in _unpack(builder, args[0]):
            low = builder.shuffle_vector(label, ir.Constant(vector, ir.Undefined), low_words)
            colour = builder.and_(low, ir.Constant(vector, [1] * (2 * labels.width)))
            masks.append(builder.sub(ir.Constant(vector, [0] * (2 * labels.width)), colour))
        return _pack(builder, masks)

    return labels(labels), generate
