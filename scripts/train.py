#!/usr/bin/env python3
"""Train or fine-tune a network, with exact ReLUs or with the faults in the loop: ``train.py model=resnet8
data=digits``.
"""

from __future__ import annotations

from typing import Any

import hydra
from omegaconf import DictConfig

from circa_train.config import Job, config_folder, entry, run_job


def train_job(job: Job) -> dict[str, Any]:
    """Check everything that can be checked, then load, train, and report the best checkpoint."""
    from circa_train.config.build import build_device, build_fault, check_model
    from circa_train.config.training import build_settings, build_wandb, prepare, training_record
    from circa_train.runs.metrics import build_tracker
    from circa_train.training import join_ranks, train

    config = job.cfg
    plan = build_fault(config.fault)
    settings = build_settings(config)
    wandb = build_wandb(config.tracker)
    check_model(config.model)
    with join_ranks(config.run.device) as ranks:
        device = build_device(config.run.device) if ranks.world_size == 1 else ranks.device(config.run.device)
        prepared = prepare(config, plan, device)
        tracker = build_tracker(job.folder, wandb=wandb, config=job.config, rank=ranks.rank)
        try:
            result = train(
                prepared.network, prepared.splits, settings, folder=job.folder, tracker=tracker,
                resume=job.resume,
                teacher=prepared.teacher, metadata={**prepared.metadata, "config": job.config},
                progress=config.run.progress,
            )  # fmt: skip
        finally:
            tracker.finish()
    job.log.info("best validation accuracy %.2f%%: %s", 100 * result.best_accuracy, result.best_checkpoint)
    return training_record(result, prepared, config)


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="train")
def main(cfg: DictConfig) -> None:
    run_job(cfg, kind="train", work=train_job)


if __name__ == "__main__":
    main()
