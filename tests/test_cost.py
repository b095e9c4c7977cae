"""Costs are sums of counted circuits: exact integers, one accounting at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from circa_train.cost import (
    ACCOUNTINGS,
    DELPHI,
    Seconds,
    circuits_of,
    compare_circuits,
    cost_table,
    delphi_bytes,
    gates_saved,
    measure_seconds,
    network_cost,
    network_rows,
    paper_circuits,
    relu_bytes,
)
from circa_train.cost.accounting import serialised_by_delphi
from circa_train.fault import BitWindow, NoFault, TruncatedSign, UniformFault
from circa_train.field import DEFAULT_PRIME, bit_length
from circa_train.gc.accounting import relu_cost
from circa_train.gc.circuits.relu import ReluCircuit

SITES = [("a", 1000), ("b", 600), ("c", 12)]


def test_the_reference_adds_up() -> None:
    assert DELPHI.table_bytes == 32 * DELPHI.and_gates
    assert DELPHI.output_bytes == 32 * DELPHI.output_wires
    assert DELPHI.label_bytes == 16 * DELPHI.input_wires
    assert (
        serialised_by_delphi(DELPHI.and_gates, DELPHI.output_wires, DELPHI.input_wires)
        == DELPHI.serialised_bytes
        == 17072
    )
    assert DELPHI.overhead == pytest.approx(1.36, abs=0.01)


@pytest.mark.parametrize("k", range(bit_length(DEFAULT_PRIME)))
def test_a_truncated_sign_costs_its_bits(k: int) -> None:
    bits = bit_length(DEFAULT_PRIME) - k
    circuit = ReluCircuit("truncated", k=k)
    assert relu_bytes(circuit, "tables") == 32 * bits
    assert relu_bytes(circuit, "labels") == 32 * bits + 4 + 2 * 16 * bits
    assert relu_bytes(circuit, "ot") == 32 * bits + 4 + 16 * bits + 16 * bits + 16
    assert relu_bytes(circuit, "delphi") == round(
        DELPHI.overhead * (32 * (bits + 31) + 32 * 31 + 16 * (2 * bits + 2 * 31))
    )


def test_a_complete_relu_at_k_12_stays_below_640_bytes() -> None:
    circuit = ReluCircuit("truncated", k=12)
    assert relu_cost(circuit).garbled_bytes == 612 <= 640
    assert relu_bytes(circuit, "tables") == 608


def test_every_accounting_is_cheaper_from_circuit_to_circuit() -> None:
    four = compare_circuits(TruncatedSign(12))
    assert [row.letter for row in four] == ["a", "b", "c", "d"]
    for accounting in ACCOUNTINGS:
        sizes = [row.bytes[accounting] for row in four]
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) == 4
    assert four[0].seconds is None


def test_delphis_bytes_are_those_of_the_multiplexer() -> None:
    plain, multiplexed = (ReluCircuit("truncated", k=12, multiplexer=m) for m in (False, True))
    assert delphi_bytes(plain) == delphi_bytes(multiplexed)
    full = ReluCircuit("full")
    assert delphi_bytes(full) == round(DELPHI.overhead * (32 * full.circuit.and_gates + 32 * 31 + 16 * 93))


def test_a_network_is_the_sum_of_its_sites() -> None:
    specs = {"a": TruncatedSign(12), "b": TruncatedSign(20, "negpass"), "c": NoFault()}
    for accounting in ACCOUNTINGS:
        cost = network_cost(SITES, specs, accounting=accounting)
        parts = [
            1000 * relu_bytes(ReluCircuit("truncated", k=12), accounting),
            600 * relu_bytes(ReluCircuit("truncated", k=20, mode="negpass"), accounting),
            12 * relu_bytes(ReluCircuit("exact"), accounting),
        ]
        assert [site.bytes for site in cost.sites] == parts
        assert (cost.accounting, cost.relus, cost.bytes, cost.seconds) == (accounting, 1612, sum(parts), None)
        assert cost.and_gates == 1000 * 19 + 600 * 11 + 12 * ReluCircuit("exact").circuit.and_gates


def test_a_network_of_the_paper() -> None:
    from circa_train.nn.models.registry import build_model
    from circa_train.nn.sites import relu_sites

    sites = relu_sites(build_model("resnet32", num_classes=10, image_size=32), (3, 32, 32))
    cost = network_cost(sites, TruncatedSign(12), accounting="tables")
    assert (cost.relus, cost.and_gates, cost.bytes) == (303_104, 303_104 * 19, 303_104 * 608)
    assert [site.site for site in cost.sites] == [name for name, _ in sites]


def test_k_by_channel_is_charged_by_channel() -> None:
    mixed = network_cost([("a", 600)], TruncatedSign((4, 4, 30)))
    each = [network_cost([("a", 200)], TruncatedSign(k)).bytes for k in (4, 4, 30)]
    assert mixed.bytes == sum(each)
    assert circuits_of(TruncatedSign((4, 4, 30))) == {
        ReluCircuit("truncated", k=4): 2,
        ReluCircuit("truncated", k=30): 1,
    }
    with pytest.raises(ValueError, match="site a: 100 ReLUs do not divide into the 3 channels"):
        network_cost([("a", 100)], TruncatedSign((4, 4, 30)))
    average = compare_circuits(TruncatedSign((4, 4, 30)))[3]
    assert average.and_gates == pytest.approx((27 + 27 + 1) / 3)


def test_gates_saved_by_an_allocation() -> None:
    allocation = {"a": TruncatedSign(15), "b": TruncatedSign(12), "c": TruncatedSign(10)}
    assert gates_saved(SITES, allocation, TruncatedSign(12)) == 3 * 1000 - 2 * 12
    assert gates_saved(SITES, TruncatedSign(12), allocation) == -gates_saved(
        SITES, allocation, TruncatedSign(12)
    )
    assert gates_saved(SITES, allocation, allocation) == 0


@pytest.mark.parametrize(
    ("specs", "options", "message"),
    [
        ({"a": TruncatedSign(1), "b": TruncatedSign(1)}, {}, "no spec for site c"),
        (
            {"a": TruncatedSign(1), "b": UniformFault(), "c": NoFault()},
            {},
            "site b: UniformFault.* no garbled circuit",
        ),
        (BitWindow(2, 20), {}, "site a: BitWindow"),
        (
            TruncatedSign(12),
            {"accounting": "gross"},
            "accounting = 'gross' is not one of tables, labels, ot, delphi",
        ),
    ],
)
def test_what_has_no_cost_is_refused(specs, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network_cost(SITES, specs, **options)


def test_seconds_are_those_of_the_timings() -> None:
    circuits = {circuit for group in paper_circuits(TruncatedSign(12)).values() for circuit in group}
    timings = {circuit: Seconds(1e-6 * circuit.circuit.and_gates, 2e-6, 3e-6) for circuit in circuits}
    cost = network_cost(SITES, TruncatedSign(12), timings=timings)
    assert cost.seconds is not None
    assert cost.seconds.total == pytest.approx(1612 * 24e-6)
    assert cost.seconds.garble == pytest.approx(1612 * 19e-6)
    rows = network_rows({"net": SITES, "half": [("a", 806)]}, TruncatedSign(12), timings)
    assert [row["circuit"] for row in rows[:4]] == [
        "(a) full",
        "(b) exact",
        "(c) stochastic",
        "(d) truncated",
    ]
    assert [rows[3][f"{part}_seconds"] for part in ("garble", "evaluate", "transfer")] == pytest.approx(
        [1612 * 19e-6, 1612 * 2e-6, 1612 * 3e-6]
    )
    assert rows[3]["labels_bytes"] == cost.bytes
    for one, half in zip(rows[:4], rows[4:], strict=True):
        assert half["network"] == "half"
        assert all(
            one[key] == pytest.approx(2 * half[key]) for key in one if key not in ("network", "circuit")
        )
    mixed = compare_circuits(
        TruncatedSign((12, 0)), timings | {ReluCircuit("truncated"): Seconds(1e-6, 0.0, 0.0)}
    )[3]
    assert mixed.seconds == Seconds(pytest.approx(10e-6), 1e-6, 1.5e-6)
    with pytest.raises(KeyError):
        network_cost(SITES, TruncatedSign(13), timings=timings)


def test_circuits_of_other_fields_and_exact_sites_among_the_truncated() -> None:
    specs = {"a": TruncatedSign(4, prime=251), "b": NoFault(), "c": TruncatedSign(7, prime=251)}
    exact = ReluCircuit("exact", 251)
    rows = network_rows({"net": SITES}, specs)
    assert rows[1]["and_gates"] == 1612 * exact.circuit.and_gates
    assert rows[3]["and_gates"] == 1000 * 4 + 600 * exact.circuit.and_gates + 12 * 1


def test_the_table_reads_in_mebibytes() -> None:
    text = cost_table(network_rows({"net": [("a", 2**20)]}, TruncatedSign(12)))
    head, *lines = text.splitlines()
    assert head.split()[:2] == ["network", "circuit"]
    assert len(lines) == 4
    assert lines[3].split()[:6] == ["net", "(d)", "truncated", "1,048,576", "19.92", "608.0"]
    assert lines[3].endswith("-")


def test_measured_seconds_are_there_for_every_circuit() -> None:
    circuits = [ReluCircuit("stochastic"), ReluCircuit("truncated", k=30)]
    measured = measure_seconds(circuits, instances=64, repeats=1)
    assert list(measured) == circuits
    for seconds in measured.values():
        assert seconds.total == seconds.garble + seconds.evaluate + seconds.transfer > 0


def test_no_torch_is_needed() -> None:
    code = "import sys, circa_train.cost; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], timeout=120).returncode
        == 0
    )
