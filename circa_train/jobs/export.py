"""The integer network of a checkpoint: the work of ``scripts/export.py``, and evaluations of export
folders.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from circa_train.checkpoint import Checkpoint
from circa_train.data import Batches, DataSplits, ImageSet
from circa_train.evaluation import FIRST_DRAW, evaluate
from circa_train.export import (
    Conversion,
    IntegerNetwork,
    RescalingWarning,
    open_export,
    save_export,
    to_integers,
    under_every_rescaling,
)
from circa_train.export.accuracies import paired_difference
from circa_train.export.ranges import wraps_warning
from circa_train.fault import expected_faults, observed_faults
from circa_train.files import file_digest, shown_path
from circa_train.jobs.build import build_device, build_splits
from circa_train.jobs.describe import describe_cost, describe_evaluation, describe_model
from circa_train.jobs.faults import (
    FROM_CHECKPOINT,
    build_fault,
    check_fault,
    headroom_bits,
    refuse_counts,
    refuse_rescale_bits,
    single_frac_bits,
)
from circa_train.jobs.job import Job
from circa_train.jobs.settings import DrawsConfig, EvaluateConfig, ExportConfig
from circa_train.jobs.source import Source, open_source
from circa_train.nn import set_draw, set_specs, with_stochastic_relus, without_faults

FOLDER = "export"  # inside the run's folder

#: A loss of accuracy that nobody exports a network with on purpose.
_MUCH = 0.1


def work(job: Job) -> dict[str, Any]:
    """Check, load, fold, quantise, measure, and write the folder ``export`` inside the run's."""
    record, conversion = export_record(job.cfg, job.folder, job.begin)
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
    for rescaling, found in accuracy["rescalings"].items():
        floor = found["minus_floor"]
        job.log.info(
            "rescaling=%s: %.2f%% [%.2f%%, %.2f%%], minus floor %+.2f [%+.2f, %+.2f] points, "
            "%.4g values per image expected to wrap",
            rescaling, 100 * found["mean"], 100 * found["low"], 100 * found["high"],
            100 * floor["mean"], 100 * floor["low"], 100 * floor["high"],
            sum(record["wraps_per_image"][rescaling].values()),
        )  # fmt: skip
    if record["warning"]:
        job.log.warning("%s", record["warning"])
    if accuracy["integer"]["high"] < accuracy["exact"] - _MUCH:
        job.log.warning(
            "more than %.0f points of accuracy are lost under these sign tests: drop fewer bits, or equalize "
            "or fine-tune the checkpoint for them, at the same fault.frac_bits=%d",
            100 * _MUCH, record["frac_bits"],
        )  # fmt: skip
    job.log.info("%s (digest %s)", record["folder"], record["digest"])
    return record


