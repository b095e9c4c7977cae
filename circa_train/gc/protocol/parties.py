"""The two-party ReLU of one layer: from shares of x to shares of y, by messages alone.

As in Delphi and Circa, the *server* garbles and the *client* evaluates. Once per connection::

    client -> server    point of the base OT
    server -> client    key of the hash; answers to the base OT

and per chunk of the layer, so that memory does not grow with it::

    client -> server    OT matrix, which hides the bits of t
    server -> client    tables; labels for the bits of x_s; its opening for the multiplication
    client -> server    its opening

With ``bits``, low bits of x are dropped on the way (:mod:`circa_train.gc.protocol.rescaling`): the OT matrix
has one more row, the client's choices, the server sends its correction before its opening, and what is
multiplied by the gate are the parties' shares of the rescaled x. It takes no further round trip.

The circuits that share a bit need a Beaver multiplication, whose triples come from a trusted dealer; the full
circuit ends without. Tables and OT do not depend on x_s: a deployment sends them ahead, in its offline phase.

A party is a generator that yields a :class:`Message` to send it, or None to be given the next one, which is
then described by its ``due``; it returns its share. It knows of no transport, so the same code runs in
threads, over sockets, or step by step under a test.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import numpy as np

from circa_train.gc.aes.engines import make_kernel
from circa_train.gc.aes.hashing import to_field
from circa_train.gc.aes.key_schedule import BLOCK_BYTES, KEY_BYTES
from circa_train.gc.aes.randomness import Randomness, Seed
from circa_train.gc.circuits.sign import SignCircuit, canonical
from circa_train.gc.protocol.base_ot import POINT_BYTES
from circa_train.gc.protocol.beaver import OPENING_BYTES, Multiplication, Triples, TripleSource
from circa_train.gc.protocol.channel import Channel, Traffic
from circa_train.gc.protocol.garbling import Evaluator, GarbledBatch, Garbler, payload_bytes
from circa_train.gc.protocol.gating import both_pads, pads
from circa_train.gc.protocol.messages import Due, Message, MessageKind, chunks
from circa_train.gc.protocol.ot import COLUMNS, EvaluatorTransfer, GarblerTransfer, column_bytes
from circa_train.gc.protocol.rescaling import CORRECTION_BYTES, Rescaling, Share, Steps
from circa_train.gc.protocol.transport import Transport

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
    bits: int = 0,
    seed: Seed = None,
    kernel: str = "auto",
    chunk: int = DEFAULT_CHUNK,
) -> Party:
    """The garbling party; holds x_s, int64 (instances,), and its part of the dealer's triples (None for
    "full").

    ``bits`` low bits are dropped from x before it is multiplied. Returns its share of y, canonical.
    """
    return Party(_server(relu, server_share, triples, _rescaling(relu, bits), seed, kernel, chunk))


def client(
    relu: SignCircuit,
    mask: Share,
    triples: TripleSource | None,
    *,
    bits: int = 0,
    seed: Seed = None,
    kernel: str = "auto",
    chunk: int = DEFAULT_CHUNK,
) -> Party:
    """The evaluating party; knows the masks t, int64 (instances,), and holds its part of the dealer's
    triples.

    ``bits`` low bits are dropped from x before it is multiplied. Returns its share of y, canonical.
    """
    return Party(_client(relu, mask, triples, _rescaling(relu, bits), seed, kernel, chunk))


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


def _rescaling(relu: SignCircuit, bits: int) -> Rescaling | None:
    if bits and not relu.shares_bit:
        raise ValueError(
            f"bits = {bits}: this circuit computes y itself, and nothing is left to be rescaled before it; "
            "use one that shares the sign"
        )
    return Rescaling(relu.prime, bits) if bits else None


def _server(
    relu: SignCircuit,
    server_share: Share,
    triples: TripleSource | None,
    rescaling: Rescaling | None,
    seed: Seed,
    kernel: str,
    chunk: int,
) -> Steps:
    x = canonical(server_share, relu.prime, "server share")
    random = Randomness(seed, "server", kernel)
    garbler = Garbler(seed=random.secret("garbler"), kernel=kernel)
    transfer = GarblerTransfer(garbler.offset, random.child("transfer"))
    base_point = yield Due(MessageKind.BASE_OT_POINT, POINT_BYTES)
    hello = garbler.hello()
    hashes = make_kernel(hello.payload.tobytes(), kernel)
    yield hello
    yield transfer.setup(base_point)
    y = np.empty_like(x)
    for part in chunks(len(x), chunk):
        wires, instances = relu.circuit.evaluator_inputs, part.stop - part.start
        transfers = (wires + (rescaling is not None)) * instances
        matrix = yield _due(MessageKind.OT_EXTENSION, COLUMNS * column_bytes(transfers), relu, part)
        blocks = transfer.extend(matrix, transfers).reshape(-1, instances, 2)
        batch = garbler.garble(relu.circuit, instances, blocks[:wires])
        yield batch.message
        drawn = to_field(random.blocks(len(x[part])), relu.prime) if relu.draws_share else None
        yield batch.input_labels(relu.garbler_bits(x[part], drawn))
        share = _share_of(batch, drawn)
        if relu.shares_bit:
            factor = x[part]
            if rescaling is not None:
                factor, correction = rescaling.server_half(factor)
                pair = both_pads(
                    hashes, blocks[wires], garbler.offset, _tweak(relu), part.start, relu.prime
                )
                message, own = rescaling.correct(correction, pair)
                yield _about(message, relu, part)
                factor = factor + own
            product = Multiplication(factor, share, _take(triples, part), leads=True)
            yield _about(product.opening(), relu, part)
            share = product.finish((yield _due(MessageKind.OPENING, OPENING_BYTES * instances, relu, part)))
        y[part] = share
    return y


def _client(
    relu: SignCircuit,
    mask: Share,
    triples: TripleSource | None,
    rescaling: Rescaling | None,
    seed: Seed,
    kernel: str,
    chunk: int,
) -> Steps:
    t = canonical(mask, relu.prime, "mask")
    x = (relu.prime - t) % relu.prime
    circuit = relu.circuit
    transfer = EvaluatorTransfer(Randomness(seed, "client", kernel))
    yield transfer.hello()
    hello = yield Due(MessageKind.HELLO, KEY_BYTES)
    evaluator = Evaluator(hello, kernel=kernel)
    hashes = make_kernel(hello.payload.tobytes(), kernel)
    transfer.setup((yield Due(MessageKind.BASE_OT_CHOICES, COLUMNS * POINT_BYTES)))
    y = np.empty_like(t)
    for part in chunks(len(t), chunk):
        instances = part.stop - part.start
        bits = relu.evaluator_bits(t[part])
        if rescaling is not None:
            rescaled, choice = rescaling.client_half(t[part])
            bits = np.concatenate([bits, choice[None]])
        matrix, blocks = transfer.extend(bits.reshape(-1))
        blocks = blocks.reshape(*bits.shape, 2)
        yield _about(matrix, relu, part)
        tables = yield _due(MessageKind.TABLES, payload_bytes(circuit, instances), relu, part)
        label_bytes = circuit.garbler_inputs * instances * BLOCK_BYTES
        garbler_labels = yield _due(MessageKind.INPUT_LABELS, label_bytes, relu, part)
        wires = circuit.evaluator_inputs
        share = evaluator.evaluate(circuit, tables, garbler_labels, blocks[:wires])
        if relu.shares_bit:
            factor = x[part]
            if rescaling is not None:
                pad = pads(hashes, blocks[wires], _tweak(relu), part.start, relu.prime)
                size = CORRECTION_BYTES * instances
                message = yield _due(MessageKind.CORRECTION, size, relu, part)
                factor = rescaled + rescaling.corrected(message, choice, pad)
            product = Multiplication(factor, share, _take(triples, part), leads=False)
            theirs = yield _due(MessageKind.OPENING, OPENING_BYTES * instances, relu, part)
            yield _about(product.opening(), relu, part)
            share = product.finish(theirs)
        y[part] = share
    return y


def _tweak(relu: SignCircuit) -> int:
    """The pads' own place among the tweaks of an instance: behind the gates and the projection."""
    return 2 * relu.circuit.and_gates + 1


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
