"""The kernel for every machine: whole layers through OpenSSL's AES, the rest in numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from circa_train.gc.aes import BLOCK_BYTES, Blocks
from circa_train.gc.circuit import Circuit, execute
from circa_train.gc.hashing import Inputs

#: (labels (j, n, 2), j tweaks, first instance) -> hashes (j, n, 2)
_Hasher = Callable[[Blocks, Sequence[int], int], Blocks]


class NumpyKernel:
    """See :class:`circa_train.gc.hashing.Kernel`."""

    name = "numpy"

    def __init__(self, key: bytes) -> None:
        self._aes = Cipher(algorithms.AES(key), modes.ECB()).encryptor()

    def encrypt(self, blocks: Blocks) -> Blocks:
        source = np.ascontiguousarray(blocks)
        # update_into wants room for one block more than it writes; update, without a buffer, is many times slower.
        target = np.empty(source.nbytes + BLOCK_BYTES - 1, dtype=np.uint8)
        self._aes.update_into(source.view(np.uint8).reshape(-1).data, target.data)
        return target[: source.nbytes].view(np.uint64).reshape(source.shape)

    def counters(self, first: int, out: Blocks) -> None:
        blocks = out.reshape(-1, 2)
        plain = np.zeros_like(blocks)
        plain[:, 0] = np.arange(first, first + len(blocks), dtype=np.uint64)
        blocks[:] = self.encrypt(plain)

    def tccr_hash(self, labels: Blocks, tweak: int, first_instance: int) -> Blocks:
        return self._hash(labels[None], [tweak], first_instance)[0]

    def garble(
        self, circuit: Circuit, inputs: Inputs, offset: Blocks, tables: Blocks, first_instance: int
    ) -> list[Blocks]:
        return execute(circuit, [*inputs[0], *inputs[1]], _Garbling(self._hash, offset, tables, first_instance))

    def evaluate(
        self, circuit: Circuit, inputs: Inputs, tables: Blocks, first_instance: int
    ) -> list[Blocks]:
        return execute(circuit, [*inputs[0], *inputs[1]], _Evaluating(self._hash, tables, first_instance))

    def _hash(self, labels: Blocks, tweaks: Sequence[int], first_instance: int) -> Blocks:
        """TMMO of (j, n, 2) labels; row j under the tweak ``tweaks[j]``."""
        inner = self.encrypt(labels)
        tweaked = inner.copy()
        tweaked[..., 0] ^= np.array(tweaks, dtype=np.uint64)[:, None]
        tweaked[..., 1] ^= np.arange(first_instance, first_instance + labels.shape[1], dtype=np.uint64)
        return self.encrypt(tweaked) ^ inner


def _where_coloured(labels: Blocks, value: Blocks) -> Blocks:
    """``value`` where the label has colour 1, else zero."""
    return (np.uint64(0) - (labels[:, :1] & np.uint64(1))) & value


class _Garbling:
    """A register holds false-labels. The half gates of Zahur, Rosulek and Evans (2014/756), figure 2."""

    def __init__(self, hasher: _Hasher, offset: Blocks, tables: Blocks, first_instance: int) -> None:
        self._hash, self._offset, self._tables, self._first = hasher, offset, tables, first_instance

    def xor(self, a: Blocks, b: Blocks) -> Blocks:
        return a ^ b

    def negation(self, a: Blocks) -> Blocks:
        return a ^ self._offset

    def conjunction(self, a: Blocks, b: Blocks, number: int) -> Blocks:
        offset, (left, right) = self._offset, (2 * number, 2 * number + 1)
        a0, a1, b0, b1 = self._hash(
            np.stack([a, a ^ offset, b, b ^ offset]), [left, left, right, right], self._first
        )
        generator, evaluator = self._tables[number]
        generator[:] = a0 ^ a1 ^ _where_coloured(b, offset)
        evaluator[:] = b0 ^ b1 ^ a
        return a0 ^ _where_coloured(a, generator) ^ b0 ^ _where_coloured(b, evaluator ^ a)


class _Evaluating:
    """A register holds active labels."""

    def __init__(self, hasher: _Hasher, tables: Blocks, first_instance: int) -> None:
        self._hash, self._tables, self._first = hasher, tables, first_instance

    def xor(self, a: Blocks, b: Blocks) -> Blocks:
        return a ^ b

    def negation(self, a: Blocks) -> Blocks:
        return a

    def conjunction(self, a: Blocks, b: Blocks, number: int) -> Blocks:
        hash_a, hash_b = self._hash(np.stack([a, b]), [2 * number, 2 * number + 1], self._first)
        generator, evaluator = self._tables[number]
        return hash_a ^ _where_coloured(a, generator) ^ hash_b ^ _where_coloured(b, evaluator ^ a)
