"""The kind-specific part of ``result.json`` for a verification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from circa_train.config.build import build_device, build_fault, check_fault
from circa_train.config.records import describe_model
from circa_train.config.schema import VerifyConfig
from circa_train.config.source import open_source
from circa_train.cost import CircuitCost, Seconds, compare_circuits, measure_seconds, network_rows, paper_circuits
from circa_train.evaluation import FIRST_DRAW
from circa_train.fault.spec import FaultSpec, NoFault, TruncatedSign
from circa_train.gc.aes import KEY_BYTES
from circa_train.gc.kernels import make_kernel
from circa_train.gc.relu import ReluCircuit
from circa_train.nn.control import specs_by_site
from circa_train.verify import (
    SiteReport,
    SiteSample,
    check_transport,
    choose_sites,
    collect_samples,
    verification_table,
    verify_site,
    why_not_garbled,
)

#: Instances that each circuit is timed on.
_TIMED = 2048


def verification_record(config: VerifyConfig) -> tuple[dict[str, Any], str]:
    """Verify a checkpoint as ``config`` asks: what ``result.json`` holds for kind ``verify``, and the table to print.

    Raises:
        ValueError: if nothing can be verified: no site has a truncated sign, or the checkpoint was trained without faults
            and none are given.
    """
    check_transport(config.verify.transport)
    check_fault(config.fault)
    source = open_source(config.checkpoint, config.model, config.data, build_device(config.run.device))
    plan = build_fault(config.fault, source.checkpoint.metadata)
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
    model = describe_model(source.checkpoint.metadata["model"])
    head = {
        "checkpoint": config.checkpoint,
        "model": model,
        "data": source.splits.name,
        "split": config.split,
        "fault": plan.description,
        "frac_bits": source.frac_bits(config.fault, plan),
        "draw": FIRST_DRAW,
    }
    return describe_verification(head, samples, config, specs, relus, left_out, f"{model} on {source.splits.name}")


def describe_verification(
    head: Mapping[str, Any],
    samples: Sequence[SiteSample],
    config: VerifyConfig,
    specs: Mapping[str, FaultSpec],
    relus: Mapping[str, int],
    left_out: Mapping[str, str],
    network: str,
) -> tuple[dict[str, Any], str]:
    """Verify the samples, price the circuits, and put both into records and a table."""
    check = config.verify
    reports = [verify_site(sample, transport=check.transport, seed=check.seed) for sample in samples]
    timings = _timings(specs)
    four = {report.site: compare_circuits(_truncated(specs[report.site]), timings) for report in reports}
    priced = all(isinstance(spec, NoFault) or why_not_garbled(spec) is None for spec in specs.values())
    record = {
        **head,
        "transport": check.transport,
        "kernel": make_kernel(bytes(KEY_BYTES), "auto").name,
        "values": sum(report.values for report in reports),
        "mismatches": sum(sum(report.mismatches.values()) for report in reports),
        "sites": [_site_record(report, relus[report.site], four[report.site]) for report in reports],
        "left_out": [{"site": name, "reason": reason} for name, reason in left_out.items()],
        "network": network_rows({network: list(relus.items())}, specs, timings) if priced else [],
    }
    return record, verification_table(reports, four)


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


def _timings(specs: Mapping[str, FaultSpec]) -> dict[ReluCircuit, Seconds]:
    """Of every circuit that the sites use or are compared with."""
    tests = {spec for spec in specs.values() if isinstance(spec, TruncatedSign)}
    circuits = {circuit: None for spec in tests for group in paper_circuits(spec).values() for circuit in group}
    return measure_seconds(circuits, instances=_TIMED)


def _truncated(spec: FaultSpec) -> TruncatedSign:
    assert isinstance(spec, TruncatedSign)
    return spec
