#!/usr/bin/env python3
"""How many bits may be dropped, and where, within an accuracy budget: ``search.py checkpoint=...
budget=0.01``.
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from circa_train.config import config_folder, entry, run_job


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="search")
def main(cfg: DictConfig) -> None:
    run_job(cfg, "search")


if __name__ == "__main__":
    main()
