"""The server: it has the network, garbles, and learns nothing of the image.

One connection: greeting, base transfers, then requests of the client, each a preparation (offline) or an
inference (online), until the client ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from circa_train.export.layers import Conv2d, Input, Layer, Linear
from circa_train.gc.aes import MemoryPool, make_kernel
from circa_train.gc.protocol import MessageKind, Transport
from circa_train.pi import handshake
from circa_train.pi.dealer import MAX_IMAGES, DealtServer, ask_for_server
from circa_train.pi.garbling import ServerGarbling, ServerPiece, server_layout
from circa_train.pi.handshake import Greeting, Offline
from circa_train.pi.line import Line
from circa_train.pi.linear import Values, bias_of, linear_maps
from circa_train.pi.network import Network
from circa_train.pi.pieces import CHUNK, ELEMENT_BYTES, pieces_of
from circa_train.pi.stores import Stores, Writer, words_layout
from circa_train.pi.walk import Shares, Trip, Walk

if TYPE_CHECKING:
    from circa_train.pi.encrypted import EncryptedServer


class Server:
    """Everything that connections have in common.

    Args:
        network: read by :func:`~circa_train.pi.network.load_network`.
        stores: where preparations wait.
        offline: how linear layers are prepared.
        dealer: address of the dealer, for ``dealer``.
        own_dealer: whether the client is to be told that the dealer is this machine's, at that port.
        timeout: seconds for a message.
    """

    def __init__(
        self,
        network: Network,
        stores: Stores,
        *,
        offline: Offline = "dealer",
        dealer: tuple[str, int] | None = None,
        own_dealer: bool = False,
        timeout: float = 60.0,
    ) -> None:
        if offline == "dealer" and dealer is None:
            raise ValueError("offline='dealer' needs the address of a dealer")
        self.network, self.stores, self.offline, self.dealer = network, stores, offline, dealer
        self.timeout, self._own_dealer = timeout, own_dealer
        self.walk = Walk(network.architecture)
        self.maps = linear_maps(network.architecture.layers, network.tensors, network.architecture.prime)
        self._description = network.architecture.to_json()

    def serve(self, transport: Transport, report: Callable[[str], None] = lambda text: None) -> Line:
        """Serve one connection to its end, and close it; returns the line, with all that it counted.

        Raises:
            ConnectionError, TimeoutError: if the client goes away, stays silent, or expects another network.
            ValueError: if a message is damaged or not what is due.
        """
        line = Line(transport)
        try:
            self._converse(line, report)
            return line
        finally:
            line.close()

    def _converse(self, line: Line, report: Callable[[str], None]) -> None:
        port = self.dealer[1] if self.dealer is not None and self._own_dealer else 0
        ours = Greeting(
            self.offline,
            self.network.architecture.digest,
            self.network.parameters_digest,
            port,
            len(self._description),
        )
        try:
            theirs = Greeting.receive(line)
        except handshake.Refused:
            ours.send(line)  # so that the other one can tell, too
            raise
        ours.send(line)
        handshake.check(ours, theirs)
        garbling: ServerGarbling | None = None
        encrypted: EncryptedServer | None = None
        prepared = 0
        while True:
            line.enter("setup")
            what, number, images = handshake.asked(line)
            if what == handshake.END:
                handshake.reply(line, handshake.READY)
                return
            if what == handshake.DESCRIBE:
                handshake.reply(line, handshake.READY)
                line.send(MessageKind.ARCHITECTURE, self._description)
            elif what == handshake.PREPARE and 0 < images <= MAX_IMAGES:
                handshake.reply(line, handshake.READY)
                if garbling is None:
                    garbling = ServerGarbling(line, self.network.architecture.prime)
                    encrypted = self._encrypted(line)
                line.enter("offline")
                preparation = _Preparation(
                    self, line, garbling, encrypted, garbling.number(number), images, prepared
                )
                self.stores.make(preparation.number, self.about(images), preparation.fill)
                prepared += preparation.instances
                line.enter("setup")
                handshake.reply(line, handshake.READY)
                report(f"prepared {images} images as {preparation.number.hex()}")
            elif what == handshake.INFER and 0 < images <= MAX_IMAGES:
                self._infer(line, number, images)
                report(f"inferred {images} images of {number.hex()}")
            else:
                raise ValueError(f"the client asked for {what} with {images} images, which is nothing")

    def _encrypted(self, line: Line) -> EncryptedServer | None:
        if self.offline != "homomorphic":
            return None
        from circa_train.pi.encrypted import EncryptedServer

        return EncryptedServer(line, self.network)

    def about(self, images: int) -> dict[str, Any]:
        """What a store belongs to."""
        return {
            "role": "server",
            "version": handshake.VERSION,
            "architecture": self.network.architecture.digest.hex(),
            "parameters": self.network.parameters_digest.hex(),
            "images": images,
            "chunk": CHUNK,
        }

    def _infer(self, line: Line, number: bytes, images: int) -> None:
        try:
            with self.stores.use(number, self.about(images)) as store:
                secret = store.take_value()
                handshake.reply(line, handshake.READY)
                line.enter("online")
                _Inference(self, line, store, secret, images).run()
        except ValueError:
            if line.phase == "setup":
                handshake.reply(line, handshake.NO_STORE)
            raise


@dataclass(eq=False)
class _Preparation:
    """The server's side of one preparation: :meth:`fill` talks to the client and fills the store."""

    server: Server
    line: Line
    garbling: ServerGarbling
    encrypted: EncryptedServer | None
    number: bytes
    images: int
    first: int
    instances: int = 0

    def fill(self, store: Writer) -> None:
        server, line, prime = self.server, self.line, self.server.network.architecture.prime
        seed = self.garbling.next_labels()
        key, offset = self.garbling.public_key.hex(), self.garbling.offset.tobytes().hex()
        store.put_value({"labels": seed.hex(), "key": key, "offset": offset, "first": self.first})
        part = self._linear()
        pieces = pieces_of(server.walk, self.images)
        for step in server.walk.steps:
            if isinstance(step, (Conv2d, Linear)):
                line.enter("offline", step.name)
                value = part(step)
                store.put(words_layout("part", value.shape), {"part": value})
            elif isinstance(step, Trip):
                line.enter("offline", f"trip {step.number}")
                asked = []
                for piece in pieces[step.number]:
                    matrix = line.receive(
                        MessageKind.OT_EXTENSION, piece.matrix_bytes, circuit=piece.fingerprint,
                        first=piece.first, count=piece.count,
                    )  # fmt: skip
                    refreshed = piece.group.refreshed
                    asked.append(
                        (piece, matrix, line.receive_elements((piece.count,), prime) if refreshed else None)
                    )
                for piece, matrix, change in asked:
                    tables, reverse, kept = self.garbling.prepare(piece, self.first, seed, matrix, change)
                    if reverse is not None:
                        about = {"circuit": piece.fingerprint, "first": piece.first, "count": piece.count}
                        line.send(MessageKind.TABLES, tables, **about)  # type: ignore[arg-type]
                        line.send(MessageKind.OT_EXTENSION, reverse.payload, **about)  # type: ignore[arg-type]
                    store.put(server_layout(piece), kept)
                    self.instances += piece.count

    def _linear(self) -> Callable[[Layer], Values]:
        server, encrypted = self.server, self.encrypted
        if encrypted is not None:
            return lambda layer: encrypted.part(layer, self.images)
        assert server.dealer is not None
        digest, prime = server.network.architecture.digest, server.network.architecture.prime
        seed = ask_for_server(server.dealer, self.number, digest, self.images, server.timeout)
        return DealtServer(seed, prime, self.images)


