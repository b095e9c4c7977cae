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

A party is a generator that yields a :class:`Message` to send it, or None to be given the next one, which is
then described by its ``due``; it returns its share. It knows of no transport, so the same code runs in
threads, over sockets, or step by step under a test.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from circa_train.gc.aes.hashing import to_field
from circa_train.gc.aes.key_schedule import BLOCK_BYTES, KEY_BYTES
from circa_train.gc.aes.randomness import Randomness, Seed
from circa_train.gc.circuits.sign import SignCircuit, canonical
from circa_train.gc.protocol.base_ot import POINT_BYTES
from circa_train.gc.protocol.beaver import OPENING_BYTES, Multiplication, Triples, TripleSource
from circa_train.gc.protocol.channel import Channel, Traffic
from circa_train.gc.protocol.garbling import Evaluator, GarbledBatch, Garbler, payload_bytes
from circa_train.gc.protocol.messages import Due, Message, MessageKind
from circa_train.gc.protocol.ot import COLUMNS, EvaluatorTransfer, GarblerTransfer, column_bytes
from circa_train.gc.protocol.transport import Transport

Share = NDArray[np.int64]
Steps = Generator[Message | Due, Message, Share]

#: Instances per chunk: few megabytes at a time, and the cost of a call into the kernel does not show.
DEFAULT_CHUNK = 2048


class Party(Generator[Message | None, Message, Share]):
    """One party, run by whoever carries its messages. Yields and returns as this module says.

    Attributes:
        due: the message that it waits for; None while it has one to send.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.due: Due | None = None

    def send(self, message: Message | None) -> Message | None:
        """Go on, with the message that was due if one was.

        Raises:
            ValueError: if the message is not what was due.
        """
        if self.due is not None and message is not None:
            self.due.check(message)  # here, and not where it arrives: no way to a party goes around it
        step = self._steps.send(message)  # type: ignore[arg-type]
        self.due = step if isinstance(step, Due) else None
        return None if isinstance(step, Due) else step

    def throw(self, *error: object) -> Message | None:
        """End the party by an error."""
        self._steps.throw(*error)  # type: ignore[call-overload]
        return None


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
    return Party(_server(relu, server_share, triples, seed, kernel, chunk))


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
    return Party(_client(relu, mask, triples, seed, kernel, chunk))


def run_party(party: Party, transport: Transport, *, digest: bool = True) -> tuple[Share, Traffic]:
    """Run one party over a transport to its end: (its share, what it sent). Closes the transport either way.

    Raises:
        ConnectionError, TimeoutError: if the other party goes away or stays silent.
        ValueError: if a message is damaged, of another session, out of step or about something else.
    """
    try:
        channel = Channel(transport, digest=digest)
        wanted = next(party)
        while True:
            if party.due is not None:
                wanted = party.send(channel.receive(party.due))
            elif wanted is not None:
                channel.send(wanted)
                wanted = next(party)
    except StopIteration as end:
        share: Share = end.value
        return share, channel.traffic
    finally:
        transport.close()


def _server(
    relu: SignCircuit, server_share: Share, triples: TripleSource | None, seed: Seed, kernel: str, chunk: int
) -> Steps:
    x = canonical(server_share, relu.prime, "server share")
    random = Randomness(seed, "server", kernel)
    garbler = Garbler(seed=random.secret("garbler"), kernel=kernel)
    transfer = GarblerTransfer(garbler.offset, random.child("transfer"))
    base_point = yield Due(MessageKind.BASE_OT_POINT, POINT_BYTES)
    yield garbler.hello()
    yield transfer.setup(base_point)
    y = np.empty_like(x)
    for part in _chunks(len(x), chunk):
        wires, instances = relu.circuit.evaluator_inputs, part.stop - part.start
        transfers = wires * instances
        matrix = yield _due(MessageKind.OT_EXTENSION, COLUMNS * column_bytes(transfers), relu, part)
        labels = transfer.extend(matrix, transfers).reshape(wires, instances, 2)
        batch = garbler.garble(relu.circuit, instances, labels)
        yield batch.message
        drawn = to_field(random.blocks(len(x[part])), relu.prime) if relu.draws_share else None
        yield batch.input_labels(relu.garbler_bits(x[part], drawn))
        share = _share_of(batch, drawn)
        if relu.shares_bit:
            product = Multiplication(x[part], share, _take(triples, part), leads=True)
            yield _about(product.opening(), relu, part)
            share = product.finish((yield _due(MessageKind.OPENING, OPENING_BYTES * instances, relu, part)))
        y[part] = share
    return y


def _client(
    relu: SignCircuit, mask: Share, triples: TripleSource | None, seed: Seed, kernel: str, chunk: int
) -> Steps:
    t = canonical(mask, relu.prime, "mask")
    x = (relu.prime - t) % relu.prime
    circuit = relu.circuit
    transfer = EvaluatorTransfer(Randomness(seed, "client", kernel))
    yield transfer.hello()
    evaluator = Evaluator((yield Due(MessageKind.HELLO, KEY_BYTES)), kernel=kernel)
    transfer.setup((yield Due(MessageKind.BASE_OT_CHOICES, COLUMNS * POINT_BYTES)))
    y = np.empty_like(t)
    for part in _chunks(len(t), chunk):
        instances = part.stop - part.start
        bits = relu.evaluator_bits(t[part])
        matrix, blocks = transfer.extend(bits.reshape(-1))
        yield _about(matrix, relu, part)
        tables = yield _due(MessageKind.TABLES, payload_bytes(circuit, instances), relu, part)
        label_bytes = circuit.garbler_inputs * instances * BLOCK_BYTES
        garbler_labels = yield _due(MessageKind.INPUT_LABELS, label_bytes, relu, part)
        share = evaluator.evaluate(circuit, tables, garbler_labels, blocks.reshape(*bits.shape, 2))
        if relu.shares_bit:
            product = Multiplication(x[part], share, _take(triples, part), leads=False)
            theirs = yield _due(MessageKind.OPENING, OPENING_BYTES * instances, relu, part)
            yield _about(product.opening(), relu, part)
            share = product.finish(theirs)
        y[part] = share
    return y


def _about(message: Message, relu: SignCircuit, part: slice) -> Message:
    """The message, saying which part of which layer it belongs to."""
    return replace(
        message,
        circuit=relu.circuit.fingerprint,
        first_instance=part.start,
        instances=part.stop - part.start,
    )


def _due(kind: MessageKind, size: int, relu: SignCircuit, part: slice) -> Due:
    return Due(kind, size, relu.circuit.fingerprint, part.start, part.stop - part.start)


def _chunks(instances: int, chunk: int) -> Iterator[slice]:
    if chunk < 1:
        raise ValueError(f"chunk = {chunk}: must be at least 1")
    return (slice(start, min(start + chunk, instances)) for start in range(0, instances, chunk))


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
