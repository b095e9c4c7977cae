"""A circuit as the compiled kernel runs it: rows, each of which is an AND and the free gates around it.

A comparison has two XORs before every AND and one XOR after it. Done gate by gate, each XOR would read and
write memory. As part of the row of the AND it is an instruction on registers, done while the processor waits
for AES. Every row of a :class:`FusedCircuit` computes::

    AND   result = c ^ ((a ^ a') & (b ^ b'))
    XOR   result = a ^ a'
    NOT   result = not a

where an operand that is not needed is the register of zeros. An AND keeps its number, and with it its tweaks
and its place in the tables. So the rows give the same bytes as the gates of the circuit.
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
class FusedCircuit:
    """The rows of a circuit, and the registers they need.

    Registers are numbered in this order: the circuit's inputs, its outputs, the zeros, and scratch registers.
    A scratch register holds one tile of instances at a time.

    Attributes:
        rows: int32 (rows, 8): op, a, a', b, b', c, result, number of the AND gate.
        scratch: how many scratch registers the rows use.
        outputs: registers of the output bits, lowest bit first.
        output_registers: how many registers outputs have. An output that is an input bit has none of its own.
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
def fuse(circuit: Circuit) -> FusedCircuit:
    """The rows of a circuit."""
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
    """If only an XOR reads the result of an AND, one row at the place of the XOR computes both."""
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
    """If an operand of an AND is the result of an XOR, the row reads the XOR's two operands instead."""
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


def _allocate(circuit: Circuit, gates: list[_Gate], outputs: list[int]) -> FusedCircuit:
    """Give every value a register. Rows work element by element, so a result may take the register of an
    operand that is read for the last time.
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
    table = np.array(rows, dtype=np.int32).reshape(-1, 8)
    return FusedCircuit(table, scratch, tuple(place[value] for value in outputs), output_registers)
