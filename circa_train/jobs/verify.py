"""The proof that the simulator is the protocol: the work of ``scripts/verify.py``, and what its record
holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from circa_train.gc.aes import KEY_BYTES, make_kernel
from circa_train.gc.circuits import SignCircuit
from circa_train.jobs.build import build_device
from circa_train.jobs.describe import describe_model
from circa_train.jobs.faults import FROM_CHECKPOINT, build_fault, check_fault, refuse_rescale_bits
from circa_train.jobs.job import Job
from circa_train.jobs.settings import VerifyConfig
from circa_train.jobs.source import open_source
from circa_train.nn.control import set_draw, specs_by_site
from circa_train.verify import (
    RescaleSample,
    SiteReport,
    SiteSample,
    by_reason,
    check_transport,
    choose_sites,
    collect_samples,
    rescaling_table,
    sampled,
    verification_table,
    verify_rescaling,
    verify_site,
)

#: Instances that each circuit is timed on.
_TIMED = 2048


@dataclass(frozen=True)
class Collected:
    """What is to be verified, wherever it comes from.

    Attributes:
        head: what the record says of the network and its input.
        specs, relus: sign test, and ReLUs per image, of every site.
        samples: sign tests of the sites to verify; ``left_out`` the others that were asked for, with the
            reason.
        rescaled: of an export folder, values of every rescaling.
    """

    head: Mapping[str, Any]
    specs: Mapping[str, SignTest]
    relus: Mapping[str, int]
    samples: Sequence[SiteSample]
    left_out: Mapping[str, str]
    rescaled: Iterable[RescaleSample] = ()


def work(job: Job) -> dict[str, Any]:
    """Check what can be checked, then load, compare site by site, and price the whole network."""
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
    return record


def verification_record(config: VerifyConfig) -> tuple[dict[str, Any], str]:
    """Verify a checkpoint or an export folder as ``config`` asks: ``result.json`` for kind ``verify``, and
    the table to print.

    Raises:
        ValueError: if nothing can be verified, because no site has a circuit; or, of an export folder,
            if a checksum or a test vector is wrong.
    """
    check_transport(config.verify.transport)
    check_fault(config.fault)
    refuse_rescale_bits(config.fault, "to verify the rescaling, export the network and verify the folder")
    found = _from_export(config) if is_export(config.checkpoint) else _from_checkpoint(config)
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
    record = {
        **found.head,
        "transport": config.verify.transport,
        "kernel": make_kernel(bytes(KEY_BYTES), "auto").name,
        "values": sum(report.values for report in reports),
        "mismatches": sum(
            sum(mismatches.values())
            for mismatches in [r.mismatches for r in reports] + [r.mismatches for r in rescaled]
        ),
        "sites": [_site_record(report, found.relus[report.site], four[report.site]) for report in reports],
        "rescalings": [asdict(report) for report in rescaled],
        "left_out": [{"site": name, "reason": reason} for name, reason in found.left_out.items()],
        "network": network_rows({network: list(found.relus.items())}, found.specs, timings) if priced else [],
    }
    table = verification_table(reports, four)
    return record, f"{table}\n{rescaling_table(rescaled)}" if rescaled else table


def _from_checkpoint(config: VerifyConfig) -> Collected:
    """Images of a split through the converted network."""
    source = open_source(
        config.checkpoint, config.model, config.data, build_device(config.run.device), config.run.trust_code
    )
    plan = build_fault(config.fault, source.checkpoint.metadata, config.run.trust_code)
    relus = source.relus()
    specs = specs_by_site(plan.faults, relus)
    names, left_out = choose_sites(specs, config.verify.sites)
    samples = collect_samples(
        source.converted(config.fault, plan),
        source.images(config.split),
        names,
        mean=source.splits.mean,
        std=source.splits.std,
        relus=relus,
        samples=config.verify.samples,
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
    return Collected(head, specs, relus, samples, left_out)


def _from_export(config: VerifyConfig) -> Collected:
    """The test vectors of an export folder through its integer network, under the masks that they record."""
    if config.fault.kind != FROM_CHECKPOINT:
        raise ValueError(
            f"{config.checkpoint} is an export folder and brings its own sign tests; leave out fault="
        )
    export = open_export(config.checkpoint, seed=SEED, overflow="wrap")
    check_export(export)
    network, inputs = export.network, export.vectors["inputs"].long()
    relus = {layer.name: math.prod(layer.shape) for layer in network.plan.sites}
    names, left_out = choose_sites(network.specs, config.verify.sites)
    set_draw(network, DRAW)
    with sampled(network, {name: len(inputs) * relus[name] for name in names}, config.verify.samples) as taps:
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
    rescaled = rescale_samples(network, inputs, config.verify.samples)
    return Collected(head, network.specs, relus, [tap.sample for tap in taps], left_out, rescaled)


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
