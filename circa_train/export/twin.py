"""Is ``network.onnx`` the real network of the integers beside it?

Its steps are those that the manifest's layers translate to, and on the test vectors' images its logits are
the integer network's, up to what rounding costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from circa_train.export.convert import LARGEST_ERROR
from circa_train.export.integer import IntegerNetwork
from circa_train.export.layers import ExportError
from circa_train.export.onnx_file import onnx_bytes, parse_onnx, real_graph
from circa_train.export.real import RealNetwork
from circa_train.fault import NoFault

#: Below 1, whatever a manifest says of its error: a network of zeros is off by all of it.
_MOST = 0.9


def check_twin(
    content: bytes, network: IntegerNetwork, manifest: Mapping[str, Any], vectors: Mapping[str, Tensor]
) -> None:
    """ExportError naming what differs.

    Args:
        content: of ``network.onnx``.
        network: the integer network of the folder, with the manifest that it came from.
        vectors: its test vectors: ``images`` and ``inputs``.
    """
    plan = network.plan
    graph = real_graph(content, plan)
    for name, tensor in graph.tensors.items():
        if tensor.shape != plan.tensors[name].shape or not bool(torch.isfinite(tensor.double()).all()):
            raise ExportError(
                f"{name} is of shape {tuple(tensor.shape)} in network.onnx, or not finite; the integer "
                f"network has {tuple(plan.tensors[name].shape)}"
            )
    found, wanted = parse_onnx(content).graph, parse_onnx(onnx_bytes(graph)).graph
    for part in ("node", "input", "output"):
        if list(getattr(found, part)) != list(getattr(wanted, part)):
            raise ExportError(f"the {part}s of network.onnx are not what the manifest's layers translate to")
    pixels = vectors["images"].double() / 255
    mean, std = (
        torch.tensor(manifest["input"][key], dtype=torch.float64).reshape(-1, *[1] * (pixels.dim() - 2))
        for key in ("mean", "std")
    )
    images = (pixels - mean) / std
    inputs = network.quantize(images)
    if not torch.equal(inputs, vectors["inputs"].long()):
        raise ExportError("the inputs of the test vectors are not what their images give")
    with torch.no_grad():
        real = RealNetwork(graph, NoFault(), frac_bits=0).eval()(images.float()).double()
    *_, logits = (
        step.value for step in network.steps(inputs, in_field=False) if step.layer.name == plan.output
    )
    integer = network.to_real(logits, plan.output)
    error, largest = float((integer - real).abs().max()), float(real.abs().max())
    recorded = float(manifest.get("integer_error", 0.0))
    accepted = LARGEST_ERROR if recorded <= LARGEST_ERROR else min(2 * recorded, _MOST)
    if not error <= accepted * max(largest, float(integer.abs().max())):
        raise ExportError(
            f"the logits of network.onnx differ from the integer network's by up to {error:.4g}, where they "
            f"reach {largest:.4g}: it is another network"
        )