class _Inference:
    """The server's side of one inference."""

    def __init__(self, server: Server, line: Line, store: Any, secret: dict[str, Any], images: int) -> None:
        self._server, self._line, self._store, self._images = server, line, store, images
        self._labels = bytes.fromhex(secret["labels"])
        self._kernel = make_kernel(bytes.fromhex(secret["key"]))
        self._offset = np.frombuffer(bytes.fromhex(secret["offset"]), dtype=np.uint64)
        self._prime = server.network.architecture.prime
        self._pieces, self._memory = pieces_of(server.walk, images), MemoryPool()

    def run(self) -> None:
        architecture, line = self._server.network.architecture, self._line
        shares = Shares(self._server.walk, self._images)
        for step in self._server.walk.steps:
            if isinstance(step, Trip):
                line.enter("online", f"trip {step.number}")
                shares.finish(step, self._trip(step, shares))
            elif isinstance(step, Input):
                line.enter("online", step.name)
                shares.values[step.name] = line.receive_elements((self._images, *step.shape), self._prime)
            elif isinstance(step, (Conv2d, Linear)):
                shares.values[step.name] = self._linear(step, shares.source(step))
            else:
                shares.step(step)
        line.enter("online", architecture.output)
        line.send_elements(shares.values[architecture.output])
        line.enter("setup")

    def _linear(self, layer: Layer, share: Values) -> Values:
        server, shape = self._server, (self._images, *layer.shape)
        part = self._store.take(words_layout("part", shape))["part"].astype(np.int64)
        product = server.maps[layer.name](share)
        return (product + bias_of(layer, server.network.tensors) + part) % self._prime

    def _trip(self, trip: Trip, shares: Shares) -> list[list[Values]]:
        line, pieces = self._line, self._pieces[trip.number]
        given = {id(group): shares.of_group(group) for group in trip.groups}
        running = []
        for piece in pieces:
            kept = self._store.take(server_layout(piece))
            part = ServerPiece(
                piece, kept, self._labels, self._offset, self._kernel, self._memory, self._prime
            )
            payload = part.down(given[id(piece.group)][piece.part])
            line.send(
                MessageKind.GATES, payload, circuit=piece.fingerprint, first=piece.first, count=piece.count
            )
            running.append((piece, part))
        sizes = [ELEMENT_BYTES * piece.up_words * piece.count for piece in pieces]
        answer = line.receive(MessageKind.ANSWER, sum(sizes), first=pieces[0].first if pieces else 0)
        found: dict[int, list[list[Values]]] = {id(group): [[] for _ in group.bits] for group in trip.groups}
        start = 0
        for (piece, part), size in zip(running, sizes, strict=True):
            results = part.finish(answer.payload[start : start + size])
            start += size
            for kept_, result in zip(found[id(piece.group)], results, strict=True):
                kept_.append(result)
        return [[np.concatenate(parts) for parts in found[id(group)]] for group in trip.groups]
