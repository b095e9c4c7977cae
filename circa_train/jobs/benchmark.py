"""Speed and memory beside what they are to reach: the work of ``scripts/benchmark.py``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from circa_train.benchmark.machine import describe_machine, machine_line
from circa_train.benchmark.table import benchmark_rows, benchmark_table, measured_devices, profiles
from circa_train.jobs.job import Job


def work(job: Job) -> dict[str, Any]:
    """Measure every row, print the table, and return it with the profiles, if they are asked for."""
    sizes = job.cfg.benchmark
    devices = measured_devices(sizes)
    job.begin()
    rows = list(benchmark_rows(sizes, job.log.info))
    print(benchmark_table(rows))
    machine = describe_machine()
    print(f"\n{machine_line(machine)}")
    result: dict[str, Any] = {"machine": machine}
    result["rows"] = [asdict(row) | {"reached": row.reached, "vague": row.vague} for row in rows]
    if sizes.profiles and "cpu" in devices:
        result["profiles"] = profiles(sizes)
        for name, costs in result["profiles"].items():
            for backend, largest in costs.items():
                print(
                    f"{name}, {backend}: "
                    + ", ".join(f"{operator} {share:.0%}" for operator, share in largest)
                )
    return result
