#!/usr/bin/env python3
"""Verify that the simulator is the protocol, on real activations: ``verify.py checkpoint=... fault=poszero
fault.k=12``.
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from circa_train.config import entry, run_job


@entry("verify")
def main(cfg: DictConfig) -> None:
    stored = run_job(cfg, "verify")
    if stored is not None and not stored["result"]["verified"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
