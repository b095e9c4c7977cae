"""How many bits may be dropped, and where: the work of ``scripts/search.py``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from circa_train.data import DataSplits
from circa_train.fault import TruncatedSign
from circa_train.files import shown_path
from circa_train.jobs.build import build_device
from circa_train.jobs.describe import describe_model, next_command
from circa_train.jobs.faults import FaultPlan, build_fault, check_fault
from circa_train.jobs.inputs import data_identity
from circa_train.jobs.job import Job
from circa_train.jobs.settings import SearchConfig
from circa_train.jobs.source import open_source
from circa_train.nn.site_values import HEADROOM_BITS
from circa_train.runs import fingerprint
from circa_train.search import (
    Answer,
    SearchSettings,
    allocate_gates,
    search_truncation,
    summary,
    write_fault_file,
)
from circa_train.search.by_gates import check_reach

#: The answer, and what was measured on the way, in the run's folder.
FAULT_FILE, MEASURED = "fault.yaml", "measured.json"


def work(job: Job) -> dict[str, Any]:
    """Check, load, search on validation images, confirm on test images, and write the fault file. With
    ``gates`` there is nothing to confirm: the law allocates them, and both sets of images measure the answer.
    """
    config = job.cfg
    check_fault(config.fault)
    device = build_device(config.run.device)
    source = open_source(
        config.checkpoint, config.model, config.data, device, config.run.trust_code
    )
    plan = build_fault(config.fault, source.checkpoint.metadata, config.run.trust_code)
    settings, spec = build_search(config, plan)
    if settings.gates is not None and config.decide_on != "validation":
        raise ValueError(
            f"decide_on = {config.decide_on} and gates = {settings.gates:g}: for a number of gates no image "
            "decides; leave out one of the two"
        )
    splits = divided(source.splits, config.decide_on)
    if source.finetuned:
        job.log.warning(
            "this checkpoint was trained with faults: its accuracy need not fall as k rises, and with exact "
            "ReLUs it may be no "
            "baseline; search the network as it was before fine-tuning, and fine-tune at the answer"
        )
    identity = data_identity(source.splits.name, config.data.root)
    seen = {} if identity is None else {"data": identity}
    network = source.converted(config.fault, plan)
    store = job.folder / MEASURED
    job.begin()
    if not job.resume:
        store.unlink(missing_ok=True)
    search = search_truncation if settings.gates is None else allocate_gates
    result = search(
        network, splits, spec, settings, store_path=store,
        identity=fingerprint(job.config, {**job.inputs, **seen}), report=job.log.info,
        progress=config.run.progress,
    )  # fmt: skip
    answer = Answer.of(result, settings)
    path = job.folder / FAULT_FILE
    text = summary(answer, Path(shown_path(path)))
    command = next_command(
        "evaluate", config.checkpoint, job.config, "fault=file", f"fault.path={shown_path(path)}",
        f"fault.seed={config.fault.seed}", f"fault.overflow={config.fault.overflow}",
        f"draws.count={len(result.chosen_test.evaluation.accuracies)}",
    )  # fmt: skip
    same = "the same test accuracies" if splits is source.splits else "accuracy on all test images"
    write_fault_file(path, answer, [text, f"{same}: {command}"])
    job.log.info("%s", text)
    for warning in result.warnings:
        job.log.warning("%s", warning)
    return {
        **answer.record(),
        "decide_on": config.decide_on,
        "fault_file": shown_path(path),
        "model": describe_model(source.checkpoint.metadata["model"]),
        "data": source.splits.name,
        "checkpoint": config.checkpoint,
    }


def divided(splits: DataSplits, decide_on: str) -> DataSplits:
    """The images that decide as ``validation``, and those that confirm as ``test``.

    Raises:
        ValueError: if ``decide_on`` is neither ``validation`` nor ``test``.
    """
    if decide_on == "validation":
        return splits
    if decide_on != "test":
        raise ValueError(f"decide_on = {decide_on!r} is neither validation nor test")
    places = torch.arange(len(splits.test))
    return replace(
        splits, validation=splits.test.subset(places[::2]), test=splits.test.subset(places[1::2])
    )


def build_search(config: SearchConfig, plan: FaultPlan) -> tuple[SearchSettings, TruncatedSign]:
    """Settings, and the sign test whose mode and prime the search keeps while it varies k.

    Raises:
        ValueError: for a value outside its range or reach, or a fault that has no k.
    """
    spec = plan.faults
    if not isinstance(spec, TruncatedSign) or not isinstance(spec.k, int):
        raise ValueError(
            f"fault.kind = {config.fault.kind!r} has no k to search for; give fault=poszero or fault=negpass"
        )
    settings = SearchSettings(
        gates=config.gates,
        budget=config.budget,
        margin=config.margin,
        joint=config.joint,
        headroom_bits=HEADROOM_BITS if config.fault.headroom_bits is None else config.fault.headroom_bits,
        first_k=spec.k,
        draws=config.draws.count,
        max_draws=config.draws.most,
        per_site=config.per_site,
        trials=config.trials,
        images=config.images,
        batch_size=config.batch_size,
    )
    if settings.gates is not None:
        check_reach(settings.gates, spec)
    return settings, spec
