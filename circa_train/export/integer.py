"""The integer network: exactly what the two parties compute modulo p, on one machine and in the clear.

Every value is the centred integer that both shares add up to; a linear layer is a sum of integers, reduced
modulo p only where it leaves the field (an *overflow*, counted per layer); a ReLU is the sign test of
:mod:`circa_train.fault` under addressed masks, and the product with its answer; rescaling drops low
bits, see :mod:`circa_train.rescaling`. There is no rounding and no order of summation to depend on, so CPU
and GPU give the same integers.

**Whose mask a rescaling has.** Under ``local`` the value was shared anew after the ReLU, under a mask of the
rescaling's own address. Under ``offset`` two parties truncate x, with the mask t of the ReLU's own sign test,
and multiply by the gate after: s times the rescaled x, in the round trip that the ReLU has anyway. Zero is
rescaled to zero under every mask, so this is the rescaled s x, and is computed as that. Only elements that
come out of no sign test (of a pooling, say) are rescaled under the rescaling's own address.

The sites are stochastic ReLUs under the names of the real network's, so ``evaluate``, ``set_draw``,
``set_specs`` and every other switch of :mod:`circa_train.nn.control` work on this network as on a converted
one, and the same address draws the same masks in both.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circa_train.export.exact import EXACT, Accumulator, conv2d, linear
from circa_train.export.layers import (
    Conv2d,
    ExportError,
    Input,
    Layer,
    Linear,
    MaxPool,
    ReLU,
    Rescale,
    Shift,
    SumPool,
)
from circa_train.export.quantize import IntegerPlan
from circa_train.export.rearrange import rearrange
from circa_train.export.shares import MOVES, masked_layers
from circa_train.fault import SignTest, TruncatedSign, draw_sign
from circa_train.field import largest_centred, to_centred
from circa_train.fixed_point import FixedPointOverflow, from_fixed, scale_like, to_fixed
from circa_train.kernels import uniform_masks
from circa_train.nn import StochasticReLU, module_at, put_module, specs_by_site
from circa_train.rescaling import (
    check_rescaling,
    floor_rescale,
    local_rescale,
    offset_rescale,
    outside_domain,
)

OVERFLOWS = ("raise", "wrap")


@dataclass(frozen=True)
class Step:
    """One executed layer.

    Attributes:
        layer: the layer.
        inputs: the values it read.
        value: int64 (N, *layer.shape), centred.
        low, high: the range of the value before any reduction modulo p (rounded where beyond 2^53).
        overflows: how many of its elements left the field; of an offset rescaling, how many were outside its
            domain |x| < p / 4.
        mask: of a local or offset rescaling, int64 like ``value``: the masks r in [0, p).
    """

    layer: Layer
    inputs: tuple[Tensor, ...]
    value: Tensor
    low: float
    high: float
    overflows: int
    mask: Tensor | None = None


@dataclass(frozen=True)
class SiteSigns:
    """The sign tests of one site on one batch: all that a circuit needs to be checked against it.

    Attributes:
        site: qualified name; ``index`` its number.
        spec: the sign test.
        x: int64 (N, ...), centred values.
        mask: int64 like ``x``, the masks t; None where ``spec`` uses none.
        gate: bool like ``x``, the answers s.
        y: int64 like ``x``, the network's own output: x where s, else 0.
    """

    site: str
    index: int
    spec: SignTest
    x: Tensor
    mask: Tensor | None
    gate: Tensor
    y: Tensor


class IntegerReLU(StochasticReLU):
    """A site on integers, int64 in and out; each is exact as a float64, so the simulator's kernels do the
    work.
    """

    def set_spec(self, spec: SignTest) -> None:
        check_prime_of(spec, self.settings.prime, self.name)
        super().set_spec(spec)

    def forward(self, x: Tensor) -> Tensor:
        real = from_fixed(x, self.frac_bits, torch.float64)
        return (super().forward(real) * scale_like(self.frac_bits, x)).long()


class IntegerNetwork(nn.Module):
    """An exported network, executed.

    Args:
        plan: layers, integers and scales, from :func:`~circa_train.export.quantize.quantize`.
        specs: the sign test of all sites, or one per site name.
        seed: of the masks.
        rescaling: ``floor``, ``offset`` or ``local``, see :mod:`circa_train.rescaling`.
        overflow: ``raise``, or ``wrap`` (which is what the protocol does) and count in :attr:`overflows`.

    Attributes:
        overflows: elements that left the field so far, by layer.

    Raises:
        ValueError: if the specs do not name the sites, or one is of another field; an ExportError, if the
            rescaling is not defined in the network's ring.
    """

    def __init__(
        self,
        plan: IntegerPlan,
        specs: SignTest | Mapping[str, SignTest],
        *,
        seed: int = 0,
        rescaling: str = "floor",
        overflow: str = "raise",
    ) -> None:
        super().__init__()
        if overflow not in OVERFLOWS:
            raise ValueError(
                f"overflow = {overflow!r} is not one of {', '.join(OVERFLOWS)}; a protocol cannot saturate"
            )
        self.plan = plan
        self.rescaling = check_rescaling(rescaling)
        if rescaling not in plan.format.rescalings:
            raise ExportError(
                f"rescaling={rescaling} is of a field Z_p, and a network of bit windows lives in the ring "
                "Z_2^64; use rescaling=floor"
            )
        self.overflow = overflow
        self.overflows: Counter[str] = Counter()
        for name, tensor in plan.tensors.items():
            owner, _, leaf = name.rpartition(".")
            module_at(self, owner).register_buffer(leaf, tensor)
        for site, spec in specs_by_site(specs, [layer.name for layer in plan.sites]).items():
            check_prime_of(spec, plan.format.prime, site)
            layer = next(layer for layer in plan.sites if layer.name == site)
            relu = IntegerReLU(
                spec, frac_bits=plan.scales[site].frac_bits, seed=seed, site=layer.site, name=site
            )
            put_module(self, site, relu)
        self._masked = masked_layers(plan)
        self._last_reader = {source: layer.name for layer in plan.layers for source in layer.inputs}

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, *input shape) -> real logits, float64 (N, classes); the sites' draws are
        counted up.
        """
        return self.to_real(self.run(self.quantize(images)), self.plan.output)

    def quantize(self, images: Tensor) -> Tensor:
        """What the client shares: images as int64 at the activations' fraction bits."""
        x, count = to_fixed(
            images, self.plan.format.activation_frac_bits, self.plan.format.prime, self.overflow
        )
        if count:
            self.overflows[self.plan.layers[0].name] += count
        return x

    def to_real(self, value: Tensor, layer: str) -> Tensor:
        """The real values, float64, that the integers of a layer stand for."""
        return value.double() * self.plan.scales[layer].unit

    def run(self, x: Tensor) -> Tensor:
        """Integer inputs (N, *input shape) -> the integers of the output layer."""
        result = x
        for step in self.steps(x):
            if step.layer.name == self.plan.output:
                result = step.value
        return result

    def steps(self, x: Tensor, *, in_field: bool = True) -> Iterator[Step]:
        """Execute layer by layer. Values are kept only as long as a later layer reads them.

        Args:
            x: int64 (N, *input shape), centred.
            in_field: False computes over the integers instead, with exact ReLUs and the floor: nothing wraps,
                and ranges show how large a field would have to be.

        Raises:
            TypeError, ValueError: if ``x`` is not int64 or has the wrong shape.
            FixedPointOverflow: if a value leaves the field and the policy is ``raise``.
        """
        if x.dtype != torch.int64:
            raise TypeError(
                f"x must be an int64 tensor, got {x.dtype}; IntegerNetwork.quantize makes one of real images"
            )
        if tuple(x.shape[1:]) != self.plan.input_shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected (N, {', '.join(map(str, self.plan.input_shape))})"
            )
        address = self._address()
        offset = self.rescaling == "offset" and in_field
        values: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}  # of the shares of a value, where an offset rescaling will find them
        for layer in self.plan.layers:
            sources = [values[name] for name in layer.inputs]
            mask: Tensor | None = None
            outside = 0
            if isinstance(layer, Input):
                result: Tensor | Accumulator = x
            elif isinstance(layer, ReLU):
                result = self._relu(layer)(sources[0]) if in_field else sources[0].clamp(min=0)
            elif isinstance(layer, Rescale) and in_field and self.rescaling == "local":
                mask = self._mask(layer, len(x), address)
                result = local_rescale(sources[0], mask, layer.bits, self.prime)
            elif isinstance(layer, Rescale) and offset:
                mask = masks.get(layer.inputs[0])
                if mask is None or bool((mask < 0).any()):
                    own = self._mask(layer, len(x), address)
                    mask = own if mask is None else torch.where(mask < 0, own, mask)
                outside = int(outside_domain(sources[0], self.prime).sum())
                result = offset_rescale(sources[0], mask, layer.bits, self.prime)
            else:
                result = self._compute(layer, sources)
            if offset and layer.name in self._masked:
                masks[layer.name] = self._masks_of(layer, masks, sources, address)
            step = self._settle(layer, tuple(sources), result, in_field, outside)
            values[layer.name] = step.value
            for name in layer.inputs:
                if self._last_reader[name] == layer.name:
                    values.pop(name, None)
                    masks.pop(name, None)
            yield step if mask is None else replace(step, mask=mask)

    def sign_tests(self, x: Tensor) -> Iterator[SiteSigns]:
        """Execute on integer inputs and yield, site by site, values, masks, answers and outputs."""
        draw, first_image = self._address()
        for step in self.steps(x):
            if isinstance(step.layer, ReLU):
                relu, source = self._relu(step.layer), step.inputs[0]
                first = first_image * math.prod(step.layer.shape)
                gate, mask = draw_sign(
                    source, relu.spec, seed=relu.seed, site=relu.site, draw=draw, first_element=first
                )
                yield SiteSigns(step.layer.name, relu.site, relu.spec, source, mask, gate, step.value)

    def rescale_masks(self, images: int) -> dict[str, Tensor]:
        """The masks of the rescalings' own addresses in the next pass, by layer, for a batch of so many
        images.
        """
        address = self._address()
        layers = [layer for layer in self.plan.layers if isinstance(layer, Rescale)]
        return {layer.name: self._mask(layer, images, address) for layer in layers}

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self._relu(self.plan.sites[0]).address.device

    @property
    def draws_masks(self) -> bool:
        """Whether the rescaling depends on masks, so that two draws differ even with exact ReLUs."""
        return self.rescaling != "floor" and any(isinstance(layer, Rescale) for layer in self.plan.layers)

    @property
    def prime(self) -> int:
        return self.plan.format.prime

    @property
    def specs(self) -> dict[str, SignTest]:
        """The sign test of each site."""
        return {layer.name: self._relu(layer).spec for layer in self.plan.sites}

    def _relu(self, layer: ReLU) -> StochasticReLU:
        relu = module_at(self, layer.name)
        assert isinstance(relu, StochasticReLU)
        return relu

    def _address(self) -> tuple[int, int]:
        """(draw, first image) of the next pass: all sites are set together, so the first one's serve for
        rescaling, too.
        """
        draw, first_image = self._relu(self.plan.sites[0]).address.tolist()
        return draw, first_image

    def _mask(self, layer: ReLU | Rescale, images: int, address: tuple[int, int]) -> Tensor:
        """The masks at the address of a sign test or rescaling."""
        first_relu = self._relu(self.plan.sites[0])
        return uniform_masks(
            (images, *layer.shape), seed=first_relu.seed, site=layer.site, draw=address[0], prime=self.prime,
            device=self.device, first_element=address[1] * math.prod(layer.shape),
        )  # fmt: skip

    def _masks_of(
        self, layer: Layer, masks: Mapping[str, Tensor], sources: list[Tensor], address: tuple[int, int]
    ) -> Tensor:
        """The masks of a layer's shares as far as a sign test's mask decides them; -1 elsewhere."""
        if isinstance(layer, MOVES):
            moved = [
                masks.get(name, torch.full_like(source, -1))
                for name, source in zip(layer.inputs, sources, strict=True)
            ]
            tensors = {leaf: module_at(self, layer.name).get_buffer(leaf) for leaf in layer.tensors}
            return rearrange(layer, moved, tensors)
        assert isinstance(layer, ReLU)
        if isinstance(self._relu(layer).spec, TruncatedSign):
            return self._mask(layer, len(sources[0]), address)
        return torch.full_like(sources[0], -1)

    def _compute(self, layer: Layer, sources: list[Tensor]) -> Tensor | Accumulator:
        x = sources[0]
        tensors = {leaf: module_at(self, layer.name).get_buffer(leaf) for leaf in layer.tensors}
        match layer:
            case Conv2d():
                return conv2d(x, tensors["weight"], tensors["bias"], layer, self.prime)
            case Linear():
                return linear(x, tensors["weight"], tensors["bias"], layer.name, self.prime)
            case SumPool(kernel=kernel, stride=stride, padding=padding):
                total = F.avg_pool2d(x.double(), kernel, stride, padding, divisor_override=1)
                return Accumulator(total, None)
            case MaxPool(kernel=kernel, stride=stride, padding=padding):
                return F.max_pool2d(x.double(), kernel, stride, padding).long()
            case Rescale(bits=bits):
                return floor_rescale(x, bits)
            case Shift(bits=bits):
                return x << bits
        return rearrange(layer, sources, tensors)

    def _settle(
        self,
        layer: Layer,
        inputs: tuple[Tensor, ...],
        result: Tensor | Accumulator,
        in_field: bool,
        outside: int,
    ) -> Step:
        """Reduce modulo p where a value left the field, and count; ``outside`` is what the layer counted
        itself.
        """
        if outside:
            if self.overflow == "raise":
                raise FixedPointOverflow(
                    f"layer {layer.name}: {outside} of {inputs[0].numel()} values are outside the domain of "
                    f"rescaling='offset', up to {int(inputs[0].abs().max())} where p/4 = {self.prime / 4}; "
                    "export with fewer "
                    "fraction bits, or accept it knowingly with overflow='wrap'"
                )
            self.overflows[layer.name] += outside
        total = result.total if isinstance(result, Accumulator) else result
        if tuple(total.shape[1:]) != layer.shape:
            raise ExportError(
                f"layer {layer.name} gives the shape {tuple(total.shape[1:])}, and declares {layer.shape}"
            )
        low, high = (float(v) for v in torch.aminmax(total)) if total.numel() else (0.0, 0.0)
        largest, limit = max(-low, high), largest_centred(self.prime)
        if not in_field:
            if largest >= EXACT:
                raise ValueError(
                    f"layer {layer.name} reaches {largest:.3g}, beyond 2^53; use fewer fraction bits"
                )
            return Step(layer, inputs, total.long(), low, high, int((total.abs() > limit).sum()))
        if largest <= limit:
            return Step(layer, inputs, total.long(), low, high, outside)
        count = int((total.abs() > limit).sum())
        if self.overflow == "raise":
            raise FixedPointOverflow(
                f"layer {layer.name}: {count} of {total.numel()} values overflow the field, up to "
                f"{largest:.6g} where "
                f"(p-1)/2 = {limit}; export with fewer fraction bits, or accept it knowingly with "
                "overflow='wrap' (which "
                "local rescaling needs: a wrapped share fills the field)"
            )
        self.overflows[layer.name] += count
        if isinstance(result, Accumulator) and result.residue is not None:
            return Step(layer, inputs, result.residue, low, high, count)
        return Step(layer, inputs, to_centred(total.long(), self.prime), low, high, count)


def check_prime_of(spec: SignTest, prime: int, site: str) -> None:
    """ValueError unless ``spec`` is of the field ``prime``, or of none."""
    if isinstance(spec, TruncatedSign) and spec.prime != prime:
        raise ValueError(
            f"site {site}: the sign test is of the field of p = {spec.prime}, the network of p = {prime}"
        )
