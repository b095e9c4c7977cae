"""A checkpoint ready for use: network, data, fraction bits, converted network and baseline accuracy.

A sweep of a hundred points on one small network would spend most of its time on loading. So the last two
sources of a process are kept, keyed by the file's time and size and by everything else that went in, and so
is what was derived from them.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from circa_train import user_code
from circa_train.checkpoint import Checkpoint, CheckpointError, adopt_foreign, load_checkpoint, load_network
from circa_train.data import Batches, DataSplits, ImageSet
from circa_train.evaluation import Computing, Evaluation, evaluate
from circa_train.fault import NoFault
from circa_train.fixed_point import frac_bits_text
from circa_train.jobs.build import build_splits, describe_data, model_arguments
from circa_train.jobs.faults import FROM_CHECKPOINT, FaultPlan, headroom_bits
from circa_train.jobs.inputs import data_identity
from circa_train.jobs.settings import AugmentConfig, DataConfig, FaultConfig, ModelConfig
from circa_train.nn import (
    evaluating,
    fit_frac_bits,
    fit_scales,
    relu_sites,
    set_frac_bits,
    set_specs,
    with_folded_batch_norms,
    with_stochastic_relus,
    without_faults,
)

_log = logging.getLogger(__name__)

#: Training images that fraction bits are fitted on, and how many at a time.
_CALIBRATION_IMAGES = 1024
_CALIBRATION_BATCH = 256

#: Training images on which a network is compared with itself after its BatchNorm was folded.
_COMPARED_IMAGES = 4


@dataclass
class Source:
    """A network with its data.

    Attributes:
        checkpoint: weights and metadata.
        splits: the data it is used on.
        network: the plain network, in evaluation mode, on the splits' device.
        data_seen: :func:`~circa_train.jobs.inputs.data_identity` of the data.
    """

    checkpoint: Checkpoint
    splits: DataSplits
    network: nn.Module
    data_seen: str | None = None
    _fitted: dict[tuple[Any, int], int | dict[str, Any]] = field(default_factory=dict, repr=False)
    _baselines: dict[tuple[str, Computing], Evaluation] = field(default_factory=dict, repr=False)
    _relus: dict[str, int] = field(default_factory=dict, repr=False)
    _converted: tuple[Any, nn.Module] | None = field(default=None, repr=False)
    _folded: Source | None = field(default=None, repr=False)

    @property
    def finetuned(self) -> bool:
        """Was it trained with faults in the loop?"""
        trained = self.checkpoint.metadata.get("fault") or {"kind": "none"}
        return bool(trained.get("kind") != "none")

    def images(self, split: str) -> ImageSet:
        """The images of ``train``, ``validation`` or ``test``."""
        if split not in ("train", "validation", "test"):
            raise ValueError(f"split = {split!r} is not one of train, validation, test")
        images: ImageSet = getattr(self.splits, split)
        return images

    def frac_bits(self, section: FaultConfig, plan: FaultPlan) -> int | dict[str, Any]:
        """Fraction bits by the rule of ``FaultConfig``: as given, else the checkpoint's, else fitted on
        training images; ``per_channel`` is always fitted, to the sign tests that are asked for.
        """
        if plan.frac_bits is not None:
            self._warn_of_other_scales(plan)
            return plan.frac_bits
        recorded = self.checkpoint.metadata.get("frac_bits")
        if recorded is not None and not plan.per_channel:
            return dict(recorded) if isinstance(recorded, Mapping) else int(recorded)
        key = (str(plan.description) if plan.per_channel else plan.prime, headroom_bits(section))
        if key not in self._fitted:
            self._fitted[key] = calibrated_frac_bits(self.network, self.splits, plan, headroom_bits(section))
        return self._fitted[key]

    def one_frac_bits(self, section: FaultConfig, plan: FaultPlan) -> int:
        """The same rule where all sites are to have one number: if theirs differ, it is fitted."""
        found = None if plan.per_channel else self.frac_bits(section, plan)
        if not isinstance(found, int):
            single = replace(plan, frac_bits=None, per_channel=False)
            found = calibrated_frac_bits(self.network, self.splits, single, headroom_bits(section))
            assert isinstance(found, int)
        return found

    def _warn_of_other_scales(self, plan: FaultPlan) -> None:
        rewritten = self.checkpoint.metadata.get("equalized")
        if rewritten and isinstance(plan.frac_bits, dict):
            _log.warning(
                "%s was rewritten for %d fraction bits at all sites, and the fault brings its own (%s). That "
                "is right only if they were found for the rewritten network; else give fault.frac_bits=%d",
                self.checkpoint.path, rewritten["frac_bits"], frac_bits_text(plan.frac_bits),
                rewritten["frac_bits"],
            )  # fmt: skip

    def converted(self, section: FaultConfig, plan: FaultPlan) -> nn.Module:
        """The network with stochastic ReLUs; the same object for faults that differ only in the sign tests
        and their fraction bits.
        """
        bits = self.frac_bits(section, plan)
        key = (section.seed, section.overflow, section.rescale_bits)
        if self._converted is None or self._converted[0] != key:
            converted = with_stochastic_relus(
                self.network,
                NoFault(),
                frac_bits=bits,
                seed=section.seed,
                overflow=section.overflow,
                rescale_bits=section.rescale_bits,
            )
            self._converted = key, converted.eval()
        network = self._converted[1]
        set_frac_bits(network, bits)
        set_specs(network, plan.faults)
        return network

    def folded(self) -> Source:
        """The same source with BatchNorm folded into the convolutions before it; the same object each time.

        Raises:
            ValueError: if there is nothing to fold, or folding fails.
        """
        if self._folded is None:
            images = self.splits.train.subset(torch.arange(min(_COMPARED_IMAGES, len(self.splits.train))))
            batches = Batches(images, _COMPARED_IMAGES, mean=self.splits.mean, std=self.splits.std)
            network, names = with_folded_batch_norms(self.network, example=next(iter(batches))[0])
            if not names:
                raise ValueError(
                    f"fold_batchnorm = true: in {self.checkpoint.path} no BatchNorm directly follows a "
                    "convolution; leave it out"
                )
            _log.info("BatchNorm folded into the convolutions before it: %d", len(names))
            self._folded = Source(self.checkpoint, self.splits, network, self.data_seen)
        return self._folded

    def relus(self) -> dict[str, int]:
        """ReLUs per image by site, in the order of execution."""
        if not self._relus:
            shape = (self.splits.channels, self.splits.image_size, self.splits.image_size)
            self._relus.update(relu_sites(self.network, shape))
        return self._relus

    def baseline(self, split: str, batch_size: int, computing: Computing) -> Evaluation:
        """Accuracy with exact ReLUs on a split."""
        key = split, computing
        if key not in self._baselines:
            self._baselines[key] = evaluate(
                self.network, self.images(split), mean=self.splits.mean, std=self.splits.std, draws=1,
                batch_size=batch_size, computing=computing,
            )  # fmt: skip
        return self._baselines[key]


def open_source(
    checkpoint: str, model: ModelConfig, data: DataConfig, device: torch.device, trust_code: bool = False
) -> Source:
    """Load a checkpoint and its data; a foreign file is completed by ``model=`` and ``data=`` of the
    configuration.

    Raises:
        CheckpointError, DataError, ValueError: naming the file and what is missing.
    """
    path = Path(checkpoint)
    stat = path.stat() if path.is_file() else None
    stamp = (stat.st_mtime_ns, stat.st_size) if stat else None
    sections = json.dumps(asdict(model)), json.dumps(asdict(data))
    source = _open(str(path), stamp, *sections, str(device), trust_code)
    if source.data_seen != data_identity(source.splits.name, data.root):  # its files have changed since
        _open.cache_clear()
        source = _open(str(path), stamp, *sections, str(device), trust_code)
    return source


@functools.lru_cache(maxsize=2)
def _open(
    path: str,
    _stamp: tuple[int, int] | None,
    model_section: str,
    data_section: str,
    device_name: str,
    trust_code: bool,
) -> Source:
    model = ModelConfig(**json.loads(model_section))
    fields = json.loads(data_section)
    data = DataConfig(**{**fields, "augment": AugmentConfig(**fields["augment"])})
    device = torch.device(device_name)
    try:
        checkpoint = load_checkpoint(path)
        splits = build_splits(data, device, checkpoint.metadata, trust_code)
    except user_code.UnnamedCode as error:
        raise CheckpointError(f"{path} is not opened: {error}") from error
    except CheckpointError:
        if FROM_CHECKPOINT in (model.name, data.name) or not Path(path).is_file():
            raise
        splits = build_splits(data, device)
        checkpoint = adopt_foreign(
            path, model=model_arguments(model, splits), data=describe_data(splits, data)
        )
    else:
        check_asked_model(model, checkpoint.metadata, path)
    check_data_fits(checkpoint.metadata.get("model") or {}, splits, path)
    own = model.name if user_code.is_reference(model.name) else None
    network = load_network(checkpoint, code=own, trust_code=trust_code).to(device).eval()
    check_takes_images(network, splits, path)
    return Source(checkpoint, splits, network, data_identity(splits.name, data.root))


def check_asked_model(model: ModelConfig, metadata: Mapping[str, Any], path: str) -> None:
    """ValueError if the configuration asks for another network than the checkpoint holds.

    A network of somebody's own may be named by another path than where it was when it was trained.
    """
    recorded = metadata.get("model") or {}
    asked = {key: value for key, value in asdict(model).items() if value is not None}
    name = asked.pop("name")
    ours = user_code.is_reference(name) and user_code.is_reference(recorded.get("name"))
    if name != FROM_CHECKPOINT and name != recorded.get("name") and not ours:
        raise ValueError(f"model={name}, but {path} holds a {recorded.get('name')}; leave out model=")
    other = {key: value for key, value in asked.items() if recorded.get(key) != value}
    if other:
        key, value = next(iter(other.items()))
        raise ValueError(
            f"model.{key} = {value}, but {path} holds a network with {key} = {recorded.get(key)}; "
            "leave it out"
        )


def check_data_fits(model: Mapping[str, Any], splits: DataSplits, path: str) -> None:
    """ValueError if a network was made for images of other channels, or for another number of classes."""
    for key, what, there in (
        ("in_channels", "channels", splits.channels),
        ("num_classes", "classes", splits.num_classes),
    ):
        made_for = model.get(key, 3 if key == "in_channels" else None)
        if made_for is not None and made_for != there:
            raise ValueError(
                f"{path} was made for {made_for} {what}, and the data {splits.name} has {there}; "
                "data=checkpoint is the data that it was trained on"
            )


def check_takes_images(network: nn.Module, splits: DataSplits, name: str) -> None:
    """ValueError if a network cannot take an image of the data, or has fewer outputs than the data has
    classes: before hours are spent, or a message from inside of the network is all that there is.
    """
    size = f"{splits.channels}x{splits.image_size}x{splits.image_size}"
    first = Batches(splits.train.subset(torch.arange(1)), 1, mean=splits.mean, std=splits.std)
    try:
        with evaluating(network), without_faults(network):
            outputs = network(next(iter(first))[0])
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"{name} cannot take an image of {size} (data {splits.name}): {str(error).splitlines()[0]}. "
            "data.image_size=... makes images of another size, and a network's factory may take image_size"
        ) from error
    if isinstance(outputs, torch.Tensor) and outputs.dim() == 2 and outputs.shape[1] < splits.num_classes:
        raise ValueError(
            f"{name} has {outputs.shape[1]} outputs for an image, and the data {splits.name} has "
            f"{splits.num_classes} classes"
        )


def calibrated_frac_bits(
    network: nn.Module, splits: DataSplits, plan: FaultPlan, headroom: int
) -> int | dict[str, Any]:
    """Fraction bits that leave ``headroom`` bits above the activations of the first training images: one
    number, or those of every channel by the law of the plan's sign tests.
    """
    images = splits.train.subset(torch.arange(min(_CALIBRATION_IMAGES, len(splits.train))))
    batches = (batch[0] for batch in Batches(images, _CALIBRATION_BATCH, mean=splits.mean, std=splits.std))
    if plan.per_channel:
        return dict(fit_scales(network, batches, plan.faults, headroom_bits=headroom))
    return fit_frac_bits(network, batches, plan.prime, headroom).frac_bits
