"""Boolean circuits: one object, built once, run by several interpreters over a whole layer at a time.

A circuit is a straight-line program (a *tape*) of XOR, NOT and AND gates on numbered registers. Every
register holds one value per *instance* (per neuron): a bit in the clear, a wire label when garbled.
Interpreters differ only in what a register holds and in what the three gates do to it; :func:`execute` is the
loop they share::

    cleartext   bits                  circa_train.gc.circuits.circuit.evaluate
    counting    nothing               circa_train.gc.circuits.circuit.count
    garbling    false-labels          circa_train.gc.protocol.garbling.Garbler
    evaluating  active labels         circa_train.gc.protocol.garbling.Evaluator

Registers 0 to garbler_inputs - 1 are the garbler's inputs, the next evaluator_inputs are the evaluator's;
gates never overwrite those, and reuse the others as soon as their value is dead, so a layer needs few
registers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

#: What leaves a circuit travels as one 32-bit word per instance.
MAX_OUTPUTS = 32


class Op(IntEnum):
    """Gate kinds as they stand in the first column of a tape."""

    XOR = 0
    NOT = 1
    AND = 2


@dataclass(frozen=True)
class Wire:
    """A value inside a :class:`Builder`, by number. Known constants are plain ``bool``, never wires."""

    index: int


Bit = Wire | bool


@dataclass(frozen=True, eq=False)
class Circuit:
    """A finished circuit.

    Attributes:
        garbler_inputs, evaluator_inputs: number of input bits of either side.
        tape: int32 (gates, 4), rows (op, left register, right register, result register); NOT ignores its
            right.
        registers: how many registers the tape uses, inputs included.
        outputs: registers of the output bits, lowest bit first.
        share_modulus: None if the evaluator learns the output bits; else p, there is one output bit s, and
            garbler and evaluator end with additive shares of s in Z_p.
    """

    garbler_inputs: int
    evaluator_inputs: int
    tape: NDArray[np.int32]
    registers: int
    outputs: tuple[int, ...]
    share_modulus: int | None = None

    @property
    def inputs(self) -> int:
        """Input bits of both sides."""
        return self.garbler_inputs + self.evaluator_inputs

    @cached_property
    def and_gates(self) -> int:
        """The gates that cost bytes and AES calls; XOR and NOT are free."""
        return int(np.count_nonzero(self.tape[:, 0] == Op.AND))

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes that name this very circuit, so that two parties notice when they run different ones."""
        shape = (
            self.garbler_inputs,
            self.evaluator_inputs,
            self.registers,
            self.share_modulus or 0,
            *self.outputs,
        )
        return hashlib.sha256(repr(shape).encode() + self.tape.astype("<i4").tobytes()).digest()[:8]


class Builder:
    """Builds a circuit gate by gate; constants fold away, so a comparison with a known number costs no more
    than it must.

    Example:
        >>> b = Builder()
        >>> (x,), (y,) = b.garbler_input(1), b.evaluator_input(1)
        >>> b.build([b.conjunction(x, b.negation(y))]).and_gates
        1
    """

    def __init__(self) -> None:
        self._garbler: list[int] = []
        self._evaluator: list[int] = []
        self._gates: dict[int, tuple[Op, int, int]] = {}
        self._negations: dict[int, int] = {}
        self._wires = 0

    def garbler_input(self, bits: int) -> list[Wire]:
        """``bits`` more input bits of the garbler, lowest first."""
        return self._input(self._garbler, bits)

    def evaluator_input(self, bits: int) -> list[Wire]:
        """``bits`` more input bits of the evaluator, lowest first."""
        return self._input(self._evaluator, bits)

    def xor(self, a: Bit, b: Bit) -> Bit:
        """a XOR b; free."""
        if isinstance(a, bool):
            a, b = b, a
        if isinstance(b, bool):
            return self.negation(a) if b else a
        assert isinstance(a, Wire)
        if a == b:
            return False
        return self._gate(Op.XOR, a.index, b.index)

    def negation(self, a: Bit) -> Bit:
        """NOT a; free. Negating twice gives back the wire itself."""
        if isinstance(a, bool):
            return not a
        if a.index not in self._negations:
            negated = self._gate(Op.NOT, a.index, a.index)
            self._negations[a.index] = negated.index
            self._negations[negated.index] = a.index
        return Wire(self._negations[a.index])

    def conjunction(self, a: Bit, b: Bit) -> Bit:
        """a AND b; two ciphertexts, unless an operand is known or both are the same."""
        if isinstance(a, bool):
            a, b = b, a
        if isinstance(b, bool):
            return a if b else False
        assert isinstance(a, Wire)
        if a == b:
            return a
        return self._gate(Op.AND, a.index, b.index)

    def build(self, outputs: Sequence[Bit], share_modulus: int | None = None) -> Circuit:
        """The circuit that computes ``outputs`` (lowest bit first); gates that none of them needs are left
        out.

        Raises:
            ValueError: if an output is a constant, if there are no outputs or more than 32, or if a share is
                asked of more than one bit.
        """
        for position, bit in enumerate(outputs):
            if isinstance(bit, bool):
                raise ValueError(
                    f"output {position} is always {bit}: nothing to garble; leave it out of the circuit"
                )
        if not 1 <= len(outputs) <= MAX_OUTPUTS:
            raise ValueError(f"a circuit has 1 to {MAX_OUTPUTS} outputs, got {len(outputs)}")
        if share_modulus is not None and len(outputs) != 1:
            raise ValueError(f"only a single bit can be turned into a share, got {len(outputs)} outputs")
        wires = [bit.index for bit in outputs if isinstance(bit, Wire)]
        needed = self._needed_gates(wires)
        tape, registers, place = self._allocate(needed, wires)
        return Circuit(
            garbler_inputs=len(self._garbler),
            evaluator_inputs=len(self._evaluator),
            tape=tape,
            registers=registers,
            outputs=tuple(place[wire] for wire in wires),
            share_modulus=share_modulus,
        )

    def _input(self, side: list[int], bits: int) -> list[Wire]:
        fresh = [self._fresh() for _ in range(bits)]
        side.extend(fresh)
        return [Wire(index) for index in fresh]

    def _fresh(self) -> int:
        self._wires += 1
        return self._wires - 1

    def _gate(self, op: Op, left: int, right: int) -> Wire:
        result = self._fresh()
        self._gates[result] = (op, left, right)
        return Wire(result)

    def _needed_gates(self, outputs: list[int]) -> list[int]:
        """Result wires of the gates that outputs depend on, in building (hence topological) order."""
        needed = set(outputs)
        for result in reversed(self._gates):
            if result in needed:
                needed.update(self._gates[result][1:])
        return [result for result in self._gates if result in needed]

    def _allocate(
        self, needed: list[int], outputs: list[int]
    ) -> tuple[NDArray[np.int32], int, dict[int, int]]:
        """Give every wire a register: inputs keep theirs, a gate takes one whose value nobody reads any
        more.
        """
        place = {wire: register for register, wire in enumerate(self._garbler + self._evaluator)}
        inputs = registers = len(place)
        last_use = {wire: step for step, result in enumerate(needed) for wire in self._gates[result][1:]}
        last_use.update(dict.fromkeys(outputs, len(needed)))
        free: list[int] = []
        rows = []
        for step, result in enumerate(needed):
            op, left, right = self._gates[result]
            for wire in {left, right}:
                if last_use[wire] == step and place[wire] >= inputs:
                    free.append(place[wire])
            free.sort(reverse=True)
            if free:
                place[result] = free.pop()
            else:
                place[result] = registers
                registers += 1
            rows.append((op, place[left], place[right], place[result]))
        return np.array(rows, dtype=np.int32).reshape(-1, 4), registers, place


