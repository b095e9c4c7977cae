"""The kernel for x86 with AES instructions: a compiled pass over the whole circuit, on vector registers of AES blocks.

This module checks shapes, lays out memory and keeps arrays alive while :mod:`circa_train.gc.passes` works on their
addresses. What passes from gate to gate lives in scratch registers of one tile, which stay in the first-level cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from circa_train.gc.aes import BLOCK_BYTES, Blocks, empty_blocks, expand_key
from circa_train.gc.circuit import Circuit
from circa_train.gc.fusion import fuse
from circa_train.gc.hashing import Inputs
from circa_train.gc.passes import GROUP, compiled_passes

#: Instances at most in a tile: 4 KiB of every register, the size of the pages that are fetched ahead.
_LARGEST_TILE = 256


class NumbaKernel:
    """See :class:`circa_train.gc.hashing.Kernel`. ``width`` is that of the host's vectors: 1, 2 or 4 blocks."""

    def __init__(self, key: bytes, width: int) -> None:
        self.name = f"numba-{128 * width}"
        self._passes = compiled_passes(width)
        self._keys = expand_key(key)

    def encrypt(self, blocks: Blocks) -> Blocks:
        source = _readable(blocks)
        target = empty_blocks(source.shape)
        self._passes.encrypt(_address(source), _address(target), np.uint64(len(source)), _address(self._keys))
        return target[: len(blocks)]

    def counters(self, first: int, out: Blocks) -> None:
        _check_target(out)
        wanted = out.size // 2
        target = out if wanted >= GROUP else empty_blocks((GROUP, 2))
        self._passes.counters(np.uint64(first), _address(target), np.uint64(target.size // 2), _address(self._keys))
        if target is not out:
            out.reshape(-1, 2)[:] = target[:wanted]

    def tccr_hash(self, labels: Blocks, tweak: int, first_instance: int) -> Blocks:
        source = _readable(labels)
        target = empty_blocks(source.shape)
        self._passes.tccr_hash(
            _address(source),
            _address(target),
            np.uint64(len(source)),
            np.uint64(tweak),
            np.uint64(first_instance),
            _address(self._keys),
        )
        return target[: len(labels)]

    def project(
        self, false_labels: Blocks, offset: Blocks, tweak: int, first_instance: int, prime: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        if_false = self.tccr_hash(false_labels, tweak, first_instance)
        if_true = self.tccr_hash(false_labels ^ offset, tweak, first_instance)
        words, share = np.empty(len(false_labels), dtype=np.uint32), np.empty(len(false_labels), dtype=np.int64)
        self._passes.project(_readable(false_labels), if_false, if_true, np.uint64(prime), words, share)
        return words, share

    def take_share(
        self, labels: Blocks, words: NDArray[np.uint32], tweak: int, first_instance: int, prime: int
    ) -> NDArray[np.int64]:
        hashes, share = self.tccr_hash(labels, tweak, first_instance), np.empty(len(labels), dtype=np.int64)
        self._passes.take_share(_readable(labels), hashes, words.copy(), np.uint64(prime), share)
        return share

    def garble(
        self, circuit: Circuit, inputs: Inputs, offset: Blocks, tables: Blocks, first_instance: int
    ) -> list[Blocks]:
        _check_target(tables)
        instances = _check_shapes(circuit, inputs, tables)
        if instances >= GROUP:
            return self._run(self._passes.garble, circuit, inputs, offset, tables, first_instance)
        padded = _pad(tables)
        outputs = self._run(self._passes.garble, circuit, _pad_inputs(inputs), offset, padded, first_instance)
        tables[:] = padded[:, :, :instances]
        return [output[:instances] for output in outputs]

    def evaluate(
        self, circuit: Circuit, inputs: Inputs, tables: Blocks, first_instance: int
    ) -> list[Blocks]:
        instances, no_offset = _check_shapes(circuit, inputs, tables), np.zeros(2, dtype=np.uint64)
        if instances < GROUP:
            inputs, tables = _pad_inputs(inputs), _pad(tables)
        outputs = self._run(self._passes.evaluate, circuit, inputs, no_offset, _aligned(tables), first_instance)
        return [output[:instances] for output in outputs]

    def _run(
        self, run: Any, circuit: Circuit, inputs: Inputs, offset: Blocks, tables: Blocks, first_instance: int
    ) -> list[Blocks]:
        """Run a compiled pass over at least one group of instances."""
        plan, instances = fuse(circuit), inputs[0].shape[1]
        tile = _tile(instances)
        outputs = empty_blocks((plan.output_registers, instances, 2))
        scratch = empty_blocks((1 + plan.scratch, tile, 2))
        scratch[0] = 0
        whole = [*map(_aligned, inputs), outputs]
        bases = [_address(group) + np.arange(len(group), dtype=np.uint64) * np.uint64(group[:1].nbytes) for group in (*whole, scratch)]
        strides = np.zeros(sum(map(len, bases)), dtype=np.uint64)
        strides[: -len(scratch)] = BLOCK_BYTES
        offset = _aligned(offset)
        run(
            plan.rows,
            np.concatenate(bases),
            strides,
            _address(offset),
            _address(tables),
            np.uint64(instances),
            np.uint64(tile),
            np.uint64(first_instance),
            _address(self._keys),
        )
        registers = [row for group in whole for row in group]
        return [registers[register] for register in plan.outputs]


def _tile(instances: int) -> int:
    """Instances per tile: whole groups, no more than there are, and tiles so even that little is done twice."""
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
    if not (out.flags.c_contiguous and out.ctypes.data % BLOCK_BYTES == 0 and out.dtype == np.uint64):
        raise ValueError("labels and tables are written in place: they must be contiguous uint64 on a 16-byte boundary")


def _address(array: NDArray[Any]) -> np.uint64:
    return np.uint64(array.ctypes.data)


def _aligned(blocks: Blocks) -> Blocks:
    """The array itself if it is contiguous and on a 16-byte boundary, else a copy that is."""
    if blocks.flags.c_contiguous and blocks.ctypes.data % BLOCK_BYTES == 0:
        return blocks
    copy = empty_blocks(blocks.shape)
    copy[...] = blocks
    return copy


def _readable(blocks: Blocks) -> Blocks:
    """(n, 2) blocks, aligned and at least one group of them."""
    return _aligned(blocks) if len(blocks) >= GROUP else _pad(blocks)


def _pad(blocks: Blocks) -> Blocks:
    """A copy with zeros behind, so that there is a group of instances, which are the last axis but one."""
    padded = np.zeros((*blocks.shape[:-2], GROUP, 2), dtype=np.uint64)
    padded[..., : blocks.shape[-2], :] = blocks
    return padded


def _pad_inputs(inputs: Inputs) -> Inputs:
    return _pad(inputs[0]), _pad(inputs[1])
