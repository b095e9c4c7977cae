"""Does it fit? The range of every layer over the integers, against the field, with the wraps that the range
costs.

A shared value x wraps with probability |x| / p: under a sign test that is a fault, under local rescaling a
ruined value. So room above the range is not only safety for unseen inputs; every bit of it halves the faults.
Offset rescaling knows its wraps as long as |x| < p / 4, and so it needs one bit more room than the field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from circa_train.export.integer import IntegerNetwork, check_prime_of
from circa_train.export.layers import ExportError, ReLU, Rescale
from circa_train.fault import expected_faults
from circa_train.field import check_prime, largest_centred
from circa_train.rescaling import check_rescaling, misjudged_masks, outside_domain
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
        beyond_offset: of a rescaling: values per image that it reads outside |x| < p / 4.
        offset_wraps: of a rescaling: expected wraps per image that ``offset`` would misjudge; 0 without such
            values.
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
    beyond_offset: float = 0.0
    offset_wraps: float = 0.0


@dataclass(frozen=True)
class RangeReport:
    """The ranges of a network on some images, for one field.

    Attributes:
        prime: the field.
        images: how many were run.
        layers: in the order of execution.
        rescaling: the network's, which decides how much room a rescaling needs.
        rescales: names of the rescaling layers.
        largest_rescaled: the largest magnitude that one of them read.
    """

    prime: int
    images: int
    layers: tuple[LayerRange, ...]
    rescaling: str = "floor"
    rescales: tuple[str, ...] = ()
    largest_rescaled: int = 0

    @property
    def fits(self) -> bool:
        outside = any(row.beyond_offset > 0 for row in self.layers) and self.rescaling == "offset"
        return all(row.overflows == 0 for row in self.layers) and not outside

    @property
    def needed_bits(self) -> int:
        """The smallest prime size that would do: bits of the least odd p whose centred values hold every
        range seen, and a quarter of which lies above all that ``offset`` rescales.
        """
        least = 2 * max(max(-row.low, row.high) for row in self.layers) + 1
        if self.rescaling == "offset":
            least = max(least, 4 * self.largest_rescaled + 1)
        return least.bit_length()

    def wraps(self, rescaling: str) -> dict[str, float]:
        """Expected wraps per image that ruin a value under ``rescaling``, by rescaling layer."""
        field = {"local": "wrap_faults", "offset": "offset_wraps"}.get(check_rescaling(rescaling))
        rows = [row for row in self.layers if row.layer in self.rescales]
        return {row.layer: getattr(row, field) if field else 0.0 for row in rows}

    def warning(self, rescaling: str) -> str | None:
        """See :func:`wraps_warning`."""
        return wraps_warning(rescaling, self.wraps(rescaling))

    def to_value(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "prime": self.prime,
            "images": self.images,
            "needed_prime_bits": self.needed_bits,
            "rescaling": self.rescaling,
            "largest_rescaled": self.largest_rescaled,
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


def wraps_warning(rescaling: str, wraps: Mapping[str, float]) -> str | None:
    """What ``rescaling`` costs, by the law, if it ruins values; None if it does not.

    Args:
        rescaling: ``offset``, ``floor`` or ``local``.
        wraps: expected wraps per image by layer, from :meth:`RangeReport.wraps`.
    """
    total = sum(wraps.values())
    if total == 0:
        return None
    worst = sorted(wraps, key=lambda name: -wraps[name])[:3]
    named = ", ".join(f"{name} {wraps[name]:.3g}" for name in worst)
    return (
        f"rescaling={rescaling} is expected to ruin {total:.4g} values per image, off by p / 2^bits (most "
        "in: "
        f"{named}); rescaling=offset knows its wraps while |x| < p / 4, and two parties can do that as well"
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
    images = largest_rescaled = 0
    for batch in batches:
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        images += len(inputs)
        for step in network.steps(network.quantize(inputs), in_field=False):
            row = _row(network, step.layer, step.inputs, step.value, prime)
            rows[row.layer] = _merge(rows[row.layer], row) if row.layer in rows else row
            if isinstance(step.layer, Rescale):
                largest_rescaled = max(largest_rescaled, int(step.inputs[0].abs().max()))
    if not images:
        raise ValueError("batches is empty; a range report needs at least one image")
    finished = tuple(_finish(row, images, prime) for row in rows.values())
    rescales = tuple(layer.name for layer in network.plan.layers if isinstance(layer, Rescale))
    return RangeReport(prime, images, finished, network.rescaling, rescales, largest_rescaled)


def require_fit(report: RangeReport) -> None:
    """ExportError, with the whole report, if a range exceeds the field."""
    if report.fits:
        return
    if all(row.overflows == 0 for row in report.layers):
        worst = max(report.layers, key=lambda row: row.beyond_offset)
        raise ExportError(
            f"the network does not fit into the field: layer {worst.layer} spans values of which "
            f"{worst.beyond_offset:.3g} per image are outside |x| < p/4 = {report.prime / 4}, up to "
            f"{report.largest_rescaled}, and rescaling=offset needs that; use one fraction bit fewer, or "
            f"rescaling=floor\n{report}"
        )
    worst = max(report.layers, key=lambda row: max(-row.low, row.high))
    raise ExportError(
        f"the network does not fit into the field: layer {worst.layer} spans [{worst.low}, {worst.high}], "
        f"(p-1)/2 = {largest_centred(report.prime)}; use at most {worst.safe_frac_bits} fraction bits "
        f"there\n{report}"
    )


def _row(
    network: IntegerNetwork, layer: Any, inputs: tuple[Tensor, ...], value: Tensor, prime: int
) -> LayerRange:
    """Totals of one batch; headroom and shares per image come last."""
    limit = largest_centred(prime)
    wraps = truncations = beyond = misjudged = 0.0
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
            beyond = float(outside_domain(inputs[0], prime).sum())
            misjudged = float(misjudged_masks(x, prime).sum()) / prime
    outside = float((value.abs() > limit).sum())
    frac_bits = network.plan.scales[layer.name].frac_bits
    low, high = int(value.min()), int(value.max())
    sums = (outside, wraps, truncations, beyond, misjudged)
    return LayerRange(layer.name, frac_bits, low, high, None, None, *sums)


def _merge(a: LayerRange, b: LayerRange) -> LayerRange:
    sums = [x + y for x, y in zip(_sums(a), _sums(b), strict=True)]
    return LayerRange(a.layer, a.frac_bits, min(a.low, b.low), max(a.high, b.high), None, None, *sums)


def _sums(row: LayerRange) -> tuple[float, ...]:
    return row.overflows, row.wrap_faults, row.truncation_faults, row.beyond_offset, row.offset_wraps


def _finish(row: LayerRange, images: int, prime: int) -> LayerRange:
    largest, limit = max(-row.low, row.high), largest_centred(prime)
    headroom = math.log2(limit / largest) if largest else None
    safe = None
    if headroom is not None:
        safe = max(row.frac_bits + math.floor(headroom), 0)
    shares = [total / images for total in _sums(row)]
    return LayerRange(row.layer, row.frac_bits, row.low, row.high, headroom, safe, *shares)


def _cells(row: LayerRange) -> tuple[str, ...]:
    headroom = "-" if row.headroom_bits is None else f"{row.headroom_bits:.1f}"
    safe = "-" if row.safe_frac_bits is None else str(row.safe_frac_bits)
    shares = (f"{share:.3g}" for share in (row.overflows, row.wrap_faults, row.truncation_faults))
    return row.layer, str(row.frac_bits), str(row.low), str(row.high), headroom, safe, *shares
