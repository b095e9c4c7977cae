"""The two-party ReLU of one layer: from shares of x to shares of y, by messages alone.

As in Delphi and Circa, the *server* garbles and the *client* evaluates. Once per connection::

    client -> server    point of the base OT
    server -> client    key of the hash; answers to the base OT

and per chunk of the layer, so that memory does not grow with it::

    client -> server    OT matrix, which hides the bits of t
    server -> client    tables; labels for the bits of x_s; its opening for the multiplication
    client -> server    its opening

The circuits that share a bit need a Beaver multiplication, whose triples come from a trusted dealer; the full
circuit ends without. Tables and OT do not depend on x_s: a deployment sends them ahead, in its offline phase.

A party is a generator that yields a :class:`Message` to send it, or None to be given the next one; it returns
its share. It knows of no transport, so the same code runs in threads, over sockets, or step by step under a
test.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from circa_train.gc.aes.hashing import to_field
from circa_train.gc.aes.randomness import Randomness, Seed
from circa_train.gc.circuits.sign import SignCircuit, canonical
from circa_train.gc.protocol.beaver import Multiplication, Triples, TripleSource
from circa_train.gc.protocol.garbling import Evaluator, GarbledBatch, Garbler
from circa_train.gc.protocol.messages import Message, MessageKind
from circa_train.gc.protocol.ot import EvaluatorTransfer, GarblerTransfer
from circa_train.gc.protocol.transport import Transport

Share = NDArray[np.int64]
Party = Generator[Message | None, Message, Share]

#: Instances per chunk: few megabytes at a time, and the cost of a call into the kernel does not show.
DEFAULT_CHUNK = 2048


@dataclass
class Traffic:
    """Bytes one party sent, by kind of message, headers included and frames of the transport not."""

    sent: dict[MessageKind, int] = field(default_factory=dict)

    def add(self, kind: MessageKind, size: int) -> None:
        """Count a message."""
        self.sent[kind] = self.sent.get(kind, 0) + size

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.sent.values())


def server(
    relu: SignCircuit,
    server_share: Share,
    triples: TripleSource | None,
    *,
    seed: Seed = None,
    kernel: str = "auto",
    chunk: int = DEFAULT_CHUNK,
) -> Party:
    """The garbling party; holds x_s, int64 (instances,), and its part of the dealer's triples (None for
    "full").

    Returns its share of y, canonical.
    """
    x = canonical(server_share, relu.prime, "server share")
    random = Randomness(seed, "server", kernel)
    garbler = Garbler(seed=random.secret("garbler"), kernel=kernel)
    transfer = GarblerTransfer(garbler.offset, random.child("transfer"))
    base_point = yield None
    yield garbler.hello()
    yield transfer.setup(base_point)
    y = np.empty_like(x)
    for part in _chunks(len(x), chunk):
        matrix = yield None
        labels = _receive_choices(relu, transfer, matrix, part)
        batch = garbler.garble(relu.circuit, part.stop - part.start, labels)
        yield batch.message
        drawn = to_field(random.blocks(len(x[part])), relu.prime) if relu.draws_share else None
        yield batch.input_labels(relu.garbler_bits(x[part], drawn))
        share = _share_of(batch, drawn)
        if relu.shares_bit:
            product = Multiplication(x[part], share, _take(triples, part), leads=True)
            yield product.opening()
            share = product.finish((yield None))
        y[part] = share
    return y


def client(
    relu: SignCircuit,
    mask: Share,
    triples: TripleSource | None,
    *,
    seed: Seed = None,
    kernel: str = "auto",
    chunk: int = DEFAULT_CHUNK,
) -> Party:
    """The evaluating party; knows the masks t, int64 (instances,), and holds its part of the dealer's
    triples.

    Returns its share of y, canonical.
    """
    t = canonical(mask, relu.prime, "mask")
    x = (relu.prime - t) % relu.prime
    transfer = EvaluatorTransfer(Randomness(seed, "client", kernel))
    yield transfer.hello()
    evaluator = Evaluator((yield None), kernel=kernel)
    transfer.setup((yield None))
    y = np.empty_like(t)
    for part in _chunks(len(t), chunk):
        bits = relu.evaluator_bits(t[part])
        matrix, blocks = transfer.extend(bits.reshape(-1))
        yield replace(
            matrix, circuit=relu.circuit.fingerprint, first_instance=part.start, instances=bits.shape[1]
        )
        tables = yield None
        garbler_labels = yield None
        _check_part(tables, part)
        share = evaluator.evaluate(relu.circuit, tables, garbler_labels, blocks.reshape(*bits.shape, 2))
        if relu.shares_bit:
            product = Multiplication(x[part], share, _take(triples, part), leads=False)
            theirs = yield None
            yield product.opening()
            share = product.finish(theirs)
        y[part] = share
    return y


def run_party(party: Party, transport: Transport, *, digest: bool = True) -> tuple[Share, Traffic]:
    """Run one party over a transport to its end: (its share, what it sent). Closes the transport either way.

    Raises:
        ConnectionError, TimeoutError: if the other party goes away or stays silent.
        ValueError: if a message is damaged, out of step or about something else.
    """
    traffic = Traffic()
    try:
        wanted = next(party)
        while True:
            if wanted is None:
                wanted = party.send(Message.from_bytes(transport.receive(), digest=digest))
            else:
                data = wanted.to_bytes(digest=digest)
                transport.send(data)
                traffic.add(wanted.kind, len(data))
                wanted = next(party)
    except StopIteration as end:
        share: Share = end.value
        return share, traffic
    finally:
        transport.close()


def _chunks(instances: int, chunk: int) -> Iterator[slice]:
    if chunk < 1:
        raise ValueError(f"chunk = {chunk}: must be at least 1")
    return (slice(start, min(start + chunk, instances)) for start in range(0, instances, chunk))


def _receive_choices(
    relu: SignCircuit, transfer: GarblerTransfer, matrix: Message, part: slice
) -> NDArray[np.uint64]:
    """False-labels of the client's input wires, from its OT matrix."""
    _check_part(matrix, part)
    if matrix.circuit != relu.circuit.fingerprint:
        raise ValueError(
            "the client evaluates another circuit: both need the same prime, k, mode and kind of circuit"
        )
    wires, instances = relu.circuit.evaluator_inputs, part.stop - part.start
    return transfer.extend(matrix, wires * instances).reshape(wires, instances, 2)


def _check_part(message: Message, part: slice) -> None:
    theirs = (message.first_instance, message.first_instance + message.instances)
    if theirs != (part.start, part.stop):
        raise ValueError(
            f"{message.kind.name} is for instances {theirs[0]} to {theirs[1]}, expected {part.start} to "
            f"{part.stop}: "
            "both parties need layers of the same length and the same chunk"
        )


def _share_of(batch: GarbledBatch, drawn: Share | None) -> Share:
    """The server's share of the circuit's result: drawn beforehand, or left by the projection."""
    share = batch.share if drawn is None else drawn
    assert share is not None
    return share


def _take(triples: TripleSource | None, part: slice) -> Triples:
    if triples is None:
        raise ValueError(
            "this circuit shares a bit, which takes one triple per ReLU from the dealer: none were given"
        )
    return triples.take(part.stop - part.start)
