#!/usr/bin/env python3
"""How many bits may be dropped, and where, within an accuracy budget: ``search.py checkpoint=...
budget=0.01``.
"""

from __future__ import annotations

import shlex
from typing import Any

import hydra
from omegaconf import DictConfig

from circa_train.config import Job, config_folder, entry, run_job

#: The answer, and what was measured on the way, in the run's folder.
FAULT_FILE, MEASURED = "fault.yaml", "measured.json"


def search_job(job: Job) -> dict[str, Any]:
    """Check, load, search on validation images, confirm on test images, and write the fault file."""
    from circa_train.config.build import build_device, build_fault, check_fault
    from circa_train.config.inputs import input_digests
    from circa_train.config.records import describe_model
    from circa_train.config.searching import build_search
    from circa_train.config.source import open_source
    from circa_train.runs.folder import fingerprint
    from circa_train.search import Answer, search, summary, write_fault_file

    config = job.cfg
    check_fault(config.fault)
    device = build_device(config.run.device)
    source = open_source(config.checkpoint, config.model, config.data, device)
    plan = build_fault(config.fault, source.checkpoint.metadata)
    settings, spec = build_search(config, plan)
    if source.finetuned:
        job.log.warning(
            "this checkpoint was trained with faults: its accuracy need not fall as k rises, and with exact "
            "ReLUs it may be no "
            "baseline; search the network as it was before fine-tuning, and fine-tune at the answer"
        )
    store = job.folder / MEASURED
    if not job.resume:
        store.unlink(missing_ok=True)
    result = search(
        source.converted(config.fault, plan), source.splits, spec, settings, store_path=store,
        identity=fingerprint(job.config, input_digests(job.config)), report=job.log.info,
        progress=config.run.progress,
    )  # fmt: skip
    answer = Answer.of(result, settings)
    path = job.folder / FAULT_FILE
    text = summary(answer, path)
    command = shlex.join([
        "scripts/evaluate.py", f"checkpoint={config.checkpoint}", "fault=file", f"fault.path={path}",
        f"fault.seed={config.fault.seed}", f"fault.overflow={config.fault.overflow}",
        f"draws.count={len(result.chosen_test.evaluation.accuracies)}",
    ])  # fmt: skip
    write_fault_file(path, answer, [text, f"the same test accuracies: {command}"])
    job.log.info("%s", text)
    return {**answer.record(), "fault_file": str(path),
    "model": describe_model(source.checkpoint.metadata["model"]),
            "data": source.splits.name, "checkpoint": config.checkpoint}  # fmt: skip


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="search")
def main(cfg: DictConfig) -> None:
    run_job(cfg, kind="search", work=search_job)


if __name__ == "__main__":
    main()
