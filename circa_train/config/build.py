"""From sections of a composed configuration to the package's objects.

What a value may be is checked here by building the object it describes, before data or network are loaded:
``build_fault`` and ``build_device`` first, in every script.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from circa_train.config.schema import DataConfig, FaultConfig, ModelConfig
from circa_train.data import Augmentation, DataSplits, load_data
from circa_train.fault import SignTest, sign_test_from_dict
from circa_train.nn.models.registry import build_model

#: The option of the groups ``model``, ``data`` and ``fault`` that stands for what the checkpoint says.
FROM_CHECKPOINT = "checkpoint"

#: What a checkpoint's metadata says of its data.
_RECORDED = ("name", "validation_fraction", "seed", "image_size", "mean", "std")

#: Fields of the fault section that are not the sign test's own.
_COMMON = ("frac_bits", "headroom_bits", "seed", "overflow")

Faults = SignTest | dict[str, SignTest]


@dataclass(frozen=True)
class FaultPlan:
    """The fault section, checked.

    Attributes:
        faults: one spec for all sites, or one per site.
        frac_bits: fraction bits, or None for "auto".
        description: what results record: the spec's dict, or ``{"sites": {name: dict}}``.
    """

    faults: Faults
    frac_bits: int | None
    description: dict[str, Any]

    @property
    def exact(self) -> bool:
        """Is there no fault at all?"""
        return isinstance(self.faults, SignTest) and self.faults.is_exact

    @property
    def prime(self) -> int:
        specs = self.faults.values() if isinstance(self.faults, dict) else [self.faults]
        return min(spec.prime for spec in specs)


def check_fault(section: FaultConfig) -> None:
    """:func:`build_fault` as far as it goes without a checkpoint: scripts refuse bad values before they load
    anything.
    """
    build_fault(section, {"fault": {"kind": "none"}} if section.kind == FROM_CHECKPOINT else None)


def build_fault(section: FaultConfig, metadata: Mapping[str, Any] | None = None) -> FaultPlan:
    """Check and build the sign tests that a fault section describes; ``fault=checkpoint`` needs the
    checkpoint's metadata.

    Raises:
        ValueError: a value outside its range (k for the prime, rate, bit window, frac_bits), or a fault file
            that is not one.
        FileNotFoundError: if ``fault.path`` does not exist.
    """
    if section.overflow not in ("raise", "wrap", "saturate"):
        raise ValueError(f"fault.overflow = {section.overflow!r} is not one of raise, wrap, saturate")
    frac_bits = section.frac_bits
    if isinstance(frac_bits, str) and frac_bits != "auto":
        raise ValueError(f"fault.frac_bits = {frac_bits!r} is neither a number of bits nor auto")
    chosen = None if isinstance(frac_bits, str) else frac_bits
    if chosen is not None and not 0 <= chosen <= 30:
        raise ValueError(f"fault.frac_bits = {chosen} is outside [0, 30]")
    fields = {key: value for key, value in asdict(section).items() if key not in _COMMON}
    if section.kind == FROM_CHECKPOINT:
        trained = (metadata or {}).get("fault")
        if trained is None:
            raise ValueError(
                "fault=checkpoint: this one was trained with exact ReLUs; give fault=poszero or another"
            )
        fields = dict(trained)
    if "sites" in fields:
        sites = {name: sign_test_from_dict(description) for name, description in fields["sites"].items()}
        return FaultPlan(sites, chosen, {"sites": fields["sites"]})
    if section.kind != "file":
        spec = sign_test_from_dict(fields)
        return FaultPlan(spec, chosen, spec.to_dict())
    sites, stored_bits = read_fault_file(fields["path"])
    description = {"sites": {name: spec.to_dict() for name, spec in sites.items()}}
    return FaultPlan(sites, stored_bits if chosen is None else chosen, description)


def read_fault_file(path: str | Path) -> tuple[dict[str, SignTest], int | None]:
    """Specs by site, and the fraction bits they were chosen for, from YAML or JSON ``{"sites": {name: spec},
    "frac_bits": n}``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else; the site is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no fault file {path} (fault.path); scripts/search.py writes one")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"fault file {path} is neither YAML nor JSON: {error}") from error
    if (
        not isinstance(content, Mapping)
        or not isinstance(content.get("sites"), Mapping)
        or not content["sites"]
    ):
        raise ValueError(
            f"fault file {path} has no 'sites', which map site names to specs: "
            f"{{kind: truncated_sign, k: 12}}"
        )
    sites = {}
    for name, description in content["sites"].items():
        try:
            sites[str(name)] = sign_test_from_dict(description)
        except (ValueError, TypeError) as error:
            raise type(error)(f"fault file {path}, site {name}: {error}") from error
    return sites, content.get("frac_bits")


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
    section: DataConfig, device: torch.device, metadata: Mapping[str, Any] | None = None
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
        arguments.update({key: recorded[key] for key in _RECORDED if key in recorded})
    return _kept_splits(json.dumps(arguments), str(device))


@functools.lru_cache(maxsize=2)
def _kept_splits(arguments: str, device: str) -> DataSplits:
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


def build_augmentation(section: DataConfig) -> Augmentation:
    return Augmentation(crop=section.augment.crop, flip=section.augment.flip, cutout=section.augment.cutout)


def model_arguments(section: ModelConfig, splits: DataSplits) -> dict[str, Any]:
    """The keyword arguments of ``build_model``, options that say nothing left out."""
    arguments = {
        **asdict(section),
        "num_classes": splits.num_classes,
        "image_size": splits.image_size,
        "in_channels": splits.channels,
    }
    return {key: value for key, value in arguments.items() if value is not None}


def check_model(section: ModelConfig) -> None:
    """Refuse an unknown model or option before any data is loaded, by building it without memory."""
    if section.name == FROM_CHECKPOINT:
        return
    arguments = {
        key: value for key, value in asdict(section).items() if value is not None and key != "reduction"
    }
    with torch.device("meta"):
        build_model(**arguments, num_classes=10, image_size=32)
