"""Is ``network.onnx`` the real network of the integers beside it?

Its steps are those that the manifest's layers translate to, and on the test vectors' images its logits are
the integer network's, up to what rounding costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from circa_train.export.convert import LARGEST_ERROR
from circa_train.export.faithful import REAL_ERROR
from circa_train.export.graph import LayerGraph
from circa_train.export.integer import IntegerNetwork
from circa_train.export.layers import ExportError
from circa_train.export.onnx_file import onnx_bytes, parse_onnx, real_graph
from circa_train.export.real import RealNetwork
from circa_train.fault import NoFault

#: Below 1, whatever a manifest says of its error: a network of zeros is off by all of it.
_MOST = 0.9


def real_logits(
    graph: LayerGraph, images: Tensor, mean: Sequence[float], std: Sequence[float]
) -> list[list[float]]:
    """The real network's logits for uint8 images, row by row, to seven digits: what another runtime of
    ``network.onnx`` compares itself with.
    """
    rows: list[list[float]] = _run(graph, _normalised(images, mean, std)).tolist()
    return [[float(f"{value:.7g}") for value in row] for row in rows]


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
    images = _normalised(vectors["images"], manifest["input"]["mean"], manifest["input"]["std"])
    inputs = network.quantize(images)
    if not torch.equal(inputs, vectors["inputs"].long()):
        raise ExportError("the inputs of the test vectors are not what their images give")
    real = _run(graph, images)
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
    if manifest["format"] > 2:
        stated = torch.tensor(manifest["vectors"]["real_logits"], dtype=torch.float64)
        close = REAL_ERROR * float(real.abs().max()) + 1e-6
        if stated.shape != real.shape or not float((stated - real).abs().max()) <= close:
            raise ExportError("real_logits of the test vectors are not what network.onnx gives")


def _normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels as the network takes them, float64."""
    pixels = images.cpu().double() / 255
    centre, spread = (
        torch.tensor(list(values), dtype=torch.float64).reshape(-1, *[1] * (pixels.dim() - 2))
        for values in (mean, std)
    )
    return (pixels - centre) / spread


def _run(graph: LayerGraph, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = RealNetwork(graph, NoFault(), frac_bits=0).eval()(images.float()).double()
    return logits
