#!/usr/bin/env python3
"""Measure a checkpoint's accuracy under faults: ``evaluate.py checkpoint=... fault=poszero fault.k=12``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from circa_train.config import config_folder, entry, run_job


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    run_job(cfg, "evaluate")


if __name__ == "__main__":
    main()
