#!/usr/bin/env python3
"""A checkpoint rewritten so that its sign tests do least harm: ``equalize.py checkpoint=... fault.k=20``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from circa_train.config import config_folder, entry, run_job


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="equalize")
def main(cfg: DictConfig) -> None:
    run_job(cfg, "equalize")


if __name__ == "__main__":
    main()
