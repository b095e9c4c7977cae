#!/usr/bin/env python3
"""A checkpoint rewritten so that its sign tests do least harm: ``equalize.py checkpoint=... fault.k=20``."""

from __future__ import annotations

from omegaconf import DictConfig

from circa_train.config import entry, run_job


@entry("equalize")
def main(cfg: DictConfig) -> None:
    run_job(cfg, "equalize")


if __name__ == "__main__":
    main()
