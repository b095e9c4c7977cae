"""Does it fit? The range of every layer over the integers, against the field, with the wrap faults that the
range costs.

A shared value x wraps with probability |x| / p, whatever is done to it: under a sign test that is a fault,
under local rescaling a ruined value. So room above the range is not only safety for unseen inputs; every bit
of it halves the faults.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from circa_train.export.integer import IntegerNetwork, check_prime_of
from circa_train.export.layers import ExportError, ReLU, Rescale
from circa_train.fault import expected_faults
from circa_train.field import check_prime, largest_centred
from circa_train.text import aligned


@dataclass(frozen=True)
class LayerRange:
    """What one layer's values did, as exact integers that never wrapped.

    Attributes:
        layer: its name.
        frac_bits: of its values.
        low, high: the range seen.
        headroom_bits: log2 of how much more the field holds; negative if it holds less. None if all values
            were 0.
        safe_frac_bits: the most fraction bits at which the range seen fits, all else equal. None if all
            values were 0.
        overflows: values per image outside the field.
        wrap_faults: of a sign test: expected wrap faults per image. Of a rescaling: expected wraps per image
            if it is done on local shares. Else 0. Values outside the field count as the largest inside.
        truncation_faults: of a sign test: expected truncation faults per image.
    """

    layer: str
    frac_bits: int
    low: int
    high: int
    headroom_bits: float | None
    safe_frac_bits: int | None
    overflows: float
    wrap_faults: float
    truncation_faults: float


@dataclass(frozen=True)
class RangeReport:
    """The ranges of a network on some images, for one field.

    Attributes:
        prime: the field.
        images: how many were run.
        layers: in the order of execution.
    """

    prime: int
    images: int
    layers: tuple[LayerRange, ...]

    @property
    def fits(self) -> bool:
        return all(row.overflows == 0 for row in self.layers)

    @property
    def needed_bits(self) -> int:
        """The smallest prime size that would do: bits of the least odd p whose centred values hold every
        range seen.
        """
        largest = max(max(-row.low, row.high) for row in self.layers)
        return (2 * largest + 1).bit_length()

    def to_value(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "prime": self.prime,
            "images": self.images,
            "needed_prime_bits": self.needed_bits,
            "layers": [asdict(row) for row in self.layers],
        }

    def __str__(self) -> str:
        header = ("layer", "frac bits", "low", "high", "headroom", "safe", "outside", "wraps", "truncations")
        table = aligned([header, *(_cells(row) for row in self.layers)], left=0)
        verdict = "fits" if self.fits else "does not fit"
        return (
            f"{table}\n{verdict} into p = {self.prime} ({self.prime.bit_length()} bits); a prime of "
            f"{self.needed_bits} bits would do. "
            f"Per image, over {self.images} images: values outside, expected wrap and truncation faults"
        )


def range_report(network: IntegerNetwork, batches: Iterable[Any], prime: int | None = None) -> RangeReport:
    """Run images over the integers, with exact ReLUs, and report every layer's range.

    Args:
        network: the integer network; no draw is used up.
        batches: normalised images, or tuples that start with them.
        prime: the field asked about; the network's own by default. Its sign tests must be of that field.

    Raises:
        ValueError: if there is no image, or a range is beyond what is computed exactly (2^53).
    """
    prime = network.prime if prime is None else check_prime(prime)
    for site, spec in network.specs.items():
        check_prime_of(spec, prime, site)
    rows: dict[str, LayerRange] = {}
    images = 0
    for batch in batches:
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        images += len(inputs)
        for step in network.steps(network.quantize(inputs), in_field=False):
            row = _row(network, step.layer, step.inputs, step.value, prime)
            rows[row.layer] = _merge(rows[row.layer], row) if row.layer in rows else row
    if not images:
        raise ValueError("batches is empty; a range report needs at least one image")
    return RangeReport(prime, images, tuple(_finish(row, images, prime) for row in rows.values()))


def require_fit(report: RangeReport) -> None:
    """ExportError, with the whole report, if a range exceeds the field."""
    if not report.fits:
        worst = max(report.layers, key=lambda row: max(-row.low, row.high))
        raise ExportError(
            f"the network does not fit into the field: layer {worst.layer} spans [{worst.low}, "
            f"{worst.high}], (p-1)/2 = "
            f"{largest_centred(report.prime)}; use at most {worst.safe_frac_bits} fraction bits "
            f"there\n{report}"
        )


def _row(
    network: IntegerNetwork, layer: Any, inputs: tuple[Tensor, ...], value: Tensor, prime: int
) -> LayerRange:
    """Totals of one batch; headroom and shares per image come last."""
    limit = largest_centred(prime)
    wraps = truncations = 0.0
    if isinstance(layer, (ReLU, Rescale)):
        x = inputs[0].clamp(-limit, limit)
        if isinstance(layer, ReLU):
            kinds = expected_faults(x, network.specs[layer.name])
            wraps, truncations = (
                kinds.wrap_zeroed + kinds.wrap_passed,
                kinds.truncation_zeroed + kinds.truncation_passed,
            )
        else:
            wraps = float(x.abs().sum()) / prime
    outside = float((value.abs() > limit).sum())
    frac_bits = network.plan.scales[layer.name].frac_bits
    low, high = int(value.min()), int(value.max())
    return LayerRange(layer.name, frac_bits, low, high, None, None, outside, wraps, truncations)


def _merge(a: LayerRange, b: LayerRange) -> LayerRange:
    sums = (
        a.overflows + b.overflows,
        a.wrap_faults + b.wrap_faults,
        a.truncation_faults + b.truncation_faults,
    )
    return LayerRange(a.layer, a.frac_bits, min(a.low, b.low), max(a.high, b.high), None, None, *sums)


def _finish(row: LayerRange, images: int, prime: int) -> LayerRange:
    largest, limit = max(-row.low, row.high), largest_centred(prime)
    headroom = math.log2(limit / largest) if largest else None
    safe = None
    if headroom is not None:
        safe = max(row.frac_bits + math.floor(headroom), 0)
    shares = (row.overflows / images, row.wrap_faults / images, row.truncation_faults / images)
    return LayerRange(row.layer, row.frac_bits, row.low, row.high, headroom, safe, *shares)


def _cells(row: LayerRange) -> tuple[str, ...]:
    headroom = "-" if row.headroom_bits is None else f"{row.headroom_bits:.1f}"
    safe = "-" if row.safe_frac_bits is None else str(row.safe_frac_bits)
    shares = (f"{share:.3g}" for share in (row.overflows, row.wrap_faults, row.truncation_faults))
    return row.layer, str(row.frac_bits), str(row.low), str(row.high), headroom, safe, *shares
