"""The compiled passes: when each is compiled, with which types, and under which key the code is kept on the
disk (:mod:`circa_train.code_cache`).

Compiling all of them takes ten seconds, and every process of a private inference needs them. As in
:mod:`circa_train.kernels.cpu.compiled`, each function holds a digest of all files that go into it, because
numba would notice a change of the file that the function is in, and of no other.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

from numba import njit, types

from circa_train.code_cache import compiled
from circa_train.gc.aes import key_schedule, lanes, passes, tape
from circa_train.gc.circuits import circuit

#: All modules that are compiled into the passes, or that define what those compute.
SOURCES = (circuit, key_schedule, lanes, passes, tape)

_NUMBER, _ADDRESS, _COUNT = types.uint64, types.uintp, types.int64
_KEYS = types.Array(types.uint8, 2, "C", readonly=True)
_WORDS, _BLOCKS = (types.Array(types.uint64, dimensions, "C", readonly=True) for dimensions in (1, 2))
_WORDS_TO_WRITE, _BLOCKS_TO_WRITE = (types.Array(types.uint64, dimensions, "C") for dimensions in (1, 2))
_SHARES = types.Array(types.int64, 1, "C")
_TAPE = types.void(
    types.Array(types.int32, 2, "C", readonly=True), _ADDRESS, _COUNT, _ADDRESS, _COUNT,
    types.Array(types.uint64, 3, "C"), types.Array(types.uint64, 3, "C"), _WORDS, _ADDRESS, _NUMBER, _NUMBER,
    _KEYS,
)  # fmt: skip

_SIGNATURES = {
    "encrypt": types.void(_ADDRESS, _BLOCKS_TO_WRITE, _KEYS),
    "counters": types.void(_NUMBER, _BLOCKS_TO_WRITE, _KEYS),
    "tccr_hash": types.void(_ADDRESS, _WORDS, _BLOCKS_TO_WRITE, _NUMBER, _NUMBER, _KEYS),
    "activate": types.void(
        _WORDS, types.Array(types.boolean, 1, "C", readonly=True), _WORDS, _WORDS_TO_WRITE
    ),
    "project": types.void(_BLOCKS, _BLOCKS, _BLOCKS, _NUMBER, types.Array(types.uint32, 1, "C"), _SHARES),
    "take_share": types.void(
        _BLOCKS, _BLOCKS, types.Array(types.uint32, 1, "C", readonly=True), _NUMBER, _SHARES
    ),
    "transpose": types.void(
        types.Array(types.uint8, 2, "A", readonly=True), types.Array(types.uint8, 3, "C")
    ),
    "garble": _TAPE,
    "evaluate": _TAPE,
}


@functools.cache
def compiled_pass(name: str, width: int) -> Callable[..., None]:
    """The pass of that name for vectors of ``width`` blocks, compiled or found on the disk at its first
    use.
    """
    decorator = functools.partial(njit, _SIGNATURES[name], nogil=True)
    make = getattr(tape if _SIGNATURES[name] is _TAPE else passes, name)
    made: Callable[..., None] = compiled(decorator, make(width, _sources()))
    return made


@functools.cache
def _sources() -> str:
    digest = hashlib.sha256()
    for module in SOURCES:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()
