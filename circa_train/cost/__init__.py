"""What the ReLUs of a network cost in private inference: bytes and seconds, from how many there are and their
circuits.

    circuits    which circuit computes a sign test
    accounting  bytes of one ReLU, each way of counting named; what others published
    timing      seconds of one ReLU on this machine
    network     both for a whole network, cheap enough to be called thousands of times by a search
    table       the four circuits of the paper side by side

Nothing here needs torch.
"""

from __future__ import annotations

from circa_train.cost.accounting import ACCOUNTINGS, DELPHI, Reference, delphi_bytes, relu_bytes
from circa_train.cost.circuits import circuit_of, circuits_of, exact_circuit, register_circuit, why_no_circuit
from circa_train.cost.network import NetworkCost, SiteCost, gates_saved, network_cost
from circa_train.cost.table import CircuitCost, compare_circuits, cost_table, network_rows, paper_circuits
from circa_train.cost.timing import Seconds, measure_seconds

__all__ = [
    "ACCOUNTINGS",
    "DELPHI",
    "CircuitCost",
    "NetworkCost",
    "Reference",
    "Seconds",
    "SiteCost",
    "circuit_of",
    "circuits_of",
    "compare_circuits",
    "cost_table",
    "delphi_bytes",
    "exact_circuit",
    "gates_saved",
    "measure_seconds",
    "network_cost",
    "network_rows",
    "paper_circuits",
    "register_circuit",
    "relu_bytes",
    "why_no_circuit",
]
