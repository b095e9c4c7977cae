#!/usr/bin/env python3
"""What a network's ReLUs cost in private inference, circuit by circuit: ``cost.py models=[resnet32]
fault.k=12``.
"""

from __future__ import annotations

from omegaconf import DictConfig

from circa_train.config import entry, run_tool


@entry("cost")
def main(cfg: DictConfig) -> None:
    run_tool(cfg, "cost")


if __name__ == "__main__":
    main()
