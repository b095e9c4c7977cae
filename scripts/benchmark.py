#!/usr/bin/env python3
"""Speed and memory beside what they are to reach: ``benchmark.py benchmark=quick``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from circa_train.config import config_folder, entry, run_job


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="benchmark")
def main(cfg: DictConfig) -> None:
    run_job(cfg, "benchmark", keep_memory=False)  # it measures both


if __name__ == "__main__":
    main()
