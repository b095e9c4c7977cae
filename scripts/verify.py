#!/usr/bin/env python3
"""Verify that the simulator is the protocol, on real activations: ``verify.py checkpoint=... fault=poszero
fault.k=12``.
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from circa_train.config import config_folder, entry, run_job


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="verify")
def main(cfg: DictConfig) -> None:
    stored = run_job(cfg, "verify")
    if stored is not None and not stored["result"]["verified"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
