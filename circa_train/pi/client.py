"""The client: it has the image, evaluates, and learns the logits and nothing else of the weights."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from circa_train.field import to_centred
from circa_train.gc.aes import Randomness, make_kernel
from circa_train.gc.protocol import MessageKind, Transport
from circa_train.pi import handshake
from circa_train.pi.architecture import Architecture
from circa_train.pi.dealer import asking_for_client
from circa_train.pi.garbling import ClientGarbling, answer, client_layout
from circa_train.pi.handshake import ANY, Greeting, Offline
from circa_train.pi.line import Line
from circa_train.pi.linear import Values
from circa_train.pi.masks import ClientMasks, GroupMasks
from circa_train.pi.pieces import CHUNK, pieces_of
from circa_train.pi.stores import Stores, Writer, words_layout
from circa_train.pi.walk import Trip, Walk

if TYPE_CHECKING:
    from circa_train.pi.encrypted import EncryptedClient


class Client:
    """One connection to a server.

    Args:
        transport: connected.
        stores: where preparations wait.
        offline: how linear layers are prepared; as the server does.
        architecture: the one to insist on; None takes the server's.
        digest: that of the architecture to insist on, if only that is known.
        parameters: digest of the parameters to insist on; None takes any.
        dealer: address of the dealer; None is the server's own, at ``host``.
        host: where the server is.
        timeout: seconds for a message of the dealer.

    Raises:
        Refused: if the server has another network, version or preparation.
    """

    def __init__(
        self,
        transport: Transport,
        stores: Stores,
        *,
        offline: Offline = "dealer",
        architecture: Architecture | None = None,
        digest: bytes | None = None,
        parameters: bytes | None = None,
        dealer: tuple[str, int] | None = None,
        host: str = "127.0.0.1",
        timeout: float = 60.0,
    ) -> None:
        self.line, self._stores, self._timeout = Line(transport), stores, timeout
        try:
            wanted = digest or (ANY if architecture is None else architecture.digest)
            ours = Greeting(offline, wanted, parameters or ANY)
            ours.send(self.line)
            self.greeting = Greeting.receive(self.line)
            handshake.check(ours, self.greeting)
            if architecture is None:
                architecture = handshake.fetch_architecture(self.line, self.greeting)
        except BaseException:
            self.line.close()
            raise
        self.architecture, self.offline = architecture, offline
        if dealer is None and self.greeting.dealer_port:
            dealer = (host, self.greeting.dealer_port)
        self._dealer = dealer
        self.walk = Walk(architecture)
        self._garbling: ClientGarbling | None = None
        self._encrypted: EncryptedClient | None = None
        self._prepared = 0
        #: Masks of the last preparation, by layer, if :meth:`prepare` was asked to keep them.
        self.masks: dict[str, Values] = {}

    def prepare(self, images: int, *, keep_masks: bool = False) -> bytes:
        """The offline phase for a batch of so many images; returns the number of the preparation.

        Args:
            keep_masks: leaves all masks in :attr:`masks`, for a comparison with the definition.
        """
        line, nonce = self.line, os.urandom(16)
        line.enter("setup")
        handshake.ask(line, handshake.PREPARE, nonce, images)
        if self._garbling is None:
            self._garbling = ClientGarbling(line, self.architecture.prime)
            if self.offline == "homomorphic":
                from circa_train.pi.encrypted import EncryptedClient

                self._encrypted = EncryptedClient(line, self.architecture)
        number = self._garbling.number(nonce)
        line.enter("offline")

        def fill(store: Writer) -> None:
            self._fill(store, number, images, keep_masks)

        self._stores.make(number, self.about(images), fill)
        line.enter("setup")
        line.receive(MessageKind.REQUEST, 1)
        return number

    def infer(self, number: bytes, x: Values) -> Values:
        """The online phase: logits as centred integers (n, classes) for integer inputs (n, *input shape).

        Raises:
            StoreError: if either party has no unused preparation of this number.
        """
        line, images, prime = self.line, len(x), self.architecture.prime
        if x.shape[1:] != self.architecture.input_shape:
            raise ValueError(f"images have the shape {x.shape[1:]}, not {self.architecture.input_shape}")
        line.enter("setup")
        with self._stores.use(number, self.about(images)) as store:
            secret = store.take_value()
            if handshake.ask(line, handshake.INFER, number, images) != handshake.READY:
                raise handshake.Refused(
                    f"the server has no unused preparation {number.hex()}: prepare this inference anew"
                )
            line.enter("online")
            kernel, first = make_kernel(bytes.fromhex(secret["key"])), secret["first"]
            layer = self.architecture.layers[0]
            line.enter("online", layer.name)
            mask = store.take(words_layout("share", (images, *layer.shape)))["share"].astype(np.int64)
            line.send_elements((x - mask) % prime)
            pieces = pieces_of(self.walk, images)
            for trip in self.walk.trips:
                line.enter("online", f"trip {trip.number}")
                answers = []
                for piece in pieces[trip.number]:
                    kept = store.take(client_layout(piece))
                    message = line.receive(
                        MessageKind.GATES, piece.down_bytes, circuit=piece.fingerprint, first=piece.first,
                        count=piece.count,
                    )  # fmt: skip
                    answers.append(answer(piece, first, kept, message.payload, kernel, prime))
                whole = np.concatenate(answers) if answers else np.empty(0, np.uint8)
                first_piece = pieces[trip.number][0].first if answers else 0
                line.send(MessageKind.ANSWER, whole, first=first_piece)
            output = self.architecture.layer(self.architecture.output)
            line.enter("online", output.name)
            own = store.take(words_layout("share", (images, *output.shape)))["share"].astype(np.int64)
            logits = line.receive_elements((images, *output.shape), prime) + own
            line.enter("setup")
            centred: Values = to_centred(logits, prime)
            return centred

    def quantize(self, pixels: Any) -> Values:
        """uint8 images (n, C, H, W) as the integers that the network takes."""
        about = self.architecture.preprocessing
        mean, std = (np.array(about[key]).reshape(1, -1, 1, 1) for key in ("mean", "std"))
        real = (np.asarray(pixels, dtype=np.float64) / 255 - mean) / std
        return np.rint(real * 2.0 ** about["frac_bits"]).astype(np.int64)

    def to_real(self, logits: Values) -> Any:
        """The real logits that the integers stand for."""
        bits, numerator, denominator = self.architecture.unit
        return logits * (numerator / denominator / 2.0**bits)

    def end(self) -> None:
        """Say goodbye, and close the connection."""
        try:
            self.line.enter("setup")
            handshake.ask(self.line, handshake.END)
        finally:
            self.line.close()

    def about(self, images: int) -> dict[str, Any]:
        """What a store belongs to."""
        return {
            "role": "client",
            "version": handshake.VERSION,
            "architecture": self.architecture.digest.hex(),
            "parameters": self.greeting.parameters.hex(),
            "images": images,
            "chunk": CHUNK,
        }

    def _fill(self, store: Writer, number: bytes, images: int, keep_masks: bool) -> None:
        assert self._garbling is not None
        store.put_value({"key": self._garbling.public_key.hex(), "first": self._prepared})
        if self._encrypted is not None:
            masks = ClientMasks(self.walk, images, Randomness(None, "masks"), self._encrypted.prepare)
            self._walk(store, masks, images)
        elif self._dealer is None:
            raise ValueError("the server has no dealer of its own: say where it is, pi.dealer=host:port")
        else:
            with asking_for_client(
                self._dealer, number, self.architecture.digest, images, self.architecture.prime, self._timeout
            ) as (seed, prepare, dealer_line):
                masks = ClientMasks(self.walk, images, Randomness(seed, "masks"), prepare)
                self._walk(store, masks, images)
                self.line.traffic.add(dealer_line.traffic)
        if keep_masks:
            self.masks = masks.masks

    def _walk(self, store: Writer, masks: ClientMasks, images: int) -> None:
        pieces = pieces_of(self.walk, images)
        first = True
        for trip, groups in masks.trips():
            if first:
                put(store, masks.input_share)
                first = False
            self._trip(store, trip, groups, pieces[trip.number])
        if first:
            put(store, masks.input_share)
        put(store, masks.output_share)
        self._prepared += sum(piece.count for trip in pieces.values() for piece in trip)

    def _trip(self, store: Writer, trip: Trip, groups: list[GroupMasks], pieces: list[Any]) -> None:
        assert self._garbling is not None
        line = self.line
        line.enter("offline", f"trip {trip.number}")
        of = {id(masks.group): masks for masks in groups}
        asked = []
        for piece in pieces:
            masks = of[id(piece.group)]
            matrix, blocks = self._garbling.choose(piece, masks)
            about = {"circuit": piece.fingerprint, "first": piece.first, "count": piece.count}
            line.send(MessageKind.OT_EXTENSION, matrix.payload, **about)
            if masks.change is not None:
                line.send_elements(masks.change[piece.part])
            asked.append((piece, masks, blocks, about))
        for piece, masks, blocks, about in asked:
            tables, reverse = np.empty(0, np.uint8), None
            if piece.circuit is not None:
                tables = line.receive(MessageKind.TABLES, piece.table_bytes, **about).payload
                reverse = line.receive(MessageKind.OT_EXTENSION, piece.reverse_bytes, **about)
            kept = self._garbling.keep(piece, self._prepared, masks, blocks, tables, reverse)
            store.put(client_layout(piece), kept)


def put(store: Writer, share: Values) -> None:
    """Keep a share."""
    store.put(words_layout("share", share.shape), {"share": share})
