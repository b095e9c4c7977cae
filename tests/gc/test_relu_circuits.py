"""The four circuits of the paper against plain integers, in the clear and garbled."""

from __future__ import annotations

import numpy as np
import pytest
from gc_cases import all_pairs, boundary_pairs, check_equal, circuits, plain

from circa_train.field import DEFAULT_PRIME
from circa_train.gc.accounting import relu_cost
from circa_train.gc.circuits.relu import ReluCircuit
from circa_train.gc.circuits.sign import from_bits, to_bits
from circa_train.gc.protocol.local import run_locally

TINY = (3, 5, 7, 11, 13)
LARGEST = 2147483647


@pytest.mark.parametrize("prime", [*TINY, 17, 31, 61])
def test_cleartext_is_integer_arithmetic_for_every_share_and_mask(prime):
    server_share, mask = all_pairs(prime)
    for relu in circuits(prime):
        check_equal(
            relu, server_share, mask, plain(relu, server_share, mask), relu.cleartext(server_share, mask)
        )


@pytest.mark.parametrize("prime", [*TINY, 31])
def test_garbled_is_integer_arithmetic_for_every_share_and_mask(prime):
    server_share, mask = all_pairs(prime)
    for relu in circuits(prime):
        run = run_locally(relu, server_share, mask, chunk=1000)
        check_equal(relu, server_share, mask, plain(relu, server_share, mask), run.values)


def test_garbled_is_exhaustive_at_251_for_the_truncated_sign():
    server_share, mask = all_pairs(251)
    for mode in ("poszero", "negpass"):
        for k in range(8):
            relu = ReluCircuit("truncated", 251, k, mode)
            run = run_locally(relu, server_share, mask)
            check_equal(relu, server_share, mask, plain(relu, server_share, mask), run.values)


@pytest.mark.parametrize("prime", [DEFAULT_PRIME, LARGEST])
@pytest.mark.parametrize("k", [1, 12, 18, 30])
def test_fuzz_and_boundaries(prime, k):
    server_share, mask = boundary_pairs(prime, k)
    for relu in circuits(prime, ks=[k]):
        want = plain(relu, server_share, mask)
        check_equal(relu, server_share, mask, want, relu.cleartext(server_share, mask))
        check_equal(relu, server_share, mask, want, run_locally(relu, server_share, mask).values)


def test_the_worked_example_of_the_law():
    # p = 251, k = 3, x = 5, PosZero: 98 of the 251 masks zero it.
    mask = np.arange(251)
    sign = ReluCircuit("truncated", 251, 3).cleartext((5 + mask) % 251, mask)
    assert int((sign == 0).sum()) == 98


@pytest.mark.parametrize("prime", [3, 251, DEFAULT_PRIME, LARGEST])
def test_a_comparison_costs_one_and_gate_per_bit(prime):
    bits = prime.bit_length()
    for mode in ("poszero", "negpass"):
        for k in range(bits):
            cost = relu_cost(ReluCircuit("truncated", prime, k, mode))
            assert cost.and_gates == bits - k
            assert cost.table_bytes == 32 * (bits - k)
        assert relu_cost(ReluCircuit("stochastic", prime, 0, mode)).and_gates == bits


def test_costs_at_the_default_prime():
    truncated = relu_cost(ReluCircuit(k=12))
    assert (truncated.and_gates, truncated.garbled_bytes) == (19, 612)
    assert truncated.garbled_bytes <= 640
    assert truncated.garbler_label_bytes == truncated.transfer_bytes == 19 * 16
    assert truncated.sent_bytes == 612 + 304 + 304 + 16
    by_kind = {kind: relu_cost(ReluCircuit(kind)).and_gates for kind in ("full", "exact", "stochastic")}
    assert by_kind == {"full": 247, "exact": 123, "stochastic": 31}
    for kind in ("exact", "stochastic", "truncated"):
        added = (
            relu_cost(ReluCircuit(kind, multiplexer=True)).and_gates - relu_cost(ReluCircuit(kind)).and_gates
        )
        assert added == 31, "the multiplexer costs one AND gate per bit of p"


def test_message_bytes_are_what_the_accounting_says():
    mask = np.arange(64)
    for relu in circuits(DEFAULT_PRIME, ks=[12]):
        run = run_locally(relu, mask, mask, digest=False)
        cost = relu_cost(relu)
        headers = 2 * 64
        assert run.message_bytes == 64 * (cost.garbled_bytes + cost.garbler_label_bytes) + headers


def test_bits_there_and_back():
    values = np.array([0, 1, 5, 2**31 - 1])
    assert (from_bits(to_bits(values, 31)) == values).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 31}, "outside"),
        ({"k": -1}, "outside"),
        ({"kind": "stochastic", "k": 1}, "only the truncated"),
        ({"kind": "sign"}, "none of"),
        ({"mode": "zero"}, "none of"),
        ({"kind": "full", "multiplexer": True}, "no multiplexer"),
        ({"prime": 15}, "prime"),
        ({"prime": 2**31 + 11}, "prime"),
    ],
)
def test_refused_circuits(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReluCircuit(**arguments)


def test_refused_values():
    relu = ReluCircuit(prime=251, k=3)
    with pytest.raises(ValueError, match="mask: 251 is outside"):
        relu.cleartext(np.array([0]), np.array([251]))
    with pytest.raises(ValueError, match="server share: -1 is outside"):
        relu.cleartext(np.array([-1]), np.array([0]))
    with pytest.raises(ValueError, match="one-dimensional integer"):
        relu.evaluator_bits(np.zeros(3))
    with pytest.raises(ValueError, match="drawn share"):
        ReluCircuit("full", 251).garbler_bits(np.array([0]))
    with pytest.raises(TypeError, match="k must be an int"):
        ReluCircuit(k=True)
