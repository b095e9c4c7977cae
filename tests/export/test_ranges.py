"""The range report: exact ranges, the law's faults, and refusal where the field is too small."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from circa_train import NoFault, TruncatedSign, UniformFault, expected_faults
from circa_train.export import (
    ExportError,
    IntegerNetwork,
    RescalingWarning,
    offset_law,
    range_report,
    to_integers,
)
from circa_train.field import largest_centred
from circa_train.fixed_point import FixedPointOverflow


def test_rows_are_the_values_of_exact_passes(conversion, images):
    network = conversion.network
    report = range_report(network, [images[:20], (images[20:], None)])
    assert report.images == len(images)
    assert report.fits
    rows = {row.layer: row for row in report.layers}
    limit = largest_centred(network.prime)
    for step in network.steps(network.quantize(images), in_field=False):
        row, largest = rows[step.layer.name], max(-step.low, step.high)
        assert (row.low, row.high, row.overflows) == (step.low, step.high, 0)
        assert row.headroom_bits == pytest.approx(math.log2(limit / largest))
        spare = row.safe_frac_bits - row.frac_bits
        assert largest * 2**spare <= limit < largest * 2 ** (spare + 1)
        if step.layer.kind == "relu":
            kinds = expected_faults(step.inputs[0], network.specs[step.layer.name])
            assert row.wrap_faults * len(images) == pytest.approx(kinds.wrap_zeroed + kinds.wrap_passed)
            assert row.truncation_faults * len(images) == pytest.approx(
                kinds.truncation_zeroed + kinds.truncation_passed
            )
        elif step.layer.kind == "rescale":
            assert row.wrap_faults * len(images) == pytest.approx(
                float(step.inputs[0].abs().sum()) / network.prime
            )
            assert row.beyond_offset == row.offset_wraps == 0
            assert report.wraps("local")[row.layer] == row.wrap_faults > 0
        else:
            assert row.wrap_faults == row.truncation_faults == 0
    largest = max(max(-row.low, row.high) for row in report.layers)
    assert report.rescaling == "offset"
    least = max(2 * largest, 4 * report.largest_rescaled) + 1
    assert 2 ** (report.needed_bits - 1) <= least < 2**report.needed_bits
    floor = replace(report, rescaling="floor")
    assert 2 ** (floor.needed_bits - 1) <= 2 * largest + 1 < 2**floor.needed_bits


def test_a_network_that_exceeds_the_field_is_refused_with_the_report(trained, images):
    with pytest.raises(ExportError, match=r"does not fit into the field: layer \S+ spans") as refused:
        to_integers(trained, TruncatedSign(k=4), [images], frac_bits=29)
    assert "bits would do" in str(refused.value)
    assert all(layer in str(refused.value) for layer in ("input", "layer3.0.relu2", "linear"))
    with pytest.raises(ExportError, match=r"p = 65521 \(16 bits\)"):
        to_integers(trained, TruncatedSign(k=4, prime=65521), [images], frac_bits=14)


def test_the_smallest_prime_would_do_and_smaller_ones_would_not(conversion, trained, images):
    bits, fixed = conversion.report.needed_bits, conversion.network.plan.format
    options = {"frac_bits": fixed.accumulator_frac_bits, "weight_frac_bits": fixed.weight_frac_bits}
    above, below = largest_prime_below(2**bits), largest_prime_below(2 ** (bits - 1))
    assert to_integers(trained, TruncatedSign(k=4, prime=above), [images], **options).report.fits
    with pytest.raises(ExportError, match="does not fit"):
        to_integers(trained, TruncatedSign(k=4, prime=below), [images], **options)


def test_offset_needs_a_quarter_of_the_field_and_says_what_it_would_lose(trained, images):
    """A prime whose half holds every value and whose quarter does not: refused under offset, by the law."""
    floor = to_integers(trained, TruncatedSign(k=4), [images], rescaling="floor")
    fixed = floor.network.plan.format
    options = {"frac_bits": fixed.accumulator_frac_bits, "weight_frac_bits": fixed.weight_frac_bits}
    prime = largest_prime_below(2**floor.report.needed_bits)
    spec = TruncatedSign(k=4, prime=prime)
    tight = to_integers(trained, spec, [images], rescaling="floor", **options)
    with pytest.raises(ExportError, match=r"outside \|x\| < p/4 = .* rescaling=offset needs"):
        to_integers(trained, spec, [images], **options)
    misjudged = 0.0
    for step in tight.network.steps(tight.network.quantize(images), in_field=False):
        if step.layer.kind == "rescale":
            misjudged += (
                sum(offset_law(x, 1, prime).wrapped for x in step.inputs[0].flatten().tolist()) / prime
            )
    wraps = tight.report.wraps("offset")
    assert sum(wraps.values()) * len(images) == pytest.approx(misjudged)
    assert misjudged > 0
    assert tight.report.wraps("floor") == dict.fromkeys(wraps, 0.0)
    assert f"{sum(wraps.values()):.4g} values per image" in tight.report.warning("offset")
    # Exact ReLUs: at a quarter of the field, the sign tests themselves would lose the values in question.
    network = IntegerNetwork(tight.network.plan, NoFault(), rescaling="offset")
    with pytest.raises(FixedPointOverflow, match=r"outside the domain of rescaling='offset'.* p/4"):
        network(images)
    counted = IntegerNetwork(tight.network.plan, NoFault(), rescaling="offset", overflow="wrap")
    counted(images)
    assert sum(counted.overflows.values()) > 0


def test_local_warns_with_the_wraps_that_the_law_expects(trained, images, conversion):
    with pytest.warns(RescalingWarning, match="rescaling=local is expected to ruin") as caught:
        to_integers(trained, TruncatedSign(k=8), [images], rescaling="local")
    total = sum(conversion.report.wraps("local").values())
    assert f"{total:.4g} values per image" in str(caught[0].message)
    assert conversion.report.warning("offset") is None
    drawn = IntegerNetwork(conversion.network.plan, NoFault(), rescaling="local", overflow="wrap")
    wrapped, expected, variance = 0, 0.0, 0.0
    for step in drawn.steps(drawn.quantize(images)):
        if step.layer.kind == "rescale":
            x, p = step.inputs[0], drawn.prime
            wrapped += int(((x + step.mask < 0) | (x + step.mask >= p)).sum())
            rates = x.abs().double() / p
            expected += float(rates.sum())
            variance += float((rates * (1 - rates)).sum())
    assert abs(wrapped - expected) < 5 * math.sqrt(variance) + 1


def largest_prime_below(number):
    return next(n for n in range(number - 1, 2, -1) if all(n % q for q in range(2, math.isqrt(n) + 1)))


def test_refusals(conversion, images):
    with pytest.raises(ValueError, match="batches is empty"):
        range_report(conversion.network, [])
    with pytest.raises(ValueError, match="the network of p = 251"):
        range_report(conversion.network, [images], prime=251)
    with pytest.raises(ExportError, match=r"UniformFault.* without a protocol"):
        to_integers(conversion.folded, UniformFault(), [images])
    mixed = {layer.name: TruncatedSign(4) for layer in conversion.network.plan.sites} | {
        "relu": TruncatedSign(4, prime=251)
    }
    with pytest.raises(ExportError, match=r"different fields: \[251, 2138816513\]"):
        to_integers(conversion.folded, mixed, [images])


def test_the_report_draws_nothing(conversion, images):
    network = IntegerNetwork(conversion.network.plan, TruncatedSign(k=8), seed=1)
    before = network.specs, [relu.address.tolist() for relu in network.modules() if hasattr(relu, "address")]
    range_report(network, [images])
    after = network.specs, [relu.address.tolist() for relu in network.modules() if hasattr(relu, "address")]
    assert before == after
    assert torch.is_tensor(images)
