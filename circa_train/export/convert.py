"""From a trained network to the integer network, in one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from circa_train.cost import why_no_circuit
from circa_train.export.faithful import check_integers, check_real
from circa_train.export.fold import Fold, fold_batch_norms
from circa_train.export.graph import LayerGraph, layer_graph
from circa_train.export.inference import check_plan
from circa_train.export.integer import IntegerNetwork
from circa_train.export.layers import ExportError
from circa_train.export.plain import plain_copy
from circa_train.export.quantize import VALUE_BITS, Format, calibrate, choose_format, quantize
from circa_train.export.ranges import RangeReport, range_report, require_fit
from circa_train.fault import BitWindow, NoFault, SignTest, TruncatedSign
from circa_train.field import DEFAULT_PRIME

#: A quarter of the largest logit: 15-bit values of trained networks stay far below, a wrong layer does not.
LARGEST_ERROR = 0.25


class RescalingWarning(UserWarning):
    """The chosen rescaling is expected to ruin values: how many, by the law, and in which layers."""


@dataclass(frozen=True)
class Conversion:
    """An integer network and how it came about.

    Attributes:
        network: on the CPU.
        folded: the real network without BatchNorm.
        folds: which BatchNorm went where.
        graph: the layers of ``folded``.
        report: the ranges on the calibration images.
        error: largest difference of the integer logits, with exact ReLUs and the floor, from the network's
            own on (some) calibration images, as a part of the largest logit: what rounding costs.
    """

    network: IntegerNetwork
    folded: fx.GraphModule
    folds: tuple[Fold, ...]
    graph: LayerGraph
    report: RangeReport
    error: float


def to_integers(
    model: nn.Module,
    spec: SignTest | Mapping[str, SignTest],
    batches: Iterable[Any],
    *,
    frac_bits: int | None = None,
    weight_frac_bits: int | None = None,
    value_bits: int = VALUE_BITS,
    headroom_bits: int = 5,
    seed: int = 0,
    rescaling: str = "offset",
    overflow: str = "raise",
    largest_error: float = LARGEST_ERROR,
) -> Conversion:
    """Fold, calibrate, quantise, check the ranges, and that it is still the same network.

    Args:
        model: a plain or converted network; left as it was. Its own sign tests, if any, do not matter:
            ``spec`` does.
        spec: the sign test of all sites, or ``{site name: spec}``; :class:`TruncatedSign` of one field,
            :class:`BitWindow` (the network then lives in the ring Z_2^64), or ``NoFault``.
        batches: calibration images as the network takes them, or tuples that start with them.
        frac_bits: what the sign tests see. Sign tests that a network was tuned for belong to the frac_bits it
            was tuned at; None chooses, see :func:`~circa_train.export.quantize.choose_format`, as do the next
            three.
        seed, rescaling, overflow: of the :class:`IntegerNetwork`. ``local`` ruins values and warns with how
            many per image the law expects.
        largest_error: how far the integer logits, with exact ReLUs, may be from the network's own on
            calibration images, as a part of the largest logit.

    Raises:
        ConversionError, ExportError: naming the layer that is not supported, or another in the export than in
            the network; or, with the whole range report, if the network does not fit into the field.
        FixedPointOverflow: if no number of fraction bits would.
    """
    images = [batch[0] if isinstance(batch, (tuple, list)) else batch for batch in batches]
    if not images:
        raise ValueError("batches is empty; calibration needs at least one batch of inputs")
    prime, ring = _field(spec)
    if ring and rescaling != "floor":
        raise ExportError(
            f"rescaling={rescaling} is of a field Z_p, and HummingBird's bit windows belong to the ring "
            "Z_2^64: export with rescaling=floor"
        )
    folded, folds = fold_batch_norms(model)
    graph = layer_graph(folded, images[0].shape[1:])
    plain = plain_copy(model)
    check_real(plain, folded, graph, images[0].cpu())
    fixed: Format = choose_format(
        graph, calibrate(folded, images), prime=prime, frac_bits=frac_bits, weight_frac_bits=weight_frac_bits,
        value_bits=value_bits, headroom_bits=headroom_bits, rescaling=rescaling,
    )  # fmt: skip
    plan = quantize(graph, replace(fixed, ring=ring))
    network = IntegerNetwork(plan, spec, seed=seed, rescaling=rescaling, overflow=overflow)
    check_plan(plan, network.specs)
    report = range_report(network, [image.cpu() for image in images])
    require_fit(report)
    error = check_integers(plain, network, images, largest_error)
    if warning := report.warning(rescaling):
        warnings.warn(warning, RescalingWarning, stacklevel=2)
    return Conversion(network, folded, folds, graph, report, error)


def _field(spec: SignTest | Mapping[str, SignTest]) -> tuple[int, bool]:
    """(prime, whether the network lives in the ring Z_2^64 and the prime only bounds its values)."""
    specs = list(spec.values()) if isinstance(spec, Mapping) else [spec]
    for item in specs:
        if not isinstance(item, (TruncatedSign, BitWindow, NoFault)):
            reason = why_no_circuit(item) or "the manifest describes truncated signs only"
            raise ExportError(
                f"{item} is a fault model without a protocol over Z_p ({reason}); export with TruncatedSign, "
                "BitWindow for a ring, or NoFault for exact ReLUs"
            )
    ring = any(isinstance(item, BitWindow) for item in specs)
    if ring and any(isinstance(item, TruncatedSign) for item in specs):
        raise ExportError(
            "BitWindow is a sign test of shares modulo 2^64, TruncatedSign of shares modulo p; use one of "
            "them for the whole network"
        )
    primes = {item.prime for item in specs if isinstance(item, TruncatedSign)}
    if len(primes) > 1:
        raise ExportError(
            f"the sign tests are of different fields: {sorted(primes)}; use one prime for the whole network"
        )
    return (primes.pop() if primes else DEFAULT_PRIME), ring
