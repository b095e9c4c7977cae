"""Correlated oblivious transfer by the millions: the evaluator's labels for its input bits.

The extension of Ishai, Kilian, Nissim and Petrank (CRYPTO 2003) turns 128 base transfers into any number of
them with AES alone. Its raw outcome is exactly what free XOR wants. For transfer j with choice bit c, the
garbler gets a block q and the evaluator gets q ^ c R, where R is the garbler's offset: q is the false-label
of an input wire, and the evaluator's block is its active label. So the labels themselves are never sent; a
transfer costs 16 bytes, from the evaluator to the garbler.

    evaluator   columns T_i = stream(seed_i0), sends U_i = T_i ^ stream(seed_i1) ^ c     for i in 0..127
    garbler     knows seed_i[R_i], so has Q_i = stream(seed_i[R_i]) ^ R_i U_i = T_i ^ R_i c
    both        transpose: row j of T is the evaluator's block, row j of Q = T_j ^ c_j R is the garbler's

Secure against honest-but-curious parties only: nothing stops an evaluator that deviates from using other
choice bits in different columns.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from circa_train.gc.aes.engines import available_kernels
from circa_train.gc.aes.key_schedule import BLOCK_BYTES, Blocks
from circa_train.gc.aes.randomness import OneProcess, Randomness
from circa_train.gc.protocol.base_ot import BaseReceiver, BaseSender
from circa_train.gc.protocol.messages import Message, MessageKind

#: Columns of the matrix: one base transfer per bit of a label.
COLUMNS = 8 * BLOCK_BYTES

#: What the evaluator sends per transfer.
TRANSFER_BYTES = COLUMNS // 8


class GarblerTransfer:
    """The garbler's side: gives blocks q, and the evaluator will hold q or q ^ ``offset``."""

    def __init__(self, offset: Blocks, random: Randomness) -> None:
        self._choices = np.unpackbits(offset.view(np.uint8), bitorder="little").astype(bool)
        self._base = BaseReceiver(self._choices, random)
        self._here = OneProcess("a side of oblivious transfers")
        self._streams: list[_Stream] = []

    def setup(self, message: Message) -> Message:
        """Answer the evaluator's base point."""
        reply, seeds = self._base.reply(message)
        self._streams = [_Stream(seed) for seed in seeds]
        return reply

    def extend(self, message: Message, transfers: int) -> Blocks:
        """False-labels q, uint64 (transfers, 2), for the evaluator's matrix.

        Raises:
            ValueError: if the message is of another kind or length.
            RuntimeError: before :meth:`setup`, or after a fork.
        """
        self._here.check()
        _check_ready(self._streams)
        length = column_bytes(transfers)
        matrix = message.expect(MessageKind.OT_EXTENSION, COLUMNS * length, message.circuit).reshape(
            COLUMNS, length
        )
        columns = _next_rows(self._streams, length)
        columns[self._choices] ^= matrix[self._choices]
        return transpose(columns)[:transfers]


