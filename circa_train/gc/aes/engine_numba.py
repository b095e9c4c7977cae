"""The kernel for x86 with AES instructions: a compiled pass over the whole circuit, on vector registers of
AES blocks.

This module checks shapes, prepares memory, and keeps arrays alive while the compiled passes
(:mod:`circa_train.gc.aes.compiled`) work on their addresses. Values between two gates are in scratch
registers of one tile, which stay in the first-level cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circa_train.gc.aes.compiled import compiled_pass
from circa_train.gc.aes.fusion import fuse
from circa_train.gc.aes.hashing import Inputs
from circa_train.gc.aes.key_schedule import Blocks, expand_key
from circa_train.gc.aes.memory import empty_blocks
from circa_train.gc.aes.passes import GROUP
from circa_train.gc.circuits.circuit import Circuit

#: The most instances in a tile. Then a tile of a register has 4 KiB, and the processor fetches memory ahead
#: within pages of that size.
_LARGEST_TILE = 256

_NO_OFFSET = np.zeros(2, dtype=np.uint64)


class NumbaKernel:
    """See :class:`circa_train.gc.aes.hashing.Kernel`. ``width`` is that of the vectors: 1, 2 or 4 blocks."""

    def __init__(self, key: bytes, width: int) -> None:
        self.name = f"numba-{128 * width}"
        self._width = width
        self._keys = expand_key(key)

    def encrypt(self, blocks: Blocks) -> Blocks:
        source = _readable(blocks)
        target = empty_blocks(source.shape)
        self._pass("encrypt")(_address(source), target, self._keys)
        return target[: len(blocks)]

    def counters(self, first: int, out: Blocks) -> None:
        _check_target(out)
        blocks = out.reshape(-1, 2)
        target = blocks if len(blocks) >= GROUP else empty_blocks((GROUP, 2))
        self._pass("counters")(np.uint64(first), target, self._keys)
        if target is not blocks:
            blocks[:] = target[: len(blocks)]

    def tccr_hash(self, labels: Blocks, tweak: int, first_instance: int) -> Blocks:
        return self._hashes(_readable(labels), _NO_OFFSET, tweak, first_instance)[: len(labels)]

    def activate(
        self, false_labels: Blocks, bits: NDArray[np.bool_], offset: Blocks, out: Blocks
    ) -> None:
        _check_target(out)
        labels, chosen = _plain(false_labels).reshape(-1), _plain(bits).reshape(-1)
        self._pass("activate")(labels, chosen, offset, out.reshape(-1))

    def project(
        self, false_labels: Blocks, offset: Blocks, tweak: int, first_instance: int, prime: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        labels, n = _readable(false_labels), len(false_labels)
        words, share = np.empty(n, dtype=np.uint32), np.empty(n, dtype=np.int64)
        hashes = (self._hashes(labels, moved, tweak, first_instance) for moved in (_NO_OFFSET, offset))
        self._pass("project")(labels, *hashes, np.uint64(prime), words, share)
        return words, share

    def take_share(
        self, labels: Blocks, words: NDArray[np.uint32], tweak: int, first_instance: int, prime: int
    ) -> NDArray[np.int64]:
        share = np.empty(len(labels), dtype=np.int64)
        labels = _readable(labels)
        hashes = self._hashes(labels, _NO_OFFSET, tweak, first_instance)
        self._pass("take_share")(labels, hashes, _plain(words), np.uint64(prime), share)
        return share

    def garble(
        self, circuit: Circuit, inputs: Inputs, offset: Blocks, tables: Blocks, first_instance: int
    ) -> list[Blocks]:
        _check_target(tables)
        instances = _check_shapes(circuit, inputs, tables)
        run = self._pass("garble")
        if instances >= GROUP:
            return self._run(run, circuit, inputs, offset, tables, first_instance)
        padded = _pad(tables)
        outputs = self._run(run, circuit, _pad_inputs(inputs), offset, padded, first_instance)
        tables[:] = padded[:, :, :instances]
        return [output[:instances] for output in outputs]

    def evaluate(
        self, circuit: Circuit, inputs: Inputs, tables: Blocks, first_instance: int
    ) -> list[Blocks]:
        instances = _check_shapes(circuit, inputs, tables)
        if instances < GROUP:
            inputs, tables = _pad_inputs(inputs), _pad(tables)
        outputs = self._run(
            self._pass("evaluate"), circuit, inputs, _NO_OFFSET, np.ascontiguousarray(tables), first_instance
        )
        return [output[:instances] for output in outputs]

    def _pass(self, name: str) -> Callable[..., None]:
        return compiled_pass(name, self._width)

    def _hashes(self, labels: Blocks, offset: Blocks, tweak: int, first_instance: int) -> Blocks:
        """The hashes of at least one group of labels, each xor ``offset``."""
        target = empty_blocks(labels.shape)
        numbers = np.uint64(tweak), np.uint64(first_instance)
        self._pass("tccr_hash")(_address(labels), offset, target, *numbers, self._keys)
        return target

    def _run(
        self, run: Any, circuit: Circuit, inputs: Inputs, offset: Blocks, tables: Blocks, first_instance: int
    ) -> list[Blocks]:
        """Run a compiled pass over at least one group of instances."""
        fused, instances = fuse(circuit), inputs[0].shape[1]
        tile = _tile(instances)
        outputs = empty_blocks((fused.output_registers, instances, 2))
        scratch = empty_blocks((1 + fused.scratch, tile, 2))
        scratch[0] = 0
        garbler, evaluator = map(np.ascontiguousarray, inputs)
        run(
            fused.rows,
            _address(garbler),
            len(garbler),
            _address(evaluator),
            len(evaluator),
            outputs,
            scratch,
            offset,
            _address(tables),
            np.uint64(instances),
            np.uint64(first_instance),
            self._keys,
        )
        wires = circuit.inputs
        return [outputs[r - wires] if r >= wires else _input(inputs, r) for r in fused.outputs]


def _input(inputs: Inputs, wire: int) -> Blocks:
    garblers = len(inputs[0])
    label: Blocks = inputs[0][wire] if wire < garblers else inputs[1][wire - garblers]
    return label


def _tile(instances: int) -> int:
    """Instances per tile: whole groups, and not more than there are. Tiles are about equally large, so few
    instances are done twice.
    """
    for tiles in (-(-instances // _LARGEST_TILE), 2):
        tile = -(-instances // (tiles * GROUP)) * GROUP
        if tile <= instances:
            break
    return tile


def _check_shapes(circuit: Circuit, inputs: Inputs, tables: Blocks) -> int:
    """The number of instances, if all shapes agree on it."""
    instances: int = inputs[0].shape[1]
    for labels, wires in zip(inputs, (circuit.garbler_inputs, circuit.evaluator_inputs), strict=True):
        if labels.shape != (wires, instances, 2):
            raise ValueError(f"inputs: expected shape {(wires, instances, 2)}, got {labels.shape}")
    if tables.shape != (circuit.and_gates, 2, instances, 2):
        raise ValueError(f"tables: expected shape {(circuit.and_gates, 2, instances, 2)}, got {tables.shape}")
    return instances


def _check_target(out: Blocks) -> None:
    if not (out.flags.c_contiguous and out.dtype == np.uint64):
        raise ValueError("labels and tables are written in place: they must be contiguous uint64")


def _address(array: NDArray[Any]) -> np.uint64:
    return np.uint64(array.ctypes.data)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """The same values, contiguous and aligned, as the types of the compiled passes want them."""
    return np.require(array, requirements=["C", "A"])


def _readable(blocks: Blocks) -> Blocks:
    """``blocks`` (n, 2) as an aligned, contiguous array of at least one group."""
    return _plain(blocks) if len(blocks) >= GROUP else _pad(blocks)


def _pad(blocks: Blocks) -> Blocks:
    """A copy with zeros behind, so that there is a whole group of instances (the last axis but one)."""
    padded = np.zeros((*blocks.shape[:-2], GROUP, 2), dtype=np.uint64)
    padded[..., : blocks.shape[-2], :] = blocks
    return padded


def _pad_inputs(inputs: Inputs) -> Inputs:
    return _pad(inputs[0]), _pad(inputs[1])
