"""The simulator is the protocol: the proof, on real activations, that its sign tests are those of the garbled
circuit.

This is the one place that sees both ``fault`` and ``gc``, which know nothing of each other; their
independence is what makes their agreement evidence.

    sampling    what enters chosen sites of a network, under the masks that the simulator drew
    checking    the four ways to the same answers, compared value by value
    network     all of it for one network, in one call
    rescaling   the same for what is rescaled behind the sign tests of an exported network
    text        the outcome as a table
"""

from __future__ import annotations

from circa_train.verify.checking import WAYS, Mismatch, SiteReport, check_transport, verify_site
from circa_train.verify.network import verify_network
from circa_train.verify.rescaling import RescaleReport, RescaleSample, by_truncation, verify_rescaling
from circa_train.verify.sampling import (
    SiteSample,
    by_reason,
    choose_sites,
    collect_samples,
    sampled,
    select,
)
from circa_train.verify.text import rescaling_table, verification_table

__all__ = [
    "WAYS",
    "Mismatch",
    "RescaleReport",
    "RescaleSample",
    "SiteReport",
    "SiteSample",
    "by_reason",
    "by_truncation",
    "check_transport",
    "choose_sites",
    "collect_samples",
    "rescaling_table",
    "sampled",
    "select",
    "verification_table",
    "verify_network",
    "verify_rescaling",
    "verify_site",
]
