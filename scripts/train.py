#!/usr/bin/env python3
"""Train or fine-tune a network, with exact ReLUs or with the faults in the loop: ``train.py model=resnet8
data=digits``.
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from circa_train.config import config_folder, entry, run_job


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="train")
def main(cfg: DictConfig) -> None:
    run_job(cfg, "train")


if __name__ == "__main__":
    main()
