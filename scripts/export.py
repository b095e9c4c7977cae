#!/usr/bin/env python3
"""Write the integer network of a checkpoint for a private inference runtime: ``export.py checkpoint=...
fault.k=12``.
"""

from __future__ import annotations

from omegaconf import DictConfig

from circa_train.config import entry, run_job


@entry("export")
def main(cfg: DictConfig) -> None:
    run_job(cfg, "export")


if __name__ == "__main__":
    main()
