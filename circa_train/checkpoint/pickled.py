"""What a pickle of PyTorch would build, found out without building it.

A few bytes of pickle can claim a tensor of any size, call anything, or hold a list that holds itself. So a
file from elsewhere is first *described*: its opcodes run on a stack of plain values and of claims, in which a
tensor is the number of bytes that it would take. The opcodes are those that ``torch.load(weights_only=True)``
knows; of what they may call, only that which state_dicts and training states hold is let through. Nothing is
imported or called on the file's behalf, and what it costs is bounded by :data:`MAX_OPCODES`.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch

#: Opcodes of one pickle. A checkpoint of a large network takes some ten thousand.
MAX_OPCODES = 5_000_000

#: Values in the containers of a file, one that is in several counted each time.
MAX_VALUES = 1_000_000

#: Containers in containers.
MAX_DEPTH = 100

_STORAGES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8,
    "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
    "ComplexDoubleStorage": 16, "ComplexFloatStorage": 8, "UntypedStorage": 1,
}  # fmt: skip

#: Allowed by torch, and nothing that weights are made of here.
_NAMED = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values (on the meta device)",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of another class",
    "torch._tensor._rebuild_from_type_v2": "a tensor of another class",
}

#: numpy's scalars, which training scripts keep beside the weights, under their names in numpy 1 and 2.
NUMPY_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
NUMPY_KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


class Refused(ValueError):
    """The pickle holds what is not read; the message completes "<file> is refused: "."""


class Unreadable(ValueError):
    """The bytes are no pickle of PyTorch."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle refers to."""

    name: str


@dataclass(frozen=True)
class StorageClaim:
    """A storage: the key of its data in the file, and how many bytes that are said to be."""

    key: str
    nbytes: int
    itemsize: int


@dataclass(frozen=True)
class TensorClaim:
    """A tensor: the bytes that it would take if it were copied, whatever its strides."""

    nbytes: int


@dataclass
class Description:
    """What a pickle would build.

    Attributes:
        value: plain values and containers, and claims in place of tensors.
        storages: every storage, by its key.
        tensor_bytes: of all tensors together, each counted by itself.
        numpy_scalars: whether there are any.
    """

    value: Any = None
    storages: dict[str, StorageClaim] = field(default_factory=dict)
    tensor_bytes: int = 0
    numpy_scalars: bool = False


def describe(stream: BinaryIO) -> Description:
    """The next pickle of a stream, described and measured.

    Raises:
        Refused: if it would call what is not let through, claims what cannot be, is too long, nests too deep
            or holds itself.
        Unreadable: if it is no pickle, or not of the kind that torch writes.
    """
    described = Description()
    try:
        described.value = _run(stream, described)
    except Refused:
        raise
    # a damaged pickle pops empty stacks, adds to what is no list, refers to what was never stored
    except Exception as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    _measure(described.value)
    return described


def _run(stream: BinaryIO, described: Description) -> Any:
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        nonlocal stack
        items, stack = stack, marks.pop()
        return items

    argument: Any
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if number > MAX_OPCODES:
            raise Refused(f"its description takes more than {MAX_OPCODES} steps")
        match opcode.name:
            case "PROTO":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(stack)
                stack = []
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                items = since_mark()
                stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                stack.append(argument)
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "APPEND":
                item = stack.pop()
                _list(stack[-1]).append(item)
            case "APPENDS":
                items = since_mark()
                _list(stack[-1]).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _put(stack[-1], key, value)
            case "SETITEMS":
                items = since_mark()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _put(stack[-1], key, value)
            case "GLOBAL":
                stack.append(_global(argument.replace(" ", ".")))
            case "BINPERSID":
                stack.append(_storage(stack.pop(), described))
            case "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(_call(called, arguments, described))
            case "BUILD":
                state = stack.pop()
                _measure(state)
                if isinstance(stack[-1], Global):  # the byte order of a numpy type, and the like
                    if not all(part is None or type(part) is str or abs(part) <= 8 for part in state):
                        raise Refused("it holds a numpy scalar that is no number")
                elif not isinstance(stack[-1], dict):
                    raise Refused("it sets the inside of a tensor")
            case _:
                raise Unreadable(f"opcode {opcode.name}")
    raise Unreadable("no end")


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise Unreadable(f"a {type(value).__name__} is appended to")
    return value


def _put(target: Any, key: Any, value: Any) -> None:
    if type(target) is not dict:
        raise Unreadable(f"a {type(target).__name__} is given keys")
    if isinstance(key, int) and abs(key) > 2**60:  # many such have one hash: a dict of them takes hours
        raise Refused(f"it has the key {key}")
    target[key] = value


