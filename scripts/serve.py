#!/usr/bin/env python3
"""Serve private inferences of an export folder: ``serve.py export=... port=7766``."""

from __future__ import annotations

from omegaconf import DictConfig

from circa_train.config import entry, run_tool


@entry("serve")
def main(cfg: DictConfig) -> None:
    run_tool(cfg, "serve")


if __name__ == "__main__":
    main()
