"""A circuit as the compiled kernel runs it: rows that take the free gates around an AND along with it.

A comparison spends two XORs before and one XOR after every AND. On their own they would be passes through
memory; as operands of one row they are register instructions hidden behind AES. Every row of a :class:`Plan`
computes::

    AND   result = c ^ ((a ^ a') & (b ^ b'))
    XOR   result = a ^ a'
    NOT   result = not a

where an operand that is not needed is the register of zeros. An AND keeps its number, hence its tweaks and
its place in the tables, so plan and tape give the same bytes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from circa_train.gc.circuits.circuit import Circuit, Op

#: Stands for a value that is always zero, among the numbers of values.
_NOTHING = -1


@dataclass(frozen=True, eq=False)
class Plan:
    """A fused circuit.

    Registers are numbered in this order: the circuit's inputs, its outputs, the zeros, and scratch registers,
    which live only within a tile of instances.

    Attributes:
        rows: int32 (rows, 8): op, a, a', b, b', c, result, number of the AND gate.
        scratch: how many scratch registers the rows use.
        outputs: registers of the output bits, lowest bit first.
        output_registers: how many of the registers are outputs' own; an output that is an input bit has none.
    """

    rows: NDArray[np.int32]
    scratch: int
    outputs: tuple[int, ...]
    output_registers: int


@dataclass
class _Gate:
    """A gate on numbered values, each of them assigned once; ``value`` is the number of its result."""

    op: Op
    value: int
    a: list[int]
    b: list[int] = field(default_factory=list)
    c: int = _NOTHING
    number: int = 0

    def operands(self) -> list[int]:
        """Every value it reads."""
        return [*self.a, *self.b, *([self.c] if self.c != _NOTHING else [])]


@lru_cache(maxsize=256)
def fuse(circuit: Circuit) -> Plan:
    """The plan of a circuit."""
    gates, outputs = _single_assignment(circuit)
    gates = _drop_unused(_inline_operands(_absorb_results(gates, outputs)), outputs)
    return _allocate(circuit, gates, outputs)


def _single_assignment(circuit: Circuit) -> tuple[list[_Gate], list[int]]:
    """(gates in order, values of the outputs); values 0 to inputs - 1 are the inputs."""
    held = list(range(circuit.inputs)) + [_NOTHING] * (circuit.registers - circuit.inputs)
    gates: list[_Gate] = []
    conjunctions = 0
    for op, left, right, result in circuit.tape.tolist():
        value = circuit.inputs + len(gates)
        a, b = held[left], held[right]
        if op == Op.AND:
            gates.append(_Gate(Op.AND, value, [a], [b], number=conjunctions))
            conjunctions += 1
        else:
            gates.append(_Gate(Op(op), value, [a] if op == Op.NOT else [a, b]))
        held[result] = value
    return gates, [held[register] for register in circuit.outputs]


def _absorb_results(gates: list[_Gate], outputs: list[int]) -> list[_Gate]:
    """Where an XOR is the only reader of an AND, the AND moves to its place and does both."""
    readers = Counter(value for gate in gates for value in gate.operands()) + Counter(outputs)
    conjunctions = {gate.value: gate for gate in gates if gate.op == Op.AND}
    absorbed, result = set(), []
    for gate in gates:
        if gate.op == Op.XOR:
            for operand, other in (gate.a, gate.a[::-1]):
                if operand in conjunctions and readers[operand] == 1:
                    inner = conjunctions[operand]
                    gate = _Gate(Op.AND, gate.value, inner.a, inner.b, other, inner.number)
                    absorbed.add(operand)
                    break
        result.append(gate)
    return [gate for gate in result if gate.value not in absorbed]


def _inline_operands(gates: list[_Gate]) -> list[_Gate]:
    """Where an operand of an AND is an XOR, the AND reads that one's operands: one load more instead of a
    pass.
    """
    sums = {gate.value: gate.a for gate in gates if gate.op == Op.XOR}
    for gate in gates:
        if gate.op == Op.AND:
            gate.a, gate.b = sums.get(gate.a[0], gate.a), sums.get(gate.b[0], gate.b)
    return gates


def _drop_unused(gates: list[_Gate], outputs: list[int]) -> list[_Gate]:
    read, kept = set(outputs), []
    for gate in reversed(gates):
        if gate.value in read:
            read.update(gate.operands())
            kept.append(gate)
    return kept[::-1]


def _allocate(circuit: Circuit, gates: list[_Gate], outputs: list[int]) -> Plan:
    """Registers for all values. Rows work element by element, so a result may replace an operand read for the
    last time.
    """
    place = {value: value for value in range(circuit.inputs)}
    for value in outputs:
        place.setdefault(value, len(place))
    output_registers = len(place) - circuit.inputs
    place[_NOTHING] = zeros = len(place)
    last_read = {value: step for step, gate in enumerate(gates) for value in gate.operands()}
    free: list[int] = []
    scratch, rows = 0, []
    for step, gate in enumerate(gates):
        operands = [(*pair, _NOTHING)[:2] for pair in (gate.a, gate.b or [_NOTHING])]
        row = [gate.op, *(place[value] for pair in operands for value in pair), place[gate.c]]
        free += [place[v] for v in set(gate.operands()) if last_read[v] == step and place[v] > zeros]
        if gate.value not in place:
            if not free:
                scratch += 1
                free.append(zeros + scratch)
            place[gate.value] = free.pop()
        rows.append([*row, place[gate.value], gate.number])
    plan = np.array(rows, dtype=np.int32).reshape(-1, 8)
    return Plan(plan, scratch, tuple(place[value] for value in outputs), output_registers)
