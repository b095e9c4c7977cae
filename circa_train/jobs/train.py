"""Training: the work of ``scripts/train.py``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import nn

from circa_train import user_code
from circa_train.checkpoint import load_checkpoint, load_foreign_state, load_network, load_state_into
from circa_train.data import DataSplits
from circa_train.files import set_aside, shown_path
from circa_train.jobs.build import build_device, build_splits, check_model, describe_data, model_arguments
from circa_train.jobs.faults import (
    FROM_CHECKPOINT,
    FaultPlan,
    build_fault,
    check_fault,
    headroom_bits,
    refuse_rescale_bits,
)
from circa_train.jobs.job import Job
from circa_train.jobs.reduction import build_reduction, relu_prices, removed_by_rule
from circa_train.jobs.settings import TrainConfig
from circa_train.jobs.source import calibrated_frac_bits, check_data_fits, check_takes_images
from circa_train.nn import build_model, with_stochastic_relus
from circa_train.nn.models.kept_relus import relu_shapes
from circa_train.runs import config_hash, recipe
from circa_train.training import TrainingResult, TrainingSettings, join_ranks, train
from circa_train.training.fitting import check_fit, check_save_every
from circa_train.training.progress import OtherTraining
from circa_train.training.states import BEST, LAST

log = logging.getLogger(__name__)


def work(job: Job) -> dict[str, Any]:
    """Check everything that can be checked, then load, train, and report the best checkpoint."""
    config = job.cfg
    check_fault(config.fault)
    settings = build_settings(config)
    check_save_every(config.run.save_every, "run.save_every")
    check_model(config.model)
    described = _described(config)
    plan = build_fault(config.fault, described, config.run.trust_code)
    reduction = build_reduction(config.reduction, exact=plan.exact)
    with join_ranks(config.run.device) as ranks:
        device = build_device(config.run.device) if ranks.world_size == 1 else ranks.device(config.run.device)
        prepared = prepare(config, described, plan, device)
        shape = (prepared.splits.channels, prepared.splits.image_size, prepared.splits.image_size)
        prices = relu_prices(config.reduction, relu_shapes(prepared.network, shape) if reduction else ())
        started_from = prepared.started_from or job.inputs.get("checkpoint")
        prepared.metadata["recipe"] = recipe(job.config, started_from)
        check_fit(settings, prepared.splits, prepared.network, prepared.teacher, ranks, reduction)
        left_out = len(prepared.splits.train) % settings.batch_size
        if left_out:
            job.log.info(
                "of %d training images %d are left out of each epoch, not the same ones each time: they fill "
                "no batch of batch_size=%d",
                len(prepared.splits.train), left_out, settings.batch_size,
            )  # fmt: skip
        job.begin()
        if not job.resume and not config.run.again and ranks.is_main:
            set_states_aside(job, "they belong to another question, or to a result that is not whole")

        def go_on(resume: bool) -> TrainingResult:
            return train(
                prepared.network, prepared.splits, settings, folder=job.folder, tracker=job.tracker,
                resume=resume,
                teacher=prepared.teacher, metadata={**prepared.metadata, "config": job.config},
                progress=config.run.progress,
                inputs={**job.inputs, "configuration": config_hash(job.config)},
                reduction=reduction, prices=prices, save_every=config.run.save_every,
            )  # fmt: skip

        try:
            result = go_on(job.resume)
        except OtherTraining as error:  # raised before anything was taken from that state
            if ranks.is_main:
                set_states_aside(job, str(error))
            result = go_on(False)
    best = shown_path(result.best_checkpoint)
    job.log.info("best validation accuracy %.2f%%: %s", 100 * result.best_accuracy, best)
    return training_record(result, prepared, config)


def set_states_aside(job: Job, why: str) -> None:
    """Rename the states that an earlier training left in the folder: they are not used, and not lost."""
    for name in (LAST, BEST):
        described = (job.folder / name).with_suffix(".json")
        new = set_aside(job.folder / name, "stale")
        if new is not None:
            job.log.warning("%s is set aside as %s: %s", job.folder / name, new.name, why)
            if described.is_file():
                described.replace(new.with_suffix(".json"))


@dataclass
class Prepared:
    """A network ready for the training loop.

    Attributes:
        network: on its device; converted if there are faults.
        splits: its data.
        teacher: a plain network to distil from, or None.
        metadata: what its checkpoints say of it.
        started_from: the recipe of the checkpoint that its first weights are from, if that has one.
    """

    network: nn.Module
    splits: DataSplits
    teacher: nn.Module | None
    metadata: dict[str, Any]
    started_from: str | None = None


def build_settings(config: TrainConfig) -> TrainingSettings:
    """``TrainingSettings`` from the sections that hold its fields; ValueError or TypeError names a bad
    value.
    """
    own = {f.name for f in fields(TrainingSettings)}
    augment = {f"augment_{key}": value for key, value in asdict(config.data.augment).items()}
    values = {
        **{key: value for key, value in asdict(config).items() if key in own},
        **asdict(config.optim),
        **augment,
    }
    return TrainingSettings(**{**values, "milestones": tuple(config.optim.milestones)})


def prepare(
    config: TrainConfig, described: Mapping[str, Any], plan: FaultPlan, device: torch.device
) -> Prepared:
    """Load data, build the network, give it its first weights, choose fraction bits, convert. ``described``
    is what the checkpoint that training starts from says of itself.

    ``fault.frac_bits=auto`` takes those of the checkpoint that training starts from if it was trained with
    faults; else they are fitted to the first weights, ``fault.headroom_bits`` below the largest that fits.
    """
    splits = build_splits(config.data, device, described, config.run.trust_code)
    own_model = config.model.name == FROM_CHECKPOINT
    arguments = dict(described["model"]) if own_model else model_arguments(config.model, splits)
    if own_model:
        check_data_fits(arguments, splits, str(config.checkpoint))
    if own_model and user_code.is_reference(arguments["name"]):
        code = arguments["name"]
        user_code.require_named({code: f"model.name={code}"}, trusted=config.run.trust_code)
    arguments = removed_by_rule(config.reduction, arguments)
    network = build_model(**arguments, seed=config.seed)
    recorded = None
    if config.checkpoint is not None:
        recorded = _start_from(config.checkpoint, network)
    network.to(device)
    check_takes_images(network, splits, str(arguments["name"]))
    frac_bits = None
    if plan.exact:
        refuse_rescale_bits(config.fault, "without sign tests the plain network is trained: leave it out")
    else:
        frac_bits = plan.frac_bits if plan.frac_bits is not None or plan.per_channel else recorded
        if frac_bits is None:
            frac_bits = calibrated_frac_bits(network, splits, plan, headroom_bits(config.fault))
        network = with_stochastic_relus(
            network,
            plan.faults,
            frac_bits=frac_bits,
            seed=config.fault.seed,
            overflow=config.fault.overflow,
            rescale_bits=config.fault.rescale_bits,
        )
    metadata = {
        "model": arguments,
        "data": describe_data(splits, config.data),
        "fault": None if plan.exact else plan.description,
        "frac_bits": frac_bits,
        "started_from": config.checkpoint,
    }
    if config.fault.kind == "python":
        metadata["fault_code"] = getattr(config.fault, "path")  # noqa: B009 - a field of this kind only
    elif config.fault.kind == FROM_CHECKPOINT and "fault_code" in described:
        metadata["fault_code"] = described["fault_code"]
    teacher = (
        None
        if config.teacher is None
        else load_network(config.teacher, trust_code=config.run.trust_code).to(device)
    )
    return Prepared(network, splits, teacher, metadata, described.get("recipe"))


def _described(config: TrainConfig) -> dict[str, Any]:
    """What the checkpoint that training starts from says of its network, data and sign tests; empty where
    there is none to ask.

    Another model or data set than it says is a choice (transfer), and is named in a warning.

    Raises:
        ValueError: if ``model=checkpoint``, ``data=checkpoint`` or ``fault=checkpoint`` has no checkpoint
            that says.
    """
    wanted = [group for group in ("model", "data") if getattr(config, group).name == FROM_CHECKPOINT]
    if config.fault.kind == FROM_CHECKPOINT:
        wanted.append("fault")
    try:
        metadata = load_checkpoint(config.checkpoint).metadata if config.checkpoint is not None else {}
    except ValueError:  # a foreign file says nothing of itself
        metadata = {}
    if metadata.get("equalized"):
        log.warning(
            "%s was rewritten by equalize, and trains badly: a rescaled weight is another step size and "
            "another decay. Fine-tune %s, which it was made from, and equalize the result",
            config.checkpoint, metadata["equalized"]["checkpoint"],
        )  # fmt: skip
    for group in wanted:
        if group not in metadata:
            why = (
                f"{config.checkpoint} does not say what its {group} is"
                if config.checkpoint
                else "no checkpoint is given"
            )
            raise ValueError(f"{group}=checkpoint, but {why}; name it: {group}=...")
    for group in ("model", "data"):
        recorded, given = (metadata.get(group) or {}).get("name"), getattr(config, group).name
        if recorded is not None and group not in wanted and given != recorded:
            log.warning(
                "%s=%s, but the checkpoint was trained with %s; %s=checkpoint takes over what it says",
                group, given, recorded, group,
            )  # fmt: skip
    return metadata


def _start_from(path: str, network: nn.Module) -> int | dict[str, Any] | None:
    """Load the weights of our own or a foreign file; the fraction bits it was trained with, if it says so."""
    load_state_into(network, load_foreign_state(path), source=path)
    try:
        recorded = load_checkpoint(path).metadata.get("frac_bits")
    except ValueError:  # a foreign file says nothing of fraction bits
        return None
    return dict(recorded) if isinstance(recorded, Mapping) else recorded


def training_record(result: TrainingResult, prepared: Prepared, config: TrainConfig) -> dict[str, Any]:
    """What ``result.json`` holds for kind ``train``."""
    learned = {} if result.masks is None else {"relus": result.relus, "masks": shown_path(result.masks)}
    return {
        "best_accuracy": result.best_accuracy,
        "epochs": result.epochs,
        "best_checkpoint": shown_path(result.best_checkpoint),
        "last_checkpoint": shown_path(result.last_checkpoint),
        "training_seconds": result.seconds,
        "model": prepared.metadata["model"]["name"],
        "data": prepared.splits.name,
        "fault": prepared.metadata["fault"],
        "frac_bits": prepared.metadata["frac_bits"],
        "finetuned": config.checkpoint is not None,
        "recipe": prepared.metadata.get("recipe"),
        **learned,
    }
