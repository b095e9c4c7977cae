"""Bytes of one ReLU. A figure means little without its accounting, so every figure names one.

    tables    the garbled tables alone, 32 bytes per AND gate
    labels    tables, output word, and one label for every input bit of either party: what it takes to
              evaluate, at rest
    ot        all that the two parties of :mod:`circa_train.gc.protocol.parties` send: the same, the client's
              labels replaced by the oblivious transfer that produces them, and the openings of the
              multiplication
    delphi    as Delphi's code would serialise it, see :func:`delphi_bytes`

What a connection or a message costs once (base transfers, headers) is in none of them, nor are Beaver
triples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from circa_train.gc import relu_cost
from circa_train.gc.aes import BLOCK_BYTES
from circa_train.gc.circuits import SignCircuit
from circa_train.gc.protocol import AND_BYTES

ACCOUNTINGS = ("tables", "labels", "ot", "delphi")


@dataclass(frozen=True)
class Reference:
    """A published ReLU, to hold beside our own: bytes per ReLU of its offline phase, microseconds on one
    server core.

    Attributes:
        source: whose it is, and who measured.
        prime_bits: bit length of its field.
        and_gates, output_wires, input_wires: of its circuit.
        table_bytes, output_bytes, label_bytes: what it has to store for these.
        serialised_bytes: what its code writes.
        garble_microseconds, evaluate_microseconds: as measured there, on another machine than yours.
    """

    source: str
    prime_bits: int
    and_gates: int
    output_wires: int
    input_wires: int
    table_bytes: int
    output_bytes: int
    label_bytes: int
    serialised_bytes: int
    garble_microseconds: float
    evaluate_microseconds: float

    @property
    def overhead(self) -> float:
        """Bytes written per byte that is needed."""
        return self.serialised_bytes / (self.table_bytes + self.output_bytes + self.label_bytes)


#: The paper's baseline. Its prime has 41 bits and its circuit clamps the ReLU, so the fair baseline for a
#: 31-bit field is circuit (a) here, not this. The wires follow from the bytes: two blocks per output, one
#: label per input.
DELPHI = Reference(
    source="Delphi (Mishra, Lehmkuhl, Srinivasan, Zheng, Popa; USENIX Security 2020), "
    "its code as measured by others",
    prime_bits=41,
    and_gates=288,
    output_wires=42,
    input_wires=126,
    table_bytes=9216,
    output_bytes=1344,
    label_bytes=2016,
    serialised_bytes=17072,
    garble_microseconds=102.0,
    evaluate_microseconds=52.0,
)


@lru_cache(maxsize=4096)
def relu_bytes(circuit: SignCircuit, accounting: str) -> int:
    """Bytes of one ReLU under an accounting.

    Raises:
        ValueError: for an unknown accounting.
    """
    if accounting == "delphi":
        return delphi_bytes(circuit)
    cost = relu_cost(circuit)
    by_name = {"tables": cost.table_bytes, "labels": cost.stored_bytes, "ot": cost.sent_bytes}
    if accounting not in by_name:
        raise ValueError(f"accounting = {accounting!r} is not one of {', '.join(ACCOUNTINGS)}")
    return by_name[accounting]


def delphi_bytes(circuit: SignCircuit) -> int:
    """Bytes of one ReLU as Delphi would have stored it, had its circuit been this one: an estimate, not a
    measurement.

    Assumed: half gates; two blocks for each output wire and one label for each input wire of either party;
    outputs that are shares formed inside the circuit, so that the sign circuits (b) to (d) get the paper's
    multiplexer, n more AND gates; and the serialisation overhead in the proportion measured for Delphi,
    17,072 / 12,576.
    """
    gates = circuit.circuit
    if circuit.draws_share:
        return serialised_by_delphi(gates.and_gates, len(gates.outputs), gates.inputs)
    n = circuit.bits
    return serialised_by_delphi(gates.and_gates + n, n, gates.inputs + 2 * n)


def serialised_by_delphi(and_gates: int, output_wires: int, input_wires: int) -> int:
    """The formula of :func:`delphi_bytes`; for Delphi's own gates and wires it gives the 17,072 bytes
    measured.
    """
    return round(DELPHI.overhead * (AND_BYTES * and_gates + BLOCK_BYTES * (2 * output_wires + input_wires)))
