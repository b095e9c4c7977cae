"""Half gates with free XOR and point-and-permute: a garbler and an evaluator that share nothing but messages.

Every wire of every instance has two 128-bit labels, W and W ^ R, for false and true; R, the *offset*, is the
garbler's secret of the session. The evaluator holds one of them, the *active* label, and cannot tell which.
An AND gate costs two ciphertexts, 32 bytes (Zahur, Rosulek and Evans, 2014/756); XOR and NOT cost nothing.
Bit 0 of R is 1, so that the *colours* of the two labels of a wire differ; colours are what decoding and the
projection go by.

An output leaves in one of two ways, 4 bytes per instance either way:

* bits: the word holds the colours of the false-labels, and the evaluator reads off its bits;
* a share of the one output bit s in Z_p (the *projection*): with masks M_W = to_field(H(W, i)), the evaluator
takes
  M of its label, plus the ciphertext if that label has colour 1. The ciphertext makes the outcomes of the two
  labels differ by exactly one, so they are s plus something that only the garbler knows: minus that is the
  garbler's share. It is a pseudorandom field element, and only one ciphertext is needed, because the other
  one would be zero.

Honest-but-curious parties; labels of a batch must reach the evaluator for one set of inputs only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from circa_train.gc.aes.engines import make_kernel
from circa_train.gc.aes.key_schedule import BLOCK_BYTES, KEY_BYTES, Blocks
from circa_train.gc.aes.memory import MemoryPool
from circa_train.gc.aes.randomness import OneProcess, Randomness, Seed
from circa_train.gc.circuits.circuit import Circuit
from circa_train.gc.protocol.messages import Message, MessageKind

#: Ciphertext bytes of an AND gate, and what an output takes per instance.
AND_BYTES = 2 * BLOCK_BYTES
OUTPUT_BYTES = 4


class Garbler:
    """Garbles batches of instances, any circuits, under one offset. Instances are numbered through the
    session.

    Args:
        seed: None for secrets from the operating system; else a repeatable run (see
            :mod:`circa_train.gc.aes.randomness`).
        kernel: see :func:`circa_train.gc.aes.engines.make_kernel`; the messages do not depend on it.
    """

    def __init__(self, *, seed: Seed = None, kernel: str = "auto") -> None:
        self._random = Randomness(seed, "garbler", kernel)
        self._key = self._random.secret("public hash key")[:KEY_BYTES]
        self._kernel = make_kernel(self._key, kernel)
        offset = np.frombuffer(self._random.secret("offset"), dtype=np.uint64, count=2).copy()
        offset[0] |= np.uint64(1)
        self._offset = offset
        self._memory = MemoryPool()
        self._next_instance = 0

    @property
    def offset(self) -> Blocks:
        """R, uint64 (2,). Secret; the oblivious transfer needs it."""
        return self._offset.copy()

    def hello(self) -> Message:
        """What an evaluator is made from: the public key of the hash."""
        return Message(MessageKind.HELLO, np.frombuffer(self._key, dtype=np.uint8))

    def garble(
        self, circuit: Circuit, instances: int, evaluator_labels: Blocks | None = None
    ) -> GarbledBatch:
        """Garble ``instances`` copies of ``circuit`` with fresh labels.

        Args:
            evaluator_labels: false-labels of the evaluator's inputs, uint64 (input wires, instances, 2), as
                the oblivious transfer left them; None draws them, and the batch hands out active ones itself.
        """
        if instances < 1:
            raise ValueError(f"instances = {instances}: nothing to garble")
        expected = (circuit.evaluator_inputs, instances, 2)
        if evaluator_labels is None:
            evaluator_labels = self._draw(expected)
        elif evaluator_labels.shape != expected:
            raise ValueError(f"evaluator labels: expected shape {expected}, got {evaluator_labels.shape}")
        own_labels = self._draw((circuit.garbler_inputs, instances, 2))
        payload = self._memory.bytes(payload_bytes(circuit, instances))
        tables, words = _split(circuit, instances, payload)
        first = self._next_instance
        self._next_instance += instances
        outputs = self._kernel.garble(circuit, (own_labels, evaluator_labels), self._offset, tables, first)
        share = None
        if circuit.share_modulus is None:
            words[:] = _colours(outputs)
        else:
            tweak = 2 * circuit.and_gates
            words[:], share = self._kernel.project(
                outputs[0], self._offset, tweak, first, circuit.share_modulus
            )
        message = Message(MessageKind.TABLES, payload, circuit.fingerprint, first, instances)
        return GarbledBatch(circuit, message, share, own_labels, evaluator_labels, self._activate)

    def _activate(self, false_labels: Blocks, bits: NDArray[np.bool_]) -> Blocks:
        """The active labels of input bits, bool (wires, instances)."""
        if bits.shape != false_labels.shape[:2] or bits.dtype != bool:
            raise ValueError(
                f"input bits: expected bool {false_labels.shape[:2]}, got {bits.dtype} {bits.shape}"
            )
        active = self._memory.blocks(false_labels.shape)
        self._kernel.activate(false_labels, bits, self._offset, active)
        return active

    def _draw(self, shape: tuple[int, ...]) -> Blocks:
        labels = self._memory.blocks(shape)
        self._random.fill(labels)
        return labels


@dataclass(eq=False)
class GarbledBatch:
    """A garbled batch as its garbler keeps it. Only the messages may leave.

    Attributes:
        circuit: what was garbled.
        message: tables and output words, for the evaluator.
        share: the garbler's share of the output bit, int64 (instances,) in [0, p); None if the outputs are
            bits.
    """

    circuit: Circuit
    message: Message
    share: NDArray[np.int64] | None
    _own_labels: Blocks
    _evaluator_labels: Blocks
    _activate: Callable[[Blocks, NDArray[np.bool_]], Blocks]
    _spent: bool = False
    _here: OneProcess = field(default_factory=lambda: OneProcess("a garbled batch"))

    def input_labels(self, garbler_bits: NDArray[np.bool_]) -> Message:
        """The active labels for the garbler's input bits, bool (input wires, instances). Once only.

        Raises:
            RuntimeError: on a second call, or one on the other side of a fork; both labels of a wire would
                give away the offset and with it everything.
        """
        self._here.check()
        if self._spent:
            raise RuntimeError(
                "the input labels of this batch have been sent; garble another batch for other inputs"
            )
        labels = self._activate(self._own_labels, garbler_bits)
        self._spent = True
        return Message(
            MessageKind.INPUT_LABELS,
            labels.reshape(-1).view(np.uint8),
            self.circuit.fingerprint,
            self.message.first_instance,
            self.message.instances,
        )

    def labels_without_transfer(self, evaluator_bits: NDArray[np.bool_]) -> Blocks:
        """Active labels for the evaluator's bits, picked by the garbler, who thereby sees them: for checks in
        one process.
        """
        return self._activate(self._evaluator_labels, evaluator_bits)


class Evaluator:
    """Evaluates what a :class:`Garbler` sends. Made from the garbler's hello message.

    Raises:
        ValueError: if the message is not a hello.
    """

    def __init__(self, hello: Message, *, kernel: str = "auto") -> None:
        key = hello.expect(MessageKind.HELLO, KEY_BYTES)
        self._kernel = make_kernel(key.tobytes(), kernel)

    def evaluate(
        self, circuit: Circuit, tables: Message, garbler_labels: Message, own_labels: Blocks
    ) -> NDArray[np.int64]:
        """Evaluate one batch.

        Args:
            circuit: what both parties agreed on.
            tables, garbler_labels: the two messages of the batch.
            own_labels: active labels of the evaluator's inputs, uint64 (input wires, instances, 2).

        Returns:
            int64 (instances,): the share of the output bit in [0, p), or the output bits as a number.

        Raises:
            ValueError: if a message is of another kind, circuit, batch or length than it should be.
        """
        instances, first = tables.instances, tables.first_instance
        if (garbler_labels.first_instance, garbler_labels.instances) != (first, instances):
            raise ValueError(
                f"input labels are for instances {garbler_labels.first_instance} + "
                f"{garbler_labels.instances}, "
                f"tables for {first} + {instances}: messages of different batches"
            )
        if own_labels.shape != (circuit.evaluator_inputs, instances, 2):
            raise ValueError(
                f"own labels: expected shape {(circuit.evaluator_inputs, instances, 2)}, got "
                f"{own_labels.shape}"
            )
        payload = tables.expect(MessageKind.TABLES, payload_bytes(circuit, instances), circuit.fingerprint)
        label_bytes = circuit.garbler_inputs * instances * BLOCK_BYTES
        labels = garbler_labels.expect(MessageKind.INPUT_LABELS, label_bytes, circuit.fingerprint)
        ciphertexts, words = _split(circuit, instances, payload)
        active = labels.view(np.uint64).reshape(circuit.garbler_inputs, instances, 2)
        if circuit.share_modulus is not None and (words >= circuit.share_modulus).any():
            raise ValueError(
                f"TABLES holds the output word {words.max()}, which is no element of "
                f"Z_{circuit.share_modulus}"
            )
        outputs = self._kernel.evaluate(circuit, (active, own_labels), ciphertexts, first)
        if circuit.share_modulus is None:
            return (words ^ _colours(outputs)).astype(np.int64)
        return self._kernel.take_share(outputs[0], words, 2 * circuit.and_gates, first, circuit.share_modulus)


def payload_bytes(circuit: Circuit, instances: int) -> int:
    """Length of a TABLES payload: 32 bytes per AND gate and 4 for the output, per instance."""
    return instances * (circuit.and_gates * AND_BYTES + OUTPUT_BYTES)


def _split(circuit: Circuit, instances: int, payload: NDArray[np.uint8]) -> tuple[Blocks, NDArray[np.uint32]]:
    """Views into a TABLES payload: ciphertexts (AND gates, 2, instances, 2), then one word per instance."""
    table_bytes = circuit.and_gates * AND_BYTES * instances
    tables = payload[:table_bytes].view(np.uint64).reshape(circuit.and_gates, 2, instances, 2)
    return tables, payload[table_bytes:].view(np.uint32)


def _colours(labels: list[Blocks]) -> NDArray[np.uint32]:
    """The colours of the output labels, one word per instance, output j in bit j."""
    word = np.zeros(len(labels[0]), dtype=np.uint64)
    for position, label in enumerate(labels):
        word |= (label[:, 0] & np.uint64(1)) << np.uint64(position)
    return word.astype(np.uint32)
