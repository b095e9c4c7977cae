"""What a network's ReLUs cost in private inference, circuit by circuit: the work of ``scripts/cost.py``."""

from __future__ import annotations

from circa_train.cost import DELPHI, circuits_of, cost_table, measure_seconds, network_rows, paper_circuits
from circa_train.fault import TruncatedSign
from circa_train.jobs.faults import build_fault, refuse_rescale_bits
from circa_train.jobs.settings import CostConfig
from circa_train.nn import build_model, relu_sites
from circa_train.runs import write_csv


def work(config: CostConfig) -> None:
    """Count the sites of every network, time the circuits, and print the table; write it if asked to."""
    refuse_rescale_bits(config.fault, "what is priced are the sign tests: leave it out")
    faults = build_fault(config.fault).faults
    specs = set(faults.values()) if isinstance(faults, dict) else {faults}
    masked = [spec for spec in specs if not spec.is_exact]
    for spec in masked:
        circuits_of(spec)  # refuses what has no circuit, before anything is built
    timings = None
    if config.timed:
        four = [paper_circuits(spec) for spec in masked or [TruncatedSign(0)]]
        timings = measure_seconds(
            {circuit for by_letter in four for circuits in by_letter.values() for circuit in circuits}
        )
    networks = {}
    for size in config.image_sizes:
        for name in config.models:
            model = build_model(name, num_classes=config.num_classes, image_size=size)
            networks[f"{name} {size}x{size}"] = relu_sites(model, (3, size, size))
    rows = network_rows(networks, faults, timings)
    print(cost_table(rows))
    print(
        f"\nFor comparison, per ReLU: {DELPHI.and_gates} AND gates over {DELPHI.prime_bits} bits, "
        f"{DELPHI.serialised_bytes:,} bytes, {DELPHI.garble_microseconds:g} µs to garble and "
        f"{DELPHI.evaluate_microseconds:g} µs to evaluate: {DELPHI.source}."
    )
    if config.out is not None:
        print("written:", write_csv(rows, config.out))
