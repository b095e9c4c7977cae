"""The four circuits of the paper side by side: per ReLU, and for whole networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circa_train.cost.accounting import ACCOUNTINGS, relu_bytes
from circa_train.cost.circuits import circuits_of, why_no_circuit
from circa_train.cost.network import Sites, Specs, network_cost
from circa_train.cost.timing import Seconds, sum_of
from circa_train.fault import NoFault, SignTest, TruncatedSign
from circa_train.gc import relu_cost
from circa_train.gc.circuits import ReluCircuit, SignCircuit
from circa_train.text import aligned

Timings = Mapping[SignCircuit, Seconds]

#: The names of figure 2.
LETTERS = {"full": "a", "exact": "b", "stochastic": "c", "truncated": "d"}

#: What takes time.
PARTS = ("garble", "transfer", "evaluate")


@dataclass(frozen=True)
class CircuitCost:
    """One ReLU in one circuit; for k by channel, the average over the channels.

    Attributes:
        letter, kind: (a) to (d) of the paper's figure 2.
        and_gates: AND gates.
        bytes: by accounting.
        seconds: on this machine; None if not measured.
    """

    letter: str
    kind: str
    and_gates: float
    bytes: dict[str, float]
    seconds: Seconds | None


def paper_circuits(spec: SignTest) -> dict[str, tuple[SignCircuit, ...]]:
    """The circuits (a) to (d), by letter, over the field of ``spec``; (d) are as many as it has channels."""
    mode: Any = spec.mode if isinstance(spec, TruncatedSign) else "poszero"
    return {
        "a": (ReluCircuit("full", spec.prime),),
        "b": (ReluCircuit("exact", spec.prime),),
        "c": (ReluCircuit("stochastic", spec.prime, mode=mode),),
        "d": tuple(circuits_of(spec).elements()),
    }


def compare_circuits(spec: SignTest, timings: Timings | None = None) -> list[CircuitCost]:
    """The four circuits of one ReLU, ``spec`` being the last.

    Args:
        spec: a sign test with a circuit; its field is that of all four.
        timings: for all of :func:`paper_circuits`.
    """
    kinds = {letter: kind for kind, letter in LETTERS.items()}
    if not isinstance(spec, TruncatedSign):
        kinds["d"] = spec.kind
    rows = []
    for letter, circuits in paper_circuits(spec).items():
        count = len(circuits)
        size = {name: sum(relu_bytes(circuit, name) for circuit in circuits) / count for name in ACCOUNTINGS}
        seconds = None
        if timings is not None:
            seconds = sum_of(timings[circuit] for circuit in circuits) * (1 / count)
        gates = sum(relu_cost(circuit).and_gates for circuit in circuits) / count
        rows.append(CircuitCost(letter, kinds[letter], gates, size, seconds))
    return rows


def network_rows(
    networks: Mapping[str, Sites], specs: Specs, timings: Timings | None = None
) -> list[dict[str, Any]]:
    """A tidy table: one row per network and circuit, bytes under every accounting, per image.

    Args:
        networks: sites by name of the network.
        specs: what (d) stands for, its sites without faults taken as (b); (a) to (c) put one circuit at every
            site.
        timings: for every circuit; without, there are no seconds.

    Returns:
        rows {"network", "circuit", "relus", "and_gates", "<accounting>_bytes"..., "<part>_seconds"...}.

    Raises:
        ValueError: if a site has no spec, or one without a circuit.
    """
    uniform = paper_circuits(_with_circuit(specs))
    rows = []
    for network, sites in networks.items():
        for kind, letter in LETTERS.items():
            chosen, exact = (specs, uniform["b"][0]) if letter == "d" else (NoFault(), uniform[letter][0])
            costs = [
                network_cost(sites, chosen, accounting=a, exact=exact, timings=timings) for a in ACCOUNTINGS
            ]
            rows.append({
                "network": network,
                "circuit": f"({letter}) {kind}",
                "relus": costs[0].relus,
                "and_gates": costs[0].and_gates,
                **{f"{cost.accounting}_bytes": cost.bytes for cost in costs},
                **{f"{part}_seconds": getattr(costs[0].seconds, part, None) for part in PARTS},
            })  # fmt: skip
    return rows


def cost_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """:func:`network_rows` as aligned text, in millions of gates, mebibytes and seconds."""
    measures = [*(f"{name} MiB" for name in ACCOUNTINGS), *(f"{part} s" for part in PARTS)]
    lines = [["network", "circuit", "ReLUs", "M ANDs", *measures]]
    for row in rows:
        sizes = [f"{row[f'{name}_bytes'] / 2**20:.1f}" for name in ACCOUNTINGS]
        seconds = ["-" if (s := row[f"{part}_seconds"]) is None else f"{s:.2f}" for part in PARTS]
        lines.append(
            [
                row["network"],
                row["circuit"],
                f"{row['relus']:,}",
                f"{row['and_gates'] / 1e6:.2f}",
                *sizes,
                *seconds,
            ]
        )
    return aligned(lines, left=2)


def _with_circuit(specs: Specs) -> SignTest:
    """A sign test among ``specs`` that has a circuit, for its field; the default truncated sign where there
    is none.
    """
    candidates = specs.values() if isinstance(specs, Mapping) else [specs]
    return next((spec for spec in candidates if why_no_circuit(spec) is None), TruncatedSign(0))