def export_record(
    config: ExportConfig, run_folder: Path, begin: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], Conversion]:
    """Convert, measure and write the export folder; returns what ``result.json`` holds for kind ``export``.

    ``begin`` is called when everything is checked and loaded, as in :class:`~circa_train.jobs.job.Job`.

    Raises:
        ExportError, ConversionError: naming what cannot be exported; with the range report, if it does not
            fit the field.
        ValueError: for a value out of range.
    """
    check_fault(config.fault)
    refuse_rescale_bits(config.fault, "an export rescales by its weight_frac_bits, as rescaling= says")
    device = build_device(config.run.device)
    for name in ("images", "calibration_images", "vectors"):
        count = getattr(config, name)
        if count is not None and count < 1:
            raise ValueError(f"{name} = {count}: at least one is needed")
    source = open_source(
        config.checkpoint, config.model, config.data, device, config.run.trust_code
    )
    splits, metadata = source.splits, source.checkpoint.metadata
    plan = build_fault(config.fault, metadata, config.run.trust_code)
    frac_bits = single_frac_bits(plan, metadata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RescalingWarning)  # the record and the log say it
        conversion = to_integers(
            source.network,
            plan.faults,
            _batches(_spread(splits.train, config.calibration_images), splits, config.batch_size),
            frac_bits=frac_bits,
            weight_frac_bits=config.weight_frac_bits,
            value_bits=config.value_bits,
            headroom_bits=headroom_bits(config.fault),
            seed=config.fault.seed,
            rescaling=config.rescaling,
            overflow=config.fault.overflow,
            largest_error=config.largest_error,
        )
    frac_bits = conversion.network.plan.format.accumulator_frac_bits
    simulator = with_stochastic_relus(
        source.network,
        plan.faults,
        frac_bits=frac_bits,
        seed=config.fault.seed,
        overflow=config.fault.overflow,
    ).eval()
    images = _spread(_split(splits, config.split), config.images)
    refuse_counts(config.draws, config.batch_size)
    begin()
    network = conversion.network.to(device)
    compared = compare(
        network, simulator, images, splits, config.draws, config.batch_size, config.run.progress
    )
    rescalings = under_every_rescaling(
        network, images, draws=len(compared["integer"]["draws"]), seed=config.fault.seed,
        mean=splits.mean, std=splits.std, batch_size=config.batch_size, progress=config.run.progress,
    )  # fmt: skip
    accuracy = {"split": config.split, **compared, "rescalings": rescalings}
    shown = _spread(images, config.vectors)
    digest = save_export(
        run_folder / FOLDER,
        conversion,
        images=shown.images,
        labels=shown.labels,
        data=_data(source),
        accuracy=accuracy,
        provenance=_provenance(source.checkpoint),
    )
    record = {
        "folder": shown_path(run_folder / FOLDER),
        "digest": digest,
        "model": describe_model(metadata["model"]),
        "data": splits.name,
        "checkpoint": config.checkpoint,
        "fault": plan.description,
        "prime": conversion.network.prime,
        "frac_bits": frac_bits,
        "weight_frac_bits": conversion.network.plan.format.weight_frac_bits,
        "needed_prime_bits": conversion.report.needed_bits,
        "rescaling": config.rescaling,
        "integer_error": conversion.error,
        "warning": conversion.report.warning(config.rescaling),
        "wraps_per_image": {
            name: conversion.report.wraps(name) for name in conversion.network.plan.format.rescalings
        },
        "accuracy": accuracy,
    }
    return record, conversion


