"""Is it the same network? What became of a network is run beside the plain one, and refused if it differs.

A layer list is made from what a trace shows and what modules say of themselves. A hook on a convolution, a
subclass with other arithmetic or a form of call that a converter reads wrongly would go unnoticed. So on
calibration images

- every layer of the real network must give what its step of the traced network gives, in shape, and up to
  :data:`REAL_ERROR` of the largest value, which leaves room for sums in another order;
- the logits must be those of the given network, as it is called, up to the same;
- the logits of the integer network must be, up to ``largest_error`` of the largest logit. That is what
  rounding to few bits costs; beyond it the integers are too coarse, or something is wrong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from circa_train.export.graph import LayerGraph
from circa_train.export.integer import IntegerNetwork
from circa_train.export.layers import ExportError
from circa_train.export.real import RealNetwork
from circa_train.fault import NoFault

#: Of the largest magnitude: float32 has 24 bits, and a layer sums up to some ten thousand products.
REAL_ERROR = 1e-3

#: How many images every layer of the real network, and the logits of the integer network, are compared on.
IMAGES, INTEGER_IMAGES = 8, 64


def check_real(plain: nn.Module, folded: fx.GraphModule, graph: LayerGraph, images: Tensor) -> None:
    """ExportError naming the first layer of ``graph`` that is not what the network computes.

    Args:
        plain: the network itself, from :func:`~circa_train.export.plain.plain_copy`.
        folded, graph: what became of it.
        images: calibration images, on the CPU.
    """
    images = images[:IMAGES].float()
    real = RealNetwork(graph, NoFault(), frac_bits=0).eval()
    with torch.no_grad():
        wanted = _Values(folded)
        wanted.run(images)
        values = dict(real.values(images))
        for name, value in wanted.values.items():
            if name in values:
                _compare(f"layer {name}", values[name], value, "its step of the traced network")
        hooked = [
            name or "(the network)"
            for name, module in plain.named_modules()
            if module._forward_hooks or module._forward_pre_hooks
        ]
        reference = "the given network" + (f" (hooks on: {', '.join(hooked)})" if hooked else "")
        _compare("the network", values[graph.output], plain(images), reference)


def check_integers(
    plain: nn.Module, network: IntegerNetwork, batches: list[Tensor], largest_error: float
) -> float:
    """The largest difference of the integer network's logits, with exact ReLUs and the floor, from the plain
    network's, as a part of its largest logit.

    Raises:
        ExportError: if it exceeds ``largest_error``.
    """
    difference = largest = 0.0
    seen = 0
    for batch in batches:
        batch = batch[: INTEGER_IMAGES - seen]
        seen += len(batch)
        if not len(batch):
            break
        with torch.no_grad():
            wanted = plain(batch.cpu().float()).double()
        *_, logits = (
            step.value
            for step in network.steps(network.quantize(batch.cpu()), in_field=False)
            if step.layer.name == network.plan.output
        )
        found = network.to_real(logits, network.plan.output)
        difference = max(difference, float((found - wanted).abs().max()))
        largest = max(largest, float(wanted.abs().max()))
    error = difference / largest if largest else difference
    if not error <= largest_error:
        fixed = network.plan.format
        raise ExportError(
            f"the integer network differs from the given one by up to {difference:.4g}, {100 * error:.1f}% "
            f"of the largest logit {largest:.4g}, with exact ReLUs on calibration images; at most "
            f"{100 * largest_error:g}% is accepted (largest_error). It rounds weights to "
            f"{fixed.weight_frac_bits} and activations to {fixed.activation_frac_bits} fraction bits: give "
            "it more (value_bits, frac_bits, fewer headroom_bits)"
        )
    return error


class _Values(fx.Interpreter):
    """Keeps the value of every node that became a layer."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and "layer" in n.meta:
            self.values[n.meta["layer"]] = result.clone()  # a later step may write over it
        return result


def _compare(what: str, found: Tensor, wanted: Any, reference: str) -> None:
    if not isinstance(wanted, Tensor) or found.shape != wanted.shape:
        shape = tuple(wanted.shape) if isinstance(wanted, Tensor) else type(wanted).__name__
        raise ExportError(
            f"{what} has the shape {tuple(found.shape)} in the export, {reference} gives {shape}; please "
            "report this network"
        )
    scale = float(wanted.abs().max())
    error = float((found - wanted).abs().max())
    if not error <= REAL_ERROR * scale + 1e-6:
        raise ExportError(
            f"{what} is another in the export: it differs from {reference} by up to {error:.4g}, where "
            f"values reach {scale:.4g}. A hook, a subclass or a patch may change what it computes: take it "
            "off, or write it as a layer of its own"
        )
