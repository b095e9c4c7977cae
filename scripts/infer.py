#!/usr/bin/env python3
"""Private inferences of images, on a server that does not see them: ``infer.py host=... images=...``."""

from __future__ import annotations

from omegaconf import DictConfig

from circa_train.config import entry, run_job


@entry("infer")
def main(cfg: DictConfig) -> None:
    run_job(cfg, "infer", keep_memory=False)  # torch would be most of the client


if __name__ == "__main__":
    main()
