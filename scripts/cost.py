#!/usr/bin/env python3
"""What a network's ReLUs cost in private inference, circuit by circuit: ``cost.py models=[resnet32]
fault.k=12``.
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from circa_train.config import config_folder, entry, run_tool


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="cost")
def main(cfg: DictConfig) -> None:
    run_tool(cfg, "cost")


if __name__ == "__main__":
    main()
