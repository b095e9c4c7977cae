"""The proof that the simulator is the protocol: the work of ``scripts/verify.py``, and what its record
holds: a sample of every site's sign tests through the two-party protocol, and with ``verify.samples=all``
every sign test through the garbled circuit as well (:mod:`circa_train.jobs.verify_every`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from circa_train.cost import (
    CircuitCost,
    Seconds,
    compare_circuits,
    cost_table,
    measure_seconds,
    network_rows,
    paper_circuits,
    why_no_circuit,
)
from circa_train.evaluation import FIRST_DRAW
from circa_train.export import check_export, is_export, open_export
from circa_train.export.rescale_samples import rescale_samples
from circa_train.export.vectors import DRAW, SEED
from circa_train.fault import SignTest
from circa_train.fixed_point import frac_bits_text
from circa_train.gc.aes import KEY_BYTES, make_kernel
from circa_train.gc.circuits import SignCircuit
from circa_train.jobs.build import build_device
from circa_train.jobs.describe import describe_model
from circa_train.jobs.faults import FROM_CHECKPOINT, build_fault, check_fault, refuse_rescale_bits
from circa_train.jobs.inputs import input_digests
from circa_train.jobs.job import Job
from circa_train.jobs.settings import VerifyConfig
from circa_train.jobs.source import open_source
from circa_train.jobs.verify_every import (
    SAMPLED,
    VECTORS,
    Whole,
    every_record,
    first_images,
    wants_all,
    whole_export,
    whole_split,
)
from circa_train.nn import set_draw, specs_by_site
from circa_train.runs import fingerprint
from circa_train.verify import (
    RescaleSample,
    SiteReport,
    SiteSample,
    by_reason,
    check_transport,
    choose_sites,
    collect_samples,
    every_table,
    rescaling_table,
    sampled,
    verification_table,
    verify_rescaling,
    verify_site,
)

#: Instances that each circuit is timed on.
_TIMED = 2048

#: Images per forward pass where samples are collected.
_BATCH_SIZE = 16

#: Where a run keeps its finished batches.
BATCHES = "batches"


@dataclass(frozen=True)
class Collected:
    """What is to be verified, wherever it comes from.

    Attributes:
        head: what the record says of the network and its input.
        specs, relus: sign test, and ReLUs per image, of every site.
        samples: sign tests of the sites to verify; ``left_out`` the others that were asked for, with the
            reason.
        rescaled: of an export folder, values of every rescaling.
        whole: makes what is run to the end where every sign test is to be verified.
    """

    head: Mapping[str, Any]
    specs: Mapping[str, SignTest]
    relus: Mapping[str, int]
    samples: Sequence[SiteSample]
    left_out: Mapping[str, str]
    whole: Callable[[], Whole]
    rescaled: Iterable[RescaleSample] = ()


def work(job: Job) -> dict[str, Any]:
    """Check what can be checked, then load, compare site by site, and price the whole network."""
    record, tables = verification_record(job.cfg, job)
    job.log.info("%s\n%s", job.folder.name, tables[0])
    if record["left_out"]:
        job.log.warning(
            "not garbled: %s", by_reason({site["site"]: site["reason"] for site in record["left_out"]})
        )
    if record["network"]:
        job.log.info(
            "the whole network, per image, %s fraction bits\n%s",
            frac_bits_text(record["frac_bits"]),
            cost_table(record["network"]),
        )
    every = record["every"]
    for site in [*record["sites"], *(every["sites"] if every else [])]:
        for mismatch in site["named"]:
            job.log.error("%s", mismatch["text"])
    for layer in record["rescalings"]:
        for text in layer["named"]:
            job.log.error("%s", text)
    outcome = f"{record['mismatches']} mismatches" if record["mismatches"] else "no mismatch"
    if record["rescalings"]:
        job.log.info(
            "%d rescaled values, each in every way there is: %d mismatches",
            sum(layer["values"] for layer in record["rescalings"]),
            sum(sum(layer["mismatches"].values()) for layer in record["rescalings"]),
        )
    job.log.info(
        "%d sites, %d values, each in four ways: %s", len(record["sites"]), record["values"], outcome
    )
    if every:
        _tell_of_every(job, every, tables[1])
    return record


def _tell_of_every(job: Job, every: Mapping[str, Any], table: str) -> None:
    """The log of a verification of every sign test."""
    job.log.info("every sign test of %d images\n%s", every["images"], table)
    skipped = sum(site["sign_tests"] for site in every["skipped"])
    job.log.info(
        "%d sign tests garbled and evaluated, %d mismatches; %d at other sites were not",
        every["compared"], every["mismatches"], skipped,
    )  # fmt: skip
    if every["accuracy"] is not None:
        job.log.info("accuracy from the outcomes of the circuits: %.2f%%", 100 * every["accuracy"])
    if every["images_that_differ"]:
        job.log.error(
            "the evaluation of the same draw (%.2f%%) differs at %d images",
            100 * every["evaluation_accuracy"], every["images_that_differ"],
        )  # fmt: skip
    judged = every["rates"]
    if judged["doubted"]:
        job.log.error(
            "faults are not as frequent as the exact law says: chance explains %s at site %s with "
            "probability at most %.1e", judged["kind"], judged["site"], judged["bound"],
        )  # fmt: skip


def verification_record(config: VerifyConfig, job: Job | None = None) -> tuple[dict[str, Any], list[str]]:
    """Verify a checkpoint or an export folder as ``config`` asks: ``result.json`` for kind ``verify``, and
    the tables to print, of the sample and (if asked for) of every sign test.

    Args:
        config: what is asked.
        job: whose folder keeps the finished batches of a long verification; None keeps none.

    Raises:
        ValueError: if nothing can be verified, because no site has a circuit; or, of an export folder,
            if a checksum or a test vector is wrong.
    """
    check_transport(config.verify.transport)
    check_fault(config.fault)
    refuse_rescale_bits(config.fault, "to verify the rescaling, export the network and verify the folder")
    everything = wants_all(config.verify.samples)
    if config.verify.batch_size is not None and config.verify.batch_size < 1:
        raise ValueError(f"verify.batch_size = {config.verify.batch_size}: at least one image at a time")
    samples = SAMPLED if everything else config.verify.samples
    exported = is_export(config.checkpoint)
    found = (_from_export if exported else _from_checkpoint)(config, samples)
    if job is not None:
        job.begin()
    reports = [
        verify_site(s, transport=config.verify.transport, seed=config.verify.seed) for s in found.samples
    ]
    rescaled = [
        verify_rescaling(s, transport=config.verify.transport, seed=config.verify.seed)
        for s in found.rescaled
    ]
    timings = _timings(found.specs)
    four = {
        report.site: compare_circuits(found.specs[report.site], timings) for report in reports
    }
    priced = all(spec.is_exact or why_no_circuit(spec) is None for spec in found.specs.values())
    network = f"{found.head['model']} on {found.head['data']}"
    tables = [verification_table(reports, four)]
    if rescaled:
        tables[0] += f"\n{rescaling_table(rescaled)}"
    every = None
    if everything:
        names = [report.site for report in reports]
        skipped = {
            name: found.left_out.get(name, why_no_circuit(spec) or "not asked for (verify.sites)")
            for name, spec in found.specs.items()
            if name not in names
        }
        every, tallies = every_record(found.whole(), names, skipped, found.relus, **_place(job))
        tables.append(every_table(tallies.tallies))
    mismatches = sum(sum(report.mismatches.values()) for report in reports)
    mismatches += sum(sum(report.mismatches.values()) for report in rescaled)
    mismatches += every["mismatches"] if every else 0
    record = {
        **found.head,
        "verified": not mismatches and (every is None or _as_it_should_be(every)),
        "transport": config.verify.transport,
        "kernel": make_kernel(bytes(KEY_BYTES), "auto").name,
        "values": sum(report.values for report in reports),
        "mismatches": mismatches,
        "sites": [_site_record(report, found.relus[report.site], four[report.site]) for report in reports],
        "rescalings": [asdict(report) for report in rescaled],
        "left_out": [{"site": name, "reason": reason} for name, reason in found.left_out.items()],
        "network": network_rows({network: list(found.relus.items())}, found.specs, timings) if priced else [],
        "every": every,
    }
    return record, tables


def _as_it_should_be(every: Mapping[str, Any]) -> bool:
    """Whether the circuits classified every image as the evaluation does, with faults as frequent as the
    law says.
    """
    return not every["images_that_differ"] and not every["rates"]["doubted"]


def _place(job: Job | None) -> dict[str, Any]:
    """Where finished batches are kept, and what for."""
    if job is None:
        return {}
    folder = job.folder / BATCHES
    if not job.resume:
        shutil.rmtree(folder, ignore_errors=True)
    asked = fingerprint(job.config, input_digests(job.config))
    return {"folder": folder, "fingerprint": asked, "progress": job.cfg.run.progress}


def _from_checkpoint(config: VerifyConfig, samples: int) -> Collected:
    """Images of a split through the converted network."""
    source = open_source(
        config.checkpoint, config.model, config.data, build_device(config.run.device), config.run.trust_code
    )
    plan = build_fault(config.fault, source.checkpoint.metadata, config.run.trust_code)
    relus = source.relus()
    specs = specs_by_site(plan.faults, relus)
    names, left_out = choose_sites(specs, config.verify.sites)
    network, images = source.converted(config.fault, plan), source.images(config.split)
    mean, std = source.splits.mean, source.splits.std
    collected = collect_samples(
        network,
        first_images(images, config.verify.images),
        names,
        mean=mean,
        std=std,
        relus=relus,
        samples=samples,
        batch_size=config.verify.batch_size or _BATCH_SIZE,
    )
    head = {
        "checkpoint": config.checkpoint,
        "model": describe_model(source.checkpoint.metadata["model"]),
        "data": source.splits.name,
        "split": config.split,
        "fault": plan.description,
        "frac_bits": source.frac_bits(config.fault, plan),
        "draw": FIRST_DRAW,
    }
    whole = partial(whole_split, config, network, relus, images, mean, std)
    return Collected(head, specs, relus, collected, left_out, whole)


def _from_export(config: VerifyConfig, samples: int) -> Collected:
    """The test vectors of an export folder through its integer network, under the masks that they record."""
    if config.fault.kind != FROM_CHECKPOINT:
        raise ValueError(
            f"{config.checkpoint} is an export folder and brings its own sign tests; leave out fault="
        )
    everything = wants_all(config.verify.samples)
    if not everything and (config.verify.images or config.verify.batch_size):
        raise ValueError(
            "samples of an export folder are taken from its test vectors; verify.images and "
            "verify.batch_size are for verify.samples=all"
        )
    if config.split == VECTORS and not everything:
        raise ValueError(f"split={VECTORS} is for verify.samples=all; samples come from them anyway")
    export = open_export(config.checkpoint, seed=SEED, overflow="wrap")
    check_export(export)
    network, inputs = export.network, export.vectors["inputs"].long()
    relus = {layer.name: math.prod(layer.shape) for layer in network.plan.sites}
    names, left_out = choose_sites(network.specs, config.verify.sites)
    set_draw(network, DRAW)
    with sampled(network, {name: len(inputs) * relus[name] for name in names}, samples) as taps:
        network.run(inputs)
    head = {
        "checkpoint": config.checkpoint,
        "model": Path(config.checkpoint).name,
        "data": export.manifest["data"]["name"],
        "split": "test vectors",
        "fault": {"sites": {name: spec.to_dict() for name, spec in network.specs.items()}},
        "frac_bits": export.manifest["frac_bits"]["accumulator"],
        "draw": DRAW,
        "digest": export.digest,
    }
    rescaled = rescale_samples(network, inputs, samples)
    whole = partial(whole_export, config, relus, export)
    taken = [tap.sample for tap in taps]
    return Collected(head, network.specs, relus, taken, left_out, whole, rescaled)


def _site_record(report: SiteReport, relus: int, circuits: Sequence[CircuitCost]) -> dict[str, Any]:
    return {
        "site": report.site,
        "relus": relus,
        "mode": report.mode,
        "prime": report.prime,
        "k": list(report.ks),
        "values": report.values,
        "faults": asdict(report.faults),
        "mismatches": dict(report.mismatches),
        "named": [{**asdict(mismatch), "text": str(mismatch)} for mismatch in report.named],
        "sent_bytes": report.sent_bytes,
        "protocol_seconds": report.protocol_seconds,
        "seconds": report.seconds,
        "circuits": [asdict(circuit) for circuit in circuits],
    }


def _timings(specs: Mapping[str, SignTest]) -> dict[SignCircuit, Seconds]:
    """Of every circuit that the sites use or are compared with."""
    tests = {spec for spec in specs.values() if why_no_circuit(spec) is None}
    circuits = {
        circuit: None for spec in tests for group in paper_circuits(spec).values() for circuit in group
    }
    return measure_seconds(circuits, instances=_TIMED)
