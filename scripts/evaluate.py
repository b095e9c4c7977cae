#!/usr/bin/env python3
"""Measure a checkpoint's accuracy under faults: ``evaluate.py checkpoint=... fault=poszero fault.k=12``."""

from __future__ import annotations

from omegaconf import DictConfig

from circa_train.config import entry, run_job


@entry("evaluate")
def main(cfg: DictConfig) -> None:
    run_job(cfg, "evaluate")


if __name__ == "__main__":
    main()
