"""``verify.samples=all``: every sign test of a set of images, and the accuracy that the circuits reach.

Finished batches are kept in the folder ``batches`` of the run, so a job that was killed goes on with the
next one (:mod:`circa_train.verify.ledger`).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from circa_train.benchmark.circuits import aes_ceiling
from circa_train.data import Batches, ImageSet
from circa_train.evaluation import FIRST_DRAW, kept_draws, one_draw
from circa_train.export import Export, open_export
from circa_train.export.vectors import DRAW
from circa_train.fault import SignTest
from circa_train.jobs.build import build_device, build_splits
from circa_train.jobs.settings import VerifyConfig
from circa_train.nn import stochastic_relus
from circa_train.runs import describe_machine
from circa_train.verify import EveryReport, Ledger, SiteTally, digest_of, rates, verdict, verify_every
from circa_train.verify.streaming import Batch

#: ``samples`` of the sites' two-party protocol where all sign tests are asked for.
SAMPLED = 4096

#: The split that stands for an export folder's own test vectors.
VECTORS = "vectors"

#: Images per forward pass, as :class:`~circa_train.jobs.settings.EvaluateConfig` has it: a float network may
#: round differently for batches of another size.
_BATCH_SIZE = 256

#: What the largest site of a batch may hold. Of a network with larger images a batch has fewer of them, so
#: that a verification's memory does not grow with the network (ResNet-18 at 64x64: 64 images).
_MOST_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Whole:
    """What is run to the end.

    Attributes:
        network: with stochastic sites.
        batches, images: its inputs in order, and how many.
        split: their name.
        draw: of the masks.
        forward: inputs to logits.
        evaluated: whether ``batches`` are images that an evaluation takes.
        details: what else decides the outcome, for the identity.
    """

    network: nn.Module
    batches: Iterable[Batch]
    images: int
    split: str
    draw: int
    forward: Callable[[Tensor], Tensor]
    evaluated: bool
    details: Mapping[str, Any]


def wants_all(samples: Any) -> bool:
    """Is every sign test asked for? ValueError if ``samples`` is neither ``all`` nor a number."""
    if samples == "all":
        return True
    if isinstance(samples, bool) or not isinstance(samples, int):
        raise ValueError(f"verify.samples = {samples!r} is neither a number of sign tests per site nor all")
    return False


def first_images(images: ImageSet, count: int | None) -> ImageSet:
    """The first ``count`` images, all of them for None; ValueError unless there are so many."""
    if count is None:
        return images
    if not 1 <= count <= len(images):
        raise ValueError(f"verify.images = {count} is outside [1, {len(images)}], the images of the split")
    return images.subset(torch.arange(count))


def _batch_size(config: VerifyConfig, relus: Mapping[str, int]) -> int:
    """As asked for, or what fits into a bounded memory."""
    return config.verify.batch_size or max(1, min(_BATCH_SIZE, _MOST_ELEMENTS // max(relus.values())))


def whole_split(
    config: VerifyConfig,
    network: nn.Module,
    relus: Mapping[str, int],
    images: ImageSet,
    mean: Sequence[float],
    std: Sequence[float],
) -> Whole:
    """The images of a split through a network, as an evaluation runs them in its first draw.

    ``relus`` are the sign tests per image of every site: what memory a batch takes.
    """
    images = first_images(images, config.verify.images)
    size = _batch_size(config, relus)
    batches = Batches(images, size, mean=mean, std=std)
    details = {"batch_size": size, "mean": list(mean), "std": list(std)}
    return Whole(network, batches, len(images), config.split, FIRST_DRAW, network, True, details)


def whole_export(config: VerifyConfig, relus: Mapping[str, int], vectors: Export) -> Whole:
    """An export folder under its rescaling: a split of its data, or (``split=vectors``) the test vectors
    under the masks that they record.
    """
    if config.split == VECTORS:
        inputs, labels = (vectors.vectors[name].long() for name in ("inputs", "labels"))
        count = config.verify.images or len(inputs)
        if not 1 <= count <= len(inputs):
            raise ValueError(f"verify.images = {count} is outside [1, {len(inputs)}], the test vectors")
        network, size = vectors.network, _batch_size(config, relus)
        batches = [(inputs[i : i + size], labels[i : i + size], i) for i in range(0, count, size)]
        if count % size:
            inputs, labels, first = batches[-1]
            batches[-1] = inputs[: count - first], labels[: count - first], first
        details = {"export": vectors.digest, "rescaling": network.rescaling}
        return Whole(network, batches, count, VECTORS, DRAW, network.run, False, details)
    export = open_export(config.checkpoint, seed=config.fault.seed, overflow=config.fault.overflow)
    device, manifest = build_device(config.run.device), export.manifest
    described = {**manifest["data"], **{key: manifest["input"][key] for key in ("mean", "std")}}
    splits = build_splits(config.data, device, {"data": described})
    if config.split not in ("train", "validation", "test"):
        raise ValueError(f"split = {config.split!r} is not one of train, validation, test, {VECTORS}")
    images: ImageSet = getattr(splits, config.split)
    whole = whole_split(config, export.network.to(device), relus, images, splits.mean, splits.std)
    own = {"export": export.digest, "rescaling": export.network.rescaling}
    return replace(whole, details={**whole.details, **own})


def every_record(
    whole: Whole,
    sites: Sequence[str],
    skipped: Mapping[str, str],
    relus: Mapping[str, int],
    *,
    fingerprint: str = "",
    folder: Path | None = None,
    progress: bool = False,
) -> tuple[dict[str, Any], EveryReport]:
    """Verify every sign test at ``sites``, and what ``result.json`` holds of it.

    Args:
        whole: what is run.
        sites: to verify; ``skipped`` the others with the reason.
        relus: sign tests per image of every site.
        fingerprint: of the job.
        folder: where finished batches are kept and found; None keeps nothing.
        progress: show a bar on a terminal, and elsewhere log a line now and then.
    """
    identity = _identity(whole, sites, fingerprint)
    started = time.perf_counter()
    report = verify_every(
        whole.network, whole.batches, sites, images=whole.images, ledger=Ledger(folder, identity),
        draw=whole.draw, forward=whole.forward, progress=progress,
    )  # fmt: skip
    seconds = {**report.seconds, "this_attempt": time.perf_counter() - started}
    judged = verdict(report.tallies)
    network = stochastic_relus(whole.network)
    record = {
        "split": whole.split,
        "images": whole.images,
        "draw": whole.draw,
        **whole.details,
        "compared": report.compared,
        "mismatches": report.mismatches,
        "accuracy": report.accuracy,
        **_beside_evaluation(whole, report),
        "sites": [
            _site(name, tally, network[name].spec, relus[name]) for name, tally in report.tallies.items()
        ],
        "skipped": [
            {"site": name, "reason": reason, "sign_tests": relus[name] * whole.images}
            for name, reason in skipped.items()
        ],
        "rates": {**asdict(judged), "doubted": judged.doubted},
        "seconds": seconds,
        "aes": _aes(report),
    }
    return record, report


def _identity(whole: Whole, sites: Sequence[str], fingerprint: str) -> str:
    """Everything that decides what comes out of a batch, but its inputs: the job, the weights, the sites,
    and the machine, on which rounding depends.
    """
    weights = hashlib.sha256()
    for name, tensor in whole.network.state_dict().items():
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    machine = {name: value for name, value in describe_machine().items() if name not in ("host", "system")}
    plans = {
        name: [relu.spec.to_dict(), relu.frac_bits, relu.seed, relu.site, relu.settings.overflow]
        for name, relu in stochastic_relus(whole.network).items()
    }
    return digest_of([
        fingerprint, weights.hexdigest(), plans, list(sites), machine, torch.get_num_threads(), whole.draw,
        dict(whole.details),
    ])  # fmt: skip


def _beside_evaluation(whole: Whole, report: EveryReport) -> dict[str, Any]:
    """Which images the circuit's network classifies right, as bits in hexadecimal, and at how many an
    evaluation of the same draw (which garbles nothing) says otherwise.
    """
    if report.labels is None:
        return {"right": None, "evaluation_accuracy": None, "images_that_differ": None}
    right = report.predictions == report.labels
    found: dict[str, Any] = {"right": np.packbits(right).tobytes().hex()}
    if not whole.evaluated:  # the test vectors have logits of their own, and they were checked
        return {**found, "evaluation_accuracy": None, "images_that_differ": None}
    assert isinstance(whole.batches, Batches)
    with kept_draws(whole.network):
        evaluated = one_draw(whole.network, whole.batches, whole.draw).numpy()
    return {
        **found,
        "evaluation_accuracy": float(evaluated.mean()),
        "images_that_differ": int((evaluated != right).sum()),
    }


def _site(name: str, tally: SiteTally, spec: SignTest, relus: int) -> dict[str, Any]:
    return {
        "site": name,
        "relus": relus,
        "spec": spec.to_dict(),
        **tally.to_dict(),
        "zeroed": tally.zeroed,
        "passed": tally.passed,
        "rates": {kind: asdict(each) for kind, each in rates(tally).items()},
        "named": [{**asdict(each), "text": str(each)} for each in tally.named],
    }


def _aes(report: EveryReport) -> dict[str, Any]:
    """AES calls, and how many a second of one core did while labels were drawn, and circuits garbled and
    evaluated, beside what the core does of AES alone.
    """
    seconds = report.seconds.get("garbling", 0.0) + report.seconds.get("evaluating", 0.0)
    return {
        "calls": report.aes_calls,
        "per_second": report.aes_calls / seconds if seconds else None,
        "ceiling_per_second": aes_ceiling(),
        "cores": os.cpu_count(),
    }
