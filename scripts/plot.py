#!/usr/bin/env python3
"""Collect results into one table, and draw every figure for which there is data: ``plot.py
runs=runs/sweeps/truncation``.
"""

from __future__ import annotations

import shlex

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from circa_train.config import entry, run_tool


@entry("plot")
def main(cfg: DictConfig) -> None:
    run_tool(cfg, "plot", shlex.join(["scripts/plot.py", *HydraConfig.get().overrides.task]))


if __name__ == "__main__":
    main()
