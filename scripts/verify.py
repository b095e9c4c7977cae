#!/usr/bin/env python3
"""Verify that the simulator is the protocol, on real activations: ``verify.py checkpoint=... fault=poszero
fault.k=12``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from circa_train.config import Job, config_folder, entry, run_job
from circa_train.files import read_json
from circa_train.runs.folder import RESULT


def verify_job(job: Job) -> dict[str, Any]:
    """Check what can be checked, then load, compare site by site, and price the whole network."""
    from circa_train.config.verification import verification_record
    from circa_train.cost import cost_table
    from circa_train.verify import by_reason

    record, table = verification_record(job.cfg)
    job.log.info("%s\n%s", job.folder.name, table)
    if record["left_out"]:
        job.log.warning(
            "not garbled: %s", by_reason({site["site"]: site["reason"] for site in record["left_out"]})
        )
    if record["network"]:
        job.log.info(
            "the whole network, per image, %d fraction bits\n%s",
            record["frac_bits"],
            cost_table(record["network"]),
        )
    for site in record["sites"]:
        for mismatch in site["named"]:
            job.log.error("%s", mismatch["text"])
    outcome = f"{record['mismatches']} mismatches" if record["mismatches"] else "no mismatch"
    job.log.info(
        "%d sites, %d values, each in four ways: %s", len(record["sites"]), record["values"], outcome
    )
    return record


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="verify")
def main(cfg: DictConfig) -> None:
    run_job(cfg, kind="verify", work=verify_job)
    stored = read_json(Path(HydraConfig.get().runtime.output_dir) / RESULT)
    if stored is not None and stored["result"]["mismatches"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
