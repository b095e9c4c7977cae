"""Layers that only move or add values: the same for real and for integer networks, on tensors of any type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from circa_train.export.layers import Add, Concat, Gather, Layer, Pad, Reshape, Scatter, Slice


def rearrange(layer: Layer, sources: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    """The value of ``layer`` for a batch: ``sources`` and the result have the batch as their first axis.

    Raises:
        TypeError: if the layer computes more than this.
    """
    x = sources[0]
    match layer:
        case Add():
            return x + sources[1]
        case Concat(axis=axis):
            return torch.cat(list(sources), axis + 1)
        case Slice(slices=slices):
            return x[(slice(None), *(slice(*entry) for entry in slices))]
        case Pad(widths=widths):
            return F.pad(x, [width for pair in reversed(widths) for width in pair])
        case Reshape(shape=shape):
            return x.reshape(len(x), *shape)
        case Gather():
            return x.index_select(1, tensors["index"].long())
        case Scatter():
            return x.index_copy(1, tensors["index"].long(), sources[1])
    raise TypeError(f"layer {layer.name} of kind {layer.kind!r} has no rule here")
