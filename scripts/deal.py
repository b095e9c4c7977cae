#!/usr/bin/env python3
"""Prepare linear layers for both parties of private inferences, as a third person: ``deal.py export=...``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from circa_train.config import config_folder, entry, run_tool


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="deal")
def main(cfg: DictConfig) -> None:
    run_tool(cfg, "deal")


if __name__ == "__main__":
    main()
