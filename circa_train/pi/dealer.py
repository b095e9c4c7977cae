"""The dealer: a process of its own that prepares linear layers, and is trusted with the client's masks.

For a preparation it draws two seeds. The server gets one, for its part t of every linear layer. The client
gets the other, for all masks that it draws, and W c - t for its share c of every linear layer's input: the
dealer knows the weights, and walks the client's masks along. So the dealer could read what passes between
both, and must be a third person, or an experiment. Each party may ask once per preparation.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from circa_train.export.layers import Layer
from circa_train.gc.aes import Randomness, to_field
from circa_train.gc.protocol import Listener, MessageKind, NobodyListens, Transport, connect
from circa_train.pi.line import Line
from circa_train.pi.linear import Values, linear_maps
from circa_train.pi.masks import ClientMasks
from circa_train.pi.network import Network
from circa_train.pi.walk import Walk

SEED_BYTES = 32

_REQUEST = struct.Struct("<B3xI16s32s")
_SERVER, _CLIENT = 1, 2

DEALER_REQUEST_BYTES = _REQUEST.size

#: Images in one preparation; more takes memory that nobody needs at once.
MAX_IMAGES = 4096


class DealtServer:
    """The server's part t of every linear layer, from the dealer's seed."""

    def __init__(self, seed: bytes, prime: int, images: int) -> None:
        self._seed, self._prime, self._images = seed, prime, images

    def __call__(self, layer: Layer) -> Values:
        shape = (self._images, *layer.shape)
        blocks = Randomness(self._seed, f"linear {layer.name}").blocks(int(np.prod(shape)))
        return to_field(blocks, self._prime).reshape(shape)


class Dealer:
    """Answers both parties of any number of preparations.

    Args:
        network: the server's, weights included.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._walk = Walk(network.architecture)
        self._maps = linear_maps(network.architecture.layers, network.tensors, network.architecture.prime)
        self._random = Randomness(None, "dealer")
        self._asked: set[tuple[int, bytes]] = set()
        self._lock = threading.Lock()

    def answer(self, transport: Transport) -> None:
        """Serve one request of one party, and close the connection."""
        line = Line(transport)
        try:
            payload = line.receive(MessageKind.REQUEST, _REQUEST.size).payload.tobytes()
            role, images, number, digest = _REQUEST.unpack(payload)
            with self._lock:
                fresh = (role, number) not in self._asked
                self._asked.add((role, number))
            known = role in (_SERVER, _CLIENT) and digest == self._network.architecture.digest
            if not (fresh and known and 0 < images <= MAX_IMAGES):
                line.send(MessageKind.SHARES, bytes(SEED_BYTES))
                raise ValueError(
                    f"the dealer was asked twice, or about another network, or for {images} images"
                )
            seeds = {each: self._seed(number, each) for each in (_SERVER, _CLIENT)}
            line.send(MessageKind.SHARES, seeds[role])
            if role == _CLIENT:
                self._walk_along(line, seeds, images)
        finally:
            line.close()

    def _walk_along(self, line: Line, seeds: dict[int, bytes], images: int) -> None:
        prime = self._network.architecture.prime
        part = DealtServer(seeds[_SERVER], prime, images)

        def prepare(layer: Layer, share: Values) -> Values:
            result = (self._maps[layer.name](share) - part(layer)) % prime
            line.send_elements(result)
            return result

        masks = ClientMasks(self._walk, images, Randomness(seeds[_CLIENT], "masks"), prepare)
        for _ in masks.trips():
            pass

    def _seed(self, number: bytes, role: int) -> bytes:
        return self._random.secret(f"{number.hex()} {role}")[:SEED_BYTES]


def ask_for_server(address: tuple[str, int], number: bytes, digest: bytes, images: int,
                   timeout: float) -> bytes:  # fmt: skip
    """The server's seed."""
    with _request(address, _SERVER, number, digest, images, timeout) as (_, seed):
        return seed


@contextmanager
def asking_for_client(
    address: tuple[str, int], number: bytes, digest: bytes, images: int, prime: int, timeout: float
) -> Iterator[tuple[bytes, Callable[[Layer, Values], Values], Line]]:
    """(the client's seed, what gives its share of every linear layer, the line to the dealer)."""
    with _request(address, _CLIENT, number, digest, images, timeout) as (line, seed):

        def prepare(layer: Layer, share: Values) -> Values:
            return line.receive_elements((images, *layer.shape), prime)

        yield seed, prepare, line


@contextmanager
def _request(
    address: tuple[str, int], role: int, number: bytes, digest: bytes, images: int, timeout: float
) -> Iterator[tuple[Line, bytes]]:
    try:
        line = Line(connect(address, timeout))
    except NobodyListens as error:
        raise NobodyListens(
            f"the dealer is not there: {error}; start scripts/deal.py, and give both parties its address "
            "(pi.dealer=HOST:PORT), or leave that out on both sides: the server then starts one of its own"
        ) from error
    line.enter("dealer")
    try:
        line.send(MessageKind.REQUEST, _REQUEST.pack(role, images, number, digest))
        seed = line.receive(MessageKind.SHARES, SEED_BYTES).payload.tobytes()
        if seed == bytes(SEED_BYTES):
            raise ConnectionError(
                "the dealer refused: it has another network, or was asked for this preparation before"
            )
        yield line, seed
    finally:
        line.close()


def serve_dealer(
    network: Network, listener: Listener, stopped: Callable[[], bool] = lambda: False,
    complain: Callable[[str], None] = lambda text: None,
) -> None:  # fmt: skip
    """Answer whoever connects, one thread each, until ``stopped``."""
    dealer = Dealer(network)

    def answer(transport: Transport) -> None:
        try:
            dealer.answer(transport)
        except (ValueError, ConnectionError, TimeoutError) as error:
            complain(f"dealer: {error}")

    while not stopped():
        try:
            transport = listener.accept(still_coming=lambda: not stopped())
        except (ConnectionError, TimeoutError):
            continue
        threading.Thread(target=answer, args=(transport,), daemon=True).start()
