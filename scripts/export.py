#!/usr/bin/env python3
"""Write the integer network of a checkpoint for a private inference runtime: ``export.py checkpoint=...
fault.k=12``.
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from circa_train.config import config_folder, entry, run_job


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="export")
def main(cfg: DictConfig) -> None:
    run_job(cfg, "export")


if __name__ == "__main__":
    main()
