"""Both parties' parts in one piece of a round trip: what is made offline, and what it is used for online.

The server is the garbler. Its labels come from a seed of the store, so it keeps of an element only what its
products need; the client keeps tables, labels and pads. Each side's class is made once per connection, with
the base transfers of both directions; what it makes for a piece goes to a store.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from circa_train.gc.aes import KEY_BYTES, Blocks, Kernel, MemoryPool, Randomness, Seed, make_kernel
from circa_train.gc.circuits import ReluCircuit
from circa_train.gc.protocol import (
    COLUMNS,
    POINT_BYTES,
    EvaluatorTransfer,
    GarbledBits,
    GarblerTransfer,
    Message,
    MessageKind,
    Rescaling,
    both_pads,
    own_part,
    pads,
    send_product,
    take_product,
)
from circa_train.pi.line import Line, Payload, from_words, to_words
from circa_train.pi.linear import Values
from circa_train.pi.masks import GroupMasks
from circa_train.pi.pieces import OF_CHOICE, OF_COLOUR, OF_LABEL, Piece
from circa_train.pi.stores import NUMBER_BYTES, Arrays, Layout


def server_layout(piece: Piece) -> Layout:
    """What the server keeps of a piece: pads of both labels, of its colour, of both choices of the client."""
    n, products, dropped = piece.count, len(piece.group.bits), len(piece.dropped)
    layout: list[tuple[str, str, tuple[int, ...]]] = []
    if piece.circuit is not None:
        layout += [(name, "<u4", (products, n)) for name in ("if_false", "if_true", "pad")]
    layout += [("choice0", "<u4", (dropped, n)), ("choice1", "<u4", (dropped, n))]
    if piece.group.refreshed:
        layout.append(("change", "<u4", (n,)))
    if piece.circuit is not None:
        layout.append(("colour", "u1", (n,)))
    return layout


def client_layout(piece: Piece) -> Layout:
    """What the client keeps of a piece."""
    n, products = piece.count, len(piece.group.bits)
    layout: list[tuple[str, str, tuple[int, ...]]] = []
    if piece.circuit is not None:
        layout += [
            ("tables", "<u8", (piece.circuit.and_gates, 2, n, 2)),
            ("labels", "<u8", (piece.wires, n, 2)),
            ("pad0", "<u4", (products, n)),
            ("pad1", "<u4", (products, n)),
        ]
    return [
        *layout,
        ("choice", "<u4", (len(piece.dropped), n)),
        ("mask", "<u4", (n,)),
        ("fresh", "<u4", (products, n)),
    ]


class ServerGarbling:
    """The garbler's side of a connection.

    Args:
        line: connected; the base transfers are made at once.
        seed: None for real secrets.
    """

    def __init__(self, line: Line, prime: int, seed: Seed = None) -> None:
        random = Randomness(seed, "private inference, server")
        self._prime, self.public_key = prime, random.secret("public hash key")[:KEY_BYTES]
        self.kernel = make_kernel(self.public_key)
        self.offset = random.blocks(1)[0].copy()
        self.offset[0] |= np.uint64(1)  # the colours of the two labels of a wire differ
        self._random, self._prepared = random, 0
        self._forward = GarblerTransfer(self.offset, random.child("forward"))
        self._reverse = EvaluatorTransfer(random.child("reverse"))
        point = line.receive(MessageKind.BASE_OT_POINT, POINT_BYTES)
        line.send(MessageKind.HELLO, self.public_key)
        line.send_message(self._forward.setup(point))
        line.send_message(self._reverse.hello())
        self._reverse.setup(line.receive(MessageKind.BASE_OT_CHOICES, COLUMNS * POINT_BYTES))

    def number(self, nonce: bytes) -> bytes:
        """The number of a preparation that the client asked for with ``nonce``."""
        return store_number(nonce, self.public_key)

    def next_labels(self) -> bytes:
        """The seed of the labels of one preparation."""
        self._prepared += 1
        return self._random.secret(f"labels {self._prepared}")[:32]

    def prepare(
        self, piece: Piece, first: int, seed: bytes, matrix: Message, change: Values | None
    ) -> tuple[Payload, Message | None, Arrays]:
        """(tables, the server's matrix, what is kept) for the client's matrix; the latter two of a piece
        without a circuit are nothing to send.

        Args:
            first: number of the preparation's first element among all of the connection.
        """
        n, place = piece.count, first + piece.first
        blocks = self._forward.extend(matrix, piece.choices * n).reshape(piece.choices, n, 2)
        kept: Arrays = {} if change is None else {"change": change}
        choice = [
            both_pads(
                self.kernel, blocks[piece.wires], self.offset, piece.tweak(OF_CHOICE + j), place, self._prime
            )
            for j, _ in enumerate(piece.dropped)
        ]
        kept["choice0"], kept["choice1"] = (
            np.array([pair[side] for pair in choice]).reshape(len(choice), n) for side in (0, 1)
        )
        if piece.circuit is None:
            return np.empty(0, np.uint8), None, kept
        labels = np.empty((piece.circuit.garbler_inputs, n, 2), dtype=np.uint64)
        own_labels(piece, seed, labels)
        tables = np.empty((piece.circuit.and_gates, 2, n, 2), dtype=np.uint64)
        (output,) = self.kernel.garble(
            piece.circuit, (labels, blocks[: piece.wires]), self.offset, tables, place
        )
        colour = (output[:, 0] & np.uint64(1)).astype(bool)
        reverse, received = self._reverse.extend(colour)
        of_label = [
            both_pads(self.kernel, output, self.offset, piece.tweak(OF_LABEL + j), place, self._prime)
            for j, _ in enumerate(piece.group.bits)
        ]
        kept["if_false"], kept["if_true"] = (np.array([pair[side] for pair in of_label]) for side in (0, 1))
        kept["pad"] = np.array(
            [
                pads(self.kernel, received, piece.tweak(OF_COLOUR + j), place, self._prime)
                for j, _ in enumerate(piece.group.bits)
            ]
        )
        kept["colour"] = colour
        return tables.reshape(-1).view(np.uint8), reverse, kept


class ServerPiece:
    """The server's part in one piece online: :meth:`down`, then :meth:`finish`.

    Args:
        kept: the record of the store.
        seed: of the labels.
    """

    def __init__(
        self,
        piece: Piece,
        kept: Arrays,
        seed: bytes,
        offset: Blocks,
        kernel: Kernel,
        memory: MemoryPool,
        prime: int,
    ) -> None:
        self._piece, self._kept, self._seed, self._offset = piece, kept, seed, offset
        self._kernel, self._memory, self._prime = kernel, memory, prime
        self._shares: list[Values] = []

    def down(self, share: Values) -> Payload:
        """The message of the piece, for the server's shares x_s of its elements."""
        piece, kept, p = self._piece, self._kept, self._prime
        if "change" in kept:
            share = (share + kept["change"].astype(np.int64)) % p
        out = self._memory.bytes(piece.down_bytes)
        if piece.circuit is not None:
            assert piece.group.circuit is not None
            bits = piece.group.circuit.garbler_bits(share)
            labels = out[: piece.label_bytes].view(np.uint64).reshape(-1, piece.count, 2)
            room = self._memory.blocks((piece.circuit.garbler_inputs, piece.count, 2))
            self._kernel.activate(own_labels(piece, self._seed, room), bits, self._offset, labels)
        factors, words, dropped = [], [], 0
        for bits_ in piece.group.bits:
            if not bits_:
                factors.append(share)
                continue
            factor, correction = Rescaling(p, bits_).server_half(share)
            pair = (kept["choice0"][dropped].astype(np.int64), kept["choice1"][dropped].astype(np.int64))
            word, own = send_product(correction, pair, p)
            words.append(word)
            factors.append((factor + own) % p)
            dropped += 1
        if piece.circuit is None:
            self._shares = factors
        else:
            colour = kept["colour"].astype(bool)
            for j, factor in enumerate(factors):
                pair = (kept["if_false"][j].astype(np.int64), kept["if_true"][j].astype(np.int64))
                word, own = GarbledBits(p, colour, *pair).project(factor)
                words.append(word)
                self._shares.append(own)
        if words:
            out[piece.label_bytes :] = to_words(np.array(words))
        return out

    def finish(self, answer: Payload) -> list[Values]:
        """The server's shares of what comes out, per entry of ``bits``, for the client's answer."""
        piece, kept, p = self._piece, self._kept, self._prime
        words = from_words(answer, p).reshape(piece.up_words, piece.count)
        if piece.circuit is None:
            return [(own + word) % p for own, word in zip(self._shares, words, strict=True)]
        colour, found = kept["colour"].astype(bool), []
        for j, own in enumerate(self._shares):
            product = take_product(words[2 * j], colour, kept["pad"][j].astype(np.int64), p)
            found.append((own + product + words[2 * j + 1]) % p)
        return found


class ClientGarbling:
    """The evaluator's side of a connection; see :class:`ServerGarbling`."""

    def __init__(self, line: Line, prime: int, seed: Seed = None) -> None:
        random = Randomness(seed, "private inference, client")
        self._prime, self._offset = prime, random.blocks(1)[0].copy()
        self._forward = EvaluatorTransfer(random.child("forward"))
        self._reverse = GarblerTransfer(self._offset, random.child("reverse"))
        line.send_message(self._forward.hello())
        self.public_key = line.receive(MessageKind.HELLO, KEY_BYTES).payload.tobytes()
        self._kernel = make_kernel(self.public_key)
        self._forward.setup(line.receive(MessageKind.BASE_OT_CHOICES, COLUMNS * POINT_BYTES))
        line.send_message(self._reverse.setup(line.receive(MessageKind.BASE_OT_POINT, POINT_BYTES)))

    def number(self, nonce: bytes) -> bytes:
        """See :meth:`ServerGarbling.number`."""
        return store_number(nonce, self.public_key)

    def choose(self, piece: Piece, masks: GroupMasks) -> tuple[Message, Blocks]:
        """(the matrix for the server, the client's blocks) of the mask's bits and wraps."""
        mask, rows = masks.mask[piece.part], []
        if piece.group.circuit is not None:
            rows.append(piece.group.circuit.evaluator_bits(mask))
        if piece.dropped:
            rows.append(Rescaling(self._prime, piece.dropped[0]).client_half(mask)[1][None])
        matrix, blocks = self._forward.extend(np.concatenate(rows).reshape(-1))
        return matrix, blocks.reshape(piece.choices, piece.count, 2)

    def keep(
        self, piece: Piece, first: int, masks: GroupMasks, blocks: Blocks, tables: Payload,
        reverse: Message | None,
    ) -> Arrays:  # fmt: skip
        """What is kept of a piece, from the server's tables and matrix."""
        place = first + piece.first
        kept: Arrays = {
            "mask": masks.mask[piece.part],
            "fresh": np.array([fresh[piece.part] for fresh in masks.fresh]),
            "choice": np.array(
                [
                    pads(self._kernel, blocks[piece.wires], piece.tweak(OF_CHOICE + j), place, self._prime)
                    for j, _ in enumerate(piece.dropped)
                ]
            ).reshape(len(piece.dropped), piece.count),
        }
        if piece.circuit is None or reverse is None:
            return kept
        sent = self._reverse.extend(reverse, piece.count)
        found = [
            both_pads(self._kernel, sent, self._offset, piece.tweak(OF_COLOUR + j), place, self._prime)
            for j, _ in enumerate(piece.group.bits)
        ]
        kept["pad0"], kept["pad1"] = (np.array([pair[side] for pair in found]) for side in (0, 1))
        kept["labels"] = blocks[: piece.wires]
        kept["tables"] = tables.view(np.uint64).reshape(piece.circuit.and_gates, 2, piece.count, 2)
        return kept


def answer(
    piece: Piece, first: int, kept: Arrays, message: Payload, kernel: Kernel, prime: int
) -> NDArray[np.uint8]:
    """The client's part in one piece online: its answer, for the server's message."""
    n, p = piece.count, prime
    mask, fresh = kept["mask"].astype(np.int64), kept["fresh"].astype(np.int64)
    words = from_words(message[piece.label_bytes :], p).reshape(piece.down_words, n)
    factors, dropped = [], 0
    for bits in piece.group.bits:
        if not bits:
            factors.append(-mask % p)
            continue
        factor, choice = Rescaling(p, bits).client_half(mask)
        factor += take_product(words[dropped], choice, kept["choice"][dropped].astype(np.int64), p)
        factors.append(factor % p)
        dropped += 1
    if piece.circuit is None:
        return to_words(np.array([(factor + r) % p for factor, r in zip(factors, fresh, strict=True)]))
    labels = message[: piece.label_bytes].view(np.uint64).reshape(-1, n, 2)
    (output,) = kernel.evaluate(piece.circuit, (labels, kept["labels"]), kept["tables"], first + piece.first)
    colour = (output[:, 0] & np.uint64(1)).astype(bool)
    found = []
    for j, factor in enumerate(factors):
        word = words[dropped + j].astype(np.uint32)
        place = piece.tweak(OF_LABEL + j)
        share = kernel.take_share(np.ascontiguousarray(output), word, place, first + piece.first, p)
        own, number = own_part(colour, factor)
        pair = (kept["pad0"][j].astype(np.int64), kept["pad1"][j].astype(np.int64))
        sent, other = send_product(number, pair, p)
        found += [sent, (share + own + other + fresh[j]) % p]
    return to_words(np.array(found))


def warm_up(prime: int) -> None:
    """Have everything compiled that a session will run, so that no party waits for the other's compiler."""
    kernel, n = make_kernel(bytes(KEY_BYTES)), 64
    circuit = ReluCircuit("truncated", prime, prime.bit_length() - 1).circuit
    labels = np.empty((2, n, 2), dtype=np.uint64)
    kernel.counters(0, labels)
    tables = np.empty((circuit.and_gates, 2, n, 2), dtype=np.uint64)
    inputs = (labels[:1], labels[1:])
    (output,) = kernel.garble(circuit, inputs, np.ones(2, dtype=np.uint64), tables, 0)
    kernel.activate(labels[:1], np.zeros((1, n), dtype=bool), labels[1, 0], np.empty_like(labels[:1]))
    kernel.evaluate(circuit, inputs, tables, 0)
    kernel.tccr_hash(np.ascontiguousarray(output), 0, 0)
    kernel.take_share(np.ascontiguousarray(output), np.zeros(n, dtype=np.uint32), 0, 0, prime)


def own_labels(piece: Piece, seed: bytes, room: Blocks) -> Blocks:
    """The false labels of the garbler's inputs of a piece, from the preparation's seed, written to
    ``room``.
    """
    Randomness(seed, f"piece {piece.first}").fill(room)
    return room


def store_number(nonce: bytes, key: bytes) -> bytes:
    """The number of a preparation: bound to the client's nonce and to the connection's key."""
    return hashlib.sha256(b"circa_train store" + nonce + key).digest()[:NUMBER_BYTES]
