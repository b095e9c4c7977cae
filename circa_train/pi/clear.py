"""The definition, slow and obvious: which logits two parties must end with, given their masks.

Everything is computed in the clear by ``compute`` of the export's own ``reader.py``. A mask belongs to every
sign test and to every rescaling: the client's share of the value that goes in, negated. For an element that
comes out of a ReLU, a rescaling's mask is that of the ReLU's sign test, because both parties truncate x and
multiply by the gate after.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from circa_train.export.layers import ReLU
from circa_train.export.reader import compute
from circa_train.field import to_centred
from circa_train.pi.architecture import Architecture, Tensors
from circa_train.pi.linear import Values


def logits_under(
    architecture: Architecture, tensors: Tensors, x: Values, masks: Mapping[str, Values]
) -> Values:
    """The integers of the output layer, centred int64 (n, ...).

    Args:
        tensors: of the export folder.
        x: integer inputs (n, *input shape).
        masks: by layer, int64 (n, *layer.shape) in [0, p), for every truncated ReLU and every rescaling.
    """
    p = architecture.prime
    values: dict[str, Values] = {}
    for layer in architecture.layers:
        sources = [values[name] for name in layer.inputs] or [to_centred(x, p)]
        mask = masks.get(layer.name)
        if isinstance(layer, ReLU) and architecture.tests[layer.name].mode == "exact":
            mask = None
        values[layer.name] = compute(architecture.entry(layer), sources, tensors, mask, p, "offset")
    return np.asarray(values[architecture.output])
