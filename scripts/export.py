#!/usr/bin/env python3
"""Write the integer network of a checkpoint for a private inference runtime: ``export.py checkpoint=...
fault.k=12``.
"""

from __future__ import annotations

from typing import Any

import hydra
from omegaconf import DictConfig

from circa_train.config import Job, config_folder, entry, run_job


def export_job(job: Job) -> dict[str, Any]:
    """Check, load, fold, quantise, measure, and write the folder ``export`` inside the run's."""
    from circa_train.config.exporting import export_record

    record, conversion = export_record(job.cfg, job.folder)
    accuracy, difference = record["accuracy"], record["accuracy"]["difference"]
    for fold in conversion.folds:
        job.log.debug("BatchNorm %s is now part of %s", fold.batch_norm, fold.into)
    job.log.info(
        "%d BatchNorm layers folded; ranges of the integer network:\n%s",
        len(conversion.folds),
        conversion.report,
    )
    job.log.info(
        "integer network %.2f%% [%.2f%%, %.2f%%], exact float network %.2f%%; "
        "integer minus simulator %+.2f [%+.2f, %+.2f] points; %d images",
        100 * accuracy["integer"]["mean"], 100 * accuracy["integer"]["low"],
        100 * accuracy["integer"]["high"],
        100 * accuracy["exact"], 100 * difference["mean"], 100 * difference["low"], 100 * difference["high"],
        accuracy["integer"]["images"],
    )  # fmt: skip
    job.log.info("%s (digest %s)", record["folder"], record["digest"])
    return record


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="export")
def main(cfg: DictConfig) -> None:
    run_job(cfg, kind="export", work=export_job)


if __name__ == "__main__":
    main()