class EvaluatorTransfer:
    """The evaluator's side: gives its blocks for its choice bits."""

    def __init__(self, random: Randomness) -> None:
        self._base = BaseSender(COLUMNS, random)
        self._here = OneProcess("a side of oblivious transfers")
        self._streams: list[tuple[_Stream, _Stream]] = []

    def hello(self) -> Message:
        """The base point."""
        return self._base.message()

    def setup(self, reply: Message) -> None:
        """Take the garbler's answer to the base point."""
        self._streams = [(_Stream(first), _Stream(second)) for first, second in self._base.seeds(reply)]

    def extend(self, choices: NDArray[np.bool_]) -> tuple[Message, Blocks]:
        """(matrix for the garbler, own blocks uint64 (transfers, 2)) for choice bits, bool (transfers,).

        Raises:
            RuntimeError: before :meth:`setup`, or after a fork.
        """
        self._here.check()
        _check_ready(self._streams)
        choices = np.asarray(choices, dtype=bool)
        length = column_bytes(len(choices))
        packed = np.zeros(length, dtype=np.uint8)
        packed[: (len(choices) + 7) // 8] = np.packbits(choices, bitorder="little")
        columns = _next_rows([first for first, _ in self._streams], length)
        matrix = _next_rows([second for _, second in self._streams], length) ^ columns
        matrix ^= packed
        return Message(MessageKind.OT_EXTENSION, matrix.reshape(-1)), transpose(columns)[: len(choices)]


def column_bytes(transfers: int) -> int:
    """Bytes of one column for this many transfers."""
    if transfers < 1:
        raise ValueError(f"transfers = {transfers}: must be at least 1")
    return (transfers + 7) // 8


#: Bytes of a column that are transposed at once, so that they stay in the caches.
_PIECE = 8192


def transpose(columns: NDArray[np.uint8]) -> Blocks:
    """Bit matrix (128, 8 n), given as uint8 (128, n), to its transpose (8 n, 128), as blocks uint64 (8 n, 2).

    Bits are numbered from the lowest, in columns as in blocks.
    """
    rows = np.empty((columns.shape[1], 8, BLOCK_BYTES), dtype=np.uint8)
    if available_kernels()[0] == "numpy":
        transpose_by_words(columns, rows)
    else:
        from circa_train.gc.aes.compiled import compiled_pass  # imports numba

        compiled_pass("transpose", 1)(columns, rows)
    return rows.reshape(-1, BLOCK_BYTES).view(np.uint64)


def transpose_by_words(columns: NDArray[np.uint8], rows: NDArray[np.uint8]) -> None:
    """:func:`transpose` without compiled code, into ``rows``, uint8 (n, 8, 16).

    8x8 tiles, one in each 64-bit word, are transposed by three exchanges of ever larger squares across the
    diagonal; bytes are put in place before and after.
    """
    width = columns.shape[1]
    for start in range(0, width, _PIECE):
        piece = columns[:, start : start + _PIECE]
        tiles = np.empty((BLOCK_BYTES, piece.shape[1], 8), dtype=np.uint8)
        for bit in range(8):
            tiles[..., bit] = piece[bit::8]
        _transpose_tiles(tiles.view(np.uint64)[..., 0])
        for byte, tile in enumerate(tiles):
            rows[start : start + _PIECE, :, byte] = tile


def _transpose_tiles(tiles: NDArray[np.uint64]) -> None:
    """Transpose the 8x8 bits in every word, in place."""
    exchanged = np.empty_like(tiles)
    for distance, upper in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
        shift = np.uint64(distance)
        np.right_shift(tiles, shift, out=exchanged)
        exchanged ^= tiles
        exchanged &= np.uint64(upper)
        tiles ^= exchanged
        exchanged <<= shift
        tiles ^= exchanged


class _Stream:
    """The AES counter-mode stream of one seed, continued from call to call."""

    def __init__(self, seed: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES(seed), modes.CTR(bytes(BLOCK_BYTES))).encryptor()

    def fill(self, zeros: bytes, room: NDArray[np.uint8]) -> None:
        """Write as many bytes as there are zeros; ``room`` has a block more, less one byte, as AES wants."""
        self._encryptor.update_into(zeros, room.data)


def _next_rows(streams: list[_Stream], length: int) -> NDArray[np.uint8]:
    """The next ``length`` bytes of every stream, uint8 (streams, length); rows are not side by side."""
    zeros = bytes(length)
    room = np.empty((len(streams), length + BLOCK_BYTES - 1), dtype=np.uint8)
    for stream, row in zip(streams, room, strict=True):
        stream.fill(zeros, row)
    return room[:, :length]


def _check_ready(streams: list[_Stream] | list[tuple[_Stream, _Stream]]) -> None:
    if not streams:
        raise RuntimeError("the base transfers come first: exchange hello and setup")
