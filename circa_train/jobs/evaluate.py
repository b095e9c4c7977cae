"""Accuracy under faults: the work of ``scripts/evaluate.py``, and what its ``result.json`` holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from circa_train.data import Batches
from circa_train.evaluation import FIRST_DRAW, Computing, evaluate
from circa_train.export import is_export
from circa_train.fixed_point import frac_bits_text
from circa_train.jobs.build import build_device
from circa_train.jobs.describe import describe_cost, describe_evaluation, describe_model
from circa_train.jobs.export import export_evaluation
from circa_train.jobs.faults import FaultPlan, build_fault, check_fault, refuse_counts
from circa_train.jobs.job import Job
from circa_train.jobs.settings import EvaluateConfig
from circa_train.jobs.source import Source, open_source
from circa_train.nn import evaluating, expect, magnitudes, observe, set_draw, stochastic_relus


def work(job: Job) -> dict[str, Any]:
    """Build (and so check) the fault and the device, then load, evaluate and report."""
    config: EvaluateConfig = job.cfg
    if is_export(config.checkpoint):
        return evaluate_export(job)
    if config.rescaling is not None:
        raise ValueError(
            f"rescaling = {config.rescaling!r} is of integer networks, and {config.checkpoint} is no export "
            "folder; leave it out, or export the checkpoint first"
        )
    check_fault(config.fault)
    device = build_device(config.run.device)
    source = open_source(config.checkpoint, config.model, config.data, device, config.run.trust_code)
    if config.fold_batchnorm:
        source = source.folded()
    plan = build_fault(config.fault, source.checkpoint.metadata, config.run.trust_code)
    source.converted(config.fault, plan)
    source.images(config.split)
    refuse_counts(config.draws, config.batch_size)
    Computing(config.precision, config.channels_last)
    job.begin()
    record = evaluation_record(source, plan, config)
    accuracy = record["accuracy"]
    job.log.info(
        "%s: %.2f%% [%.2f%%, %.2f%%] over %d draws; exact ReLU %.2f%%; %s fraction bits",
        job.folder.name, 100 * accuracy["mean"], 100 * accuracy["low"], 100 * accuracy["high"],
        len(accuracy["draws"]), 100 * record["baseline_accuracy"],
        frac_bits_text(record["frac_bits"]),
    )  # fmt: skip
    return record


def evaluate_export(job: Job) -> dict[str, Any]:
    """An export folder is evaluated as the integer network it is, beside its float simulator."""
    config: EvaluateConfig = job.cfg
    if config.fold_batchnorm or Computing(config.precision, config.channels_last) != Computing():
        raise ValueError(
            f"precision = {config.precision}, channels_last = {config.channels_last}, fold_batchnorm = "
            f"{config.fold_batchnorm}: the integer network of {config.checkpoint} computes in integers of 64 "
            "bits, its BatchNorm folded; leave them out"
        )
    record = export_evaluation(config, job.begin)
    if record["warning"]:
        job.log.warning("%s", record["warning"])
    accuracy, difference = record["accuracy"], record["difference"]
    job.log.info(
        "%s: integer network, rescaling=%s, %.2f%% [%.2f%%, %.2f%%] over %d draws; exact ReLU %.2f%%; "
        "integer minus simulator %+.2f [%+.2f, %+.2f] points",
        job.folder.name, record["rescaling"], 100 * accuracy["mean"], 100 * accuracy["low"],
        100 * accuracy["high"],
        len(accuracy["draws"]), 100 * record["baseline_accuracy"], 100 * difference["mean"],
        100 * difference["low"], 100 * difference["high"],
    )  # fmt: skip
    return record


def evaluation_record(source: Source, plan: FaultPlan, config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate ``source`` as ``config`` asks, and return what ``result.json`` holds for kind ``evaluate``."""
    network = source.converted(config.fault, plan)
    computing = Computing(config.precision, config.channels_last)
    measured = evaluate(
        network,
        source.images(config.split),
        mean=source.splits.mean,
        std=source.splits.std,
        draws=config.draws.count,
        batch_size=config.batch_size,
        until_width=config.draws.until_width,
        max_draws=config.draws.most,
        progress=config.run.progress,
        computing=computing,
    )
    metadata = source.checkpoint.metadata
    return {
        "accuracy": describe_evaluation(measured),
        "baseline_accuracy": source.baseline(config.split, config.batch_size, computing).mean,
        "model": describe_model(metadata["model"]),
        "data": source.splits.name,
        "split": config.split,
        **asdict(computing),
        "fold_batchnorm": config.fold_batchnorm,
        "checkpoint": config.checkpoint,
        "finetuned": source.finetuned,
        "equalized": bool(metadata.get("equalized")),
        "trained_fault": metadata.get("fault"),
        "training": {"seed": (metadata.get("config") or {}).get("seed"), "recipe": metadata.get("recipe")},
        "fault": plan.description,
        "severity": plan.severity,
        "frac_bits": source.frac_bits(config.fault, plan),
        "cost": describe_cost(source.relus(), plan),
        "sites": site_records(network, source, config) if config.sites else [],
    }


def site_records(network: nn.Module, source: Source, config: EvaluateConfig) -> list[dict[str, Any]]:
    """Per site, on the first batch: faults counted in one draw, those the exact law expects of the same
    activations, and how large these are.
    """
    splits = source.splits
    batches = Batches(source.images(config.split), config.batch_size, mean=splits.mean, std=splits.std)
    images, _, first = next(iter(batches))
    with (
        evaluating(network),
        observe(network) as seen,
        expect(network) as expected,
        magnitudes(network) as sizes,
    ):
        set_draw(network, FIRST_DRAW, first)
        network(images)
    return [
        {
            "site": name,
            "relus": source.relus()[name],
            "expected": asdict(expected[name]),
            "observed": asdict(seen[name].faults),
            "low": seen[name].low if seen[name].values else None,
            "high": seen[name].high if seen[name].values else None,
            "overflows": seen[name].overflows,
            "magnitudes": asdict(sizes[name]) if name in sizes else None,
        }
        for name in stochastic_relus(network)
    ]
