"""The fault models: what a sign test is, its gate, and how often it errs.

    test        the contract, :class:`SignTest`; its registry; to and from a dict
    circa       Circa's truncated sign       bit_window   HummingBird's window of bits
    uniform     flips at a given rate        exact        no fault
    masks       masks by address             law          counts, probabilities and sums over the contract
"""

from __future__ import annotations

# ruff: noqa: I001

from typing import TYPE_CHECKING

# Circa's own model first: lists of kinds are in this order.
from circa_train.fault.test import FAULT_KINDS, SignTest, UnknownKind, sign_test_from_dict, sign_test_kinds
from circa_train.fault.circa import MODES, TruncatedSign, truncated_sign
from circa_train.fault.uniform import DIRECTIONS, UniformFault
from circa_train.fault.bit_window import BitWindow
from circa_train.fault.exact import NoFault
from circa_train.lazy import face

if TYPE_CHECKING:
    from circa_train.fault.law import (
        FAULT_COLUMNS,
        FaultKinds,
        draw_sign,
        expected_faults,
        fault_count,
        fault_probability,
        mask_count,
        observed_faults,
    )
    from circa_train.fault.masks import random_words, ring_masks, uniform_masks

__all__ = [
    "DIRECTIONS",
    "FAULT_COLUMNS",
    "FAULT_KINDS",
    "MODES",
    "BitWindow",
    "FaultKinds",
    "NoFault",
    "SignTest",
    "TruncatedSign",
    "UniformFault",
    "UnknownKind",
    "draw_sign",
    "expected_faults",
    "fault_count",
    "fault_probability",
    "mask_count",
    "observed_faults",
    "random_words",
    "ring_masks",
    "sign_test_from_dict",
    "sign_test_kinds",
    "truncated_sign",
    "uniform_masks",
]

_LAZY = {
    "FAULT_COLUMNS": "law",
    "FaultKinds": "law",
    "draw_sign": "law",
    "expected_faults": "law",
    "fault_count": "law",
    "fault_probability": "law",
    "mask_count": "law",
    "observed_faults": "law",
    "random_words": "masks",
    "ring_masks": "masks",
    "uniform_masks": "masks",
}
__getattr__, __dir__ = face(__name__, _LAZY)
