"""What one ReLU costs, read off its circuit: gates, bytes by purpose, and AES calls."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from circa_train.gc.aes.key_schedule import BLOCK_BYTES
from circa_train.gc.circuits.circuit import count
from circa_train.gc.circuits.sign import SignCircuit
from circa_train.gc.protocol.beaver import OPENING_BYTES
from circa_train.gc.protocol.garbling import AND_BYTES, OUTPUT_BYTES
from circa_train.gc.protocol.ot import TRANSFER_BYTES

#: Three shares of four bytes for either party.
_TRIPLE_BYTES = 24


@dataclass(frozen=True)
class ReluCost:
    """The cost of one ReLU, without what a connection or a message costs once.

    Attributes:
        and_gates, xor_gates, not_gates: XOR and NOT are free of bytes and of AES.
        table_bytes: two ciphertexts per AND gate.
        output_bytes: decoding word or projection ciphertext.
        garbler_label_bytes: active labels that the server sends for its inputs.
        evaluator_label_bytes: active labels that the client ends up with; not sent here, see transfer_bytes.
        transfer_bytes: what the client sends so that it gets them by oblivious transfer.
        opening_bytes: both parties' openings of the multiplication.
        triple_bytes: both parties' shares of the dealer's triple, at rest.
        garbling_aes, evaluating_aes: calls of the permutation, labels not included.
    """

    and_gates: int
    xor_gates: int
    not_gates: int
    table_bytes: int
    output_bytes: int
    garbler_label_bytes: int
    evaluator_label_bytes: int
    transfer_bytes: int
    opening_bytes: int
    triple_bytes: int
    garbling_aes: int
    evaluating_aes: int

    @property
    def garbled_bytes(self) -> int:
        """Tables and output: what is stored per ReLU before the inputs are known."""
        return self.table_bytes + self.output_bytes

    @property
    def stored_bytes(self) -> int:
        """The same with all labels, garbler's and evaluator's: the usual accounting of a garbled ReLU."""
        return self.garbled_bytes + self.garbler_label_bytes + self.evaluator_label_bytes

    @property
    def sent_bytes(self) -> int:
        """Everything the two parties of :mod:`circa_train.gc.protocol.parties` send each other."""
        return self.garbled_bytes + self.garbler_label_bytes + self.transfer_bytes + self.opening_bytes


@lru_cache(maxsize=4096)
def relu_cost(relu: SignCircuit) -> ReluCost:
    """The cost of one ReLU of this kind. Remembered, because counting the gates builds the circuit."""
    circuit, gates = relu.circuit, count(relu.circuit)
    projected = circuit.share_modulus is not None
    return ReluCost(
        and_gates=gates.and_gates,
        xor_gates=gates.xor_gates,
        not_gates=gates.not_gates,
        table_bytes=AND_BYTES * gates.and_gates,
        output_bytes=OUTPUT_BYTES,
        garbler_label_bytes=BLOCK_BYTES * circuit.garbler_inputs,
        evaluator_label_bytes=BLOCK_BYTES * circuit.evaluator_inputs,
        transfer_bytes=TRANSFER_BYTES * circuit.evaluator_inputs,
        opening_bytes=2 * OPENING_BYTES if relu.shares_bit else 0,
        triple_bytes=_TRIPLE_BYTES if relu.shares_bit else 0,
        garbling_aes=8 * gates.and_gates + 4 * projected,
        evaluating_aes=4 * gates.and_gates + 2 * projected,
    )
