"""The shape and the scale of every layer, as its inputs and its own fields imply them: what a manifest says
must be this, or it contradicts itself.

A folder whose checksums were rewritten may say anything. Whatever is executed is compared with what can be
worked out first, without taking memory: shapes, scales, the numbers of sites, the number of k per channel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from circa_train.export.layers import Conv2d, Input, Layer, Linear, ReLU, Rescale, Shift, SumPool
from circa_train.export.quantize import IntegerPlan, Scale
from circa_train.export.shapes import MAX_ELEMENTS, Shape, expect, shape_of, wrong
from circa_train.fault import SignTest, TruncatedSign
from circa_train.rescaling import check_rescale_bits


def check_plan(plan: IntegerPlan, specs: Mapping[str, SignTest]) -> None:
    """ExportError naming the first layer that says something else than what follows from the others."""
    shapes: dict[str, Shape] = {}
    numbers = {ReLU: 0, Rescale: len(plan.sites)}
    for layer in plan.layers:
        sources = [shapes[name] for name in layer.inputs]
        tensors = {leaf: plan.tensors[f"{layer.name}.{leaf}"] for leaf in layer.tensors}
        expect(layer, "shape", tuple(layer.shape), shape_of(layer, sources, tensors))
        if not 0 < math.prod(layer.shape) <= MAX_ELEMENTS:
            raise wrong(layer, f"its value has {math.prod(layer.shape)} elements, not 1 to {MAX_ELEMENTS}")
        expect(layer, "scale", plan.scales[layer.name], scale_of(layer, plan))
        if isinstance(layer, (ReLU, Rescale)):
            expect(layer, "site", layer.site, numbers[type(layer)])
            numbers[type(layer)] += 1
        if isinstance(layer, Rescale):
            check_rescale_bits(layer.bits, plan.format.prime)
        if isinstance(layer, ReLU):
            k = getattr(specs[layer.name], "k", None)
            if isinstance(specs[layer.name], TruncatedSign) and isinstance(k, tuple):
                expect(layer, "number of k, one per channel,", len(k), layer.shape[0])
        shapes[layer.name] = layer.shape


def scale_of(layer: Layer, plan: IntegerPlan) -> Scale:
    """The scale of its value, from those of its inputs and the fraction bits of the network.

    Raises:
        ExportError: if its inputs have scales that it cannot read.
    """
    fixed = plan.format
    sources = [plan.scales[name] for name in layer.inputs]
    match layer:
        case Input():
            return Scale(fixed.activation_frac_bits)
        case Conv2d() | Linear():  # the input's factor went into the weights
            expect(layer, "fraction bits of its input", sources[0].frac_bits, fixed.activation_frac_bits)
            return Scale(fixed.accumulator_frac_bits)
        case SumPool(kernel=kernel):
            window = kernel[0] * kernel[1]
            grown = (window - 1).bit_length()
            return Scale(sources[0].frac_bits + grown, sources[0].factor * Fraction(2**grown, window))
        case Rescale(bits=bits) | Shift(bits=bits):
            change = -bits if isinstance(layer, Rescale) else bits
            return Scale(sources[0].frac_bits + change, sources[0].factor)
    for other in sources[1:]:
        expect(layer, "scale of another input", other, sources[0])
    return sources[0]
