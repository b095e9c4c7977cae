"""circa_train: train and evaluate networks whose ReLUs are the stochastic, truncated sign tests of Circa.

The public names below load on first use, so that ``import circa_train.gc`` needs neither torch nor its
start-up time.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circa_train.fault.law import expected_faults, fault_count, fault_probability
    from circa_train.fault.masks import uniform_masks
    from circa_train.fault.sign import truncated_sign
    from circa_train.fault.spec import BitWindow, NoFault, TruncatedSign, UniformFault
    from circa_train.nn.activation import StochasticReLU
    from circa_train.nn.calibration import fit_frac_bits
    from circa_train.nn.convert import with_exact_relus, with_stochastic_relus
    from circa_train.nn.models.registry import build_model
    from circa_train.nn.sites import relu_sites

_HOME = {
    "TruncatedSign": "fault.spec",
    "UniformFault": "fault.spec",
    "BitWindow": "fault.spec",
    "NoFault": "fault.spec",
    "truncated_sign": "fault.sign",
    "fault_count": "fault.law",
    "fault_probability": "fault.law",
    "expected_faults": "fault.law",
    "uniform_masks": "fault.masks",
    "StochasticReLU": "nn.activation",
    "with_stochastic_relus": "nn.convert",
    "with_exact_relus": "nn.convert",
    "relu_sites": "nn.sites",
    "fit_frac_bits": "nn.calibration",
    "build_model": "nn.models.registry",
}

__all__ = [
    "BitWindow",
    "NoFault",
    "StochasticReLU",
    "TruncatedSign",
    "UniformFault",
    "build_model",
    "expected_faults",
    "fault_count",
    "fault_probability",
    "fit_frac_bits",
    "relu_sites",
    "truncated_sign",
    "uniform_masks",
    "with_exact_relus",
    "with_stochastic_relus",
]

try:
    __version__ = version("circa_train")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
