"""Boolean circuits (``circuit``, ``arithmetic``), and the sign tests made of them (``sign``, ``relu``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circa_train.lazy import face

if TYPE_CHECKING:
    from circa_train.gc.circuits.arithmetic import greater
    from circa_train.gc.circuits.circuit import (
        Bit,
        Builder,
        Circuit,
        GateCount,
        Wire,
        count,
        evaluate,
        execute,
    )
    from circa_train.gc.circuits.relu import KINDS, MODES, ReluCircuit
    from circa_train.gc.circuits.sign import SignCircuit, canonical, from_bits, to_bits

__all__ = [
    "KINDS",
    "MODES",
    "Bit",
    "Builder",
    "Circuit",
    "GateCount",
    "ReluCircuit",
    "SignCircuit",
    "Wire",
    "canonical",
    "count",
    "evaluate",
    "execute",
    "from_bits",
    "greater",
    "to_bits",
]

_HOMES = {
    "KINDS": "relu",
    "MODES": "relu",
    "Bit": "circuit",
    "Builder": "circuit",
    "Circuit": "circuit",
    "GateCount": "circuit",
    "ReluCircuit": "relu",
    "SignCircuit": "sign",
    "Wire": "circuit",
    "canonical": "sign",
    "count": "circuit",
    "evaluate": "circuit",
    "execute": "circuit",
    "from_bits": "sign",
    "greater": "arithmetic",
    "to_bits": "sign",
}
__getattr__, __dir__ = face(__name__, _HOMES)
