#!/usr/bin/env python3
"""Prepare linear layers for both parties of private inferences, as a third person: ``deal.py export=...``."""

from __future__ import annotations

from omegaconf import DictConfig

from circa_train.config import entry, run_tool


@entry("deal")
def main(cfg: DictConfig) -> None:
    run_tool(cfg, "deal")


if __name__ == "__main__":
    main()
