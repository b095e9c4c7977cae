#!/usr/bin/env python3
"""Speed and memory beside what they are to reach: ``benchmark.py benchmark=quick``."""

from __future__ import annotations

from omegaconf import DictConfig

from circa_train.config import entry, run_job


@entry("benchmark")
def main(cfg: DictConfig) -> None:
    run_job(cfg, "benchmark", keep_memory=False)  # it measures both


if __name__ == "__main__":
    main()
