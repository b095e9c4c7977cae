#!/usr/bin/env python3
"""Train or fine-tune a network, with exact ReLUs or with the faults in the loop: ``train.py model=resnet8
data=digits``.
"""

from __future__ import annotations

from omegaconf import DictConfig

from circa_train.config import entry, run_job


@entry("train")
def main(cfg: DictConfig) -> None:
    run_job(cfg, "train")


if __name__ == "__main__":
    main()
