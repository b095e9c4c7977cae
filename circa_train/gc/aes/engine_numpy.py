"""The kernel for every machine: whole layers through OpenSSL's AES, the rest in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from circa_train.gc.aes.hashing import Inputs, to_field
from circa_train.gc.aes.key_schedule import BLOCK_BYTES, Blocks
from circa_train.gc.aes.memory import empty_blocks, empty_bytes
from circa_train.gc.circuits.circuit import Circuit, execute

#: Counters encrypted at a time: they fit into the first-level cache, and the C library has such small memory
#: without asking the system.
_COUNTERS = 1024


class NumpyKernel:
    """See :class:`circa_train.gc.aes.hashing.Kernel`."""

    name = "numpy"

    def __init__(self, key: bytes) -> None:
        self._aes = Cipher(algorithms.AES(key), modes.ECB()).encryptor()

    def encrypt(self, blocks: Blocks) -> Blocks:
        source = np.ascontiguousarray(blocks)
        # update_into needs room for one block more than it writes. update needs no room, and is much slower.
        target = np.empty(source.nbytes + BLOCK_BYTES - 1, dtype=np.uint8)
        self._aes.update_into(source.view(np.uint8).reshape(-1).data, target.data)
        return target[: source.nbytes].view(np.uint64).reshape(source.shape)

    def counters(self, first: int, out: Blocks) -> None:
        blocks = out.reshape(-1, 2)
        plain = np.zeros((min(len(blocks), _COUNTERS), 2), dtype=np.uint64)
        for start in range(0, len(blocks), _COUNTERS):
            part = blocks[start : start + _COUNTERS]
            plain[: len(part), 0] = np.arange(first + start, first + start + len(part), dtype=np.uint64)
            part[:] = self.encrypt(plain[: len(part)])

    def tccr_hash(self, labels: Blocks, tweak: int, first_instance: int) -> Blocks:
        hasher = _Hasher(self._aes, 1, len(labels), first_instance)
        hasher.labels[0] = labels
        hashes: Blocks = hasher.hash([tweak])[0].copy()
        return hashes

    def activate(
        self, false_labels: Blocks, bits: NDArray[np.bool_], offset: Blocks, out: Blocks
    ) -> None:
        np.bitwise_xor(false_labels, np.where(bits[..., None], offset, np.uint64(0)), out=out)

    def project(
        self, false_labels: Blocks, offset: Blocks, tweak: int, first_instance: int, prime: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        if_false = to_field(self.tccr_hash(false_labels, tweak, first_instance), prime)
        if_true = to_field(self.tccr_hash(false_labels ^ offset, tweak, first_instance), prime)
        colour = (false_labels[:, 0] & np.uint64(1)).astype(np.int64)
        # With the label of colour 0, the evaluator's share is the label's mask. With that of colour 1 the
        # ciphertext is added to the mask, so that the two shares differ by one.
        ciphertext = (1 - 2 * colour) * (if_false + 1 - if_true)
        share = colour - if_false + colour * (if_false - if_true)
        return _wrap(ciphertext, prime).astype(np.uint32), _wrap(share, prime)

    def take_share(
        self, labels: Blocks, words: NDArray[np.uint32], tweak: int, first_instance: int, prime: int
    ) -> NDArray[np.int64]:
        mask = to_field(self.tccr_hash(labels, tweak, first_instance), prime)
        colour = (labels[:, 0] & np.uint64(1)).astype(np.int64)
        return _wrap(mask + colour * words - prime, prime)

    def garble(
        self, circuit: Circuit, inputs: Inputs, offset: Blocks, tables: Blocks, first_instance: int
    ) -> list[Blocks]:
        hasher = _Hasher(self._aes, 4, inputs[0].shape[1], first_instance)
        return execute(circuit, [*inputs[0], *inputs[1]], _Garbling(hasher, offset, tables))

    def evaluate(
        self, circuit: Circuit, inputs: Inputs, tables: Blocks, first_instance: int
    ) -> list[Blocks]:
        hasher = _Hasher(self._aes, 2, inputs[0].shape[1], first_instance)
        return execute(circuit, [*inputs[0], *inputs[1]], _Evaluating(hasher, tables))


class _Hasher:
    """TMMO of ``rows`` rows of instances at a time. The memory is taken once, because new pages cost more
    time than AES.

    The caller writes ``labels`` (rows, n, 2). :meth:`hash` returns an array of that shape, which the next
    call overwrites.
    """

    def __init__(self, aes: CipherContext, rows: int, instances: int, first_instance: int) -> None:
        self._aes = aes
        self.labels = empty_blocks((rows, instances, 2))
        # update_into needs room for one block more than it writes.
        size = self.labels.nbytes
        self._rooms = [empty_bytes(size + BLOCK_BYTES - 1) for _ in range(2)]
        self._inner, self._outer = (
            room[:size].view(np.uint64).reshape(rows, instances, 2) for room in self._rooms
        )
        self._tweaks = np.zeros((instances, 2), dtype=np.uint64)
        self._tweaks[:, 1] = np.arange(first_instance, first_instance + instances, dtype=np.uint64)

    def hash(self, tweaks: Sequence[int]) -> Blocks:
        """The hashes of the labels: those of row j under the tweak ``tweaks[j]``."""
        self._encrypt(0)
        for row, tweak in enumerate(tweaks):
            self._tweaks[:, 0] = tweak
            np.bitwise_xor(self._inner[row], self._tweaks, out=self.labels[row])
        self._encrypt(1)
        np.bitwise_xor(self._outer, self._inner, out=self._outer)
        return self._outer

    def _encrypt(self, room: int) -> None:
        self._aes.update_into(self.labels.reshape(-1).view(np.uint8).data, self._rooms[room].data)


def _colour_mask(labels: Blocks) -> Blocks:
    """All ones in the blocks that have colour 1, else zeros. The mask has whole blocks, because numpy is slow
    if it has to combine one word with a pair of words.
    """
    mask = np.empty_like(labels)
    np.negative((labels[:, 0] & np.uint64(1)).view(np.int64), out=mask[:, 0].view(np.int64))
    mask[:, 1] = mask[:, 0]
    return mask


class _Garbling:
    """A register holds false-labels. The half gates of Zahur, Rosulek and Evans (2014/756), figure 2."""

    def __init__(self, hasher: _Hasher, offset: Blocks, tables: Blocks) -> None:
        self._hasher, self._tables = hasher, tables
        self._offset = np.tile(offset, (tables.shape[2], 1))

    def xor(self, a: Blocks, b: Blocks) -> Blocks:
        return a ^ b

    def negation(self, a: Blocks) -> Blocks:
        return a ^ self._offset

    def conjunction(self, a: Blocks, b: Blocks, number: int) -> Blocks:
        labels, left, right = self._hasher.labels, 2 * number, 2 * number + 1
        labels[0], labels[2] = a, b
        np.bitwise_xor(a, self._offset, out=labels[1])
        np.bitwise_xor(b, self._offset, out=labels[3])
        a0, a1, b0, b1 = self._hasher.hash([left, left, right, right])
        colour_a, colour_b = _colour_mask(a), _colour_mask(b)
        generator, evaluator = self._tables[number]
        np.bitwise_xor(a0, a1, out=generator)
        generator ^= colour_b & self._offset
        np.bitwise_xor(b0, b1, out=evaluator)
        colour_b &= evaluator
        evaluator ^= a
        colour_a &= generator
        colour_a ^= colour_b
        colour_a ^= a0
        colour_a ^= b0
        return colour_a


class _Evaluating:
    """A register holds active labels."""

    def __init__(self, hasher: _Hasher, tables: Blocks) -> None:
        self._hasher, self._tables = hasher, tables

    def xor(self, a: Blocks, b: Blocks) -> Blocks:
        return a ^ b

    def negation(self, a: Blocks) -> Blocks:
        return a

    def conjunction(self, a: Blocks, b: Blocks, number: int) -> Blocks:
        self._hasher.labels[0], self._hasher.labels[1] = a, b
        hash_a, hash_b = self._hasher.hash([2 * number, 2 * number + 1])
        generator, evaluator = self._tables[number]
        of_a, of_b = _colour_mask(a), _colour_mask(b)
        of_a &= generator
        of_b &= evaluator ^ a
        return hash_a ^ of_a ^ hash_b ^ of_b


def _wrap(values: NDArray[np.int64], p: int) -> NDArray[np.int64]:
    """The canonical representatives of values in [-p, p], without a division."""
    values = values + p * (values < 0)
    return values - p * (values == p)
