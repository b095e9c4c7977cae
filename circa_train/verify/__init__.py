"""The simulator is the protocol: the proof, on real activations, that its sign tests are those of the garbled
circuit.

This is the one place that sees both ``fault`` and ``gc``, which know nothing of each other; their
independence is what makes their agreement evidence.

    sampling    what enters chosen sites of a network, under the masks that the simulator drew
    checking    the four ways to the same answers, compared value by value
    network     all of it for one network, in one call
    rescaling   the same for what is rescaled behind the sign tests of an exported network
    streaming   every sign test of a set of images; the circuit's answers go on through the network
    piece       what is compared of a piece of a site    masks   the masks of consecutive elements, quickly
    tally       sums and digests of a site's sign tests  rates   how often they erred, beside the exact law
    ledger      finished batches on disk
    text        the outcome as tables
"""

from __future__ import annotations

from circa_train.verify.checking import WAYS, Mismatch, SiteReport, check_transport, verify_site
from circa_train.verify.ledger import Ledger, digest_of
from circa_train.verify.network import verify_network
from circa_train.verify.rates import Rate, Verdict, rate, rates, verdict
from circa_train.verify.rescaling import RescaleReport, RescaleSample, by_truncation, verify_rescaling
from circa_train.verify.sampling import (
    SiteSample,
    by_reason,
    choose_sites,
    collect_samples,
    sampled,
    select,
)
from circa_train.verify.streaming import EveryReport, verify_every
from circa_train.verify.tally import EVERY_WAY, Disagreement, SiteTally
from circa_train.verify.text import every_table, rescaling_table, verification_table

__all__ = [
    "EVERY_WAY",
    "WAYS",
    "Disagreement",
    "EveryReport",
    "Ledger",
    "Mismatch",
    "Rate",
    "RescaleReport",
    "RescaleSample",
    "SiteReport",
    "SiteSample",
    "SiteTally",
    "Verdict",
    "by_reason",
    "by_truncation",
    "check_transport",
    "choose_sites",
    "collect_samples",
    "digest_of",
    "every_table",
    "rate",
    "rates",
    "rescaling_table",
    "sampled",
    "select",
    "verdict",
    "verification_table",
    "verify_every",
    "verify_network",
    "verify_rescaling",
    "verify_site",
]
