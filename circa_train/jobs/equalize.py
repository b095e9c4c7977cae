"""A checkpoint rewritten so that its sign tests do least harm: the work of ``scripts/equalize.py``."""

from __future__ import annotations

from typing import Any

import torch

from circa_train.checkpoint import save_checkpoint
from circa_train.data import Batches
from circa_train.files import file_digest, shown_path
from circa_train.jobs.build import build_device
from circa_train.jobs.describe import describe_model, fault_arguments, next_command
from circa_train.jobs.faults import build_fault, check_fault, refuse_rescale_bits
from circa_train.jobs.job import Job
from circa_train.jobs.settings import EqualizeConfig
from circa_train.jobs.source import open_source
from circa_train.nn.equalize import equalize

#: The rewritten checkpoint, in the run's folder.
CHECKPOINT = "equalized.pt"


def work(job: Job) -> dict[str, Any]:
    """Check, load, choose scales on training images, rewrite, and write the new checkpoint."""
    config: EqualizeConfig = job.cfg
    check_fault(config.fault)
    refuse_rescale_bits(config.fault, "it is no part of choosing scales; give it to the evaluation")
    if config.calibration_images < 1:
        raise ValueError(f"calibration_images = {config.calibration_images}: at least one is needed")
    device = build_device(config.run.device)
    source = open_source(config.checkpoint, config.model, config.data, device, config.run.trust_code)
    metadata, splits = source.checkpoint.metadata, source.splits
    if metadata.get("equalized"):
        raise ValueError(
            f"{config.checkpoint} is rewritten already; equalize {metadata['equalized']['checkpoint']}, "
            "which it was made from"
        )
    plan = build_fault(config.fault, metadata, config.run.trust_code)
    if plan.exact:
        raise ValueError(
            "exact ReLUs suffer at no scale; say which sign tests to equalize for: fault=poszero fault.k=20"
        )
    frac_bits = source.one_frac_bits(config.fault, plan)
    count = min(config.calibration_images, len(splits.train))
    images = splits.train.subset(torch.arange(count) * len(splits.train) // count)
    batches = Batches(images, config.batch_size, mean=splits.mean, std=splits.std)
    network, report = equalize(
        source.network,
        (batch[0] for batch in batches),
        plan.faults,
        frac_bits=frac_bits,
        exponents=(config.lowest, config.highest),
        headroom_bits=config.headroom_bits,
    )
    job.begin()
    record = report.record()
    path = job.folder / CHECKPOINT
    chosen_for = {"fault": plan.description, "frac_bits": frac_bits}
    origin = {"checkpoint": config.checkpoint, "sha256": file_digest(source.checkpoint.path)}
    scales = {key: record[key] for key in ("multiplied", "divided")}
    described = {key: value for key, value in metadata.items() if key not in ("format", "version", "metrics")}
    save_checkpoint(
        path, network, {**described, "frac_bits": frac_bits, "equalized": {**origin, **chosen_for, **scales}}
    )
    job.log.info("%s", report)
    job.log.info(
        "%s computes the same, bit for bit; scales are in its weights, for %d fraction bits at all sites",
        shown_path(path), frac_bits,
    )  # fmt: skip
    for site, reasons in report.unscaled().items():
        job.log.warning("%s has channels that keep their scale: %s", site, "; ".join(reasons))
    arguments = [*fault_arguments(job.config["fault"]), f"fault.frac_bits={frac_bits}"]
    for script, what in (("evaluate", "under its faults"), ("export", "as an integer network")):
        job.log.info("%s: %s", what, next_command(script, shown_path(path), job.config, *arguments))
    job.log.info("do not fine-tune it: a rescaled weight takes other steps; fine-tune %s", config.checkpoint)
    return {
        **record,
        "equalized_checkpoint": shown_path(path),
        "checkpoint": config.checkpoint,
        "model": describe_model(metadata["model"]),
        "data": splits.name,
        **chosen_for,
    }
