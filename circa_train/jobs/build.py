"""The device, data and model sections of a configuration as the package's objects.

What a value may be is checked by building the object it describes, before data or network are loaded: the
fault and the device first, in every job.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from circa_train import user_code
from circa_train.checkpoint import load_snl
from circa_train.data import DataSplits, load_data
from circa_train.jobs.faults import FROM_CHECKPOINT
from circa_train.jobs.inputs import data_identity
from circa_train.jobs.settings import DataConfig, ModelConfig
from circa_train.nn import build_model, check_name
from circa_train.nn.models.reduction import portable

#: What a checkpoint's metadata says of its data.
_RECORDED = ("name", "validation_fraction", "seed", "image_size", "mean", "std")

def build_device(name: str) -> torch.device:
    """``auto`` is the first CUDA device, or the CPU where there is none.

    Raises:
        ValueError: if the name is no device, or that device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"run.device = {name!r} is not here: {str(error).splitlines()[0]}; use auto or cpu"
        ) from error
    return device


def build_splits(
    section: DataConfig,
    device: torch.device,
    metadata: Mapping[str, Any] | None = None,
    trust_code: bool = False,
) -> DataSplits:
    """Load the data set of a data section; ``data=checkpoint`` is completed from a checkpoint's metadata.

    The last two data sets stay in memory for the next job of this process.

    Raises:
        DataError, ValueError: from ``load_data``, or because the checkpoint does not name its data.
    """
    arguments = asdict(section)
    del arguments["augment"]
    recorded = (metadata or {}).get("data") or {}
    if section.name == FROM_CHECKPOINT:
        if "name" not in recorded:
            raise ValueError(
                "the checkpoint does not say which data it was trained on; give data=cifar10 or another"
            )
        if user_code.is_reference(recorded["name"]):
            name = recorded["name"]
            user_code.require_named({name: f"data.name={name}"}, trusted=trust_code)
        arguments.update({key: recorded[key] for key in _RECORDED if key in recorded})
    identity = data_identity(arguments["name"], arguments["root"])
    return _kept_splits(json.dumps(arguments), str(device), identity)


@functools.lru_cache(maxsize=2)
def _kept_splits(arguments: str, device: str, _identity: str | None) -> DataSplits:
    return load_data(**json.loads(arguments), device=device)


def describe_data(splits: DataSplits, section: DataConfig) -> dict[str, Any]:
    """The ``data`` entry of a checkpoint's metadata: enough to load the same splits with the same
    normalisation again.
    """
    return {
        "name": splits.name,
        "class_names": list(splits.class_names),
        "mean": list(splits.mean),
        "std": list(splits.std),
        "validation_fraction": section.validation_fraction,
        "seed": section.seed,
        "image_size": section.image_size,
    }


def model_arguments(section: ModelConfig, splits: DataSplits) -> dict[str, Any]:
    """The keyword arguments of ``build_model``, options that say nothing left out, and masks themselves in
    the place of their file, so that a checkpoint that records them needs no other.
    """
    arguments = {
        **asdict(section),
        "num_classes": splits.num_classes,
        "image_size": splits.image_size,
        "in_channels": splits.channels,
    }
    if section.reduction is not None:
        arguments["reduction"] = _with_masks(section.reduction)
    return {key: value for key, value in arguments.items() if value is not None}


def _with_masks(reduction: Any) -> dict[str, Any]:
    """The reduction with its masks in it; besides ``.safetensors`` and ``.npz``, SNL's own checkpoints are
    read.
    """
    masks = reduction.get("masks") if isinstance(reduction, Mapping) else None
    if isinstance(masks, str) and Path(masks).suffix not in (".safetensors", ".npz"):
        return portable({**reduction, "masks": load_snl(masks)[1]})
    return portable(reduction)


def check_model(section: ModelConfig) -> None:
    """Refuse an unknown model or option before any data is loaded, by building it without memory.

    A network of the user's own is only looked up: what it needs to be built is its own affair.
    """
    if section.name == FROM_CHECKPOINT or check_name(section.name):
        return
    arguments = {
        key: value for key, value in asdict(section).items() if value is not None and key != "reduction"
    }
    with torch.device("meta"):
        build_model(**arguments, num_classes=10, image_size=32)
