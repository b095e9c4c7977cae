"""The real network of an export folder, executed: floating point, BatchNorm folded, with the simulator's sign
tests.

It is what the integer network is to be compared with when the checkpoint is no longer at hand: the same
layers, the weights of ``network.onnx``, and at every site a :class:`StochasticReLU` that draws the same
masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from circa_train.export.graph import LayerGraph
from circa_train.export.layers import Conv2d, Input, Layer, Linear, MaxPool, ReLU, SumPool
from circa_train.export.rearrange import rearrange
from circa_train.fault import SignTest
from circa_train.nn import StochasticReLU, module_at, put_module, specs_by_site


class RealNetwork(nn.Module):
    """A layer graph as a network.

    Args:
        graph: the layers with their float32 tensors.
        specs: the sign test of all sites, or one per site name.
        frac_bits: what the sign tests see.
        seed: of the masks.
        overflow: as of :class:`StochasticReLU`.
    """

    def __init__(
        self,
        graph: LayerGraph,
        specs: SignTest | Mapping[str, SignTest],
        *,
        frac_bits: int,
        seed: int = 0,
        overflow: str = "raise",
    ) -> None:
        super().__init__()
        self.graph = graph
        for name, tensor in graph.tensors.items():
            owner, _, leaf = name.rpartition(".")
            module_at(self, owner).register_buffer(leaf, tensor)
        by_site = specs_by_site(specs, [layer.name for layer in graph.sites])
        for layer in graph.sites:
            relu = StochasticReLU(
                by_site[layer.name],
                frac_bits=frac_bits,
                seed=seed,
                site=layer.site,
                overflow=overflow,
                name=layer.name,
            )
            put_module(self, layer.name, relu)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, *input shape) -> logits."""
        logits = images
        for name, value in self.values(images):
            if name == self.graph.output:
                logits = value
        return logits

    def values(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The value of every layer for normalised images, in the order of execution."""
        values: dict[str, Tensor] = {}
        for layer in self.graph.layers:
            values[layer.name] = self._compute(layer, [values[name] for name in layer.inputs] or [images])
            yield layer.name, values[layer.name]

    def _compute(self, layer: Layer, sources: list[Tensor]) -> Tensor:
        x = sources[0]
        tensors = {leaf: module_at(self, layer.name).get_buffer(leaf) for leaf in layer.tensors}
        match layer:
            case Input():
                return x
            case Conv2d(stride=stride, padding=padding, dilation=dilation, groups=groups):
                return F.conv2d(x, tensors["weight"], tensors["bias"], stride, padding, dilation, groups)
            case Linear():
                return F.linear(x, tensors["weight"], tensors["bias"])
            case ReLU():
                value: Tensor = module_at(self, layer.name)(x)
                return value
            case SumPool(kernel=kernel, stride=stride, padding=padding):  # the real network divides
                return F.avg_pool2d(x, kernel, stride, padding)
            case MaxPool(kernel=kernel, stride=stride, padding=padding):
                return F.max_pool2d(x, kernel, stride, padding)
        return rearrange(layer, sources, tensors)
