"""One circuit object under its interpreters in the clear, and what the builder folds away."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from circa_train.gc.circuits import arithmetic
from circa_train.gc.circuits.circuit import Builder, Circuit, Wire, count, evaluate

WIDTH = 3
PAIRS = np.array(list(itertools.product(range(2**WIDTH), repeat=2)))


def bits(values, width=WIDTH):
    return (np.asarray(values)[None, :] >> np.arange(width)[:, None] & 1).astype(bool)


def number(rows):
    return (rows.astype(int) << np.arange(len(rows))[:, None]).sum(axis=0)


def two_numbers(function):
    """A circuit of two WIDTH-bit inputs, and its values on all pairs."""
    builder = Builder()
    x, y = builder.garbler_input(WIDTH), builder.evaluator_input(WIDTH)
    circuit = builder.build(function(builder, x, y))
    return circuit, number(evaluate(circuit, bits(PAIRS[:, 0]), bits(PAIRS[:, 1])))


X, Y = PAIRS[:, 0], PAIRS[:, 1]


@pytest.mark.parametrize(
    ("name", "function", "want", "and_gates"),
    [
        ("x > y", lambda b, x, y: [arithmetic.greater(b, x, y)], X > Y, WIDTH),
        ("x >= y", lambda b, x, y: [arithmetic.greater(b, x, y, or_equal=True)], X >= Y, WIDTH),
        ("x + y", arithmetic.add, X + Y, WIDTH),
        ("x + y + 1", lambda b, x, y: arithmetic.add(b, x, y, True), X + Y + 1, WIDTH),
        ("x - y", lambda b, x, y: arithmetic.subtract(b, x, y)[0], (X - Y) % 8, WIDTH - 1),
        ("x >= y by borrow", lambda b, x, y: [arithmetic.subtract(b, x, y)[1]], X >= Y, WIDTH),
        ("select", lambda b, x, y: arithmetic.select(b, x[0], x, y), np.where(X & 1, X, Y), WIDTH),
        ("x mod 5", lambda b, x, y: arithmetic.reduce_once(b, x, 5), np.where(X >= 5, X - 5, X) & 3, None),
    ],
)
def test_arithmetic_on_all_operands(name, function, want, and_gates):
    circuit, got = two_numbers(function)
    wrong = np.flatnonzero(got != want)
    assert not len(wrong), f"{name}: x, y = {PAIRS[wrong[0]]}: want {want[wrong[0]]}, got {got[wrong[0]]}"
    if and_gates is not None:
        assert circuit.and_gates == count(circuit).and_gates == and_gates


@pytest.mark.parametrize("known", range(2**WIDTH))
def test_comparing_with_a_known_number_costs_less(known):
    def compare(builder, x, y):
        return [arithmetic.greater(builder, x, arithmetic.constant(known, WIDTH))]

    if known == 2**WIDTH - 1:
        with pytest.raises(ValueError, match="always False"):
            two_numbers(compare)
        return
    circuit, got = two_numbers(compare)
    assert (got == (known < X)).all()
    # Nothing exceeds a run of low ones, so the chain starts above it, and its first link is x itself.
    low_ones = next(i for i in range(WIDTH) if not known >> i & 1)
    assert circuit.and_gates == WIDTH - 1 - low_ones


def test_constants_fold():
    builder = Builder()
    (x,) = builder.garbler_input(1)
    assert builder.xor(x, False) == x
    assert builder.xor(False, x) == x
    assert builder.xor(x, x) is False
    assert builder.conjunction(x, True) == x
    assert builder.conjunction(True, x) == x
    assert builder.conjunction(x, False) is False
    assert builder.conjunction(False, x) is False
    assert builder.conjunction(x, x) == x
    assert builder.negation(builder.negation(x)) == x
    assert builder.negation(True) is False
    assert builder.xor(True, x) == builder.negation(x)
    assert builder.xor(True, True) is False
    assert isinstance(builder.negation(x), Wire)


def test_gates_that_no_output_needs_are_left_out():
    builder = Builder()
    x, y = builder.garbler_input(2)
    builder.conjunction(x, y)
    circuit = builder.build([builder.xor(x, y)])
    assert (count(circuit).and_gates, count(circuit).xor_gates) == (0, 1)


def test_depth_and_counts():
    builder = Builder()
    x, y = builder.garbler_input(4), builder.evaluator_input(4)
    tally = count(builder.build([arithmetic.greater(builder, x, y)]))
    assert (tally.and_gates, tally.depth, tally.not_gates) == (4, 4, 0)


def test_inputs_keep_their_registers_and_others_are_reused():
    builder = Builder()
    x, y = builder.garbler_input(30), builder.evaluator_input(30)
    circuit = builder.build([arithmetic.greater(builder, x, y)])
    assert circuit.tape[:, 3].min() >= circuit.inputs
    assert circuit.registers <= circuit.inputs + 4, (
        "a comparison needs a handful of registers, whatever its width"
    )


def test_fingerprints_tell_circuits_apart():
    def build(or_equal=False, share_modulus=None, width=4):
        builder = Builder()
        x, y = builder.garbler_input(width), builder.evaluator_input(width)
        return builder.build([arithmetic.greater(builder, x, y, or_equal=or_equal)], share_modulus)

    prints = {
        c.fingerprint
        for c in (build(), build(True), build(share_modulus=7), build(share_modulus=5), build(width=5))
    }
    assert len(prints) == 5
    assert build().fingerprint == build().fingerprint


def test_refusals():
    builder = Builder()
    x = builder.garbler_input(40)
    with pytest.raises(ValueError, match="always True"):
        builder.build([True])
    with pytest.raises(ValueError, match="1 to 32 outputs"):
        builder.build(x)
    with pytest.raises(ValueError, match="1 to 32 outputs"):
        builder.build([])
    with pytest.raises(ValueError, match="single bit"):
        builder.build(x[:2], share_modulus=7)
    circuit: Circuit = builder.build([builder.xor(x[0], x[1])])
    with pytest.raises(ValueError, match="40 input bits"):
        evaluate(circuit, np.zeros((3, 2), bool), np.zeros((0, 2), bool))
    with pytest.raises(ValueError, match="instances differ"):
        evaluate(circuit, np.zeros((40, 2), bool), np.zeros((0, 3), bool))
