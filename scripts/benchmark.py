#!/usr/bin/env python3
"""Speed and memory beside what they are to reach: ``benchmark.py benchmark=quick``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import hydra
from omegaconf import DictConfig

from circa_train.config import Job, config_folder, entry, run_job


def benchmark_job(job: Job) -> dict[str, Any]:
    """Measure every row, print the table, and return it with the profiles, if they are asked for."""
    import torch

    from circa_train.benchmark.table import benchmark_rows, benchmark_table, profiles

    sizes = job.cfg.benchmark
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


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="benchmark")
def main(cfg: DictConfig) -> None:
    run_job(cfg, kind="benchmark", work=benchmark_job, keep_memory=False)  # it measures both


if __name__ == "__main__":
    main()
