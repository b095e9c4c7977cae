#!/usr/bin/env python3
"""Measure a checkpoint's accuracy under faults: ``evaluate.py checkpoint=... fault=poszero fault.k=12``."""

from __future__ import annotations

from typing import Any

import hydra
from omegaconf import DictConfig

from circa_train.config import Job, config_folder, entry, run_job


def evaluate_job(job: Job) -> dict[str, Any]:
    """Build (and so check) the fault and the device, then load, evaluate and report."""
    from circa_train.config.build import build_device, build_fault, check_fault
    from circa_train.config.records import evaluation_record
    from circa_train.config.source import open_source
    from circa_train.export import is_export

    config = job.cfg
    if is_export(config.checkpoint):
        return _evaluate_export(job)
    check_fault(config.fault)
    device = build_device(config.run.device)
    source = open_source(config.checkpoint, config.model, config.data, device)
    plan = build_fault(config.fault, source.checkpoint.metadata)
    record = evaluation_record(source, plan, config)
    accuracy = record["accuracy"]
    job.log.info(
        "%s: %.2f%% [%.2f%%, %.2f%%] over %d draws; exact ReLU %.2f%%; %d fraction bits",
        job.folder.name, 100 * accuracy["mean"], 100 * accuracy["low"], 100 * accuracy["high"],
        len(accuracy["draws"]),
        100 * record["baseline_accuracy"], record["frac_bits"],
    )  # fmt: skip
    return record


def _evaluate_export(job: Job) -> dict[str, Any]:
    """An export folder is evaluated as the integer network it is, beside its float simulator."""
    from circa_train.config.exporting import export_evaluation

    record = export_evaluation(job.cfg)
    accuracy, difference = record["accuracy"], record["difference"]
    job.log.info(
        "%s: integer network %.2f%% [%.2f%%, %.2f%%] over %d draws; exact ReLU %.2f%%; "
        "integer minus simulator %+.2f [%+.2f, %+.2f] points",
        job.folder.name, 100 * accuracy["mean"], 100 * accuracy["low"], 100 * accuracy["high"],
        len(accuracy["draws"]),
        100 * record["baseline_accuracy"], 100 * difference["mean"], 100 * difference["low"],
        100 * difference["high"],
    )  # fmt: skip
    return record


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    run_job(cfg, kind="evaluate", work=evaluate_job)


if __name__ == "__main__":
    main()