def _global(name: str) -> Global:
    if name in _NAMED:
        raise Refused(f"it holds {_NAMED[name]}, and only dense tensors with values are read")
    place, _, last = name.rpartition(".")
    known = (
        name in _CALLS
        or name in NUMPY_SCALARS
        or (place in ("torch", "torch.storage") and last in _STORAGES)
        or (place == "torch" and isinstance(getattr(torch, last, None), torch.dtype))
    )
    if not known:
        raise Refused(
            f"unpickling it would call {name}, and only tensors and plain values are read. If you trust the "
            "file, save its weights alone where it came from: torch.save(model.state_dict(), 'weights.pt')"
        )
    return Global(name)


def _storage(identity: Any, described: Description) -> StorageClaim:
    """What the persistent id ("storage", type, key, device, elements, ...) refers to."""
    tag, kind, key, _, elements = identity[:5]
    if tag != "storage" or not isinstance(kind, Global) or type(elements) is not int or elements < 0:
        raise Unreadable("a reference to no storage")
    itemsize = _STORAGES[kind.name.rpartition(".")[2]]
    if len(identity) > 5 and identity[5] is not None:
        raise Refused("it holds a view of a storage, as PyTorch wrote before version 0.4")
    claim = StorageClaim(str(key), elements * itemsize, itemsize)
    described.storages[claim.key] = claim
    return claim


def _call(called: Any, arguments: Any, described: Description) -> Any:
    if not isinstance(called, Global) or type(arguments) is not tuple:
        raise Unreadable("a call of what is no function")
    if called.name in NUMPY_SCALARS:
        described.numpy_scalars = True
        kind, data = arguments
        if kind != Global("numpy.dtype") or type(data) is not bytes or len(data) > 8:
            raise Refused("it holds a numpy scalar that is no number")
        return 0.0
    return _CALLS[called.name](described, *arguments)


def _tensor(
    described: Description, storage: Any, offset: Any, size: Any, stride: Any, *_: Any
) -> TensorClaim:
    return _claim(described, storage, offset, size, stride, storage.itemsize)


def _tensor_of(
    described: Description, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any
) -> TensorClaim:
    dtype = rest[2].name.rpartition(".")[2]
    return _claim(described, storage, offset, size, stride, getattr(torch, dtype).itemsize)


def _claim(
    described: Description, storage: Any, offset: Any, size: Any, stride: Any, itemsize: int
) -> TensorClaim:
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or any(type(number) is not int or number < 0 for number in numbers):
        raise Refused(f"it holds a tensor of shape {size} with strides {stride} at {offset}")
    elements = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if elements and (last + 1) * itemsize > storage.nbytes:
        raise Refused(f"it holds a tensor of shape {tuple(size)} beyond its {storage.nbytes} bytes")
    described.tensor_bytes += elements * itemsize
    return TensorClaim(elements * itemsize)


def _ordered(_: Description, items: Any = ()) -> dict[Any, Any]:
    return dict(items)


def _numpy_dtype(_: Description, kind: Any, *flags: Any) -> Global:
    if kind not in NUMPY_KINDS:
        raise Refused(f"it holds a numpy scalar of type {kind!r}")
    return Global("numpy.dtype")


def _encoded(_: Description, text: Any, encoding: Any) -> bytes:
    if encoding != "latin1":
        raise Unreadable(f"bytes in {encoding!r}")
    return bytes(text, "latin1")


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of,
    "torch._utils._rebuild_parameter": lambda _, data, *rest: data,
    "torch._utils._rebuild_parameter_with_state": lambda _, data, *rest: data,
    "collections.OrderedDict": _ordered,
    "collections.Counter": _ordered,
    "torch.Size": lambda _, size: tuple(size),
    "torch.device": lambda _, *name: "device",
    "__builtin__.set": lambda _, items: list(items),
    "builtins.set": lambda _, items: list(items),
    "__builtin__.complex": lambda _, *parts: 0.0,
    "builtins.complex": lambda _, *parts: 0.0,
    "_codecs.encode": _encoded,
    "numpy.dtype": _numpy_dtype,
}


def _measure(value: Any) -> None:
    """Refuse what holds itself, and what is small but takes forever to walk."""
    visited = 0

    def walk(item: Any, depth: int) -> None:
        nonlocal visited
        visited += 1
        if depth > MAX_DEPTH:
            raise Refused(f"its containers hold one another more than {MAX_DEPTH} deep, or one holds itself")
        if visited > MAX_VALUES:
            raise Refused(f"it holds more than {MAX_VALUES} values, or few of them again and again")
        if isinstance(item, dict):
            for key, inner in item.items():
                walk(key, depth + 1)
                walk(inner, depth + 1)
        elif isinstance(item, (list, tuple)):
            for inner in item:
                walk(inner, depth + 1)

    walk(value, 0)