def export_evaluation(
    config: EvaluateConfig, begin: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Evaluate an export folder as ``config`` asks: the record of kind ``evaluate``, with the difference from
    floating point. ``begin`` is called when everything is checked and loaded.

    ``fault=checkpoint`` is the export's own sign tests; others of its field may be tried, as on a checkpoint.

    Raises:
        ExportError: if the folder is damaged.
        ValueError: if ``model`` or ``fault.frac_bits`` contradict the folder.
    """
    check_fault(config.fault)
    refuse_rescale_bits(config.fault, "an export rescales by its weight_frac_bits, as rescaling= says")
    device = build_device(config.run.device)
    export = open_export(
        config.checkpoint,
        seed=config.fault.seed,
        rescaling=config.rescaling,
        overflow=config.fault.overflow,
    )
    network, manifest = export.network, export.manifest
    if config.model.name != FROM_CHECKPOINT:
        raise ValueError(
            f"{config.checkpoint} is an export folder and brings its own network; leave out model="
        )
    own = {"sites": {name: spec.to_dict() for name, spec in network.specs.items()}}
    plan = build_fault(config.fault, {"fault": own})
    frac_bits = network.plan.format.accumulator_frac_bits
    if single_frac_bits(plan, {}) not in (None, frac_bits):
        raise ValueError(
            f"{config.checkpoint} was exported at {frac_bits} fraction bits, not {plan.frac_bits}; export it "
            "anew"
        )
    described = {**manifest["data"], **{key: manifest["input"][key] for key in ("mean", "std")}}
    splits = build_splits(config.data, device, {"data": described}, config.run.trust_code)
    simulator = export.real_network(seed=config.fault.seed, overflow=config.fault.overflow).to(device)
    for model in (network.to(device), simulator):
        set_specs(model, plan.faults)
    images = _split(splits, config.split)
    refuse_counts(config.draws, config.batch_size)
    begin()
    found = compare(network, simulator, images, splits, config.draws, config.batch_size, config.run.progress)
    provenance = manifest["provenance"]
    trained = provenance.get("trained_fault")
    return {
        "accuracy": found["integer"],
        "baseline_accuracy": found["exact"],
        "simulator": found["simulator"],
        "difference": found["difference"],
        "overflows": dict(network.overflows),
        "rescaling": network.rescaling,
        "warning": wraps_warning(network.rescaling, _expected_wraps(network, manifest)),
        "model": describe_model(provenance.get("model") or {"name": Path(config.checkpoint).name}),
        "data": splits.name,
        "split": config.split,
        "checkpoint": config.checkpoint,
        "digest": export.digest,
        "finetuned": bool(trained) and trained.get("kind") != "none",
        "trained_fault": trained,
        "fault": plan.description,
        "severity": plan.severity,
        "frac_bits": frac_bits,
        "cost": describe_cost({layer.name: math.prod(layer.shape) for layer in network.plan.sites}, plan),
        "sites": _site_records(network, _batches(images, splits, config.batch_size)) if config.sites else [],
    }


def _expected_wraps(network: IntegerNetwork, manifest: dict[str, Any]) -> dict[str, float]:
    """Wraps per image under the network's rescaling, as the manifest's ranges expect them, by layer."""
    key = {"local": "wrap_faults", "offset": "offset_wraps"}.get(network.rescaling, "")
    rescales = {layer.name for layer in network.plan.layers if layer.kind == "rescale"}
    rows = [row for row in manifest["ranges"]["layers"] if row["layer"] in rescales]
    return {row["layer"]: float(row.get(key, 0.0)) for row in rows}


def compare(
    network: IntegerNetwork,
    simulator: nn.Module,
    images: ImageSet,
    splits: DataSplits,
    draws: DrawsConfig,
    batch_size: int,
    progress: bool,
) -> dict[str, Any]:
    """Accuracies of the integer network, of the float simulator under the same masks, and of the float
    network without faults.

    ``difference`` is integer minus simulator, draw by draw, with the 95% interval of its mean over draws
    (Student's t): same images, same masks, so what remains is rounding.
    """
    how: dict[str, Any] = {
        "mean": splits.mean,
        "std": splits.std,
        "batch_size": batch_size,
        "progress": progress,
    }
    integer = evaluate(
        network, images, draws=draws.count, until_width=draws.until_width, max_draws=draws.most, **how
    )
    simulated = evaluate(simulator, images, draws=len(integer.accuracies), **how)
    with without_faults(simulator):
        exact = evaluate(simulator, images, **how)
    return {
        "integer": describe_evaluation(integer),
        "simulator": describe_evaluation(simulated),
        "exact": exact.mean,
        "difference": paired_difference(integer, simulated),
    }


def _site_records(network: IntegerNetwork, batches: Batches) -> list[dict[str, Any]]:
    """Per site, on the first batch: faults counted in one draw, and those the exact law expects of the same
    values.
    """
    images, _, first = next(iter(batches))
    set_draw(network, FIRST_DRAW, first)
    return [
        {
            "site": test.site,
            "relus": test.x[0].numel(),
            "expected": asdict(expected_faults(test.x, test.spec)),
            "observed": asdict(observed_faults(test.x, test.mask, test.gate, test.spec)),
            "low": float(test.x.min()) * network.plan.scales[test.site].unit,
            "high": float(test.x.max()) * network.plan.scales[test.site].unit,
            "overflows": network.overflows[test.site],
        }
        for test in network.sign_tests(network.quantize(images))
    ]


def _split(splits: DataSplits, name: str) -> ImageSet:
    if name not in ("train", "validation", "test"):
        raise ValueError(f"split = {name!r} is not one of train, validation, test")
    images: ImageSet = getattr(splits, name)
    return images


def _spread(images: ImageSet, count: int | None) -> ImageSet:
    """``count`` images evenly spaced over the set, which may be sorted by class; all of them for None or too
    many.
    """
    if count is None or count >= len(images):
        return images
    return images.subset(torch.arange(count) * len(images) // count)


def _batches(images: ImageSet, splits: DataSplits, batch_size: int) -> Batches:
    return Batches(images, batch_size, mean=splits.mean, std=splits.std)


def _data(source: Source) -> dict[str, Any]:
    """What a checkpoint records of its data, which is enough to load the same test images with the same
    normalisation again.
    """
    splits = source.splits
    recorded = source.checkpoint.metadata.get("data") or {}
    return {
        **recorded,
        "name": splits.name,
        "mean": splits.mean,
        "std": splits.std,
        "class_names": splits.class_names,
    }


def _provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    metadata = checkpoint.metadata
    return {
        "checkpoint": checkpoint.path.name,
        "sha256": file_digest(checkpoint.path),
        "model": metadata["model"],
        "trained_fault": metadata.get("fault"),
        "metrics": metadata.get("metrics"),
        "circa_train": metadata.get("version"),
        "torch": torch.__version__,
    }