Value = TypeVar("Value")


class Gates(Protocol[Value]):
    """What an interpreter does with the three gates. ``number`` counts the AND gates of the circuit from
    0.
    """

    def xor(self, a: Value, b: Value) -> Value: ...

    def negation(self, a: Value) -> Value: ...

    def conjunction(self, a: Value, b: Value, number: int) -> Value: ...


def execute(circuit: Circuit, inputs: Sequence[Value], gates: Gates[Value]) -> list[Value]:
    """Run the tape on ``inputs`` (garbler's, then evaluator's) with the given gates; the values of the
    outputs.
    """
    if len(inputs) != circuit.inputs:
        raise ValueError(f"the circuit has {circuit.inputs} input bits, got {len(inputs)}")
    registers: dict[int, Value] = dict(enumerate(inputs))
    number = 0
    for op, left, right, result in circuit.tape.tolist():
        if op == Op.XOR:
            registers[result] = gates.xor(registers[left], registers[right])
        elif op == Op.NOT:
            registers[result] = gates.negation(registers[left])
        else:
            registers[result] = gates.conjunction(registers[left], registers[right], number)
            number += 1
    return [registers[register] for register in circuit.outputs]


class _Clear:
    """Bits in the clear: numpy bool arrays."""

    def xor(self, a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return a ^ b

    def negation(self, a: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return ~a

    def conjunction(self, a: NDArray[np.bool_], b: NDArray[np.bool_], number: int) -> NDArray[np.bool_]:
        return a & b


def evaluate(
    circuit: Circuit, garbler_bits: NDArray[np.bool_], evaluator_bits: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Output bits, bool (outputs, instances), from input bits, bool (input wires, instances) of either
    side.
    """
    garbler_bits, evaluator_bits = (
        np.asarray(garbler_bits, dtype=bool),
        np.asarray(evaluator_bits, dtype=bool),
    )
    if garbler_bits.shape[1:] != evaluator_bits.shape[1:]:
        raise ValueError(
            f"instances differ: garbler {garbler_bits.shape[1:]}, evaluator {evaluator_bits.shape[1:]}"
        )
    inputs: list[NDArray[np.bool_]] = [*garbler_bits, *evaluator_bits]
    outputs = execute(circuit, inputs, _Clear())
    return np.stack(outputs)


@dataclass
class GateCount:
    """Gates met on one run of a circuit. ``depth`` is the longest chain of AND gates."""

    and_gates: int = 0
    xor_gates: int = 0
    not_gates: int = 0
    depth: int = 0


class _Counting:
    """A register holds the AND-depth of its value; gates are tallied."""

    def __init__(self) -> None:
        self.tally = GateCount()

    def xor(self, a: int, b: int) -> int:
        self.tally.xor_gates += 1
        return max(a, b)

    def negation(self, a: int) -> int:
        self.tally.not_gates += 1
        return a

    def conjunction(self, a: int, b: int, number: int) -> int:
        self.tally.and_gates += 1
        return max(a, b) + 1


def count(circuit: Circuit) -> GateCount:
    """Run the circuit for its gate counts alone."""
    gates = _Counting()
    depths = execute(circuit, [0] * circuit.inputs, gates)
    gates.tally.depth = max(depths)
    return gates.tally
