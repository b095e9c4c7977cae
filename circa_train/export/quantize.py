"""Integers and scales: from the real network to the integer one.

A value v of the real network is the integer x with ``v = x * factor / 2^frac_bits`` (:class:`Scale`). Three
numbers of fraction bits say it all:

    a        activations that a convolution or linear layer reads
    w        weights, rounded to round_half_even(W * 2^w)
    a + w    accumulators: what a layer returns, what its bias is rounded at, and what every sign test sees

- A ReLU works on the accumulator: x is multiplied by its sign and keeps a + w fraction bits.
- Where a convolution or linear layer reads an accumulator, a :class:`Rescale` by w bits stands in between,
  one per value however many read it. A residual sum reads accumulators on both sides, so a shortcut loses no
  precision; where scales differ, the coarser side is shifted left, which is exact.
- Average pooling sums its window of n values and divides nothing: with c = ceil(log2 n) the sum has c more
  fraction bits, and the factor 2^c / n in [1, 2) where n is no power of two; the next layer's weights are
  multiplied by it before they are rounded. So that the sum stays within the range of its input, the input is
  first rescaled to a + w - c fraction bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx

from circa_train.export.graph import LayerGraph
from circa_train.export.layers import (
    Add,
    Concat,
    Conv2d,
    ExportError,
    Input,
    Layer,
    Linear,
    ReLU,
    Rescale,
    Scatter,
    Shift,
    SumPool,
)
from circa_train.field import DEFAULT_PRIME, check_prime, largest_centred
from circa_train.fixed_point import check_finite, check_frac_bits, largest_frac_bits
from circa_train.rescaling import RESCALINGS

#: Signed values of 15 bits: a product has 29 bits and a sign, so that it fits into the 31 bits of the default
#: field.
VALUE_BITS = 15


@dataclass(frozen=True)
class Scale:
    """A real value is the integer times ``factor`` / 2^``frac_bits``."""

    frac_bits: int
    factor: Fraction = Fraction(1)

    @property
    def unit(self) -> float:
        """The real value of the integer 1."""
        return float(self.factor) * 2.0**-self.frac_bits


@dataclass(frozen=True)
class Format:
    """The field, and the fraction bits of activations and of weights; an accumulator has the sum of both.

    A ``ring`` network lives in Z_2^64 instead, where nothing wraps: the field only bounds its values,
    |x| <= (p - 1) / 2, and what exceeds that is an overflow all the same.
    """

    activation_frac_bits: int
    weight_frac_bits: int
    prime: int = DEFAULT_PRIME
    ring: bool = False

    def __post_init__(self) -> None:
        check_prime(self.prime)
        for bits in (self.activation_frac_bits, self.weight_frac_bits, self.accumulator_frac_bits):
            check_frac_bits(bits)

    @property
    def accumulator_frac_bits(self) -> int:
        return self.activation_frac_bits + self.weight_frac_bits

    @property
    def rescalings(self) -> tuple[str, ...]:
        """The ways to drop fraction bits that are defined there: ``offset`` and ``local`` are of a field."""
        return ("floor",) if self.ring else RESCALINGS


@dataclass(frozen=True)
class IntegerPlan:
    """The integer network as data.

    Attributes:
        format: field and fraction bits.
        layers: in the order of execution, the input first, with all rescaling written out.
        tensors: int32 weights, biases and indices, by ``<layer>.<tensor>``.
        scales: of each layer's value.
        output: name of the layer whose value is the result.
    """

    format: Format
    layers: tuple[Layer, ...]
    tensors: dict[str, Tensor]
    scales: dict[str, Scale]
    output: str

    @property
    def sites(self) -> tuple[ReLU, ...]:
        return tuple(layer for layer in self.layers if isinstance(layer, ReLU))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.layers[0].shape


Ranges = dict[str, tuple[float, float]]


def calibrate(folded: fx.GraphModule, batches: Iterable[Any]) -> Ranges:
    """(lowest, highest) real value of every layer over ``batches``, from exact forward passes.

    Args:
        folded: the network whose nodes :func:`~circa_train.export.graph.layer_graph` named.
        batches: inputs, or tuples that start with them.

    Raises:
        ValueError: if there is no batch, or a value is not finite.
    """
    ranges: Ranges = {}

    class Observer(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            name = n.meta.get("layer")
            if name is not None and isinstance(result, Tensor):
                try:
                    check_finite(result)
                except ValueError as error:
                    raise ValueError(f"layer {name}: {error}") from error
                low, high = (float(v) for v in torch.aminmax(result))
                seen = ranges.get(name, (low, high))
                ranges[name] = (min(low, seen[0]), max(high, seen[1]))
            return result

    observer = Observer(folded)
    with torch.no_grad():
        for batch in batches:
            observer.run((batch[0] if isinstance(batch, (tuple, list)) else batch).cpu())
    if not ranges:
        raise ValueError("batches is empty; calibration needs at least one batch of inputs")
    return ranges


def choose_format(
    graph: LayerGraph,
    ranges: Ranges,
    *,
    prime: int = DEFAULT_PRIME,
    frac_bits: int | None = None,
    weight_frac_bits: int | None = None,
    value_bits: int = VALUE_BITS,
    headroom_bits: int = 5,
    rescaling: str = "floor",
) -> Format:
    """The fraction bits of activations and weights.

    Both start at the most that ``value_bits`` (sign included) can hold: the largest weight, the largest
    activation. If their sum exceeds ``frac_bits``, both give way by half; if it falls short of a *given*
    ``frac_bits``, both gain and need more than ``value_bits``.

    Args:
        graph: the real network.
        ranges: of its layers, from :func:`calibrate`.
        prime: the field.
        frac_bits: of the accumulators, which is what sign tests see. None: at most what fits all values in
            ``ranges``, less the headroom.
        weight_frac_bits: fixes w; activations get the rest.
        value_bits: of activations and weights.
        headroom_bits: each leaves twice the range seen to unseen data, and halves the wrap faults.
        rescaling: ``offset`` needs |x| < p / 4 of what it rescales, and so one bit of headroom is its own.

    Raises:
        FixedPointOverflow: if the ranges do not fit into the field even without fraction bits.
        ValueError: if the bits do not add up.
    """
    fits = largest_frac_bits(max(max(-low, high) for low, high in ranges.values()), prime) - headroom_bits
    if fits < 0:
        raise ValueError(
            f"headroom_bits = {headroom_bits} exceeds the {fits + headroom_bits} fraction bits that fit"
        )
    # Weights behind an average pooling may still grow by a factor below 2, which is one bit beyond value_bits
    # at worst.
    heaviest = max(
        float(tensor.abs().max()) for name, tensor in graph.tensors.items() if name.endswith(".weight")
    )
    read = {
        source for layer in graph.layers if isinstance(layer, (Conv2d, Linear)) for source in layer.inputs
    }
    loudest = max(max(-low, high) for name, (low, high) in ranges.items() if name in read)
    if rescaling == "offset":
        pooled = {layer.inputs[0] for layer in graph.layers if isinstance(layer, SumPool)}
        rescaled = max(max(-low, high) for name, (low, high) in ranges.items() if name in read | pooled)
        fits = min(fits, largest_frac_bits(2 * rescaled, prime))
    weights, activations = _frac_bits_within(heaviest, value_bits), _frac_bits_within(loudest, value_bits)
    target = min(fits, weights + activations) if frac_bits is None else check_frac_bits(frac_bits)
    if weight_frac_bits is None:
        excess = weights + activations - target
        weight_frac_bits = min(max(weights - excess // 2, 0), target)
    if not 0 <= weight_frac_bits <= target:
        raise ValueError(
            f"weight_frac_bits = {weight_frac_bits} is outside [0, {target}], the accumulators' fraction bits"
        )
    return Format(target - weight_frac_bits, weight_frac_bits, prime)


def _frac_bits_within(magnitude: float, value_bits: int) -> int:
    """The most fraction bits at which ``magnitude`` fits into signed integers of ``value_bits``; at least
    0.
    """
    limit = 2 ** (value_bits - 1) - 1
    return max(0, math.floor(math.log2(limit / magnitude))) if magnitude > 0 else value_bits - 1


def quantize(graph: LayerGraph, fixed: Format) -> IntegerPlan:
    """The integer network of ``graph`` at the fraction bits of ``fixed``.

    Raises:
        ExportError: if a weight or bias does not fit into the field, or a sum has terms of different factors.
    """
    return _Quantizer(graph, fixed).run()


class _Quantizer:
    """One pass over the layers that keeps the scale of each value."""

    def __init__(self, graph: LayerGraph, fixed: Format) -> None:
        self.graph, self.fixed = graph, fixed
        self.layers: list[Layer] = []
        self.tensors: dict[str, Tensor] = {}
        self.scales: dict[str, Scale] = {}
        self.aligned: dict[tuple[str, int], str] = {}
        self.rescales = len(graph.sites)  # the first mask address that no sign test has

    def run(self) -> IntegerPlan:
        for layer in self.graph.layers:
            place = _PLACERS.get(type(layer), _Quantizer._pass_on)
            place(self, layer)
        return IntegerPlan(self.fixed, tuple(self.layers), self.tensors, self.scales, self.graph.output)

    def _put(self, layer: Layer, scale: Scale) -> None:
        self.layers.append(layer)
        self.scales[layer.name] = scale

    def _at(self, source: str, frac_bits: int) -> str:
        """The name of the value ``source`` at ``frac_bits``: itself, or a layer made for it, once."""
        scale = self.scales[source]
        bits = scale.frac_bits - frac_bits
        if bits == 0:
            return source
        if (source, frac_bits) not in self.aligned:
            name = f"{source}.at{frac_bits}"
            shape = next(layer.shape for layer in self.layers if layer.name == source)
            if bits > 0:
                self._put(
                    Rescale(name, (source,), shape, bits, self.rescales), replace(scale, frac_bits=frac_bits)
                )
                self.rescales += 1
            else:
                self._put(Shift(name, (source,), shape, -bits), replace(scale, frac_bits=frac_bits))
            self.aligned[source, frac_bits] = name
        return self.aligned[source, frac_bits]

    def _input(self, layer: Layer) -> None:
        self._put(layer, Scale(self.fixed.activation_frac_bits))

    def _linear(self, layer: Layer) -> None:
        source = self._at(layer.inputs[0], self.fixed.activation_frac_bits)
        weight, bias = (self.graph.tensors[name].double() for name in layer.tensor_names())
        weight = weight * float(self.scales[source].factor)
        self.tensors[f"{layer.name}.weight"] = self._integers(
            layer, "weight", weight, self.fixed.weight_frac_bits
        )
        self.tensors[f"{layer.name}.bias"] = self._integers(
            layer, "bias", bias, self.fixed.accumulator_frac_bits
        )
        self._put(replace(layer, inputs=(source,)), Scale(self.fixed.accumulator_frac_bits))

    def _integers(self, layer: Layer, tensor: str, value: Tensor, frac_bits: int) -> Tensor:
        rounded = torch.round(value * 2.0**frac_bits)
        limit = largest_centred(self.fixed.prime)
        if not float(rounded.abs().max()) <= limit:  # so written, NaN is refused, too
            raise ExportError(
                f"layer {layer.name}: {tensor} reaches {float(value.abs().max()):.6g}, which at {frac_bits} "
                "fraction bits "
                f"exceeds (p-1)/2 = {limit} of p = {self.fixed.prime}; use fewer fraction bits"
            )
        return rounded.to(torch.int32)

    def _relu(self, layer: Layer) -> None:
        source = self._at(layer.inputs[0], self.fixed.accumulator_frac_bits)
        self._put(replace(layer, inputs=(source,)), self.scales[source])

    def _sum_pool(self, layer: Layer) -> None:
        assert isinstance(layer, SumPool)
        grown = (layer.window - 1).bit_length()
        room = self.fixed.accumulator_frac_bits - grown
        if room < 0:
            raise ExportError(
                f"layer {layer.name} sums {layer.window} values, {grown} bits more than accumulators have"
            )
        source = self._at(layer.inputs[0], min(self.scales[layer.inputs[0]].frac_bits, room))
        scale = self.scales[source]
        factor = scale.factor * Fraction(2**grown, layer.window)
        self._put(replace(layer, inputs=(source,)), Scale(scale.frac_bits + grown, factor))

    def _join(self, layer: Layer) -> None:
        scales = [self.scales[source] for source in layer.inputs]
        if len({scale.factor for scale in scales}) > 1:
            raise ExportError(
                f"layer {layer.name} joins values of different factors "
                f"({', '.join(str(scale.factor) for scale in scales)}), "
                "from average pooling over windows that are no power of two; let a convolution follow the "
                "pooling first"
            )
        finest = max(scale.frac_bits for scale in scales)
        sources = tuple(self._at(source, finest) for source in layer.inputs)
        self._copy_tensors(layer)
        self._put(replace(layer, inputs=sources), self.scales[sources[0]])

    def _pass_on(self, layer: Layer) -> None:
        self._copy_tensors(layer)
        self._put(layer, self.scales[layer.inputs[0]])

    def _copy_tensors(self, layer: Layer) -> None:
        self.tensors.update({name: self.graph.tensors[name].to(torch.int32) for name in layer.tensor_names()})


_PLACERS: Mapping[type[Layer], Any] = {
    Input: _Quantizer._input,
    Conv2d: _Quantizer._linear,
    Linear: _Quantizer._linear,
    ReLU: _Quantizer._relu,
    SumPool: _Quantizer._sum_pool,
    Add: _Quantizer._join,
    Concat: _Quantizer._join,
    Scatter: _Quantizer._join,
}
