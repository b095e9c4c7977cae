"""Train or fine-tune a network, with exact ReLUs or with the faults in the loop: ``train.py model=resnet8 data=digits``."""

from __future__ import annotations

from typing import Any

import hydra
from omegaconf import DictConfig

from circa_train.config import Job, config_folder, entry, run_job


def train_job(job: Job) -> dict[str, Any]:
    """Check everything that can be checked, then load, train, and report the best checkpoint."""
    from circa_train.config.build import build_device, build_fault, check_model
    from circa_train.config.training import build_settings, build_wandb, prepare, training_record
    from circa_train.tracking import build_tracker
    from circa_train.training import train

    config = job.cfg
    plan = build_fault(config.fault)
    settings = build_settings(config)
    wandb = build_wandb(config.tracker)
    check_model(config.model)
    prepared = prepare(config, plan, build_device(config.run.device))
    tracker = build_tracker(job.folder, wandb=wandb, config=job.config)
    try:
        result = train(
            prepared.network, prepared.splits, settings, folder=job.folder, tracker=tracker, teacher=prepared.teacher,
            metadata={**prepared.metadata, "config": job.config}, progress=config.run.progress,
        )  # fmt: skip
        record = training_record(result, prepared, config)
        tracker.summary({"best_accuracy": result.best_accuracy})
    finally:
        tracker.finish()
    job.log.info("best validation accuracy %.2f%%; checkpoint=%s", 100 * result.best_accuracy, result.best_checkpoint)
    return record


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="train")
def main(cfg: DictConfig) -> None:
    run_job(cfg, kind="train", work=train_job)


if __name__ == "__main__":
    main()
