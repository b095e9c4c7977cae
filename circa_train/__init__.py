"""circa_train: train and evaluate networks whose ReLUs are the stochastic, truncated sign tests of Circa.

The public names below load on first use, so that ``import circa_train.gc`` needs neither torch nor its
start-up time.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from circa_train.lazy import face

if TYPE_CHECKING:
    from circa_train.data import register_dataset
    from circa_train.evaluation import evaluate
    from circa_train.export import export_network
    from circa_train.fault import (
        BitWindow,
        NoFault,
        SignTest,
        TruncatedSign,
        UniformFault,
        expected_faults,
        fault_count,
        fault_probability,
        truncated_sign,
        uniform_masks,
    )
    from circa_train.nn.activation import StochasticReLU
    from circa_train.nn.calibration import fit_frac_bits
    from circa_train.nn.convert import with_exact_relus, with_stochastic_relus
    from circa_train.nn.equalize import equalize
    from circa_train.nn.models.own import register_model
    from circa_train.nn.models.registry import build_model
    from circa_train.nn.scales import fit_scales
    from circa_train.nn.sites import relu_sites
    from circa_train.search import search_truncation
    from circa_train.training import train
    from circa_train.verify import verify_network

_HOMES = {
    "BitWindow": "fault",
    "NoFault": "fault",
    "SignTest": "fault",
    "TruncatedSign": "fault",
    "UniformFault": "fault",
    "expected_faults": "fault",
    "fault_count": "fault",
    "fault_probability": "fault",
    "truncated_sign": "fault",
    "uniform_masks": "fault",
    "StochasticReLU": "nn.activation",
    "with_stochastic_relus": "nn.convert",
    "with_exact_relus": "nn.convert",
    "relu_sites": "nn.sites",
    "fit_frac_bits": "nn.calibration",
    "fit_scales": "nn.scales",
    "equalize": "nn.equalize",
    "build_model": "nn.models.registry",
    "register_model": "nn.models.own",
    "register_dataset": "data",
    "train": "training",
    "evaluate": "evaluation",
    "search_truncation": "search",
    "verify_network": "verify",
    "export_network": "export",
}

__all__ = [
    "BitWindow",
    "NoFault",
    "SignTest",
    "StochasticReLU",
    "TruncatedSign",
    "UniformFault",
    "build_model",
    "equalize",
    "evaluate",
    "expected_faults",
    "export_network",
    "fault_count",
    "fault_probability",
    "fit_frac_bits",
    "fit_scales",
    "register_dataset",
    "register_model",
    "relu_sites",
    "search_truncation",
    "train",
    "truncated_sign",
    "uniform_masks",
    "verify_network",
    "with_exact_relus",
    "with_stochastic_relus",
]

try:
    __version__ = version("circa_train")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0+unknown"

__getattr__, __dir__ = face(__name__, _HOMES)
