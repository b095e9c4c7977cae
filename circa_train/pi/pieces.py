"""The pieces in which a round trip is prepared and run: a few thousand elements of one group each, so that
memory does not grow with the layer, and one party works while the other's piece is on its way.

This module says how large everything is; the accounting reads it, and so do both parties.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from circa_train.gc.aes import BLOCK_BYTES
from circa_train.gc.circuits import Circuit
from circa_train.gc.protocol import AND_BYTES, COLUMNS
from circa_train.pi.walk import Group, Trip, Walk

#: Elements of a piece.
CHUNK = 4096

#: Bytes of a field element on the line.
ELEMENT_BYTES = 4


@dataclass(frozen=True, eq=False)
class Piece:
    """Some elements of a group.

    Attributes:
        group: the group.
        start, stop: its elements, among those of all images of the batch.
        first: number of the first one among all of the inference; the tweak of the hash.
    """

    group: Group
    start: int
    stop: int
    first: int

    @property
    def count(self) -> int:
        return self.stop - self.start

    @property
    def part(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def circuit(self) -> Circuit | None:
        return None if self.group.circuit is None else self.group.circuit.circuit

    @property
    def dropped(self) -> tuple[int, ...]:
        """The ``bits`` that are a rescaling: those take a transfer from the client's choice."""
        return tuple(bits for bits in self.group.bits if bits)

    @property
    def wires(self) -> int:
        """The evaluator's input wires."""
        return 0 if self.circuit is None else self.circuit.evaluator_inputs

    @property
    def choices(self) -> int:
        """Rows of choice bits that the client brings: its input wires, and the wrap of a rescaling."""
        return self.wires + bool(self.dropped)

    @property
    def matrix_bytes(self) -> int:
        """The client's matrix of transfers, offline."""
        return COLUMNS * ((self.choices * self.count + 7) // 8)

    @property
    def reverse_bytes(self) -> int:
        """The server's matrix, offline: it chooses by one colour per element."""
        return 0 if self.circuit is None else COLUMNS * ((self.count + 7) // 8)

    @property
    def table_bytes(self) -> int:
        """Garbled tables, offline."""
        return 0 if self.circuit is None else self.circuit.and_gates * AND_BYTES * self.count

    @property
    def label_bytes(self) -> int:
        """The server's active labels, online."""
        return 0 if self.circuit is None else self.circuit.garbler_inputs * BLOCK_BYTES * self.count

    @property
    def down_words(self) -> int:
        """Field elements per element that the server sends online: corrections, then words of products."""
        return len(self.dropped) + (len(self.group.bits) if self.circuit is not None else 0)

    @property
    def up_words(self) -> int:
        """Field elements per element that the client sends online: per product, one for the transfer and its
        share masked anew; of a rescaling alone, the latter.
        """
        return len(self.group.bits) * (1 if self.circuit is None else 2)

    @property
    def down_bytes(self) -> int:
        return self.label_bytes + ELEMENT_BYTES * self.down_words * self.count

    @property
    def fingerprint(self) -> bytes:
        """Of the circuit, as messages carry it."""
        return bytes(8) if self.circuit is None else self.circuit.fingerprint

    def tweak(self, place: int) -> int:
        """A tweak of the hash behind those of the gates; every pad of an element has a place of its own."""
        return (0 if self.circuit is None else 2 * self.circuit.and_gates) + place


#: Places of the pads: of a label for product j, of the client's choice, of the server's.
OF_LABEL, OF_CHOICE, OF_COLOUR = 0, 32, 64


def pieces_of(walk: Walk, images: int, chunk: int = CHUNK) -> dict[int, list[Piece]]:
    """The pieces of every trip, by its number."""
    first = 0
    found: dict[int, list[Piece]] = {}
    for trip in walk.trips:
        pieces = list(_cut(trip, images, chunk, first))
        found[trip.number] = pieces
        first += sum(piece.count for piece in pieces)
    return found


def _cut(trip: Trip, images: int, chunk: int, first: int) -> Iterator[Piece]:
    for group in trip.groups:
        total = images * group.count
        for start in range(0, total, chunk):
            stop = min(start + chunk, total)
            yield Piece(group, start, stop, first)
            first += stop - start
