#!/usr/bin/env python3
"""Serve private inferences of an export folder: ``serve.py export=... port=7766``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from circa_train.config import config_folder, entry, run_tool


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="serve")
def main(cfg: DictConfig) -> None:
    run_tool(cfg, "serve")


if __name__ == "__main__":
    main()
