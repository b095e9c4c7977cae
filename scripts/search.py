#!/usr/bin/env python3
"""How many bits may be dropped, and where, within an accuracy budget: ``search.py checkpoint=...
budget=0.01``; or where, for a number of AND gates: ``gates=11``. Exits with 1 if test images do not confirm
an answer within a budget; in a sweep the other searches go on, and each says it in its log and result.
"""

from __future__ import annotations

import sys

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from circa_train.config import entry, run_job


@entry("search")
def main(cfg: DictConfig) -> None:
    stored = run_job(cfg, "search")
    alone = HydraConfig.get().mode != RunMode.MULTIRUN
    if alone and stored is not None and stored["result"]["confirmed"] is False:
        sys.exit(1)


if __name__ == "__main__":
    main()
