"""Speed and memory beside what they are to reach: the work of ``scripts/benchmark.py``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from circa_train.benchmark.table import benchmark_rows, benchmark_table, profiles
from circa_train.jobs.job import Job


def work(job: Job) -> dict[str, Any]:
    """Measure every row, print the table, and return it with the profiles, if they are asked for."""
    sizes = job.cfg.benchmark
    job.begin()
    rows = list(benchmark_rows(sizes, job.log.info))
    print(benchmark_table(rows))
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    print(
        f"\n{torch.get_num_threads()} threads; CUDA: {', '.join(devices) or 'no device here, so no GPU rows'}"
    )
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "cuda": devices}
    result["rows"] = [asdict(row) | {"reached": row.reached} for row in rows]
    if sizes.profiles:
        result["profiles"] = profiles(sizes)
        for name, costs in result["profiles"].items():
            for backend, largest in costs.items():
                print(
                    f"{name}, {backend}: "
                    + ", ".join(f"{operator} {share:.0%}" for operator, share in largest)
                )
    return result
