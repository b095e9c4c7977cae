"""What an inference sends, to the byte, from the architecture alone: the model that every run is checked
against.

Bytes are those of messages with their headers and frames, as both parties count them; TLS adds its own. They
are counted here from what the protocol must say, and not from what either party's code does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from circa_train.export.layers import Conv2d, Linear
from circa_train.gc.aes import KEY_BYTES
from circa_train.gc.protocol import COLUMNS, FRAME_BYTES, POINT_BYTES, overhead
from circa_train.pi.dealer import DEALER_REQUEST_BYTES, SEED_BYTES
from circa_train.pi.encrypted import shape_of
from circa_train.pi.handshake import GREETING_BYTES, REQUEST_BYTES, Offline
from circa_train.pi.he_messages import KEY_BYTES as HE_KEY_BYTES
from circa_train.pi.he_messages import traffic
from circa_train.pi.line import Traffic
from circa_train.pi.pieces import CHUNK, ELEMENT_BYTES, Piece, pieces_of
from circa_train.pi.walk import Walk

#: What stands around every payload.
AROUND = FRAME_BYTES + overhead()


def offline_bytes(walk: Walk, images: int, offline: Offline = "dealer", chunk: int = CHUNK) -> Traffic:
    """What the client sends and receives to prepare a batch, by (phase, place); the dealer's shares are a
    phase of their own.
    """
    found = Traffic()
    for layer in walk.architecture.layers:
        if not isinstance(layer, (Conv2d, Linear)):
            continue
        if offline == "dealer":
            found.received["dealer", ""] += AROUND + ELEMENT_BYTES * images * math.prod(layer.shape)
        else:
            of_layer = traffic(shape_of(layer, walk.architecture))
            found.sent["offline", layer.name] += images * (AROUND + of_layer.bytes_up)
            found.received["offline", layer.name] += images * (AROUND + of_layer.bytes_down)
    if offline == "dealer":
        found.sent["dealer", ""] += AROUND + DEALER_REQUEST_BYTES
        found.received["dealer", ""] += AROUND + SEED_BYTES
    for place, piece in _places(walk, images, chunk):
        found.sent["offline", place] += AROUND + piece.matrix_bytes
        if piece.group.refreshed:
            found.sent["offline", place] += AROUND + ELEMENT_BYTES * piece.count
        if piece.circuit is not None:
            found.received["offline", place] += 2 * AROUND + piece.table_bytes + piece.reverse_bytes
    return found


def online_bytes(walk: Walk, images: int, chunk: int = CHUNK) -> Traffic:
    """What the client sends and receives in one inference, by (phase, place)."""
    found, architecture = Traffic(), walk.architecture
    first, last = architecture.layers[0], architecture.layer(architecture.output)
    found.sent["online", first.name] = AROUND + ELEMENT_BYTES * images * math.prod(first.shape)
    for trip in walk.trips:
        found.sent["online", f"trip {trip.number}"] += AROUND
    for place, piece in _places(walk, images, chunk):
        found.received["online", place] += AROUND + piece.down_bytes
        found.sent["online", place] += ELEMENT_BYTES * piece.up_words * piece.count
    found.received["online", last.name] += AROUND + ELEMENT_BYTES * images * math.prod(last.shape)
    return found


def connection_bytes(
    walk: Walk, *, described: bool, preparations: int, inferences: int, offline: Offline = "dealer"
) -> Traffic:
    """What the client sends and receives besides: greeting, base transfers, requests and the goodbye.

    Args:
        described: whether the client asked for the architecture.
    """
    found = Traffic()
    place = ("setup", "")
    asked = preparations + inferences + described + 1
    found.sent[place] = AROUND + GREETING_BYTES + asked * (AROUND + REQUEST_BYTES)
    found.received[place] = AROUND + GREETING_BYTES + (asked + preparations) * (AROUND + 1)
    if described:
        found.received[place] += AROUND + len(walk.architecture.to_json())
    if preparations:
        points = COLUMNS * POINT_BYTES
        found.sent[place] += 2 * AROUND + POINT_BYTES + points
        found.received[place] += 3 * AROUND + KEY_BYTES + points + POINT_BYTES
        if offline == "homomorphic":
            found.sent[place] += AROUND + HE_KEY_BYTES
    return found


def online_bytes_per_relu(walk: Walk, images: int = 1) -> float:
    """Bytes from the server to the client online, per ReLU, headers included."""
    received = sum(online_bytes(walk, images).received.values())
    relus = sum(group.count for trip in walk.trips for group in trip.groups if group.circuit is not None)
    return received / (images * relus)


def _places(walk: Walk, images: int, chunk: int) -> Iterator[tuple[str, Piece]]:
    for number, pieces in pieces_of(walk, images, chunk).items():
        for piece in pieces:
            yield f"trip {number}", piece
